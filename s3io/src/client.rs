//! Who asks, where, and as whom: one client for all the sources and targets of a program.
//!
//! Credentials, profile, region and endpoint come from the AWS SDK's own environment and files where the options
//! are silent. The SDK's retries and its watch over slow streams are off: both are ours, see [`crate::retry`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sdk_s3::config::{RequestChecksumCalculation, ResponseChecksumValidation};
use diskferry_core::{Error, ErrorKind, Result};
use tokio::sync::OnceCell;

use crate::net::Net;
use crate::url::{Endpoint, HttpLocation, Place};
use crate::works::Works;

/// How to reach objects. The default takes everything from the SDK's environment and files.
#[derive(Clone)]
pub struct ClientOptions {
    /// An S3 service other than AWS; else `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL` or the profile's.
    pub endpoint_url: Option<String>,
    /// The region that requests are signed for; else `AWS_REGION`, the profile's, `us-east-1`. Where the store says
    /// that a bucket is in another one, that one is used for it.
    pub region: Option<String>,
    /// How a bucket is addressed.
    pub path_style: PathStyle,
    /// Sign nothing: public objects only.
    pub anonymous: bool,
    /// Credentials; else the SDK's default chain.
    pub keys: Option<Keys>,
    /// Checksums of what is uploaded.
    pub checksum: Checksum,
    /// The region that the bucket of a source must be in.
    pub require_region: Option<String>,
    /// Most requests in flight of one source or one upload, at least 1. A source uses as few of them as fill the line;
    /// at most two second requests, for ranges that are stuck, come on top.
    pub connections: usize,
    /// A range is given up after so long without a byte.
    pub stall_timeout: Duration,
    /// Connect plain `http(s)://` sources to public addresses only: for services that take URLs from strangers.
    /// The S3 endpoint is the caller's own and not confined.
    pub public_only: bool,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            endpoint_url: None,
            region: None,
            path_style: PathStyle::Auto,
            anonymous: false,
            keys: None,
            checksum: Checksum::Auto,
            require_region: None,
            // 10 Gbit/s needs 25 connections of 50 MB/s.
            connections: 32,
            stall_timeout: Duration::from_secs(60),
            public_only: false,
        }
    }
}

/// How a bucket is addressed: as the first segment of the path, or as a name under the endpoint's host.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PathStyle {
    /// In the path where the endpoint is an address, `localhost` or a name without a domain.
    #[default]
    Auto,
    /// In the path.
    Always,
    /// In the host's name.
    Never,
}

/// Whether what is uploaded carries checksums (CRC32) that the store verifies, and whether an object that is read from its
/// first byte to its last is compared with the checksum that the store keeps of the whole, where it keeps one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Checksum {
    /// Where the store takes them: an upload whose checksum is refused goes on without.
    #[default]
    Auto,
    /// Always: a store that refuses them is `destination_unsuitable`.
    Required,
    /// Never.
    Off,
}

impl fmt::Debug for ClientOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A password could stand in it; such a one is refused later, and not shown before.
        let endpoint = self.endpoint_url.as_deref().map(HttpLocation::parse);
        f.debug_struct("ClientOptions")
            .field("endpoint_url", &endpoint.and_then(Result::ok))
            .field("region", &self.region)
            .field("path_style", &self.path_style)
            .field("anonymous", &self.anonymous)
            .field("keys", &self.keys)
            .field("checksum", &self.checksum)
            .field("require_region", &self.require_region)
            .field("connections", &self.connections)
            .field("stall_timeout", &self.stall_timeout)
            .field("public_only", &self.public_only)
            .finish()
    }
}

/// Credentials. `Debug` shows none of them.
#[derive(Clone)]
pub struct Keys {
    /// Access key id.
    pub access_key: String,
    /// Secret access key.
    pub secret_key: String,
    /// Session token of temporary credentials.
    pub session_token: Option<String>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(..)")
    }
}

/// Opens sources and writes targets. Cheap to clone; clones share connections and credentials.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    options: ClientOptions,
    config: aws_sdk_s3::Config,
    s3: aws_sdk_s3::Client,
    /// For plain URLs.
    net: Net,
    endpoint: Option<Endpoint>,
    credentials: Option<SharedCredentialsProvider>,
    has_credentials: OnceCell<bool>,
    works: Works,
}

