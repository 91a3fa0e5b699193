//! The commands in README.md and docs/ run as written. CONTRIBUTING.md, "Commands in documents", has the marks of blocks.

use std::path::{Path, PathBuf};
use std::time::Duration;

use diskferry_corpus::{sample, tools};
use diskferry_s3io::server::{Server, ServerOptions};

/// Pages and the number of script blocks that each must have at least.
const PAGES: [(&str, usize); 3] = [("README.md", 1), ("docs/operations.md", 4), ("docs/reference.md", 0)];
/// Marks of blocks that are not scripts.
const OTHER_MARKS: [&str; 4] = ["console", "json", "toml", "rust,no_run"];

struct Block {
    mark: String,
    text: String,
    line: usize,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The fenced blocks of a page. Those of the README's "Try it" are left out: `.ci/fresh` runs them.
fn blocks(page: &str) -> Vec<Block> {
    let text = std::fs::read_to_string(root().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    let mut section = "";
    for (number, line) in (1..).zip(text.lines()) {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(mark)) => {
                open = Some(Block { mark: mark.to_owned(), text: String::new(), line: number });
            }
            (None, None) => section = line.strip_prefix("## ").unwrap_or(section),
            (Some(_), Some(_)) if section == "Try it" => open = None,
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(block), None) => block.text += &format!("{line}\n"),
        }
    }
    assert!(open.is_none(), "{page}: a block is not closed");
    blocks
}

/// Runs the scripts of a page in order, in one directory, with a store of its own.
async fn run_page(page: &str, least: usize) {
    let server = Server::start(ServerOptions::default()).expect("a server");
    for bucket in ["images", "library"] {
        server.create_bucket(bucket).await.expect("a bucket");
    }
    server.put("images", "centos7.vmdk", sample("vmdk-stream").bytes()).await.expect("an image");
    let hour = Duration::from_secs(3600);
    let presigned = server.presign("images", "centos7.vmdk", hour).await.expect("a presigned URL");

    let program = Path::new(env!("CARGO_BIN_EXE_diskferry"));
    let mut path = program.parent().expect("the directory of the program").as_os_str().to_owned();
    path.push(":/usr/local/bin:/usr/bin:/bin");
    let dir = tempfile::tempdir().expect("a directory");
    let keys = server.keys();
    let scripts: Vec<Block> = blocks(page).into_iter().filter(|block| block.mark == "sh").collect();
    assert!(scripts.len() >= least, "{page} has {} script blocks", scripts.len());
    for script in scripts {
        let output = tools::command("bash")
            .args(["-eu", "-o", "pipefail", "-c", &script.text])
            .current_dir(dir.path())
            .env_clear()
            .env("PATH", &path)
            .env("HOME", dir.path())
            .env("AWS_ENDPOINT_URL", server.endpoint())
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ACCESS_KEY_ID", &keys.access_key)
            .env("AWS_SECRET_ACCESS_KEY", &keys.secret_key)
            .env("PRESIGNED_URL", &presigned)
            .stdin(std::process::Stdio::null())
            .output()
            .expect("bash starts");
        assert!(
            output.status.success(),
            "{page}, line {}: {}\n{}\n{}",
            script.line,
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_every_page_run_as_written() {
    for (page, least) in PAGES {
        run_page(page, least).await;
    }
}

#[test]
fn every_fenced_block_has_a_mark_that_is_documented() {
    let contributing = std::fs::read_to_string(root().join("CONTRIBUTING.md")).expect("the page");
    assert!(contributing.contains("## Commands in documents"));
    for (page, _) in PAGES {
        for block in blocks(page) {
            let mark = block.mark.split(' ').next().unwrap_or_default();
            assert!(
                mark == "sh" || OTHER_MARKS.contains(&mark),
                "{page}, line {}: the mark {:?} of a block is not documented",
                block.line,
                block.mark
            );
        }
    }
}

#[test]
fn links_between_pages_lead_to_files_and_headings() {
    let pages = [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "PERFORMANCE.md",
        "SECURITY.md",
        "THREAT-MODEL.md",
        "corpus/README.md",
        "docs/operations.md",
        "docs/reference.md",
    ];
    for page in pages {
        let path = root().join(page);
        let text = std::fs::read_to_string(&path).expect("the page");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("https://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { path.clone() } else { path.with_file_name("").join(file) };
            assert!(target.exists(), "{page}: {link} leads nowhere");
            if !anchor.is_empty() {
                let text = std::fs::read_to_string(&target).expect("the target of a link");
                let found = text.lines().any(|line| line.starts_with('#') && slug(line) == anchor);
                assert!(found, "{page}: {link} names a heading that is not there");
            }
        }
    }
}

#[test]
fn the_threat_model_names_tests_and_files_that_exist() {
    fn collect(dir: &Path, text: &mut String) {
        for entry in std::fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry")) {
            let path = entry.path();
            if path.is_dir() {
                collect(&path, text);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                *text += &std::fs::read_to_string(&path).expect("a source file");
            }
        }
    }
    let root = root();
    let mut sources = String::new();
    for dir in ["core", "formats", "s3io", "src", "tests", "bins", "corpus/src", "corpus/tests"] {
        collect(&root.join(dir), &mut sources);
    }
    let page = std::fs::read_to_string(root.join("THREAT-MODEL.md")).expect("the page");
    let attacks = page.split("\n## Known attacks\n").nth(1).expect("the section");
    let attacks = attacks.split("\n## ").next().unwrap_or_default();
    let mut seen = 0;
    for name in attacks.split('`').skip(1).step_by(2).filter(|name| name.matches('_').count() > 1) {
        seen += 1;
        assert!(sources.contains(&format!("fn {name}(")), "THREAT-MODEL.md: there is no test {name}");
    }
    assert!(seen > 15, "only {seen} names of tests were found");
}

/// The anchor of a heading, as GitHub makes it.
fn slug(heading: &str) -> String {
    let title = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}
