//! Runs of the program: exit codes, JSON documents, messages and leftover files.

mod convert;
mod device;
mod errors;
mod input;
mod interrupt;
mod networks;
mod remote;
mod results;
mod support;
mod targets;
