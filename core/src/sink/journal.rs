//! The journal of a target, which allows to continue it after the process was killed.

use std::ops::Range;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Result;
use crate::source::BoxFuture;

/// The state of an interrupted run at the destination.
#[derive(Clone, Debug)]
pub struct SavedCheckpoint {
    /// The state that was saved with [`Journal::save`].
    pub state: Bytes,
    /// The range of the target's bytes that exists. It ends at the saved `at`, or after it.
    pub target: Range<u64>,
}

/// The journal of a target, stored at its destination: the data that is needed to continue it.
///
/// It exists while the target is written, and is removed when the target is published or aborted. If a sink was
/// created to be resumed, an abort keeps the journal and the target.
pub trait Journal: Send + Sync {
    /// Loads the state of an interrupted run. `None` if there is none, or none that can be used: then the target
    /// starts over. Called once, before [`prepare`](crate::Sink::prepare).
    ///
    /// # Errors
    /// The `destination_*` codes.
    fn load(&self) -> BoxFuture<'_, Result<Option<SavedCheckpoint>>>;

    /// Drops the saved state: the target starts over.
    ///
    /// # Errors
    /// The `destination_*` codes.
    fn drop_saved(&self) -> BoxFuture<'_, Result<()>>;

    /// Saves `state`, with which a target can be continued whose first `at` bytes are written, except for a front
    /// that is written last. For a target that is written in any order, all writes so far count. These writes are
    /// complete.
    ///
    /// The future completes when these bytes would outlast this process, which may take until more is written.
    /// Dropping it is safe, and keeps either the previous state or this one.
    ///
    /// # Errors
    /// The `destination_*` codes. The previous state is kept.
    fn save(&self, at: u64, state: Bytes) -> BoxFuture<'_, Result<()>>;

    /// Whether state for a resume remains if the target is aborted now, or after it was aborted.
    fn stays(&self) -> bool;
}

/// Encodes `value`: `magic`, the value, and their CRC-32. `None` if it cannot be serialized.
pub fn pack<T: Serialize>(magic: [u8; 8], value: &T) -> Option<Bytes> {
    let mut bytes = postcard::to_extend(value, magic.to_vec()).ok()?;
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    Some(bytes.into())
}

/// Decodes the output of [`pack`]; `None` for anything else.
pub fn unpack<T: DeserializeOwned>(magic: [u8; 8], bytes: &[u8]) -> Option<T> {
    let (bytes, sum) = bytes.split_last_chunk::<4>()?;
    if crc32fast::hash(bytes) != u32::from_le_bytes(*sum) {
        return None;
    }
    let (value, rest) = postcard::take_from_bytes(bytes.strip_prefix(&magic)?).ok()?;
    rest.is_empty().then_some(value)
}
