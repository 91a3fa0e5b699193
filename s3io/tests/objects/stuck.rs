//! A range that is stuck is requested a second time, at little cost; connections are reused.

use std::time::Duration;

use diskferry_core::Source;
use diskferry_s3io::S3Source;
use diskferry_s3io::server::{Fault, Server};
use futures_util::stream::{self, StreamExt, TryStreamExt};

use crate::faults::behind_head;
use crate::support::{URL, content, gets, range, serve};

const LEN: usize = 3 << 20;
const FAR: u64 = 1 << 20;
const READ: u64 = 1_500_000;

/// A source with enough samples that a range is stuck after one second and not five.
async fn acquainted(server: &Server) -> S3Source {
    // The timeouts are long: reads that end well before them do so by the second request.
    let client = diskferry_s3io::Client::new(server.client_options()).await.unwrap();
    let source = S3Source::open(&client, URL).await.unwrap();
    for number in 0..20 {
        source.read(range(FAR + number * 4096, 4096)).await.unwrap();
    }
    server.forget();
    source
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_is_right_although_one_response_never_arrives() {
    let bytes = content(LEN, 1);
    for (fault, reached) in
        [(Fault::Delay(Duration::from_secs(3600)), 0), (Fault::Stall(0), 0), (Fault::Stall(700_000), 700_000)]
    {
        let server = serve(&bytes).await;
        let source = acquainted(&server).await;
        let before = source.traffic();
        let stuck = fault.clone();
        server
            .set_faults(behind_head(move |count| if count == 0 { vec![stuck.clone()] } else { Vec::new() }));
        let read = source.read(range(FAR, READ)).await.unwrap();
        assert!(read == bytes[FAR as usize..][..READ as usize], "{fault:?}");
        let asked: Vec<_> = gets(&server).iter().map(|exchange| exchange.request.range.unwrap()).collect();
        assert_eq!(asked, [(FAR, FAR + READ - 1), (FAR + reached, FAR + READ - 1)], "{fault:?}");
        let after = source.traffic();
        assert_eq!(after.requests - before.requests, 2, "{fault:?}: both are counted");
        assert_eq!((after.bytes - before.bytes, after.retries), (READ, 0), "{fault:?}: no byte came twice");
        let sent: u64 = gets(&server).iter().map(|exchange| exchange.sent).sum();
        assert_eq!(sent, READ, "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_slower_of_two_responses_is_dropped_and_both_with_the_read() {
    let bytes = content(LEN, 2);
    let server = serve(&bytes).await;
    let source = acquainted(&server).await;
    server.set_faults(behind_head(|_| vec![Fault::Stall(0)]));
    let seen = async |what: &dyn Fn(&Server) -> bool| {
        for _ in 0..1000 {
            if what(&server) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    };
    tokio::select! {
        read = source.read(range(FAR, READ)) => panic!("{read:?}"),
        two = seen(&|server| gets(server).iter().filter(|exchange| exchange.status == 206).count() == 2) => {
            assert!(two, "it is not asked for a second time");
        }
    }
    assert!(
        seen(&|server| gets(server).iter().all(|exchange| exchange.over)).await,
        "the server still sends"
    );
    assert_eq!(gets(&server).len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn second_requests_are_few_if_everything_is_stuck() {
    let bytes = content(LEN, 3);
    let server = serve(&bytes).await;
    let source = acquainted(&server).await;
    // Nothing is sent for a while, for any request.
    server.set_faults(|_| vec![Fault::Delay(Duration::from_secs(4))]);
    let reads = stream::iter(0..8u64).map(|number| source.read(range(FAR + number * 4096, 4096)));
    let read: Vec<_> = reads.buffered(8).try_collect().await.unwrap();
    for (number, read) in read.iter().enumerate() {
        assert!(*read == bytes[FAR as usize + number * 4096..][..4096]);
    }
    let asked = gets(&server).len();
    assert!((9..=12).contains(&asked), "{asked} requests for 8 ranges");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_hardly_more_than_requests_in_flight() {
    let server = serve(&content(LEN, 4)).await;
    let client = diskferry_s3io::Client::new(server.client_options()).await.unwrap();
    let source = S3Source::open(&client, URL).await.unwrap();
    let reads = stream::iter(0..100u64).map(|number| source.read(range(FAR + number * 10_000, 20_000)));
    let read: Vec<_> = reads.buffer_unordered(6).try_collect().await.unwrap();
    assert_eq!(read.len(), 100);
    let mut connections: Vec<u64> = gets(&server).iter().map(|exchange| exchange.connection).collect();
    assert_eq!(connections.len(), 101);
    connections.sort_unstable();
    connections.dedup();
    assert!(connections.len() <= 6 + 2, "{} connections", connections.len());
}
