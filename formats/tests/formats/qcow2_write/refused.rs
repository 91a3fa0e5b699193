//! Refusals before the first byte is read, and warnings.

use diskferry_core::{
    ErrorKind, LayoutFacts, WriteOrder::Any, WriteOrder::Ascending, WriteOrder::Sequential,
};

use crate::qcow2_write::disks::flat;
use crate::qcow2_write::{convert, made};
use crate::support::{failure, noise};

#[test]
fn invalid_options_are_usage_errors() {
    for options in [
        &[("cluster_size", "3000")][..],
        &[("cluster_size", "256")],
        &[("cluster_size", "4M")],
        &[("cluster_size", "0")],
        &[("compression", "lzo")],
        &[("level", "6")],
        &[("recompress", "on")],
        &[("compression", "none"), ("recompress", "off")],
        &[("compression", "zlib"), ("level", "10")],
        &[("compression", "zlib"), ("level", "0")],
        &[("compression", "zstd"), ("level", "20")],
        &[("id", "123e4567-e89b-12d3-a456-426614174000")],
    ] {
        assert_eq!(failure(made(options, Any)).kind(), ErrorKind::Usage, "{options:?}");
    }
}

#[test]
fn compression_in_one_pass_is_refused_with_alternatives() {
    for kind in ["zlib", "zstd"] {
        let error = failure(made(&[("compression", kind)], Sequential));
        assert_eq!(error.kind(), ErrorKind::DestinationUnsuitable);
        let hint = error.hint_text().unwrap().to_owned();
        for target in ["raw", "qcow2", "vhd", "monolithicSparse", "streamOptimized"] {
            assert!(hint.contains(target), "{hint}");
        }
        made(&[("compression", kind)], Ascending).unwrap();
    }
}

#[test]
fn disks_too_large_for_the_cluster_size_are_refused() {
    for (cluster, most, enough) in
        [("512", 128u64 << 30, "1024"), ("64K", 2 << 50, "131072"), ("2M", 1 << 61, "")]
    {
        for options in
            [&[("cluster_size", cluster)][..], &[("cluster_size", cluster), ("compression", "zstd")]]
        {
            let layout = made(options, Any).unwrap();
            assert_eq!(layout.virtual_bytes(most).unwrap(), most);
            let error = failure(layout.virtual_bytes(most + 1));
            assert_eq!(error.kind(), ErrorKind::DestinationUnsuitable);
            assert!(error.message().contains(&(most + 1).to_string()), "{error:?}");
            assert!(error.hint_text().unwrap_or_default().contains(enough), "{error:?}");
            let facts = LayoutFacts::default().virtual_bytes(Some(most + 1));
            failure(layout.output_size(&facts));
        }
    }
}

#[test]
fn a_size_that_qemu_rounds_is_preserved_with_a_warning() {
    for order in [Any, Sequential] {
        let (_, report) = convert(flat(&noise(70_001, 1)), &[], order).unwrap();
        let codes: Vec<_> = report.warnings.iter().map(|warning| warning.code).collect();
        assert_eq!(codes, ["size_not_whole_sectors"]);
        assert!(convert(flat(&noise(70_144, 1)), &[], order).unwrap().1.warnings.is_empty());
    }
}
