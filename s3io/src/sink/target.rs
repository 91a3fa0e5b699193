//! The requests of an upload, each with its retries. Those that publish it are in [`publish`](super::publish).

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumMode};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use diskferry_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::failed_request::{FailedRequest, exists};
use crate::concurrency::ConcurrencyLimit;
use crate::connection::{
    BodyProgress, Checksum, Client, Failure, LastProgress, Object, Retries, S3Location, S3Service, Timeouts,
    UploadProgress, in_region,
};

/// How often the progress of a body is checked within the time after which a silent one fails.
const PROGRESS_CHECKS: u32 = 8;

/// The key of the object's metadata that has the id of the upload.
pub(super) const RUN: &str = "diskferry-run";

/// The object to be written, and how requests for it are made.
#[derive(Debug)]
pub(super) struct TargetObject {
    pub(super) s3: aws_sdk_s3::Client,
    pub(super) at: S3Location,
    shown: String,
    /// The id of this upload, which the object keeps in its metadata. An upload that is resumed keeps its id.
    run: Mutex<String>,
    /// The host and port that are connected to.
    peer: String,
    pub(super) force: bool,
    pub(super) timeouts: Timeouts,
    /// When any of its requests last sent new bytes.
    progress: LastProgress,
    concurrency: ConcurrencyLimit,
    checksum: Checksum,
    /// The store refused a checksum.
    no_checksums: AtomicBool,
    /// The store refused a condition.
    no_conditions: AtomicBool,
    /// Bytes that were uploaded.
    pub(super) written: Arc<AtomicU64>,
    /// True after the upload was cancelled.
    pub(super) stop: watch::Sender<bool>,
}

/// The object that is stored now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct StoredObject {
    pub(super) len: Option<u64>,
    pub(super) etag: Option<String>,
    pub(super) version_id: Option<String>,
    pub(super) crc32: Option<String>,
    /// The id of the upload that it is of, from its metadata.
    pub(super) run: Option<String>,
}

/// Whether an object may be created, before anything is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum WritePermission {
    /// It may be written.
    Granted,
    /// There is no permission to check: only an upload shows whether it may be written.
    Unknown,
}

/// A part that the store has.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct UploadedPart {
    pub(super) etag: String,
    pub(super) crc32: Option<String>,
}

impl TargetObject {
    /// The object `at`, after checking whether it may be created.
    ///
    /// # Errors
    /// `destination_exists` unless `force`, and the other `destination_*` codes.
    pub(super) async fn open(
        client: &Client,
        at: S3Location,
        force: bool,
    ) -> Result<(Self, WritePermission)> {
        let options = client.options();
        let mut target = Self {
            s3: client.s3().client_for(&S3Service::Configured),
            shown: at.to_string(),
            run: Mutex::new(format!("{:032x}", fastrand::u128(..))),
            peer: client.s3().peer(&S3Service::Configured),
            at,
            force,
            timeouts: Timeouts::new(options),
            progress: LastProgress::default(),
            concurrency: ConcurrencyLimit::writing(options.connections),
            checksum: options.checksum,
            no_checksums: AtomicBool::new(false),
            no_conditions: AtomicBool::new(false),
            written: Arc::default(),
            stop: watch::Sender::new(false),
        };
        let permission = target.check_permission().await?;
        Ok((target, permission))
    }

    async fn check_permission(&mut self) -> Result<WritePermission> {
        let mut retries = Retries::writing(self.timeouts);
        let mut moved = false;
        loop {
            let failed = match self.head(false, retries.limit()).await {
                Ok(_) if self.force => return Ok(WritePermission::Granted),
                Ok(_) => return Err(self.named(exists())),
                Err(failed) => failed,
            };
            let requested = self.s3.config().region().map(|region| region.as_ref().to_owned());
            match (failed.status, &failed.region) {
                (301 | 307 | 400, Some(region)) if !moved && Some(region) != requested.as_ref() => {
                    moved = true;
                    self.s3 = in_region(&self.s3, region);
                }
                // The response to a HEAD does not say whether the bucket is missing.
                (404, _) => return self.check_bucket().await,
                // Nor does it say what a status of 400 is about: a GET may name the right region.
                (400, None) if !moved && let Some(region) = self.named_region().await => {
                    moved = true;
                    self.s3 = in_region(&self.s3, &region);
                }
                (400 | 401 | 403, _) => return Ok(WritePermission::Unknown),
                _ => self.wait(&mut retries, failed.failure, true).await?,
            }
        }
    }

