//! An S3 server inside the process, on a loopback port: for tests, the demo and benchmarks.
//!
//! `s3s-fs` keeps objects as files of a temporary directory and checks signatures. In front of it stands a layer at
//! the level of HTTP, which counts what is asked and sent, makes the line as slow as a real one, and breaks answers
//! by rule.
//!
//! ```text
//! client ──▶ [count · latency · rule] ──▶ s3s-fs ──▶ files
//!        ◀── [bandwidth · cut · count] ◀──
//! ```

mod layer;
mod line;

use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use diskferry_core::{Error, Result};
use hyper_util::rt::{TokioIo, TokioTimer};
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::client::{Client, ClientOptions, Keys};
use crate::url::Place;
use layer::Layer;

pub use layer::{Exchange, Fault, Request};
pub use line::Shape;

const ACCESS_KEY: &str = "DISKFERRYEMBEDDED";
const SECRET_KEY: &str = "embedded-server-of-diskferry-not-a-secret";

/// What kind of server.
#[derive(Clone, Debug, Default)]
pub struct ServerOptions {
    /// GETs and HEADs without a signature are answered.
    pub public: bool,
    /// The region that it says its buckets are in; else none is said.
    pub region: Option<String>,
    /// How slow the line to it is.
    pub shape: Shape,
}

/// A running server. Dropping it stops it, waits for its thread and deletes its objects.
pub struct Server {
    address: SocketAddr,
    layer: Arc<Layer>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    root: tempfile::TempDir,
}

