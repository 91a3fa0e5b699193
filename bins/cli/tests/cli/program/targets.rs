//! Targets other than raw files: formats, standard output, devices, size predictions, and early refusals.

use std::io::Write as _;
use std::process::Stdio;

use diskferry_corpus::oracle::{qemu_check, qemu_virtual_bytes};

use crate::program::support::{Dir, Said, noise, program};
use crate::run;

/// Makes a disk of 9 MiB plus `extra` bytes, with a hole, zeros, text and noise.
fn disk(dir: &Dir, extra: usize) -> std::path::PathBuf {
    let mut bytes = vec![0; (9 << 20) + extra];
    bytes[..512].copy_from_slice(&noise(512));
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    bytes[1 << 20..(1 << 20) + 300_000].copy_from_slice(&noise(300_000));
    let text = b"what compresses well ".repeat(40_000);
    bytes[5 << 20..(5 << 20) + text.len()].copy_from_slice(&text);
    dir.file("disk.raw", &bytes)
}

#[test]
fn extension_selects_the_format_and_every_format_reads_back_the_same() {
    let dir = Dir::new();
    let raw = disk(&dir, 512);
    let digest = run!("digest", raw, "--json").ends(0).json()["hex"].clone();
    for (name, options, format, variant) in [
        ("a.qcow2", &[][..], "qcow2", "v3"),
        ("b.qcow2", &["compression=zlib", "level=9"][..], "qcow2", "v3"),
        ("c.qcow2", &["compression=zstd,cluster_size=128K"][..], "qcow2", "v3"),
        ("a.vhd", &[][..], "vhd", "dynamic"),
        ("b.vhd", &["subformat=fixed"][..], "vhd", "fixed"),
        ("a.vmdk", &[][..], "vmdk", "monolithicSparse"),
        ("b.vmdk", &["subformat=streamOptimized"][..], "vmdk", "streamOptimized"),
    ] {
        let target = dir.join(name);
        let mut args = vec!["convert", raw.to_str().unwrap(), target.to_str().unwrap(), "--verify", "--json"];
        options.iter().for_each(|option| args.extend(["-o", option]));
        let report = crate::program::support::run(&args).ends(0).json();
        assert_eq!(report["digest"]["hex"], digest, "{name}");
        assert_eq!(report["target"]["format"], format, "{name}");
        assert_eq!(report["target"]["bytes"], std::fs::metadata(&target).unwrap().len(), "{name}");
        let info = run!("info", target, "--json").ends(0).json();
        assert_eq!((&info["format"], &info["variant"]), (&format.into(), &variant.into()), "{name}");
        assert_eq!(qemu_virtual_bytes(&target, format), (9 << 20) + 512, "{name}");
        if format != "vhd" {
            qemu_check(&target, format);
        }
        run!("compare", raw, target).ends(0);
    }
}

#[test]
fn image_goes_to_standard_output_and_the_report_to_standard_error() {
    let dir = Dir::new();
    let raw = disk(&dir, 0);
    for (options, format) in [
        (&["-O", "raw"][..], "raw"),
        (&["-O", "qcow2"][..], "qcow2"),
        (&["-O", "vhd"][..], "vhd"),
        (&["-O", "vhd", "-o", "subformat=fixed"][..], "vhd"),
        (&["-O", "vmdk"][..], "vmdk"),
        (&["-O", "vmdk", "-o", "subformat=streamOptimized"][..], "vmdk"),
    ] {
        let output = program().arg("convert").arg(&raw).args(["-", "--json"]).args(options).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{options:?}: {}", String::from_utf8_lossy(&output.stderr));
        let report: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
        assert_eq!(report["target"]["url"], "-");
        assert_eq!(report["target"]["bytes"], output.stdout.len());
        let target = dir.file("out", &output.stdout);
        let same = run!("compare", raw, target, "-F", format);
        same.ends(0);
    }
}

