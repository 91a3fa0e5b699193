//! Requests, responses and faults, as a test sees them.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// A request.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Request {
    /// Counted from 0 since the server started, in the order of arrival.
    pub number: u64,
    /// `GET`, `PUT`, …
    pub method: String,
    /// `bucket/key`, decoded.
    pub object: String,
    /// The first and last byte of the requested range.
    pub range: Option<(u64, u64)>,
    /// The `If-Match` header.
    pub if_match: Option<String>,
    /// The requested version.
    pub version_id: Option<String>,
    /// It was signed, in a header or in its query.
    pub signed: bool,
    /// The `If-None-Match` header.
    pub if_none_match: Option<String>,
    /// The id of the upload.
    pub upload_id: Option<String>,
    /// The number of the part, counted from 1.
    pub part: Option<u32>,
    /// Length of its body in bytes, from its header.
    pub body: u64,
    /// The checksum that its headers state or name, `crc32=…` or `algorithm=CRC32`.
    pub checksum: Option<String>,
}

/// A request and its response.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Exchange {
    /// The request.
    pub request: Request,
    /// The status of the response; 0 while there is none.
    pub status: u16,
    /// Bytes of the response's body that were sent so far.
    pub sent: u64,
    /// Nothing more is sent: the response is complete, was cut, or its client went away.
    pub over: bool,
    /// The connection of the request, counted from 0.
    pub connection: u64,
}

/// A fault of a response.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Fault {
    /// This status and an empty body; the store is not asked.
    Status(u16),
    /// This status and S3's error document with this code and message; the store is not asked.
    Refuse(u16, &'static str, &'static str),
    /// A redirect with status 307 to this URL; the store is not asked.
    Redirect(String),
    /// The requested range is ignored: the whole object is sent. Signatures are not checked.
    IgnoreRange,
    /// A header is set in the response.
    Header(&'static str, String),
    /// A header is removed from the response.
    Without(&'static str),
    /// The connection is closed after this number of bytes of the body.
    Truncate(u64),
    /// The connection is reset after this number of bytes of the body.
    Reset(u64),
    /// Nothing is sent after this number of bytes of the body, and the connection stays open.
    Stall(u64),
    /// The response waits this time before its first byte.
    Delay(std::time::Duration),
    /// The response is complete, and then the connection is closed without announcement.
    Hangup,
    /// The store is asked, and this body replaces the one of its response.
    Body(String),
    /// This status and body; the store is not asked.
    Respond(u16, String),
    /// One bit of this byte of the body is flipped.
    Flip(u64),
    /// Before the response, the object is replaced by this file, which is moved there.
    Replace(PathBuf),
}

/// The way in which a whole server is away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Outage {
    /// Every request is refused with status 503.
    Unavailable,
    /// Connections are accepted, and closed at once.
    Closed,
    /// Nobody listens: connections are refused.
    Refused,
    /// Connections stay open, and nothing passes. Those that were used meanwhile stay silent afterwards.
    Silent,
}

/// Chooses the faults of a request's response.
pub(super) type Rule = dyn Fn(&Request) -> Vec<Fault> + Send + Sync;
pub(super) type Log = Mutex<Vec<Exchange>>;

/// Changes the entry of a request, unless it was forgotten.
pub(super) fn note(log: &Log, number: u64, change: impl FnOnce(&mut Exchange)) {
    let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(exchange) = log.iter_mut().rev().find(|exchange| exchange.request.number == number) {
        change(exchange);
    }
}
