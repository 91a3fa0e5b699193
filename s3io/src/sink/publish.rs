//! How a target gets its name, and loses it again.
//!
//! A request that publishes may take effect though its answer is lost or an error: the store is asked what is there before
//! it is sent again.

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use diskferry_core::{Error, ErrorKind, Result};
use md5::{Digest, Md5};

use super::refusal::exists;
use super::store::{Done, Store, There, crc32, part_number};
use crate::retry::Tries;
use crate::sent::{Furthest, Sent};

/// How much longer than other requests a completion may take, in stall timeouts: the store puts the parts together.
const COMPLETION: u32 = 10;

/// What was published.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Published {
    pub(super) etag: Option<String>,
    pub(super) version_id: Option<String>,
}

impl From<There> for Published {
    fn from(there: There) -> Self {
        Self { etag: there.etag, version_id: there.version_id }
    }
}

/// A publishing that failed.
#[derive(Debug)]
pub(super) struct Unpublished {
    pub(super) error: Error,
    /// It may have taken effect, and the store could not be asked.
    pub(super) unknown: bool,
}

impl From<Error> for Unpublished {
    fn from(error: Error) -> Self {
        Self { error, unknown: false }
    }
}

impl Store {
    /// Publishes what was uploaded: `len` bytes in these parts, all of them.
    ///
    /// # Errors
    /// `destination_exists`, and the other `destination_*` codes.
    pub(super) async fn complete(
        &self,
        id: &str,
        parts: &[Done],
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
        let mut tries = Tries::writing(self.patience);
        let mut lost = false;
        loop {
            let condition = self.wants_condition();
            if !self.force && !condition && self.look().await?.is_some() {
                return Err(self.named(&exists()).into());
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
            let limit = self.patience.stall.saturating_mul(COMPLETION);
            let refused = match self.answer(request, limit).await {
                Ok(output) => {
                    let etag = output.e_tag().map(str::to_owned).or_else(|| composite(parts));
                    return Ok(Published { etag, version_id: output.version_id().map(str::to_owned) });
                }
                Err(refused) => refused,
            };
            if self.yields(&refused, (false, condition))? {
                continue;
            }
            lost |= refused.lost;
            if lost && let Some(there) = self.published(id, parts, len).await? {
                return Ok(there.into());
            }
            self.pause(&mut tries, refused.failure, true).await?;
        }
    }

    /// What is there, where it is the upload `id` of these parts.
    ///
    /// # Errors
    /// Where that cannot be found out.
    pub(super) async fn published(
        &self,
        id: &str,
        parts: &[Done],
        len: u64,
    ) -> Result<Option<There>, Unpublished> {
        let unknown = |error: Error| Unpublished { error: self.not_known(&error), unknown: true };
        let Some(there) = self.look().await.map_err(unknown)? else { return Ok(None) };
        let plain = |etag: &str| etag.trim_matches('"').to_ascii_lowercase();
        let etag = there.etag.as_deref().map(plain).unwrap_or_default();
        if composite(parts).is_some_and(|composite| plain(&composite) == etag) {
            return Ok(Some(there));
        }
        // Encrypted, the tags are no digests; but then an upload that is over, and as many bytes and parts, say it.
        let alike = there.len == len && etag.ends_with(&format!("-{}", parts.len()));
        let ours = alike && !self.is_open(id).await.map_err(unknown)?;
        Ok(ours.then_some(there))
    }

    fn not_known(&self, error: &Error) -> Error {
        Error::new(
            ErrorKind::DestinationUnavailable,
            format!("whether it was published is not known: {}", error.message()),
        )
        .hint("look whether the object is there")
    }

    /// Publishes a target that fits one request.
    ///
    /// # Errors
    /// As [`complete`](Self::complete).
    pub(super) async fn put(&self, bytes: Bytes) -> Result<Published, Unpublished> {
        let furthest = Furthest::new(&self.written);
        let mut tries = Tries::writing(self.patience);
        let crc = crc32(&bytes);
        let mut lost = false;
        loop {
            let (condition, checksum) = (self.wants_condition(), self.wants_checksum());
            if !self.force && !condition && self.look().await?.is_some() {
                return Err(self.named(&exists()).into());
            }
            let sent = Sent::new(&furthest);
            let request = self
                .s3
                .put_object()
                .bucket(&self.at.bucket)
                .key(&self.at.key)
                .set_if_none_match(condition.then(|| "*".to_owned()))
                .set_checksum_crc32(checksum.then(|| crc.clone()))
                .body(ByteStream::from(bytes.clone()))
                .customize()
                .interceptor(sent.clone())
                .send();
            let refused = match self.upload(request, &sent, bytes.len() as u64, &mut tries).await {
                Ok(output) => {
                    let etag = output.e_tag().map(str::to_owned);
                    return Ok(Published { etag, version_id: output.version_id().map(str::to_owned) });
                }
                Err(refused) => refused,
            };
            if self.yields(&refused, (checksum, condition))? {
                continue;
            }
            lost |= refused.lost;
            if lost {
                let unknown = |error: Error| Unpublished { error: self.not_known(&error), unknown: true };
                let there = self.look().await.map_err(unknown)?;
                let ours = |there: &There| {
                    let digest = format!("\"{}\"", hex(&Md5::digest(&bytes)));
                    there.len == bytes.len() as u64
                        && (there.etag.as_ref().is_some_and(|etag| etag.eq_ignore_ascii_case(&digest))
                            || there.crc32.as_ref() == Some(&crc))
                };
                if let Some(there) = there.filter(ours) {
                    return Ok(there.into());
                }
            }
            self.pause(&mut tries, refused.failure, true).await?;
        }
    }

    /// Deletes what was published, if it is there still.
    ///
    /// # Errors
    /// The `destination_*` codes.
    pub(super) async fn delete(&self, published: &Published) -> Result<bool> {
        match self.look().await? {
            Some(there) if there.etag.is_some() && there.etag == published.etag => {}
            _ => return Ok(false),
        }
        let mut tries = Tries::writing(self.patience);
        // A version is what it is; a name may get another object at any time.
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
            match self.answer(request, self.patience.silence).await {
                Ok(_) => return Ok(true),
                Err(refused) if condition && refused.is_unknown_feature() => condition = false,
                Err(refused) if matches!(refused.status, 404 | 409 | 412) => return Ok(false),
                Err(refused) => self.pause(&mut tries, refused.failure, false).await?,
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The entity tag that S3 gives an object of these parts: the MD5 of their MD5s, and how many they are. None where the
/// parts' tags are no MD5s.
fn composite(parts: &[Done]) -> Option<String> {
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
