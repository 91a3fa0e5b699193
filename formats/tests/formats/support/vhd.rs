//! Builds VHDs of any kind by hand, following the specification.

use bytes::Bytes;
use diskferry_core::{Disk, Error};
use diskferry_formats::{Declared, Format};

use super::{SECTOR, error_as, open_as, open_bytes};

/// Opens a valid VHD, both declared and detected.
pub(crate) fn open_vhd(bytes: impl Into<Bytes>) -> Disk {
    let bytes = bytes.into();
    let undeclared = open_bytes(bytes.clone(), Declared::Unknown).unwrap();
    assert_eq!(undeclared.info().format, "vhd");
    open_as(Format::Vhd, bytes).unwrap()
}

/// The error of an image that does not open or read, with its offset.
pub(crate) fn error_of(bytes: impl Into<Bytes>) -> Error {
    error_as(Format::Vhd, bytes)
}

/// The checksum of footer and header, over all bytes except the four at `field`.
pub(crate) fn checksum(bytes: &[u8], field: usize) -> u32 {
    let sum = |bytes: &[u8]| bytes.iter().fold(0u32, |sum, byte| sum.wrapping_add(u32::from(*byte)));
    !sum(bytes).wrapping_sub(sum(&bytes[field..field + 4]))
}

/// Writes `value` at `at` and updates the checksum of the footer or header at `start`.
pub(crate) fn patch(image: &mut [u8], start: usize, len: usize, field: usize, value: &[u8]) {
    image[start + field..start + field + value.len()].copy_from_slice(value);
    let sum_at = if len == 512 { 64 } else { 36 };
    let sum = checksum(&image[start..start + len], sum_at);
    image[start + sum_at..start + sum_at + 4].copy_from_slice(&sum.to_be_bytes());
}

/// The parameters of a VHD.
#[derive(Clone, Debug)]
pub(crate) struct Vhd {
    pub(crate) creator: [u8; 4],
    pub(crate) disk_type: u32,
    pub(crate) size: u64,
    pub(crate) chs: (u16, u8, u8),
    pub(crate) saved_state: bool,
    pub(crate) features: u32,
    pub(crate) block_bytes: u32,
    /// Entries of the table; `None` for as many as needed.
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

    /// A dynamic disk with these blocks, stored in this order: number, bitmap, bytes.
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

    /// A dynamic disk of these bytes. Every block for which `written` is true is stored whole.
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
