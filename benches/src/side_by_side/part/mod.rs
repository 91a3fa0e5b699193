//! Parts of this program that run in their own process: the lower bounds, the downloads and the server.

pub(crate) mod cores;
pub(crate) mod net;
pub(crate) mod serve;

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};

use crate::failure::{Failure, Result};

/// A part of the comparison.
#[derive(Debug, Subcommand)]
pub(crate) enum Part {
    /// Serves objects until its standard input ends
    #[command(hide = true)]
    Serve,
    /// Fetches ranges and throws them away
    #[command(hide = true)]
    Fetch {
        url: String,
        /// A file of lines `FIRST LAST`
        ranges: PathBuf,
    },
    /// Fetches all of an object with a plain client, 16 ranges of 8 MiB at once, and throws it away
    #[command(hide = true)]
    FetchFixed { url: String },
    /// Downloads an object in ranges, side by side
    #[command(hide = true)]
    Download { url: String, to: PathBuf },
    /// Downloads an object on one connection
    #[command(hide = true)]
    DownloadPlain { url: String, to: PathBuf },
    /// Decodes an image on all cores, and prints the seconds
    #[command(hide = true)]
    Decode {
        image: PathBuf,
        /// Writes what is decoded
        #[arg(long)]
        to: Option<PathBuf>,
    },
    /// Compresses what is on a disk on all cores, and prints the seconds
    #[command(hide = true)]
    Compress { image: PathBuf, how: Compress },
    /// Hashes what is on a disk on all cores, and prints the seconds
    #[command(hide = true)]
    Hash { image: PathBuf },
    /// Prints the stored bytes that an image maps, and those of its tables
    #[command(hide = true)]
    Stored { image: PathBuf },
}

/// The compression of a lower bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Compress {
    /// A QCOW2's clusters: deflate at level 6, with its window of 4 KiB.
    Cluster,
    /// A VMDK's grains: zlib at level 6.
    Grain,
    /// zstd at level 3.
    Zstd,
}

impl Compress {
    /// The name to show.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cluster => "deflate 6, 4 KiB window, alone",
            Self::Grain => "deflate 6 alone",
            Self::Zstd => "zstd 3 alone",
        }
    }
}

impl Part {
    /// Runs the part.
    ///
    /// # Errors
    /// Any failure of the part.
    pub(crate) fn run(self) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(Failure::io("starting a runtime"))?;
        match self {
            Self::Serve => runtime.block_on(serve::serve()),
            Self::Fetch { url, ranges } => runtime.block_on(net::fetch(&url, &ranges)),
            Self::FetchFixed { url } => net::fetch_fixed(&url),
            Self::Download { url, to } => runtime.block_on(net::download(&url, &to)),
            Self::DownloadPlain { url, to } => net::download_plain(&url, &to),
            Self::Decode { image, to } => {
                seconds(cores::decode(&runtime.block_on(cores::open(&image))?, to.as_deref())?)
            }
            Self::Compress { image, how } => {
                seconds(cores::compress(&runtime.block_on(cores::open(&image))?, how)?)
            }
            Self::Hash { image } => seconds(cores::hash(&runtime.block_on(cores::open(&image))?)?),
            Self::Stored { image } => {
                let (data, tables) = runtime.block_on(cores::stored(&image))?;
                println!("{data} {tables}");
                Ok(())
            }
        }
    }
}

fn seconds(seconds: f64) -> Result<()> {
    println!("{seconds:.6}");
    Ok(())
}
