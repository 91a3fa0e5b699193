//! The descriptor: the text that gives the kind of the disk and the files that it is stored in.
//!
//! Pure. Source: VMware, *Virtual Disk Format 5.0*, "The Descriptor File". A monolithic sparse image embeds it; every
//! other kind has it in a separate file. The text ends at the first NUL, because some writers leave stale bytes after
//! it.
//!
//! Keys are case-insensitive, as in VMware's tools. A header key may occur twice with the same value. With two values
//! the descriptor is malformed, because two readers would open two different disks.

use std::borrow::Cow;

use diskferry_core::{Error, ErrorKind, Refusal, Result};

use super::header::Sectors;

/// Longest descriptor.
pub(crate) const LONGEST: u64 = 1 << 20;
/// Most extents: a disk of 8 TiB in pieces of 2 GiB.
const MOST_EXTENTS: usize = 4096;
/// How a descriptor file begins: with `# Disk DescriptorFile`, and from some writers with `# Disk Descriptor File`.
const SIGNATURE: &[u8] = b"# Disk Descriptor";

/// True if a file begins like a descriptor.
pub(crate) fn is_descriptor(head: &[u8]) -> bool {
    head.get(..SIGNATURE.len()).is_some_and(|start| start.eq_ignore_ascii_case(SIGNATURE))
}

/// What a guest may do with an extent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    /// Read and write.
    ReadWrite,
    /// Read only. The data is converted like any other.
    ReadOnly,
    /// No access.
    None,
}

/// How an extent is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ExtentType {
    /// Guest bytes, verbatim.
    Flat,
    /// Guest bytes, verbatim, on VMFS.
    Vmfs,
    /// A hosted sparse extent.
    Sparse,
    /// An ESX redo log (COWD).
    VmfsSparse,
    /// A space-efficient sparse extent.
    SeSparse,
    /// Zeros, without a file.
    Zero,
    /// A device.
    Device,
}

impl ExtentType {
    /// The type's word in an extent line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Flat => "FLAT",
            Self::Vmfs => "VMFS",
            Self::Sparse => "SPARSE",
            Self::VmfsSparse => "VMFSSPARSE",
            Self::SeSparse => "SESPARSE",
            Self::Zero => "ZERO",
            Self::Device => "a device",
        }
    }
}

/// One extent line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ExtentLine {
    /// Its access.
    pub(crate) access: Access,
    /// Its length on the disk.
    pub(crate) size: Sectors,
    /// Its type.
    pub(crate) kind: ExtentType,
    /// The file that it names, in the bytes of the descriptor: [`Descriptor::name`] decodes it. Empty for
    /// [`ExtentType::Zero`], and in an embedded descriptor, where no name is ever used.
    pub(crate) name: Vec<u8>,
    /// Its offset in that file.
    pub(crate) offset: Sectors,
    /// Byte address of the line.
    pub(crate) at: u64,
}

/// The kinds of disk that a reader treats differently.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// `monolithicSparse`.
    MonolithicSparse,
    /// `streamOptimized`.
    StreamOptimized,
    /// Verbatim bytes: `monolithicFlat`, `twoGbMaxExtentFlat`, `vmfs` and related types.
    Flat,
    /// `twoGbMaxExtentSparse`.
    SplitSparse,
    /// `vmfsSparse`.
    VmfsSparse,
    /// `seSparse`.
    SeSparse,
    /// `custom`: any combination.
    Custom,
    /// A physical disk or a mapping of one.
    Device,
}

