//! A slow link: latency, bandwidth of each connection and of all together, and responses that are cut.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::exchange::{Log, note};

/// Speed of the link. The default is unlimited.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Shape {
    /// From a request to the first byte of its response.
    pub latency: Duration,
    /// Bytes per second of each connection, towards the client.
    pub each: Option<u64>,
    /// Bytes per second of all connections together, towards the client.
    pub all: Option<u64>,
}

/// The link of all connections: its speed, and when it is free again.
#[derive(Debug)]
pub(super) struct Link {
    shape: Mutex<Shape>,
    free: Mutex<Option<Instant>>,
}

impl Link {
    pub(super) fn new(shape: Shape) -> Self {
        Self { shape: Mutex::new(shape), free: Mutex::new(None) }
    }

    pub(super) fn set(&self, shape: Shape) {
        *self.shape.lock().unwrap_or_else(PoisonError::into_inner) = shape;
    }

    pub(super) fn shape(&self) -> Shape {
        *self.shape.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Occupies the link for `bytes` bytes. Returns when they are through.
fn occupy(free: &Mutex<Option<Instant>>, bytes: usize, rate: Option<u64>) -> Option<Instant> {
    /// The delay of a timer that is made up for: otherwise each timer would waste a part of the link.
    const LATE: Duration = Duration::from_millis(8);
    let rate = rate.filter(|rate| *rate > 0)?;
    let now = Instant::now();
    let early = now.checked_sub(LATE).unwrap_or(now);
    let mut free = free.lock().unwrap_or_else(PoisonError::into_inner);
    let through = free.map_or(now, |at| at.max(early)) + Duration::from_secs_f64(bytes as f64 / rate as f64);
    *free = Some(through);
    Some(through)
}

/// The state of one connection.
#[derive(Debug, Default)]
pub(super) struct FaultConnection {
    pub(super) number: u64,
    free: Mutex<Option<Instant>>,
    /// It ends by a reset.
    reset: AtomicBool,
    /// It accepts no further request.
    ended: AtomicBool,
    /// Nothing passes any more, and it stays open.
    silent: AtomicBool,
    /// The server is silent.
    server_silent: Arc<AtomicBool>,
}

impl FaultConnection {
    /// `server_silent`: while it is set, nothing passes. A connection that was used meanwhile stays silent for ever.
    pub(super) fn new(number: u64, server_silent: &Arc<AtomicBool>) -> Self {
        Self { number, server_silent: Arc::clone(server_silent), ..Self::default() }
    }

    fn is_silent(&self) -> bool {
        if self.server_silent.load(Ordering::Relaxed) {
            self.silent.store(true, Ordering::Relaxed);
        }
        self.silent.load(Ordering::Relaxed)
    }
}

/// How a response is cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cut {
    Close,
    Reset,
    Silence,
}

/// Where a response's body comes from.
pub(super) enum BodySource {
    /// From the store, in small pieces.
    Store(s3s::Body),
    /// Directly from the file of an object: the store's own way of reading is too slow for a link of gigabits.
    File { file: std::fs::File, at: u64, end: u64 },
}

impl BodySource {
    fn poll_bytes(
        &mut self,
        cx: &mut Context<'_>,
        piece: usize,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self {
            Self::Store(body) => Pin::new(body).poll_frame(cx),
            Self::File { file, at, end } => {
                let rest = usize::try_from(end.saturating_sub(*at)).unwrap_or(usize::MAX);
                if rest == 0 {
                    return Poll::Ready(None);
                }
                let mut bytes = vec![0; rest.min(piece)];
                // It is in the page cache, so a blocking read is faster than another thread.
                let read = std::os::unix::fs::FileExt::read_exact_at(file, &mut bytes, *at);
                *at += bytes.len() as u64;
                Poll::Ready(Some(read.map(|()| Frame::data(bytes.into())).map_err(Into::into)))
            }
        }
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A response's body on a slow link.
pub(super) struct ShapedBody {
    pub(super) inner: BodySource,
    pub(super) link: Arc<Link>,
    pub(super) connection: Arc<FaultConnection>,
    pub(super) log: (Arc<Log>, u64),
    pub(super) cut: Option<(u64, Cut)>,
    /// The byte that is damaged.
    pub(super) flip: Option<u64>,
    /// The connection ends with the response.
    pub(super) hangup: bool,
    pub(super) sent: u64,
    /// The response waited for what was sent to leave the host, before it is cut.
    pub(super) flushed: bool,
    pub(super) pending: Bytes,
    pub(super) next: Option<(Bytes, Pin<Box<Sleep>>)>,
}

impl ShapedBody {
    /// Counts bytes that are sent, and damages the one that should be.
    fn send(&mut self, bytes: Bytes) -> Frame<Bytes> {
        let from = self.sent;
        self.sent += bytes.len() as u64;
        let (log, number) = &self.log;
        note(log, *number, |exchange| exchange.sent += bytes.len() as u64);
        let flip = self.flip.filter(|at| (from..self.sent).contains(at));
        Frame::data(match flip.and_then(|at| usize::try_from(at - from).ok()) {
            Some(at) => {
                let mut bytes = bytes.to_vec();
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1;
                }
                bytes.into()
            }
            None => bytes,
        })
    }
}

impl Drop for ShapedBody {
    fn drop(&mut self) {
        let (log, number) = &self.log;
        note(log, *number, |exchange| exchange.over = true);
        if self.hangup {
            self.connection.ended.store(true, Ordering::Relaxed);
        }
    }
}

impl Body for ShapedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        /// Small enough for a steady flow on a slow link, large enough that timers do not matter.
        const PIECE: usize = 256 << 10;
        const FLUSH: Duration = Duration::from_millis(10);
        loop {
            if let Some((bytes, mut wait)) = self.next.take() {
                if wait.as_mut().poll(cx).is_pending() {
                    self.next = Some((bytes, wait));
                    return Poll::Pending;
                }
                if !bytes.is_empty() {
                    return Poll::Ready(Some(Ok(self.send(bytes))));
                }
            }
            let left = match self.cut {
                Some((at, Cut::Silence)) if self.sent >= at => return Poll::Pending,
                Some((at, _)) if self.sent >= at && !self.flushed => {
                    // What was sent so far leaves the host before the connection ends, as on a real link.
                    self.flushed = true;
                    self.next = Some((Bytes::new(), Box::pin(tokio::time::sleep(FLUSH))));
                    continue;
                }
                Some((at, cut)) if self.sent >= at => {
                    self.connection.reset.store(cut == Cut::Reset, Ordering::Relaxed);
                    return Poll::Ready(Some(Err(io::Error::other("cut by rule").into())));
                }
                Some((at, _)) => usize::try_from(at - self.sent).unwrap_or(usize::MAX),
                None => usize::MAX,
            };
            if self.pending.is_empty() {
                match ready!(self.inner.poll_bytes(cx, PIECE)) {
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(bytes) => self.pending = bytes,
                        Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                    },
                    other => return Poll::Ready(other),
                }
                continue;
            }
            let shape = self.link.shape();
            // A slow link delivers a steady flow, not bursts.
            let slowest = shape.each.unwrap_or(u64::MAX).min(shape.all.unwrap_or(u64::MAX));
            let piece = usize::try_from(slowest / 20).unwrap_or(usize::MAX).clamp(1, PIECE);
            let most = self.pending.len().min(piece).min(left);
            let bytes = self.pending.split_to(most);
            let through = occupy(&self.connection.free, bytes.len(), shape.each).max(occupy(
                &self.link.free,
                bytes.len(),
                shape.all,
            ));
            match through.filter(|at| *at > Instant::now()) {
                Some(at) => self.next = Some((bytes, Box::pin(tokio::time::sleep_until(at)))),
                None => {
                    return Poll::Ready(Some(Ok(self.send(bytes))));
                }
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// A socket that can end by a reset, or without announcement.
#[derive(Debug)]
pub(super) struct FaultSocket {
    stream: TcpStream,
    connection: Arc<FaultConnection>,
}

impl FaultSocket {
    pub(super) fn new(stream: TcpStream, connection: Arc<FaultConnection>) -> Self {
        Self { stream, connection }
    }
}

impl Drop for FaultSocket {
    fn drop(&mut self) {
        if self.connection.reset.load(Ordering::Relaxed) {
            // Closing with unsent bytes discarded sends a reset.
            let _closes_in_order = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for FaultSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.connection.is_silent() {
            return Poll::Pending;
        }
        if self.connection.ended.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, into));
        // It may have waited since before the silence began.
        if self.connection.is_silent() { Poll::Pending } else { Poll::Ready(read) }
    }
}

impl AsyncWrite for FaultSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.connection.is_silent() {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.connection.is_silent() {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }
}
