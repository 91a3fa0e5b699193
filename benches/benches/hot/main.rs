//! Benchmarks of hot paths: bytes (zero scan, digest, codecs), map, plan, parsers and layouts.

mod bytes;
mod codec;
mod layout;
mod map;
mod open;
mod plan;

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use criterion::criterion_main;

/// Runs a future without a runtime: sources in memory are never pending.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(done) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return done;
        }
    }
}

mod group {
    #![allow(missing_docs, reason = "the macro makes a public function")]
    use super::{bytes::digest, bytes::scan, codec::codecs, layout::layouts};
    use super::{map::walks, open::parsers, plan::planner};

    criterion::criterion_group!(hot, scan, digest, codecs, walks, planner, parsers, layouts);
}
use group::hot;

criterion_main!(hot);
