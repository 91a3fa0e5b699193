//! Traffic of a source: requests, bytes, and the speed of its connections.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use diskferry_core::Traffic;

/// Counts traffic, and measures latency and bandwidth.
#[derive(Debug, Default)]
pub(super) struct Meter {
    requests: AtomicU64,
    bytes: AtomicU64,
    retries: AtomicU64,
    speed: Mutex<ConnectionSpeed>,
}

/// Moving averages.
#[derive(Clone, Copy, Debug, Default)]
struct ConnectionSpeed {
    /// Seconds to the first byte.
    latency: Option<f64>,
    /// Bytes per second of one connection.
    bandwidth: Option<f64>,
}

impl Meter {
    pub(super) fn add_requests(&self, requests: u64) {
        self.requests.fetch_add(requests, Ordering::Relaxed);
    }

    pub(super) fn add_bytes(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn add_retry(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn traffic(&self) -> Traffic {
        Traffic::default()
            .requests(self.requests.load(Ordering::Relaxed))
            .bytes(self.bytes.load(Ordering::Relaxed))
            .retries(self.retries.load(Ordering::Relaxed))
    }

    /// Records the time to a response.
    pub(super) fn record_latency(&self, latency: Duration) {
        let mut speed = self.speed.lock().unwrap_or_else(PoisonError::into_inner);
        speed.latency = Some(average(speed.latency, latency.as_secs_f64()));
    }

    /// Records that a body of `bytes` bytes took the time `took`.
    pub(super) fn record_body(&self, bytes: u64, took: Duration) {
        /// Shorter bodies say nothing about bandwidth.
        const MIN_BYTES: u64 = 1 << 20;
        if bytes >= MIN_BYTES && !took.is_zero() {
            let mut speed = self.speed.lock().unwrap_or_else(PoisonError::into_inner);
            speed.bandwidth = Some(average(speed.bandwidth, bytes as f64 / took.as_secs_f64()));
        }
    }

    /// Bytes that can be read in the time that a request waits for its first byte.
    pub(super) fn gap_bytes(&self) -> u64 {
        const UNMEASURED: u64 = 1 << 20;
        const MIN: f64 = (256 << 10) as f64;
        const MAX: f64 = (4 << 20) as f64;
        let speed = *self.speed.lock().unwrap_or_else(PoisonError::into_inner);
        match (speed.latency, speed.bandwidth) {
            (Some(latency), Some(bandwidth)) => (latency * bandwidth).clamp(MIN, MAX) as u64,
            _ => UNMEASURED,
        }
    }
}

fn average(before: Option<f64>, new: f64) -> f64 {
    before.map_or(new, |before| before * 0.8 + new * 0.2)
}
