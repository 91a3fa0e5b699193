//! The requests that bring an upload to the store, each with its retries. Those that publish it are in [`publish`](super::publish).

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumMode};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use bytes::Bytes;
use diskferry_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::refusal::{Refused, exists};
use crate::client::{Checksum, Client, in_region};
use crate::concurrency::ConcurrencyLimit;
use crate::judge::named;
use crate::retry::{Failure, Patience, Tries};
use crate::sent::{Furthest, Sent};
use crate::url::{Place, S3Location};

/// Looks at whether a body moves, in the time after which one that does not is given up.
const LOOKS: u32 = 8;

/// The object that is to be, and how it is asked for.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) s3: aws_sdk_s3::Client,
    pub(super) at: S3Location,
    shown: String,
    pub(super) force: bool,
    pub(super) patience: Patience,
    concurrency: ConcurrencyLimit,
    checksum: Checksum,
    /// The store refused a checksum.
    no_checksums: AtomicBool,
    /// The store refused a condition.
    no_conditions: AtomicBool,
    /// Bytes that were uploaded.
    pub(super) written: Arc<AtomicU64>,
    /// True once nothing more is wanted.
    pub(super) stop: watch::Sender<bool>,
}

/// What an object is now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct There {
    pub(super) len: u64,
    pub(super) etag: Option<String>,
    pub(super) version_id: Option<String>,
    pub(super) crc32: Option<String>,
}

/// What a first look shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Look {
    /// It may be written.
    Free,
    /// It may not be looked at: whether it may be written shows when that is tried.
    Hidden,
}

/// A part that is there.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Done {
    pub(super) etag: String,
    pub(super) crc32: Option<String>,
}

impl Store {
    /// The object `at`, asked for what it is now.
    ///
    /// # Errors
    /// `destination_exists` without `force`, and the other `destination_*` codes.
    pub(super) async fn open(client: &Client, at: S3Location, force: bool) -> Result<(Self, Look)> {
        let options = client.options();
        let mut store = Self {
            s3: client.s3_at(&Place::Endpoint),
            shown: at.to_string(),
            at,
            force,
            patience: Patience::new(options),
            concurrency: ConcurrencyLimit::writing(options.connections),
            checksum: options.checksum,
            no_checksums: AtomicBool::new(false),
            no_conditions: AtomicBool::new(false),
            written: Arc::default(),
            stop: watch::Sender::new(false),
        };
        let look = store.first_look().await?;
        Ok((store, look))
    }

    async fn first_look(&mut self) -> Result<Look> {
        let mut tries = Tries::writing(self.patience);
        let mut moved = false;
        loop {
            let refused = match self.head(false).await {
                Ok(_) if self.force => return Ok(Look::Free),
                Ok(_) => return Err(self.named(&exists())),
                Err(refused) => refused,
            };
            let asked = self.s3.config().region().map(|region| region.as_ref().to_owned());
            match (refused.status, &refused.region) {
                (301 | 307 | 400, Some(region)) if !moved && Some(region) != asked.as_ref() => {
                    moved = true;
                    self.s3 = in_region(&self.s3, region);
                }
                // The answer to a HEAD does not say whether it is the bucket that is missing.
                (404, _) => return self.look_at_bucket().await,
                // Nor does it say what a status of 400 is about.
                (400 | 401 | 403, _) => return Ok(Look::Hidden),
                _ => self.pause(&mut tries, refused.failure, true).await?,
            }
        }
    }

    async fn look_at_bucket(&self) -> Result<Look> {
        let mut tries = Tries::writing(self.patience);
        loop {
            let request = self.s3.head_bucket().bucket(&self.at.bucket).send();
            match self.answer(request, self.patience.silence).await {
                Ok(_) => return Ok(Look::Free),
                // Who may write objects need not see the bucket, and some stores cannot be asked.
                Err(refused) if matches!(refused.status, 400..=403 | 405 | 501) => return Ok(Look::Free),
                Err(refused) => self.pause(&mut tries, refused.failure, true).await?,
            }
        }
    }

    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    pub(super) fn named(&self, error: &Error) -> Error {
        named(&self.shown, error)
    }

