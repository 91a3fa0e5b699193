//! What the tests of VHD and of detection share: a builder of VHDs of any kind, a decode loop over a disk's extents, and
//! qemu-img as an oracle.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use diskferry_core::address::{GuestOffset, GuestRange, StoredRange};
use diskferry_core::disk::Disk;
use diskferry_core::error::{Error, Result};
use diskferry_core::extent::{Extent, ExtentKind, MAX_UNIT_BYTES, Tally};
use diskferry_core::source::memory::MemorySource;
use diskferry_core::source::{BoxFuture, Capabilities, Identity, Segment, Source, Traffic, check_range};
use diskferry_formats::{Declared, Format, open};

pub(crate) const SECTOR: usize = 512;

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

pub(crate) fn open_bytes(bytes: impl Into<Bytes>, declared: Declared) -> Result<Disk> {
    block_on(open(Arc::new(MemorySource::new("image", bytes)), declared))
}

/// Opens what must open as a VHD, declared or not.
pub(crate) fn open_vhd(bytes: impl Into<Bytes>) -> Disk {
    let bytes = bytes.into();
    let undeclared = open_bytes(bytes.clone(), Declared::Unknown).unwrap();
    assert_eq!(undeclared.geometry().format, "vhd");
    open_bytes(bytes, Declared::Format(Format::Vhd)).unwrap()
}

/// The error of an image that does not open or does not walk, with the place it names.
pub(crate) fn failure(bytes: impl Into<Bytes>) -> Error {
    match open_bytes(bytes, Declared::Format(Format::Vhd)) {
        Err(error) => error,
        Ok(disk) => block_on(walk(&disk, u64::MAX)).expect_err("the image should not be read"),
    }
}

/// All extents of a disk, asked for in windows of `window` bytes, each checked against the contract of the map.
pub(crate) async fn walk(disk: &Disk, window: u64) -> Result<Vec<Extent>> {
    let mut all: Vec<Extent> = Vec::new();
    let mut at = 0;
    while at < disk.virtual_bytes() {
        let end = at.saturating_add(window).min(disk.virtual_bytes());
        let asked = GuestRange::between(GuestOffset::new(at), GuestOffset::new(end));
        for extent in disk.extents(asked).await? {
            assert!(extent.guest.intersection(asked).is_some(), "{extent:?} is outside of {asked:?}");
            assert!(extent.guest.len() <= MAX_UNIT_BYTES || !matches!(extent.kind, ExtentKind::Coded(_)));
            at = at.max(extent.guest.end().get());
            // A coded unit that meets two windows is in both answers.
            if all.last().is_none_or(|last| last.guest.end() <= extent.guest.start()) {
                all.push(extent);
            }
        }
    }
    assert_eq!(all.iter().map(|extent| extent.guest.len()).sum::<u64>(), disk.virtual_bytes());
    Ok(all)
}

/// The guest's bytes, and what decoding counted.
pub(crate) fn read_all(disk: &Disk, window: u64) -> Result<(Vec<u8>, Tally)> {
    block_on(async {
        let mut out = vec![0u8; usize::try_from(disk.virtual_bytes()).unwrap()];
        let mut tally = Tally::default();
        for extent in walk(disk, window).await? {
            let Some(stored) = extent.to_fetch() else { continue };
            let bytes = disk.file(stored.file)?.read(stored.range).await?;
            let place = extent.guest.start().get() as usize..extent.guest.end().get() as usize;
            match &extent.kind {
                ExtentKind::Coded(coded) => {
                    coded.codec.decode(extent.guest, &bytes, &mut out[place], &mut tally)?;
                    if let Some(warning) = coded.codec.warning(&tally) {
                        disk.warnings().add(warning);
                    }
                }
                _ => out[place].copy_from_slice(&bytes),
            }
        }
        Ok((out, tally))
    })
}

pub(crate) fn warning_codes(disk: &Disk) -> Vec<&'static str> {
    disk.warnings().list().iter().map(|warning| warning.code).collect()
}

/// Compares without printing megabytes.
pub(crate) fn assert_same(got: &[u8], truth: &[u8], what: &str) {
    assert_eq!(got.len(), truth.len(), "{what}: length");
    if got != truth {
        let at = got.iter().zip(truth).position(|(a, b)| a != b).unwrap();
        panic!("{what}: byte {at} is {:#04x} and should be {:#04x}", got[at], truth[at]);
    }
}

/// Bytes that differ from place to place.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

