//! Runs of the program itself: exit codes, documents, messages, and what is left behind.

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
