//! Sizes and limits of an image, and the verdict on them.

use crate::error::{Error, ErrorKind, Result, Warning};

const GIB: u64 = 1 << 30;

/// The size limit of the import service for images.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ImageLimit {
    /// "50GB", which may mean either unit: sizes from 50·2³⁰ bytes on fail, sizes from 50·10⁹ bytes on produce a
    /// warning.
    #[default]
    Default,
    /// Exactly this many bytes: an object of this size or more fails.
    Exact(u64),
    /// No limit.
    None,
}

impl ImageLimit {
    /// The size at which an image fails.
    pub const fn bytes(self) -> Option<u64> {
        match self {
            Self::Default => Some(50 * GIB),
            Self::Exact(bytes) => Some(bytes),
            Self::None => None,
        }
    }
}

/// The limits for an image.
///
/// ```
/// use diskferry_core::{ErrorKind, ImageLimit, Limits, Sizes};
///
/// let limits = Limits::default().capacity(Some(40 << 30)).image(ImageLimit::Exact(50 << 30));
/// let sizes = Sizes::default().object_bytes(2 << 30).virtual_bytes(Some(60 << 30));
///
/// let verdict = limits.judge(&sizes);
/// assert!(!verdict.accepted());
/// assert_eq!(verdict.enforce().unwrap_err().kind(), ErrorKind::CapacityExceeded);
/// assert_eq!(verdict.smallest_capacity_gib, Some(60));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Limits {
    /// The declared system-disk capacity in bytes.
    pub capacity: Option<u64>,
    /// The image limit.
    pub image: ImageLimit,
}

setters!(Limits { capacity: Option<u64>, image: ImageLimit });

/// The sizes of an image in bytes; `None` if unknown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Sizes {
    /// Stored size of the source, all its files together.
    pub object_bytes: u64,
    /// Size of the disk that the guest sees.
    pub virtual_bytes: Option<u64>,
    /// Guest bytes that the image maps to stored data.
    pub allocated_bytes: Option<u64>,
    /// Guest bytes in 4 KiB blocks that are not all zero.
    pub content_bytes: Option<u64>,
    /// Guest address of the end of the last such block.
    pub content_end: Option<u64>,
    /// Size of the target.
    pub output_bytes: Option<u64>,
}

setters!(Sizes {
   object_bytes: u64,
   virtual_bytes: Option<u64>,
   allocated_bytes: Option<u64>,
   content_bytes: Option<u64>,
   content_end: Option<u64>,
   output_bytes: Option<u64>,
});

/// The outcome of a rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The rule holds.
    Pass,
    /// The rule holds or cannot be decided yet; the message has the details.
    Warn,
    /// The rule does not hold.
    Fail,
}

impl Outcome {
    /// The name in the JSON documents.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// A rule with its numbers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// `object_size`, `capacity` or `content_size`.
    pub rule: &'static str,
    /// The outcome.
    pub outcome: Outcome,
    /// The error kind if the rule fails.
    pub kind: ErrorKind,
    /// The measured number of bytes, if it is known.
    pub actual: Option<u64>,
    /// The limit that it is compared with, in bytes.
    pub limit: u64,
    /// One sentence with the facts.
    pub message: String,
    /// What the user can do if the rule fails.
    pub hint: Option<String>,
}

impl Rule {
    /// The error, if the rule fails.
    pub fn error(&self) -> Option<Error> {
        let error = (self.outcome == Outcome::Fail).then(|| Error::new(self.kind, self.message.clone()))?;
        Some(match &self.hint {
            Some(hint) => error.hint(hint.clone()),
            None => error,
        })
    }
}

/// Whether an image is accepted, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Verdict {
    /// The rules that apply, in the order `object_size`, `capacity`, `content_size`.
    pub rules: Vec<Rule>,
    /// Warnings that result from the rules.
    pub warnings: Vec<Warning>,
    /// The smallest capacity, in whole GiB, that would be accepted. `None` if the size of the disk is unknown.
    pub smallest_capacity_gib: Option<u64>,
}

impl Verdict {
    /// True if no rule fails.
    pub fn accepted(&self) -> bool {
        self.rules.iter().all(|rule| rule.outcome != Outcome::Fail)
    }

    /// The first rule that fails, as an error.
    ///
    /// # Errors
    /// `object_too_large`, `capacity_exceeded` or `content_too_large`.
    pub fn enforce(&self) -> Result<()> {
        self.rules.iter().find_map(Rule::error).map_or(Ok(()), Err)
    }
}

