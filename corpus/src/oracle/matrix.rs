//! Every format and variant that qemu-img can make, at several cluster, grain and disk sizes, each with its expected disk.
//!
//! A [`Recipe`] describes how to make an image. [`Recipe::build`] makes it from a [`Base`] disk and returns a [`Case`]: the
//! image's files, and the raw disk that a reader must produce. Recipes are built one at a time, so that a test stores at
//! most one image:
//!
//! ```no_run
//! use diskferry_corpus::oracle::matrix::{Base, recipes};
//!
//! let dir = tempfile::tempdir().unwrap();
//! let base = Base::ext4(dir.path());
//! for recipe in recipes() {
//!     let place = tempfile::tempdir_in(&dir).unwrap();
//!     let case = recipe.build(&base, place.path());
//!     // convert case.image to raw; compare with case.truth, case.virtual_bytes, case.digest()
//! }
//! ```
//!
//! The expected disk never comes from reading the image. It is the raw disk that the image was made from, changed by the same
//! `qemu-io` writes, and truncated or zero-extended to the size that the format supports.

use std::fs;
use std::path::{Path, PathBuf};

use super::{
    fsverity_digest, make, qemu_format, qemu_img, qemu_io, qemu_virtual_bytes, set_len, text, tool, tool_fed,
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Size of the base disk: 24 MiB and five sectors, so that it is a multiple of the sector size only.
pub const BASE_BYTES: u64 = 24 * MIB + 5 * 512;

/// A raw disk to make images from.
#[derive(Clone, Debug)]
pub struct Base {
    /// The raw disk, [`BASE_BYTES`] long.
    pub raw: PathBuf,
}

impl Base {
    /// Makes a disk with an MBR and an ext4 file system at `dir/base.raw`. It has real files from this machine's `/usr/share`,
    /// free space, holes and an odd length.
    pub fn ext4(dir: &Path) -> Self {
        Self::ext4_holding(dir, 12 * MIB)
    }

    /// Like [`ext4`](Self::ext4), with a limit on the bytes of files, for tests that write the disk often.
    pub fn ext4_holding(dir: &Path, bytes: u64) -> Self {
        let part = dir.join("base.part");
        set_len_new(&part, BASE_BYTES - MIB);
        let files = dir.join("base.d");
        some_files(Path::new("/usr/share"), &files, bytes);
        let seeded = "hash_seed=d15cfe44-0000-4000-8000-00000000ba5e,nodiscard";
        tool("mkfs.ext4", &["-q", "-F", "-b", "1024", "-E", seeded, "-d", text(&files), text(&part)]);
        let _ = fs::remove_dir_all(&files);
        Self::with_partition(dir, &part, "start=2048, type=83, bootable")
    }

    /// Makes a disk of the same size with an MBR and an NTFS file system with a few real files.
    pub fn ntfs(dir: &Path) -> Self {
        let part = dir.join("base.part");
        set_len_new(&part, BASE_BYTES - MIB);
        tool("mkntfs", &["-F", "-q", "-f", "-p", "2048", "-H", "255", "-S", "63", text(&part)]);
        for (i, name) in first_files(Path::new("/usr/share"), 4 * MIB).iter().enumerate() {
            tool("ntfscp", &["-f", text(&part), text(name), &format!("file-{i}")]);
        }
        Self::with_partition(dir, &part, "start=2048, type=7, bootable")
    }

    fn with_partition(dir: &Path, part: &Path, line: &str) -> Self {
        let raw = dir.join("base.raw");
        set_len_new(&raw, BASE_BYTES);
        let script = format!("label: dos\nlabel-id: 0xd15cfe44\nunit: sectors\n{line}\n");
        tool_fed("sfdisk", &["-q", "--no-reread", text(&raw)], &script);
        let [from, to] = [format!("if={}", text(part)), format!("of={}", text(&raw))];
        tool("dd", &[&from, &to, "bs=1M", "seek=1", "conv=notrunc,sparse", "status=none"]);
        let _ = fs::remove_file(part);
        set_len(&raw, BASE_BYTES);
        Self { raw }
    }
}

/// How to make one image.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// A unique name that is valid as a file name.
    pub name: String,
    /// The format, named as on diskferry's command line.
    pub format: &'static str,
    /// `key=value` options of `qemu-img create` and `convert`.
    pub options: Vec<String>,
    /// Flags of `qemu-img convert`, such as `-c`.
    pub flags: Vec<&'static str>,
    /// Requested size of the guest disk, in bytes. The base disk is truncated or extended to it.
    pub disk_bytes: u64,
    /// `qemu-io` commands that run on both the image and the expected disk.
    pub edits: Vec<&'static str>,
    /// Further `qemu-img` calls on the image, which do not change the guest disk. `IMAGE` is replaced by its path.
    pub after: Vec<Vec<&'static str>>,
    /// A virtual size to write into the QCOW2 header, because qemu writes whole sectors only.
    pub header_size: Option<u64>,
    /// True if the disk spans gibibytes (mostly holes); a test may read it from fewer sources.
    pub large: bool,
}

