//! Options of target formats, as `-o KEY=VALUE` on the command line.

use std::ops::RangeInclusive;

use diskferry_core::{Error, ErrorKind, Result};

use crate::Format;

/// What disks are counted in by formats that do not count bytes.
const SECTOR: u64 = 512;

/// Options of a target format, as `-o KEY=VALUE` on the command line.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TargetOptions {
    /// Keys and values in the order given; a later one replaces an earlier one of its key.
    pub pairs: Vec<(String, String)>,
}

/// The options given, as a format asks for them one by one; what it did not ask for is none of its.
pub(crate) struct Options<'a> {
    format: Format,
    pairs: &'a [(String, String)],
    asked: Vec<&'static str>,
}

impl<'a> Options<'a> {
    pub(crate) fn new(format: Format, options: &'a TargetOptions) -> Self {
        Self { format, pairs: &options.pairs, asked: Vec::new() }
    }

    /// The value of `key`, if it was given.
    pub(crate) fn take(&mut self, key: &'static str) -> Option<&'a str> {
        self.asked.push(key);
        self.pairs.iter().rev().find(|(given, _)| given == key).map(|(_, value)| value.as_str())
    }

    /// A size in bytes, such as `64K`.
    pub(crate) fn size(&mut self, key: &'static str) -> Result<Option<u64>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        diskferry_core::internal::parse_size(value).map(Some).map_err(|why| wrong(key, value, &why))
    }

    /// One of some words.
    pub(crate) fn choice<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)]) -> Result<Option<T>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let found = words.iter().find(|(word, _)| *word == value).map(|(_, choice)| Some(*choice));
        found.ok_or_else(|| {
            let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            wrong(key, value, &format!("it is one of {}", words.join(", ")))
        })
    }

    /// A whole number in `range`.
    pub(crate) fn number(&mut self, key: &'static str, range: RangeInclusive<u32>) -> Result<Option<u32>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let found = value.parse().ok().filter(|number| range.contains(number)).map(Some);
        found.ok_or_else(|| {
            wrong(key, value, &format!("it is a number from {} to {}", range.start(), range.end()))
        })
    }

    /// `on` or `off`.
    pub(crate) fn switch(&mut self, key: &'static str) -> Result<Option<bool>> {
        self.choice(key, &[("on", true), ("off", false)])
    }

    /// A UUID, as its 16 bytes in the order in which it is written.
    pub(crate) fn uuid(&mut self, key: &'static str) -> Result<Option<[u8; 16]>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let parsed = parse_uuid(value);
        parsed
            .map(Some)
            .ok_or_else(|| wrong(key, value, "it is a UUID such as 123e4567-e89b-12d3-a456-426614174000"))
    }

    /// The option `align`, of a format that counts sectors.
    pub(crate) fn sectors(&mut self) -> Result<WholeSectors> {
        let align = self.size("align")?;
        match align {
            Some(bytes) if bytes == 0 || !bytes.is_multiple_of(SECTOR) => Err(Error::new(
                ErrorKind::Usage,
                format!("the option align cannot be {bytes} bytes: it is a multiple of {SECTOR}"),
            )),
            _ => Ok(WholeSectors { format: self.format, align }),
        }
    }

    /// What was given must all have been asked for.
    pub(crate) fn finish(self) -> Result<()> {
        let unknown = self.pairs.iter().find(|(key, _)| !self.asked.contains(&key.as_str()));
        match unknown {
            Some((key, _)) => {
                Err(Error::new(ErrorKind::Usage, format!("{} has no option {key:?}", self.format))
                    .hint("`-o help` lists the options of each format"))
            }
            None => Ok(()),
        }
    }
}

/// Which sizes a disk can have in a format that counts sectors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WholeSectors {
    format: Format,
    /// What they are rounded up to a multiple of, in bytes.
    align: Option<u64>,
}

impl WholeSectors {
    /// The size that a disk of `source_bytes` is written with, in bytes.
    ///
    /// # Errors
    /// `destination_unsuitable` where it is no whole number of sectors and is not to be rounded up.
    pub(crate) fn size(self, source_bytes: u64) -> Result<u64> {
        match self.align {
            Some(align) => Ok(source_bytes.checked_next_multiple_of(align).unwrap_or(u64::MAX)),
            None if source_bytes.is_multiple_of(SECTOR) => Ok(source_bytes),
            None => Err(Error::new(
                ErrorKind::DestinationUnsuitable,
                format!(
                    "the disk has {source_bytes} bytes, and a {} counts whole sectors of {SECTOR}",
                    self.format
                ),
            )
            .hint("let its size be rounded up, with zeros: -o align=512")),
        }
    }
}

fn wrong(key: &str, value: &str, why: &str) -> Error {
    Error::new(ErrorKind::Usage, format!("the option {key} cannot be {value:?}: {why}"))
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let groups: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = groups.iter().map(|group| group.len()).collect();
    if lengths != [8, 4, 4, 4, 12] {
        return None;
    }
    let digits = groups.concat();
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u128::from_str_radix(&digits, 16).ok().map(u128::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> TargetOptions {
        TargetOptions {
            pairs: pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        }
    }

    #[test]
    fn the_last_of_a_key_counts_and_each_value_is_checked() {
        let given = options(&[
            ("cluster_size", "64K"),
            ("level", "10"),
            ("cluster_size", "2M"),
            ("recompress", "yes"),
            ("id", "123e4567-e89b-12d3-a456-426614174000"),
        ]);
        let mut options = Options::new(Format::Qcow2, &given);
        assert_eq!(options.size("cluster_size").unwrap(), Some(2 << 20));
        assert_eq!(options.number("level", 0..=12).unwrap(), Some(10));
        assert_eq!(options.number("level", 0..=9).unwrap_err().kind(), ErrorKind::Usage);
        assert_eq!(options.switch("recompress").unwrap_err().kind(), ErrorKind::Usage);
        assert_eq!(options.uuid("id").unwrap().unwrap()[..4], [0x12, 0x3e, 0x45, 0x67]);
        assert_eq!(options.size("align").unwrap(), None);
        options.finish().unwrap();
    }

    #[test]
    fn what_a_format_does_not_ask_for_is_none_of_its_options() {
        let given = options(&[("level", "1"), ("size", "7")]);
        let mut options = Options::new(Format::Vmdk, &given);
        options.take("level");
        let error = options.finish().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(error.message().contains("size"), "{error:?}");
    }

    #[test]
    fn a_uuid_is_written_in_one_way() {
        for wrong in [
            "",
            "123e4567e89b12d3a456426614174000",
            "123e4567-e89b-12d3-a456-42661417400g",
            "+23e4567-e89b-12d3-a456-426614174000",
        ] {
            assert_eq!(parse_uuid(wrong), None, "{wrong}");
        }
    }
}