    /// The region that the store names when it refuses a GET, if it is not the one of the request.
    async fn named_region(&self) -> Option<String> {
        let request = self.s3.get_bucket_location().bucket(&self.at.bucket).send();
        let failed = self.send(request, self.timeouts.silence).await.err()?;
        let requested = self.s3.config().region().map(|region| region.as_ref().to_owned());
        failed.region.filter(|region| Some(region) != requested.as_ref())
    }

    async fn check_bucket(&self) -> Result<WritePermission> {
        let mut retries = Retries::writing(self.timeouts);
        loop {
            let request = self.s3.head_bucket().bucket(&self.at.bucket).send();
            match self.send(request, retries.limit()).await {
                Ok(_) => return Ok(WritePermission::Granted),
                // The permission to write does not imply the one to see the bucket, and some stores do not support HeadBucket.
                Err(failed) if matches!(failed.status, 400..=403 | 405 | 501) => {
                    return Ok(WritePermission::Granted);
                }
                Err(failed) => self.wait(&mut retries, failed.failure, true).await?,
            }
        }
    }

    pub(super) fn run(&self) -> String {
        self.run.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Continues the upload of an earlier run, under its id.
    pub(super) fn set_run(&self, run: &str) {
        run.clone_into(&mut self.run.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    /// The error with the object's name in front.
    pub(super) fn named(&self, error: Error) -> Error {
        error.context(&self.shown)
    }

    pub(super) fn cancelled(&self) -> Error {
        Error::new(ErrorKind::Cancelled, format!("{} was cancelled", self.shown))
    }

    /// The client and the object, to read it back.
    pub(super) fn object(&self, version_id: Option<String>) -> Object {
        let at = S3Location { version_id, ..self.at.clone() };
        Object::S3 { client: self.s3.clone(), at }
    }

    pub(super) fn wants_checksum(&self) -> bool {
        match self.checksum {
            Checksum::Off => false,
            Checksum::Required => true,
            Checksum::Auto => !self.no_checksums.load(Ordering::Relaxed),
        }
    }

    pub(super) fn wants_condition(&self) -> bool {
        !self.force && self.supports_conditions()
    }

    /// False after the store failed a condition.
    pub(super) fn supports_conditions(&self) -> bool {
        !self.no_conditions.load(Ordering::Relaxed)
    }

    /// Whether to send a request again without a feature that the store may not support. `had` says whether the request had a
    /// checksum, and a condition.
    ///
    /// # Errors
    /// `destination_unsuitable` if a checksum is required.
    pub(super) fn drop_feature(&self, failed: &FailedRequest, had: (bool, bool)) -> Result<bool> {
        if !failed.is_unknown_feature() {
            return Ok(false);
        }
        let what = format!("status {}, {}", failed.status, failed.code);
        match had {
            (true, _) if self.checksum == Checksum::Auto => {
                tracing::debug!(%what, "the store may not support checksums, continuing without");
                self.no_checksums.store(true, Ordering::Relaxed);
                Ok(true)
            }
            (true, false) => Err(self.named(
                Error::new(
                    ErrorKind::DestinationUnsuitable,
                    format!("the store does not accept a checksum: {what}"),
                )
                .hint("use --s3-checksum auto"),
            )),
            (_, true) => {
                tracing::debug!(%what, "the store may not support conditions, checking before instead");
                self.no_conditions.store(true, Ordering::Relaxed);
                Ok(true)
            }
            (false, false) => Ok(false),
        }
    }

    /// Waits for the response to a request without a body, or with a short one.
    pub(super) async fn send<T, E>(
        &self,
        request: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
        limit: Duration,
    ) -> Result<T, FailedRequest>
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        match tokio::time::timeout(limit, request).await {
            Ok(response) => response.map_err(|error| FailedRequest::of(&error)),
            Err(_) => Err(silent(limit)),
        }
    }

    /// Waits for the response to a request with a body of `len` bytes, as long as the body makes progress. If the upload is
    /// cancelled, the request is dropped unless its whole body was sent, so that it cannot take effect; otherwise its response
    /// is waited for.
    pub(super) async fn upload<T, E>(
        &self,
        request: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
        progress: &BodyProgress,
        len: u64,
        retries: &mut Retries,
    ) -> Result<T, FailedRequest>
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let mut request = pin!(request);
        let mut stop = self.stop.subscribe();
        let (mut seen, mut furthest, mut droppable) = (0, progress.furthest(), true);
        // Bytes that were sent may still be in this host's buffers, for long on a slow link. Half of the stall timeout leaves
        // time for one more try if the response was lost.
        let (sending, sent) = (self.timeouts.silence, self.timeouts.stall / 2);
        // A try that gets nowhere ends with the stall timeout. One that sends its body may take longer.
        let patience = retries.limit();
        let mut limit = patience;
        let mut ticks = tokio::time::interval(sending / PROGRESS_CHECKS);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut silent_for = Duration::ZERO;
        loop {
            tokio::select! {
                biased;
                response = &mut request => return response.map_err(|error| FailedRequest::of(&error)),
                _ = stop.wait_for(|stop| *stop), if droppable => {
                    if progress.bytes() < len {
                        return Err(FailedRequest::without_response(Failure::Fatal(self.cancelled())));
                    }
                    droppable = false;
                }
                _ = ticks.tick() => {
                    silent_for += ticks.period();
                    let is_new = progress.furthest() > furthest;
                    if is_new {
                        furthest = progress.furthest();
                        retries.alive();
                        self.progress.note();
                    }
                    if progress.bytes() > seen {
                        (seen, silent_for) = (progress.bytes(), Duration::ZERO);
                        limit = match (seen < len, is_new) {
                            (true, true) => sending,
                            (true, false) => patience,
                            (false, _) => retries.share(sent),
                        };
                    }
                    if silent_for >= limit {
                        return Err(silent(limit));
                    }
                }
            }
        }
    }

    /// Waits before the next try, or returns the error if no try is left. If `stoppable`, the wait ends when the upload is
    /// cancelled.
    pub(super) async fn wait(&self, retries: &mut Retries, failure: Failure, stoppable: bool) -> Result<()> {
        let wait = retries.next_wait(failure).map_err(|error| match error.kind() {
            ErrorKind::Cancelled => error,
            ErrorKind::DestinationUnavailable if !error.message().contains(&self.peer) => {
                self.named(error.context(&self.peer))
            }
            _ => self.named(error),
        })?;
        let mut stop = self.stop.subscribe();
        tokio::select! {
            () = tokio::time::sleep(wait) => Ok(()),
            _ = stop.wait_for(|stop| *stop), if stoppable => Err(self.cancelled()),
        }
    }

    pub(super) async fn head(&self, checksum: bool, limit: Duration) -> Result<StoredObject, FailedRequest> {
        let request = self
            .s3
            .head_object()
            .bucket(&self.at.bucket)
            .key(&self.at.key)
            .set_checksum_mode(checksum.then_some(ChecksumMode::Enabled))
            .send();
        let output = self.send(request, limit).await?;
        Ok(StoredObject {
            len: output.content_length().and_then(|len| len.try_into().ok()),
            etag: stated_etag(output.e_tag()),
            version_id: output.version_id().map(str::to_owned),
            crc32: output.checksum_crc32().map(str::to_owned),
            run: output.metadata().and_then(|metadata| metadata.get(RUN)).cloned(),
        })
    }

    /// The object that is stored now, if there is one.
    ///
    /// # Errors
    /// The `destination_*` codes.
    pub(super) async fn stored(&self, timeouts: Timeouts) -> Result<Option<StoredObject>> {
        let mut retries = Retries::writing(timeouts);
        loop {
            match self.head(self.wants_checksum(), retries.limit()).await {
                Ok(stored) => return Ok(Some(stored)),
                Err(failed) if failed.status == 404 => return Ok(None),
                Err(failed) => self.wait(&mut retries, failed.failure, false).await?,
            }
        }
    }

    /// The object that is stored now, before one is published: nothing may be there. If the store does not let us look, a
    /// `condition` of the request must do.
    ///
    /// # Errors
    /// The `destination_*` codes.
    pub(super) async fn look(&self, condition: bool) -> Result<Option<StoredObject>> {
        let mut retries = Retries::writing(self.timeouts);
        loop {
            match self.head(false, retries.limit()).await {
                Ok(stored) => return Ok(Some(stored)),
                Err(failed) if failed.status == 404 => return Ok(None),
                Err(failed) if condition && matches!(failed.status, 400..=403 | 405 | 501) => {
                    return Ok(None);
                }
                Err(failed) => self.wait(&mut retries, failed.failure, true).await?,
            }
        }
    }

    /// Waits for the response to a request that may take the store long. Meanwhile the store is asked whether it is alive,
    /// which counts as progress until `end`. The request is given up after the stall timeout: it may be lost.
    pub(super) async fn attend<T, E>(
        &self,
        request: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
        retries: &mut Retries,
        end: Instant,
    ) -> Result<T, FailedRequest>
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let mut request = pin!(request);
        let began = Instant::now();
        let mut was_away = false;
        loop {
            let limit = retries.limit();
            if let Ok(response) = tokio::time::timeout(limit, &mut request).await {
                return response.map_err(|error| FailedRequest::of(&error));
            }
            let looked = tokio::select! {
                biased;
                response = &mut request => return response.map_err(|error| FailedRequest::of(&error)),
                looked = self.head(false, retries.limit()) => looked,
            };
            let alive = match looked {
                Ok(_) => true,
                Err(failed) => matches!(failed.status, 300..500) && !failed.is_throttled(),
            };
            if alive && Instant::now() < end {
                retries.alive();
            }
            // After it was away, the store may not know of the request any more.
            if (alive && was_away) || began.elapsed() >= self.timeouts.stall || retries.left().is_zero() {
                return Err(silent(began.elapsed()));
            }
            was_away |= !alive;
        }
    }

