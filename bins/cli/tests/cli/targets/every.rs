//! Converts every variant that qemu-img makes to every kind of target: to a file, to S3, and through a pipe if the format
//! permits. Our reader, qemu-img and libyal's readers must find the expected digest and size.

use std::path::{Path, PathBuf};

use diskferry_core::ErrorKind;
use diskferry_corpus::oracle::matrix::{BASE_BYTES, Base, Case, Recipe, recipes};
use diskferry_corpus::oracle::{
    fsverity_digest, qemu_check, qemu_format, qemu_img, qemu_virtual_bytes, set_len, tool, yal_to_raw,
};
use diskferry_formats::Format;

use crate::targets::support::{
    Bench, Content, KINDS, Kind, MEMORY, MIB, ODD_KINDS, Place, Written, digest, made, open_file, same_bytes,
};

const SECTOR: u64 = 512;

/// The content that a target must have.
struct Truth {
    raw: PathBuf,
    bytes: u64,
    digest: String,
}

impl Truth {
    fn of(raw: PathBuf) -> Self {
        Self { bytes: raw.metadata().unwrap().len(), digest: fsverity_digest(&raw), raw }
    }

    /// The disk, padded with zeros to a whole sector.
    fn padded(&self, dir: &Path) -> Self {
        self.resized(&dir.join("padded.raw"), self.bytes.next_multiple_of(SECTOR))
    }

    fn resized(&self, raw: &Path, bytes: u64) -> Self {
        tool("cp", &["--sparse=always", self.raw.to_str().unwrap(), raw.to_str().unwrap()]);
        set_len(raw, bytes);
        Self::of(raw.to_owned())
    }
}

/// A case, and the targets to make from it.
struct Every<'a> {
    bench: &'a Bench,
    case: Case,
    dir: &'a Path,
    /// Whether libyal's readers check it too. They are slow, so they check only a few cases per content.
    yal: bool,
}

impl Every<'_> {
    async fn convert(
        &self,
        kind: &Kind,
        place: Place,
        more: &[(&str, &str)],
    ) -> diskferry_core::Result<Written> {
        let disk = open_file(&self.case.image, self.case.format).await;
        let name = format!("{}-{}-{place:?}", self.case.name, kind.name);
        let target = &kind.options(more);
        self.bench.convert(disk, target, (place, &name), &self.bench.resources).await
    }

    async fn refused(&self, kind: &Kind, place: Place) {
        let what = format!("{} to {} at {place:?}", self.case.name, kind.name);
        let refused = self.convert(kind, place, &[]).await.err();
        let refused = refused.unwrap_or_else(|| panic!("{what} is not refused"));
        assert_eq!(refused.kind(), ErrorKind::DestinationUnsuitable, "{what}: {refused:?}");
        assert!(refused.hint_text().is_some(), "{what}: {refused:?} has no hint");
    }

    async fn check(&self, kind: &Kind, truth: &Truth, more: &[(&str, &str)]) {
        let mut judged: Vec<PathBuf> = Vec::new();
        for place in Place::ALL {
            if place == Place::Pipe && !kind.flows() {
                self.refused(kind, place).await;
                continue;
            }
            // Transferring gibibytes of zeros tests nothing that a smaller disk does not.
            if place != Place::File && kind.is_flat() && self.case.large {
                continue;
            }
            let what = format!("{} to {} at {place:?}", self.case.name, kind.name);
            let written = self.convert(kind, place, more).await;
            let written = written.unwrap_or_else(|error| panic!("{what}: {error:?}"));
            let report = &written.report;
            assert!(report.stats.peak_budget_bytes <= MEMORY, "{what}: {:?}", report.stats);
            assert_eq!(report.digest.unwrap().to_string(), truth.digest, "{what}: the reported digest");
            let (format, _, receipt) = report.target.as_ref().unwrap();
            assert_eq!(*format, kind.format.name(), "{what}");
            assert_eq!(receipt.bytes, written.path.metadata().unwrap().len(), "{what}: the reported length");
            assert_eq!(report.sizes.output_bytes, Some(receipt.bytes), "{what}");
            let disk = self.bench.read_back(kind.format, &written).await;
            let disk = disk.unwrap_or_else(|error| panic!("{what}: {error:?}"));
            assert_eq!(disk.virtual_bytes(), truth.bytes, "{what}: the size read back");
            assert_eq!(digest(disk, &self.bench.resources).await, truth.digest, "{what}: the disk read back");
            if !judged.iter().any(|path| same_bytes(path, &written.path)) {
                self.judge(kind, &written.path, truth, &what);
            }
            judged.push(written.path);
        }
        for path in judged {
            std::fs::remove_file(path).unwrap();
        }
    }

    /// Checks the target with independent readers.
    fn judge(&self, kind: &Kind, path: &Path, truth: &Truth, what: &str) {
        let (text, format) = (path.to_str().unwrap(), kind.format.name());
        if kind.format == Format::Raw {
            if self.case.large {
                // A file has holes.
                qemu_img(&["compare", "-f", "raw", "-F", "raw", text, truth.raw.to_str().unwrap()]);
                assert_eq!(path.metadata().unwrap().len(), truth.bytes, "{what}: the length");
            } else {
                assert!(same_bytes(path, &truth.raw), "{what}: not the raw disk");
            }
            return;
        }
        if matches!(kind.format, Format::Qcow2 | Format::Vmdk) {
            qemu_check(path, format);
        }
        // qemu rounds virtual sizes up to whole sectors.
        let whole = truth.bytes / SECTOR * SECTOR;
        assert_eq!(qemu_virtual_bytes(path, format), whole, "{what}: the size that qemu sees");
        let cut = (whole != truth.bytes).then(|| truth.resized(&self.dir.join("cut.raw"), whole));
        let raw = cut.as_ref().map_or(&truth.raw, |cut| &cut.raw);
        qemu_img(&["compare", "-f", qemu_format(format), "-F", "raw", text, raw.to_str().unwrap()]);
        // corpus/README.md lists the images that libyal cannot read or reads wrongly.
        if self.yal && kind.compression().is_none() {
            let out = self.dir.join("yal.raw");
            yal_to_raw(path, format, &out);
            assert!(same_bytes(&out, &truth.raw), "{what}: libyal reads another disk");
        }
    }
}

