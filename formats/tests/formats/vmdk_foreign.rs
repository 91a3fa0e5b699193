//! Images of other writers: exports of AWS, descriptors that contradict the header, names in any encoding. Every image
//! is built from bytes and read from a file and from a pipe. qemu-img and dissect.hypervisor read the same bytes.

use std::sync::Arc;

use crate::support::files::Files;
use crate::support::pipe::*;
use crate::support::qemu::*;
use crate::support::vmdk::*;
use crate::support::*;
use diskferry_core::ErrorKind;
use diskferry_formats::Declared;

/// Sectors of the disk: 320 grains of 64 KiB.
const CAPACITY: usize = 20_480;

/// A disk of 10 MiB: some text, and data in its last sector.
fn disk() -> Vec<u8> {
    let mut disk = vec![0; CAPACITY * SECTOR];
    for place in (0..disk.len()).step_by(3 << 16) {
        let end = disk.len().min(place + 70_000);
        for (at, byte) in disk[place..end].iter_mut().enumerate() {
            *byte = b"0123456789 aws export "[at % 22];
        }
    }
    let last = disk.len() - SECTOR;
    disk[last..].copy_from_slice(&noise(SECTOR, 7));
    disk
}

/// The differences of an exported image from VMware's output.
#[derive(Clone)]
struct Export {
    version: u32,
    create_type: &'static str,
    access: &'static str,
    first_line: &'static str,
    name: Vec<u8>,
    more: Vec<u8>,
}

impl Default for Export {
    fn default() -> Self {
        Self {
            version: 3,
            create_type: "streamOptimized",
            access: "RW",
            first_line: "# Disk DescriptorFile",
            name: b"x.vmdk".to_vec(),
            more: Vec::new(),
        }
    }
}

impl Export {
    /// All differences that were found in exported AMIs.
    fn aws() -> Self {
        Self {
            create_type: "monolithicSparse",
            access: "RDONLY",
            first_line: "#Disk DescriptorFile",
            name: b"/mnt/export-ami-0123456789abcdef0.vmdk".to_vec(),
            ..Self::default()
        }
    }

    /// The descriptor, of one sector.
    fn descriptor(&self) -> Vec<u8> {
        let Self { create_type, access, first_line, .. } = self;
        let mut text = format!(
            "{first_line}\nversion=1\nCID=1af1ece4\nparentCID=ffffffff\ncreateType=\"{create_type}\"\n\
             #Extent description\n{access} {CAPACITY} SPARSE \""
        )
        .into_bytes();
        text.extend(&self.name);
        text.extend(b"\"\n#DDB\nddb.adapterType = \"lsilogic\"\nddb.virtualHWVersion = \"7\"\n");
        text.extend(&self.more);
        assert!(text.len() <= SECTOR);
        text.resize(SECTOR, 0);
        text
    }

    /// The image: all tables after all grains, then directory, footer and end marker.
    fn build(&self, disk: &[u8]) -> Vec<u8> {
        let mut header = Header {
            version: self.version,
            flags: 0x3_0001,
            capacity: CAPACITY as u64,
            grain: 128,
            descriptor: (1, 1),
            entries: 512,
            rgd: 0,
            gd: u64::MAX,
            overhead: 128,
            compression: 1,
        };
        let mut out = [header.bytes(), self.descriptor()].concat();
        out.resize(128 * SECTOR, 0);
        let mut table = vec![0u32; 512];
        for (number, grain) in disk.chunks(128 * SECTOR).enumerate() {
            if grain.iter().any(|byte| *byte != 0) {
                table[number] = (out.len() / SECTOR) as u32;
                let data = zlib(grain);
                out.extend((number as u64 * 128).to_le_bytes());
                out.extend((data.len() as u32).to_le_bytes());
                out.extend(data);
                pad(&mut out);
            }
        }
        out.extend(marker(4, 1));
        let first = (out.len() / SECTOR) as u32;
        out.extend(table.iter().flat_map(|entry| entry.to_le_bytes()));
        out.extend(marker(1, 2));
        header.gd = (out.len() / SECTOR) as u64;
        out.extend(first.to_le_bytes());
        pad(&mut out);
        out.extend(marker(1, 3));
        out.extend(header.bytes());
        out.extend(marker(0, 0));
        out
    }
}

