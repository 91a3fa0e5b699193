//! Disks that are large and nearly empty.

use diskferry_core::{Conversion, FileSink, FileSinkOptions, FileSource, ImageLimit, Limits, Target};
use diskferry_corpus::oracle::qemu_virtual_bytes;
use diskferry_formats::{Declared, Format, open};

use crate::support::block_on;
use crate::support::qemu::{qemu_img, qemu_io, text};
use crate::vmdk_write::made::*;

#[test]
fn three_tebibytes_with_data_at_both_ends_are_written_and_read() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("disk.qcow2");
    let size: u64 = (3 << 40) + 512;
    qemu_img(&["create", "-q", "-f", "qcow2", "-o", "cluster_size=2M", text(&source), &size.to_string()]);
    let last = format!("write -P 0x22 {} 5120", size - 5120);
    qemu_io(&source, "qcow2", &["write -P 0x11 4k 100k", "write -P 0x33 1T 64k", &last]);
    for kind in KINDS {
        let path = directory.path().join("disk.vmdk");
        let mut how = FileSinkOptions::default();
        (how.force, how.sync) = (true, false);
        let report = block_on(async {
            let file = std::sync::Arc::new(FileSource::open(&source).await.unwrap());
            let disk = open(file, Declared::Format(Format::Qcow2)).await.unwrap();
            let sink = FileSink::create(&path, how).await.unwrap();
            let order = diskferry_core::Sink::capabilities(&sink).order;
            let layout = layout_with(kind, order).unwrap();
            let target = Target { layout, sink: Box::new(sink) };
            let limits = Limits::default().image(ImageLimit::None);
            Conversion::new(disk, target).limits(limits).stall_timeout(None).run().await.unwrap()
        });
        assert!(report.stats.bytes_written < 2 << 20, "{}", report.stats.bytes_written);
        assert_eq!(qemu_virtual_bytes(&path, "vmdk"), size);
        let reads = [
            "read -P 0 0 4k",
            "read -P 0x11 4k 100k",
            "read -P 0 104k 100k",
            "read -P 0x33 1T 64k",
            "read -P 0 2T 1M",
            &format!("read -P 0x22 {} 5120", size - 5120),
        ];
        qemu_io(&path, "vmdk", &reads);
        let back = block_on(async {
            let file = std::sync::Arc::new(FileSource::open(&path).await.unwrap());
            let disk = open(file, Declared::Format(Format::Vmdk)).await.unwrap();
            let limits = Limits::default().image(ImageLimit::None);
            Conversion::reading(disk).limits(limits).stall_timeout(None).run().await.unwrap()
        });
        assert_eq!(back.digest, report.digest);
    }
}
