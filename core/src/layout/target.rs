//! A layout and its sink.

use crate::layout::layout::Layout;
use crate::sink::Sink;

/// A layout and the sink that it is written to.
pub struct Target {
    /// The format.
    pub layout: Box<dyn Layout>,
    /// The destination.
    pub sink: Box<dyn Sink>,
}
