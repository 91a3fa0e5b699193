//! The journal of an upload: a small object beside the target, from its first part to its end.
//!
//! ```text
//! KEY.diskferry-journal   who writes, the upload and its parts, and how the run goes on from there
//! ```
//!
//! It tells others that somebody works on the target. Whoever wrote it is gone where that is to be seen on this host, or
//! where it does not change for a while: the one who works writes it anew every few seconds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use diskferry_core::internal::{pack, unpack};
use diskferry_core::{Error, ErrorKind, Result};
use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};

use super::store::{Done, Store, part_number};
use super::upload::Shared;
use crate::retry::Tries;

/// What its key ends in.
const SUFFIX: &str = ".diskferry-journal";
/// How it begins, and the version of what follows.
const MAGIC: [u8; 8] = *b"dfs3jr01";
/// No journal is longer.
const MOST: i64 = 80 << 20;
/// How often one that is worked with is written anew, at least.
const BEAT: Duration = Duration::from_secs(4);
/// So long it is looked at where its writer cannot be.
const LOOK: Duration = Duration::from_secs(10);
/// Parts that are listed at once, as S3 has it ("ListParts" in the Amazon S3 API Reference).
const LISTED: i32 = 1000;

/// What it holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Held {
    writer: Writer,
    /// How often it was written: no two in a row are the same.
    beat: u64,
    pub(super) upload: Left,
    /// How the run goes on; empty where it cannot yet.
    pub(super) state: Vec<u8>,
}

/// An upload that can be gone on with.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Left {
    pub(super) id: String,
    pub(super) part_bytes: u64,
    /// Where the writing began: what lies before it comes last.
    pub(super) start: u64,
    /// The parts that are there, counted from 0.
    pub(super) parts: BTreeMap<u64, Done>,
}

/// Who wrote it.
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

    /// Whether it is sure to be gone.
    fn is_gone(&self) -> bool {
        let this = Self::this();
        let process = Pid::from_raw(self.process);
        self.host == this.host
            && self.process != this.process
            && process.is_some_and(|process| test_kill_process(process) == Err(rustix::io::Errno::SRCH))
    }
}

impl Held {
    pub(super) fn new(upload: Left, state: Vec<u8>) -> Self {
        Self { writer: Writer::this(), beat: fastrand::u64(..), upload, state }
    }
}

impl Left {
    /// The bytes of the target that are there: from the first part that is, up to the first that is not.
    pub(super) fn kept(&self) -> std::ops::Range<u64> {
        let Some(first) = self.parts.keys().next().copied() else { return 0..0 };
        let count = self.parts.keys().copied().zip(first..).take_while(|(part, next)| part == next).count();
        let at = |index: u64| index.saturating_mul(self.part_bytes);
        at(first)..at(first.saturating_add(count as u64))
    }
}

/// What a look at the journal shows.
#[derive(Debug)]
pub(super) enum Found {
    Nothing,
    /// One whose writer is gone.
    Left(Box<Held>),
    /// There may be one, and it cannot be read: none is kept.
    Unknown,
}

impl Store {
    fn journal_key(&self) -> String {
        format!("{}{SUFFIX}", self.at.key)
    }

    /// Looks for the journal of an earlier run.
    ///
    /// # Errors
    /// `destination_busy` where its writer goes on; `destination_unavailable`.
    pub(super) async fn find_journal(&self) -> Result<Found> {
        let Some(held) = self.read_journal().await? else { return Ok(Found::Nothing) };
        let Some(held) = held else { return Ok(Found::Unknown) };
        if held.writer.is_gone() {
            return Ok(Found::Left(Box::new(held)));
        }
        let began = tokio::time::Instant::now();
        loop {
            tokio::time::sleep(LOOK / 5).await;
            match self.read_journal().await? {
                None => return Ok(Found::Nothing),
                Some(Some(now)) if now == held => {}
                Some(_) => return Err(self.busy()),
            }
            if began.elapsed() >= LOOK {
                return Ok(Found::Left(Box::new(held)));
            }
        }
    }

