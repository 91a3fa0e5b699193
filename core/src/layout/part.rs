//! The parts of a disk that a layout gets.

use bytes::Bytes;

use crate::address::GuestRange;
use crate::digest::Hash;
use crate::disk::SourceStream;

/// A part of a disk.
#[derive(Clone, Debug)]
pub enum Part {
    /// Guest bytes that are zeros.
    Zero(GuestRange),
    /// Guest bytes that were scanned for zeros.
    Bytes(Scanned),
    /// A unit as the target stores it.
    Unit(Encoded),
}

/// An encoded unit that is not all zeros.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// The index of the unit: its guest address divided by the unit's size.
    pub unit: u64,
    /// How the unit is encoded.
    pub coding: Coding,
    /// The encoded bytes. A plain unit is whole, padded with zeros after the disk's end.
    pub bytes: Bytes,
}

/// How a unit is encoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Coding {
    /// Verbatim: compression would not have made it smaller.
    Plain,
    /// Encoded in this many bytes.
    Coded(usize),
}

/// A run of blocks that are all zero, or all non-zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockRun {
    /// The length in bytes: whole blocks, except for the last block of the disk.
    pub bytes: u64,
    /// True if the blocks are zeros.
    pub zero: bool,
}

/// Guest bytes that were scanned. They begin at the start of a block, and end at the end of a block or of the disk.
#[derive(Clone, Debug)]
pub struct Scanned {
    /// The range of guest bytes.
    pub guest: GuestRange,
    /// The bytes.
    pub bytes: Bytes,
    /// The result of the scan: alternating runs that add up to the length.
    pub runs: Vec<BlockRun>,
    /// The hash of each block, if hashes were requested.
    pub leaves: Vec<Hash>,
    /// The source's compressed streams for units within the range, if they were requested, in guest order.
    pub streams: Vec<(GuestRange, SourceStream)>,
}
