//! Whole conversions while something fails: the right bytes or the right error, and nothing half-made.

mod crowd;
mod damaged;
mod dropped;
mod network;
mod outages;
mod places;
mod replaced;
mod support;
