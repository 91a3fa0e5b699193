//! End-to-end tests of the program, in one binary. Tests that count the memory, threads or open files of their own process
//! are in `faults`.

mod documents;
mod lattice;
mod matrix;
mod named;
mod program;
mod promises;
mod resume;
mod targets;
