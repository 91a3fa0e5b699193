//! How much of a request's body has left: what tells a slow upload from a silent one.
//!
//! The SDK wants a body in one piece, to sign it. On its way to the connection it is cut into small ones, and these are
//! counted.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::BeforeTransmitInterceptorContextMut;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::config_bag::ConfigBag;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// Bytes that are uploaded, perhaps in several tries, of which the furthest counts.
#[derive(Debug)]
pub(crate) struct Furthest {
    most: AtomicU64,
    all: Arc<AtomicU64>,
}

impl Furthest {
    /// Nothing yet of bytes that count towards `all`.
    pub(crate) fn new(all: &Arc<AtomicU64>) -> Arc<Self> {
        Arc::new(Self { most: AtomicU64::new(0), all: Arc::clone(all) })
    }
}

/// The bytes of one request's body that its connection took.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    taken: Arc<AtomicU64>,
    furthest: Arc<Furthest>,
}

impl Sent {
    pub(crate) fn new(furthest: &Arc<Furthest>) -> Self {
        Self { taken: Arc::default(), furthest: Arc::clone(furthest) }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// The furthest that any try came.
    pub(crate) fn furthest(&self) -> u64 {
        self.furthest.most.load(Ordering::Relaxed)
    }

    fn add(&self, bytes: usize) {
        let taken = self.taken.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        let before = self.furthest.most.fetch_max(taken, Ordering::Relaxed);
        self.furthest.all.fetch_add(taken.saturating_sub(before), Ordering::Relaxed);
    }
}

impl Intercept for Sent {
    fn name(&self) -> &'static str {
        "Sent"
    }

    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        context.request_mut().add_extension(self.clone());
        Ok(())
    }
}

/// A body, cut and counted.
pub(crate) struct Counted {
    inner: SdkBody,
    sent: Sent,
    pending: Bytes,
}

impl Counted {
    pub(crate) fn new(inner: SdkBody, sent: Sent) -> Self {
        Self { inner, sent, pending: Bytes::new() }
    }
}

impl Body for Counted {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        /// Small beside a part, large beside the cost of a system call.
        const PIECE: usize = 256 << 10;
        if self.pending.is_empty() {
            match std::task::ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => self.pending = bytes,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        let piece = self.pending.len().min(PIECE);
        let piece = self.pending.split_to(piece);
        self.sent.add(piece.len());
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.pending.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let inner = Body::size_hint(&self.inner);
        match inner.exact() {
            Some(rest) => SizeHint::with_exact(rest.saturating_add(self.pending.len() as u64)),
            None => inner,
        }
    }
}