impl Kind {
    fn of(create_type: &str) -> Option<Self> {
        const KINDS: &[(&str, Kind)] = &[
            ("monolithicSparse", Kind::MonolithicSparse),
            ("streamOptimized", Kind::StreamOptimized),
            ("monolithicFlat", Kind::Flat),
            ("twoGbMaxExtentFlat", Kind::Flat),
            ("2GbMaxExtentFlat", Kind::Flat),
            ("vmfs", Kind::Flat),
            ("vmfsThin", Kind::Flat),
            ("vmfsPreallocated", Kind::Flat),
            ("vmfsEagerZeroedThick", Kind::Flat),
            ("twoGbMaxExtentSparse", Kind::SplitSparse),
            ("2GbMaxExtentSparse", Kind::SplitSparse),
            ("vmfsSparse", Kind::VmfsSparse),
            ("seSparse", Kind::SeSparse),
            ("custom", Kind::Custom),
            ("fullDevice", Kind::Device),
            ("partitionedDevice", Kind::Device),
            ("vmfsRaw", Kind::Device),
            ("vmfsRawDeviceMap", Kind::Device),
            ("vmfsRDM", Kind::Device),
            ("vmfsPassthroughRawDeviceMap", Kind::Device),
            ("vmfsRDMP", Kind::Device),
        ];
        KINDS.iter().find(|(name, _)| name.eq_ignore_ascii_case(create_type)).map(|(_, kind)| *kind)
    }

    /// True if an extent of that type may be part of such a disk.
    pub(crate) fn takes(self, kind: ExtentType) -> bool {
        match (self, kind) {
            (Self::Custom | Self::Device, _) => true,
            (Self::MonolithicSparse | Self::StreamOptimized, kind) => kind == ExtentType::Sparse,
            (_, ExtentType::Zero) => true,
            (Self::Flat, kind) => matches!(kind, ExtentType::Flat | ExtentType::Vmfs | ExtentType::Device),
            (Self::SplitSparse, kind) => kind == ExtentType::Sparse,
            // Writers use both words for an ESX redo log.
            (Self::VmfsSparse, kind) => matches!(kind, ExtentType::VmfsSparse | ExtentType::Sparse),
            (Self::SeSparse, kind) => kind == ExtentType::SeSparse,
        }
    }
}

/// Where a descriptor is stored. This decides how much of it is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DescriptorLocation {
    /// In a separate file: it names the files of the disk, and its extent types define how they are read.
    Detached,
    /// In the sparse extent that it describes: the header defines how the extent is read, and no name is used. Extent
    /// names may have any bytes, and the extent type need not match `createType`.
    Embedded,
}

/// The parsed contents of a descriptor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Descriptor {
    /// The value of `encoding`, not validated, and the byte address of its line.
    encoding: Option<(Vec<u8>, u64)>,
    /// `createType`, verbatim.
    pub(crate) create_type: String,
    /// Byte address of its line.
    pub(crate) create_type_at: u64,
    /// Its meaning.
    pub(crate) kind: Kind,
    /// The `parentCID`, unless it has the value for "no parent".
    pub(crate) parent_cid: Option<String>,
    /// The `parentFileNameHint`, if there is one.
    pub(crate) parent_hint: Option<String>,
    /// Byte address of the line that names the parent, or of the descriptor if no line does.
    pub(crate) parent_at: u64,
    /// The extents in guest order.
    pub(crate) extents: Vec<ExtentLine>,
}

/// The value of a key, and the byte address of its line.
type KeyValue<'a> = (&'a [u8], u64);

#[derive(Default)]
struct Keys<'a> {
    version: Option<KeyValue<'a>>,
    encoding: Option<KeyValue<'a>>,
    create_type: Option<KeyValue<'a>>,
    parent_cid: Option<KeyValue<'a>>,
    parent_hint: Option<KeyValue<'a>>,
    /// True if the configuration of the disk is in encrypted keys.
    encrypted: bool,
}

