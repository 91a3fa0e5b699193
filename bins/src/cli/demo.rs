//! `demo`.

use diskferry_core::error::{Error, Result};

use crate::context::Context;
use crate::exit::Answer;

pub(crate) async fn run(_ctx: &Context) -> Result<Answer> {
    Err(Error::unsupported("the demo is not built yet"))
}
