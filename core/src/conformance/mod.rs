//! Conformance suites for sources, sinks and layouts. A test calls them with its own implementation.
//!
//! They panic with the check that failed. They need no certain runtime: the caller drives them.

mod layout;
mod sink;
mod source;

pub use layout::{MakeLayout, StrictSink, check_layout, digest_of};
pub use sink::{Replacing, Stage, check_sink};
pub use source::check_source;

/// `len` bytes that differ at every position: a mixed counter of their 8-byte words.
pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let words = (0..len.div_ceil(8) as u64).map(|index| {
        let mixed = (index ^ seed.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // No byte is zero, so that none can be taken for a hole.
        (mixed ^ (mixed >> 29)) | 0x0101_0101_0101_0101
    });
    let mut bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    bytes.truncate(len);
    bytes
}

/// Polls a future until it completes or `polls` are used up, and then drops it.
pub(crate) async fn drop_after<T>(polls: usize, mut future: crate::source::BoxFuture<'_, T>) -> Option<T> {
    for _ in 0..polls {
        if let std::task::Poll::Ready(out) = futures_util::poll!(&mut future) {
            return Some(out);
        }
    }
    None
}
