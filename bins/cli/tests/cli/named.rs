//! The program must not open files that an image names. The tests trace its system calls on images that name files in every
//! way that the formats provide.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use diskferry_corpus::oracle::tool;

/// A word that every name in the images contains, and no path of the test does.
const CANARY: &str = "canary-that-nobody-asked-for";

/// Names that an image may contain: what each attempts, and its bytes in the image.
fn names(secret: &Path) -> Vec<(&'static str, Vec<u8>)> {
    let absolute = secret.to_str().expect("the path is UTF-8");
    let own = |text: String| text.into_bytes();
    vec![
        ("absolute", own(absolute.to_owned())),
        ("above", own(format!("../outside/{CANARY}"))),
        ("around", own(format!("x/../../outside/{CANARY}"))),
        ("url", own(format!("http://127.0.0.1:9/{CANARY}"))),
        ("file_url", own(format!("file://{absolute}"))),
        ("nbd", own(format!("nbd+unix:///x?socket={absolute}"))),
        ("json", own(format!("json:{{\"driver\":\"file\",\"filename\":\"{absolute}\"}}"))),
        ("device", own(format!("/dev/{CANARY}"))),
        ("proc", own(format!("/proc/self/root{absolute}"))),
        ("backslash", own(format!("..\\outside\\{CANARY}"))),
        ("link", own(format!("link-to-{CANARY}"))),
        ("nul", own(format!("{CANARY}\0.vmdk"))),
        ("control", own(format!("{CANARY}\x1b[2J\x07\r\n.vmdk"))),
        ("not_unicode", [CANARY.as_bytes(), &[0xff, 0xc0, 0x80, b'/', 0xfe]].concat()),
        ("endless", CANARY.repeat(64 << 10).into_bytes()[..64 << 10].to_vec()),
    ]
}

/// The fields of an image that contain a name.
type Make = fn(&Path, &[u8]);

const PLACES: [(&str, Make); 6] = [
    ("backing.qcow2", qcow2_backing),
    ("data.qcow2", qcow2_data),
    ("flat.vmdk", |path, name| vmdk(path, b"monolithicFlat", b"RW 2048 FLAT \"", name, b"\" 0\n")),
    ("sparse.vmdk", |path, name| vmdk(path, b"twoGbMaxExtentSparse", b"RW 2048 SPARSE \"", name, b"\"\n")),
    ("parent.vmdk", |path, name| {
        let hint = [b"RW 2048 SPARSE \"beside.vmdk\"\nparentFileNameHint=\"".as_slice(), name].concat();
        vmdk(path, b"twoGbMaxExtentSparse", b"", &hint, b"\"\n");
    }),
    ("parent.vhd", vhd_parent),
];

/// A header of version 3 that names a backing file.
fn qcow2_backing(path: &Path, name: &[u8]) {
    qcow2(path, |image| {
        let at = image.len() as u64;
        image[8..16].copy_from_slice(&512u64.to_be_bytes());
        image[16..20].copy_from_slice(&(name.len() as u32).to_be_bytes());
        image.splice(512..512 + name.len().min(1024), name.iter().take(1024).copied());
        assert_eq!(image.len() as u64, at);
    });
}

/// A header of version 3 with the bit and the header extension of an external data file.
fn qcow2_data(path: &Path, name: &[u8]) {
    qcow2(path, |image| {
        let incompatible = u64::from_be_bytes(image[72..80].try_into().expect("eight bytes")) | 4;
        image[72..80].copy_from_slice(&incompatible.to_be_bytes());
        let header = u32::from_be_bytes(image[100..104].try_into().expect("four bytes")) as usize;
        let kept = &name[..name.len().min(60_000)];
        let mut extension = 0x4441_5441u32.to_be_bytes().to_vec();
        extension.extend((name.len() as u32).to_be_bytes());
        extension.extend(kept);
        extension.resize(extension.len().next_multiple_of(8) + 8, 0);
        image[header..header + extension.len()].copy_from_slice(&extension);
    });
}

fn qcow2(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let made = path.with_extension("made");
    tool("qemu-img", &["create", "-q", "-f", "qcow2", made.to_str().expect("the path is UTF-8"), "1M"]);
    let mut image = std::fs::read(&made).expect("the image made by qemu-img");
    std::fs::remove_file(&made).expect("removing it");
    change(&mut image);
    std::fs::write(path, image).expect("an image");
}

/// A descriptor in a separate file.
fn vmdk(path: &Path, kind: &[u8], before: &[u8], name: &[u8], after: &[u8]) {
    let parent: &[u8] =
        if name.windows(14).any(|part| part == b"parentFileName") { b"12345678" } else { b"ffffffff" };
    let head: [&[u8]; 5] = [
        b"# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=",
        parent,
        b"\ncreateType=\"",
        kind,
        b"\"\n",
    ];
    let geometry: &[u8] = b"ddb.adapterType = \"ide\"\nddb.geometry.cylinders = \"2\"\nddb.geometry.heads = \"16\"\nddb.geometry.sectors = \"63\"\n";
    std::fs::write(path, [&head.concat(), before, name, after, geometry].concat()).expect("a descriptor");
}

