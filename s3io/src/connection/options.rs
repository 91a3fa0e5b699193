//! Options of a [`Client`](crate::Client).

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

#[cfg(feature = "s3")]
use super::url::HttpLocation;

/// How objects are reached. By default everything comes from the AWS SDK's environment and files.
///
/// ```
/// use diskferry_s3io::ClientOptions;
///
/// let options = ClientOptions::default().require_region(Some("eu-west-1".into())).connections(8);
/// assert_eq!(options.connections, 8);
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct ClientOptions {
    /// The URL of an S3 service other than AWS. If `None`: `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL` or the profile's.
    #[cfg(feature = "s3")]
    pub endpoint_url: Option<String>,
    /// The region that requests are signed for. If `None`: `AWS_REGION`, the profile's, `us-east-1`. If the store reports
    /// another region for a bucket, requests to this bucket are signed for that one.
    #[cfg(feature = "s3")]
    pub region: Option<String>,
    /// How a bucket is addressed.
    #[cfg(feature = "s3")]
    pub path_style: PathStyle,
    /// Sends unsigned requests, which read public objects only.
    #[cfg(feature = "s3")]
    pub anonymous: bool,
    /// Credentials. If `None`: the SDK's default chain.
    #[cfg(feature = "s3")]
    pub keys: Option<Keys>,
    /// Checksums of uploads and of complete reads.
    #[cfg(feature = "s3")]
    pub checksum: Checksum,
    /// The region that the bucket of a source must be in.
    pub require_region: Option<String>,
    /// Maximum number of requests in flight for one source or one upload; 0 counts as 1. A source uses only as many as
    /// are needed to fill the link. At most two duplicate requests, for ranges that are stuck, are made in addition.
    pub connections: usize,
    /// A range fails after this time without progress.
    pub stall_timeout: Duration,
    /// Connects plain `http(s)://` sources to public addresses only, for services that accept URLs from strangers. The S3
    /// endpoint is chosen by the caller and not restricted.
    ///
    /// Through a proxy, `https://` sources are tunnelled to an address that was resolved and checked here. `http://` sources
    /// do not use a proxy then, because it would resolve their names itself.
    pub public_only: bool,
    /// Uses the proxies of the environment: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`. On by default.
    pub proxies: bool,
    /// A file (or directory) of CA certificates in PEM, trusted instead of the system's. If `None`: `AWS_CA_BUNDLE` or the
    /// profile's `ca_bundle` for S3, else `SSL_CERT_FILE` and `SSL_CERT_DIR`, else the system's certificates. Plain
    /// `https://` sources trust `AWS_CA_BUNDLE` or `ca_bundle` in addition to the latter.
    pub ca_bundle: Option<PathBuf>,
    /// The certificate (chain) in PEM that this client shows to servers of plain `https://` sources that ask for one.
    pub client_certificate: Option<PathBuf>,
    /// The private key of `client_certificate` in PEM. If `None`: it is in the same file.
    pub client_key: Option<PathBuf>,
    /// Names and values of further headers, for plain `http(s)://` sources. They are sent to the host and port of the URL that
    /// is opened and to no other, also after redirects. With headers, a URL under the S3 endpoint is requested verbatim and
    /// not signed. No value is shown.
    pub headers: Vec<(String, String)>,
}

#[cfg(feature = "s3")]
setters!(ClientOptions {
    endpoint_url: Option<String>,
    region: Option<String>,
    path_style: PathStyle,
    anonymous: bool,
    keys: Option<Keys>,
    checksum: Checksum,
});
setters!(ClientOptions {
    require_region: Option<String>,
    connections: usize,
    stall_timeout: Duration,
    public_only: bool,
    proxies: bool,
    ca_bundle: Option<PathBuf>,
    client_certificate: Option<PathBuf>,
    client_key: Option<PathBuf>,
    headers: Vec<(String, String)>,
});

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            #[cfg(feature = "s3")]
            endpoint_url: None,
            #[cfg(feature = "s3")]
            region: None,
            #[cfg(feature = "s3")]
            path_style: PathStyle::Auto,
            #[cfg(feature = "s3")]
            anonymous: false,
            #[cfg(feature = "s3")]
            keys: None,
            #[cfg(feature = "s3")]
            checksum: Checksum::Auto,
            require_region: None,
            // 10 Gbit/s needs 25 connections of 50 MB/s.
            connections: 32,
            stall_timeout: Duration::from_secs(60),
            public_only: false,
            proxies: true,
            ca_bundle: None,
            client_certificate: None,
            client_key: None,
            headers: Vec::new(),
        }
    }
}

impl fmt::Debug for ClientOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("ClientOptions");
        #[cfg(feature = "s3")]
        {
            // The text may contain a password. Such a URL is refused later, and not shown before that.
            let endpoint = self.endpoint_url.as_deref().map(HttpLocation::parse);
            shown
                .field("endpoint_url", &endpoint.and_then(Result::ok))
                .field("region", &self.region)
                .field("path_style", &self.path_style)
                .field("anonymous", &self.anonymous)
                .field("keys", &self.keys)
                .field("checksum", &self.checksum);
        }
        shown
            .field("require_region", &self.require_region)
            .field("connections", &self.connections)
            .field("stall_timeout", &self.stall_timeout)
            .field("public_only", &self.public_only)
            .field("proxies", &self.proxies)
            .field("ca_bundle", &self.ca_bundle)
            .field("client_certificate", &self.client_certificate)
            .field("client_key", &self.client_key)
            .field("headers", &self.headers.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .finish()
    }
}

/// How a bucket is addressed: as the first segment of the path, or as a name under the endpoint's host.
#[cfg(feature = "s3")]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PathStyle {
    /// In the path if the endpoint is an IP address, `localhost` or a name without a domain.
    #[default]
    Auto,
    /// In the path.
    Always,
    /// In the host name.
    Never,
}

/// Whether uploads carry checksums (CRC32) that the store verifies, and whether an object that was read completely is
/// compared with the store's checksum of the whole object, if the store has one.
#[cfg(feature = "s3")]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Checksum {
    /// If the store supports them: an upload whose checksum is refused continues without checksums.
    #[default]
    Auto,
    /// Always: a store that refuses checksums is `destination_unsuitable`.
    Required,
    /// Never.
    Off,
}

/// Credentials. `Debug` shows none of them.
#[cfg(feature = "s3")]
#[derive(Clone)]
#[non_exhaustive]
pub struct Keys {
    /// Access key id.
    pub access_key: String,
    /// Secret access key.
    pub secret_key: String,
    /// Session token of temporary credentials.
    pub session_token: Option<String>,
}

#[cfg(feature = "s3")]
impl Keys {
    /// Permanent credentials.
    pub fn new(access_key: impl Into<String>, secret_key: impl Into<String>) -> Self {
        Self { access_key: access_key.into(), secret_key: secret_key.into(), session_token: None }
    }
}

#[cfg(feature = "s3")]
setters!(Keys { session_token: Option<String> });

#[cfg(feature = "s3")]
impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(..)")
    }
}
