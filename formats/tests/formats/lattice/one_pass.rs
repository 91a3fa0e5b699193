//! Streams in one pass. Their tables are not known in advance, and their contents are not needed.

use bytes::Bytes;
use diskferry_core::{BoxFuture, ByteStream, Result, Tally};
use diskferry_corpus::lattice::{bases, cases};
use diskferry_formats::{Declared, Format, open_stream};

use crate::support::*;

/// All bytes in one piece, and then the end.
struct Whole(Bytes);

impl ByteStream for Whole {
    fn url(&self) -> &str {
        "-"
    }

    fn next(&mut self, most: usize) -> BoxFuture<'_, Result<Bytes>> {
        let next = self.0.split_to(most.min(self.0.len()));
        Box::pin(async move { Ok(next) })
    }
}

fn one_pass(bytes: Vec<u8>) -> Result<Vec<u8>> {
    block_on(async {
        let bytes = Box::new(Whole(bytes.into()));
        let mut stream = open_stream(bytes, Declared::Format(Format::Vmdk)).await?;
        let len = stream.info().virtual_bytes;
        assert!(len <= crate::lattice::MOST_DISK, "a disk of {len} bytes");
        let mut out = vec![0; len as usize];
        while let Some(piece) = stream.next().await? {
            let place = piece.guest.start().get() as usize..piece.guest.end().get() as usize;
            let codec = piece.codec.expect("a compressed grain");
            codec.decode(piece.guest, &piece.bytes, &mut out[place], &mut Tally::default())?;
        }
        Ok(out)
    })
}

#[test]
fn a_stream_is_refused_or_reads_as_it_does_by_its_tables_or_as_if_unharmed() {
    let unharmed = bases().into_iter().find(|base| base.name == "streamOptimized").unwrap();
    assert_same(&one_pass(unharmed.files[0].1.clone()).unwrap(), &unharmed.disk, "unharmed");
    let mut all = Vec::new();
    let mut count = 0;
    for case in cases().into_iter().filter(|case| case.image().starts_with("streamOptimized")) {
        count += 1;
        let why = match one_pass(case.files().remove(0).1) {
            Ok(read) => {
                (read != unharmed.disk && case.disk() != Some(read)).then(|| "is another disk".to_owned())
            }
            Err(error) => (![2, 3, 4].contains(&error.kind().exit_code())).then(|| format!("{error:?}")),
        };
        all.extend(why.map(|why| format!("{}\n    {why}", case.name())));
    }
    assert!(count > 200, "{count}");
    crate::lattice::nothing_in(&all);
}
