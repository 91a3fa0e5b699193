//! The input of a conversion.

use std::sync::Arc;

use crate::disk::{Disk, ImageStream};

/// The input of a conversion: an opened disk, or an image that is read in one pass.
pub enum Input {
    /// Random access: reads are planned from the block map.
    Disk(Arc<Disk>),
    /// One pass, front to back.
    Stream(Box<dyn ImageStream>),
}

impl From<Disk> for Input {
    fn from(disk: Disk) -> Self {
        Self::Disk(Arc::new(disk))
    }
}

impl From<Arc<Disk>> for Input {
    fn from(disk: Arc<Disk>) -> Self {
        Self::Disk(disk)
    }
}

impl From<Box<dyn ImageStream>> for Input {
    fn from(stream: Box<dyn ImageStream>) -> Self {
        Self::Stream(stream)
    }
}
