//! Prints the length, the identity and the first 16 bytes of an object: `head s3://BUCKET/KEY`.

use diskferry_core::{Error, ErrorKind, Result, Source, StoredRange};
use diskferry_s3io::{Client, ClientOptions, S3Source};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let Some(url) = std::env::args().nth(1) else {
        return Err(Error::new(ErrorKind::Usage, "head needs the URL of an object: s3://BUCKET/KEY"));
    };
    let client = Client::new(ClientOptions::default()).await?;
    let source = S3Source::open(&client, &url).await?;
    println!("{} bytes, ETag {:?}", source.len(), source.identity().etag);
    let head = source.read(StoredRange::first(source.len().min(16))).await?;
    println!("{head:02x?}");
    Ok(())
}
