//! Parts that this program runs in separate processes: the floors, the downloads and the server.

pub(crate) mod cores;
pub(crate) mod net;
pub(crate) mod serve;

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};

use crate::failure::{Failure, Result};

/// A part of the comparison.
#[derive(Debug, Subcommand)]
pub(crate) enum Part {
    /// Serve objects until standard input ends
    #[command(hide = true)]
    Serve,
    /// Fetch ranges and discard them
    #[command(hide = true)]
    Fetch {
        url: String,
        /// File with one range `FIRST LAST` per line
        ranges: PathBuf,
    },
    /// Fetch an object with a simple client, 16 concurrent ranges of 8 MiB, and discard it
    #[command(hide = true)]
    FetchFixed { url: String },
    /// Download an object in concurrent ranges
    #[command(hide = true)]
    Download { url: String, to: PathBuf },
    /// Download an object on one connection
    #[command(hide = true)]
    DownloadPlain { url: String, to: PathBuf },
    /// Decode an image on all cores and print the seconds
    #[command(hide = true)]
    Decode {
        image: PathBuf,
        /// Write the decoded disk to this file
        #[arg(long)]
        to: Option<PathBuf>,
    },
    /// Compress the content of a disk on all cores and print the seconds
    #[command(hide = true)]
    Compress { image: PathBuf, how: Compress },
    /// Hash the content of a disk on all cores and print the seconds
    #[command(hide = true)]
    Hash { image: PathBuf },
    /// Print the number of stored bytes that an image maps, and of its tables
    #[command(hide = true)]
    Stored { image: PathBuf },
}

/// The compression of a floor.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Compress {
    /// QCOW2 clusters: deflate at level 6 with a 4 KiB window.
    Cluster,
    /// VMDK grains: zlib at level 6.
    Grain,
    /// zstd at level 3.
    Zstd,
}

impl Compress {
    /// Its name in the tables.
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
    /// The errors of the part.
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
