//! Code that the fuzz targets share.
//!
//! A target builds an image or similar from its input, and diskferry reads it: from a source that detects every read
//! after its end ([`source`]), under a budget, and with the contracts of block maps checked ([`read`]). Checksums
//! that would reject most mutations are fixed ([`repair`]).
//!
//! Every target starts from seeds that it creates itself: see [`seeds`].

pub mod made;
pub mod read;
pub mod repair;
pub mod seeds;
pub mod source;