pub(crate) fn qemu_img(args: &[&str]) {
    let output = Command::new("qemu-img")
        .args(args)
        .output()
        .expect("qemu-img is missing: apt-get install qemu-utils");
    assert!(output.status.success(), "qemu-img {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What qemu-img makes of raw bytes.
pub(crate) fn convert(raw: &[u8], format: &str, options: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("raw"), dir.path().join("target"));
    std::fs::write(&source, raw).unwrap();
    let mut args = vec!["convert", "-f", "raw", "-O", format];
    if !options.is_empty() {
        args.extend(["-o", options]);
    }
    args.extend([text(&source), text(&target)]);
    qemu_img(&args);
    std::fs::read(target).unwrap()
}

/// What qemu-img reads from an image.
pub(crate) fn qemu_reads(image: &[u8], format: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("image"), dir.path().join("raw"));
    std::fs::write(&source, image).unwrap();
    qemu_img(&["convert", "-f", format, "-O", "raw", text(&source), text(&target)]);
    std::fs::read(target).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// An object of any length that is zero but for some pieces: images too large to build.
#[derive(Debug)]
pub(crate) struct Sparse {
    pub(crate) len: u64,
    pub(crate) pieces: BTreeMap<u64, Vec<u8>>,
    pub(crate) fetched: AtomicU64,
    pub(crate) requests: AtomicU64,
    identity: Identity,
}

impl Sparse {
    pub(crate) fn new(len: u64, pieces: impl IntoIterator<Item = (u64, Vec<u8>)>) -> Self {
        let pieces = pieces.into_iter().collect();
        let zero = || AtomicU64::new(0);
        Self { len, pieces, fetched: zero(), requests: zero(), identity: Identity::default() }
    }
}

impl Source for Sparse {
    fn url(&self) -> &str {
        "memory:sparse"
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { request_bytes: 8 << 20, gap_bytes: 0, in_flight: 4, remote: true }
    }

    fn traffic(&self) -> Traffic {
        Traffic {
            requests: self.requests.load(Ordering::Relaxed),
            bytes: self.fetched.load(Ordering::Relaxed),
            retries: 0,
        }
    }

    fn read(&self, range: StoredRange) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(async move {
            check_range(self, range)?;
            self.requests.fetch_add(1, Ordering::Relaxed);
            self.fetched.fetch_add(range.len(), Ordering::Relaxed);
            let mut out = vec![0; usize::try_from(range.len()).unwrap()];
            for (at, piece) in &self.pieces {
                let lies = StoredRange::between((*at).into_offset(), (at + piece.len() as u64).into_offset());
                let Some(both) = lies.intersection(range) else { continue };
                let from = (both.start().get() - at) as usize;
                let to = (both.start().get() - range.start().get()) as usize;
                let len = both.len() as usize;
                out[to..to + len].copy_from_slice(&piece[from..from + len]);
            }
            Ok(out.into())
        })
    }

    fn segments(&self, range: StoredRange) -> BoxFuture<'_, Result<Vec<Segment>>> {
        Box::pin(async move { Ok(vec![Segment { range, hole: false }]) })
    }

    fn verify(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

trait IntoOffset {
    fn into_offset(self) -> diskferry_core::address::StoredOffset;
}

impl IntoOffset for u64 {
    fn into_offset(self) -> diskferry_core::address::StoredOffset {
        diskferry_core::address::StoredOffset::new(self)
    }
}

/// The sum of footer and header, over all bytes but the four at `field`.
pub(crate) fn checksum(bytes: &[u8], field: usize) -> u32 {
    let sum = |bytes: &[u8]| bytes.iter().fold(0u32, |sum, byte| sum.wrapping_add(u32::from(*byte)));
    !sum(bytes).wrapping_sub(sum(&bytes[field..field + 4]))
}

/// Writes `value` at `at` and sums the footer or header at `start` anew.
pub(crate) fn patch(image: &mut [u8], start: usize, len: usize, field: usize, value: &[u8]) {
    image[start + field..start + field + value.len()].copy_from_slice(value);
    let sum_at = if len == 512 { 64 } else { 36 };
    let sum = checksum(&image[start..start + len], sum_at);
    image[start + sum_at..start + sum_at + 4].copy_from_slice(&sum.to_be_bytes());
}

/// A VHD as it should be made.
#[derive(Clone, Debug)]
pub(crate) struct Vhd {
    pub(crate) creator: [u8; 4],
    pub(crate) disk_type: u32,
    pub(crate) size: u64,
    pub(crate) chs: (u16, u8, u8),
    pub(crate) saved_state: bool,
    pub(crate) features: u32,
    pub(crate) block_bytes: u32,
    /// Entries of the table; as many as needed where `None`.
    pub(crate) entries: Option<u32>,
    pub(crate) parent: &'static str,
    pub(crate) short_footer: bool,
    pub(crate) padding: usize,
}

impl Vhd {
    pub(crate) fn new(disk_type: u32, size: u64) -> Self {
        Self {
            creator: *b"win ",
            disk_type,
            size,
            chs: (0, 0, 0),
            saved_state: false,
            features: 2,
            block_bytes: 2 << 20,
            entries: None,
            parent: "",
            short_footer: false,
            padding: 0,
        }
    }

    pub(crate) fn footer(&self) -> Vec<u8> {
        let mut f = vec![0; 512];
        f[..8].copy_from_slice(b"conectix");
        f[8..12].copy_from_slice(&self.features.to_be_bytes());
        f[12..16].copy_from_slice(&0x0001_0000u32.to_be_bytes());
        let header = if self.disk_type == 2 { u64::MAX } else { 512 };
        f[16..24].copy_from_slice(&header.to_be_bytes());
        f[28..32].copy_from_slice(&self.creator);
        f[40..48].copy_from_slice(&self.size.to_be_bytes());
        f[48..56].copy_from_slice(&self.size.to_be_bytes());
        f[56..58].copy_from_slice(&self.chs.0.to_be_bytes());
        (f[58], f[59]) = (self.chs.1, self.chs.2);
        f[60..64].copy_from_slice(&self.disk_type.to_be_bytes());
        f[84] = u8::from(self.saved_state);
        let sum = checksum(&f, 64);
        f[64..68].copy_from_slice(&sum.to_be_bytes());
        f
    }

    fn needed(&self) -> u32 {
        u32::try_from(self.size.div_ceil(u64::from(self.block_bytes))).unwrap()
    }

    pub(crate) fn header(&self) -> Vec<u8> {
        let mut h = vec![0; 1024];
        h[..8].copy_from_slice(b"cxsparse");
        h[8..16].copy_from_slice(&u64::MAX.to_be_bytes());
        h[16..24].copy_from_slice(&1536u64.to_be_bytes());
        h[24..28].copy_from_slice(&0x0001_0000u32.to_be_bytes());
        h[28..32].copy_from_slice(&self.entries.unwrap_or_else(|| self.needed()).to_be_bytes());
        h[32..36].copy_from_slice(&self.block_bytes.to_be_bytes());
        for (place, unit) in h[64..].chunks_mut(2).zip(self.parent.encode_utf16()) {
            place.copy_from_slice(&unit.to_be_bytes());
        }
        let sum = checksum(&h, 36);
        h[36..40].copy_from_slice(&sum.to_be_bytes());
        h
    }

    pub(crate) fn bitmap_bytes(&self) -> usize {
        (self.block_bytes as usize / SECTOR).div_ceil(8).next_multiple_of(SECTOR)
    }

    /// The end of the object: the footer, short or padded.
    pub(crate) fn end(&self) -> Vec<u8> {
        let mut footer = self.footer();
        footer.truncate(if self.short_footer { 511 } else { 512 });
        footer.resize(footer.len() + self.padding, 0);
        footer
    }

    /// A fixed disk of these bytes.
    pub(crate) fn fixed(&self, guest: &[u8]) -> Vec<u8> {
        [guest, &self.end()].concat()
    }

    /// A dynamic disk with these blocks, stored in this order: number, bits of its sectors, its bytes.
    pub(crate) fn dynamic(&self, blocks: &[(u32, Vec<bool>, Vec<u8>)]) -> Vec<u8> {
        let table = 4 * self.entries.unwrap_or_else(|| self.needed()) as usize;
        let mut image = [self.footer(), self.header()].concat();
        let bat = image.len();
        image.resize((bat + table).next_multiple_of(SECTOR), 0xff);
        for (index, bits, data) in blocks {
            let sector = u32::try_from(image.len() / SECTOR).unwrap();
            let entry = bat + 4 * *index as usize;
            image[entry..entry + 4].copy_from_slice(&sector.to_be_bytes());
            let mut bitmap = vec![0; self.bitmap_bytes()];
            for (sector, _) in bits.iter().enumerate().filter(|(_, bit)| **bit) {
                bitmap[sector / 8] |= 0x80 >> (sector % 8);
            }
            image.extend(bitmap);
            image.extend_from_slice(data);
            image.resize(image.len().next_multiple_of(SECTOR), 0);
        }
        image.extend(self.end());
        image
    }

    /// A dynamic disk of these bytes, of which every block that `written` names is stored whole.
    pub(crate) fn dynamic_of(&self, guest: &[u8], written: impl Fn(u32) -> bool) -> Vec<u8> {
        let block = self.block_bytes as usize;
        let blocks: Vec<_> = (0u32..)
            .zip(guest.chunks(block))
            .filter(|(index, _)| written(*index))
            .map(|(index, data)| {
                let mut data = data.to_vec();
                data.resize(block, 0);
                (index, vec![true; block / SECTOR], data)
            })
            .collect();
        self.dynamic(&blocks)
    }
}