    /// Begins an upload, and returns its id.
    ///
    /// # Errors
    /// The `destination_*` codes.
    pub(super) async fn create_upload(&self) -> Result<String> {
        let mut retries = Retries::writing(self.timeouts);
        let began = SystemTime::now();
        loop {
            let checksum = self.wants_checksum();
            let request = self
                .s3
                .create_multipart_upload()
                .bucket(&self.at.bucket)
                .key(&self.at.key)
                .metadata(RUN, self.run())
                .set_checksum_algorithm(checksum.then_some(ChecksumAlgorithm::Crc32))
                .send();
            let failed = match self.send(request, retries.limit()).await {
                Ok(output) => match output.upload_id() {
                    Some(id) => return Ok(id.to_owned()),
                    None => FailedRequest::without_response(Failure::transient(
                        "the store sent no id of the upload",
                    )),
                },
                Err(failed) => failed,
            };
            // Another try would begin another upload.
            if let Some(id) = failed.misunderstood {
                return Err(self.named(self.end_misunderstood(id, began).await));
            }
            if !self.drop_feature(&failed, (checksum, false))? {
                self.wait(&mut retries, failed.failure, true).await?;
            }
        }
    }

    /// Ends the upload that a store began and answered with a document that is not understood. Returns the error to report.
    async fn end_misunderstood(&self, id: Option<String>, began: SystemTime) -> Error {
        let found = match id {
            Some(id) => vec![id],
            None => self.uploads_since(began).await,
        };
        let mut left = Vec::new();
        for id in &found {
            if self.abort(id, false, self.timeouts.cleanup()).await.is_err() {
                left.push(id.chars().filter(|c| !c.is_control()).take(200).collect::<String>());
            }
        }
        let what = "the store's response to CreateMultipartUpload is not one of the S3 protocol";
        let outcome = match (found.is_empty(), left.is_empty()) {
            (true, _) => "an upload without parts may be left".to_owned(),
            (false, true) => "the upload that it began was ended".to_owned(),
            (false, false) => format!("the upload {} is left", left.join(", ")),
        };
        Error::new(ErrorKind::DestinationUnsuitable, format!("{}: {what}; {outcome}", self.peer)).hint(
            "use another store, or write to a file; `aws s3api list-multipart-uploads` shows what is left",
        )
    }

