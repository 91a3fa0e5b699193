//! Code that the fuzz targets share.
//!
//! A target interprets its input as an image, a table or a stream, and reads it with diskferry. The source panics on a read
//! past its end ([`source`]). Reads have a budget, and the contracts of block maps are checked ([`read`]). Checksums are
//! recomputed, because a wrong checksum would stop most mutations ([`repair`]).
//!
//! Every target generates its own seeds: see [`seeds`].

pub mod made;
pub mod read;
pub mod repair;
pub mod seeds;
pub mod source;
