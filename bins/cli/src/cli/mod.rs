//! The commands, one per file.

pub(crate) mod compare;
pub(crate) mod convert;
#[cfg(feature = "demo")]
pub(crate) mod demo;
pub(crate) mod digest;
pub(crate) mod info;
pub(crate) mod map;
pub(crate) mod measure;
