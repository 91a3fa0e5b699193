//! Large images without data: all tables of a disk of tens of gibibytes, in a few MiB of memory.
//!
//! The data at the mapped offsets is zeros and is never read: a walk of the map reads tables only.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use diskferry_core::internal::check_range;
use diskferry_core::{BoxFuture, Capabilities, Identity, Result, Segment, Source, StoredRange, Traffic};

/// Size of a cluster and of a grain, in guest bytes.
pub const UNIT: u64 = 64 << 10;
const SECTOR: u64 = 512;

/// The storage order of a disk's units.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// In guest order.
    Guest,
    /// In an unrelated order.
    Shuffled,
}

impl Order {
    /// Returns the position of unit `number` of `count` in the storage order.
    fn place(self, number: u64, count: u64) -> u64 {
        match self {
            Self::Guest => number,
            // Coprime to every count whose only prime factors are 2 and 5.
            Self::Shuffled => number * 40_503 % count,
        }
    }
}

/// A source that has data in some ranges and zeros between them.
#[derive(Debug)]
pub struct Skeleton {
    len: u64,
    stretches: BTreeMap<u64, Bytes>,
    identity: Identity,
    requests: AtomicU64,
    read: AtomicU64,
}

impl Skeleton {
    /// Creates a source of `len` zeros.
    pub fn new(len: u64) -> Self {
        Self {
            len,
            stretches: BTreeMap::new(),
            identity: Identity::default(),
            requests: AtomicU64::new(0),
            read: AtomicU64::new(0),
        }
    }

    /// Adds data at `at`, which must not overlap other data.
    pub fn put(&mut self, at: u64, bytes: impl Into<Bytes>) {
        let bytes = bytes.into();
        self.len = self.len.max(at + bytes.len() as u64);
        self.stretches.insert(at, bytes);
    }

    /// Sets the last byte to a non-zero value. An object that ends in zeros may be truncated, and readers then check more.
    fn end_in_data(&mut self) {
        self.put(self.len.saturating_sub(1), vec![1]);
    }

    /// Returns it as a source.
    pub fn source(self) -> Arc<dyn Source> {
        Arc::new(self)
    }

    fn cut(&self, start: u64, end: u64) -> Bytes {
        let whole = self.stretches.range(..=start).next_back();
        if let Some((at, bytes)) = whole
            && end <= at + bytes.len() as u64
        {
            return bytes.slice((start - at) as usize..(end - at) as usize);
        }
        let mut out = BytesMut::zeroed((end - start) as usize);
        let first = whole.map_or(start, |(at, _)| *at);
        for (at, bytes) in self.stretches.range(first..end) {
            let (from, to) = (start.max(*at), end.min(at + bytes.len() as u64));
            if from < to {
                let piece = &bytes[(from - at) as usize..(to - at) as usize];
                out[(from - start) as usize..(to - start) as usize].copy_from_slice(piece);
            }
        }
        out.freeze()
    }
}

impl Source for Skeleton {
    fn url(&self) -> &str {
        "memory:skeleton"
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default().request_bytes(8 << 20).gap_bytes(1 << 20).in_flight(16).remote(true)
    }

    fn traffic(&self) -> Traffic {
        let requests = self.requests.load(Ordering::Relaxed);
        Traffic::default().requests(requests).bytes(self.read.load(Ordering::Relaxed)).retries(0)
    }

    fn read(&self, range: StoredRange) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(async move {
            check_range(self, range)?;
            self.requests.fetch_add(1, Ordering::Relaxed);
            self.read.fetch_add(range.len(), Ordering::Relaxed);
            Ok(self.cut(range.start().get(), range.end().get()))
        })
    }

    fn segments(&self, range: StoredRange) -> BoxFuture<'_, Result<Vec<Segment>>> {
        Box::pin(async move { Ok(vec![Segment { range, hole: false }]) })
    }

    fn verify(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

/// A buffer with numbers at given offsets.
struct Record(Vec<u8>);

impl Record {
    fn new(len: usize) -> Self {
        Self(vec![0; len])
    }

    fn put(mut self, at: usize, bytes: &[u8]) -> Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }
}

/// How the clusters of a QCOW2 are stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Clusters {
    /// Uncompressed.
    Plain,
    /// Each compressed to about a third of its size.
    Compressed,
}

