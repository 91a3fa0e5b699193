//! Runs the program on the lattice of malformed headers and on the malformed corpus images. It must exit with 3 or 4, report
//! why, leave no files and use little memory, whatever the image claims. Every refused case is run.

use std::fmt::Write as _;
use std::path::Path;

use diskferry_corpus::lattice::{Outcome, cases};
use diskferry_corpus::malformed;
use diskferry_corpus::tools::command;
use serde_json::{Value, json};

/// Maximum memory of one run, in KiB: 128 MiB.
const MOST_KIB: u64 = 128 << 10;

/// Runs the command of each input line and prints its outcome. A run that does not end is killed, which counts as a signal.
/// The duration is not checked.
const RUNNER: &str = r#"
import json, os, subprocess, sys, threading, time
env = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
for line in open(sys.argv[1]):
    case = json.loads(line)
    before = sorted(os.listdir(case["dir"]))
    began = time.monotonic()
    with open(case["said"], "wb") as said:
        child = subprocess.Popen(case["args"], stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=env)
    killer = threading.Timer(300, child.kill)
    killer.start()
    _, status, usage = os.wait4(child.pid, 0)
    killer.cancel()
    child.returncode = 0
    print(json.dumps({
        "code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
        "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
        "kib": usage.ru_maxrss,
        "left": [name for name in sorted(os.listdir(case["dir"])) if name not in before],
        "seconds": time.monotonic() - began,
        "said": open(case["said"], "rb").read().decode("utf-8", "backslashreplace"),
    }))
"#;

/// A run of the program, and its expected exit code.
struct Run {
    name: String,
    code: &'static str,
    args: Vec<String>,
    dir: String,
}

/// Runs all, and fails with a list of all wrong outcomes.
fn check(runs: &[Run], home: &Path) {
    let mut list = String::new();
    for run in runs {
        let mut args = vec![env!("CARGO_BIN_EXE_diskferry")];
        args.extend(run.args.iter().map(String::as_str));
        let line = json!({"args": args, "dir": run.dir, "said": home.join("said")});
        writeln!(list, "{line}").expect("writing to a string succeeds");
    }
    let path = home.join("runs");
    std::fs::write(&path, list).expect("a file");
    let ended = command("python3").args(["-c", RUNNER]).arg(&path).output().expect("python3 runs");
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let ends: Vec<Value> = String::from_utf8(ended.stdout)
        .expect("JSON")
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(ends.len(), runs.len());
    let mut wrong = Vec::new();
    for (run, end) in runs.iter().zip(&ends) {
        let said = end["said"].as_str().unwrap_or_default();
        let harmless = said.chars().all(|c| c == '\n' || !c.is_control());
        let right = [Some(3), Some(4)].contains(&end["code"].as_i64())
            && said.starts_with(&format!("error[{}]: ", run.code))
            && harmless
            && end["left"].as_array().is_some_and(Vec::is_empty)
            && end["kib"].as_u64().is_some_and(|kib| kib <= MOST_KIB);
        if !right {
            wrong.push(format!("{}: should be {}\n    {end}", run.name, run.code));
        }
    }
    let most = ends.iter().filter_map(|end| end["kib"].as_u64()).max().unwrap_or_default();
    let longest = ends.iter().filter_map(|end| end["seconds"].as_f64()).fold(0.0, f64::max);
    println!("{} runs, at most {most} KiB and {longest:.2} s", runs.len());
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), runs.len(), wrong.join("\n"));
}

fn text(path: &Path) -> String {
    path.to_str().expect("the path is UTF-8").to_owned()
}

/// Writes an image to a separate directory, and returns the command that converts it.
fn run_of(
    home: &Path,
    number: usize,
    name: String,
    format: &str,
    code: &'static str,
    files: &[(&str, &[u8])],
) -> Run {
    let dir = home.join(number.to_string());
    std::fs::create_dir(&dir).expect("a directory");
    for (name, bytes) in files {
        std::fs::write(dir.join(name), bytes).expect("a file");
    }
    let (source, target) = (text(&dir.join(files[0].0)), text(&dir.join("target.raw")));
    let args = ["convert", "-q", "-f", format, source.as_str(), target.as_str()];
    Run { name, code, args: args.map(str::to_owned).to_vec(), dir: text(&dir) }
}

#[test]
fn every_lattice_case_is_refused_and_leaves_no_files() {
    let home = tempfile::tempdir().expect("a directory");
    let mut runs = Vec::new();
    for case in cases() {
        let Outcome::Refused { code, .. } = case.outcome else { continue };
        let files = case.files();
        let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
        runs.push(run_of(home.path(), runs.len(), case.name(), case.format, code, &files));
    }
    assert!(runs.len() > 1800, "{}", runs.len());
    check(&runs, home.path());
}

#[test]
fn every_malformed_corpus_image_is_refused_and_leaves_no_files() {
    let home = tempfile::tempdir().expect("a directory");
    let mut runs = Vec::new();
    for image in malformed() {
        let Some(code) = image.code else { continue };
        let files = [(image.file, image.bytes)];
        runs.push(run_of(home.path(), runs.len(), image.name.to_owned(), image.format, code, &files));
    }
    check(&runs, home.path());
}
