//! The builder matrix makes what it says: qemu reads every image as its truth, and where libyal differs is known.

use std::collections::HashSet;
use std::path::Path;

use diskferry_corpus::oracle::matrix::{Base, Case, recipes};
use diskferry_corpus::oracle::{qemu_img_outcome, yal_outcome};

#[test]
fn names_are_unique() {
    let names: HashSet<_> = recipes().into_iter().map(|r| r.name).collect();
    assert_eq!(names.len(), recipes().len());
}

#[test]
fn the_ntfs_base_is_a_disk_with_ntfs() {
    let dir = tempfile::tempdir().unwrap();
    let base = Base::ntfs(dir.path());
    let bytes = std::fs::read(base.raw).unwrap();
    assert_eq!(&bytes[510..512], b"\x55\xaa");
    assert_eq!(&bytes[(1 << 20) + 3..(1 << 20) + 7], b"NTFS");
}

#[test]
fn qemu_reads_every_image_of_the_matrix_as_its_truth_and_libyal_where_it_is_known_to() {
    let dir = tempfile::tempdir().unwrap();
    let base = Base::ext4(dir.path());
    let mut odd = Vec::new();
    for recipe in recipes() {
        let place = tempfile::tempdir_in(&dir).unwrap();
        let case = recipe.build(&base, place.path());
        assert_eq!(std::fs::metadata(&case.truth).unwrap().len(), case.virtual_bytes, "{}", case.name);
        qemu_agrees(&case);
        if case.format != "raw" && !case.large && !libyal_agrees(&case, place.path()) {
            odd.push(case.name);
        }
    }
    println!("libyal differs or fails: {odd:?}");
    let unknown: Vec<_> = odd.iter().filter(|n| !known_to_differ(n)).collect();
    assert!(
        unknown.is_empty(),
        "libyal reads something else, and corpus/README.md does not say why: {unknown:?}"
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

/// What corpus/README.md tells of libyal: it refuses zstd and extended L2, gives zeros for some zlib clusters of QCOW2,
/// and takes a zeroed grain for a place in the file.
fn known_to_differ(name: &str) -> bool {
    let qcow2 =
        name.starts_with("qcow2-") && ["zstd", "zlib", "extended-l2"].iter().any(|w| name.contains(w));
    qcow2 || name == "vmdk-zeroed-grains"
}
