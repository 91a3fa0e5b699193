//! VHD, from Microsoft's "Virtual Hard Disk Image Format Specification" 1.0, and the known deviations of its writers.

use super::bytes::{be16, be32, be64, slice, up_to};

/// The maximum size of a CHS geometry, in sectors. From this size on, `current_size` is the disk's size.
const CEILING: u64 = 65_535 * 16 * 255;
/// Maximum number of zeros after the footer.
const MOST_PADDING: u64 = 64 << 10;

pub(super) struct Image<'a> {
    image: &'a [u8],
    pub(super) size: u64,
    /// Tables of a dynamic disk.
    blocks: Option<Blocks>,
}

struct Blocks {
    table_at: u64,
    entries: u64,
    /// Bytes per block.
    len: u64,
}

/// The checksum is the one's complement of the sum of all bytes except its own four.
fn sum_is_right(bytes: &[u8], field: usize) -> bool {
    let others = bytes.iter().enumerate().filter(|(at, _)| !(field..field + 4).contains(at));
    let sum = others.fold(0u32, |sum, (_, byte)| sum.wrapping_add(u32::from(*byte)));
    be32(bytes, field as u64) == Some(u64::from(!sum))
}

/// Returns the 512 bytes at `at` if they are an intact footer. At the end of the image, the last byte may be missing.
fn footer_at(image: &[u8], at: u64) -> Option<Vec<u8>> {
    let mut footer = up_to(image, at, 512).to_vec();
    if footer.len() == 511 {
        footer.push(0);
    }
    (footer.len() == 512 && footer.starts_with(b"conectix") && sum_is_right(&footer, 64)).then_some(footer)
}

/// Finds the last intact footer that only zeros follow, and its offset.
fn footer_at_end(image: &[u8]) -> Option<(u64, Vec<u8>)> {
    let tail_at = (image.len() as u64).saturating_sub(MOST_PADDING + 512);
    let last_byte = up_to(image, tail_at, u64::MAX).iter().rposition(|byte| *byte != 0)?;
    let last_byte = tail_at + last_byte as u64;
    let first = last_byte.saturating_sub(511).max(tail_at);
    (first..=last_byte).rev().find_map(|at| footer_at(image, at).map(|footer| (at, footer)))
}

pub(super) fn open(image: &[u8]) -> Option<Image<'_>> {
    let (end, footer) = match footer_at_end(image) {
        Some((at, footer)) => (Some(at), footer),
        None => (None, footer_at(image, 0)?),
    };
    let creator = slice(&footer, 28, 4)?;
    let sectors = be16(&footer, 56)? * u64::from(*footer.get(58)?) * u64::from(*footer.get(59)?);
    let by_geometry = (creator == b"vpc " || creator == b"qemu") && sectors > 0 && sectors < CEILING;
    let size = if by_geometry { sectors * 512 } else { be64(&footer, 48)? };
    let blocks = match be32(&footer, 60)? {
        2 => {
            // The disk's bytes are stored before the footer.
            let room = end?;
            (size <= room).then_some(None)?
        }
        3 => Some(blocks(image, be64(&footer, 16)?)?),
        // 4: a differencing disk, whose other blocks are in its parent.
        _ => return None,
    };
    Some(Image { image, size, blocks })
}

fn blocks(image: &[u8], header_at: u64) -> Option<Blocks> {
    let header = slice(image, header_at, 1024)?;
    let len = be32(header, 32)?;
    let good = header.starts_with(b"cxsparse") && sum_is_right(header, 36);
    let blocks = Blocks { table_at: be64(header, 16)?, entries: be32(header, 28)?, len };
    (good && len.is_power_of_two() && len >= 512).then_some(blocks)
}

impl Image<'_> {
    /// Returns the sector that contains the guest byte `at`, and its start. Without `bitmaps`, sector bitmaps are ignored.
    pub(super) fn sector(&self, at: u64, bitmaps: bool) -> Option<(u64, Vec<u8>)> {
        let start = at - at % 512;
        let len = 512.min(self.size.checked_sub(start)?);
        let zeros = || Some((start, vec![0; usize::try_from(len).ok()?]));
        let Some(blocks) = &self.blocks else {
            return Some((start, slice(self.image, start, len)?.to_vec()));
        };
        let number = start / blocks.len;
        if number >= blocks.entries {
            return None;
        }
        let entry = be32(self.image, blocks.table_at.checked_add(number * 4)?)?;
        if entry == 0xffff_ffff {
            return zeros();
        }
        // A block is a bitmap with one bit per sector, padded to whole sectors, followed by the data.
        let bitmap_at = entry * 512;
        let bitmap_len = (blocks.len / 512).div_ceil(8).next_multiple_of(512);
        let inside = start % blocks.len;
        let bits = *slice(self.image, bitmap_at + inside / 512 / 8, 1)?.first()?;
        let written = bits << (inside / 512 % 8) & 0x80 != 0;
        if bitmaps && !written {
            return zeros();
        }
        Some((start, slice(self.image, bitmap_at + bitmap_len + inside, len)?.to_vec()))
    }
}
