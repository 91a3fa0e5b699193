//! The journal of a target: what is needed to continue it after the process was killed.

use std::ops::Range;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Result;
use crate::source::BoxFuture;

/// What a destination has of an interrupted run.
#[derive(Clone, Debug)]
pub struct SavedCheckpoint {
    /// What was saved with [`Journal::save`].
    pub state: Bytes,
    /// The bytes of the target that are there. The range ends at the `at` that was saved, or after it.
    pub target: Range<u64>,
}

/// The journal of a target: what is needed to continue it, kept at its destination.
///
/// It exists while the target is written, and is removed when the target is published or given up. A sink that was made
/// to be resumed keeps it, and the target, when it is given up too.
pub trait Journal: Send + Sync {
    /// What an interrupted run left. `None` if there is nothing, or nothing that can be used: then the target starts over.
    /// Called once, before [`prepare`](crate::Sink::prepare).
    ///
    /// # Errors
    /// The `destination_*` codes.
    fn load(&self) -> BoxFuture<'_, Result<Option<SavedCheckpoint>>>;

    /// Drops what was left: the target starts over.
    ///
    /// # Errors
    /// The `destination_*` codes.
    fn drop_saved(&self) -> BoxFuture<'_, Result<()>>;

    /// Saves `state`, which says how to continue a target whose first `at` bytes are there, except for a front that is
    /// written last; for a target that is written in any order, all that was written. The writes were answered before.
    ///
    /// The future ends when these bytes would outlast this process, which may take until more is written. Dropping it is
    /// safe, and keeps either the previous state or this one.
    ///
    /// # Errors
    /// The `destination_*` codes. The previous state is kept.
    fn save(&self, at: u64, state: Bytes) -> BoxFuture<'_, Result<()>>;

    /// Whether something stays to be resumed if the target is given up now, or was.
    fn stays(&self) -> bool;
}

/// `value` as bytes: `magic`, the value, and their CRC-32. `None` if it cannot be put into bytes.
pub fn pack<T: Serialize>(magic: [u8; 8], value: &T) -> Option<Bytes> {
    let mut bytes = postcard::to_extend(value, magic.to_vec()).ok()?;
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    Some(bytes.into())
}

/// What [`pack`] was given; `None` for anything else.
pub fn unpack<T: DeserializeOwned>(magic: [u8; 8], bytes: &[u8]) -> Option<T> {
    let (bytes, sum) = bytes.split_last_chunk::<4>()?;
    if crc32fast::hash(bytes) != u32::from_le_bytes(*sum) {
        return None;
    }
    let (value, rest) = postcard::take_from_bytes(bytes.strip_prefix(&magic)?).ok()?;
    rest.is_empty().then_some(value)
}
