//! State that a sink and its upload task share.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use diskferry_core::{Error, Result};

use super::parts::PartSlots;
use super::target::TargetObject;

/// What the sink and its task share.
#[derive(Debug)]
pub(super) struct SharedUpload {
    pub(super) target: TargetObject,
    pub(super) slots: Arc<PartSlots>,
    /// The journal has a checkpoint to resume from.
    pub(super) has_checkpoint: AtomicBool,
    failure: Mutex<Option<Error>>,
}

impl SharedUpload {
    pub(super) fn new(target: TargetObject, slots: PartSlots) -> Self {
        Self {
            target,
            slots: Arc::new(slots),
            has_checkpoint: AtomicBool::new(false),
            failure: Mutex::new(None),
        }
    }

    /// Ends all requests and waits.
    pub(super) fn stop(&self) {
        self.target.stop.send_replace(true);
        self.slots.close();
    }

    pub(super) fn is_stopped(&self) -> bool {
        *self.target.stop.borrow()
    }

    /// Stops because of an error. The first one is kept.
    pub(super) fn fail(&self, error: Error) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.stop();
    }

    /// Why it stopped: the first error, returned once.
    pub(super) fn take_failure(&self) -> Error {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        failure.unwrap_or_else(|| self.target.cancelled())
    }

    /// # Errors
    /// If it has stopped: see [`take_failure`](Self::take_failure).
    pub(super) fn check(&self) -> Result<()> {
        if self.is_stopped() { Err(self.take_failure()) } else { Ok(()) }
    }
}
