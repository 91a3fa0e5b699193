//! What a conversion reads.

use std::sync::Arc;

use crate::disk::{Disk, ImageStream};

/// What is read: an opened disk, or an image that comes in one pass.
pub enum Input {
    /// Random access: planned from its map.
    Disk(Arc<Disk>),
    /// One pass.
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
