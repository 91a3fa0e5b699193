//! The journal of an upload: a small object beside the target, from the first part to the end of the upload.
//!
//! ```text
//! KEY.diskferry-journal   writer, upload id, parts, and the checkpoint to resume from
//! ```
//!
//! It tells others that somebody is writing the target. The writer updates it every few seconds. It is abandoned if its
//! process on this host has ended, or if it does not change for some seconds.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use diskferry_core::internal::{pack, unpack};
use diskferry_core::{Error, ErrorKind, Result, Warning};
use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};

use super::target::{TargetObject, UploadedPart, part_number};
use crate::connection::{Failure, Retries, Timeouts};

/// The suffix of its key.
const SUFFIX: &str = ".diskferry-journal";
/// Its first bytes, with the version of the format.
const MAGIC: [u8; 8] = *b"dfs3jr02";
/// Maximum length. No journal is longer.
const MAX_BYTES: i64 = 80 << 20;
/// How long a journal must stay unchanged to be abandoned, if its writer is on another host. More than two heartbeats.
const WATCH: Duration = Duration::from_secs(10);
/// Parts in one response ("ListParts" in the Amazon S3 API Reference).
const LISTED_PARTS: i32 = 1000;

/// The content of a journal.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct JournalRecord {
    writer: Writer,
    /// Changes with each write.
    pub(super) heartbeat: u64,
    pub(super) upload: ResumableUpload,
    /// The conversion's checkpoint; empty if there is none yet.
    pub(super) checkpoint: Vec<u8>,
    /// The upload is over, and the journal could not be deleted. It must be overwritten.
    pub(super) ended: bool,
}

/// An upload that can be resumed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct ResumableUpload {
    pub(super) id: String,
    /// The id in the object's metadata.
    pub(super) run: String,
    pub(super) part_bytes: u64,
    /// The address of the first write. The bytes before it are written last.
    pub(super) start: u64,
    /// The parts that the store has, counted from 0.
    pub(super) parts: BTreeMap<u64, UploadedPart>,
}

/// The process that wrote it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Writer {
    host: String,
    process: i32,
}

impl Writer {
    fn this() -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self { host, process: rustix::process::getpid().as_raw_pid() }
    }

    /// Whether it has certainly ended.
    fn has_ended(&self) -> bool {
        let this = Self::this();
        let process = Pid::from_raw(self.process);
        self.host == this.host
            && self.process != this.process
            && process.is_some_and(|process| test_kill_process(process) == Err(rustix::io::Errno::SRCH))
    }
}

impl JournalRecord {
    pub(super) fn new(upload: ResumableUpload, checkpoint: Vec<u8>) -> Self {
        Self { writer: Writer::this(), heartbeat: fastrand::u64(..), upload, checkpoint, ended: false }
    }
}

impl ResumableUpload {
    /// The bytes of the target that are stored: from the first part that the store has to the first after it that is missing.
    /// Empty if the numbers in the journal are impossible.
    pub(super) fn stored(&self) -> std::ops::Range<u64> {
        let Some(first) = self.parts.keys().next().copied() else { return 0..0 };
        let count =
            self.parts.keys().copied().zip(first..=u64::MAX).take_while(|(part, next)| part == next).count();
        let at = |index: u64| index.checked_mul(self.part_bytes);
        let end = first.checked_add(count as u64).and_then(at);
        at(first).zip(end).map_or(0..0, |(start, end)| start..end)
    }
}

/// The state of the journal before an upload begins.
#[derive(Debug)]
pub(super) enum JournalState {
    /// There is none.
    Absent,
    /// One of an upload that is over. It could not be deleted, and is overwritten.
    Ended,
    /// Its writer has ended.
    Abandoned(Box<JournalRecord>),
    /// There may be one, and it cannot be read: none is written.
    Unreadable,
}

impl TargetObject {
    fn journal_key(&self) -> String {
        format!("{}{SUFFIX}", self.at.key)
    }

    /// Looks for the journal of an earlier run.
    ///
    /// # Errors
    /// `destination_busy` if its writer is active; `destination_unavailable`.
    pub(super) async fn find_journal(&self) -> Result<JournalState> {
        let Some(record) = self.read_journal().await? else { return Ok(JournalState::Absent) };
        let Some(record) = record else { return Ok(JournalState::Unreadable) };
        if record.ended {
            return Ok(JournalState::Ended);
        }
        if record.writer.has_ended() {
            return Ok(JournalState::Abandoned(Box::new(record)));
        }
        let began = tokio::time::Instant::now();
        loop {
            tokio::time::sleep(WATCH / 5).await;
            match self.read_journal().await? {
                None => return Ok(JournalState::Absent),
                Some(Some(now)) if now == record => {}
                Some(_) => return Err(self.busy()),
            }
            if began.elapsed() >= WATCH {
                return Ok(JournalState::Abandoned(Box::new(record)));
            }
        }
    }

