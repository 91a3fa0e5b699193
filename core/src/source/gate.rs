//! The gate: the only way for a name in an image to lead to bytes.

use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::source::source::{BoxFuture, Source};

/// The name of a file next to an image that may be opened: one plain file name.
///
/// It has no separator of any operating system, no drive or scheme (`:`), no control character, is not `.` or `..`,
/// and is at most 255 bytes long.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SiblingName(String);

impl SiblingName {
    /// Checks a name from an image.
    ///
    /// # Errors
    /// `external_data_refused` if it is not a plain file name.
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
                format!("the image refers to {name:?}, which is not a plain file name"),
            )
            .hint("only files in the same directory or under the same prefix are opened"))
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Opens files next to an image: the only way for a name in an image to lead to bytes.
pub trait Gate: Send + Sync {
    /// Opens the sibling with that name.
    ///
    /// # Errors
    /// `external_data_refused` if the caller does not allow siblings; the `source_*` codes.
    fn open(&self, name: &SiblingName) -> BoxFuture<'_, Result<Arc<dyn Source>>>;
}

/// The default gate, which opens nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClosedGate;

impl Gate for ClosedGate {
    fn open(&self, name: &SiblingName) -> BoxFuture<'_, Result<Arc<dyn Source>>> {
        let error = Error::new(
            ErrorKind::ExternalDataRefused,
            format!(
                "the image keeps data in the file {:?} next to it, and opening such files is not allowed here",
                name.as_str()
            ),
        );
        Box::pin(async move { Err(error) })
    }
}
