//! The VMDK descriptor, parsed line by line.

/// An extent line: the next part of the disk.
pub(super) struct Line {
    pub(super) sectors: u64,
    pub(super) kind: String,
    pub(super) name: Vec<u8>,
    pub(super) offset: u64,
}

/// Returns the parts of the disk in guest order. `None` for a differencing disk, and if an extent is not readable. If the
/// descriptor is `embedded` in its extent, file names are ignored.
pub(super) fn parse(text: &[u8], embedded: bool) -> Option<Vec<Line>> {
    let text = text.split(|byte| *byte == 0).next()?;
    let mut lines = Vec::new();
    for line in text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii) {
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let (access, rest) = word(line);
        let extent = [&b"RW"[..], b"RDONLY", b"NOACCESS"].contains(&access);
        if extent && !rest.is_empty() && !rest.starts_with(b"=") {
            lines.push(part(access, rest, embedded)?);
        } else {
            let (key, value) = line.split_at(line.iter().position(|byte| *byte == b'=')?);
            if !alone(key.trim_ascii(), value.get(1..)?.trim_ascii())? {
                return None;
            }
        }
    }
    (!lines.is_empty()).then_some(lines)
}

/// Returns whether a key is compatible with a disk without a parent.
fn alone(key: &[u8], value: &[u8]) -> Option<bool> {
    let value = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(value);
    Some(match key.to_ascii_lowercase().as_slice() {
        b"parentcid" => u32::from_str_radix(std::str::from_utf8(value).ok()?, 16).ok()? == u32::MAX,
        b"parentfilenamehint" => value.is_empty(),
        _ => true,
    })
}

fn part(access: &[u8], rest: &[u8], embedded: bool) -> Option<Line> {
    let (sectors, rest) = word(rest);
    let (kind, rest) = word(rest);
    let rest = if embedded { &b""[..] } else { rest };
    let (name, rest) = match rest.strip_prefix(b"\"") {
        Some(rest) => rest.split_at(rest.iter().position(|byte| *byte == b'"')?),
        None => (&b""[..], rest),
    };
    let rest = rest.strip_prefix(b"\"").unwrap_or(rest).trim_ascii();
    let offset = if rest.is_empty() { 0 } else { number(word(rest).0)? };
    let readable = access != b"NOACCESS";
    let line = Line {
        sectors: number(sectors)?,
        kind: String::from_utf8(kind.to_vec()).ok()?,
        name: name.to_vec(),
        offset,
    };
    readable.then_some(line)
}

fn number(word: &[u8]) -> Option<u64> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

fn word(line: &[u8]) -> (&[u8], &[u8]) {
    let end = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
    let (word, rest) = line.split_at(end);
    (word, rest.trim_ascii())
}