    fn busy(&self) -> Error {
        let message = format!("another conversion is writing to {}", self.shown());
        Error::new(ErrorKind::DestinationBusy, message)
            .hint("wait for it, or choose another key; if it was killed, try again in ten seconds")
    }

    /// The journal; an inner `None` if there may be one that cannot be read.
    async fn read_journal(&self) -> Result<Option<Option<JournalRecord>>> {
        let mut retries = Retries::writing(self.timeouts);
        loop {
            let request = self.s3.get_object().bucket(&self.at.bucket).key(self.journal_key()).send();
            match self.send(request, retries.limit()).await {
                Ok(output) if output.content_length().is_some_and(|len| len > MAX_BYTES) => {
                    return Ok(Some(None));
                }
                Ok(output) => match tokio::time::timeout(self.timeouts.stall, output.body.collect()).await {
                    Ok(Ok(body)) => return Ok(Some(unpack(MAGIC, &body.into_bytes()))),
                    Ok(Err(_)) | Err(_) => {
                        let failure = Failure::transient("the journal broke off");
                        self.wait(&mut retries, failure, true).await?;
                    }
                },
                Err(failed) if failed.status == 404 => return Ok(None),
                Err(failed) if matches!(failed.status, 400..=403 | 405 | 501) => return Ok(Some(None)),
                Err(failed) => self.wait(&mut retries, failed.failure, true).await?,
            }
        }
    }

    /// Writes the journal. `first`: there was none; if another process writes one at the same time, the target is its own.
    ///
    /// # Errors
    /// `destination_busy`; and the other `destination_*` codes.
    pub(super) async fn write_journal(&self, record: &JournalRecord, first: bool) -> Result<()> {
        let bytes = pack(MAGIC, record).ok_or_else(|| Error::internal("a journal cannot be serialized"))?;
        let mut retries = Retries::journal(self.timeouts);
        let mut outcome_unknown = false;
        loop {
            let condition = first && self.supports_conditions();
            let request = self
                .s3
                .put_object()
                .bucket(&self.at.bucket)
                .key(self.journal_key())
                .set_if_none_match(condition.then(|| "*".to_owned()))
                .body(ByteStream::from(Bytes::clone(&bytes)))
                .send();
            match self.send(request, retries.limit()).await {
                Ok(_) => return Ok(()),
                // If the request was sent twice, the object may be from the first time.
                Err(failed) if condition && failed.status == 412 && outcome_unknown => return Ok(()),
                Err(failed) if condition && matches!(failed.status, 409 | 412) => return Err(self.busy()),
                Err(failed) => {
                    outcome_unknown |= failed.outcome_unknown;
                    if !self.drop_feature(&failed, (false, condition))? {
                        self.wait(&mut retries, failed.failure, true).await?;
                    }
                }
            }
        }
    }

    /// Removes the journal. If it cannot be deleted, it is overwritten by one that says that the upload is over.
    ///
    /// # Errors
    /// Why it was not deleted.
    pub(super) async fn remove_journal(&self, timeouts: Timeouts) -> Result<()> {
        let mut retries = Retries::writing(timeouts);
        loop {
            let request = self.s3.delete_object().bucket(&self.at.bucket).key(self.journal_key()).send();
            let Err(failed) = self.send(request, retries.limit()).await else { return Ok(()) };
            if failed.status == 404 {
                return Ok(());
            }
            let refused = failed.status != 0 && failed.status < 500;
            if let Err(error) = self.wait(&mut retries, failed.failure, false).await {
                if refused {
                    self.end_journal(timeouts).await;
                }
                return Err(error);
            }
        }
    }

