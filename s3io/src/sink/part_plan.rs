//! How a target is divided into parts.

use diskferry_core::internal::budget_for;
use diskferry_core::{Error, ErrorKind, Result};
use tokio::sync::Semaphore;

/// Maximum number of parts of an upload ("Amazon S3 multipart upload limits" in the Amazon S3 User Guide).
pub(super) const MAX_PARTS: u64 = 10_000;
/// Maximum length of an object (likewise).
pub(super) const MAX_OBJECT_BYTES: u64 = 5 << 40;
const MIB: u64 = 1 << 20;
/// The best length of a request, see "Performance design patterns" in the Amazon S3 User Guide.
const MIN_PART: u64 = 8 * MIB;
/// Upper bound if the target's length is not known: enough for 640 GB.
const MAX_PART: u64 = 64 * MIB;

/// Size and number of the parts of a target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PartPlan {
    /// Bytes of a part.
    pub(super) part_bytes: usize,
    /// Maximum number of parts.
    pub(super) max_parts: u64,
    /// How many parts fit the memory at a time.
    pub(super) slots: usize,
}

impl PartPlan {
    /// A plan for a target of at most `most_bytes`, with parts of `wanted` bytes if that is given and possible.
    ///
    /// # Errors
    /// `destination_unsuitable` if the target has too many bytes, or the memory is too small.
    pub(super) fn new(
        most_bytes: Option<u64>,
        exact: bool,
        memory: u64,
        wanted: Option<u64>,
    ) -> Result<Self> {
        let unsuitable = |message: String| Error::new(ErrorKind::DestinationUnsuitable, message);
        let size = match most_bytes {
            Some(bytes) if exact && bytes > MAX_OBJECT_BYTES => {
                return Err(unsuitable(format!(
                    "the target has {bytes} bytes, and an object has at most {MAX_OBJECT_BYTES}"
                )));
            }
            Some(bytes) => {
                let each = bytes.min(MAX_OBJECT_BYTES).div_ceil(MAX_PARTS).next_multiple_of(MIB);
                each.max(wanted.unwrap_or(MIN_PART))
            }
            // Four parts can be uploaded at a time.
            None => wanted.unwrap_or((memory / 4 / MIB * MIB).clamp(MIN_PART, MAX_PART)),
        };
        // A target of one part is uploaded by PutObject, which has no minimum length.
        let single = most_bytes.filter(|bytes| *bytes <= size);
        let size = single.map_or(size, |bytes| bytes.max(1).next_multiple_of(MIB).min(size));
        let needed = if single.is_some() { 1 } else { 2 };
        let slots = memory / size;
        if slots < needed {
            let mib = budget_for(needed * size).div_ceil(MIB);
            return Err(unsuitable(format!(
                "{needed} parts of {size} bytes are held at least, and there are {memory} bytes of memory for them"
            ))
            .hint(format!("raise --memory to {mib}M at least, of which parts get their share")));
        }
        Ok(Self {
            part_bytes: usize::try_from(size).map_err(|_| unsuitable(format!("a part of {size} bytes")))?,
            max_parts: if single.is_some() { 1 } else { MAX_PARTS },
            slots: usize::try_from(slots)
                .map_or(Semaphore::MAX_PERMITS, |slots| slots.min(Semaphore::MAX_PERMITS)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_as_long_as_needed_and_two_of_them_fit() {
        let plan = |bytes, memory: u64| {
            let plan = PartPlan::new(bytes, false, memory * MIB, None).unwrap();
            (plan.part_bytes, plan.slots)
        };
        assert_eq!(plan(Some(8 * MIB + 1), 64), (8 << 20, 8));
        assert_eq!(plan(Some(80_000 * MIB), 64), (8 << 20, 8));
        assert_eq!(plan(Some(80_000 * MIB + 1), 64), (9 << 20, 7));
        assert_eq!(plan(Some(2 << 40), 1024), (210 << 20, 4));
        assert_eq!(plan(None, 64), (16 << 20, 4));
        assert_eq!(plan(None, 16), (8 << 20, 2));
        assert_eq!(plan(None, 9999), (64 << 20, 156));
        let refused = |bytes, exact, memory| {
            let error = PartPlan::new(bytes, exact, memory, None).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::DestinationUnsuitable);
            error
        };
        let error = refused(None, false, 16 * MIB - 1);
        assert!(error.hint_text().is_some_and(|hint| hint.contains("32M")), "{error:?}");
        refused(Some(8 * MIB + 1), true, 16 * MIB - 1);
        refused(Some(MAX_OBJECT_BYTES + 1), true, 4096 * MIB);
    }
}
