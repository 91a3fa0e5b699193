//! The suite of every source, over the embedded server.

use std::sync::Arc;
use std::time::Duration;

use diskferry_core::conformance::{check_source, pattern};
use diskferry_core::source::wrap::HeadTail;
use diskferry_s3io::open_source;

use crate::support::{BUCKET, KEY, URL, client, serve};

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
            check_source(&HeadTail::open(Arc::clone(&source)).await.unwrap(), &truth).await;
        }
    }
}
