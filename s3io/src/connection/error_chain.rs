//! Reading the chain of causes of an error.

use std::error::Error;
use std::io;

/// The error and its causes in one line, without causes that only repeat what was said before.
#[cfg(feature = "s3")]
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

/// Why a request got no complete response, in a few words: the cause, without the libraries that it came through.
pub(crate) fn reason(error: &(dyn Error + 'static)) -> String {
    let mut last = error;
    let mut resolving = false;
    while let Some(next) = last.source() {
        resolving |= last.to_string() == "dns error";
        last = next;
    }
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

/// True if the handshake of TLS failed in a way that another try cannot change: a certificate that is not accepted, or a
/// peer that speaks something else.
pub(crate) fn is_lasting_tls_failure(error: &(dyn Error + 'static)) -> bool {
    use rustls::AlertDescription as Alert;
    use rustls::Error as Tls;
    match cause::<Tls>(error) {
        Some(Tls::AlertReceived(alert)) => matches!(
            alert,
            Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateRevoked
                | Alert::CertificateExpired
                | Alert::CertificateUnknown
                | Alert::CertificateRequired
                | Alert::UnknownCA
                | Alert::AccessDenied
                | Alert::HandshakeFailure
                | Alert::ProtocolVersion
                | Alert::UnrecognisedName
        ),
        Some(error) => matches!(
            error,
            Tls::InvalidCertificate(_)
                | Tls::NoCertificatesPresented
                | Tls::UnsupportedNameType
                | Tls::InvalidMessage(_)
                | Tls::PeerIncompatible(_)
                | Tls::PeerMisbehaved(_)
        ),
        None => false,
    }
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