    /// The uploads to this key that began after that time, by the store's clock. None if the store cannot say.
    async fn uploads_since(&self, began: SystemTime) -> Vec<String> {
        /// Clocks differ, and stores tell whole seconds.
        const MARGIN: Duration = Duration::from_secs(2);
        let request = self.s3.list_multipart_uploads().bucket(&self.at.bucket).prefix(&self.at.key).send();
        let Ok(output) = self.send(request, self.timeouts.silence).await else { return Vec::new() };
        let since = began.checked_sub(MARGIN).unwrap_or(began);
        let ours =
            output.uploads().iter().filter(|upload| upload.key() == Some(&*self.at.key)).filter(|upload| {
                upload.initiated().and_then(|at| SystemTime::try_from(*at).ok()).is_some_and(|at| at >= since)
            });
        ours.filter_map(|upload| upload.upload_id().map(str::to_owned)).collect()
    }

    /// Uploads one part, counted from 0.
    ///
    /// # Errors
    /// The `destination_*` codes; `cancelled` if the upload was cancelled.
    pub(super) async fn put_part(&self, id: &str, index: u64, bytes: Bytes) -> Result<UploadedPart> {
        let number = part_number(index)?;
        let progress = UploadProgress::new(&self.written);
        let mut retries = Retries::writing(self.timeouts);
        let mut crc = None;
        loop {
            let queued = Instant::now();
            let permit = tokio::select! {
                permit = self.concurrency.acquire(bytes.len() as u64) => permit,
                () = self.stopped() => return Err(self.cancelled()),
            };
            retries.begin(queued.elapsed(), &self.progress);
            let began = Instant::now();
            let checksum = self.wants_checksum().then(|| crc.get_or_insert_with(|| crc32(&bytes)).clone());
            let sent = BodyProgress::new(&progress);
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
            let failed = match self.upload(request, &sent, bytes.len() as u64, &mut retries).await {
                Ok(output) => {
                    match (stated_etag(output.e_tag()), mismatch(&checksum, output.checksum_crc32())) {
                        (Some(etag), None) => {
                            permit.succeeded();
                            crate::metrics::part(began.elapsed());
                            return Ok(UploadedPart { etag, crc32: checksum });
                        }
                        (_, Some(why)) => FailedRequest::without_response(Failure::transient(why)),
                        (None, _) => FailedRequest::without_response(Failure::transient(
                            "the store sent no ETag of the part",
                        )),
                    }
                }
                Err(failed) => failed,
            };
            if failed.is_throttled() {
                permit.throttled();
            }
            drop(permit);
            if !self.drop_feature(&failed, (checksum.is_some(), false))? {
                self.wait(&mut retries, failed.failure, true).await?;
            }
        }
    }

