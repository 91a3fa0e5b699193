//! The error type, and the stable codes of the command line's contract.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::sync::Arc;

/// The result of everything in this crate that can fail.
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

            /// Whether a retry can help, unless the place of the failure says otherwise.
            pub const fn retryable(self) -> bool {
                match self { $(Self::$name => $retry,)* }
            }
        }
    };
}

kinds! {
    /// The call itself is wrong.
    Usage = "usage", 2, false;
    /// No format is detected in the image, and none was declared.
    UnknownFormat = "unknown_format", 3, false;
    /// The image contradicts its format.
    Malformed = "malformed", 3, false;
    /// The image ends before data that it refers to.
    Truncated = "truncated", 3, false;
    /// The image is valid but uses an unsupported feature.
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
    /// The source is in another region than required.
    RegionMismatch = "region_mismatch", 4, false;
    /// The source does not exist.
    SourceNotFound = "source_not_found", 5, false;
    /// Access to the source is denied.
    SourceForbidden = "source_forbidden", 5, false;
    /// The source is no longer the one that was opened.
    SourceChanged = "source_changed", 5, true;
    /// The source cannot be reached, or stopped responding.
    SourceUnavailable = "source_unavailable", 5, true;
    /// The source does not support ranged requests.
    SourceNoRanges = "source_no_ranges", 5, false;
    /// The presigned URL has expired.
    SourceExpired = "source_expired", 5, false;
    /// The destination exists and must not be replaced.
    DestinationExists = "destination_exists", 6, false;
    /// Another conversion writes to the destination.
    DestinationBusy = "destination_busy", 6, true;
    /// The destination has no space left.
    DestinationFull = "destination_full", 6, false;
    /// Access to the destination is denied.
    DestinationForbidden = "destination_forbidden", 6, false;
    /// The destination cannot be reached, or stopped responding.
    DestinationUnavailable = "destination_unavailable", 6, true;
    /// The destination cannot hold this target.
    DestinationUnsuitable = "destination_unsuitable", 6, false;
    /// The target does not read back as it was written.
    VerificationFailed = "verification_failed", 6, false;
    /// The system has no memory left.
    OutOfMemory = "out_of_memory", 70, true;
    /// A defect of diskferry.
    Internal = "internal", 70, false;
    /// Cancelled by the caller.
    Cancelled = "cancelled", 130, true;
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// An error: its kind, one sentence with the facts, the offset, a hint, and whether a retry can help.
///
/// The message names fields, offsets and numbers. It never contains a secret, the signed part of a URL, or a control
/// character: text from an image goes through [`printable`] first, and the constructor replaces any that remain.
///
/// ```
/// use diskferry_core::{Error, ErrorKind};
///
/// let error = Error::malformed("the header has version 9, expected 2 or 3").at(4u64).context("disk.qcow2");
/// assert_eq!(error.kind(), ErrorKind::Malformed);
/// assert_eq!(error.kind().code(), "malformed");
/// assert!(!error.is_retryable());
/// assert_eq!(error.to_string(), "disk.qcow2: the header has version 9, expected 2 or 3");
/// assert_eq!(error.offset(), Some(4));
/// ```
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
    /// An error of `kind`. `message` is one sentence without a full stop, and starts in lower case.
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

    /// The image ends before data that it refers to.
    pub fn truncated(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Truncated, message)
    }

    /// The image uses an unsupported feature.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::UnsupportedFeature, message)
    }

    /// A defect of diskferry.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// The system has no memory for a buffer of `bytes` bytes. A retry can help.
    pub fn out_of_memory(bytes: u64) -> Self {
        Self::new(
            ErrorKind::OutOfMemory,
            format!("out of memory: no buffer of {bytes} bytes could be allocated"),
        )
    }

    /// A failed system call on a source, for embedders that implement [`Source`](crate::Source): `source_not_found`,
    /// `source_forbidden`, `truncated` for an unexpected end, otherwise `source_unavailable`. The kind decides
    /// whether a retry can help. The I/O error becomes the cause.
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

    /// Puts a name before the message, such as that of a file: `disk.vmdk: …`. Kind, hint, offset, retryability and
    /// cause are kept.
    #[must_use]
    pub fn context(mut self, name: impl fmt::Display) -> Self {
        self.0.message = printable(&format!("{name}: {}", self.0.message));
        self
    }

    /// Appends an outcome to the message: `…; the target was deleted`. Everything else is kept.
    #[must_use]
    pub(crate) fn followed_by(mut self, outcome: impl fmt::Display) -> Self {
        self.0.message = printable(&format!("{}; {outcome}", self.0.message));
        self
    }

    /// Sets the hint: what the user can do about the error. It replaces an earlier hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Sets the offset in the stored object, in bytes. An offset that is already set is kept, since it is the more
    /// precise one.
    #[must_use]
    pub fn at(mut self, offset: impl Into<u64>) -> Self {
        self.0.offset.get_or_insert(offset.into());
        self
    }

    /// Overrides whether a retry can help.
    #[must_use]
    pub fn retry(mut self, retryable: bool) -> Self {
        self.0.retryable = retryable;
        self
    }

    /// Sets the cause of this error: [`std::error::Error::source`].
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(Arc::from(source.into()));
        self
    }

    /// The kind of the error.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The message: one sentence with the facts.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What the user can do about it.
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The offset in the stored object, in bytes.
    pub fn offset(&self) -> Option<u64> {
        self.0.offset
    }

    /// Whether a retry can help.
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

/// Makes text from outside safe to print: control characters (terminal escapes among them) and Unicode characters
/// that reorder text become `\u{..}`. The text is cut at 1024 characters.
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

/// A finding worth reporting that is not an error.
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

/// The error of commands other than `info` for this image: the image is valid, but its data cannot be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// One of the kinds with exit code 4, or [`ErrorKind::UnsupportedFeature`].
    pub kind: ErrorKind,
    /// One sentence with the facts.
    pub message: String,
    /// What the user can do about it.
    pub hint: Option<&'static str>,
    /// The offset in the stored object, in bytes, if the refusal refers to one place.
    pub offset: Option<u64>,
}

impl Refusal {
    /// A refusal; `message` is one sentence without a full stop, and is made printable.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: printable(&message.into()), hint: None, offset: None }
    }

    /// Sets the hint: what the user can do about it.
    #[must_use]
    pub fn hint(mut self, hint: &'static str) -> Self {
        self.hint = Some(hint);
        self
    }

    /// Sets the offset in the stored object, in bytes.
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
    fn control_characters_of_the_image_are_escaped() {
        let error = Error::malformed("extent \x1b[31mred\x07 and \u{202e}reversed");
        assert_eq!(error.message(), "extent \\u{1b}[31mred\\u{7} and \\u{202e}reversed");
    }

    #[test]
    fn context_prepends_a_name_and_keeps_everything() {
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
    fn a_failed_system_call_has_the_code_for_source_or_destination() {
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
    fn the_first_offset_is_kept() {
        assert_eq!(Error::malformed("x").at(7u64).at(9u64).offset(), Some(7));
    }
}
