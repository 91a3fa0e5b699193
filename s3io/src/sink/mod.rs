//! Objects as targets: multipart uploads that are published when they are complete.
//!
//! ```text
//! write, zero ──▶ parts (memory) ──▶ upload task ──▶ UploadPart, concurrently
//! finish ────────────────────────────▶   │       ──▶ CompleteMultipartUpload, If-None-Match: *
//! abort, drop ───────────────────────▶   │       ──▶ AbortMultipartUpload
//!                                        └─ journal ──▶ KEY.diskferry-journal
//! ```

mod failed_request;
mod journal;
mod journal_writer;
mod part_plan;
mod parts;
mod publish;
mod s3_sink;
mod shared_upload;
mod target;
mod upload_task;

pub use s3_sink::{S3Sink, S3SinkOptions};
