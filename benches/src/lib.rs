//! Inputs that the benchmarks share: content that compresses like real disks, and images that consist of tables.

pub mod images;

/// Returns `len` bytes similar to text and code: a small vocabulary, repeated with changes. Deterministic.
pub fn content(len: usize) -> Vec<u8> {
    let mut next = numbers();
    let words: Vec<Vec<u8>> =
        (0..512).map(|_| (0..next() % 12 + 2).map(|_| (next() % 64 + 32) as u8).collect()).collect();
    let mut bytes = Vec::with_capacity(len + 16);
    while bytes.len() < len {
        let draw = next();
        bytes.extend_from_slice(&words[(draw % 512) as usize]);
        if draw >> 60 == 0 {
            bytes.extend_from_slice(&next().to_le_bytes());
        }
    }
    bytes.truncate(len);
    bytes
}

/// Returns `units` consecutive, different units of [`content`], as a codec processes them in an image.
pub fn units(units: usize, len: usize) -> Vec<Vec<u8>> {
    content(units * len).chunks(len).map(<[u8]>::to_vec).collect()
}

/// Returns a disk of `len` bytes: `content_bytes` of [`content`], followed by zeros.
pub fn disk(len: usize, content_bytes: usize) -> Vec<u8> {
    let mut bytes = content(content_bytes);
    bytes.resize(len, 0);
    bytes
}

/// A deterministic pseudo-random number generator.
fn numbers() -> impl FnMut() -> u64 {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}