    fn busy(&self) -> Error {
        let message = format!("another conversion is writing to {}", self.shown());
        Error::new(ErrorKind::DestinationBusy, message).hint(
            "wait for it, or choose another key; one that was killed shows as such after some ten seconds",
        )
    }

    /// The journal; an inner `None` where there may be one that is not ours to read.
    async fn read_journal(&self) -> Result<Option<Option<Held>>> {
        let mut tries = Tries::writing(self.patience);
        loop {
            let request = self.s3.get_object().bucket(&self.at.bucket).key(self.journal_key()).send();
            match self.answer(request, self.patience.silence).await {
                Ok(output) if output.content_length().is_some_and(|len| len > MOST) => return Ok(Some(None)),
                Ok(output) => match tokio::time::timeout(self.patience.stall, output.body.collect()).await {
                    Ok(Ok(body)) => return Ok(Some(unpack(MAGIC, &body.into_bytes()))),
                    Ok(Err(_)) | Err(_) => {
                        let failure = crate::retry::Failure::broken("the journal breaks off");
                        self.pause(&mut tries, failure, true).await?;
                    }
                },
                Err(refused) if refused.status == 404 => return Ok(None),
                Err(refused) if matches!(refused.status, 400..=403 | 405 | 501) => return Ok(Some(None)),
                Err(refused) => self.pause(&mut tries, refused.failure, true).await?,
            }
        }
    }

    /// Writes the journal. `first`: there is none, and where another one appears at this moment, that is whose target it is.
    ///
    /// # Errors
    /// `destination_busy`; and the other `destination_*` codes.
    pub(super) async fn write_journal(&self, held: &Held, first: bool) -> Result<()> {
        let bytes = pack(MAGIC, held).ok_or_else(|| Error::internal("a journal cannot be packed"))?;
        let mut tries = Tries::writing(self.patience);
        let mut lost = false;
        loop {
            let condition = first && self.knows_conditions();
            let request = self
                .s3
                .put_object()
                .bucket(&self.at.bucket)
                .key(self.journal_key())
                .set_if_none_match(condition.then(|| "*".to_owned()))
                .body(ByteStream::from(Bytes::clone(&bytes)))
                .send();
            match self.answer(request, self.patience.silence).await {
                Ok(_) => return Ok(()),
                // What was answered to a request that was sent twice may be about itself.
                Err(refused) if condition && refused.status == 412 && lost => return Ok(()),
                Err(refused) if condition && matches!(refused.status, 409 | 412) => return Err(self.busy()),
                Err(refused) => {
                    lost |= refused.lost;
                    if !self.yields(&refused, (false, condition))? {
                        self.pause(&mut tries, refused.failure, true).await?;
                    }
                }
            }
        }
    }

    /// Removes the journal. One that stays says at its next look that it is of no use.
    pub(super) async fn remove_journal(&self) {
        let mut tries = Tries::writing(self.patience);
        loop {
            let request = self.s3.delete_object().bucket(&self.at.bucket).key(self.journal_key()).send();
            let Err(refused) = self.answer(request, self.patience.silence).await else { return };
            if refused.status == 404 {
                return;
            }
            if let Err(error) = self.pause(&mut tries, refused.failure, false).await {
                tracing::warn!(%error, "a journal stays behind");
                return;
            }
        }
    }

    /// Ends an upload that an earlier run left, and its journal. It may be gone already, and a store need not say so: what
    /// stays is for the bucket's lifecycle rule.
    pub(super) async fn drop_left(&self, id: &str) {
        if let Err(error) = self.abort(id, false).await {
            tracing::warn!(%error, "an upload of an earlier run may stay behind");
        }
        self.remove_journal().await;
    }

