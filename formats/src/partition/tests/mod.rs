//! Tests of `inspect`, against the tools that create tables and file systems, and with tables that no tool creates.

mod hostile;
mod made;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::Arc;

use diskferry_core::{Disk, MemorySource, Source};
use diskferry_corpus::oracle::tool_fed as run;
use tempfile::TempDir;

use super::{DiskContents, inspect_disk};
use crate::{Declared, Format, open};

fn block_on<T>(future: impl Future<Output = T> + Send) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// A disk in a sparse file, on which tools can operate.
struct Image {
    directory: TempDir,
    path: PathBuf,
}

impl Image {
    fn new(bytes: u64) -> Self {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("disk");
        File::create(&path).unwrap().set_len(bytes).unwrap();
        Self { directory, path }
    }

    fn name(&self) -> &str {
        self.path.to_str().unwrap()
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        let mut file = File::options().write(true).open(&self.path).unwrap();
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(bytes).unwrap();
    }

    fn cut(&self, bytes: u64) {
        File::options().write(true).open(&self.path).unwrap().set_len(bytes).unwrap();
    }

    /// Its bytes. Only non-zero parts take memory.
    fn bytes(&self) -> Vec<u8> {
        let mut file = File::open(&self.path).unwrap();
        let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
        let (mut chunk, zeros) = (vec![0; 1 << 16], vec![0; 1 << 16]);
        let mut at = 0;
        loop {
            let len = file.read(&mut chunk).unwrap();
            if len == 0 {
                return bytes;
            }
            if chunk[..len] != zeros[..len] {
                bytes[at..at + len].copy_from_slice(&chunk[..len]);
            }
            at += len;
        }
    }

    fn inspect_disk(&self) -> DiskContents {
        inspect_bytes(self.bytes())
    }

    /// Creates a table from an sfdisk script, for the given sector size. fdisk also runs such scripts, and unlike
    /// sfdisk it has an option for the sector size of a file.
    fn partition(&self, sector: u64, script: &str) {
        let path = self.directory.path().join("script");
        std::fs::write(&path, script).unwrap();
        self.fdisk_does(sector, &format!("I\n{}\nw\n", path.display()));
    }

    fn fdisk_does(&self, sector: u64, commands: &str) {
        run("fdisk", &["-b", &sector.to_string(), self.name()], commands);
    }

    /// fdisk's view of the table: number, first byte, bytes, type, bootable.
    fn fdisk(&self, sector: u64) -> Vec<(u32, u64, u64, String, bool)> {
        let path = self.directory.path().join("dump");
        self.fdisk_does(sector, &format!("O\n{}\nq\n", path.display()));
        let dump = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let lines = dump.lines().filter_map(|line| line.strip_prefix(self.name()));
        let mut partitions: Vec<_> = lines
            .map(|line| {
                let (index, fields) = line.split_once(':').unwrap();
                let field = |name: &str| {
                    let value = fields.split(',').find_map(|field| field.trim().strip_prefix(name)).unwrap();
                    value.trim().to_owned()
                };
                let bytes = |name: &str| field(name).parse::<u64>().unwrap() * sector;
                let bootable = fields.contains("bootable") || fields.contains("LegacyBIOSBootable");
                (index.trim().parse().unwrap(), bytes("start="), bytes("size="), field("type="), bootable)
            })
            .collect();
        partitions.sort();
        partitions
    }
}

/// The same from our result.
fn as_fdisk(layout: &DiskContents) -> Vec<(u32, u64, u64, String, bool)> {
    let kind = |code: String| {
        code.strip_prefix("0x").map_or(code.clone(), |kind| kind.trim_start_matches('0').to_owned())
    };
    let partitions = layout.partitions.iter();
    partitions.map(|p| (p.index, p.start, p.bytes, kind(p.kind.code()), p.bootable)).collect()
}

fn source(bytes: Vec<u8>) -> Arc<dyn Source> {
    Arc::new(MemorySource::new("disk", bytes))
}

fn raw(source: Arc<dyn Source>) -> Disk {
    block_on(open(source, Declared::Format(Format::Raw))).unwrap()
}

fn inspect_bytes(bytes: Vec<u8>) -> DiskContents {
    block_on(inspect_disk(&raw(source(bytes)))).unwrap()
}

fn codes(layout: &DiskContents) -> Vec<&'static str> {
    layout.warnings.iter().map(|warning| warning.code).collect()
}

fn message<'a>(layout: &'a DiskContents, code: &str) -> &'a str {
    let warning = layout.warnings.iter().find(|warning| warning.code == code);
    &warning.unwrap_or_else(|| panic!("no {code} in {layout:?}")).message
}

fn filesystems(layout: &DiskContents) -> Vec<&'static str> {
    layout.partitions.iter().map(|p| p.filesystem.map_or("-", |filesystem| filesystem.name())).collect()
}

/// The first MiB of a volume of `mib` MiB that a tool formats. `FILE` in its arguments is replaced by the volume's
/// name.
fn formatted(mib: u64, tool: &str, arguments: &[&str]) -> Vec<u8> {
    let mut bytes = format_image(mib, tool, arguments).bytes();
    bytes.truncate(1 << 20);
    bytes
}

fn format_image(mib: u64, tool: &str, arguments: &[&str]) -> Image {
    let image = Image::new(mib << 20);
    let seed = image.directory.path().join("seed");
    std::fs::write(&seed, "content").unwrap();
    let arguments: Vec<&str> = arguments
        .iter()
        .map(|argument| match *argument {
            "FILE" => image.name(),
            "SEED" => seed.to_str().unwrap(),
            other => other,
        })
        .collect();
    run(tool, &arguments, "");
    image
}

fn xfs() -> Vec<u8> {
    formatted(320, "mkfs.xfs", &["-q", "-f", "FILE"])
}

fn ext4() -> Vec<u8> {
    formatted(8, "mkfs.ext4", &["-q", "-F", "FILE"])
}

fn fat() -> Vec<u8> {
    formatted(40, "mkfs.vfat", &["-F", "32", "FILE"])
}

fn swap() -> Vec<u8> {
    formatted(8, "mkswap", &["-q", "FILE"])
}