/// A differencing disk, with the parent's name in the header and in a locator.
fn vhd_parent(path: &Path, name: &[u8]) {
    let text = path.to_str().expect("the path is UTF-8");
    tool("qemu-img", &["create", "-q", "-f", "vpc", "-o", "subformat=dynamic,force_size=on", text, "1M"]);
    let mut image = std::fs::read(path).expect("the image made by qemu-img");
    let end = image.len();
    let wide: Vec<u8> = String::from_utf8_lossy(name).encode_utf16().flat_map(u16::to_be_bytes).collect();
    for footer in [0, end - 512] {
        image[footer + 60..footer + 64].copy_from_slice(&4u32.to_be_bytes());
        checksum(&mut image[footer..footer + 512], 64);
    }
    let locator = image.len() as u64;
    image.splice(
        end - 512..end - 512,
        name.iter().copied().chain(std::iter::repeat_n(0, 512 - name.len() % 512)),
    );
    let header = &mut image[512..1536];
    let kept = wide.len().min(510);
    header[64..64 + kept].copy_from_slice(&wide[..kept]);
    header[576..580].copy_from_slice(b"W2ku");
    header[580..584].copy_from_slice(&(name.len().next_multiple_of(512) as u32).to_be_bytes());
    header[584..588].copy_from_slice(&(name.len() as u32).to_be_bytes());
    header[592..600].copy_from_slice(&(locator - 512).to_be_bytes());
    checksum(header, 36);
    std::fs::write(path, image).expect("an image");
}

/// The one's complement of the sum of all bytes, with its own field set to zero.
fn checksum(bytes: &mut [u8], at: usize) {
    bytes[at..at + 4].fill(0);
    let sum: u32 = bytes.iter().map(|byte| u32::from(*byte)).sum();
    bytes[at..at + 4].copy_from_slice(&(!sum).to_be_bytes());
}

/// Traces the system calls with a path or an address, of the program and its children, for one image.
fn traced(args: &[&str], log: &Path) -> (i32, String, String) {
    let ended = diskferry_corpus::tools::command("strace")
        .args(["-f", "-qq", "-s", "200000", "-e", "trace=%file,%network,execve,open_by_handle_at", "-o"])
        .arg(log)
        .arg(env!("CARGO_BIN_EXE_diskferry"))
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("strace runs");
    let calls = String::from_utf8_lossy(&std::fs::read(log).expect("the log of strace")).into_owned();
    assert!(calls.contains("execve("), "strace traced nothing: {}", String::from_utf8_lossy(&ended.stderr));
    let said = String::from_utf8([ended.stdout, ended.stderr].concat()).expect("the output is UTF-8");
    (ended.status.code().expect("an exit code, not a signal"), said, calls)
}

#[test]
fn files_named_by_an_image_are_never_opened() {
    let dir = tempfile::tempdir().expect("a directory");
    let (inside, outside) = (dir.path().join("inside"), dir.path().join("outside"));
    for made in [&inside, &outside] {
        std::fs::create_dir(made).expect("a directory");
    }
    let secret = outside.join(CANARY);
    std::fs::write(&secret, vec![b'S'; 1 << 20]).expect("a file");
    std::os::unix::fs::symlink(&secret, inside.join(format!("link-to-{CANARY}"))).expect("a link");
    std::fs::write(inside.join("beside.vmdk"), vec![0; 1 << 20]).expect("a file");
    let log = dir.path().join("calls");
    for (place, make) in PLACES {
        for (what, name) in names(&secret) {
            let image = inside.join(format!("{what}-{place}"));
            make(&image, &name);
            let (src, dst) = (image.to_str().expect("the path is UTF-8"), inside.join("target.raw"));
            let dst = dst.to_str().expect("the path is UTF-8");
            for args in [&["info", src][..], &["measure", src], &["convert", src, dst]] {
                let (code, said, calls) = traced(args, &log);
                let case = format!("{what} in {place}, {}", args[0]);
                for call in calls.lines().filter(|call| call.contains(CANARY)) {
                    // A symbolic link next to the image has a plain name: it may be opened, but it is not followed.
                    let refused =
                        what == "link" && call.contains("O_NOFOLLOW") && call.contains("= -1 ELOOP");
                    assert!(refused, "{case}: {call}");
                }
                assert!(
                    !calls.lines().skip(1).any(|call| call.contains("execve(")),
                    "{case} started a program"
                );
                assert!(!calls.contains("connect("), "{case} connected");
                assert!(
                    code == 3 || code == 4 || (code == 0 && args[0] == "info"),
                    "{case} ended with {code}: {said}"
                );
                assert!(
                    !said.contains(['\x1b', '\x07', '\0', '\r']),
                    "{case} printed text of the image unescaped"
                );
                assert!(!PathBuf::from(dst).exists(), "{case} left a target");
            }
        }
    }
}
