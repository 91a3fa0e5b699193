//! Reading the chain of causes of an error.

use std::error::Error;
use std::io;

/// The cause of an error. The cause of an I/O error that shows another error is that error, and not its cause.
fn cause_of<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| cause_of(*error))
}

/// The error and its causes in one line, without causes that only repeat what was said before.
#[cfg(feature = "s3")]
pub(crate) fn causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    for cause in chain(error).skip(1) {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
    }
    text
}

/// Why a request got no complete response, in a few words: the cause, without the libraries that it came through.
pub(crate) fn reason(error: &(dyn Error + 'static)) -> String {
    let last = root_cause(error);
    let resolving = chain(error).any(|error| error.to_string() == "dns error");
    let known = cause::<io::Error>(error).and_then(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => Some("the connection was refused"),
        io::ErrorKind::ConnectionReset => Some("the connection was reset"),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => {
            Some("the connection was closed")
        }
        io::ErrorKind::TimedOut => Some("the connection timed out"),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            Some("the host cannot be reached")
        }
        _ => None,
    });
    match known {
        Some(known) => known.to_owned(),
        None if resolving => {
            let text = last.to_string();
            let text = text.strip_prefix("failed to lookup address information: ").unwrap_or(&text);
            format!("the host name cannot be resolved: {text}")
        }
        None => last.to_string(),
    }
}

/// The innermost cause: what happened, without the layers that passed it on.
pub(crate) fn root_cause<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    chain(error).last().unwrap_or(error)
}

/// The first error of that type in the chain, `error` itself included.
pub(crate) fn cause<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    chain(error).find_map(|error| error.downcast_ref())
}
