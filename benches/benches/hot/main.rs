//! What is hot: bytes (zero scan, digest, codecs), the map, the plan, the parsers, the layouts.

mod map;

use std::future::Future;

use criterion::criterion_main;

/// Runs what needs no runtime: sources in memory never wait.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    futures_executor(future)
}

fn futures_executor<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    loop {
        if let std::task::Poll::Ready(done) = future.as_mut().poll(&mut context) {
            return done;
        }
    }
}

mod group {
    #![allow(missing_docs, reason = "the macro makes a public function")]
    use super::map::walks;

    criterion::criterion_group!(hot, walks);
}
use group::hot;

criterion_main!(hot);