impl Server {
    /// Starts a server with an empty store, on a port that the system picks. It has a thread and a runtime of its own, so
    /// that it works beside any runtime.
    ///
    /// # Errors
    /// Where there is no room for a directory, a port or a thread.
    pub fn start(options: ServerOptions) -> io::Result<Self> {
        let root = tempfile::tempdir()?;
        let layer = Arc::new(Layer::new(root.path(), options)?);
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("s3-server")
            .enable_all()
            .build()?;
        let served = Arc::clone(&layer);
        let thread = std::thread::Builder::new().name("s3-server".into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener, served) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { address, layer, stop: Some(stop), thread: Some(thread), root })
    }

    /// Its URL, without a slash at the end.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The directory that holds its objects, as `bucket/key`.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// The credentials that it takes.
    pub fn keys(&self) -> Keys {
        Keys { access_key: ACCESS_KEY.into(), secret_key: SECRET_KEY.into(), session_token: None }
    }

    /// Options of a client of it.
    pub fn client_options(&self) -> ClientOptions {
        ClientOptions {
            endpoint_url: Some(self.endpoint()),
            region: Some("us-east-1".into()),
            keys: Some(self.keys()),
            ..ClientOptions::default()
        }
    }

    async fn sdk(&self) -> Result<aws_sdk_s3::Client> {
        Ok(Client::new(self.client_options()).await?.s3_at(&Place::Endpoint))
    }

    /// Makes an empty bucket.
    ///
    /// # Errors
    /// `internal` with what the server said.
    pub async fn create_bucket(&self, bucket: &str) -> Result<()> {
        self.sdk().await?.create_bucket().bucket(bucket).send().await.map_err(|error| failed(&error))?;
        Ok(())
    }

    /// Stores an object, in the place of one that is there.
    ///
    /// # Errors
    /// `internal` with what the server said.
    pub async fn put(&self, bucket: &str, key: &str, content: impl Into<Bytes>) -> Result<()> {
        let body = ByteStream::from(content.into());
        let put = self.sdk().await?.put_object().bucket(bucket).key(key).body(body);
        put.send().await.map_err(|error| failed(&error))?;
        Ok(())
    }

    /// Stores a file as an object, in the place of one that is there.
    ///
    /// # Errors
    /// `internal` with what the server said, or where the file cannot be read.
    pub async fn put_file(&self, bucket: &str, key: &str, file: &Path) -> Result<()> {
        let body = ByteStream::from_path(file).await.map_err(|error| failed(&error))?;
        let put = self.sdk().await?.put_object().bucket(bucket).key(key).body(body);
        put.send().await.map_err(|error| failed(&error))?;
        Ok(())
    }

    /// A URL by which anyone can GET an object for so long.
    ///
    /// # Errors
    /// `internal` where the time is longer than a week.
    pub async fn presign(&self, bucket: &str, key: &str, valid: Duration) -> Result<String> {
        let config = PresigningConfig::expires_in(valid).map_err(|error| failed(&error))?;
        let get = self.sdk().await?.get_object().bucket(bucket).key(key);
        let signed = get.presigned(config).await.map_err(|error| failed(&error))?;
        Ok(signed.uri().to_owned())
    }

    /// The URL of an object, as it is without a signature. The key is encoded.
    pub fn object_url(&self, bucket: &str, key: &str) -> String {
        const KEPT: percent_encoding::AsciiSet = percent_encoding::NON_ALPHANUMERIC
            .remove(b'/')
            .remove(b'-')
            .remove(b'_')
            .remove(b'.')
            .remove(b'~');
        let key = percent_encoding::utf8_percent_encode(key, &KEPT);
        format!("{}/{bucket}/{key}", self.endpoint())
    }

    /// Makes the line faster or slower, from the next answer on.
    pub fn set_shape(&self, shape: Shape) {
        self.layer.lines.set(shape);
    }

    /// Breaks answers from now on: the rule is asked about every request, and what it gives is done to the answer.
    pub fn set_faults(&self, rule: impl Fn(&Request) -> Vec<Fault> + Send + Sync + 'static) {
        *self.layer.rule.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rule);
    }

    /// Breaks so many of a thousand answers from now on, as `choose` says from a random number. Which ones they are follows
    /// from the seed and from what is asked, and how often it was asked before, not from the order in which it comes.
    pub fn set_seeded_faults(
        &self,
        seed: u64,
        of_a_thousand: u64,
        choose: impl Fn(&Request, u64) -> Vec<Fault> + Send + Sync + 'static,
    ) {
        let asked = Mutex::new(HashMap::<_, u64>::new());
        self.set_faults(move |request| {
            let what = (request.method.clone(), request.object.clone(), request.range, request.part);
            let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
            let times = asked.entry(what.clone()).or_default();
            *times += 1;
            // With fixed keys: the same in every process.
            let mut hasher = DefaultHasher::new();
            (seed, what, *times).hash(&mut hasher);
            let number = hasher.finish();
            if number % 1000 < of_a_thousand { choose(request, number / 1000) } else { Vec::new() }
        });
    }

    /// What was asked and answered since the start, or since [`forget`](Self::forget), in the order asked.
    pub fn exchanges(&self) -> Vec<Exchange> {
        self.layer.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets what was asked until now.
    pub fn forget(&self) {
        self.layer.log.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Stops it, as dropping it does.
    pub fn stop(self) {}
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // Gone already where its thread ended by itself.
            let _gone = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

fn failed(error: &(dyn std::error::Error + 'static)) -> Error {
    Error::internal(format!("the embedded S3 server: {}", crate::net::causes(error)))
}

/// Accepts connections until it is dropped, and its connections with it.
async fn serve(listener: std::net::TcpListener, layer: Arc<Layer>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let mut connections = JoinSet::new();
    let mut accepted_so_far = 0;
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                // Without it, small answers wait for acknowledgements.
                let _slower = stream.set_nodelay(true);
                let line = Arc::new(line::Connection::new(accepted_so_far));
                accepted_so_far += 1;
                let io = TokioIo::new(line::Socket::new(stream, Arc::clone(&line)));
                let layer = Arc::clone(&layer);
                connections.spawn(async move {
                    let service = hyper::service::service_fn(move |request| {
                        let (layer, line) = (Arc::clone(&layer), Arc::clone(&line));
                        async move { layer.answer(request, line).await }
                    });
                    let served = hyper::server::conn::http1::Builder::new()
                        .timer(TokioTimer::new())
                        .serve_connection(io, service);
                    // A client that went away, or an answer that was broken on purpose.
                    let _broken = served.await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// The store behind the layer: with signatures checked, and without.
struct Store {
    signed: s3s::service::S3Service,
    open: s3s::service::S3Service,
}

impl Store {
    fn new(root: &Path) -> io::Result<Self> {
        let files = || FileSystem::new(root).map_err(|error| io::Error::other(format!("{error:?}")));
        let mut signed = S3ServiceBuilder::new(files()?);
        signed.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        Ok(Self { signed: signed.build(), open: S3ServiceBuilder::new(files()?).build() })
    }
}

type Rule = dyn Fn(&Request) -> Vec<Fault> + Send + Sync;
type Log = Mutex<Vec<Exchange>>;
