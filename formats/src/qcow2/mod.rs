//! x
use crate::{Opening, detect::Recognised};
use diskferry_core::{
    disk::Disk,
    error::{Error, Result},
    source::wrap::HeadTail,
};

/// Whether the object is one.
pub(crate) fn recognise(_file: &HeadTail) -> Recognised {
    Recognised::No
}

/// Opens it.
pub(crate) async fn open(_opening: Opening) -> Result<Disk> {
    Err(Error::internal("not built yet"))
}
