//! Bounds-checked reads of bytes and numbers.

/// Returns `len` bytes at offset `at`.
pub(super) fn slice(image: &[u8], at: u64, len: u64) -> Option<&[u8]> {
    let start = usize::try_from(at).ok()?;
    let end = usize::try_from(at.checked_add(len)?).ok()?;
    image.get(start..end)
}

/// Returns at most `len` bytes at offset `at`; empty past the end.
pub(super) fn up_to(image: &[u8], at: u64, len: u64) -> &[u8] {
    let rest = (image.len() as u64).saturating_sub(at);
    slice(image, at, len.min(rest)).unwrap_or_default()
}

fn array<const LEN: usize>(image: &[u8], at: u64) -> Option<[u8; LEN]> {
    slice(image, at, LEN as u64)?.try_into().ok()
}

pub(super) fn be16(image: &[u8], at: u64) -> Option<u64> {
    array(image, at).map(u16::from_be_bytes).map(u64::from)
}

pub(super) fn be32(image: &[u8], at: u64) -> Option<u64> {
    array(image, at).map(u32::from_be_bytes).map(u64::from)
}

pub(super) fn be64(image: &[u8], at: u64) -> Option<u64> {
    array(image, at).map(u64::from_be_bytes)
}

pub(super) fn le16(image: &[u8], at: u64) -> Option<u64> {
    array(image, at).map(u16::from_le_bytes).map(u64::from)
}

pub(super) fn le32(image: &[u8], at: u64) -> Option<u64> {
    array(image, at).map(u32::from_le_bytes).map(u64::from)
}

pub(super) fn le64(image: &[u8], at: u64) -> Option<u64> {
    array(image, at).map(u64::from_le_bytes)
}
