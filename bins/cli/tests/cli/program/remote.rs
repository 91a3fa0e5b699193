//! S3 and HTTP sources, and the demo.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use diskferry_s3io::server::{Fault, Request, Server, ServerOptions};
use rustix::process::{Pid, Signal, kill_process};

use crate::program::support::{Dir, Said, keys, noise, program};

/// A server with sample images in its bucket `images`.
struct Store {
    server: Server,
    runtime: tokio::runtime::Runtime,
}

impl Store {
    fn with(samples: &[&str], options: ServerOptions) -> Self {
        let server = Server::start(options).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            server.create_bucket("images").await.unwrap();
            for sample in samples.iter().map(|name| diskferry_corpus::sample(name)) {
                for (name, bytes) in sample.files {
                    server.put("images", &format!("import/{name}"), *bytes).await.unwrap();
                }
            }
        });
        server.forget();
        Self { server, runtime }
    }

    /// The program with the server's keys in its environment, without the user's AWS files.
    fn program(&self) -> Command {
        let keys = self.server.keys();
        let mut program = self.stranger();
        program.env("AWS_ACCESS_KEY_ID", keys.access_key).env("AWS_SECRET_ACCESS_KEY", keys.secret_key);
        program
    }

    /// The program without keys.
    fn stranger(&self) -> Command {
        let mut program = program();
        program.env("AWS_ENDPOINT_URL", self.server.endpoint()).env("AWS_EC2_METADATA_DISABLED", "true");
        program.env("AWS_CONFIG_FILE", "/dev/null").env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null");
        program
    }

    fn presigned(&self, key: &str) -> String {
        let signed = self.server.presign("images", key, Duration::from_secs(600));
        self.runtime.block_on(signed).unwrap()
    }
}

fn said(program: &mut Command) -> Said {
    Said::of(program.output().unwrap())
}

#[test]
fn images_are_read_directly_from_s3() {
    let names = ["vhd-fixed", "qcow2-40g-ext4", "vmdk-stream", "vmdk-split-sparse"];
    let store = Store::with(&names, ServerOptions::default());
    let dir = Dir::new();
    for sample in names.map(diskferry_corpus::sample) {
        let url = format!("s3://images/import/{}", sample.file_name());
        let out = dir.join("out.raw");
        let run = said(store.program().args(["convert", &url]).arg(&out).args(["--force", "--json"]));
        let report = run.ends(0).json();
        assert_eq!(report["digest"]["hex"], sample.digest_hex, "{}", sample.name);
        assert_eq!(report["source"]["url"], url);
        assert!(report["source"]["etag"].is_string());
        let fetched = report["transfer"]["bytes_fetched"].as_u64().unwrap();
        assert!(fetched <= sample.object_bytes(), "{}: every byte at most once: {report}", sample.name);
        let sent: u64 = store.server.exchanges().iter().map(|exchange| exchange.sent).sum();
        assert_eq!(fetched, sent, "{}", sample.name);
        assert_eq!(report["transfer"]["requests"], store.server.exchanges().len());
        store.server.forget();
    }
}

#[test]
fn endpoint_can_be_set_with_an_option() {
    let store = Store::with(&["qcow2-v3"], ServerOptions::default());
    let endpoint = store.server.endpoint();
    let mut program = store.program();
    program.env_remove("AWS_ENDPOINT_URL").args(["info", "s3://images/import/v3.qcow2", "--json"]);
    program.args(["--endpoint-url", &endpoint, "--region", "eu-central-1", "--s3-path-style", "always"]);
    let info = said(&mut program).ends(0).json();
    assert_eq!(info["virtual_bytes"], 522_240);
}