#[test]
fn formats_that_a_pipe_does_not_support_are_refused_before_anything_is_opened() {
    for compression in ["zlib", "zstd"] {
        let option = format!("compression={compression}");
        let said = run!("convert", "/nowhere/at/all.raw", "-", "-O", "qcow2", "-o", option, "--json").ends(6);
        let error = said.error();
        assert_eq!(error["code"], "destination_unsuitable");
        let text = format!("{} {}", error["message"], error["hint"]);
        for possible in ["raw", "qcow2", "vhd", "streamOptimized"] {
            assert!(text.to_lowercase().contains(&possible.to_lowercase()), "{possible}: {text}");
        }
    }
    let dir = Dir::new();
    let raw = dir.file("a.raw", &[1; 512]);
    let error = run!("convert", "-f", "raw", raw, "https://host/key", "--json").ends(6).error();
    assert_eq!(error["code"], "destination_unsuitable");
    let error = run!("convert", "-f", "raw", raw, "-", "--verify", "--json").ends(6).error();
    assert_eq!(error["code"], "destination_unsuitable", "a pipe cannot be read back");
}

#[test]
fn unrepresentable_size_is_refused_unless_aligned_explicitly() {
    let dir = Dir::new();
    let odd = dir.file("odd.raw", &noise(100_000));
    for name in ["odd.vhd", "odd.vmdk"] {
        let target = dir.join(name);
        let error = run!("convert", "-f", "raw", odd, target, "--json").ends(6).error();
        assert_eq!(error["code"], "destination_unsuitable", "{name}");
        assert!(error["hint"].as_str().unwrap().contains("align"), "{error}");
        assert!(!target.exists());
        let report = run!("convert", "-f", "raw", odd, target, "-o", "align=1M", "--json").ends(0).json();
        let info = run!("info", target, "--json").ends(0).json();
        assert_eq!(info["virtual_bytes"], 1 << 20, "{name}");
        let digest = run!("digest", target, "--json").ends(0).json();
        assert_eq!(report["digest"]["hex"], digest["hex"], "{name}: the disk as written, with its zeros");
    }
    run!("convert", "-f", "raw", odd, dir.join("odd.qcow2")).ends(0);
    assert_eq!(run!("info", dir.join("odd.qcow2"), "--json").ends(0).json()["virtual_bytes"], 100_000);
    let huge = dir.join("huge.raw");
    std::fs::File::create(&huge).unwrap().set_len((2040 << 30) + 512).unwrap();
    let error = run!("convert", "-f", "raw", "--limit", "none", huge, dir.join("huge.vhd"), "--json").ends(6);
    assert_eq!(error.error()["code"], "destination_unsuitable");
}

#[test]
fn measure_predicts_the_target_size() {
    let dir = Dir::new();
    let raw = disk(&dir, 0);
    let sparse = dir.join("sparse.qcow2");
    run!("convert", raw, sparse).ends(0);
    for source in [&raw, &sparse] {
        for (name, options) in [
            ("raw", &[][..]),
            ("qcow2", &[][..]),
            ("qcow2", &["-o", "compression=zlib"][..]),
            ("vhd", &[][..]),
            ("vhd", &["-o", "subformat=fixed"][..]),
            ("vmdk", &[][..]),
            ("vmdk", &["-o", "subformat=streamOptimized"][..]),
        ] {
            let measure =
                [&["measure", source.to_str().unwrap(), "-O", name, "--json"][..], options].concat();
            let measured = crate::program::support::run(&measure).ends(0).json();
            let most = measured["sizes"]["output_bytes"].as_u64().expect("a prediction");
            let target = dir.join("out");
            let target = target.to_str().unwrap();
            let convert = [
                &["convert", source.to_str().unwrap(), target, "-O", name, "--force", "--json"][..],
                options,
            ];
            let report = crate::program::support::run(convert.concat()).ends(0).json();
            let bytes = report["target"]["bytes"].as_u64().unwrap();
            let exact = name == "raw" || options.contains(&"subformat=fixed");
            assert_eq!(measured["output_upper_bound"] == true, !exact, "{name} {options:?}");
            assert!(bytes <= most, "{name} {options:?}: {bytes} of {most}");
            assert!(!exact || bytes == most, "{name} {options:?}: {bytes}, not {most}");
        }
    }
    let text = run!("measure", raw, "-O", "qcow2").ends(0).out;
    assert!(text.contains("at most"), "{text}");
}

