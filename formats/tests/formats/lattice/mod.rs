//! The lattice of malformed headers: each case is refused with its kind, field and offset, or reads as its one valid
//! interpretation.
#![allow(missing_docs)]

mod named;
mod one_pass;
mod partition;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::support::files::Files;
use crate::support::*;
use diskferry_core::{Result, Source};
use diskferry_corpus::lattice::{Case, Outcome, bases, cases};
use diskferry_formats::{Declared, Format};

/// Larger than any disk of the lattice. A larger size is an error.
const MOST_DISK: u64 = 64 << 20;

fn declared(case: &Case) -> Declared {
    Declared::Format(case.format.parse::<Format>().unwrap())
}

fn files(list: &[(&str, Vec<u8>)]) -> Arc<Files> {
    Arc::new(list.iter().fold(Files::new(), |files, (name, bytes)| files.with(name, bytes.clone())))
}

/// The result of opening the first of the files and reading all of it.
fn read_files(files: &Arc<Files>, declared: Declared) -> Result<Vec<u8>> {
    let disk = files.open_declared("image", declared)?;
    disk.admit()?;
    assert!(disk.virtual_bytes() <= MOST_DISK, "a disk of {} bytes", disk.virtual_bytes());
    content(&disk)
}

/// Why the result is not the expected one, if it is not.
fn wrong(case: &Case, result: &Result<Vec<u8>>) -> Option<String> {
    match (result, case.outcome, case.disk()) {
        (Ok(read), Outcome::Reads(_), Some(disk)) => {
            let first = || read.iter().zip(&disk).position(|(a, b)| a != b);
            (*read != disk).then(|| {
                format!(
                    "reads {} bytes, should read {}; first other byte {:?}",
                    read.len(),
                    disk.len(),
                    first()
                )
            })
        }
        (Err(error), Outcome::Refused { code, says, at }, _) => {
            let right = error.kind().code() == code
                && error.offset() == at
                && error.message().contains(says)
                && [3, 4].contains(&error.kind().exit_code());
            (!right).then(|| format!("says {error:?}, should be {code}, say {says:?}, at {at:?}"))
        }
        (Ok(read), Outcome::Refused { code, says, at }, _) => {
            Some(format!("reads {} bytes, should be {code}, say {says:?}, at {at:?}", read.len()))
        }
        (Err(error), Outcome::Reads(_), _) => Some(format!("says {error:?}, should read")),
        (Ok(_), Outcome::Reads(_), None) => Some("has no disk".to_owned()),
    }
}

/// Fails with all errors at once.
#[track_caller]
fn nothing_in(wrong: &[String]) {
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn the_undamaged_images_are_valid() {
    for base in bases().into_iter().filter(|base| !base.disk.is_empty()) {
        let format = base.format.parse::<Format>().unwrap();
        let result = read_files(&files(&base.files), Declared::Format(format));
        let read = result.unwrap_or_else(|error| panic!("{}: {error:?}", base.name));
        assert_same(&read, &base.disk, base.name);
    }
}

#[test]
fn every_case_is_refused_with_its_kind_field_and_place_or_reads_as_what_it_means() {
    let mut all = Vec::new();
    for case in cases() {
        let result = read_files(&files(&case.files()), declared(&case));
        all.extend(wrong(&case, &result).map(|why| format!("{}\n    {why}", case.name())));
    }
    nothing_in(&all);
}

#[test]
fn undeclared_every_case_reads_the_same_or_is_refused() {
    let mut all = Vec::new();
    for case in cases() {
        let result = read_files(&files(&case.files()), Declared::Unknown);
        let why = match (&result, case.disk()) {
            (Ok(read), Some(disk)) => (*read != disk).then(|| "reads as another disk".to_owned()),
            (Ok(_), None) => Some("is read".to_owned()),
            (Err(error), None) => {
                (![3, 4].contains(&error.kind().exit_code())).then(|| format!("says {error:?}"))
            }
            (Err(error), Some(_)) => Some(format!("says {error:?}, should read")),
        };
        all.extend(why.map(|why| format!("{}\n    {why}", case.name())));
    }
    nothing_in(&all);
}

#[test]
fn declared_raw_no_case_is_taken_for_a_raw_disk_while_it_has_a_mark() {
    let mut all = Vec::new();
    for case in cases() {
        let unmarked = matches!(case.outcome, Outcome::Refused { code: "format_mismatch", .. });
        let result = files(&case.files()).open_declared("image", Declared::Format(Format::Raw)).map(drop);
        let why = match result {
            Ok(()) => (!unmarked).then(|| "is a raw disk".to_owned()),
            Err(error) => {
                (unmarked || error.kind().code() != "format_mismatch").then(|| format!("{error:?}"))
            }
        };
        all.extend(why.map(|why| format!("{}\n    {why}", case.name())));
    }
    nothing_in(&all);
}

/// Nothing is requested twice or beyond the end, and no list is unbounded.
#[test]
fn no_case_makes_the_reader_ask_for_more_than_there_is() {
    for case in cases() {
        let list = case.files();
        let opened = files(&list);
        let Ok(disk) = opened.open_declared("image", declared(&case)) else { continue };
        if disk.admit().is_ok()
            && let Ok(all) = extents(&disk)
        {
            assert!(all.len() <= 64, "{}: {} extents", case.name(), all.len());
        }
        for (name, bytes) in &list {
            let traffic = opened.get(name).traffic();
            assert!(
                traffic.bytes <= 2 * bytes.len() as u64,
                "{}: {traffic:?} of {}",
                case.name(),
                bytes.len()
            );
            assert!(traffic.requests <= 4, "{}: {traffic:?}", case.name());
        }
    }
}

/// The counts may only be lowered here, on purpose.
#[test]
fn the_lattice_does_not_shrink() {
    let mut counts: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for case in cases() {
        let count = counts.entry(case.format).or_default();
        count.0 += 1;
        count.1 += usize::from(case.disk().is_none());
    }
    println!("{counts:?}");
    for (format, least) in [("qcow2", 500), ("vhd", 1500), ("vmdk", 1150)] {
        assert!(counts[format].0 >= least, "{format}: {counts:?}");
    }
}
