//! The suites of every source and every sink, over the embedded server.

use std::sync::Arc;
use std::time::Duration;

use diskferry_core::{
    BoxFuture, HeadTailSource, Result, Sink, conformance::Stage, conformance::check_sink,
    conformance::check_source, conformance::pattern,
};
use diskferry_s3io::server::Server;
use diskferry_s3io::{Client, S3Sink, S3SinkOptions, open_source};

use crate::support::{BUCKET, KEY, URL, client, empty, leftovers, serve, stored};

#[tokio::test]
async fn objects_conform_by_every_kind_of_url() {
    for truth in
        [Vec::new(), vec![7], pattern(512, 2), pattern(4097, 3), pattern(700_000, 1), vec![0; 300_001]]
    {
        let server = serve(&truth).await;
        let client = client(&server).await;
        let presigned = server.presign(BUCKET, KEY, Duration::from_secs(3600)).await.unwrap();
        for url in [URL, &server.object_url(BUCKET, KEY), &presigned] {
            let source = open_source(&client, url).await.unwrap().source;
            check_source(&*source, &truth).await;
            check_source(&HeadTailSource::open(Arc::clone(&source)).await.unwrap(), &truth).await;
        }
    }
}

struct Bucket {
    server: Server,
    client: Client,
}

impl Stage for Bucket {
    fn create(&self) -> BoxFuture<'_, Result<Arc<dyn Sink>>> {
        Box::pin(async {
            let mut options = S3SinkOptions::default();
            options.force = true;
            options.part_bytes = Some(S3SinkOptions::MIN_PART);
            let sink = S3Sink::create_with(&self.client, URL, options).await?;
            Ok(Arc::new(sink) as Arc<dyn Sink>)
        })
    }

    fn published(&self) -> BoxFuture<'_, Option<Vec<u8>>> {
        Box::pin(async { stored(&self.server) })
    }

    fn leftovers(&self) -> BoxFuture<'_, Vec<String>> {
        Box::pin(async {
            self.client.settle().await;
            leftovers(&self.server).await
        })
    }
}

async fn check_uploads() {
    let server = empty().await;
    let client = client(&server).await;
    // Longer than a part, and no multiple of one.
    check_sink(&Bucket { server, client }, (5 << 20) + 300_001).await;
}

#[tokio::test]
async fn an_s3_sink_conforms() {
    check_uploads().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_s3_sink_conforms_on_many_threads() {
    check_uploads().await;
}
