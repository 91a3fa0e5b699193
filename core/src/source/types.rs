//! The facts about a source: its identity, the cost of requests, and the traffic so far.

use crate::address::StoredRange;

/// A run of stored bytes that is either known to be a hole, or may hold data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// The stored bytes.
    pub range: StoredRange,
    /// True if the bytes are zeros that need not be read.
    pub hole: bool,
}

/// The identity of an object, which shows whether it changed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Identity {
    /// The entity tag of a stored object, as the server gave it (with its quotes).
    pub etag: Option<String>,
    /// The version of a stored object.
    pub version_id: Option<String>,
    /// Device, inode and modification time in nanoseconds of a local file.
    pub file: Option<(u64, u64, i128)>,
}

setters!(Identity { etag: Option<String>, version_id: Option<String>, file: Option<(u64, u64, i128)> });

/// The cost of requests to a source, for the planner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Capabilities {
    /// The best length of one request, in bytes: long enough that its fixed cost does not matter.
    pub request_bytes: u64,
    /// A gap of at most this many bytes between two needed ranges is read through, which is cheaper than another
    /// request.
    pub gap_bytes: u64,
    /// The recommended number of requests in flight.
    pub in_flight: usize,
    /// True if a request crosses a network.
    pub remote: bool,
}

impl Default for Capabilities {
    fn default() -> Self {
        Self { request_bytes: 1 << 20, gap_bytes: 0, in_flight: 4, remote: false }
    }
}

setters!(Capabilities { request_bytes: u64, gap_bytes: u64, in_flight: usize, remote: bool });

/// The traffic of a source so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Traffic {
    /// Requests made, including those that failed and were retried.
    pub requests: u64,
    /// Bytes of content received, including those of incomplete responses.
    pub bytes: u64,
    /// Requests that were retries.
    pub retries: u64,
}

setters!(Traffic { requests: u64, bytes: u64, retries: u64 });

impl std::ops::Add for Traffic {
    type Output = Self;

    /// Adds up statistics. A counter that a source reports wrongly stays at the largest value.
    fn add(self, other: Self) -> Self {
        Self {
            requests: self.requests.saturating_add(other.requests),
            bytes: self.bytes.saturating_add(other.bytes),
            retries: self.retries.saturating_add(other.retries),
        }
    }
}
