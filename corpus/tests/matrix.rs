//! qemu-img reads every image of the matrix as its expected disk. libyal and dissect.hypervisor do so except for documented
//! differences.

use std::collections::HashSet;
use std::path::Path;

use diskferry_corpus::oracle::matrix::{Base, Case, recipes};
use diskferry_corpus::oracle::{dissect, qemu_img_outcome, yal_outcome};

#[test]
fn names_are_unique() {
    let names: HashSet<_> = recipes().into_iter().map(|r| r.name).collect();
    assert_eq!(names.len(), recipes().len());
}

#[test]
fn ntfs_base_has_an_ntfs_file_system() {
    let dir = tempfile::tempdir().unwrap();
    let base = Base::ntfs(dir.path());
    let bytes = std::fs::read(base.raw).unwrap();
    assert_eq!(&bytes[510..512], b"\x55\xaa");
    assert_eq!(&bytes[(1 << 20) + 3..(1 << 20) + 7], b"NTFS");
}

#[test]
fn independent_readers_read_every_matrix_image_correctly_except_known_differences() {
    let dir = tempfile::tempdir().unwrap();
    let base = Base::ext4(dir.path());
    let (mut libyal_odd, mut dissect_odd) = (Vec::new(), Vec::new());
    for recipe in recipes() {
        let place = tempfile::tempdir_in(&dir).unwrap();
        let case = recipe.build(&base, place.path());
        assert_eq!(std::fs::metadata(&case.truth).unwrap().len(), case.virtual_bytes, "{}", case.name);
        qemu_agrees(&case);
        if case.format == "raw" || case.large {
            continue;
        }
        if dissect_is_trusted_with(&case.name) && !dissect_agrees(&case) {
            dissect_odd.push(case.name.clone());
        }
        if !libyal_agrees(&case, place.path()) {
            libyal_odd.push(case.name);
        }
    }
    println!("libyal differs or fails: {libyal_odd:?}");
    libyal_odd.retain(|n| !libyal_is_known_to_differ(n));
    assert!(
        libyal_odd.is_empty() && dissect_odd.is_empty(),
        "corpus/README.md does not say why libyal differs on {libyal_odd:?} and dissect on {dissect_odd:?}"
    );
}

fn qemu_agrees(case: &Case) {
    let format = diskferry_corpus::oracle::qemu_format(case.format);
    let [truth, image] = [&case.truth, &case.image].map(|p| p.to_str().unwrap());
    let out = qemu_img_outcome(&["compare", "-f", "raw", "-F", format, truth, image]);
    assert!(out.ok, "{}: {}{}", case.name, out.stdout, out.stderr);
}

fn libyal_agrees(case: &Case, dir: &Path) -> bool {
    let raw = dir.join("yal.raw");
    let out = yal_outcome(&case.image, case.format, &raw);
    if !out.ok {
        let why = out.stderr.lines().last().unwrap_or_default();
        println!("{}: libyal fails: {}", case.name, &why[..why.len().min(300)]);
        return false;
    }
    let [truth, read] = [&case.truth, &raw].map(|p| p.to_str().unwrap());
    let same = diskferry_corpus::oracle::capture("cmp", &[truth, read]);
    if !same.ok {
        println!("{}: libyal differs: {}{}", case.name, same.stdout.trim(), same.stderr.trim());
    }
    same.ok
}

/// The differences that corpus/README.md documents: libyal refuses zstd and extended L2, returns zeros for some zlib clusters
/// of QCOW2, and treats a zeroed grain as an offset in the file.
fn libyal_is_known_to_differ(name: &str) -> bool {
    let qcow2 =
        name.starts_with("qcow2-") && ["zstd", "zlib", "extended-l2"].iter().any(|w| name.contains(w));
    qcow2 || name == "vmdk-zeroed-grains"
}

fn dissect_agrees(case: &Case) -> bool {
    match dissect(&case.image, case.format) {
        Ok(read) if read == std::fs::read(&case.truth).unwrap() => true,
        Ok(_) => {
            println!("{}: dissect differs", case.name);
            false
        }
        Err(error) => {
            println!("{}: dissect fails: {error}", case.name);
            false
        }
    }
}

/// All images except those with extended L2, which corpus/README.md documents. Some of these run until the time limit, so
/// they are not read.
fn dissect_is_trusted_with(name: &str) -> bool {
    !name.contains("extended-l2")
}