    /// Overwrites a journal that cannot be deleted. Without it, the next run only has to wait for a few seconds.
    async fn end_journal(&self, timeouts: Timeouts) {
        let upload = ResumableUpload {
            id: String::new(),
            run: String::new(),
            part_bytes: 0,
            start: 0,
            parts: BTreeMap::new(),
        };
        let record = JournalRecord { ended: true, ..JournalRecord::new(upload, Vec::new()) };
        let Some(bytes) = pack(MAGIC, &record) else { return };
        let put = self.s3.put_object().bucket(&self.at.bucket).key(self.journal_key());
        let request = put.body(ByteStream::from(bytes)).send();
        if let Err(failed) = self.send(request, timeouts.stall).await {
            tracing::debug!(status = failed.status, "a journal was not overwritten");
        }
    }

    /// The warning about a journal that was left.
    pub(super) fn journal_left(&self, error: &Error) -> Warning {
        Warning::new(
            "journal_left",
            format!(
                "s3://{}/{} was not deleted: {}; the next conversion to this key overwrites it, and it may be deleted",
                self.at.bucket,
                self.journal_key(),
                error.message()
            ),
        )
    }

    /// Aborts the upload of an earlier run, and removes its journal. It may have ended already. If the abort fails, the
    /// bucket's lifecycle rule removes the parts. False if the journal stays, to be overwritten.
    pub(super) async fn drop_abandoned(&self, id: &str) -> bool {
        if let Err(error) = self.abort(id, false, self.timeouts).await {
            tracing::warn!("an upload of an earlier run was not aborted: {}", error.message());
        }
        match self.remove_journal(self.timeouts).await {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(%error, "the journal of an earlier run is overwritten");
                false
            }
        }
    }

    /// The upload with only those parts that the store has; `None` if the upload does not exist any more.
    ///
    /// # Errors
    /// The `destination_*` codes.
    pub(super) async fn confirm(&self, mut upload: ResumableUpload) -> Result<Option<ResumableUpload>> {
        let mut listed = BTreeMap::new();
        let mut retries = Retries::writing(self.timeouts);
        let mut marker: Option<String> = None;
        loop {
            let request = self
                .s3
                .list_parts()
                .bucket(&self.at.bucket)
                .key(&self.at.key)
                .upload_id(&upload.id)
                .max_parts(LISTED_PARTS)
                .set_part_number_marker(marker.clone())
                .send();
            match self.send(request, retries.limit()).await {
                Ok(output) => {
                    for part in output.parts() {
                        let size = part.size().and_then(|size| u64::try_from(size).ok());
                        if let (Some(number), Some(size)) = (part.part_number(), size) {
                            listed.insert(number, (part.e_tag().map(str::to_owned), size));
                        }
                    }
                    let next = output.next_part_number_marker().map(str::to_owned);
                    if output.is_truncated() != Some(true) || next.is_none() || next == marker {
                        break;
                    }
                    marker = next;
                }
                Err(failed) if failed.is_no_upload() => return Ok(None),
                Err(failed) => self.wait(&mut retries, failed.failure, true).await?,
            }
        }
        let size = upload.part_bytes;
        upload.parts.retain(|index, part| {
            // A store that does not list ETags compares them when the upload is completed.
            let same =
                |etag: &Option<String>| etag.as_ref().is_none_or(|etag| plain(etag) == plain(&part.etag));
            let found = part_number(*index).ok().and_then(|number| listed.get(&number));
            found.is_some_and(|(etag, len)| same(etag) && *len == size)
        });
        Ok(Some(upload))
    }
}

/// An ETag without its quotes.
fn plain(etag: &str) -> &str {
    etag.trim_matches('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_bytes_end_at_the_first_missing_part() {
        let part = || UploadedPart { etag: "x".to_owned(), crc32: None };
        let upload = |parts: &[u64]| ResumableUpload {
            id: "i".to_owned(),
            run: "r".to_owned(),
            part_bytes: 10,
            start: 0,
            parts: parts.iter().map(|index| (*index, part())).collect(),
        };
        assert_eq!(upload(&[]).stored(), 0..0);
        assert_eq!(upload(&[u64::MAX]).stored(), 0..0);
        assert_eq!(upload(&[0, 1, 2, 4]).stored(), 0..30);
        assert_eq!(upload(&[1, 2, 3]).stored(), 10..40);
    }

    #[test]
    fn this_process_has_not_ended_and_a_child_that_exited_has() {
        assert!(!Writer::this().has_ended());
        let mut child = diskferry_corpus::tools::command("true").spawn().unwrap();
        let process = i32::try_from(child.id()).unwrap();
        child.wait().unwrap();
        assert!(Writer { process, ..Writer::this() }.has_ended());
        assert!(!Writer { process, host: "another".to_owned() }.has_ended());
    }
}
