//! The gate: the only way by which a name in an image can lead to bytes.

use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::source::source::{BoxFuture, Source};

/// A name that may be opened beside an image: one plain file name.
///
/// No separator of any system, no drive or scheme (`:`), no control character, not `.` or `..`, at most 255 bytes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SiblingName(String);

impl SiblingName {
    /// Takes a name that an image states.
    ///
    /// # Errors
    /// `external_data_refused` if it is anything but a plain name.
    pub fn new(name: &str) -> Result<Self> {
        let plain = !name.is_empty()
            && name.len() <= 255
            && name != "."
            && name != ".."
            && !name.chars().any(|c| c.is_control() || matches!(c, '/' | '\\' | ':'));
        if plain {
            Ok(Self(name.to_owned()))
        } else {
            Err(Error::new(
                ErrorKind::ExternalDataRefused,
                format!("the image names {name:?}, which is not a plain file name beside it"),
            )
            .hint("only files in the same directory or under the same prefix are opened"))
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Hands out what lies beside an image: the only way by which a name in an image can lead to bytes.
pub trait Gate: Send + Sync {
    /// Opens the sibling of that name.
    ///
    /// # Errors
    /// `external_data_refused` if the caller does not open siblings; the `source_*` codes.
    fn open(&self, name: &SiblingName) -> BoxFuture<'_, Result<Arc<dyn Source>>>;
}

/// The gate that opens nothing: the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClosedGate;

impl Gate for ClosedGate {
    fn open(&self, name: &SiblingName) -> BoxFuture<'_, Result<Arc<dyn Source>>> {
        let error = Error::new(
            ErrorKind::ExternalDataRefused,
            format!(
                "the image keeps data in {:?} beside it, and siblings are not opened here",
                name.as_str()
            ),
        );
        Box::pin(async move { Err(error) })
    }
}
