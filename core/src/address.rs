//! Addresses that cannot be confused.
//!
//! A disk image has three address spaces: the disk that the guest sees, the stored object that the bytes
//! come from, and the target object that they go to. Mixing them up is the classic bug of this field, so each
//! has its own type and no signature takes two bare `u64` addresses.

use std::fmt;
use std::marker::PhantomData;

/// The address space of the disk that the guest sees.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum GuestSpace {}

/// The address space of one stored object: a file, an S3 object, a URL.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum StoredSpace {}

/// The address space of the target that is written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum TargetSpace {}

/// A byte address in the space `S`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset<S>(u64, PhantomData<S>);

/// A byte address on the guest's disk.
pub type GuestOffset = Offset<GuestSpace>;
/// A byte address in a stored object.
pub type StoredOffset = Offset<StoredSpace>;
/// A byte address in a target.
pub type TargetOffset = Offset<TargetSpace>;

impl<S> Offset<S> {
    /// The first byte of the space.
    pub const ZERO: Self = Self(0, PhantomData);

    /// The address `bytes` from the start of the space.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes, PhantomData)
    }

    /// The distance from the start of the space, in bytes.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The address `bytes` further on, or `None` past the end of the 64-bit space.
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(sum) => Some(Self(sum, PhantomData)),
            None => None,
        }
    }

    /// The distance from `start` to this address, or `None` if `start` is after it.
    pub const fn checked_sub(self, start: Self) -> Option<u64> {
        self.0.checked_sub(start.0)
    }

    /// True if the address is a multiple of `unit`; every address is a multiple of 0 only at 0.
    pub const fn is_aligned(self, unit: u64) -> bool {
        self.0.is_multiple_of(unit)
    }
}

impl<S> fmt::Debug for Offset<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl<S> fmt::Display for Offset<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A run of bytes in the space `S`. Its end fits the 64-bit space: that is checked when it is made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span<S> {
    start: Offset<S>,
    len: u64,
}

/// A run of bytes of the guest's disk.
pub type GuestRange = Span<GuestSpace>;
/// A run of bytes of a stored object.
pub type StoredRange = Span<StoredSpace>;
/// A run of bytes of a target.
pub type TargetRange = Span<TargetSpace>;

impl<S: Copy + Ord> Span<S> {
    /// `len` bytes from `start` on, or `None` if the end would not fit the 64-bit space.
    pub const fn new(start: Offset<S>, len: u64) -> Option<Self> {
        match start.0.checked_add(len) {
            Some(_) => Some(Self { start, len }),
            None => None,
        }
    }

    /// The bytes from `start` up to, but not including, `end`. Empty if `end` is not after `start`.
    pub const fn between(start: Offset<S>, end: Offset<S>) -> Self {
        // Saturates to the documented empty range.
        Self { start, len: end.0.saturating_sub(start.0) }
    }

    /// The first `len` bytes of the space.
    pub const fn first(len: u64) -> Self {
        Self { start: Offset::ZERO, len }
    }

    /// Address of the first byte.
    pub const fn start(self) -> Offset<S> {
        self.start
    }

    /// Address after the last byte.
    pub const fn end(self) -> Offset<S> {
        // Cannot wrap: `new` checked it, and the other constructors derive the length from an end.
        Offset(self.start.0.wrapping_add(self.len), PhantomData)
    }

    /// Number of bytes.
    pub const fn len(self) -> u64 {
        self.len
    }

    /// True if the range has no bytes.
    pub const fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The distance from the start to `at`, or `None` if `at` is outside the range. The end of the range counts as
    /// inside.
    pub const fn offset_of(self, at: Offset<S>) -> Option<u64> {
        match at.checked_sub(self.start) {
            Some(offset) if offset <= self.len => Some(offset),
            _ => None,
        }
    }

    /// True if every byte of `other` is in this range. An empty `other` is in it if its address is, the end included.
    pub fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end() <= self.end()
    }

    /// The bytes in both, or `None` if there are none.
    pub fn intersection(self, other: Self) -> Option<Self> {
        let start = self.start.max(other.start);
        let end = self.end().min(other.end());
        (start < end).then(|| Self::between(start, end))
    }

    /// The first `len` bytes and the rest. If `len` is beyond the end, the rest is empty.
    pub fn split_at(self, len: u64) -> (Self, Self) {
        let len = len.min(self.len);
        let middle = Offset(self.start.0.wrapping_add(len), PhantomData);
        (Self { start: self.start, len }, Self::between(middle, self.end()))
    }

    /// The bytes after the first `skip`. Empty, at the end of the range, if `skip` is beyond the end.
    pub fn skip(self, skip: u64) -> Self {
        self.split_at(skip).1
    }
}

impl<S: Copy + Ord> fmt::Debug for Span<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..{:#x}", self.start.0, self.end().0)
    }
}

impl<S: Copy + Ord> fmt::Display for Span<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start.0, self.end().0)
    }
}

/// Index of one of the stored objects of an image. It is 0 except in images that consist of several files.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct FileIndex(pub u32);

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, len: u64) -> GuestRange {
        GuestRange::new(GuestOffset::new(start), len).unwrap()
    }

    #[test]
    fn a_range_past_the_end_of_the_space_is_none() {
        assert_eq!(GuestRange::new(GuestOffset::new(u64::MAX), 2), None);
        assert!(GuestRange::new(GuestOffset::new(u64::MAX), 0).is_some());
    }

    #[test]
    fn a_distance_outside_the_range_is_none() {
        let at = GuestOffset::new;
        assert_eq!((at(7).checked_sub(at(5)), at(5).checked_sub(at(7))), (Some(2), None));
        let offsets = [9, 10, 15, 20, 21].map(|offset| range(10, 10).offset_of(at(offset)));
        assert_eq!(offsets, [None, Some(0), Some(5), Some(10), None]);
    }

    #[test]
    fn intersection_and_split_return_the_named_bytes() {
        assert_eq!(range(10, 10).intersection(range(15, 10)), Some(range(15, 5)));
        assert_eq!(range(10, 10).intersection(range(20, 10)), None);
        assert_eq!(range(10, 10).split_at(4), (range(10, 4), range(14, 6)));
        assert_eq!(range(10, 10).split_at(40), (range(10, 10), range(20, 0)));
        assert!(range(10, 10).contains(range(10, 10)));
        assert!(!range(10, 10).contains(range(15, 6)));
    }
}