#[test]
fn raw_target_that_looks_like_another_format_gives_a_warning() {
    let dir = Dir::new();
    let inner = diskferry_corpus::sample("qcow2-v3");
    // A guest disk that is itself a disk image.
    let image = dir.file("nested.raw", inner.bytes());
    let outer = dir.join("outer.vmdk");
    let padded = inner.bytes().len().next_multiple_of(512);
    std::fs::OpenOptions::new().write(true).open(&image).unwrap().set_len(padded as u64).unwrap();
    let [from, to] = [&image, &outer].map(|path| path.to_str().unwrap());
    diskferry_corpus::oracle::qemu_img(&["convert", "-f", "raw", "-O", "vmdk", from, to]);
    let report = run!("convert", outer, dir.join("out.raw"), "--json").ends(0).json();
    let codes: Vec<_> =
        report["warnings"].as_array().unwrap().iter().map(|warning| &warning["code"]).collect();
    assert!(codes.contains(&&"content_looks_like".into()), "{codes:?}");
    // Formats with magic numbers at both ends cannot be mistaken. The disk ends within a grain.
    for (name, expected) in
        [("out.qcow2", &[][..]), ("out.vhd", &[]), ("out2.vmdk", &["capacity_not_in_grains"])]
    {
        let report = run!("convert", outer, dir.join(name), "--verify", "--json").ends(0).json();
        let warnings = report["warnings"].as_array().unwrap();
        let codes: Vec<_> = warnings.iter().map(|warning| warning["code"].as_str().unwrap()).collect();
        assert_eq!(codes, expected, "{name}: {report}");
    }
    // A fixed VHD starts with the guest's first sector.
    let fixed = dir.join("fixed.vhd");
    let error = run!("convert", outer, fixed, "-o", "subformat=fixed", "--json").ends(6).error();
    assert_eq!(error["code"], "destination_unsuitable");
    assert!(!fixed.exists());
}

#[test]
fn stream_source_converts_to_formats_that_can_be_written_in_one_pass() {
    let dir = Dir::new();
    let sample = diskferry_corpus::sample("vmdk-stream");
    let image = dir.sample(sample.name);
    let piped = |args: &[&str]| {
        let mut child = program()
            .args(["convert", "-"])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let bytes = std::fs::read(&image).unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // A refused conversion does not read its input to the end.
        let feeding = std::thread::spawn(move || drop(stdin.write_all(&bytes)));
        let output = child.wait_with_output().unwrap();
        feeding.join().unwrap();
        output
    };
    for name in ["a.raw", "a.qcow2", "a.vhd", "a.vmdk"] {
        let target = dir.join(name);
        let report = Said::of(piped(&[target.to_str().unwrap(), "--json"])).ends(0).json();
        assert_eq!(report["digest"]["hex"], sample.digest_hex, "{name}");
        assert_eq!(run!("digest", target, "--json").ends(0).json()["hex"], sample.digest_hex, "{name}");
    }
    let output = piped(&["-", "-O", "vmdk", "-o", "subformat=streamOptimized", "--json"]);
    assert_eq!(output.status.code(), Some(0));
    let target = dir.file("out.vmdk", &output.stdout);
    assert_eq!(run!("digest", target, "--json").ends(0).json()["hex"], sample.digest_hex);
    // The cluster offsets of an uncompressed QCOW2 in a pipe follow from the map, and a stream's map is known at its end.
    let refused = Said::of(piped(&["-", "-O", "qcow2", "--json"])).ends(6);
    assert_eq!(refused.error()["code"], "destination_unsuitable");
}