/// Reads an image from its file and from a pipe: both must return `truth` and these warnings.
#[track_caller]
fn reads_both_ways(image: &[u8], truth: &[u8], codes: &[&str], what: &str) {
    let disk = open_vmdk(image).unwrap_or_else(|error| panic!("{what}: {error:?}"));
    assert_same(&content(&disk).unwrap(), truth, what);
    assert_eq!(warnings(&disk), codes, "{what}");
    let (bytes, of_pipe) = one_pass_warned(image, 65_536, Declared::Unknown).unwrap();
    assert_same(&bytes, truth, what);
    assert_eq!(of_pipe, codes, "{what}, from a pipe");
}

#[test]
fn an_export_of_aws_reads_with_a_warning_for_its_create_type() {
    let truth = disk();
    let aws = Export::aws();
    let sound = Export::default();
    let contradicts = &["descriptor_contradicts"][..];
    let cases = [
        ("sound", sound.clone(), &[][..]),
        ("createType alone", Export { create_type: aws.create_type, ..sound.clone() }, contradicts),
        ("access alone", Export { access: aws.access, ..sound.clone() }, &[]),
        ("first line alone", Export { first_line: aws.first_line, ..sound.clone() }, &[]),
        ("name alone", Export { name: aws.name.clone(), ..sound.clone() }, &[]),
        ("all", aws.clone(), contradicts),
        ("all, version 1", Export { version: 1, ..aws.clone() }, contradicts),
        ("all but createType", Export { create_type: sound.create_type, ..aws.clone() }, &[]),
    ];
    for (what, export, codes) in cases {
        let image = export.build(&truth);
        reads_both_ways(&image, &truth, codes, what);
        assert_same(&qemu_reads(&image, "vmdk"), &truth, "as qemu-img reads it");
        assert_same(&dissect_reads(&image, "vmdk"), &truth, "as dissect.hypervisor reads it");
    }
}

const CREATE_TYPES: [&str; 11] = [
    "monolithicSparse",
    "streamOptimized",
    "custom",
    "monolithicFlat",
    "vmfs",
    "vmfsThin",
    "vmfsSparse",
    "seSparse",
    "twoGbMaxExtentSparse",
    "twoGbMaxExtentFlat",
    "MONOLITHICSPARSE",
];

#[test]
fn the_header_decides_how_grains_are_stored_whatever_the_create_type() {
    let truth = sample((1 << 20) + 3 * SECTOR);
    let line = format!("RW {} SPARSE \"disk.vmdk\"", truth.len() / SECTOR);
    for create_type in CREATE_TYPES {
        let text = || Some(descriptor(create_type, &line));
        let agrees = |own: &str| create_type == "custom" || create_type.eq_ignore_ascii_case(own);
        let codes = |own| if agrees(own) { &[][..] } else { &["descriptor_contradicts"] };
        let stream = Stream { descriptor: text(), ..Stream::default() }.build(&truth).bytes;
        reads_both_ways(&stream, &truth, codes("streamOptimized"), create_type);
        assert_same(&qemu_reads(&stream, "vmdk"), &truth, "as qemu-img reads it");
        let bare = Hosted { descriptor: text(), compressed: true, version: 3, ..Hosted::default() };
        let disk = open_vmdk(bare.build(&truth).bytes).unwrap();
        assert_same(&content(&disk).unwrap(), &truth, create_type);
        assert_eq!(warnings(&disk), codes("streamOptimized"), "{create_type}");
        let plain = Hosted { descriptor: text(), ..Hosted::default() }.build(&truth).bytes;
        let disk = open_vmdk(plain.clone()).unwrap();
        assert_same(&content(&disk).unwrap(), &truth, create_type);
        assert_eq!(warnings(&disk), codes("monolithicSparse"), "{create_type}");
        assert_same(&qemu_reads(&plain, "vmdk"), &truth, "as qemu-img reads it");
    }
}

