//! Opening a source by its URL.

use std::sync::Arc;

use diskferry_core::{Result, Source, Warning};

use super::http_source::HttpSource;
#[cfg(feature = "s3")]
use super::s3_source::S3Source;
use crate::connection::{Client, Location};

/// A source that was opened by its URL, and the warnings about it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Opened {
    /// The source.
    pub source: Arc<dyn Source>,
    /// `region_unknown`, `source_expires_soon`, `source_unpinned`.
    pub warnings: Vec<Warning>,
}

/// Opens `s3://` and `http(s)://` URLs.
///
/// # Errors
/// As [`HttpSource::open`] and `S3Source::open`; `usage` for an `s3://` URL if the feature `s3` is off.
pub async fn open_source(client: &Client, url: &str) -> Result<Opened> {
    match Location::parse(url)? {
        #[cfg(feature = "s3")]
        Location::S3(_) => {
            let source = S3Source::open(client, url).await?;
            let warnings = source.warnings().to_vec();
            Ok(Opened { source: Arc::new(source), warnings })
        }
        #[cfg(not(feature = "s3"))]
        Location::S3(_) => Err(diskferry_core::Error::new(
            diskferry_core::ErrorKind::Usage,
            "this program was built without support for s3:// URLs",
        )
        .hint("use a presigned https:// URL")),
        Location::Http(_) => {
            let source = HttpSource::open(client, url).await?;
            let warnings = source.warnings().to_vec();
            Ok(Opened { source: Arc::new(source), warnings })
        }
    }
}
