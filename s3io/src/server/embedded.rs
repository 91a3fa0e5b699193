//! Starting and stopping the server, and filling its store.

use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use diskferry_core::{Error, Result};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use super::backing_store::{ACCESS_KEY, SECRET_KEY};
use super::exchange::{Exchange, Fault, Outage, Request};
use super::fault_connection::{FaultConnection, FaultSocket, Shape};
use super::fault_layer::FaultLayer;
use super::options::ServerOptions;
use crate::connection::{Client, ClientOptions, Keys, S3Service, causes};

/// A running server. Dropping it stops it, waits for its thread and deletes its objects.
pub struct Server {
    address: SocketAddr,
    layer: Arc<FaultLayer>,
    outage: watch::Sender<Option<Outage>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    root: tempfile::TempDir,
}

impl Server {
    /// Starts a server with an empty store, on a port that the system picks. It has a thread and a runtime of its own, so
    /// that it works with any runtime.
    ///
    /// # Errors
    /// If the system has no directory, port or thread for it.
    pub fn start(options: ServerOptions) -> io::Result<Self> {
        let root = tempfile::tempdir()?;
        let layer = Arc::new(FaultLayer::new(root.path(), options)?);
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
        let (outage, outages) = watch::channel(None);
        let thread = std::thread::Builder::new().name("s3-server".into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener, served, outages) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { address, layer, outage, stop: Some(stop), thread: Some(thread), root })
    }

    /// Its URL, without a slash at the end.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The directory that holds its objects, as `bucket/key`.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// The credentials that it accepts.
    pub fn keys(&self) -> Keys {
        Keys::new(ACCESS_KEY, SECRET_KEY)
    }

    /// Options for a client of it.
    pub fn client_options(&self) -> ClientOptions {
        ClientOptions::default()
            .endpoint_url(Some(self.endpoint()))
            .region(Some("us-east-1".into()))
            .keys(Some(self.keys()))
            // The server is in this process: a proxy of the environment cannot reach it.
            .proxies(false)
    }

    async fn sdk(&self) -> Result<aws_sdk_s3::Client> {
        Ok(Client::new(self.client_options()).await?.s3().client_for(&S3Service::Configured))
    }

    /// Creates an empty bucket.
    ///
    /// # Errors
    /// `internal` with what the server said.
    pub async fn create_bucket(&self, bucket: &str) -> Result<()> {
        self.sdk().await?.create_bucket().bucket(bucket).send().await.map_err(|error| failed(&error))?;
        Ok(())
    }

    /// Stores an object, and replaces an existing one.
    ///
    /// # Errors
    /// `internal` with what the server said.
    pub async fn put(&self, bucket: &str, key: &str, content: impl Into<Bytes>) -> Result<()> {
        let body = ByteStream::from(content.into());
        let put = self.sdk().await?.put_object().bucket(bucket).key(key).body(body);
        put.send().await.map_err(|error| failed(&error))?;
        Ok(())
    }

    /// Stores a file as an object, and replaces an existing one.
    ///
    /// # Errors
    /// `internal` with what the server said, or if the file cannot be read.
    pub async fn put_file(&self, bucket: &str, key: &str, file: &Path) -> Result<()> {
        let body = ByteStream::from_path(file).await.map_err(|error| failed(&error))?;
        let put = self.sdk().await?.put_object().bucket(bucket).key(key).body(body);
        put.send().await.map_err(|error| failed(&error))?;
        Ok(())
    }

    /// A URL by which anyone can GET an object for the time `valid`.
    ///
    /// # Errors
    /// `internal` if the time is longer than a week.
    pub async fn presign(&self, bucket: &str, key: &str, valid: Duration) -> Result<String> {
        let config = PresigningConfig::expires_in(valid).map_err(|error| failed(&error))?;
        let get = self.sdk().await?.get_object().bucket(bucket).key(key);
        let signed = get.presigned(config).await.map_err(|error| failed(&error))?;
        Ok(signed.uri().to_owned())
    }

    /// The URL of an object, without a signature. The key is encoded.
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

    /// Makes the link faster or slower, from the next response on.
    pub fn set_shape(&self, shape: Shape) {
        self.layer.link.set(shape);
    }

    /// Takes the server away, or brings it back with `None`. Connections that are open are affected as well.
    pub fn set_outage(&self, outage: Option<Outage>) {
        self.layer.unavailable.store(outage == Some(Outage::Unavailable), Ordering::Relaxed);
        self.outage.send_replace(outage);
    }

    /// Injects faults from now on: the rule is called with every request, and its faults are applied to the response.
    pub fn set_faults(&self, rule: impl Fn(&Request) -> Vec<Fault> + Send + Sync + 'static) {
        *self.layer.rule.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rule);
    }

    /// Injects faults into `of_a_thousand` of a thousand responses from now on, which `choose` selects by a random number. The
    /// responses depend on the seed, on the request, and on how often it was made before, and not on the order of requests.
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
            // Its keys are fixed: the same in every process.
            let mut hasher = DefaultHasher::new();
            (seed, what, *times).hash(&mut hasher);
            let number = hasher.finish();
            if number % 1000 < of_a_thousand { choose(request, number / 1000) } else { Vec::new() }
        });
    }

    /// Requests and responses since the start, or since [`forget`](Self::forget), in the order of the requests.
    pub fn exchanges(&self) -> Vec<Exchange> {
        self.layer.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets all requests until now.
    pub fn forget(&self) {
        self.layer.log.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Stops it, as dropping it does.
    pub fn stop(self) {}
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // Nobody receives it if the thread ended by itself.
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
    Error::internal(format!("the embedded S3 server: {}", causes(error)))
}

/// Accepts connections until it is dropped, and its connections with it.
async fn serve(
    listener: std::net::TcpListener,
    layer: Arc<FaultLayer>,
    mut outages: watch::Receiver<Option<Outage>>,
) {
    let Ok(address) = listener.local_addr() else { return };
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    let mut accepted_so_far = 0;
    let silent = Arc::new(AtomicBool::new(false));
    loop {
        let outage = *outages.borrow_and_update();
        silent.store(outage == Some(Outage::Silent), Ordering::Relaxed);
        match outage {
            Some(Outage::Refused) => listener = None,
            // The port is free unless another process took it meanwhile.
            _ if listener.is_none() => match tokio::net::TcpListener::bind(address).await {
                Ok(bound) => listener = Some(bound),
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
            },
            _ => {}
        }
        if matches!(outage, Some(Outage::Refused | Outage::Closed)) {
            connections.shutdown().await;
        }
        tokio::select! {
            accepted = accept(listener.as_ref()) => {
                let Ok((stream, _)) = accepted else { continue };
                // Read again: it may have changed while this waited.
                if *outages.borrow() == Some(Outage::Closed) {
                    continue;
                }
                // Without it, small responses wait for acknowledgements.
                let _slower = stream.set_nodelay(true);
                let connection = Arc::new(FaultConnection::new(accepted_so_far, &silent));
                accepted_so_far += 1;
                let io = TokioIo::new(FaultSocket::new(stream, Arc::clone(&connection)));
                let layer = Arc::clone(&layer);
                connections.spawn(async move {
                    let service = hyper::service::service_fn(move |request| {
                        let (layer, connection) = (Arc::clone(&layer), Arc::clone(&connection));
                        async move { layer.respond(request, connection).await }
                    });
                    let served = hyper::server::conn::http1::Builder::new()
                        .timer(TokioTimer::new())
                        .serve_connection(io, service);
                    // The client went away, or the response was broken on purpose.
                    let _broken = served.await;
                });
            }
            Some(_) = connections.join_next() => {}
            Ok(()) = outages.changed() => {}
        }
    }
}

/// The next connection; none if nobody listens.
async fn accept(
    listener: Option<&tokio::net::TcpListener>,
) -> io::Result<(tokio::net::TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}