impl Descriptor {
    /// Parses the text up to the first NUL. It begins at byte address `at`.
    ///
    /// # Errors
    /// Each with the byte address of the line: `encrypted_refused`; `malformed` with the number of the line;
    /// `unsupported_feature` for an unknown version, `createType`, extent type or encoding.
    pub(crate) fn parse(bytes: &[u8], at: u64, stored: DescriptorLocation) -> Result<Self> {
        let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        let mut keys = Keys::default();
        let mut lines = Vec::new();
        let mut next = at;
        for (number, line) in (1u32..).zip(text.split(|byte| *byte == b'\n')) {
            let place = next;
            next = next.saturating_add(line.len() as u64).saturating_add(1);
            let line = line.trim_ascii();
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            if is_extent(line) {
                if lines.len() == MOST_EXTENTS {
                    return Err(Error::unsupported(format!("more than {MOST_EXTENTS} extents")).at(place));
                }
                lines.push((number, place, line));
            } else {
                keys.take(number, place, line).map_err(|error| error.at(place))?;
            }
        }
        keys.check_version()?;
        let (create_type, create_type_at) = match keys.create_type {
            Some((name, at)) => (String::from_utf8_lossy(name).into_owned(), at),
            None if keys.encrypted => {
                return Err(Error::new(ErrorKind::EncryptedRefused, "the descriptor is encrypted")
                    .hint("decrypt the virtual machine on its original host")
                    .at(at));
            }
            None => return Err(Error::malformed("the descriptor has no createType").at(at)),
        };
        let kind = Kind::of(&create_type).ok_or_else(|| {
            Error::unsupported(format!("createType {create_type:?} is unknown")).at(create_type_at)
        })?;
        let extents = lines
            .into_iter()
            .map(|(number, at, line)| extent(number, at, line, stored).map_err(|error| error.at(at)))
            .collect::<Result<Vec<_>>>()?;
        let wrong = extents.iter().find(|extent| !kind.takes(extent.kind));
        if let Some(extent) = wrong.filter(|_| stored == DescriptorLocation::Detached) {
            return Err(Error::malformed(format!(
                "createType {create_type:?} and an extent of type {} contradict each other",
                extent.kind.name()
            ))
            .at(extent.at));
        }
        let parent_hint = keys.parent_hint.filter(|(hint, _)| !hint.is_empty());
        Ok(Self {
            encoding: keys.encoding.map(|(name, at)| (name.to_vec(), at)),
            create_type,
            create_type_at,
            kind,
            parent_cid: keys.parent_cid()?,
            parent_hint: parent_hint.map(|(hint, _)| String::from_utf8_lossy(hint).into_owned()),
            parent_at: parent_hint.or(keys.parent_cid).map_or(at, |(_, at)| at),
            extents,
        })
    }

    /// Returns the file name of an extent, decoded according to `encoding`.
    ///
    /// # Errors
    /// `malformed` if the value of `encoding` is not a name; `unsupported_feature` if the name cannot be decoded.
    pub(crate) fn name<'a>(&self, line: &'a ExtentLine) -> Result<Cow<'a, str>> {
        let encoding = self.encoding.as_ref().map(|(name, at)| (name.as_slice(), *at));
        Encoding::of(encoding)?.decode(&line.name).map_err(|error| error.at(line.at))
    }
}

impl<'a> Keys<'a> {
    fn take(&mut self, number: u32, place: u64, line: &'a [u8]) -> Result<()> {
        let equals = line.iter().position(|byte| *byte == b'=');
        let plain = |key: &[u8]| !key.iter().any(|byte| byte.is_ascii_whitespace() || *byte == b'"');
        let key = equals.and_then(|equals| line.get(..equals)).map(<[u8]>::trim_ascii_end);
        let (Some(equals), Some(key)) = (equals, key.filter(|key| plain(key))) else {
            return Err(Error::malformed(format!(
                "line {number} of the descriptor is neither a key, an extent nor a comment: {:?}",
                String::from_utf8_lossy(line)
            )));
        };
        let (_, value) = line.split_at(equals);
        let value = unquoted(value.get(1..).unwrap_or_default().trim_ascii());
        let slot = match key.to_ascii_lowercase().as_slice() {
            b"version" => &mut self.version,
            b"encoding" => &mut self.encoding,
            b"createtype" => &mut self.create_type,
            b"parentcid" => &mut self.parent_cid,
            b"parentfilenamehint" => &mut self.parent_hint,
            b"encryption.keysafe" | b"encryption.data" => {
                self.encrypted = true;
                return Ok(());
            }
            _ => return Ok(()),
        };
        match slot.replace((value, place)) {
            Some((before, _)) if before != value => Err(Error::malformed(format!(
                "the descriptor says {} twice: {:?} and, in line {number}, {:?}",
                String::from_utf8_lossy(key),
                String::from_utf8_lossy(before),
                String::from_utf8_lossy(value)
            ))),
            _ => Ok(()),
        }
    }

