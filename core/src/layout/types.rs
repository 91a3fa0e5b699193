//! The inputs and outputs of a layout.

use std::sync::Arc;

use bytes::Bytes;

use crate::address::{TargetOffset, TargetRange};
use crate::error::{Error, Result};
use crate::layout::encoder::Encoder;
use crate::layout::unit_map::UnitMap;

/// A step that the sink performs for a layout.
#[derive(Clone, Debug)]
pub enum Write {
    /// Writes these pieces, one after the other, from this address on.
    Bytes(TargetOffset, Vec<Bytes>),
    /// Writes zeros.
    Zero(TargetRange),
}

impl Write {
    /// The address after its last byte.
    ///
    /// # Errors
    /// `internal` if it is after the last address of the target.
    pub(crate) fn end(&self) -> Result<u64> {
        match self {
            Self::Bytes(at, _) => {
                let end = at.checked_add(self.bytes()).map(TargetOffset::get);
                end.ok_or_else(|| {
                    Error::internal(format!("a layout writes beyond the last address, at {at}"))
                })
            }
            Self::Zero(range) => Ok(range.end().get()),
        }
    }

    /// The number of bytes of the step.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Self::Bytes(_, pieces) => pieces.iter().map(|piece| piece.len() as u64).sum(),
            Self::Zero(_) => 0,
        }
    }
}

/// A sequence of writes, each created when it is taken. Tables of any size need only bounded memory.
pub type Writes = Box<dyn Iterator<Item = Write> + Send>;

/// The facts about a disk that a layout gets.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct LayoutFacts {
    /// Size in bytes of the written disk, [`Layout::virtual_bytes`](crate::Layout::virtual_bytes). `None` for a
    /// raw stream, whose size is known only at its end.
    pub virtual_bytes: Option<u64>,
    /// Identifiers are derived from it, and from format, options and size:
    /// [`ImageInfo::fingerprint`](crate::ImageInfo::fingerprint).
    pub fingerprint: [u8; 32],
    /// The units of [`Layout::unit`](crate::Layout::unit) that hold data according to the map. Always set for a
    /// layout that [needs it](crate::Layout::needs_map); `None` if the map was not walked.
    pub map: Option<UnitMap>,
}

setters!(LayoutFacts { virtual_bytes: Option<u64>, fingerprint: [u8; 32], map: Option<UnitMap> });

/// The size of a target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutputSize {
    /// Upper bound of the target's length in bytes.
    pub bytes: u64,
    /// True if `bytes` is the exact length.
    pub exact: bool,
}

/// The order of items.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Order {
    /// In any order, as they are ready: windows are large and follow the stored order.
    #[default]
    Any,
    /// By guest address, without gaps.
    Guest,
}

/// The form in which a layout takes a disk.
#[derive(Clone, Debug)]
pub enum LayoutInput {
    /// [`Part::Zero`](crate::Part::Zero) and [`Part::Bytes`](crate::Part::Bytes), in this order.
    Bytes(Order),
    /// [`Part::Unit`](crate::Part::Unit) in guest order, encoded by this encoder on the CPU workers. Zero units are
    /// left out.
    Units(Arc<dyn Encoder>),
}
