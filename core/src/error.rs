//! One error type, with the stable codes of the command line's contract.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::sync::Arc;

/// Everything here that can fail, fails with this.
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $exit:literal, $retry:literal;)*) => {
        /// What went wrong, as a stable code that a caller can match on.
        ///
        /// Corrupt ([`Malformed`](Self::Malformed), [`Truncated`](Self::Truncated)), not supported
        /// ([`UnsupportedFeature`](Self::UnsupportedFeature)) and refused (exit code 4) are never mixed.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[non_exhaustive]
        pub enum ErrorKind { $($(#[$doc])* $name,)* }

        impl ErrorKind {
            /// All kinds, for tables and tests.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The stable code, as printed and as in JSON.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// The exit code of the command line for this kind.
            pub const fn exit_code(self) -> u8 {
                match self { $(Self::$name => $exit,)* }
            }

            /// Whether trying the same again can help, where the place of the failure says nothing else.
            pub const fn retryable(self) -> bool {
                match self { $(Self::$name => $retry,)* }
            }
        }
    };
}

kinds! {
    /// The call itself is wrong.
    Usage = "usage", 2, false;
    /// Nothing recognises the image and nothing was declared.
    UnknownFormat = "unknown_format", 3, false;
    /// The image contradicts its format.
    Malformed = "malformed", 3, false;
    /// The image ends before what it refers to.
    Truncated = "truncated", 3, false;
    /// The image is sound but uses what is not supported.
    UnsupportedFeature = "unsupported_feature", 3, false;
    /// The object is valid as more than one format.
    AmbiguousFormat = "ambiguous_format", 3, false;
    /// The declared format is not the detected one.
    FormatMismatch = "format_mismatch", 4, false;
    /// The stored object reaches the image limit.
    ObjectTooLarge = "object_too_large", 4, false;
    /// The virtual disk exceeds the declared capacity.
    CapacityExceeded = "capacity_exceeded", 4, false;
    /// The real content reaches the image limit.
    ContentTooLarge = "content_too_large", 4, false;
    /// The image names a backing file.
    BackingFileRefused = "backing_file_refused", 4, false;
    /// The image keeps its data in another file, which is not opened.
    ExternalDataRefused = "external_data_refused", 4, false;
    /// The image is a difference to a parent disk.
    ParentDiskRefused = "parent_disk_refused", 4, false;
    /// The image is encrypted.
    EncryptedRefused = "encrypted_refused", 4, false;
    /// The source lies in another region than required.
    RegionMismatch = "region_mismatch", 4, false;
    /// There is no such source.
    SourceNotFound = "source_not_found", 5, false;
    /// The source may not be read.
    SourceForbidden = "source_forbidden", 5, false;
    /// The source is no longer the one that was opened.
    SourceChanged = "source_changed", 5, true;
    /// The source cannot be reached, or stopped answering.
    SourceUnavailable = "source_unavailable", 5, true;
    /// The source does not answer ranged requests.
    SourceNoRanges = "source_no_ranges", 5, false;
    /// The presigned URL has expired.
    SourceExpired = "source_expired", 5, false;
    /// The destination exists and was not to be replaced.
    DestinationExists = "destination_exists", 6, false;
    /// Another conversion works on the destination.
    DestinationBusy = "destination_busy", 6, true;
    /// The destination has no room.
    DestinationFull = "destination_full", 6, false;
    /// The destination may not be written.
    DestinationForbidden = "destination_forbidden", 6, false;
    /// The destination cannot be reached, or stopped answering.
    DestinationUnavailable = "destination_unavailable", 6, true;
    /// The destination cannot hold this target.
    DestinationUnsuitable = "destination_unsuitable", 6, false;
    /// What was written does not read back as what was meant.
    VerificationFailed = "verification_failed", 6, false;
    /// The system gave no memory.
    OutOfMemory = "out_of_memory", 70, true;
    /// A defect of diskferry.
    Internal = "internal", 70, false;
    /// Stopped by the caller.
    Cancelled = "cancelled", 130, true;
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// A failure: its kind, one sentence with the facts, where it is, and whether trying again can help.
///
/// The message names fields, offsets and numbers. It never holds a secret, nor the signed part of a URL, nor a
/// control character: text that comes from an image goes through [`printable`] first, and the constructor
/// replaces what slipped through.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    message: String,
    hint: Option<Cow<'static, str>>,
    offset: Option<u64>,
    retryable: bool,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// A failure of `kind`; `message` is one sentence without a full stop, and starts in lower case.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let message = printable(&message.into());
        Self(Box::new(Inner {
            kind,
            message,
            hint: None,
            offset: None,
            retryable: kind.retryable(),
            source: None,
        }))
    }

    /// The image contradicts its format.
    pub fn malformed(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Malformed, message)
    }

    /// The image ends before what it refers to.
    pub fn truncated(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Truncated, message)
    }

    /// The image uses what is not supported.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::UnsupportedFeature, message)
    }

    /// A defect of diskferry.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// The system gave no memory for `bytes` bytes. Trying again can help.
    pub fn out_of_memory(bytes: u64) -> Self {
        Self::new(ErrorKind::OutOfMemory, format!("the system gave no memory for a buffer of {bytes} bytes"))
    }

    /// A failed system call on a source, for embedders that implement [`Source`](crate::Source): `source_not_found`,
    /// `source_forbidden`, `truncated` for an unexpected end, otherwise `source_unavailable`. The kind decides whether
    /// trying again can help; the failure itself is kept as the cause.
    ///
    /// ```
    /// use diskferry_core::{Error, ErrorKind};
    ///
    /// let failed = std::io::Error::from(std::io::ErrorKind::NotFound);
    /// assert_eq!(Error::source_io(failed).context("disk.raw").kind(), ErrorKind::SourceNotFound);
    /// ```
    pub fn source_io(error: io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => ErrorKind::SourceNotFound,
            io::ErrorKind::PermissionDenied => ErrorKind::SourceForbidden,
            io::ErrorKind::UnexpectedEof => ErrorKind::Truncated,
            io::ErrorKind::OutOfMemory => ErrorKind::OutOfMemory,
            _ => ErrorKind::SourceUnavailable,
        };
        Self::new(kind, format!("reading the source failed: {error}")).caused_by(error)
    }

    /// A failed system call on a destination, for embedders that implement [`Sink`](crate::Sink): `destination_full`,
    /// `destination_forbidden`, `destination_exists`, otherwise `destination_unavailable`.
    pub fn destination_io(error: io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                ErrorKind::DestinationFull
            }
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                ErrorKind::DestinationForbidden
            }
            io::ErrorKind::AlreadyExists => ErrorKind::DestinationExists,
            io::ErrorKind::OutOfMemory => ErrorKind::OutOfMemory,
            _ => ErrorKind::DestinationUnavailable,
        };
        Self::new(kind, format!("writing to the destination failed: {error}")).caused_by(error)
    }

    /// Puts a name before the sentence, such as that of a file: `disk.vmdk: …`. Kind, hint, place, retryability and
    /// cause stay.
    #[must_use]
    pub fn context(mut self, name: impl fmt::Display) -> Self {
        self.0.message = printable(&format!("{name}: {}", self.0.message));
        self
    }

    /// Adds to the sentence what came of it: `…; the target was deleted`. Everything else stays.
    #[must_use]
    pub(crate) fn followed_by(mut self, outcome: impl fmt::Display) -> Self {
        self.0.message = printable(&format!("{}; {outcome}", self.0.message));
        self
    }

    /// Says what the user can do about it. The last hint counts.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Says where in the stored object it is, in bytes. The first place said stays: it is the nearest.
    #[must_use]
    pub fn at(mut self, offset: impl Into<u64>) -> Self {
        self.0.offset.get_or_insert(offset.into());
        self
    }

    /// Overrides whether trying again can help.
    #[must_use]
    pub fn retry(mut self, retryable: bool) -> Self {
        self.0.retryable = retryable;
        self
    }

    /// Keeps the failure that caused this one: [`std::error::Error::source`].
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(Arc::from(source.into()));
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The sentence with the facts.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What the user can do about it.
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// Where in the stored object it is, in bytes.
    pub fn offset(&self) -> Option<u64> {
        self.0.offset
    }

    /// Whether trying the same again can help.
    pub fn is_retryable(&self) -> bool {
        self.0.retryable
    }
}

