//! Partition tables: whatever they contain, the disk is read, and errors in them are reported.

use diskferry_corpus::lattice::tables;
use diskferry_formats::Format;
use diskferry_formats::inspect_disk;

use crate::support::*;

#[test]
fn every_damaged_table_results_in_a_layout_with_warnings() {
    let mut all = Vec::new();
    for case in tables() {
        let disk = open_as(Format::Raw, case.disk.clone()).unwrap();
        let layout = block_on(inspect_disk(&disk)).unwrap();
        let mut codes: Vec<&str> = layout.warnings.iter().map(|warning| warning.code).collect();
        codes.sort_unstable();
        let seen = (layout.table_name(), layout.partitions.len(), codes);
        let expected = (Some(case.table), case.partitions, case.codes.clone());
        if seen != expected {
            let says: Vec<&str> = layout.warnings.iter().map(|warning| warning.message.as_str()).collect();
            all.push(format!(
                "{} {} {:?}:\n    {seen:?}\n    {expected:?}\n    {says:?}",
                case.structure, case.field, case.value
            ));
        }
        assert_same(&read_all(&disk), &case.disk, case.structure);
    }
    crate::lattice::nothing_in(&all);
}
