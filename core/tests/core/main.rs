//! Integration tests of the crate, in one binary so that they link once.

mod device_sink;
mod engine;
mod file_sink;
mod file_source;
mod import_graph;
mod no_runtime;
mod sink_conformance;
mod source_conformance;
mod standard_input;
mod stdout_sink;
