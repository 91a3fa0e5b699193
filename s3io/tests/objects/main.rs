//! Sources and sinks with the embedded S3 server, without and with faults.

mod conformance;
mod environment;
mod faults;
mod journal;
mod liars;
mod outages;
mod reading;
mod stores;
mod stuck;
mod support;
mod upload_faults;
mod uploads;
mod urls;
mod watching;
