//! `digest`: prints the content digest of the guest disk.

use diskferry::json::Digested;
use diskferry_core::internal::printable;
use diskferry_core::{Conversion, Error, ImageLimit, Limits, Result};

use crate::args::OneSource;
use crate::context::Context;
use crate::exit::Answer;
use crate::progress::Afterwards;
use crate::source::Opener;
use crate::{output, progress};

pub(crate) async fn run(ctx: &Context, args: &OneSource) -> Result<Answer> {
    let disk = Opener::new(ctx, &args.source).disk(&args.src, args.source.from).await?;
    let name = disk.files().first().map(|file| file.url().to_owned()).unwrap_or_default();
    let reading = Conversion::reading(disk)
        .limits(Limits::default().image(ImageLimit::None))
        .resources(ctx.resources()?)
        .stall_timeout(Some(ctx.common.stall_timeout))
        .cancel(ctx.cancel.clone());
    let report =
        progress::shown(&ctx.common, &name, Afterwards::Gone, |sender| reading.on_progress(sender).run())
            .await?;
    ctx.warn(&report.warnings);
    let document = Digested::new(&report).ok_or_else(|| Error::internal("the report has no digest"))?;
    if ctx.common.json {
        output::print_json(&document).await?;
    } else {
        output::print(&format!("sha256:{} {}\n", document.digest.hex, printable(&name))).await?;
    }
    Ok(Answer::Yes)
}