/// A fully allocated QCOW2 version 3 of `disk_bytes` with 64 KiB clusters. Each L2 table is followed by its data, as a
/// sequential writer stores them.
pub fn qcow2(disk_bytes: u64, clusters: Clusters, order: Order) -> Skeleton {
    const ENTRIES: u64 = UNIT / 8;
    const STREAM: u64 = 21 << 10;
    let count = disk_bytes.div_ceil(UNIT);
    let tables = count.div_ceil(ENTRIES);
    // Header, refcount table, L1 table; then an L2 table, the data of its 8192 entries, the next L2 table, …
    let stored = match clusters {
        Clusters::Plain => UNIT,
        Clusters::Compressed => STREAM,
    };
    let group = UNIT + (ENTRIES * stored).next_multiple_of(UNIT);
    let table_at = |number: u64| 3 * UNIT + number * group;
    let mut image = Skeleton::new(table_at(tables));
    let header = Record::new(112)
        .put(0, b"QFI\xfb")
        .put(4, &3u32.to_be_bytes())
        .put(20, &16u32.to_be_bytes())
        .put(24, &disk_bytes.to_be_bytes())
        .put(36, &(tables as u32).to_be_bytes())
        .put(40, &(2 * UNIT).to_be_bytes())
        .put(48, &UNIT.to_be_bytes())
        .put(56, &1u32.to_be_bytes())
        .put(96, &4u32.to_be_bytes())
        .put(100, &112u32.to_be_bytes());
    image.put(0, header.0);
    let l1: Vec<u8> = (0..tables).flat_map(|number| (1 << 63 | table_at(number)).to_be_bytes()).collect();
    image.put(2 * UNIT, l1);
    for table in 0..tables {
        let first = table * ENTRIES;
        let entries = first..(first + ENTRIES).min(count);
        let bytes: Vec<u8> = entries
            .flat_map(|number| {
                let place = order.place(number, count);
                let at = table_at(place / ENTRIES) + UNIT + place % ENTRIES * stored;
                let entry = match clusters {
                    Clusters::Plain => 1 << 63 | at,
                    Clusters::Compressed => 1 << 62 | (STREAM / SECTOR - 1) << 54 | at,
                };
                entry.to_be_bytes()
            })
            .collect();
        image.put(table_at(table), bytes);
    }
    image.end_in_data();
    image
}

/// A fully allocated dynamic VHD of `disk_bytes` with blocks of 2 MiB.
pub fn vhd(disk_bytes: u64, order: Order) -> Skeleton {
    const BLOCK: u64 = 2 << 20;
    const STRIDE: u64 = SECTOR + BLOCK;
    let sum = |record: Record, at: usize| {
        let sum = record.0.iter().fold(0u32, |sum, byte| sum.wrapping_add((*byte).into()));
        record.put(at, &(!sum).to_be_bytes()).0
    };
    let count = disk_bytes.div_ceil(BLOCK);
    let table = (count * 4).next_multiple_of(SECTOR);
    let data = 1536 + table;
    let footer = Record::new(512)
        .put(0, b"conectix")
        .put(8, &2u32.to_be_bytes())
        .put(12, &0x0001_0000u32.to_be_bytes())
        .put(16, &512u64.to_be_bytes())
        .put(28, b"win ")
        .put(40, &disk_bytes.to_be_bytes())
        .put(48, &disk_bytes.to_be_bytes())
        .put(60, &3u32.to_be_bytes());
    let footer = sum(footer, 64);
    let header = Record::new(1024)
        .put(0, b"cxsparse")
        .put(8, &u64::MAX.to_be_bytes())
        .put(16, &1536u64.to_be_bytes())
        .put(24, &0x0001_0000u32.to_be_bytes())
        .put(28, &(count as u32).to_be_bytes())
        .put(32, &(BLOCK as u32).to_be_bytes());
    let mut image = Skeleton::new(0);
    image.put(0, footer.clone());
    image.put(512, sum(header, 36));
    let entry = |number| ((data + order.place(number, count) * STRIDE) / SECTOR) as u32;
    let entries: Vec<u8> = (0..count).flat_map(|number| entry(number).to_be_bytes()).collect();
    image.put(1536, entries);
    image.put(data + count * STRIDE, footer);
    image
}

const TABLE_ENTRIES: u64 = 512;
const SPAN: u64 = TABLE_ENTRIES * UNIT;

fn vmdk_header(
    disk_bytes: u64,
    flags: u32,
    version: u32,
    directory: u64,
    redundant: u64,
    overhead: u64,
) -> Record {
    let compressed = u16::from(flags & 1 << 16 != 0);
    Record::new(512)
        .put(0, b"KDMV")
        .put(4, &version.to_le_bytes())
        .put(8, &flags.to_le_bytes())
        .put(12, &(disk_bytes / SECTOR).to_le_bytes())
        .put(20, &(UNIT / SECTOR).to_le_bytes())
        .put(28, &1u64.to_le_bytes())
        .put(36, &20u64.to_le_bytes())
        .put(44, &(TABLE_ENTRIES as u32).to_le_bytes())
        .put(48, &redundant.to_le_bytes())
        .put(56, &directory.to_le_bytes())
        .put(64, &overhead.to_le_bytes())
        .put(73, b"\n \r\n")
        .put(77, &compressed.to_le_bytes())
}

