//! Sources and sinks over the embedded S3 server, whole and at its worst.

mod conformance;
mod environment;
mod faults;
mod journal;
mod liars;
mod reading;
mod stuck;
mod support;
mod upload_faults;
mod uploads;
mod urls;
mod watching;