impl Limits {
    /// Checks `sizes` against the limits.
    pub fn judge(&self, sizes: &Sizes) -> Verdict {
        let mut rules = Vec::new();
        let mut warnings = Vec::new();
        rules.extend(self.object_size(sizes.object_bytes, &mut warnings));
        rules.extend(sizes.virtual_bytes.and_then(|size| self.judge_capacity(size, &mut warnings)));
        rules.extend(self.content_size(sizes));
        let smallest_capacity_gib = sizes.virtual_bytes.map(|size| size.div_ceil(GIB).max(1));
        Verdict { rules, warnings, smallest_capacity_gib }
    }

    /// Checks a stream that has not ended: `object_bytes` of it and `virtual_bytes` of its disk have arrived.
    ///
    /// # Errors
    /// `object_too_large` or `capacity_exceeded`, as soon as the limit is reached.
    pub fn admit_so_far(&self, object_bytes: u64, virtual_bytes: u64) -> Result<()> {
        if let Some(limit) = self.image.bytes().filter(|limit| object_bytes >= *limit) {
            return Err(Error::new(
                ErrorKind::ObjectTooLarge,
                format!(
                    "the object is at least {} and must be smaller than {}",
                    HumanBytes(object_bytes),
                    HumanBytes(limit)
                ),
            ));
        }
        if let Some(limit) = self.capacity.filter(|limit| virtual_bytes > *limit) {
            return Err(Error::new(
                ErrorKind::CapacityExceeded,
                format!(
                    "the virtual disk is at least {}, the declared system disk is {}",
                    HumanBytes(virtual_bytes),
                    HumanBytes(limit)
                ),
            ));
        }
        Ok(())
    }

    fn object_size(&self, actual: u64, warnings: &mut Vec<Warning>) -> Option<Rule> {
        const GREY: u64 = 50_000_000_000;
        let limit = self.image.bytes()?;
        let is = format!("the object is {}", HumanBytes(actual));
        let (outcome, message) = if actual >= limit {
            (Outcome::Fail, format!("{is} and must be smaller than {}", HumanBytes(limit)))
        } else if self.image == ImageLimit::Default && actual >= GREY {
            let message = format!(
                "{is}: over 50 GB (50·10⁹ bytes) and under 50 GiB (50·2³⁰ bytes), and the import service does not \
                 say which of them its limit of 50 GB means"
            );
            warnings.push(Warning::new("size_limit_grey", message.clone()));
            (Outcome::Warn, message)
        } else {
            (Outcome::Pass, format!("{is}, below {}", HumanBytes(limit)))
        };
        Some(Rule {
            rule: "object_size",
            outcome,
            kind: ErrorKind::ObjectTooLarge,
            actual: Some(actual),
            limit,
            message,
            hint: None,
        })
    }

    fn judge_capacity(&self, actual: u64, warnings: &mut Vec<Warning>) -> Option<Rule> {
        let limit = self.capacity?;
        let is = format!("the virtual disk is {}", HumanBytes(actual));
        let (outcome, message) = if actual > limit {
            (Outcome::Fail, format!("{is}, the declared system disk is {}", HumanBytes(limit)))
        } else if actual == limit {
            let message = format!("{is}, exactly the declared system disk: there is no space to grow");
            warnings.push(Warning::new("capacity_equal", message.clone()));
            (Outcome::Warn, message)
        } else {
            (Outcome::Pass, format!("{is}, within the declared system disk of {}", HumanBytes(limit)))
        };
        let hint = format!("declare at least {} GiB", actual.div_ceil(GIB).max(1));
        Some(Rule {
            rule: "capacity",
            outcome,
            kind: ErrorKind::CapacityExceeded,
            actual: Some(actual),
            limit,
            message,
            hint: Some(hint),
        })
    }

    fn content_size(&self, sizes: &Sizes) -> Option<Rule> {
        let limit = self.image.bytes()?;
        let (outcome, actual, message) = match (sizes.content_bytes, sizes.allocated_bytes) {
            (Some(content), _) if content >= limit => {
                let message = format!(
                    "the disk has {} of real content and must have less than {}",
                    HumanBytes(content),
                    HumanBytes(limit)
                );
                (Outcome::Fail, Some(content), message)
            }
            (Some(content), _) => (
                Outcome::Pass,
                Some(content),
                format!("the disk has {} of real content", HumanBytes(content)),
            ),
            (None, Some(allocated)) if allocated < limit => {
                let message = format!(
                    "the image maps {}, so its real content is below the limit",
                    HumanBytes(allocated)
                );
                (Outcome::Pass, Some(allocated), message)
            }
            (None, Some(allocated)) => {
                let message = format!(
                    "the image maps {}; the real content is known only after a scan",
                    HumanBytes(allocated)
                );
                (Outcome::Warn, None, message)
            }
            (None, None) => (Outcome::Warn, None, "the real content is not known yet".to_owned()),
        };
        Some(Rule {
            rule: "content_size",
            outcome,
            kind: ErrorKind::ContentTooLarge,
            actual,
            limit,
            message,
            hint: None,
        })
    }
}