fn vmdk_descriptor(disk_bytes: u64, kind: &str) -> Vec<u8> {
    let sectors = disk_bytes / SECTOR;
    let text = format!(
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"{kind}\"\n\
         RW {sectors} SPARSE \"disk.vmdk\"\n"
    );
    Record::new(20 * SECTOR as usize).put(0, text.as_bytes()).0
}

/// The content of a VMDK's grain tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Grains {
    /// All grains are allocated.
    All(Order),
    /// No grain is allocated, but all tables exist.
    None,
}

/// A monolithicSparse VMDK of `disk_bytes` with 64 KiB grains. Both directories and all tables precede the grains, as VMware
/// and qemu-img write them.
pub fn vmdk_sparse(disk_bytes: u64, grains: Grains) -> Skeleton {
    let tables = disk_bytes.div_ceil(SPAN);
    let count = disk_bytes.div_ceil(UNIT);
    let directory_sectors = (tables * 4).div_ceil(SECTOR);
    let table_sectors = TABLE_ENTRIES * 4 / SECTOR;
    let redundant = 21;
    let directory = redundant + directory_sectors + tables * table_sectors;
    let overhead = (directory + directory_sectors + tables * table_sectors).next_multiple_of(UNIT / SECTOR);
    let stored = if grains == Grains::None { 0 } else { count };
    let mut image = Skeleton::new(overhead * SECTOR + stored * UNIT);
    image.put(0, vmdk_header(disk_bytes, 3, 1, directory, redundant, overhead).0);
    image.put(SECTOR, vmdk_descriptor(disk_bytes, "monolithicSparse"));
    let entry = |number: u64| match grains {
        Grains::All(order) if number < count => {
            (overhead + order.place(number, count) * (UNIT / SECTOR)) as u32
        }
        _ => 0,
    };
    let named: Vec<u8> = (0..tables * TABLE_ENTRIES).flat_map(|number| entry(number).to_le_bytes()).collect();
    let named = Bytes::from(named);
    for start in [redundant, directory] {
        let first = start + directory_sectors;
        let table = |number: u64| ((first + number * table_sectors) as u32).to_le_bytes();
        image.put(start * SECTOR, (0..tables).flat_map(table).collect::<Vec<u8>>());
        image.put(first * SECTOR, named.clone());
    }
    if stored > 0 {
        image.end_in_data();
    }
    image
}

/// A fully allocated streamOptimized VMDK of `disk_bytes`, with grains compressed to about a third. Each table follows its
/// grains, then come the directory and a footer.
pub fn vmdk_stream(disk_bytes: u64) -> Skeleton {
    const STREAM: u64 = 21 << 10;
    let tables = disk_bytes.div_ceil(SPAN);
    let count = disk_bytes.div_ceil(UNIT);
    let mut image = Skeleton::new(0);
    image.put(0, vmdk_header(disk_bytes, 3 << 16 | 1, 3, u64::MAX, 0, 128).0);
    image.put(SECTOR, vmdk_descriptor(disk_bytes, "streamOptimized"));
    let marker = |sectors: u64, kind: u32| {
        Record::new(512).put(0, &sectors.to_le_bytes()).put(12, &kind.to_le_bytes()).0
    };
    let mut at = 64u64 << 10;
    let mut directory = Vec::new();
    for table in 0..tables {
        let mut entries = Vec::new();
        for number in table * TABLE_ENTRIES..(table + 1) * TABLE_ENTRIES {
            let entry = if number < count { (at / SECTOR) as u32 } else { 0 };
            entries.extend_from_slice(&entry.to_le_bytes());
            at += if number < count { STREAM } else { 0 };
        }
        image.put(at, marker(TABLE_ENTRIES * 4 / SECTOR, 1));
        at += SECTOR;
        directory.extend_from_slice(&((at / SECTOR) as u32).to_le_bytes());
        at += entries.len() as u64;
        image.put(at - entries.len() as u64, entries);
    }
    directory.resize(directory.len().next_multiple_of(SECTOR as usize), 0);
    image.put(at, marker(directory.len() as u64 / SECTOR, 2));
    at += SECTOR;
    let footer = vmdk_header(disk_bytes, 3 << 16 | 1, 3, at / SECTOR, 0, 128).0;
    at += directory.len() as u64;
    image.put(at - directory.len() as u64, directory);
    image.put(at, [marker(1, 3), footer, vec![0; 512]].concat());
    image
}