#[test]
fn presigned_private_and_public_urls_work_and_show_no_secret() {
    let store = Store::with(&["qcow2-zlib"], ServerOptions::default());
    let sample = diskferry_corpus::sample("qcow2-zlib");
    let presigned = store.presigned("import/zlib.qcow2");
    let plain = store.server.object_url("images", "import/zlib.qcow2");
    let run = said(store.stranger().args(["digest", &presigned, "-vv"])).ends(0);
    assert_eq!(run.out, format!("sha256:{} {plain}\n", sample.digest_hex));
    assert!(!run.err.contains("Signature"), "{}", run.err);
    said(store.program().args(["digest", &plain])).ends(0);
    let error = said(store.stranger().args(["digest", &plain, "--json"])).ends(5).error();
    assert_eq!(error["code"], "source_forbidden");
    let broken = presigned.replace("X-Amz-Signature=", "X-Amz-Signature=0");
    let run = said(store.stranger().args(["digest", &broken])).ends(5);
    assert!(!run.err.contains("X-Amz"), "{}", run.err);
    let open = Store::with(&["qcow2-zlib"], ServerOptions::default().public(true));
    let url = open.server.object_url("images", "import/zlib.qcow2");
    said(open.stranger().args(["digest", &url])).ends(0);
    said(open.stranger().args(["digest", "s3://images/import/zlib.qcow2", "--s3-anonymous"])).ends(0);
}

#[test]
fn siblings_are_opened_for_s3_but_not_for_http_urls() {
    let store = Store::with(&["vmdk-flat"], ServerOptions::default());
    said(store.program().args(["digest", "s3://images/import/flat.vmdk"])).ends(0);
    let url = store.presigned("import/flat.vmdk");
    let error = said(store.stranger().args(["digest", &url, "--json"])).ends(4).error();
    assert_eq!(error["code"], "external_data_refused");
}

#[test]
fn source_errors_have_their_codes_and_leave_no_target() {
    let store = Store::with(&["qcow2-v3"], ServerOptions::default());
    let dir = Dir::new();
    let out = dir.join("out.raw");
    let convert = |program: &mut Command, url: &str| {
        said(program.args(["convert", url]).arg(&out).arg("--json")).ends(5).error()["code"].clone()
    };
    assert_eq!(convert(&mut store.program(), "s3://images/import/none.qcow2"), "source_not_found");
    assert_eq!(convert(&mut store.program(), "s3://nowhere/import/v3.qcow2"), "source_not_found");
    let mut wrong = store.program();
    wrong.env("AWS_SECRET_ACCESS_KEY", "wrong");
    assert_eq!(convert(&mut wrong, "s3://images/import/v3.qcow2"), "source_forbidden");
    assert!(dir.names().is_empty());
}

#[test]
fn bucket_must_be_in_the_required_region() {
    let options = ServerOptions::default().region(Some("eu-west-1".into()));
    let store = Store::with(&["qcow2-v3"], options);
    let url = "s3://images/import/v3.qcow2";
    said(store.program().args(["info", url, "--require-region", "eu-west-1"])).ends(0);
    let error =
        said(store.program().args(["info", url, "--require-region", "cn-north-1", "--json"])).ends(4).error();
    assert_eq!(error["code"], "region_mismatch");
    // A local file has no region, so the requirement cannot be checked: that is a warning.
    let dir = Dir::new();
    let local = dir.sample("qcow2-v3");
    let info = said(program().arg("info").arg(local).args(["--require-region", "eu-west-1", "--json"]))
        .ends(0)
        .json();
    assert!(info["warnings"].as_array().unwrap().iter().any(|warning| warning["code"] == "region_unknown"));
}

#[test]
fn quick_measure_makes_at_most_6_requests() {
    let names = [
        "raw-mbr-fat-ext4",
        "vhd-dynamic-ntfs",
        "qcow2-40g-ext4",
        "vmdk-stream-10g-xfs",
        "vmdk-split-sparse",
    ];
    let store = Store::with(&names, ServerOptions::default());
    for sample in names.map(diskferry_corpus::sample) {
        let url = format!("s3://images/import/{}", sample.file_name());
        let run = said(store.program().args(["measure", &url, "--quick", "--capacity", "1T", "--json"]));
        let requests = run.ends(0).json()["cost"]["requests"].as_u64().unwrap();
        assert!(requests <= 6, "{}: {requests} requests", sample.name);
    }
}

#[test]
fn demo_shows_every_format_and_leaves_no_files() {
    let dir = Dir::new();
    let run = said(program().arg("demo").env("TMPDIR", dir.path())).ends(0);
    for fact in ["raw ", "vhd ", "qcow2 ", "vmdk ", "error[capacity_exceeded]: ", "--capacity", " ok"] {
        assert!(run.out.contains(fact), "{fact}: {}", run.out);
    }
    assert!(run.err.is_empty(), "{}", run.err);
    assert!(dir.names().is_empty(), "{:?}", dir.names());
    let demo = said(program().args(["demo", "--json"]).env("TMPDIR", dir.path())).ends(0).json();
    assert_eq!(keys(&demo), ["imported", "refused"]);
    assert_eq!(demo["refused"]["error"]["code"], "capacity_exceeded");
    assert!(dir.names().is_empty(), "{:?}", dir.names());
}