    fn check_version(&self) -> Result<()> {
        match self.version {
            None | Some((b"1" | b"2" | b"3" | b"4", _)) => Ok(()),
            Some((other, at)) => Err(Error::unsupported(format!(
                "descriptor version {:?}; 1 to 4 are known",
                String::from_utf8_lossy(other)
            ))
            .at(at)),
        }
    }

    fn parent_cid(&self) -> Result<Option<String>> {
        let Some((value, at)) = self.parent_cid else { return Ok(None) };
        let text = String::from_utf8_lossy(value);
        match u32::from_str_radix(&text, 16) {
            Ok(u32::MAX) => Ok(None),
            Ok(_) => Ok(Some(text.into_owned())),
            Err(_) => {
                Err(Error::malformed(format!("parentCID {text:?} is not a number of 32 bits in hexadecimal"))
                    .at(at))
            }
        }
    }
}

fn unquoted(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(value)
}

/// True for a line that begins with a word and a blank, and so is an extent. In `key = value` the `=` is second.
fn is_extent(line: &[u8]) -> bool {
    let mut words = line.split(|byte| byte.is_ascii_whitespace()).filter(|word| !word.is_empty());
    let access = words.next().is_some_and(|word| [&b"RW"[..], b"RDONLY", b"NOACCESS"].contains(&word));
    access && words.next().is_some_and(|word| !word.starts_with(b"="))
}

fn extent(number: u32, at: u64, line: &[u8], stored: DescriptorLocation) -> Result<ExtentLine> {
    let wrong = |what: &str| {
        Error::malformed(format!(
            "line {number} of the descriptor, an extent, {what}: {:?}",
            String::from_utf8_lossy(line)
        ))
    };
    let (access, rest) = word(line);
    let access = match access {
        b"RW" => Access::ReadWrite,
        b"RDONLY" => Access::ReadOnly,
        b"NOACCESS" => Access::None,
        _ => return Err(wrong("has no access")),
    };
    let (size, rest) = word(rest);
    let size = number_of(size).ok_or_else(|| wrong("has no size"))?;
    if size.bytes().is_none() {
        return Err(wrong("is too large"));
    }
    let (kind, rest) = word(rest);
    let kind = match kind {
        b"FLAT" => ExtentType::Flat,
        b"VMFS" => ExtentType::Vmfs,
        b"SPARSE" => ExtentType::Sparse,
        b"VMFSSPARSE" => ExtentType::VmfsSparse,
        b"SESPARSE" => ExtentType::SeSparse,
        b"ZERO" => ExtentType::Zero,
        b"VMFSRDM" | b"VMFSRAW" => ExtentType::Device,
        b"" => return Err(wrong("has no type")),
        other => {
            return Err(Error::unsupported(format!(
                "line {number} of the descriptor: extent type {:?} is unknown",
                String::from_utf8_lossy(other)
            )));
        }
    };
    if stored == DescriptorLocation::Embedded {
        // The rest is a name that is never opened, possibly in an unknown encoding.
        return Ok(ExtentLine { access, size, kind, name: Vec::new(), offset: Sectors(0), at });
    }
    let (name, rest) = match rest.strip_prefix(b"\"") {
        Some(rest) => {
            let end = rest
                .iter()
                .position(|byte| *byte == b'"')
                .ok_or_else(|| wrong("has an unterminated name"))?;
            let (name, rest) = rest.split_at(end);
            (Some(name), rest.get(1..).unwrap_or_default().trim_ascii_start())
        }
        None => (None, rest),
    };
    let (offset, rest) = word(rest);
    let offset = match offset {
        b"" => Sectors(0),
        text => number_of(text).ok_or_else(|| wrong("has no valid offset after its name"))?,
    };
    if kind != ExtentType::Zero && name.is_none_or(<[u8]>::is_empty) {
        return Err(wrong("has no name"));
    }
    if !matches!(kind, ExtentType::Flat | ExtentType::Vmfs | ExtentType::Device) && offset.0 != 0 {
        return Err(wrong("has an offset, which is invalid for its type"));
    }
    if !rest.is_empty() && !matches!(kind, ExtentType::Flat | ExtentType::Device) {
        return Err(wrong("has extra text at its end"));
    }
    let name = name.unwrap_or_default().to_vec();
    Ok(ExtentLine { access, size, kind, name, offset, at })
}

