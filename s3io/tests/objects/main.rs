//! Sources over the embedded S3 server, whole and at its worst.

mod conformance;
mod environment;
mod faults;
mod liars;
mod reading;
mod support;
mod urls;