#[test]
fn interrupted_demo_leaves_no_files() {
    let dir = Dir::new();
    let mut command = program();
    command.arg("demo").env("TMPDIR", dir.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let began = Instant::now();
    while dir.names().is_empty() {
        assert!(began.elapsed() < Duration::from_secs(60), "the demo never began");
        std::thread::sleep(Duration::from_millis(5));
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let run = Said::of(child.wait_with_output().unwrap()).ends(130);
    assert!(run.err.starts_with("error[cancelled]: "), "{}", run.err);
    assert!(dir.names().is_empty(), "{:?}", dir.names());
}

#[test]
fn objects_are_converted_to_objects_in_every_format() {
    let sample = diskferry_corpus::sample("vmdk-stream");
    let store = Store::with(&[sample.name], ServerOptions::default());
    let source = format!("s3://images/import/{}", sample.file_name());
    for (name, options) in [
        ("a.raw", &[][..]),
        ("a.qcow2", &[][..]),
        ("b.qcow2", &["-o", "compression=zlib"][..]),
        ("a.vhd", &[][..]),
        ("b.vhd", &["-o", "subformat=fixed"][..]),
        ("a.vmdk", &[][..]),
        ("b.vmdk", &["-o", "subformat=streamOptimized"][..]),
    ] {
        let target = format!("s3://images/library/{name}");
        let mut convert = store.program();
        convert.args(["convert", &source, &target, "--verify", "--memory", "32M", "--json"]).args(options);
        let report = said(&mut convert).ends(0).json();
        assert_eq!(report["digest"]["hex"], sample.digest_hex, "{name}");
        assert_eq!(report["target"]["url"], target, "{name}");
        let again = said(&mut convert).ends(6).error();
        assert_eq!(again["code"], "destination_exists", "{name}");
        let forced = said(convert.arg("--force")).ends(0).json();
        assert_eq!(forced["target"]["bytes"], report["target"]["bytes"], "{name}");
        let digest = said(store.program().args(["digest", &target, "--json"])).ends(0).json();
        assert_eq!(digest["hex"], sample.digest_hex, "{name}");
    }
    let onto_itself = said(store.program().args(["convert", &source, &source, "--force", "--json"])).ends(2);
    assert_eq!(onto_itself.error()["code"], "usage");
}

#[test]
fn destination_errors_of_a_store_have_their_codes() {
    let store = Store::with(&["qcow2-v3", "qcow2-40g-ext4"], ServerOptions::default());
    let source = "s3://images/import/v3.qcow2";
    let refused = |program: &mut Command, target: &str| {
        said(program.args(["convert", source, target, "--json"])).ends(6).error()["code"].clone()
    };
    assert_eq!(refused(&mut store.program(), "s3://nowhere/a.raw"), "destination_unavailable");
    assert_eq!(refused(&mut store.program(), "s3://images/a/"), "destination_unsuitable");
    let large = ["convert", "s3://images/import/linux-40g.qcow2", "s3://images/a.raw"];
    let small = said(store.program().args(large).args(["--memory", "16M", "--json"]));
    let error = small.ends(6).error();
    assert_eq!(error["code"], "destination_unsuitable");
    assert!(error.to_string().contains("--memory"), "{error}");
    said(store.program().args(["info", "s3://images/a.raw"])).ends(5);
}

/// Sends SIGINT to a conversion after the server has received the request that `reached` waits for. Returns the result.
/// The program must exit long before the server, which is silent for minutes, responds.
fn interrupted(store: &Store, args: &[&str], reached: impl Fn(&Request) -> bool) -> Said {
    let mut command = store.program();
    let child = command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    while !store.server.exchanges().iter().any(|exchange| reached(&exchange.request)) {
        assert!(began.elapsed() < Duration::from_secs(60), "it never came so far");
        std::thread::sleep(Duration::from_millis(5));
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let said = Said::of(child.wait_with_output().unwrap()).ends(130);
    assert!(began.elapsed() < Duration::from_secs(90), "{:?}", began.elapsed());
    assert_eq!(said.error()["code"], "cancelled");
    said
}

#[test]
fn interrupted_run_does_not_wait_for_a_silent_store() {
    let store = Store::with(&[], ServerOptions::default());
    let dir = Dir::new();
    let raw = dir.file("disk.raw", &noise(20 << 20));
    let silent = |request: &Request| request.part.is_some() || request.method == "DELETE";
    let late = Fault::Delay(Duration::from_secs(600));
    store.server.set_faults(move |request| if silent(request) { vec![late.clone()] } else { Vec::new() });
    let args = [
        "--json",
        "--stall-timeout",
        "600",
        "convert",
        "-f",
        "raw",
        raw.to_str().unwrap(),
        "s3://images/out.raw",
    ];
    let said = interrupted(&store, &args, |request| request.part == Some(2));
    assert!(said.error()["hint"].as_str().unwrap().contains("check whether DST exists"), "{}", said.err);
    assert!(!store.server.root().join("images/out.raw").exists());
}

#[test]
fn run_interrupted_during_verification_deletes_its_target() {
    let store = Store::with(&[], ServerOptions::default());
    let dir = Dir::new();
    let raw = dir.file("disk.raw", &noise(20 << 20));
    let reads_back = |request: &Request| {
        request.object == "images/out.raw" && request.range.is_some_and(|(first, _)| first > 0)
    };
    store
        .server
        .set_faults(move |request| if reads_back(request) { vec![Fault::Stall(0)] } else { Vec::new() });
    let target = "s3://images/out.raw";
    let args = [
        "--json",
        "--stall-timeout",
        "600",
        "convert",
        "-f",
        "raw",
        "--verify",
        raw.to_str().unwrap(),
        target,
    ];
    let said = interrupted(&store, &args, reads_back);
    assert!(said.error()["message"].as_str().unwrap().contains("it was deleted"), "{}", said.err);
    assert!(!store.server.root().join("images/out.raw").exists());
}

#[test]
fn image_with_a_zeroed_tail_gives_the_same_error_over_http_as_from_a_file() {
    let dir = Dir::new();
    let mut disk = noise(3 << 20);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk[1 << 20..2 << 20].fill(0);
    let raw = dir.file("disk.raw", &disk);
    let store = Store::with(&[], ServerOptions::default());
    for (format, options) in [
        ("raw", ""),
        ("vhd", "subformat=fixed"),
        ("vhd", "subformat=dynamic"),
        ("qcow2", "compression=none"),
        ("qcow2", "compression=zlib"),
        ("vmdk", "subformat=monolithicSparse"),
        ("vmdk", "subformat=streamOptimized"),
    ] {
        let what = format!("{format} {options}");
        let image = dir.join("image");
        let mut convert = program();
        convert.args(["convert", "-f", "raw", "-O", format, "--force"]).arg(&raw).arg(&image);
        if !options.is_empty() {
            convert.args(["-o", options]);
        }
        said(&mut convert).ends(0);
        let whole = std::fs::read(&image).unwrap();
        let mut refused = 0;
        for kept in [12 << 10, whole.len() / 16, whole.len() / 2, whole.len() - 4096, whole.len() - 512] {
            let mut bytes = whole.clone();
            bytes[kept..].fill(0);
            let file = dir.file("zeroed", &bytes);
            store.runtime.block_on(store.server.put("images", "zeroed", bytes)).unwrap();
            let url = store.presigned("zeroed");
            let digest = |source: &std::ffi::OsStr| {
                let mut digest = store.stranger();
                let said = said(digest.args(["digest", "--json", "-f", format]).arg(source));
                match said.code {
                    0 => (0, said.json()["digest"].clone(), said.json()["warnings"].clone()),
                    code => (code, said.error()["code"].clone(), said.error()["offset"].clone()),
                }
            };
            let (local, remote) = (digest(file.as_os_str()), digest(url.as_ref()));
            assert_eq!(remote, local, "{what}, zeros from {kept}");
            refused += usize::from(local.0 != 0);
        }
        // Zeros at the end of a raw disk are content. Every other format loses metadata in one of these cases at least.
        assert_eq!(refused > 0, format != "raw", "{what}: {refused} refused");
    }
}
