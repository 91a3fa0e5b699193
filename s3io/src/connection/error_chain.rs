//! Reading the chain of causes of an error.

use std::error::Error;
use std::io;

/// The error and its causes in one line, without causes that only repeat what was said before.
pub(crate) fn causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// The first error of that type in the chain, `error` itself included.
pub(crate) fn cause<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        let inner = error.downcast_ref::<io::Error>().and_then(|error| error.get_ref());
        let found = error.downcast_ref::<T>().or_else(|| inner.and_then(|inner| inner.downcast_ref::<T>()));
        if found.is_some() {
            return found;
        }
        next = error.source();
    }
    None
}