impl From<crate::address::StoredOffset> for u64 {
    fn from(offset: crate::address::StoredOffset) -> u64 {
        offset.get()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error[{}]: {}", self.0.kind, self.0.message)?;
        if let Some(offset) = self.0.offset {
            write!(f, " (at {offset:#x})")?;
        }
        if let Some(source) = &self.0.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|source| &**source as _)
    }
}

/// Text that comes from outside, fit to be printed: control characters (terminal escapes among them) and the
/// Unicode marks that reorder text are shown as `\u{..}`, and it is cut at 1024 characters.
pub fn printable(text: &str) -> String {
    const LONGEST: usize = 1024;
    let mut shown = String::with_capacity(text.len().min(LONGEST));
    for (count, c) in text.chars().enumerate() {
        if count == LONGEST {
            shown.push('…');
            break;
        }
        if c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Something worth knowing that stops nothing.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Warning {
    /// Stable code in the style of the error codes, such as `size_limit_grey`.
    pub code: &'static str,
    /// One sentence with the facts.
    pub message: String,
}

impl Warning {
    /// A warning; `message` is one sentence without a full stop, and is made printable.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: printable(&message.into()) }
    }
}

/// What other commands than `info` would answer for this image: a sound image that is not opened further.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// One of the kinds with exit code 4, or [`ErrorKind::UnsupportedFeature`].
    pub kind: ErrorKind,
    /// One sentence with the facts.
    pub message: String,
    /// What the user can do about it.
    pub hint: Option<&'static str>,
    /// Where in the stored object it is said, in bytes, where that is one place.
    pub offset: Option<u64>,
}