    /// What the store has of an upload, of what the journal says: `None` where the upload is gone.
    ///
    /// # Errors
    /// The `destination_*` codes.
    pub(super) async fn confirm(&self, mut left: Left) -> Result<Option<Left>> {
        let mut there = BTreeMap::new();
        let mut tries = Tries::writing(self.patience);
        let mut marker: Option<String> = None;
        loop {
            let request = self
                .s3
                .list_parts()
                .bucket(&self.at.bucket)
                .key(&self.at.key)
                .upload_id(&left.id)
                .max_parts(LISTED)
                .set_part_number_marker(marker.clone())
                .send();
            match self.answer(request, self.patience.silence).await {
                Ok(output) => {
                    for part in output.parts() {
                        if let (Some(number), Some(size)) = (part.part_number(), part.size()) {
                            let etag = part.e_tag().map(str::to_owned);
                            there.insert(number, (etag, u64::try_from(size).unwrap_or_default()));
                        }
                    }
                    let next = output.next_part_number_marker().map(str::to_owned);
                    if output.is_truncated() != Some(true) || next.is_none() || next == marker {
                        break;
                    }
                    marker = next;
                }
                Err(refused) if refused.is_no_upload() => return Ok(None),
                Err(refused) => self.pause(&mut tries, refused.failure, true).await?,
            }
        }
        let size = left.part_bytes;
        left.parts.retain(|index, done| {
            let number = part_number(*index).unwrap_or_default();
            // A store that does not tell the tag here looks at it when the upload is completed.
            let same =
                |etag: &Option<String>| etag.as_ref().is_none_or(|etag| plain(etag) == plain(&done.etag));
            there.get(&number).is_some_and(|(etag, len)| same(etag) && *len == size)
        });
        Ok(Some(left))
    }
}

/// Keeps the journal of one upload, and shows that somebody works on it.
#[derive(Debug)]
pub(super) struct Keeper {
    shared: Arc<Shared>,
    held: tokio::sync::Mutex<Held>,
}

impl Keeper {
    /// Begins the journal of an upload; `first` where none is there.
    ///
    /// # Errors
    /// See [`Store::write_journal`].
    pub(super) async fn begin(shared: Arc<Shared>, held: Held, first: bool) -> Result<Arc<Self>> {
        shared.store.write_journal(&held, first).await?;
        Ok(Arc::new(Self { shared, held: tokio::sync::Mutex::new(held) }))
    }

    /// Writes it anew, changed by `change`.
    ///
    /// # Errors
    /// See [`Store::write_journal`].
    pub(super) async fn write(&self, change: impl FnOnce(&mut Held)) -> Result<()> {
        let mut held = self.held.lock().await;
        let mut next = held.clone();
        next.beat = next.beat.wrapping_add(1);
        change(&mut next);
        self.shared.store.write_journal(&next, false).await?;
        *held = next;
        Ok(())
    }

    /// Shows for as long as it is polled that somebody works on the target.
    pub(super) async fn beat(self: Arc<Self>) {
        loop {
            tokio::time::sleep(BEAT).await;
            if let Err(error) = self.write(|_| ()).await {
                tracing::debug!(%error, "the journal was not written");
            }
        }
    }
}

/// An entity tag without its quotes.
fn plain(etag: &str) -> &str {
    etag.trim_matches('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_ends_at_the_first_part_that_is_missing() {
        let done = || Done { etag: "x".to_owned(), crc32: None };
        let left = |parts: &[u64]| Left {
            id: "i".to_owned(),
            part_bytes: 10,
            start: 0,
            parts: parts.iter().map(|part| (*part, done())).collect(),
        };
        assert_eq!(left(&[]).kept(), 0..0);
        assert_eq!(left(&[0, 1, 2, 4]).kept(), 0..30);
        assert_eq!(left(&[1, 2, 3]).kept(), 10..40);
    }

    #[test]
    fn this_process_is_not_gone_and_one_that_ended_is() {
        assert!(!Writer::this().is_gone());
        let mut child = diskferry_corpus::tools::command("true").spawn().unwrap();
        let process = i32::try_from(child.id()).unwrap();
        child.wait().unwrap();
        assert!(Writer { process, ..Writer::this() }.is_gone());
        assert!(!Writer { process, host: "another".to_owned() }.is_gone());
    }
}
