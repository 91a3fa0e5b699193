//! What is written: a layout that knows a format, over a sink that knows a place.

use crate::address::{TargetOffset, TargetRange};
use crate::error::Result;
use crate::sink::Sink;
use crate::transfer::{Item, Order};

use bytes::Bytes;

/// A step that a layout asks of the sink.
#[derive(Clone, Debug)]
pub enum Write {
    /// These pieces, one behind the other, from there on.
    Bytes(TargetOffset, Vec<Bytes>),
    /// Zeros.
    Zero(TargetRange),
}

impl Write {
    /// How many bytes it holds.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Self::Bytes(_, pieces) => pieces.iter().map(|piece| piece.len() as u64).sum(),
            Self::Zero(_) => 0,
        }
    }
}

/// Places guest bytes in a target: the writer of one format.
///
/// It is told of every guest byte once, in the order it asks for, and answers with what is to be written. It never
/// waits: writing is the caller's.
pub trait Layout: Send {
    /// Name of the format as the command line spells it.
    fn format(&self) -> &'static str;

    /// Which kind of it.
    fn variant(&self) -> String;

    /// The order in which it takes guest bytes.
    fn order(&self) -> Order;

    /// Takes a run of guest bytes.
    ///
    /// # Errors
    /// `destination_unsuitable` where the format cannot hold it.
    fn place(&mut self, item: Item) -> Result<Vec<Write>>;

    /// The end of the disk: what remains to be written, and the length of the target in bytes.
    ///
    /// # Errors
    /// `destination_unsuitable` where the format cannot hold a disk of that size.
    fn finish(&mut self, virtual_bytes: u64) -> Result<(Vec<Write>, u64)>;
}

/// A layout and the sink that it is written to.
pub struct Target {
    /// The format.
    pub layout: Box<dyn Layout>,
    /// The place.
    pub sink: Box<dyn Sink>,
}
