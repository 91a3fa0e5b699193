//! The store: the embedded S3 server in a separate process, controlled by lines on its standard input.
//!
//! | command | response |
//! |---|---|
//! | (start) | `endpoint URL`, `access KEY`, `secret KEY` |
//! | `add KEY PATH` | `done` |
//! | `line NAME` | `done`; simulates the network NAME from now on |
//! | `forget` | `done` |
//! | `log` | `FIRST LAST SENT` for each ranged GET since the last `forget`, then `done` |

use std::io::{self, BufRead, Write};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use clap::ValueEnum;
use diskferry_s3io::server::{Fault, Server, ServerOptions, Shape};

use crate::failure::{Failure, Result};

/// The bucket of all objects.
pub(crate) const BUCKET: &str = "images";

/// The simulated network between the store and the converting machine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum)]
pub(crate) enum Line {
    /// A store in the same region: 30 ms to the first byte, 100 MB/s per connection, 125 MB/s (1 Gbit/s) in total.
    Near,
    /// A store in another region: 80 ms to the first byte, 50 MB/s per connection.
    Far,
    /// A store in the same rack: 1 ms to the first byte, no caps.
    Rack,
}

impl Line {
    fn shape(self) -> Shape {
        let (latency, each, all) = match self {
            Self::Near => (30, Some(100_000_000), Some(125_000_000)),
            Self::Far => (80, Some(50_000_000), None),
            Self::Rack => (1, None, None),
        };
        Shape { latency: Duration::from_millis(latency), each, all }
    }

    /// Its name in the tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Near => "30 ms",
            Self::Far => "80 ms",
            Self::Rack => "1 ms",
        }
    }
}

/// Serves until standard input ends.
///
/// # Errors
/// If the server does not start, a command is unknown, or the responses cannot be written.
pub(crate) async fn serve() -> Result<()> {
    let options = ServerOptions::default().public(true).shape(Line::Near.shape());
    let server = Server::start(options).map_err(Failure::io("starting the server"))?;
    server.create_bucket(BUCKET).await?;
    // S3 sends this header and s3s does not; nbdkit's curl plugin requires it.
    server.set_faults(|_| vec![Fault::Header("accept-ranges", "bytes".to_owned())]);
    let keys = server.keys();
    let opening =
        format!("endpoint {}\naccess {}\nsecret {}\n", server.endpoint(), keys.access_key, keys.secret_key);
    say(&opening)?;
    for line in io::stdin().lock().lines() {
        let line = line.map_err(Failure::io("reading a command"))?;
        let mut words = line.splitn(3, ' ');
        match (words.next(), words.next(), words.next()) {
            (Some("add"), Some(key), Some(path)) => add(&server, key, Path::new(path)).await?,
            (Some("line"), Some(name), None) => {
                let line = Line::from_str(name, false).map_err(Failure::Odd)?;
                server.set_shape(line.shape());
            }
            (Some("forget"), None, None) => server.forget(),
            (Some("log"), None, None) => say(&log(&server))?,
            _ => return Err(Failure::Odd(format!("unknown server command {line:?}"))),
        }
        say("done\n")?;
    }
    Ok(())
}

/// Serves a file as an object without copying it: stores a small object, for its ETag, and then replaces the object's file.
async fn add(server: &Server, key: &str, path: &Path) -> Result<()> {
    server.put(BUCKET, key, key.as_bytes().to_vec()).await?;
    let object = server.root().join(BUCKET).join(key);
    std::fs::remove_file(&object)
        .and_then(|()| symlink(path, &object))
        .map_err(Failure::at("putting an object in its place:", path))
}

fn log(server: &Server) -> String {
    let exchanges = server.exchanges();
    let gets = exchanges.iter().filter(|exchange| exchange.request.method == "GET");
    let lines = gets.filter_map(|get| {
        let (first, last) = get.request.range?;
        Some(format!("{first} {last} {}\n", get.sent))
    });
    lines.collect()
}

fn say(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::io("answering"))
}