impl Refusal {
    /// A refusal; `message` is one sentence without a full stop, and is made printable.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: printable(&message.into()), hint: None, offset: None }
    }

    /// Adds what the user can do about it.
    #[must_use]
    pub fn hint(mut self, hint: &'static str) -> Self {
        self.hint = Some(hint);
        self
    }

    /// Says where in the stored object it is said, in bytes.
    #[must_use]
    pub fn at(mut self, offset: impl Into<u64>) -> Self {
        self.offset = Some(offset.into());
        self
    }
}

impl From<&Refusal> for Error {
    fn from(refusal: &Refusal) -> Self {
        let error = Self::new(refusal.kind, refusal.message.clone());
        let error = match refusal.hint {
            Some(hint) => error.hint(hint),
            None => error,
        };
        match refusal.offset {
            Some(offset) => error.at(offset),
            None => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_snake_case() {
        for (index, kind) in ErrorKind::ALL.iter().enumerate() {
            assert!(kind.code().chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{kind}");
            assert!(ErrorKind::ALL.iter().skip(index + 1).all(|other| other.code() != kind.code()), "{kind}");
        }
    }

    #[test]
    fn an_error_shows_no_control_character_of_the_image() {
        let error = Error::malformed("extent \x1b[31mred\x07 and \u{202e}reversed");
        assert_eq!(error.message(), "extent \\u{1b}[31mred\\u{7} and \\u{202e}reversed");
    }

    #[test]
    fn context_puts_a_name_in_front_and_loses_nothing() {
        let cause = io::Error::from(io::ErrorKind::TimedOut);
        let error = Error::malformed("the header is short")
            .hint("copy it again")
            .at(7u64)
            .retry(true)
            .caused_by(cause)
            .context("disk\x1b.vmdk")
            .context("a");
        assert_eq!(error.message(), "a: disk\\u{1b}.vmdk: the header is short");
        assert_eq!((error.kind(), error.hint_text()), (ErrorKind::Malformed, Some("copy it again")));
        assert_eq!((error.offset(), error.is_retryable()), (Some(7), true));
        assert!(std::error::Error::source(&error).unwrap().is::<io::Error>());
    }

    #[test]
    fn a_failed_system_call_has_the_kind_of_its_side() {
        for (kind, source, destination) in [
            (io::ErrorKind::NotFound, ErrorKind::SourceNotFound, ErrorKind::DestinationUnavailable),
            (io::ErrorKind::PermissionDenied, ErrorKind::SourceForbidden, ErrorKind::DestinationForbidden),
            (io::ErrorKind::StorageFull, ErrorKind::SourceUnavailable, ErrorKind::DestinationFull),
            (io::ErrorKind::OutOfMemory, ErrorKind::OutOfMemory, ErrorKind::OutOfMemory),
        ] {
            assert_eq!(Error::source_io(kind.into()).kind(), source);
            assert_eq!(Error::destination_io(kind.into()).kind(), destination);
        }
        assert!(Error::out_of_memory(1).is_retryable());
        assert_eq!(ErrorKind::OutOfMemory.exit_code(), 70);
    }

    #[test]
    fn the_nearest_place_stays() {
        assert_eq!(Error::malformed("x").at(7u64).at(9u64).offset(), Some(7));
    }
}
