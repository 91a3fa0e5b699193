//! TLS: which certificates are trusted, the client's own certificate, and what a failed handshake means.
//!
//! Trusted are the system's certificates, or those of `SSL_CERT_FILE` and `SSL_CERT_DIR` if these are set. A bundle that the
//! caller gives replaces them. `AWS_CA_BUNDLE` and a profile's `ca_bundle` replace them for S3, as in the AWS command
//! line, and are trusted in addition for plain URLs.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use diskferry_core::{Error, ErrorKind, Result};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{CertificateError, ClientConfig, InvalidMessage, RootCertStore};

/// A file (or directory) of certificates, and the option or variable that names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Bundle {
    pub(super) named_by: &'static str,
    pub(super) path: PathBuf,
}

/// The certificates that are trusted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Trust {
    pub(super) bundle: Option<Bundle>,
    /// Trusts the system's certificates too.
    pub(super) system_too: bool,
}

/// The client's certificate, and its key if that is in another file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ClientCertificate {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

/// The configuration of TLS.
///
/// # Errors
/// `usage` if a file that was named cannot be read, or does not contain what it should.
pub(super) fn client_config(trust: &Trust, own: Option<&ClientCertificate>) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    if let Some(bundle) = &trust.bundle {
        add_bundle(&mut roots, bundle)?;
    }
    if trust.bundle.is_none() || trust.system_too {
        add_system(&mut roots)?;
    }
    let failed = |error: &dyn fmt::Display| Error::internal(format!("TLS cannot be set up: {error}"));
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?
        .with_root_certificates(roots);
    let Some(own) = own else { return Ok(config.with_no_client_auth()) };
    let chain = CertificateDer::pem_file_iter(&own.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unusable("the client certificate", &own.certificate, &error))?;
    if chain.is_empty() {
        return Err(unusable(
            "the client certificate",
            &own.certificate,
            &"it contains no certificate (PEM)",
        ));
    }
    let key = PrivateKeyDer::from_pem_file(&own.key)
        .map_err(|error| unusable("the key of the client certificate", &own.key, &error))?;
    config
        .with_client_auth_cert(chain, key)
        .map_err(|error| unusable("the client certificate", &own.certificate, &error))
}

fn unusable(what: &str, path: &Path, why: &dyn fmt::Display) -> Error {
    Error::new(ErrorKind::Usage, format!("{what} in {} cannot be used: {why}", path.display()))
}

fn add_bundle(roots: &mut RootCertStore, bundle: &Bundle) -> Result<()> {
    let (file, directory) =
        if bundle.path.is_dir() { (None, Some(&*bundle.path)) } else { (Some(&*bundle.path), None) };
    let found = rustls_native_certs::load_certs_from_paths(file, directory);
    let refuse = |why: &str| {
        Error::new(ErrorKind::Usage, format!("{} {}: {why}", bundle.named_by, bundle.path.display()))
            .hint("name a file of CA certificates in PEM")
    };
    if let (true, Some(error)) = (found.certs.is_empty(), found.errors.first()) {
        return Err(refuse(&error.to_string()));
    }
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 { Err(refuse("it contains no certificate")) } else { Ok(()) }
}

fn add_system(roots: &mut RootCertStore) -> Result<()> {
    let found = rustls_native_certs::load_native_certs();
    let variable = ["SSL_CERT_FILE", "SSL_CERT_DIR"]
        .into_iter()
        .find(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
    if let (true, Some(variable)) = (found.certs.is_empty(), variable) {
        let why = found.errors.first().map_or("it contains no certificate".to_owned(), ToString::to_string);
        return Err(Error::new(ErrorKind::Usage, format!("{variable} cannot be used: {why}"))
            .hint(format!("correct or unset {variable}")));
    }
    for error in &found.errors {
        tracing::debug!(%error, "a trusted certificate cannot be read");
    }
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 && roots.is_empty() {
        // This system has no certificates: plain HTTP still works, and every TLS handshake fails.
        tracing::warn!("no trusted certificates found");
    }
    Ok(())
}

/// What that error of TLS means for a connection to `target`, if another try cannot help.
pub(super) fn fatal(error: &rustls::Error, target: &str) -> Option<Error> {
    const TRUST: &str =
        "if this server is right, trust its CA with --ca-bundle FILE, AWS_CA_BUNDLE or SSL_CERT_FILE";
    const CLOCK: &str = "renew the server's certificate, or set this host's clock";
    const NAME: &str = "use a name that the certificate is for, or give the server another certificate";
    const OWN: &str = "give a certificate that the server accepts with --client-cert and --client-key";
    const PLAIN: &str = "if this port speaks plain HTTP, use http:// in the URL or endpoint";
    let (what, hint) = match error {
        rustls::Error::InvalidCertificate(why) => match why {
            CertificateError::UnknownIssuer => (
                format!("the certificate of {target} is self-signed or signed by an unknown issuer (CA)"),
                TRUST,
            ),
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                (format!("the certificate of {target} has expired"), CLOCK)
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                (format!("the certificate of {target} is not valid yet"), CLOCK)
            }
            CertificateError::NotValidForName => {
                (format!("the certificate of {target} is for another host"), NAME)
            }
            CertificateError::NotValidForNameContext { presented, .. } => {
                let names: Vec<&str> = presented.iter().take(8).map(String::as_str).collect();
                (format!("the certificate of {target} is for another host: {}", names.join(", ")), NAME)
            }
            CertificateError::Revoked => (format!("the certificate of {target} is revoked"), TRUST),
            other if format!("{other:?}").contains("CaUsedAsEndEntity") => (
                format!("the certificate of {target} is self-signed as a CA, and is no server's certificate"),
                "trusting it is not enough: create it with basicConstraints=CA:FALSE, or sign one for the server with a CA",
            ),
            other => (format!("the certificate of {target} is not valid: {other}"), TRUST),
        },
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            (format!("{target} does not speak TLS"), PLAIN)
        }
        rustls::Error::AlertReceived(alert) => {
            use rustls::AlertDescription as Alert;
            match alert {
                Alert::CertificateRequired
                | Alert::BadCertificate
                | Alert::UnknownCA
                | Alert::CertificateUnknown
                | Alert::CertificateExpired
                | Alert::CertificateRevoked
                | Alert::UnsupportedCertificate
                | Alert::AccessDenied => {
                    (format!("{target} requires another client certificate ({alert:?})"), OWN)
                }
                Alert::HandshakeFailure | Alert::ProtocolVersion | Alert::InsufficientSecurity => (
                    format!(
                        "{target} and this program have no version or cipher of TLS in common ({alert:?})"
                    ),
                    "the server must support TLS 1.2 or 1.3; it may also require a client certificate (--client-cert)",
                ),
                _ => return None,
            }
        }
        rustls::Error::PeerIncompatible(why) => (
            format!("{target} and this program have no version or cipher of TLS in common ({why:?})"),
            "the server must support TLS 1.2 or 1.3",
        ),
        rustls::Error::UnsupportedNameType => {
            (format!("{target} is not a name that a certificate can be for"), NAME)
        }
        _ => return None,
    };
    Some(Error::new(ErrorKind::SourceUnavailable, what).retry(false).hint(hint).caused_by(error.clone()))
}
