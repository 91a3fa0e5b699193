//! What reading costs: requests, bytes, and the time that they take.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use diskferry_core::Traffic;

/// Traffic, and what it shows of the connection.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    requests: AtomicU64,
    bytes: AtomicU64,
    retries: AtomicU64,
    line: Mutex<Line>,
}

/// Moving averages.
#[derive(Clone, Copy, Debug, Default)]
struct Line {
    /// Seconds to the first byte.
    latency: Option<f64>,
    /// Bytes a second of one connection.
    bandwidth: Option<f64>,
}

impl Meter {
    pub(crate) fn asked(&self, requests: u64) {
        self.requests.fetch_add(requests, Ordering::Relaxed);
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn asked_again(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn traffic(&self) -> Traffic {
        Traffic::default()
            .requests(self.requests.load(Ordering::Relaxed))
            .bytes(self.bytes.load(Ordering::Relaxed))
            .retries(self.retries.load(Ordering::Relaxed))
    }

    /// Time to an answer's first byte, and what a body had and took.
    pub(crate) fn measured(&self, latency: Option<Duration>, body: Option<(u64, Duration)>) {
        /// Shorter bodies say nothing about bandwidth.
        const TELLING: u64 = 1 << 20;
        let mix = |old: &mut Option<f64>, new: f64| *old = Some(old.map_or(new, |old| old * 0.8 + new * 0.2));
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(latency) = latency {
            mix(&mut line.latency, latency.as_secs_f64());
        }
        if let Some((bytes, took)) = body.filter(|(bytes, took)| *bytes >= TELLING && !took.is_zero()) {
            mix(&mut line.bandwidth, bytes as f64 / took.as_secs_f64());
        }
    }

    /// What can be read in the time that a request waits for its first byte.
    pub(crate) fn gap(&self) -> u64 {
        const UNMEASURED: u64 = 1 << 20;
        const LEAST: f64 = (256 << 10) as f64;
        const MOST: f64 = (4 << 20) as f64;
        let line = *self.line.lock().unwrap_or_else(PoisonError::into_inner);
        match (line.latency, line.bandwidth) {
            (Some(latency), Some(bandwidth)) => (latency * bandwidth).clamp(LEAST, MOST) as u64,
            _ => UNMEASURED,
        }
    }
}
