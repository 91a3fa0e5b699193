//! Publishing a target under its key, and deleting it again.
//!
//! A request that publishes may take effect although its response is lost or an error. Before it is sent again, the store is
//! asked what is stored.

use std::time::Instant;

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use diskferry_core::{Error, ErrorKind, Result};
use md5::{Digest, Md5};

use super::failed_request::exists;
use super::target::{RUN, StoredObject, TargetObject, UploadedPart, crc32, part_number, stated_etag};
use crate::connection::{BodyProgress, Retries, Timeouts, UploadProgress};

/// How long a completion may take while the store is alive, in stall timeouts: the store assembles the parts.
const COMPLETION_TIMEOUTS: u32 = 10;

/// A published object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Published {
    pub(super) etag: Option<String>,
    pub(super) version_id: Option<String>,
}

impl From<StoredObject> for Published {
    fn from(stored: StoredObject) -> Self {
        Self { etag: stored.etag, version_id: stored.version_id }
    }
}

/// The target was not published.
#[derive(Debug)]
pub(super) struct Unpublished {
    pub(super) error: Error,
    /// It may have been published nevertheless, and the store could not be asked.
    pub(super) unknown: bool,
}

impl From<Error> for Unpublished {
    fn from(error: Error) -> Self {
        Self { error, unknown: false }
    }
}

impl TargetObject {
    /// Completes an upload: `len` bytes, in these parts.
    ///
    /// # Errors
    /// `destination_exists`, and the other `destination_*` codes.
    pub(super) async fn complete(
        &self,
        id: &str,
        parts: &[UploadedPart],
        len: u64,
    ) -> Result<Published, Unpublished> {
        let listed: Result<Vec<_>> = parts
            .iter()
            .zip(0..)
            .map(|(part, index)| {
                let completed = CompletedPart::builder().part_number(part_number(index)?).e_tag(&part.etag);
                Ok(completed.set_checksum_crc32(part.crc32.clone()).build())
            })
            .collect();
        let listed = CompletedMultipartUpload::builder().set_parts(Some(listed?)).build();
        let mut retries = Retries::writing(self.timeouts);
        let mut outcome_unknown = false;
        let end = Instant::now() + self.timeouts.stall.saturating_mul(COMPLETION_TIMEOUTS);
        loop {
            let condition = self.wants_condition();
            // Some stores accept the condition and ignore it.
            if !self.force && self.look(condition).await?.is_some() {
                // An earlier try may have taken effect meanwhile.
                return match self.published(id, parts, len, self.timeouts).await? {
                    Some(stored) if outcome_unknown => Ok(stored.into()),
                    _ => Err(self.named(exists()).into()),
                };
            }
            let request = self
                .s3
                .complete_multipart_upload()
                .bucket(&self.at.bucket)
                .key(&self.at.key)
                .upload_id(id)
                .set_if_none_match(condition.then(|| "*".to_owned()))
                .multipart_upload(listed.clone())
                .send();
            let failed = match self.attend(request, &mut retries, end).await {
                Ok(output) => {
                    let mut etag = stated_etag(output.e_tag());
                    if etag.is_none() {
                        // The parts do not tell the ETag of an encrypted object.
                        let stored =
                            self.published(id, parts, len, self.timeouts.cleanup()).await.ok().flatten();
                        etag = stored.and_then(|stored| stored.etag).or_else(|| composite(parts));
                    }
                    return Ok(Published { etag, version_id: output.version_id().map(str::to_owned) });
                }
                Err(failed) => failed,
            };
            if self.drop_feature(&failed, (false, condition))? {
                continue;
            }
            outcome_unknown |= failed.outcome_unknown;
            let timeouts = self.timeouts.within(retries.left());
            if outcome_unknown && let Some(stored) = self.published(id, parts, len, timeouts).await? {
                return Ok(stored.into());
            }
            self.wait(&mut retries, failed.failure, true).await?;
        }
    }

    /// The stored object, if it is the upload `id` of these parts.
    ///
    /// # Errors
    /// If that cannot be determined.
    pub(super) async fn published(
        &self,
        id: &str,
        parts: &[UploadedPart],
        len: u64,
        timeouts: Timeouts,
    ) -> Result<Option<StoredObject>, Unpublished> {
        let unknown = |error: Error| Unpublished { error: self.outcome_unknown(&error), unknown: true };
        let Some(stored) = self.stored(timeouts).await.map_err(unknown)? else { return Ok(None) };
        if let Some(run) = &stored.run {
            return Ok((*run == self.run()).then_some(stored));
        }
        // The store keeps no metadata, or it is an object of somebody else.
        let plain = |etag: &str| etag.trim_matches('"').to_ascii_lowercase();
        let Some(etag) = stored.etag.as_deref().map(plain) else { return Ok(None) };
        if composite(parts).is_some_and(|composite| plain(&composite) == etag) {
            return Ok(Some(stored));
        }
        // The ETags of encrypted objects are not digests. Then it is ours if the upload is over, and the length and the
        // number of parts are the same.
        let alike = stored.len == Some(len) && etag.ends_with(&format!("-{}", parts.len()));
        let ours = alike && !self.has_parts(id, timeouts).await.map_err(unknown)?;
        Ok(ours.then_some(stored))
    }