#[test]
fn the_extent_type_of_an_embedded_descriptor_is_a_warning_too() {
    let truth = sample(1 << 20);
    for kind in ["FLAT", "VMFS", "VMFSSPARSE", "SESPARSE"] {
        let text = descriptor("custom", &format!("RW 2048 {kind} \"disk.vmdk\""));
        let image = Hosted { descriptor: Some(text), ..Hosted::default() }.build(&truth).bytes;
        let disk = open_vmdk(image).unwrap();
        assert_same(&content(&disk).unwrap(), &truth, kind);
        assert_eq!(warnings(&disk), ["descriptor_contradicts"], "{kind}");
    }
}

/// Names of an extent as Windows in several languages, and careless tools, write them.
const NAMES: [&[u8]; 11] = [
    // GBK, Shift_JIS (whose second bytes are ASCII: 0x5c, 0x7c), EUC-KR, windows-1252, UTF-8 and half of a character.
    b"\xd0\xe9\xc4\xe2\xbb\xfa.vmdk",
    b"\x89\xbc\x91\x7a\x83\x5c\x83\x7c.vmdk",
    b"\xb0\xa1\xbb\xf3.vmdk",
    b"gr\xfc\xdf\x80.vmdk",
    "grüße.vmdk".as_bytes(),
    b"\xe8\x99",
    b"/mnt/\x01\x1b[2J\x7f.vmdk",
    b"C:\\images\\disk.vmdk",
    b"http://host/disk.vmdk",
    b"a \"quoted\" name.vmdk",
    b"",
];

#[test]
fn the_name_in_an_embedded_descriptor_may_have_any_bytes_in_any_encoding() {
    let truth = disk();
    for name in NAMES {
        for encoding in [&b""[..], b"UTF-8", b"GBK", b"Shift_JIS", b"windows-1252", b"no such", b"\xff\xfe"] {
            let mut more = Vec::new();
            if !encoding.is_empty() {
                more = [b"encoding=\"", encoding, b"\"\n"].concat();
            }
            let what = String::from_utf8_lossy(name).into_owned();
            let image = Export { name: name.to_vec(), more, ..Export::default() }.build(&truth);
            reads_both_ways(&image, &truth, &[], &what);
        }
        let image = Export { name: name.to_vec(), ..Export::default() }.build(&truth);
        assert_same(&qemu_reads(&image, "vmdk"), &truth, "as qemu-img reads it");
    }
}

#[test]
fn the_name_of_a_plain_sparse_image_may_have_any_bytes() {
    let truth = sample(1 << 20);
    let built = Hosted::default().build(&truth).bytes;
    for name in NAMES {
        let mut image = built.clone();
        let mut text = descriptor("monolithicSparse", "RW 2048 SPARSE \"").into_bytes();
        let at = text.windows(2).position(|two| two == b"\"\n").unwrap();
        let at = at + text[at..].windows(8).position(|word| word == b"SPARSE \"").unwrap() + 8;
        text.splice(at..at, [name, b"\""].concat());
        image[SECTOR..21 * SECTOR].fill(0);
        image[SECTOR..SECTOR + text.len()].copy_from_slice(&text);
        let disk = open_vmdk(image).unwrap();
        assert_same(&content(&disk).unwrap(), &truth, &String::from_utf8_lossy(name));
    }
}

#[test]
fn an_opened_name_has_no_control_bytes_and_a_known_encoding() {
    let open = |name: &[u8]| {
        let mut text = descriptor("monolithicFlat", "").into_bytes();
        text.extend([b"RW 8 FLAT \"", name, b"\" 0\n"].concat());
        let files = Arc::new(Files::new().with("disk.vmdk", text).with("a", vec![0; 4096]));
        files.open("disk.vmdk").and_then(|disk| disk.admit())
    };
    assert!(open(b"a").is_ok());
    for name in [&b"a\x01"[..], b"\x1b[2J", b"a\x7f"] {
        assert_eq!(failure(open(name)).kind(), ErrorKind::ExternalDataRefused, "{name:?}");
    }
    assert_eq!(failure(open(b"\xd0\xe9")).kind(), ErrorKind::UnsupportedFeature);
}
