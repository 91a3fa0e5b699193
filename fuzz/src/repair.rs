//! Recomputes checksums, so that a mutated structure is parsed and not refused for its checksum.

/// Writes the one's complement of the sum of all bytes in `at..at + len` to its field `field`.
fn vhd_sum(image: &mut [u8], at: usize, len: usize, field: usize) {
    let Some(bytes) = at.checked_add(len).and_then(|end| image.get_mut(at..end)) else { return };
    bytes[field..field + 4].fill(0);
    let sum = !bytes.iter().fold(0u32, |sum, byte| sum.wrapping_add(u32::from(*byte)));
    bytes[field..field + 4].copy_from_slice(&sum.to_be_bytes());
}

fn begins(image: &[u8], at: usize, cookie: &[u8]) -> bool {
    image.get(at..).is_some_and(|rest| rest.starts_with(cookie))
}

/// Repairs the checksums of a VHD's footers and header.
pub fn vhd(image: &mut [u8]) {
    for at in [Some(0), image.len().checked_sub(512)].into_iter().flatten() {
        if begins(image, at, b"conectix") {
            vhd_sum(image, at, 512, 64);
            let header = image.get(at + 16..at + 24).and_then(|bytes| bytes.try_into().ok());
            let header = header.map_or(0, u64::from_be_bytes) as usize;
            if begins(image, header, b"cxsparse") {
                vhd_sum(image, header, 1024, 36);
            }
        }
    }
}

/// Repairs the checksums of a GPT header at `at` with `entries` bytes of entries.
pub fn gpt(header: &mut [u8], entries: &[u8]) {
    if !begins(header, 0, b"EFI PART") || header.len() < 92 {
        return;
    }
    header[88..92].copy_from_slice(&crc32fast::hash(entries).to_le_bytes());
    let len = u32::from_le_bytes([header[12], header[13], header[14], header[15]]) as usize;
    header[16..20].fill(0);
    let sum = crc32fast::hash(&header[..len.clamp(92, header.len())]);
    header[16..20].copy_from_slice(&sum.to_le_bytes());
}
