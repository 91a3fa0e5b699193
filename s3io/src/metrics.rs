//! Metrics of requests, by the [`metrics`](https://docs.rs/metrics) facade. Those of conversions are in `diskferry_core::metrics`.
//!
//! | name | kind | content |
//! |---|---|---|
//! | [`FIRST_BYTE`] | histogram | seconds from a GET to its response |
//! | [`PART`] | histogram | seconds from the start of a part's upload to its response |
//! | [`AGAIN`] | counter | requests that are retried; `of` is `source` or `destination` |
//! | [`SECOND`] | counter | second requests for a range that was stuck |
//! | [`SLOWDOWN`] | counter | reductions of the number of requests in flight because a service throttled them |

use diskferry_core::ErrorKind;
use metrics::{counter, histogram};

/// `diskferry_s3_first_byte_seconds`
pub const FIRST_BYTE: &str = "diskferry_s3_first_byte_seconds";
/// `diskferry_s3_part_seconds`
pub const PART: &str = "diskferry_s3_part_seconds";
/// `diskferry_s3_requests_again_total`
pub const AGAIN: &str = "diskferry_s3_requests_again_total";
/// `diskferry_s3_second_requests_total`
pub const SECOND: &str = "diskferry_s3_second_requests_total";
/// `diskferry_s3_slowdowns_total`
pub const SLOWDOWN: &str = "diskferry_s3_slowdowns_total";

pub(crate) fn first_byte(after: std::time::Duration) {
    histogram!(FIRST_BYTE).record(after);
}

#[cfg(feature = "s3")]
pub(crate) fn part(took: std::time::Duration) {
    histogram!(PART).record(took);
}

/// `kind` is the kind of the error after the last try.
pub(crate) fn again(kind: ErrorKind) {
    let of = if kind == ErrorKind::SourceUnavailable { "source" } else { "destination" };
    counter!(AGAIN, "of" => of).increment(1);
}

pub(crate) fn second() {
    counter!(SECOND).increment(1);
}

pub(crate) fn slowdown() {
    counter!(SLOWDOWN).increment(1);
}
