//! What the fuzz targets share.
//!
//! A target takes bytes, makes an image or the like of them, and has diskferry read it: from a source that notices
//! every read behind its end ([`source`]), under a budget, with the promises of block maps checked on the way
//! ([`read`]). Sums that would stop most mutations at the door are put right ([`repair`]).
//!
//! Every target begins from seeds that it makes itself: see [`seeds`].

pub mod made;
pub mod read;
pub mod repair;
pub mod seeds;
pub mod source;
