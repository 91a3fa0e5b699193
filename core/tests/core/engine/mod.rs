//! The engine, tested with generated disks, sources and sinks.

mod made;
mod stall;
mod stream;
mod torn;
mod verify;
mod watching;
mod whole;