async fn run(bench: &Bench, recipe: &Recipe, base: &Base) {
    let dir = tempfile::tempdir().unwrap();
    let case = recipe.build(base, dir.path());
    let yal = recipe.format == "raw" && !recipe.large;
    let exact = match case.large {
        false => Truth::of(case.truth.clone()),
        // fsverity takes seconds for gibibytes of holes. The tests that read these disks compare with its digest.
        true => Truth {
            digest: digest(open_file(&case.truth, "raw").await, &bench.resources).await,
            bytes: case.virtual_bytes,
            raw: case.truth.clone(),
        },
    };
    let padded = (exact.bytes % SECTOR != 0).then(|| exact.padded(dir.path()));
    let every = Every { bench, case, dir: dir.path(), yal };
    let odd = ODD_KINDS.iter().filter(|_| recipe.format == "raw" && !recipe.large);
    for kind in KINDS.iter().chain(odd) {
        match &padded {
            Some(padded) if kind.counts_sectors() => {
                for place in Place::ALL {
                    every.refused(kind, place).await;
                }
                every.check(kind, padded, &[("align", "512")]).await;
            }
            _ => every.check(kind, &exact, &[]).await,
        }
    }
}

async fn run_all(chosen: impl Fn(&Recipe) -> bool) {
    let home = tempfile::tempdir().unwrap();
    run_all_of(&Base::ext4_holding(home.path(), 2 * MIB), chosen).await;
}

async fn run_all_of(base: &Base, chosen: impl Fn(&Recipe) -> bool) {
    let bench = Bench::new().await;
    let recipes: Vec<Recipe> = recipes().into_iter().filter(chosen).collect();
    assert!(!recipes.is_empty());
    for recipe in recipes {
        run(&bench, &recipe, base).await;
        bench.assert_nothing_is_left();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_raw_disk_becomes_every_target() {
    run_all(|recipe| recipe.format == "raw").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_vhd_becomes_every_target() {
    run_all(|recipe| recipe.format == "vhd").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_plain_qcow2_becomes_every_target() {
    run_all(|recipe| recipe.format == "qcow2" && !recipe.flags.contains(&"-c")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_compressed_qcow2_becomes_every_target() {
    run_all(|recipe| recipe.format == "qcow2" && recipe.flags.contains(&"-c")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_vmdk_becomes_every_target() {
    run_all(|recipe| recipe.format == "vmdk").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn windows_disk_becomes_every_target() {
    let home = tempfile::tempdir().unwrap();
    run_all_of(&Base::ntfs(home.path()), |recipe| recipe.name == "raw-whole-sectors").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn noise_disk_and_empty_disk_become_every_target() {
    let home = tempfile::tempdir().unwrap();
    let raw = home.path().join("base.raw");
    for content in [Content::Noise(1), Content::Zeros] {
        std::fs::write(&raw, made(&[(BASE_BYTES as usize, content)])).unwrap();
        run_all_of(&Base { raw: raw.clone() }, |recipe| recipe.name == "raw-whole-sectors").await;
    }
}
