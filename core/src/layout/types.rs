//! What a layout is told and asked for, and what it answers with.

use std::sync::Arc;

use bytes::Bytes;

use crate::address::{TargetOffset, TargetRange};
use crate::layout::encoder::Encoder;
use crate::layout::unit_map::UnitMap;

/// A step that a layout asks of the sink.
#[derive(Clone, Debug)]
pub enum Write {
    /// These pieces, one after the other, from this address.
    Bytes(TargetOffset, Vec<Bytes>),
    /// Zeros.
    Zero(TargetRange),
}

impl Write {
    /// The end of its last byte.
    pub(crate) fn end(&self) -> u64 {
        match self {
            Self::Bytes(at, _) => at.get().saturating_add(self.bytes()),
            Self::Zero(range) => range.end().get(),
        }
    }

    /// How many bytes it holds.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Self::Bytes(_, pieces) => pieces.iter().map(|piece| piece.len() as u64).sum(),
            Self::Zero(_) => 0,
        }
    }
}

/// Writes one after the other, each made when it is taken: tables of any size in bounded memory.
pub type Writes = Box<dyn Iterator<Item = Write> + Send>;

/// What a layout is told of the disk.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct LayoutFacts {
    /// Size in bytes of the disk as it is written, [`Layout::virtual_bytes`](crate::Layout::virtual_bytes); `None` for a raw stream, whose size shows at
    /// its end.
    pub virtual_bytes: Option<u64>,
    /// What identifiers are derived from, beside format, options and size: [`ImageInfo::fingerprint`](crate::ImageInfo::fingerprint).
    pub fingerprint: [u8; 32],
    /// The units of [`Layout::unit`](crate::Layout::unit) that the map says to hold data. Always there for a layout that
    /// [needs it](crate::Layout::needs_map); `None` if it was not walked.
    pub map: Option<UnitMap>,
}

setters!(LayoutFacts { virtual_bytes: Option<u64>, fingerprint: [u8; 32], map: Option<UnitMap> });

/// What a target takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutputSize {
    /// Length of the target in bytes, at most.
    pub bytes: u64,
    /// True if it is exactly that.
    pub exact: bool,
}

/// In which order items come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Order {
    /// As they are ready: windows are wide and follow the stored order.
    #[default]
    Any,
    /// By guest address, without gaps.
    Guest,
}

/// What a layout wants to be given.
#[derive(Clone, Debug)]
pub enum LayoutInput {
    /// [`Part::Zero`](crate::Part::Zero) and [`Part::Bytes`](crate::Part::Bytes), in that order.
    Bytes(Order),
    /// [`Part::Unit`](crate::Part::Unit) in guest order, encoded by this on the CPU workers. Units of zeros are left out.
    Units(Arc<dyn Encoder>),
}
