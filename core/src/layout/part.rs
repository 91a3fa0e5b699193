//! The parts of a disk as a layout is given them.

use bytes::Bytes;

use crate::address::GuestRange;
use crate::digest::Hash;
use crate::disk::SourceStream;

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
    /// Its bytes. A plain unit is whole, with zeros after the disk's end.
    pub bytes: Bytes,
}

/// How the bytes of a unit carry it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Coding {
    /// Verbatim: compressing would not have made it smaller.
    Plain,
    /// As the encoder made them, in this many bytes.
    Coded(usize),
}

/// A run of blocks that are all zero, or all not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockRun {
    /// How many bytes: whole blocks, but for the last one of the disk.
    pub bytes: u64,
    /// True if they are zeros.
    pub zero: bool,
}

/// Guest bytes that were scanned. They begin at a block's start, and end at a block's end or at the disk's.
#[derive(Clone, Debug)]
pub struct Scanned {
    /// Which guest bytes.
    pub guest: GuestRange,
    /// The bytes.
    pub bytes: Bytes,
    /// What the scan found: runs that alternate and add up to the length.
    pub runs: Vec<BlockRun>,
    /// The hash of each block, if hashes were asked for.
    pub leaves: Vec<Hash>,
    /// Compressed streams that the source had for units within, if they were asked for, in guest order.
    pub streams: Vec<(GuestRange, SourceStream)>,
}
