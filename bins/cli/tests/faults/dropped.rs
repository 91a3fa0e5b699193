//! Dropping the future of a conversion leaves no task, socket, thread or file.

use std::time::Duration;

use diskferry_formats::Format;

use crate::support::{Bench, Image, child_arguments, file, in_a_child_process, names};

/// The number of open files (including sockets) and threads of this process.
fn held() -> (usize, usize) {
    (
        std::fs::read_dir("/proc/self/fd").unwrap().count(),
        std::fs::read_dir("/proc/self/task").unwrap().count(),
    )
}

#[test]
fn dropped_conversion_leaves_no_task_socket_thread_or_file() {
    const NAME: &str = "dropped::dropped_conversion_leaves_no_task_socket_thread_or_file";
    if child_arguments::<0>().is_none() {
        return in_a_child_process(NAME, &[]);
    }
    let round = |requests, to_s3| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(drop_after(requests, to_s3));
        drop(runtime);
        held()
    };
    // The first run includes one-time initialization.
    let alone = round(2, true);
    for to_s3 in [false, true] {
        for requests in [1, 3, 6, 10, 14] {
            let left = round(requests, to_s3);
            assert_eq!(left, alone, "after {requests} requests, to S3: {to_s3}: files and threads");
        }
    }
}

/// Drops a conversion after a number of requests.
async fn drop_after(requests: usize, to_s3: bool) {
    let what = format!("dropped after {requests} requests, to {}", if to_s3 { "S3" } else { "a file" });
    let image = Image::named("qcow2");
    let bench = Bench::new(64, &[image]).await;
    tokio::time::timeout(Duration::from_secs(60), bench.client.settle()).await.unwrap();
    bench.server.set_shape(diskferry_s3io::server::Shape {
        latency: Duration::from_millis(20),
        each: None,
        all: Some(32 << 20),
    });
    bench.server.forget();
    let path = bench.dir.path().join("disk.raw");
    let sink = if to_s3 { bench.object("target", false).await } else { file(&path, false).await };
    let conversion = bench.conversion(image, sink.unwrap(), Format::Raw).await.unwrap();
    let reached = async {
        while bench.server.exchanges().len() < requests {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        ended = conversion.run() => panic!("{what}: it finished: {ended:?}"),
        () = reached => {}
    }
    bench.client.settle().await;
    assert!(names(bench.dir.path()).is_empty(), "{what}: {:?}", names(bench.dir.path()));
    assert!(bench.left().is_empty(), "{what}: {:?}", bench.left());
    // No more requests arrive.
    let asked = bench.server.exchanges().len();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(bench.server.exchanges().len(), asked, "{what}");
    let Bench { server, client, dir, .. } = bench;
    drop((client, server, dir));
    let tasks = tokio::runtime::Handle::current().metrics();
    for _ in 0..500 {
        if tasks.num_alive_tasks() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}: {} tasks are left", tasks.num_alive_tasks());
}
