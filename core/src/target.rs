//! What is written: a layout that knows a format, over a sink that knows a place.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::address::{GuestRange, TargetOffset, TargetRange};
use crate::disk::Disk;
use crate::error::{Result, Warning};
use crate::extent::{Compression, SourceStream};
use crate::scan::Scanned;
use crate::sink::Sink;
use crate::source::wrap::HeadTail;
use crate::source::{BoxFuture, Source};
use crate::transfer::Order;
use crate::units::UnitMap;

/// A step that a layout asks of the sink.
#[derive(Clone, Debug)]
pub enum Write {
    /// These pieces, one behind the other, from there on.
    Bytes(TargetOffset, Vec<Bytes>),
    /// Zeros.
    Zero(TargetRange),
}

impl Write {
    /// Behind its last byte.
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

/// Writes one after the other, made as they are taken: tables of any size in bounded memory.
pub type Writes = Box<dyn Iterator<Item = Write> + Send>;

/// What a layout is told of the disk.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Size in bytes of the disk as it is written, [`Layout::virtual_bytes`]; `None` for a raw stream, whose size shows at
    /// its end.
    pub virtual_bytes: Option<u64>,
    /// What identifiers are derived from, beside format, options and size: [`crate::disk::Geometry::fingerprint`].
    pub fingerprint: [u8; 32],
    /// The units of [`Layout::unit`] that the map says to hold data. Always there for a layout that
    /// [needs it](Layout::needs_map); `None` where it was not walked.
    pub map: Option<UnitMap>,
}

/// What a target takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Output {
    /// Length of the target in bytes, at most.
    pub bytes: u64,
    /// True where it is exactly that.
    pub exact: bool,
}

/// What a layout wants to be given.
#[derive(Clone, Debug)]
pub enum Takes {
    /// [`Part::Zero`] and [`Part::Bytes`], in that order.
    Bytes(Order),
    /// [`Part::Unit`] in guest order, encoded by this on the CPU workers. Units of zeros are left out.
    Units(Arc<dyn Encoder>),
}

/// What a layout is given.
#[derive(Clone, Debug)]
pub enum Part {
    /// Guest bytes that are zeros.
    Zero(GuestRange),
    /// Guest bytes, scanned for zeros.
    Bytes(Scanned),
    /// A unit as the target stores it.
    Unit(Encoded),
}

/// A unit that holds other than zeros, encoded.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// Which one: its guest address divided by the unit's size.
    pub unit: u64,
    /// How its bytes carry it.
    pub coding: Coding,
    /// Its bytes. A plain unit is whole, with zeros behind the disk's end.
    pub bytes: Bytes,
}

/// How the bytes of a unit carry it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Coding {
    /// As they are: it would not have become smaller.
    Plain,
    /// As the encoder made them; so many bytes.
    Coded(usize),
}

/// Turns a unit of guest bytes into what a target stores. Pure, and used from many threads at once.
pub trait Encoder: Send + Sync + fmt::Debug {
    /// Size of a unit in bytes, at most [`crate::extent::MAX_UNIT_BYTES`].
    fn unit_bytes(&self) -> u64;

    /// The most bytes that a unit becomes.
    fn most_bytes(&self) -> usize;

    /// Encodes `guest`, a whole unit (the disk's end filled up with zeros), into the beginning of `out`, which is
    /// [`most_bytes`](Self::most_bytes) long and holds anything.
    ///
    /// # Errors
    /// `internal`: a unit can always be encoded.
    fn encode(&self, unit: u64, guest: &[u8], out: &mut [u8]) -> Result<Coding>;

    /// The kind of compressed stream that [`carry`](Self::carry) takes from a source which compresses the same unit;
    /// `None` where every unit is to be compressed anew.
    fn carries(&self) -> Option<Compression>;

    /// As [`encode`](Self::encode), with the stream that the source had for the unit: it decodes to `guest`, which was seen,
    /// and is exactly as long as it needs to be. `None` where it does not suit.
    ///
    /// # Errors
    /// See [`encode`](Self::encode).
    fn carry(&self, unit: u64, guest: &[u8], stream: &SourceStream, out: &mut [u8])
    -> Result<Option<Coding>>;
}

/// Places a disk in a target: the writer of one format.
///
/// It is told of every guest byte once, and answers with what is to be written; it never waits. Every byte of the target,
/// from 0 to its length, is in exactly one [`Write`]; gaps are zeroed, never just left. In which order they come depends on
/// the sink that it is made for, see [`crate::sink::WriteOrder`]:
///
/// * [packed](Self::needs_map), units are appended in guest order as they come, what turns out to be zeros is left out,
///   and what must stand in front of them is written last;
/// * placed, for a sink that is strictly sequential, all positions follow from the map, and all is written front to back.
pub trait Layout: Send + Sync {
    /// Name of the format as the command line spells it.
    fn format(&self) -> &'static str;

    /// Which kind of it.
    fn variant(&self) -> String;

    /// The options on which its bytes depend, as text that differs where they do: a run that was interrupted is gone on with
    /// only where it is the same.
    fn options(&self) -> String;

    /// What it is to be given.
    fn takes(&self) -> Takes;

    /// Size of the unit that it allocates, in bytes, where it has one.
    fn unit(&self) -> Option<u64>;

    /// Whether [`begin`](Self::begin) needs [`Facts::map`].
    fn needs_map(&self) -> bool;

    /// Size in bytes that a disk of `source_bytes` is written with: the same, or larger where that was asked for.
    ///
    /// # Errors
    /// `destination_unsuitable` where the format cannot keep it exactly, or not at all.
    fn virtual_bytes(&self, source_bytes: u64) -> Result<u64>;

    /// What the target takes, where the size of the disk is known. Without a map every unit counts.
    ///
    /// # Errors
    /// `destination_unsuitable` where the format cannot hold it.
    fn output(&self, facts: &Facts) -> Result<Option<Output>>;

    /// The beginning, called once before anything is placed.
    ///
    /// # Errors
    /// `destination_unsuitable` where the format cannot hold the disk.
    fn begin(&mut self, facts: &Facts) -> Result<Writes>;

    /// Takes a part of the disk.
    ///
    /// # Errors
    /// `destination_unsuitable` where the format cannot hold it.
    fn place(&mut self, part: Part) -> Result<Vec<Write>>;

    /// What it gathers, to be written now: of all that was placed, nothing is left but what it can tell from how many bytes
    /// there were.
    fn flush(&mut self) -> Vec<Write>;

    /// The end of the disk, `virtual_bytes` as it is written: what remains to be written, and the length of the target in
    /// bytes.
    ///
    /// # Errors
    /// `destination_unsuitable` where the format cannot hold a disk of that size.
    fn finish(&mut self, virtual_bytes: u64) -> Result<(Writes, u64)>;

    /// Looks at the target as it was written, before it is published: it must be of this format and of no other,
    /// whatever the guest has on its disk.
    ///
    /// # Errors
    /// `destination_unsuitable` where others would take it for another format.
    fn recognise(&self, target: &HeadTail) -> Result<Vec<Warning>>;

    /// Opens the target with the reader of its format.
    fn open(&self, target: Arc<dyn Source>) -> BoxFuture<'static, Result<Disk>>;
}

/// A layout and the sink that it is written to.
pub struct Target {
    /// The format.
    pub layout: Box<dyn Layout>,
    /// The place.
    pub sink: Box<dyn Sink>,
}
