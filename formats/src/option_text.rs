//! Target options as text: `key=value`, separated by commas, as after `-o` on the command line.

use std::fmt;

use diskferry_core::internal::parse_size;
use diskferry_core::{Error, ErrorKind, Result};

use crate::format::Format;

/// The options that were given as text. A format takes them one by one; [`finish`](Self::finish) refuses the rest.
pub(crate) struct OptionText {
    format: Format,
    /// In the order given; a later pair replaces an earlier one of the same key.
    pairs: Vec<(String, String)>,
    known: Vec<&'static str>,
}

impl OptionText {
    pub(crate) fn new(format: Format, pairs: Vec<(String, String)>) -> Self {
        Self { format, pairs, known: Vec::new() }
    }

    /// Splits `key=value,key=value`. An empty text has no options.
    ///
    /// # Errors
    /// `usage` if an option has no `=`.
    pub(crate) fn split(format: Format, text: &str) -> Result<Self> {
        let pairs = text.split(',').map(str::trim).filter(|option| !option.is_empty()).map(|option| {
            let pair = option.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
            pair.ok_or_else(|| {
                Error::new(ErrorKind::Usage, format!("an option is KEY=VALUE, not {option:?}"))
                    .hint("`-o help` lists the options of each format")
            })
        });
        Ok(Self::new(format, pairs.collect::<Result<_>>()?))
    }

    /// The value of `key`, if it was given.
    pub(crate) fn take(&mut self, key: &'static str) -> Option<&str> {
        self.known.push(key);
        self.pairs.iter().rev().find(|(given, _)| given == key).map(|(_, value)| value.as_str())
    }

    /// A size in bytes, such as `64K`.
    pub(crate) fn size(&mut self, key: &'static str) -> Result<Option<u64>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        parse_size(value).map(Some).map_err(|why| wrong(key, format_args!("{value:?}"), &why))
    }

    /// One of several words.
    pub(crate) fn choice<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)]) -> Result<Option<T>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let found = words.iter().find(|(word, _)| *word == value).map(|(_, choice)| Some(*choice));
        found.ok_or_else(|| {
            let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            wrong(key, format_args!("{value:?}"), &format!("it is one of {}", words.join(", ")))
        })
    }

    /// A whole number. The caller checks its range.
    pub(crate) fn number(&mut self, key: &'static str) -> Result<Option<u32>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        value.parse().map(Some).map_err(|_| wrong(key, format_args!("{value:?}"), "it is a whole number"))
    }

    /// `on` or `off`.
    pub(crate) fn switch(&mut self, key: &'static str) -> Result<Option<bool>> {
        self.choice(key, &[("on", true), ("off", false)])
    }

    /// A UUID, as its 16 bytes in the order in which it is written.
    pub(crate) fn uuid(&mut self, key: &'static str) -> Result<Option<[u8; 16]>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        parse_uuid(value).map(Some).ok_or_else(|| {
            let why = "it is a UUID such as 123e4567-e89b-12d3-a456-426614174000";
            wrong(key, format_args!("{value:?}"), why)
        })
    }

    /// Checks that the format supports every option that was given.
    ///
    /// # Errors
    /// `usage`, with the options of the format.
    pub(crate) fn finish(self) -> Result<()> {
        match self.pairs.iter().find(|(key, _)| !self.known.contains(&key.as_str())) {
            Some((key, _)) => {
                let allowed = match self.known.as_slice() {
                    [] => "it has none".to_owned(),
                    known => format!("its options are {}", known.join(", ")),
                };
                let message = format!("{} has no option {key:?}: {allowed}", self.format);
                Err(Error::new(ErrorKind::Usage, message).hint("`-o help` lists the options of each format"))
            }
            None => Ok(()),
        }
    }
}

/// The error that the option `key` cannot have this value; `why` names the allowed ones.
pub(crate) fn wrong(key: &str, value: impl fmt::Display, why: &str) -> Error {
    Error::new(ErrorKind::Usage, format!("the option {key} cannot be {value}: {why}"))
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

    #[test]
    fn the_last_value_of_a_key_is_used_and_each_value_is_checked() {
        let text =
            "cluster_size=64K,level=x,cluster_size=2M,recompress=yes,id=123e4567-e89b-12d3-a456-426614174000";
        let mut options = OptionText::split(Format::Qcow2, text).unwrap();
        assert_eq!(options.size("cluster_size").unwrap(), Some(2 << 20));
        assert_eq!(options.number("level").unwrap_err().kind(), ErrorKind::Usage);
        assert_eq!(options.switch("recompress").unwrap_err().kind(), ErrorKind::Usage);
        assert_eq!(options.uuid("id").unwrap().unwrap()[..4], [0x12, 0x3e, 0x45, 0x67]);
        assert_eq!(options.size("align").unwrap(), None);
        options.finish().unwrap();
    }

    #[test]
    fn an_unknown_option_is_refused_with_the_known_ones() {
        let mut options = OptionText::split(Format::Vmdk, "level=1,size=7").unwrap();
        options.take("level");
        options.take("id");
        let error = options.finish().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert_eq!(error.message(), "vmdk has no option \"size\": its options are level, id");
    }

    #[test]
    fn an_option_without_a_value_is_refused() {
        let error = OptionText::split(Format::Vhd, "align").map(drop).unwrap_err();
        assert_eq!(error.message(), "an option is KEY=VALUE, not \"align\"");
        OptionText::split(Format::Vhd, "").unwrap().finish().unwrap();
    }

    #[test]
    fn a_uuid_has_one_spelling() {
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