    pub(super) fn given_up(&self) -> Error {
        Error::new(ErrorKind::Cancelled, format!("{} was given up", self.shown))
    }

    /// The client and the object, to read it back.
    pub(super) fn object(&self, version_id: Option<String>) -> crate::answer::Object {
        let at = S3Location { version_id, ..self.at.clone() };
        crate::answer::Object::S3 { client: self.s3.clone(), at }
    }

    pub(super) fn wants_checksum(&self) -> bool {
        match self.checksum {
            Checksum::Off => false,
            Checksum::Required => true,
            Checksum::Auto => !self.no_checksums.load(Ordering::Relaxed),
        }
    }

    pub(super) fn wants_condition(&self) -> bool {
        !self.force && self.knows_conditions()
    }

    pub(super) fn knows_conditions(&self) -> bool {
        !self.no_conditions.load(Ordering::Relaxed)
    }

    /// Whether to send a request again without what the store may not know. `carried`: it had a checksum, a condition.
    ///
    /// # Errors
    /// `destination_unsuitable` where it must have a checksum.
    pub(super) fn yields(&self, refused: &Refused, carried: (bool, bool)) -> Result<bool> {
        if !refused.is_unknown_feature() {
            return Ok(false);
        }
        let what = format!("status {}, {}", refused.status, refused.code);
        match carried {
            (true, _) if self.checksum == Checksum::Auto => {
                tracing::debug!(%what, "the store may not know checksums, going on without");
                self.no_checksums.store(true, Ordering::Relaxed);
                Ok(true)
            }
            (true, false) => Err(self.named(
                &Error::new(
                    ErrorKind::DestinationUnsuitable,
                    format!("the store does not take it with a checksum: {what}"),
                )
                .hint("use --s3-checksum auto"),
            )),
            (_, true) => {
                tracing::debug!(%what, "the store may not know conditions, looking before instead");
                self.no_conditions.store(true, Ordering::Relaxed);
                Ok(true)
            }
            (false, false) => Ok(false),
        }
    }

