//! Whether an object looks like a raw disk.

use super::gpt::has_primary;
use super::mbr::Record;
use super::signature;

/// True if the first bytes of an object look like those of a disk: they have the boot signature, a GPT header, or a
/// file system at its usual offset. 128 KiB are enough; fewer show less.
pub fn looks_like_disk(head: &[u8]) -> bool {
    Record::parse(head).is_some() || has_primary(head) || signature::probe(head).is_some()
}