impl Client {
    /// Reads the SDK's environment and files. Asks no service: credentials are looked for when first needed.
    ///
    /// # Errors
    /// `usage` where the endpoint is no URL, or holds a user or a query.
    pub async fn new(options: ClientOptions) -> Result<Self> {
        let net = Net::new(false)?;
        // Not the default chain, which would ask the metadata service of a cloud that may not be there.
        let provider = ProviderConfig::without_region().with_http_client(net.clone());
        let region = RegionProviderChain::first_try(options.region.clone().map(Region::new))
            .or_else(EnvironmentVariableRegionProvider::new())
            .or_else(ProfileFileRegionProvider::builder().configure(&provider).build())
            .or_else("us-east-1");
        let mut loader =
            aws_config::defaults(BehaviorVersion::latest()).http_client(net.clone()).region(region);
        if let Some(url) = &options.endpoint_url {
            Endpoint::parse(url)?;
            loader = loader.endpoint_url(url);
        }
        if options.anonymous {
            loader = loader.no_credentials();
        } else if let Some(keys) = &options.keys {
            loader = loader.credentials_provider(Credentials::new(
                &keys.access_key,
                &keys.secret_key,
                keys.session_token.clone(),
                None,
                "options",
            ));
        }
        let shared = loader.load().await;
        let endpoint_url = endpoint_of(&shared);
        let endpoint = endpoint_url.as_deref().map(Endpoint::parse).transpose()?;
        let path_style = match options.path_style {
            PathStyle::Auto => endpoint.as_ref().is_some_and(Endpoint::needs_path_style),
            PathStyle::Always => true,
            PathStyle::Never => false,
        };
        let config = aws_sdk_s3::config::Builder::from(&shared)
            .force_path_style(path_style)
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            // A ranged answer has no checksum to validate, and some stores refuse to be asked for one.
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            // Those of uploads are ours: the SDK's cannot be left out where a store refuses them.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .build();
        let inner = Inner {
            s3: aws_sdk_s3::Client::from_conf(config.clone()),
            config,
            net: if options.public_only { Net::new(true)? } else { net },
            endpoint,
            credentials: shared.credentials_provider().filter(|_| !options.anonymous),
            has_credentials: OnceCell::new(),
            works: Works::default(),
            options,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What it was made with.
    pub fn options(&self) -> &ClientOptions {
        &self.inner.options
    }

    /// Waits until every [`S3Sink`](crate::S3Sink) of this client that was dropped unfinished has taken its upload back:
    /// dropping begins that and cannot wait. Sinks in use are not waited for. Without it, a program that ends right
    /// after such a drop, or that drops the client's last clone, may leave parts in the bucket, which a lifecycle rule
    /// clears.
    pub async fn settle(&self) {
        self.inner.works.settle().await;
    }

    pub(crate) fn works(&self) -> &Works {
        &self.inner.works
    }

    pub(crate) fn net(&self) -> &Net {
        &self.inner.net
    }

    pub(crate) fn endpoint(&self) -> Option<&Endpoint> {
        self.inner.endpoint.as_ref()
    }

    /// The SDK's client for that place.
    pub(crate) fn s3_at(&self, place: &Place) -> aws_sdk_s3::Client {
        match place {
            Place::Endpoint => self.inner.s3.clone(),
            Place::Aws { region } => {
                let mut config = self.inner.config.to_builder();
                if self.inner.endpoint.is_some() {
                    config.set_endpoint_url(None);
                    config.set_force_path_style(Some(self.options().path_style == PathStyle::Always));
                }
                if let Some(region) = region {
                    config.set_region(Some(Region::new(region.clone())));
                }
                aws_sdk_s3::Client::from_conf(config.build())
            }
        }
    }

    /// Whether there are credentials to sign with. The answer is kept; a failed search is not.
    pub(crate) async fn has_credentials(&self) -> bool {
        let Some(provider) = &self.inner.credentials else { return false };
        let look = || async { provider.provide_credentials().await.map(|_| true).map_err(|_| ()) };
        self.inner.has_credentials.get_or_try_init(look).await.copied().unwrap_or(false)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("options", &self.inner.options).finish_non_exhaustive()
    }
}

/// The same client, signing for another region.
pub(crate) fn in_region(client: &aws_sdk_s3::Client, region: &str) -> aws_sdk_s3::Client {
    let config = client.config().to_builder().region(Region::new(region.to_owned())).build();
    aws_sdk_s3::Client::from_conf(config)
}

/// The endpoint that the SDK will use: the option's, or for S3 alone, or for all services.
fn endpoint_of(shared: &aws_config::SdkConfig) -> Option<String> {
    let own = || {
        let key = aws_types::service_config::ServiceConfigKey::builder()
            .service_id("S3")
            .env("AWS_ENDPOINT_URL")
            .profile("endpoint_url")
            .build()
            .ok()?;
        shared.service_config()?.load_config(key)
    };
    let stated = shared.endpoint_url().map(str::to_owned);
    if shared.get_origin("endpoint_url").is_client_config() { stated } else { own().or(stated) }
}

/// Whether two names mean one region: some write them in capitals.
pub(crate) fn same_region(a: &str, b: &str) -> bool {
    a.trim().eq_ignore_ascii_case(b.trim())
}

/// The refusal of a source whose bucket is in another region.
pub(crate) fn region_mismatch(bucket: &str, found: &str, required: &str) -> Error {
    Error::new(
        ErrorKind::RegionMismatch,
        format!("the bucket {bucket} is in the region {found}, and {required} is required"),
    )
    .hint("import from a bucket in the required region")
}
