//! How many bytes of a request's body the connection has taken, which distinguishes a slow upload from a silent one.
//!
//! The SDK needs a body in one piece to sign it. Here it is cut into small pieces on its way to the connection, and these
//! are counted.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::BeforeTransmitInterceptorContextMut;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::config_bag::ConfigBag;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::http_client::BoxError;

/// Progress of a body over all tries to upload it; the furthest try counts.
#[derive(Debug)]
pub(crate) struct UploadProgress {
    furthest: AtomicU64,
    total: Arc<AtomicU64>,
}

impl UploadProgress {
    /// Creates the progress of a body of which no byte was sent. Sent bytes are added to `total`.
    pub(crate) fn new(total: &Arc<AtomicU64>) -> Arc<Self> {
        Arc::new(Self { furthest: AtomicU64::new(0), total: Arc::clone(total) })
    }
}

/// Progress of the body of one request.
#[derive(Clone, Debug)]
pub(crate) struct BodyProgress {
    sent: Arc<AtomicU64>,
    upload: Arc<UploadProgress>,
}

impl BodyProgress {
    pub(crate) fn new(upload: &Arc<UploadProgress>) -> Self {
        Self { sent: Arc::default(), upload: Arc::clone(upload) }
    }

    /// Bytes that the connection took.
    pub(crate) fn bytes(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// The most bytes that any try has sent.
    pub(crate) fn furthest(&self) -> u64 {
        self.upload.furthest.load(Ordering::Relaxed)
    }

    fn add(&self, bytes: usize) {
        let bytes = bytes as u64;
        let sent = self.sent.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let before = self.upload.furthest.fetch_max(sent, Ordering::Relaxed);
        // Nothing if another try has sent more.
        self.upload.total.fetch_add(sent.saturating_sub(before), Ordering::Relaxed);
    }
}

impl Intercept for BodyProgress {
    fn name(&self) -> &'static str {
        "BodyProgress"
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

/// A body that is cut into pieces and counted.
pub(crate) struct CountedBody {
    inner: SdkBody,
    progress: BodyProgress,
    pending: Bytes,
}

impl CountedBody {
    pub(crate) fn new(inner: SdkBody, progress: BodyProgress) -> Self {
        Self { inner, progress, pending: Bytes::new() }
    }
}

impl Body for CountedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        /// Small compared with a part, large compared with the cost of a system call.
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
        self.progress.add(piece.len());
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.pending.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let inner = Body::size_hint(&self.inner);
        match inner.exact().and_then(|rest| rest.checked_add(self.pending.len() as u64)) {
            Some(len) => SizeHint::with_exact(len),
            None => inner,
        }
    }
}