    fn outcome_unknown(&self, error: &Error) -> Error {
        Error::new(
            ErrorKind::DestinationUnavailable,
            format!("it is not known whether the object was published: {}", error.message()),
        )
        .caused_by(error.clone())
        .hint("check whether the object exists")
    }

    /// Publishes a target that fits one request.
    ///
    /// # Errors
    /// As [`complete`](Self::complete).
    pub(super) async fn put(&self, bytes: Bytes) -> Result<Published, Unpublished> {
        let progress = UploadProgress::new(&self.written);
        let mut retries = Retries::writing(self.timeouts);
        let crc = crc32(&bytes);
        let mut outcome_unknown = false;
        loop {
            let (condition, checksum) = (self.wants_condition(), self.wants_checksum());
            if !self.force && self.look(condition).await?.is_some() {
                return Err(self.named(exists()).into());
            }
            let sent = BodyProgress::new(&progress);
            let request = self
                .s3
                .put_object()
                .bucket(&self.at.bucket)
                .key(&self.at.key)
                .set_if_none_match(condition.then(|| "*".to_owned()))
                .set_checksum_crc32(checksum.then(|| crc.clone()))
                .metadata(RUN, self.run())
                .body(ByteStream::from(bytes.clone()))
                .customize()
                .interceptor(sent.clone())
                .send();
            let failed = match self.upload(request, &sent, bytes.len() as u64, &mut retries).await {
                Ok(output) => {
                    let etag = stated_etag(output.e_tag());
                    return Ok(Published { etag, version_id: output.version_id().map(str::to_owned) });
                }
                Err(failed) => failed,
            };
            if self.drop_feature(&failed, (checksum, condition))? {
                continue;
            }
            outcome_unknown |= failed.outcome_unknown;
            if outcome_unknown {
                let unknown =
                    |error: Error| Unpublished { error: self.outcome_unknown(&error), unknown: true };
                let timeouts = self.timeouts.within(retries.left());
                let stored = self.stored(timeouts).await.map_err(unknown)?;
                let ours = |stored: &StoredObject| {
                    if let Some(run) = &stored.run {
                        return *run == self.run();
                    }
                    let digest = format!("\"{}\"", hex(&Md5::digest(&bytes)));
                    stored.len == Some(bytes.len() as u64)
                        && (stored.etag.as_ref().is_some_and(|etag| etag.eq_ignore_ascii_case(&digest))
                            || stored.crc32.as_ref() == Some(&crc))
                };
                if let Some(stored) = stored.filter(ours) {
                    return Ok(stored.into());
                }
            }
            self.wait(&mut retries, failed.failure, true).await?;
        }
    }

    /// Deletes the published object, if it is still there. True if it was deleted.
    ///
    /// # Errors
    /// The `destination_*` codes.
    pub(super) async fn delete(&self, published: &Published) -> Result<bool> {
        match self.stored(self.timeouts).await? {
            Some(stored) if stored.etag.is_some() && stored.etag == published.etag => {}
            // The ETag was not known when it was published.
            Some(stored) if published.etag.is_none() && stored.run.as_ref() == Some(&self.run()) => {}
            _ => return Ok(false),
        }
        let mut retries = Retries::writing(self.timeouts);
        // A version does not change; under a key, another object may appear at any time.
        let mut condition = published.version_id.is_none();
        loop {
            let request = self
                .s3
                .delete_object()
                .bucket(&self.at.bucket)
                .key(&self.at.key)
                .set_version_id(published.version_id.clone())
                .set_if_match(published.etag.clone().filter(|_| condition))
                .send();
            match self.send(request, retries.limit()).await {
                Ok(_) => return Ok(true),
                Err(failed) if condition && failed.is_unknown_feature() => condition = false,
                Err(failed) if matches!(failed.status, 404 | 409 | 412) => return Ok(false),
                Err(failed) => self.wait(&mut retries, failed.failure, false).await?,
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The ETag that S3 gives an object of these parts: the MD5 of their MD5s, and their number. `None` if the ETags of the parts
/// are not MD5s.
fn composite(parts: &[UploadedPart]) -> Option<String> {
    let mut digest = Md5::new();
    for part in parts {
        let tag = part.etag.trim_matches('"');
        let bytes: Option<Vec<u8>> = (0..16)
            .map(|index| tag.get(2 * index..2 * index + 2).and_then(|byte| u8::from_str_radix(byte, 16).ok()))
            .collect();
        digest.update(bytes.filter(|_| tag.len() == 32)?);
    }
    Some(format!("\"{}-{}\"", hex(&digest.finalize()), parts.len()))
}