/// A number of bytes in readable form: `60 GiB`, `1.5 MiB`, `512 bytes`. Exact if it is a whole number of the unit.
#[derive(Clone, Copy, Debug)]
pub struct HumanBytes(pub u64);

impl std::fmt::Display for HumanBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const UNITS: [(&str, u64); 5] =
            [("PiB", 1 << 50), ("TiB", 1 << 40), ("GiB", GIB), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        let Some((name, unit)) = UNITS.into_iter().find(|(_, unit)| self.0 >= *unit) else {
            return write!(f, "{} bytes", self.0);
        };
        if self.0.is_multiple_of(unit) {
            return write!(f, "{} {name}", self.0 / unit);
        }
        // Two digits, truncated and not rounded, so that a size below a limit never reads as the limit.
        let hundredths = u128::from(self.0) * 100 / u128::from(unit);
        write!(f, "{}.{:02} {name}", hundredths / 100, hundredths % 100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(limits: Limits, sizes: Sizes, rule: &str) -> Option<Outcome> {
        limits.judge(&sizes).rules.iter().find(|found| found.rule == rule).map(|found| found.outcome)
    }

    #[test]
    fn the_default_limit_has_a_grey_zone_and_an_explicit_one_is_exact() {
        let of = |object_bytes| Sizes { object_bytes, ..Sizes::default() };
        for (bytes, expected) in [
            (49_999_999_999, Outcome::Pass),
            (50_000_000_000, Outcome::Warn),
            (50 * GIB - 1, Outcome::Warn),
            (50 * GIB, Outcome::Fail),
        ] {
            assert_eq!(outcome(Limits::default(), of(bytes), "object_size"), Some(expected), "{bytes}");
        }
        let exact = Limits { image: ImageLimit::Exact(1000), ..Limits::default() };
        assert_eq!(outcome(exact, of(999), "object_size"), Some(Outcome::Pass));
        assert_eq!(outcome(exact, of(1000), "object_size"), Some(Outcome::Fail));
        let none = Limits { image: ImageLimit::None, ..Limits::default() };
        assert_eq!(outcome(none, of(u64::MAX), "object_size"), None);
    }

    #[test]
    fn a_disk_may_be_as_large_as_the_capacity_and_no_larger() {
        let limits = Limits { capacity: Some(40 * GIB), ..Limits::default() };
        let of = |size| Sizes { virtual_bytes: Some(size), ..Sizes::default() };
        assert_eq!(outcome(limits, of(40 * GIB - 1), "capacity"), Some(Outcome::Pass));
        assert_eq!(outcome(limits, of(40 * GIB), "capacity"), Some(Outcome::Warn));
        assert_eq!(outcome(limits, of(40 * GIB + 1), "capacity"), Some(Outcome::Fail));
        assert_eq!(outcome(Limits::default(), of(u64::MAX), "capacity"), None);
        let error = limits.judge(&of(60 * GIB)).enforce().unwrap_err();
        assert_eq!(error.message(), "the virtual disk is 60 GiB, the declared system disk is 40 GiB");
        assert_eq!(error.hint_text(), Some("declare at least 60 GiB"));
        assert_eq!(limits.judge(&of(40 * GIB + 1)).smallest_capacity_gib, Some(41));
    }

    #[test]
    fn content_is_judged_by_the_mapped_bytes_until_it_is_measured() {
        let of = |allocated, content| Sizes {
            allocated_bytes: allocated,
            content_bytes: content,
            ..Sizes::default()
        };
        let rule = "content_size";
        assert_eq!(outcome(Limits::default(), of(Some(GIB), None), rule), Some(Outcome::Pass));
        assert_eq!(outcome(Limits::default(), of(Some(50 * GIB), None), rule), Some(Outcome::Warn));
        assert_eq!(outcome(Limits::default(), of(None, None), rule), Some(Outcome::Warn));
        assert_eq!(outcome(Limits::default(), of(Some(60 * GIB), Some(GIB)), rule), Some(Outcome::Pass));
        assert_eq!(outcome(Limits::default(), of(Some(60 * GIB), Some(50 * GIB)), rule), Some(Outcome::Fail));
    }

    #[test]
    fn readable_sizes_never_round_up_to_a_limit() {
        assert_eq!(HumanBytes(50 * GIB - 1).to_string(), "49.99 GiB");
        assert_eq!(HumanBytes(60 * GIB).to_string(), "60 GiB");
        assert_eq!(HumanBytes(1536).to_string(), "1.50 KiB");
        assert_eq!(HumanBytes(7).to_string(), "7 bytes");
    }
}
