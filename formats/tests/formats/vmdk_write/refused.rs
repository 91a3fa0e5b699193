//! Options and sizes that a VMDK does not support.

use diskferry_core::{ErrorKind, Layout, LayoutFacts, UnitMap, WriteOrder};
use diskferry_corpus::oracle;

use crate::support::{assert_same, failure, sample};
use crate::vmdk_write::made::*;

fn made(given: &[(&str, &str)], order: WriteOrder) -> Box<dyn Layout> {
    layout_with(given, order).unwrap_or_else(|error| panic!("{error:?}"))
}

#[test]
fn unknown_and_invalid_options_are_refused() {
    let wrong: &[&[(&str, &str)]] = &[
        &[("subformat", "monolithicFlat")],
        &[("subformat", "streamoptimized")],
        &[("level", "6")],
        &[("recompress", "off")],
        &[STREAM, ("level", "10")],
        &[STREAM, ("level", "-1")],
        &[STREAM, ("recompress", "yes")],
        &[("align", "0")],
        &[("align", "513")],
        &[("align", "1x")],
        &[("id", "123")],
        &[("id", "123e4567-e89b-12d3-a456-4266ffffffff")],
        &[("id", "123e4567-e89b-12d3-a456-4266fffffffe")],
        &[("id", "123e4567-e89b-12d3-a456-426600000000")],
        &[("cluster_size", "64K")],
    ];
    for given in wrong {
        let error = failure(layout_with(given, WriteOrder::Any));
        assert_eq!(error.kind(), ErrorKind::Usage, "{given:?}: {error:?}");
    }
    made(&[STREAM, ("level", "0"), ("recompress", "on"), ("align", "512")], WriteOrder::Sequential);
}

#[test]
fn help_names_every_option() {
    let help = diskferry_formats::options_help();
    let vmdk = &help[help.find("\nvmdk\n").unwrap()..];
    for key in ["subformat=", "level=", "recompress=", "align=", "id="] {
        assert!(vmdk.contains(key), "{key}");
    }
}

#[test]
fn an_unsupported_size_is_refused_with_numbers() {
    let most: u64 = ((1 << 32) - 1) * 65_536;
    for kind in KINDS {
        let layout = made(kind, WriteOrder::Any);
        for (size, hint) in [
            (0, "raw"),
            (513, "align=512"),
            (1 << 20 | 1, "align=512"),
            (most + 512, "qcow2"),
            (u64::MAX - 511, "qcow2"),
        ] {
            let error = failure(layout.virtual_bytes(size));
            assert_eq!(error.kind(), ErrorKind::DestinationUnsuitable, "{size}");
            assert!(error.hint_text().is_some_and(|text| text.contains(hint)), "{size}: {error:?}");
        }
        for size in [512, 1024, most] {
            assert_eq!(layout.virtual_bytes(size).unwrap(), size);
        }
        let aligned = made(&[kind, &[("align", "1MiB")]].concat(), WriteOrder::Any);
        for (size, expected) in [(1, 1 << 20), (1 << 20, 1 << 20), ((1 << 20) + 1, 2 << 20)] {
            assert_eq!(aligned.virtual_bytes(size).unwrap(), expected);
        }
        assert_eq!(failure(aligned.virtual_bytes(most)).kind(), ErrorKind::DestinationUnsuitable);
        assert_eq!(failure(aligned.virtual_bytes(u64::MAX)).kind(), ErrorKind::DestinationUnsuitable);
        assert_eq!(failure(aligned.virtual_bytes(0)).kind(), ErrorKind::DestinationUnsuitable);
        let error = failure(try_write(raw(&[1; 700]), kind, WriteOrder::Any));
        assert_eq!(error.kind(), ErrorKind::DestinationUnsuitable);
    }
}

#[test]
fn too_much_data_for_sector_numbers_is_refused_before_the_first_byte_if_the_map_shows_it() {
    let full = |virtual_bytes| {
        LayoutFacts::default()
            .virtual_bytes(Some(virtual_bytes))
            .map(Some(UnitMap::full(65_536, virtual_bytes)))
    };
    let mut placed = made(&[], WriteOrder::Sequential);
    let facts = full(1 << 41);
    assert_eq!(failure(placed.output_size(&facts)).kind(), ErrorKind::DestinationUnsuitable);
    assert_eq!(failure(placed.begin(&facts).map(drop)).kind(), ErrorKind::DestinationUnsuitable);
    // The tables of 2 TiB take slightly more than 256 MiB.
    let facts = full((1 << 41) - (300 << 20)).virtual_bytes(Some(1 << 41));
    let output = placed.output_size(&facts).unwrap().unwrap();
    assert!(output.exact && output.bytes <= 1 << 41);
    placed.begin(&facts).map(drop).unwrap();

    // In a packed layout, zeros may be left out, so the limit is the largest address.
    for kind in KINDS {
        let output = made(kind, WriteOrder::Any).output_size(&full(1 << 42)).unwrap().unwrap();
        assert_eq!((output.bytes, output.exact), (1 << 41, false));
    }
}

#[test]
fn a_capacity_that_ends_inside_a_grain_is_preserved_with_a_warning_that_names_the_option() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.vmdk");
    for kind in KINDS {
        for order in [WriteOrder::Any, WriteOrder::Sequential] {
            let guest = sample(GRAIN + 512);
            let (image, report, _) = try_write(raw(&guest), kind, order).unwrap();
            let [warning] = &report.warnings[..] else { panic!("{:?}", report.warnings) };
            assert_eq!(warning.code, "capacity_not_in_grains");
            for part in ["66048 bytes", "512 of 65536", "align=64K"] {
                assert!(warning.message.contains(part), "{}", warning.message);
            }
            std::fs::write(&path, image).unwrap();
            assert_same(&oracle::guest_bytes(&path, "vmdk"), &guest, "what qemu-img reads");
            let refused = oracle::dissect_stream(&path, "vmdk").unwrap_err();
            assert!(refused.starts_with("IndexError"), "{refused}");

            let options = [kind, &[("align", "64K")]].concat();
            let (image, report, _) = try_write(raw(&guest), &options, order).unwrap();
            assert_eq!(report.warnings, []);
            std::fs::write(&path, image).unwrap();
            let longer = [&guest[..], &[0; GRAIN - 512]].concat();
            assert_same(&oracle::guest_bytes(&path, "vmdk"), &longer, "what qemu-img reads");
            assert_same(&oracle::dissect_stream(&path, "vmdk").unwrap(), &longer, "what dissect reads");
        }
    }
}