    async fn stopped(&self) {
        let mut stop = self.stop.subscribe();
        // The sender lives as long as `self`.
        let _closed = stop.wait_for(|stop| *stop).await;
    }

    /// Whether the store still has parts of the upload.
    pub(super) async fn has_parts(&self, id: &str, timeouts: Timeouts) -> Result<bool> {
        let mut retries = Retries::writing(timeouts);
        loop {
            let request = self
                .s3
                .list_parts()
                .bucket(&self.at.bucket)
                .key(&self.at.key)
                .upload_id(id)
                .max_parts(1)
                .send();
            match self.send(request, retries.limit()).await {
                Ok(output) => return Ok(!output.parts().is_empty()),
                Err(failed) if failed.is_no_upload() => return Ok(false),
                Err(failed) => self.wait(&mut retries, failed.failure, false).await?,
            }
        }
    }

    /// Aborts an upload, which deletes its parts. `parts`: some may have been in flight when it was cancelled.
    ///
    /// # Errors
    /// The `destination_*` codes: its parts may still be there.
    pub(super) async fn abort(&self, id: &str, parts: bool, timeouts: Timeouts) -> Result<()> {
        let mut retries = Retries::writing(timeouts);
        loop {
            let request = self
                .s3
                .abort_multipart_upload()
                .bucket(&self.at.bucket)
                .key(&self.at.key)
                .upload_id(id)
                .send();
            // A store may take long to delete many parts.
            let failure = match self.send(request, retries.left().max(retries.limit())).await {
                // A part that arrives after the abort stays, unless the upload is aborted again.
                Ok(_) if parts && self.has_parts(id, timeouts).await? => {
                    Failure::transient("a part arrived after the abort")
                }
                Ok(_) => return Ok(()),
                Err(failed) if failed.is_no_upload() => return Ok(()),
                Err(failed) => failed.failure,
            };
            self.wait(&mut retries, failure, false).await?;
        }
    }
}

/// An ETag that says something: some stores answer an empty one.
pub(super) fn stated_etag(etag: Option<&str>) -> Option<String> {
    etag.filter(|etag| !etag.trim_matches('"').is_empty()).map(str::to_owned)
}

fn silent(limit: Duration) -> FailedRequest {
    FailedRequest::without_response(Failure::transient(format!(
        "no response in {:.1} s",
        limit.as_secs_f64()
    )))
}

/// The number of the part `index`, which S3 counts from 1.
pub(super) fn part_number(index: u64) -> Result<i32> {
    let number = index.checked_add(1).and_then(|number| i32::try_from(number).ok());
    number.ok_or_else(|| Error::internal(format!("the part {index} has no number")))
}

/// The checksum in the form of S3: base64 of its big-endian bytes.
pub(super) fn crc32(bytes: &[u8]) -> String {
    STANDARD.encode(crc32fast::hash(bytes).to_be_bytes())
}

/// The error message if the store computed another checksum.
fn mismatch(ours: &Option<String>, theirs: Option<&str>) -> Option<String> {
    match (ours, theirs) {
        (Some(ours), Some(theirs)) if ours != theirs => {
            Some(format!("the part has the CRC32 {ours}, and the store received one with {theirs}"))
        }
        _ => None,
    }
}
