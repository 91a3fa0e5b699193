//! The engine, over disks, sources and sinks of the tests' own.

mod made;
mod stall;
mod stream;
mod torn;
mod verify;
mod watching;
mod whole;