/// Splits a line into its first word and the text after the blanks that follow.
fn word(line: &[u8]) -> (&[u8], &[u8]) {
    let end = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
    let (word, rest) = line.split_at(end);
    (word, rest.trim_ascii_start())
}

fn number_of(text: &[u8]) -> Option<Sectors> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(text).ok().filter(|_| digits)?;
    text.parse().ok().map(Sectors)
}

/// The encodings of file names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Encoding {
    Utf8,
    Windows1252,
    /// An unknown encoding. Only ASCII names can be decoded.
    Other,
}

impl Encoding {
    fn of(key: Option<KeyValue<'_>>) -> Result<Self> {
        let Some((key, at)) = key else { return Ok(Self::Utf8) };
        if !key.is_ascii() {
            return Err(Error::malformed("the descriptor's encoding is not a valid name").at(at));
        }
        Ok(match key.to_ascii_lowercase().as_slice() {
            b"" | b"utf-8" | b"utf8" | b"us-ascii" | b"ascii" => Self::Utf8,
            b"windows-1252" | b"cp1252" => Self::Windows1252,
            _ => Self::Other,
        })
    }

    fn decode(self, bytes: &[u8]) -> Result<Cow<'_, str>> {
        match (self, std::str::from_utf8(bytes)) {
            (_, Ok(text)) if bytes.is_ascii() => Ok(Cow::Borrowed(text)),
            (Self::Utf8, Ok(text)) => Ok(Cow::Borrowed(text)),
            (Self::Windows1252, _) => Ok(bytes.iter().copied().map(windows_1252).collect()),
            _ => Err(Error::unsupported(format!(
                "the name {:?} has an unknown encoding",
                String::from_utf8_lossy(bytes)
            ))
            .hint(
                "UTF-8 and windows-1252 are supported; rename the files with ASCII names and update the descriptor",
            )),
        }
    }
}

/// The character of a byte in windows-1252; its five unused bytes are the control characters of ISO 8859-1.
fn windows_1252(byte: u8) -> char {
    const HIGH: [char; 32] = [
        '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}',
        '\u{90}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
    ];
    match byte {
        0x80..=0x9f => HIGH.get(usize::from(byte & 0x1f)).copied().unwrap_or(char::REPLACEMENT_CHARACTER),
        byte => char::from(byte),
    }
}

/// Why every command except `info` refuses the disk of a descriptor.
pub(crate) fn refusals(descriptor: &Descriptor, lines: &[ExtentLine]) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    let parent = match (&descriptor.parent_hint, &descriptor.parent_cid) {
        (Some(hint), _) => Some(format!("the image is a difference to the disk {hint:?}")),
        (None, Some(cid)) => Some(format!("the image is a difference to the disk with the content ID {cid}")),
        (None, None) => None,
    };
    if let Some(message) = parent {
        refusals.push(
            Refusal::new(ErrorKind::ParentDiskRefused, message)
                .hint("consolidate its snapshots or clone the disk on its original host, and convert the result")
                .at(descriptor.parent_at),
        );
    }
    if let Some(line) = lines.iter().find(|line| line.access == Access::None) {
        let message =
            format!("an extent of {} sectors has the access NOACCESS: its contents are unknown", line.size.0);
        refusals.push(Refusal::new(ErrorKind::UnsupportedFeature, message).at(line.at));
    }
    refusals
}
