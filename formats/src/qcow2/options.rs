//! The options of QCOW2 targets.

use std::str::FromStr;

use diskferry_core::{Error, ErrorKind, Result};

use super::grid::Grid;
use super::header::Compression;
use crate::format::Format;
use crate::option_text::{OptionText, wrong};

/// The text of `-o help`.
pub(crate) const HELP: &str = "\
qcow2
  cluster_size=SIZE            size of a cluster, 512 to 2M, a power of two (default: 64K)
  compression=none|zlib|zstd   how clusters are compressed (default: none)
  level=N                      how hard: zlib 1 to 9 (default: 6), zstd 1 to 19 (default: 3)
  recompress=on|off            compress anew what the source has compressed in the same way (default: off)
";

/// Clusters of 64 KiB, qemu-img's default.
const CLUSTER_BYTES: u64 = 64 << 10;
/// zlib's own default, and qemu-img's. Executables become 1 to 2 % longer than qemu-img's output. Level 9 makes them
/// shorter than that, in twice the time.
const ZLIB_LEVEL: u32 = 6;
/// zstd's own default, and qemu-img's.
const ZSTD_LEVEL: u32 = 3;

/// How the clusters of a QCOW2 target are compressed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum Qcow2Compression {
    /// Not at all.
    #[default]
    None,
    /// Deflate, which every reader of QCOW2 supports.
    Zlib,
    /// zstd, which QEMU supports since 5.1.
    Zstd,
}

/// The options of a QCOW2 target.
///
/// ```
/// use diskferry_formats::{Qcow2Compression, Qcow2Options};
///
/// let options = Qcow2Options::default().compression(Qcow2Compression::Zstd).level(Some(9));
/// assert_eq!("compression=zstd,level=9".parse::<Qcow2Options>()?, options);
///
/// let error = "compression=lzo".parse::<Qcow2Options>().unwrap_err();
/// assert_eq!(error.message(), "the option compression cannot be \"lzo\": it is one of none, zlib, zstd");
/// # Ok::<(), diskferry_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Qcow2Options {
    /// `cluster_size`: bytes of a cluster, a power of two from 512 to 2 MiB. The default is 64 KiB.
    pub cluster_size: u64,
    /// `compression`: how clusters are compressed.
    pub compression: Qcow2Compression,
    /// `level`: 1 to 9 for zlib (the default is 6), 1 to 19 for zstd (the default is 3). Only for compressed targets.
    pub level: Option<u32>,
    /// `recompress`: true to recompress clusters that the source stores with the same compression. By default their
    /// streams are copied. Only for compressed targets.
    pub recompress: Option<bool>,
}

setters!(Qcow2Options {
    cluster_size: u64,
    compression: Qcow2Compression,
    level: Option<u32>,
    recompress: Option<bool>,
});

impl Default for Qcow2Options {
    fn default() -> Self {
        Self {
            cluster_size: CLUSTER_BYTES,
            compression: Qcow2Compression::None,
            level: None,
            recompress: None,
        }
    }
}

/// A compression with its level.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct CompressionLevel {
    pub(super) compression: Compression,
    pub(super) level: u32,
    /// True to store the streams of the source unchanged.
    pub(super) passthrough: bool,
}

impl Qcow2Options {
    pub(crate) fn parse(mut text: OptionText) -> Result<Self> {
        let words = [
            ("none", Qcow2Compression::None),
            ("zlib", Qcow2Compression::Zlib),
            ("zstd", Qcow2Compression::Zstd),
        ];
        let options = Self {
            cluster_size: text.size("cluster_size")?.unwrap_or(CLUSTER_BYTES),
            compression: text.choice("compression", &words)?.unwrap_or_default(),
            level: text.number("level")?,
            recompress: text.switch("recompress")?,
        };
        text.finish()?;
        options.grid()?;
        options.compression_level()?;
        Ok(options)
    }

    /// The sizes of clusters and tables.
    ///
    /// # Errors
    /// `usage` if there is no such cluster size.
    pub(super) fn grid(&self) -> Result<Grid> {
        let bytes = self.cluster_size;
        let grid = Grid::new(bytes.checked_ilog2().unwrap_or_default(), false);
        if grid.cluster_bytes() == bytes {
            Ok(grid)
        } else {
            let why = "it is a power of two from 512 to 2M";
            Err(wrong("cluster_size", format_args!("{bytes} bytes"), why))
        }
    }

    /// How clusters are compressed; `None` if they are not.
    ///
    /// # Errors
    /// `usage` for a level that the compression does not have, and for options of a compressed target if the target is
    /// not compressed.
    pub(super) fn compression_level(&self) -> Result<Option<CompressionLevel>> {
        let (compression, levels, default) = match self.compression {
            Qcow2Compression::None if self.level.is_some() || self.recompress.is_some() => {
                return Err(Error::new(
                    ErrorKind::Usage,
                    "the options level and recompress are for a target that is compressed",
                )
                .hint("add -o compression=zlib or -o compression=zstd"));
            }
            Qcow2Compression::None => return Ok(None),
            Qcow2Compression::Zlib => (Compression::Zlib, 1..=9, ZLIB_LEVEL),
            Qcow2Compression::Zstd => (Compression::Zstd, 1..=19, ZSTD_LEVEL),
        };
        let level = self.level.unwrap_or(default);
        if !levels.contains(&level) {
            let why = format!("it is a number from {} to {}", levels.start(), levels.end());
            return Err(wrong("level", level, &why));
        }
        let passthrough = self.recompress != Some(true);
        Ok(Some(CompressionLevel { compression, level, passthrough }))
    }
}

impl FromStr for Qcow2Options {
    type Err = Error;

    /// Parses `key=value,key=value`.
    ///
    /// # Errors
    /// `usage`, with the option and its allowed values.
    fn from_str(text: &str) -> Result<Self> {
        Self::parse(OptionText::split(Format::Qcow2, text)?)
    }
}
