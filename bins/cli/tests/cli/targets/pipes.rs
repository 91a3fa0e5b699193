//! The program's standard output through a real pipe: `diskferry convert SRC - | cat > FILE`.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ExitStatus, Stdio};

use diskferry_corpus::oracle::{fsverity_digest, qemu_check, qemu_format, qemu_img, qemu_virtual_bytes};
use diskferry_corpus::tools::command;
use serde_json::Value;

use crate::targets::support::{Content, MIB, made, program};

/// Makes a raw disk of runs and holes with a boot signature, and returns its digest.
fn disk(dir: &Path) -> (PathBuf, String) {
    let mib = MIB as usize;
    let mut disk = made(&[
        (mib, Content::Text(1)),
        (5 * mib + 100, Content::Zeros),
        (9 * mib - 100, Content::Noise(2)),
        (7 * mib, Content::Zeros),
        (3 * mib + 512, Content::Text(3)),
    ]);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    let path = dir.join("disk.raw");
    std::fs::write(&path, disk).unwrap();
    let digest = fsverity_digest(&path);
    (path, digest)
}

fn read(mut from: ChildStderr) -> String {
    let mut text = String::new();
    from.read_to_string(&mut text).unwrap();
    text
}

/// Runs `diskferry convert ARGS | READER > out`, and returns the program's messages and exit code.
fn piped(args: &[&str], reader: &[&str], out: &Path) -> (ExitStatus, String) {
    let mut ferry: Child =
        program().arg("convert").args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pipe = ferry.stdout.take().unwrap();
    let mut reader =
        command(reader[0]).args(&reader[1..]).stdin(pipe).stdout(File::create(out).unwrap()).spawn().unwrap();
    let said = read(ferry.stderr.take().unwrap());
    assert!(reader.wait().unwrap().success());
    (ferry.wait().unwrap(), said)
}

#[test]
fn image_written_to_a_pipe_is_complete_and_consistent() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, digest) = disk(dir.path());
    let raw = raw.to_str().unwrap();
    // From a raw disk, and from an image with a map.
    let image = dir.path().join("source.qcow2");
    qemu_img(&["convert", "-f", "raw", "-O", "qcow2", "-c", raw, image.to_str().unwrap()]);
    for source in [raw, image.to_str().unwrap()] {
        for (format, options) in [
            ("raw", &[][..]),
            ("qcow2", &[]),
            ("qcow2", &["-o", "cluster_size=4K"]),
            ("vhd", &[]),
            ("vhd", &["-o", "subformat=fixed"]),
            ("vmdk", &["-o", "subformat=monolithicSparse"]),
            ("vmdk", &["-o", "subformat=streamOptimized"]),
        ] {
            let what = format!("{source} to {format} {options:?}");
            let out = dir.path().join("out");
            let args = [&[source, "-", "-O", format, "--json"], options].concat();
            let (status, said) = piped(&args, &["cat"], &out);
            assert!(status.success(), "{what}: {said}");
            let report: Value =
                serde_json::from_str(&said).unwrap_or_else(|error| panic!("{what}: {error}: {said}"));
            assert_eq!(report["digest"]["hex"], digest, "{what}");
            assert_eq!(report["target"]["bytes"], out.metadata().unwrap().len(), "{what}");
            assert_eq!(report["target"]["url"], "-", "{what}");
            if matches!(format, "qcow2" | "vmdk") {
                qemu_check(&out, format);
            }
            assert_eq!(qemu_virtual_bytes(&out, format), 25 * MIB + 512, "{what}");
            let out = out.to_str().unwrap();
            qemu_img(&["compare", "-f", qemu_format(format), "-F", "raw", out, raw]);
        }
    }
}

#[test]
fn text_report_goes_to_standard_error_if_standard_output_is_the_target() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, digest) = disk(dir.path());
    let out = dir.path().join("out.qcow2");
    let (status, said) = piped(&[raw.to_str().unwrap(), "-", "-O", "qcow2"], &["cat"], &out);
    assert!(status.success(), "{said}");
    assert!(said.contains(&digest), "{said}");
    qemu_check(&out, "qcow2");
}

#[test]
fn compressed_qcow2_is_refused_before_anything_is_read_or_written() {
    let dir = tempfile::tempdir().unwrap();
    for compression in ["compression=zlib", "compression=zstd"] {
        let out = dir.path().join("out");
        // The source does not exist, so opening it first would fail with another error.
        let args = ["nowhere.raw", "-", "-O", "qcow2", "-o", compression, "--json"];
        let (status, said) = piped(&args, &["cat"], &out);
        assert_eq!(status.code(), Some(6), "{said}");
        let error: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(error["error"]["code"], "destination_unsuitable", "{said}");
        assert_eq!(out.metadata().unwrap().len(), 0, "{compression}: something was written");
    }
}

#[test]
fn closed_pipe_is_destination_unavailable() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, _) = disk(dir.path());
    for options in [
        &["-O", "raw"][..],
        &["-O", "qcow2"],
        &["-O", "vhd"],
        &["-O", "vhd", "-o", "subformat=fixed"],
        &["-O", "vmdk", "-o", "subformat=streamOptimized"],
    ] {
        let out = dir.path().join("out");
        let args = [&[raw.to_str().unwrap(), "-", "--json"], options].concat();
        let (status, said) = piped(&args, &["head", "-c", "1000"], &out);
        assert_eq!(status.code(), Some(6), "{options:?}: {said}");
        let error: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(error["error"]["code"], "destination_unavailable", "{options:?}: {said}");
        assert_eq!(out.metadata().unwrap().len(), 1000, "{options:?}");
    }
}
