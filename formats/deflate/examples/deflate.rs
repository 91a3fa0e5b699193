//! Deflates standard input in units of 64 KiB with a window of 4 KiB, as QCOW2 clusters are, and prints both lengths.

use std::io::Read;

use diskferry_deflate::{DeflateEffort, Deflater};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const UNIT: usize = 64 << 10;
    let mut input = Vec::new();
    std::io::stdin().lock().read_to_end(&mut input)?;
    let mut deflater = Deflater::new(DeflateEffort { level: 6, search: None }, 12)?;
    let mut out = vec![0; UNIT];
    let mut stored = 0;
    for unit in input.chunks(UNIT) {
        // A unit that does not become shorter is stored verbatim.
        stored += deflater.deflate(unit, &mut out)?.unwrap_or(unit.len());
    }
    println!("{} bytes become {stored}", input.len());
    Ok(())
}