/// An image with its expected disk.
#[derive(Clone, Debug)]
pub struct Case {
    /// The recipe's name.
    pub name: String,
    /// The format, named as on diskferry's command line.
    pub format: &'static str,
    /// The file to open.
    pub image: PathBuf,
    /// All files of the image: the one to open, then its siblings.
    pub files: Vec<PathBuf>,
    /// The expected raw disk.
    pub truth: PathBuf,
    /// Its length: the exact size of the guest disk, in bytes.
    pub virtual_bytes: u64,
    /// True if the disk spans gibibytes.
    pub large: bool,
}

impl Case {
    /// The digest of the expected disk, computed by the `fsverity` tool.
    pub fn digest(&self) -> String {
        fsverity_digest(&self.truth)
    }
}

impl Recipe {
    fn new(format: &'static str, name: &str, options: &[&str]) -> Self {
        Self {
            name: format!("{format}-{name}"),
            format,
            options: options.iter().map(|&o| o.to_owned()).collect(),
            flags: Vec::new(),
            disk_bytes: BASE_BYTES,
            edits: Vec::new(),
            after: Vec::new(),
            header_size: None,
            large: false,
        }
    }

    fn compressed(mut self) -> Self {
        self.flags.push("-c");
        self
    }

    fn flags(mut self, flags: &[&'static str]) -> Self {
        self.flags.extend(flags);
        self
    }

    fn disk(mut self, bytes: u64) -> Self {
        self.disk_bytes = bytes;
        self.large = bytes > GIB;
        self
    }

    fn edits(mut self, edits: &[&'static str]) -> Self {
        self.edits.extend(edits);
        self
    }

    fn after(mut self, calls: &[&[&'static str]]) -> Self {
        self.after.extend(calls.iter().map(|c| c.to_vec()));
        self
    }

    /// Makes the image and its expected disk in `dir`. The directory must be empty: all files in it become siblings.
    ///
    /// # Panics
    /// If a tool is missing or fails.
    pub fn build(&self, base: &Base, dir: &Path) -> Case {
        let truth = dir.join("truth.raw");
        tool("cp", &["--sparse=always", text(&base.raw), text(&truth)]);
        set_len(&truth, self.disk_bytes);

        let home = dir.join("image");
        fs::create_dir(&home).unwrap_or_else(|e| panic!("{}: {e}", home.display()));
        let image = home.join(format!("{}.{}", self.name, self.format));
        let options: Vec<&str> = self.options.iter().map(String::as_str).collect();
        if self.format == "raw" {
            tool("cp", &["--sparse=always", text(&truth), text(&image)]);
        } else {
            make(&truth, self.format, &options, &self.flags, &image);
        }
        let edit_format = qemu_format(self.format);
        qemu_io(&image, edit_format, &self.edits);
        // A compressed write is possible in the image only, not in the raw file.
        let plain: Vec<String> = self.edits.iter().map(|e| e.replace("write -c ", "write ")).collect();
        qemu_io(&truth, "raw", &plain.iter().map(String::as_str).collect::<Vec<_>>());
        for call in &self.after {
            let args: Vec<&str> = call.iter().map(|a| if *a == "IMAGE" { text(&image) } else { a }).collect();
            qemu_img(&args);
        }

        let virtual_bytes = match (self.format, self.header_size) {
            ("raw", _) => self.disk_bytes,
            (_, Some(bytes)) => {
                put_qcow2_size(&image, bytes);
                bytes
            }
            (format, None) => qemu_virtual_bytes(&image, format),
        };
        set_len(&truth, virtual_bytes);
        let mut files: Vec<PathBuf> = fs::read_dir(&home)
            .and_then(|entries| entries.map(|e| Ok(e?.path())).collect())
            .unwrap_or_else(|e| panic!("{}: {e}", home.display()));
        files.sort();
        files.sort_by_key(|f| f != &image);
        Case {
            name: self.name.clone(),
            format: self.format,
            image,
            files,
            truth,
            virtual_bytes,
            large: self.large,
        }
    }
}

/// All recipes: about ninety.
pub fn recipes() -> Vec<Recipe> {
    let mut all = raw();
    all.extend(vhd());
    all.extend(qcow2());
    all.extend(vmdk());
    all
}

fn raw() -> Vec<Recipe> {
    vec![
        Recipe::new("raw", "whole-sectors", &[]),
        Recipe::new("raw", "odd-bytes", &[]).disk(BASE_BYTES - 77),
        Recipe::new("raw", "one-sector", &[]).disk(512),
        Recipe::new("raw", "3g-sparse", &[]).disk(3 * GIB + 512).edits(&["write -P 7 3221225472 512"]),
    ]
}

fn vhd() -> Vec<Recipe> {
    let fixed = ["subformat=fixed"];
    let dynamic = ["subformat=dynamic"];
    let forced = ["subformat=dynamic", "force_size=on"];
    vec![
        Recipe::new("vhd", "fixed-chs", &fixed),
        Recipe::new("vhd", "fixed-forced", &["subformat=fixed", "force_size=on"]),
        Recipe::new("vhd", "fixed-forced-4m", &["subformat=fixed", "force_size=on"]).disk(4 * MIB),
        Recipe::new("vhd", "dynamic-chs", &dynamic),
        Recipe::new("vhd", "dynamic-forced", &forced),
        Recipe::new("vhd", "dynamic-whole-blocks", &forced).disk(24 * MIB),
        Recipe::new("vhd", "dynamic-one-sector-more", &forced).disk(24 * MIB + 512),
        Recipe::new("vhd", "dynamic-one-sector-less", &forced).disk(24 * MIB - 512),
        Recipe::new("vhd", "dynamic-under-a-block", &forced).disk(MIB + 512),
        Recipe::new("vhd", "dynamic-blocks-out-of-order", &forced).disk(64 * MIB).edits(&[
            "write -P 1 60M 4k",
            "write -P 2 40M 64k",
            "write -P 3 50M 512",
        ]),
        Recipe::new("vhd", "dynamic-3g-sparse", &forced).disk(3 * GIB).edits(&["write -P 9 3221221376 4k"]),
    ]
}

fn qcow2() -> Vec<Recipe> {
    let mut all = Vec::new();
    for size in ["512", "1k", "4k", "64k", "512k", "2M"] {
        let cluster = format!("cluster_size={size}");
        all.push(Recipe::new("qcow2", &format!("plain-{size}"), &[&cluster]));
        all.push(Recipe::new("qcow2", &format!("zlib-{size}"), &[&cluster]).compressed());
        all.push(
            Recipe::new("qcow2", &format!("zstd-{size}"), &[&cluster, "compression_type=zstd"]).compressed(),
        );
    }
    for size in ["512", "64k", "2M"] {
        let cluster = format!("cluster_size={size}");
        all.push(Recipe::new("qcow2", &format!("v2-plain-{size}"), &["compat=0.10", &cluster]));
        all.push(Recipe::new("qcow2", &format!("v2-zlib-{size}"), &["compat=0.10", &cluster]).compressed());
    }
    for size in ["16k", "64k", "2M"] {
        let cluster = format!("cluster_size={size}");
        let options = ["extended_l2=on", cluster.as_str()];
        // Single sub-clusters are written, zeroed and discarded, in allocated and in unallocated clusters.
        let edits = ["write -P 5 23M 1k", "write -z 22M 512", "write -z -u 8M 70k", "write -P 6 9000448 3k"];
        all.push(
            Recipe::new("qcow2", &format!("extended-l2-{size}"), &options).flags(&["-S", "4k"]).edits(&edits),
        );
        all.push(Recipe::new("qcow2", &format!("extended-l2-zlib-{size}"), &options).compressed());
    }
    for bits in ["1", "2", "8", "32", "64"] {
        let refcounts = format!("refcount_bits={bits}");
        all.push(Recipe::new("qcow2", &format!("refcount-{bits}"), &[&refcounts, "cluster_size=4k"]));
    }
    for how in ["metadata", "falloc", "full"] {
        let preallocation = format!("preallocation={how}");
        all.push(Recipe::new("qcow2", &format!("preallocated-{how}"), &[&preallocation]));
    }
    let zeros = ["write -z 4M 1M", "write -z -u 7M 192k", "discard 10M 256k", "write -P 3 4259840 4k"];
    all.extend([
        Recipe::new("qcow2", "extended-l2-preallocated", &["extended_l2=on", "preallocation=metadata"])
            .edits(&["write -P 4 20M 6k"]),
        Recipe::new("qcow2", "lazy-refcounts", &["lazy_refcounts=on"]).edits(&["write -P 8 20M 64k"]),
        // qemu reads a discarded range as zeros, but a raw file may keep its data. Zeros are written, so that both agree.
        Recipe::new("qcow2", "zero-clusters", &["cluster_size=64k"])
            .edits(&zeros)
            .edits(&["write -z 10M 256k"]),
        Recipe::new("qcow2", "zlib-then-written", &[]).compressed().edits(&[
            "write -P 1 5M 100k",
            "write -z 6M 64k",
            "write -P 2 7000064 512",
        ]),
        Recipe::new("qcow2", "zlib-written-compressed", &["cluster_size=4k"]).edits(&[
            "write -c -P 65 2M 4k",
            "write -c -P 66 2101248 4k",
            "write -c -P 67 24M 2560",
        ]),
        Recipe::new("qcow2", "snapshots", &[])
            .after(&[&["snapshot", "-c", "first", "IMAGE"], &["snapshot", "-c", "second", "IMAGE"]]),
        Recipe::new("qcow2", "bitmap", &[]).after(&[&["bitmap", "--add", "-f", "qcow2", "IMAGE", "changed"]]),
        Recipe::new("qcow2", "one-sector", &[]).disk(512),
        Recipe::new("qcow2", "whole-clusters", &[]).disk(24 * MIB),
        Recipe::new("qcow2", "cluster-and-a-sector", &[]).disk(64 * KIB + 512),
        Recipe::new("qcow2", "3g-plain", &[]).disk(3 * GIB).edits(&["write -P 5 3221221376 4k"]),
        Recipe::new("qcow2", "3g-zstd", &["compression_type=zstd"]).compressed().disk(3 * GIB),
        Recipe { header_size: Some(BASE_BYTES - 77), ..Recipe::new("qcow2", "odd-bytes", &[]) },
        Recipe {
            header_size: Some(BASE_BYTES - 77),
            ..Recipe::new("qcow2", "odd-bytes-zlib", &[]).compressed()
        },
    ]);
    all
}

fn vmdk() -> Vec<Recipe> {
    let split = ["subformat=twoGbMaxExtentSparse"];
    // A write across the boundary of two extent files, and one at the end of the disk.
    let seam = ["write -P 1 2147479552 8k", "write -P 2 2184179712 4k"];
    let mut all = Vec::new();
    for subformat in [
        "monolithicSparse",
        "streamOptimized",
        "monolithicFlat",
        "twoGbMaxExtentSparse",
        "twoGbMaxExtentFlat",
    ] {
        let option = format!("subformat={subformat}");
        all.push(Recipe::new("vmdk", subformat, &[&option]));
        all.push(Recipe::new("vmdk", &format!("{subformat}-whole-grains"), &[&option]).disk(24 * MIB));
        all.push(
            Recipe::new("vmdk", &format!("{subformat}-grain-and-a-sector"), &[&option]).disk(64 * KIB + 512),
        );
    }
    for adapter in ["lsilogic", "buslogic", "legacyESX"] {
        let option = format!("adapter_type={adapter}");
        all.push(Recipe::new(
            "vmdk",
            &format!("adapter-{adapter}"),
            &["subformat=monolithicSparse", &option],
        ));
    }
    let zeroed = ["write -z 4M 1M", "write -z 64k 64k", "write -P 3 4259840 4k"];
    all.extend([
        Recipe::new("vmdk", "compat6", &["compat6=on"]),
        Recipe::new("vmdk", "zeroed-grains", &["subformat=monolithicSparse", "zeroed_grain=on"])
            .edits(&zeroed),
        Recipe::new("vmdk", "grains-out-of-order", &["subformat=monolithicSparse"]).disk(64 * MIB).edits(&[
            "write -P 1 60M 4k",
            "write -P 2 40M 100k",
            "write -P 3 50M 512",
        ]),
        Recipe::new("vmdk", "streamOptimized-3g", &["subformat=streamOptimized"]).disk(3 * GIB),
        Recipe::new("vmdk", "monolithicSparse-3g", &["subformat=monolithicSparse"])
            .disk(3 * GIB)
            .edits(&["write -P 5 3221221376 4k"]),
        Recipe::new("vmdk", "split-sparse-3g", &split).disk(2 * GIB + 35 * MIB).edits(&seam),
        Recipe::new("vmdk", "split-flat-3g", &["subformat=twoGbMaxExtentFlat"])
            .disk(2 * GIB + 35 * MIB)
            .edits(&seam),
    ]);
    all
}

/// Writes an exact size into a QCOW2 header (offset 24, big-endian), because qemu writes whole sectors only.
fn put_qcow2_size(image: &Path, bytes: u64) {
    use std::os::unix::fs::FileExt;

    let file =
        fs::File::options().write(true).open(image).unwrap_or_else(|e| panic!("{}: {e}", image.display()));
    file.write_all_at(&bytes.to_be_bytes(), 24).unwrap_or_else(|e| panic!("{}: {e}", image.display()));
}

fn set_len_new(path: &Path, bytes: u64) {
    write(path, b"");
    set_len(path, bytes);
}

fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

/// Copies files below `from` into one flat directory, up to `bytes` in total.
fn some_files(from: &Path, to: &Path, bytes: u64) {
    fs::create_dir_all(to).unwrap_or_else(|e| panic!("{}: {e}", to.display()));
    for (i, path) in first_files(from, bytes).iter().enumerate() {
        let _ = fs::copy(path, to.join(format!("file-{i}")));
    }
}

/// Returns the first readable regular files below a directory in name order, up to `bytes` in total.
fn first_files(from: &Path, bytes: u64) -> Vec<PathBuf> {
    let (mut found, mut total, mut dirs) = (Vec::new(), 0, vec![from.to_owned()]);
    while let Some(dir) = dirs.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        let mut entries: Vec<_> = entries.flatten().collect();
        entries.sort_by_key(fs::DirEntry::path);
        for entry in entries {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                dirs.push(entry.path());
            } else if kind.is_file() {
                let len = entry.metadata().map_or(0, |m| m.len());
                if (1..=MIB).contains(&len) && fs::File::open(entry.path()).is_ok() {
                    total += len;
                    if total > bytes || found.len() == 400 {
                        return found;
                    }
                    found.push(entry.path());
                }
            }
        }
    }
    found
}
