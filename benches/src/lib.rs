//! What the benchmarks share: content that compresses as real disks do.

/// `len` bytes that look like text and code: a small vocabulary, repeated with changes. Deterministic.
pub fn content(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
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
