//! Every kind of target at every kind of place: right, judged by readers that are not ours, and the same every time.

mod carried;
mod every;
mod memory;
mod pipes;
mod same;
mod stores;
mod support;