    /// Waits for the answer to a request without a body to speak of.
    pub(super) async fn answer<T, E>(
        &self,
        request: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
        limit: Duration,
    ) -> Result<T, Refused>
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        match tokio::time::timeout(limit, request).await {
            Ok(answer) => answer.map_err(|error| Refused::of(&error)),
            Err(_) => Err(silent(limit)),
        }
    }

    /// Waits for the answer to a request with a body of `len` bytes, as long as it moves. Given up, it is cut where its
    /// body has not left as a whole, so that it cannot take effect; else its answer is waited for.
    pub(super) async fn upload<T, E>(
        &self,
        request: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
        sent: &Sent,
        len: u64,
        tries: &mut Tries,
    ) -> Result<T, Refused>
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let mut request = pin!(request);
        let mut stop = self.stop.subscribe();
        let (mut seen, mut furthest, mut cuttable) = (0, sent.furthest(), true);
        // What has left may still be on its way through this host's buffers, on a slow line for long. An answer that was
        // lost leaves time for one more try.
        let (moving, left) = (self.patience.silence, self.patience.stall / 2);
        let mut ticks = tokio::time::interval(moving / LOOKS);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut silent_for = Duration::ZERO;
        loop {
            tokio::select! {
                biased;
                answer = &mut request => return answer.map_err(|error| Refused::of(&error)),
                _ = stop.wait_for(|stop| *stop), if cuttable => {
                    if sent.bytes() < len {
                        return Err(Refused::without_answer(Failure::Fatal(self.given_up())));
                    }
                    cuttable = false;
                }
                _ = ticks.tick() => {
                    silent_for += ticks.period();
                    if sent.bytes() > seen {
                        (seen, silent_for) = (sent.bytes(), Duration::ZERO);
                    }
                    if sent.furthest() > furthest {
                        furthest = sent.furthest();
                        tries.left();
                    }
                    let limit = if seen < len { moving } else { left };
                    if silent_for >= limit {
                        return Err(silent(limit));
                    }
                }
            }
        }
    }

    /// Waits before the next try, or says why there is none.
    pub(super) async fn pause(&self, tries: &mut Tries, failure: Failure, stoppable: bool) -> Result<()> {
        let wait = tries.after(failure).map_err(|error| match error.kind() {
            ErrorKind::Cancelled => error,
            _ => self.named(&error),
        })?;
        let mut stop = self.stop.subscribe();
        tokio::select! {
            () = tokio::time::sleep(wait) => Ok(()),
            _ = stop.wait_for(|stop| *stop), if stoppable => Err(self.given_up()),
        }
    }

    async fn head(&self, checksum: bool) -> Result<There, Refused> {
        let request = self
            .s3
            .head_object()
            .bucket(&self.at.bucket)
            .key(&self.at.key)
            .set_checksum_mode(checksum.then_some(ChecksumMode::Enabled))
            .send();
        let output = self.answer(request, self.patience.silence).await?;
        Ok(There {
            len: output.content_length().and_then(|len| len.try_into().ok()).unwrap_or_default(),
            etag: output.e_tag().map(str::to_owned),
            version_id: output.version_id().map(str::to_owned),
            crc32: output.checksum_crc32().map(str::to_owned),
        })
    }

    /// What is there now, if anything.
    ///
    /// # Errors
    /// The `destination_*` codes.
    pub(super) async fn look(&self) -> Result<Option<There>> {
        let mut tries = Tries::writing(self.patience);
        loop {
            match self.head(self.wants_checksum()).await {
                Ok(there) => return Ok(Some(there)),
                Err(refused) if refused.status == 404 => return Ok(None),
                Err(refused) => self.pause(&mut tries, refused.failure, false).await?,
            }
        }
    }

    /// Begins an upload: gives its id.
    ///
    /// # Errors
    /// The `destination_*` codes.
    pub(super) async fn begin(&self) -> Result<String> {
        let mut tries = Tries::writing(self.patience);
        loop {
            let checksum = self.wants_checksum();
            let request = self
                .s3
                .create_multipart_upload()
                .bucket(&self.at.bucket)
                .key(&self.at.key)
                .set_checksum_algorithm(checksum.then_some(ChecksumAlgorithm::Crc32))
                .send();
            let refused = match self.answer(request, self.patience.silence).await {
                Ok(output) => match output.upload_id() {
                    Some(id) => return Ok(id.to_owned()),
                    None => Refused::without_answer(Failure::broken("an upload without an id")),
                },
                Err(refused) => refused,
            };
            if !self.yields(&refused, (checksum, false))? {
                self.pause(&mut tries, refused.failure, true).await?;
            }
        }
    }

    /// Uploads one part, counted from 0.
    ///
    /// # Errors
    /// The `destination_*` codes; `cancelled` where it was given up.
    pub(super) async fn put_part(&self, id: &str, index: u64, bytes: Bytes) -> Result<Done> {
        let number = part_number(index)?;
        let furthest = Furthest::new(&self.written);
        let mut tries = Tries::writing(self.patience);
        let mut crc = None;
        loop {
            let queued = Instant::now();
            let permit = tokio::select! {
                permit = self.concurrency.enter(bytes.len() as u64) => permit,
                () = self.stopped() => return Err(self.given_up()),
            };
            tries.begin(queued.elapsed());
            let began = Instant::now();
            let checksum = self.wants_checksum().then(|| crc.get_or_insert_with(|| crc32(&bytes)).clone());
            let sent = Sent::new(&furthest);
            let request = self
                .s3
                .upload_part()
                .bucket(&self.at.bucket)
                .key(&self.at.key)
                .upload_id(id)
                .part_number(number)
                .set_checksum_crc32(checksum.clone())
                .body(ByteStream::from(bytes.clone()))
                .customize()
                .interceptor(sent.clone())
                .send();
            let refused = match self.upload(request, &sent, bytes.len() as u64, &mut tries).await {
                Ok(output) => match (output.e_tag(), differs(&checksum, output.checksum_crc32())) {
                    (Some(etag), None) => {
                        permit.went_well();
                        crate::metrics::part(began.elapsed());
                        return Ok(Done { etag: etag.to_owned(), crc32: checksum });
                    }
                    (_, Some(why)) => Refused::without_answer(Failure::broken(why)),
                    (None, _) => Refused::without_answer(Failure::broken("a part without an ETag")),
                },
                Err(refused) => refused,
            };
            if refused.is_busy() {
                permit.slow_down();
            }
            drop(permit);
            if !self.yields(&refused, (checksum.is_some(), false))? {
                self.pause(&mut tries, refused.failure, true).await?;
            }
        }
    }

    async fn stopped(&self) {
        let mut stop = self.stop.subscribe();
        // Its sender lives as long as this.
        let _closed = stop.wait_for(|stop| *stop).await;
    }

    /// Whether the store still has the upload, or parts of it.
    pub(super) async fn is_open(&self, id: &str) -> Result<bool> {
        let mut tries = Tries::writing(self.patience);
        loop {
            let request = self
                .s3
                .list_parts()
                .bucket(&self.at.bucket)
                .key(&self.at.key)
                .upload_id(id)
                .max_parts(1)
                .send();
            match self.answer(request, self.patience.silence).await {
                Ok(output) => return Ok(!output.parts().is_empty()),
                Err(refused) if refused.is_no_upload() => return Ok(false),
                Err(refused) => self.pause(&mut tries, refused.failure, false).await?,
            }
        }
    }

    /// Ends an upload; its parts are deleted. `parts`: some may have been under way when it was given up.
    ///
    /// # Errors
    /// The `destination_*` codes: its parts may be there still.
    pub(super) async fn abort(&self, id: &str, parts: bool) -> Result<()> {
        let mut tries = Tries::writing(self.patience);
        loop {
            let request = self
                .s3
                .abort_multipart_upload()
                .bucket(&self.at.bucket)
                .key(&self.at.key)
                .upload_id(id)
                .send();
            let failure = match self.answer(request, self.patience.silence).await {
                // A part that comes later stays, unless it is aborted again.
                Ok(_) if parts && self.is_open(id).await? => Failure::broken("a part came in after all"),
                Ok(_) => return Ok(()),
                Err(refused) if refused.is_no_upload() => return Ok(()),
                Err(refused) => refused.failure,
            };
            self.pause(&mut tries, failure, false).await?;
        }
    }
}

fn silent(limit: Duration) -> Refused {
    Refused::without_answer(Failure::broken(format!("no answer in {:.1} s", limit.as_secs_f64())))
}

/// The number of the part `index`: these are counted from 1.
pub(super) fn part_number(index: u64) -> Result<i32> {
    let number = index.checked_add(1).and_then(|number| i32::try_from(number).ok());
    number.ok_or_else(|| Error::internal(format!("a part number {index}")))
}

/// The checksum as S3 writes it: base64 of its big-endian bytes.
pub(super) fn crc32(bytes: &[u8]) -> String {
    aws_smithy_types::base64::encode(crc32fast::hash(bytes).to_be_bytes())
}

/// What to say where the store computed another checksum than ours.
fn differs(ours: &Option<String>, theirs: Option<&str>) -> Option<String> {
    match (ours, theirs) {
        (Some(ours), Some(theirs)) if ours != theirs => {
            Some(format!("the part has the CRC32 {ours}, and the store received one with {theirs}"))
        }
        _ => None,
    }
}
