//! Every kind of target at every kind of destination: correct according to independent readers, and deterministic.

mod carried;
mod every;
mod memory;
mod pipes;
mod same;
mod stores;
mod support;
