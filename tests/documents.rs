//! The JSON documents as types: what they serialize to is what they read back, and has the members of the contract.

use std::sync::Arc;

use diskferry::{
    Conversion, Declared, Error, FileSink, FileSinkOptions, FileSource, Format, Result, TargetOptions, json,
};
use diskferry_core::internal::HumanBytes;
use diskferry_core::{Depth, ErrorKind, Limits, Resources, Walk, compare, measure_at};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Reads back what `document` serializes to, and returns its members.
#[track_caller]
fn members<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(document: &T) -> Vec<String> {
    let text = serde_json::to_string(document).expect("it serializes");
    assert_eq!(&serde_json::from_str::<T>(&text).expect("it reads back"), document, "{text}");
    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let mut names: Vec<String> = value.as_object().expect("an object").keys().cloned().collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_read_back_and_have_the_members_of_the_contract() -> Result<()> {
    let dir = tempfile::tempdir().expect("a directory");
    let sample = diskferry_corpus::sample("qcow2-40g-ext4");
    let path = dir.path().join(sample.file_name());
    std::fs::write(&path, sample.bytes()).expect("the sample is written");
    let open = async || {
        diskferry::open(FileSource::open(&path).await?, Declared::Format(Format::Qcow2)).await.map(Arc::new)
    };
    let disk = open().await?;
    let partitions = diskferry_formats::inspect_disk(&disk).await?;
    let info = json::Info::new(&disk, &partitions);
    assert_eq!(
        members(&info),
        [
            "cluster_bytes",
            "cost",
            "features",
            "format",
            "partition_table",
            "partitions",
            "refusals",
            "source",
            "variant",
            "virtual_bytes",
            "warnings"
        ]
    );
    assert_eq!(info.virtual_bytes, sample.virtual_bytes, "{}", HumanBytes(info.virtual_bytes));

    let mut walk = Walk::new(&disk);
    let stretches = walk.next().await?.expect("the disk has extents");
    let extent = json::Extent::new(&disk, stretches.first().expect("one of them"));
    assert_eq!(members(&extent), ["file", "kind", "length", "offset", "start", "stored"]);

    let measured = measure_at(&disk, &Limits::default(), Depth::Tables, None, &Resources::default()).await?;
    let measured = json::Measured::new(&disk, &measured);
    let of_measure = [
        "accepted",
        "cost",
        "format",
        "rules",
        "sizes",
        "smallest_capacity_gib",
        "source",
        "variant",
        "warnings",
    ];
    assert_eq!(members(&measured), of_measure);
    assert!(measured.accepted);

    let same = compare(&disk, &open().await?, &Resources::default()).await?;
    assert_eq!(members(&json::Compared::from(&same)), ["equal", "first_difference", "virtual_bytes"]);

    let source = json::Source::from(&*disk);
    let sink = FileSink::create(dir.path().join("disk.qcow2"), FileSinkOptions::default()).await?;
    let target = diskferry::create(Format::Qcow2, sink, &TargetOptions::default())?;
    let report = Conversion::new(disk, target).run().await?;
    let converted = json::Converted::new(source, &report).expect("it has a target");
    let mut of_convert = of_measure.map(str::to_owned).to_vec();
    of_convert.extend(["digest", "target", "transfer"].map(str::to_owned));
    of_convert.sort();
    assert_eq!(members(&converted), of_convert);
    assert_eq!(converted.digest.as_ref().map(|digest| digest.hex.as_str()), Some(sample.digest_hex));
    let digested = json::Digested::new(&report).expect("it has a digest");
    assert_eq!(members(&digested), ["algorithm", "hex", "virtual_bytes"]);

    let error = Error::new(ErrorKind::Malformed, "the cluster size is 7 bytes").at(20u64);
    assert_eq!(members(&json::Failure::from(&error)), ["error"]);
    let progress = json::Progress::from(&diskferry::Progress::default());
    assert_eq!(members(&progress).len(), 8);
    Ok(())
}
