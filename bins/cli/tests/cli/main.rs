//! The program, run as a whole: one binary for all tests that may share a process. Those that count what their own process
//! holds (memory, threads, open files) are in `faults`.

mod documents;
mod lattice;
mod matrix;
mod named;
mod program;
mod promises;
mod resume;
mod targets;
