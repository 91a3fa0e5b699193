//! A bit is flipped in transit, undetected by TCP.

use diskferry_core::ErrorKind;
use diskferry_formats::Format;
use diskferry_s3io::server::Fault;

use crate::support::{Bench, IMAGES, Image, is_data};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_byte_is_detected_if_the_whole_object_is_read_and_has_a_checksum() {
    for image in ["raw", "vhd-fixed"].map(Image::named) {
        let bench = Bench::new(40, &[image]).await;
        let stored = std::fs::read(bench.server.root().join(IMAGES).join(image.name)).unwrap();
        let crc = base64(crc32fast::hash(&stored));
        for damage in [None, Some(20_000_001), Some(stored.len() as u64 / 2)] {
            let kept = crc.clone();
            bench.server.set_faults(move |request| {
                if request.method == "HEAD" && request.object.starts_with(IMAGES) {
                    return vec![Fault::Header("x-amz-checksum-crc32", kept.clone())];
                }
                let range = request.range.filter(|_| is_data(request));
                let inside = range.and_then(|(first, last)| {
                    damage.filter(|at| (first..=last).contains(at)).map(|at| at - first)
                });
                inside.map(Fault::Flip).into_iter().collect()
            });
            let sink = bench.object("target", false).await.unwrap();
            let ended = bench.convert(image, sink, Format::Qcow2).await;
            bench.client.settle().await;
            match damage {
                None => {
                    assert_eq!(ended.unwrap().digest.unwrap().to_string(), bench.digest, "{image:?}");
                    std::fs::remove_file(bench.stored("target")).unwrap();
                }
                Some(at) => {
                    let error = ended.unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::SourceChanged, "{image:?}, byte {at}: {error:?}");
                    assert!(error.message().contains("CRC-32") && error.is_retryable(), "{error:?}");
                }
            }
            assert!(bench.left().is_empty(), "{:?}", bench.left());
        }
    }
}

/// Encodes four bytes in base64.
fn base64(value: u32) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits = u64::from(value) << 4;
    let digit = |at: u32| char::from(DIGITS[(bits >> (30 - 6 * at)) as usize & 63]);
    (0..6).map(digit).collect::<String>() + "=="
}
