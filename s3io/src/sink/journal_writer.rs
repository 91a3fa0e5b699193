//! Writes the journal of one upload, and keeps its heartbeat.

use std::sync::Arc;
use std::time::Duration;

use diskferry_core::Result;

use super::journal::JournalRecord;
use super::shared_upload::SharedUpload;

/// The longest time between two writes of a journal.
const HEARTBEAT: Duration = Duration::from_secs(4);

/// Writes the journal of one upload.
#[derive(Debug)]
pub(super) struct JournalWriter {
    shared: Arc<SharedUpload>,
    record: tokio::sync::Mutex<JournalRecord>,
}

impl JournalWriter {
    /// Writes the journal of an upload for the first time; `first` if there was none.
    ///
    /// # Errors
    /// See [`TargetObject::write_journal`](super::target::TargetObject::write_journal).
    pub(super) async fn begin(
        shared: Arc<SharedUpload>,
        record: JournalRecord,
        first: bool,
    ) -> Result<Arc<Self>> {
        shared.target.write_journal(&record, first).await?;
        Ok(Arc::new(Self { shared, record: tokio::sync::Mutex::new(record) }))
    }

    /// Writes the journal, changed by `change`.
    ///
    /// # Errors
    /// See [`TargetObject::write_journal`](super::target::TargetObject::write_journal).
    pub(super) async fn write(&self, change: impl FnOnce(&mut JournalRecord)) -> Result<()> {
        let mut record = self.record.lock().await;
        let mut next = record.clone();
        next.heartbeat = next.heartbeat.wrapping_add(1);
        change(&mut next);
        self.shared.target.write_journal(&next, false).await?;
        *record = next;
        Ok(())
    }

    /// Writes the journal every few seconds while it is polled.
    pub(super) async fn keep_alive(self: Arc<Self>) {
        loop {
            tokio::time::sleep(HEARTBEAT).await;
            if let Err(error) = self.write(|_| ()).await {
                tracing::debug!(%error, "the journal was not written");
            }
        }
    }
}
