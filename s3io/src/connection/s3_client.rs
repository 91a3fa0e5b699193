//! The AWS SDK's client: configuration, credentials and endpoint.
//!
//! Credentials, profile, region and endpoint come from the SDK's environment and files unless the options set them. The
//! SDK's retries and its protection against slow streams are off: [`retry`](super::retry) does both, and covers bodies.

use std::path::PathBuf;

use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_runtime::env_config::file::EnvConfigFiles;
use aws_sdk_s3::config::{RequestChecksumCalculation, ResponseChecksumValidation};
use aws_types::os_shim_internal::{Env, Fs};
use diskferry_core::Result;
use tokio::sync::OnceCell;

use super::background::BackgroundTasks;
use super::http_client::HttpClient;
use super::options::{ClientOptions, PathStyle};
use super::s3_url::{Endpoint, S3Service};
use super::sdk_connector::SdkConnector;
use super::tls::Bundle;

/// Everything that requests by the S3 protocol need.
pub(crate) struct S3Access {
    config: aws_sdk_s3::Config,
    client: aws_sdk_s3::Client,
    path_style: PathStyle,
    endpoint: Option<Endpoint>,
    credentials: Option<SharedCredentialsProvider>,
    has_credentials: OnceCell<bool>,
    background: BackgroundTasks,
}

impl S3Access {
    /// Reads the SDK's environment and files.
    ///
    /// # Errors
    /// `usage` if the endpoint is not a URL, or contains a user or a query.
    pub(super) async fn load(options: &ClientOptions, http: &HttpClient) -> Result<Self> {
        let connector = SdkConnector::new(http.clone());
        // Not the default region chain, which would ask the metadata service of a cloud that may not be there.
        let provider = ProviderConfig::without_region().with_http_client(connector.clone());
        let stated_region =
            options.region.clone().filter(|region| !region.is_empty()).or_else(|| variable("AWS_REGION"));
        let stated_region = stated_region.or_else(|| variable("AWS_DEFAULT_REGION"));
        let region = RegionProviderChain::first_try(stated_region.map(Region::new))
            .or_else(ProfileFileRegionProvider::builder().configure(&provider).build())
            .or_else("us-east-1");
        let mut loader =
            aws_config::defaults(BehaviorVersion::latest()).http_client(connector).region(region);
        let given = options.endpoint_url.as_deref().map(trim_endpoint).filter(|url| !url.is_empty());
        if let Some(url) = given {
            parse_endpoint(url, "--endpoint-url")?;
            loader = loader.endpoint_url(url);
        }
        if std::env::var_os("AWS_PROFILE").is_some_and(|name| name.is_empty()) {
            // An empty variable is one that is not set.
            loader = loader.profile_name("default");
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
        let parse = |url: &str| parse_endpoint(url, endpoint_origin(given.is_some()));
        let endpoint = endpoint_url.as_deref().map(parse).transpose()?;
        let path_style = match options.path_style {
            PathStyle::Auto => endpoint.as_ref().is_some_and(Endpoint::needs_path_style),
            PathStyle::Always => true,
            PathStyle::Never => false,
        };
        let mut config = aws_sdk_s3::config::Builder::from(&shared);
        // The SDK takes an empty variable for an endpoint, and keeps slashes at the end.
        config.set_endpoint_url(endpoint_url);
        let config = config
            .force_path_style(path_style)
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            // A ranged response has no checksum to validate, and some stores refuse requests that ask for one.
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            // Checksums of uploads are computed here: the SDK's cannot be left out if a store refuses them.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .build();
        Ok(Self {
            client: aws_sdk_s3::Client::from_conf(config.clone()),
            config,
            path_style: options.path_style,
            endpoint,
            credentials: shared.credentials_provider().filter(|_| !options.anonymous),
            has_credentials: OnceCell::new(),
            background: BackgroundTasks::default(),
        })
    }

    pub(crate) fn background(&self) -> &BackgroundTasks {
        &self.background
    }

    pub(crate) fn endpoint(&self) -> Option<&Endpoint> {
        self.endpoint.as_ref()
    }

    /// The host and port that requests to that service go to, for messages.
    pub(crate) fn peer(&self, service: &S3Service) -> String {
        match (service, &self.endpoint) {
            (S3Service::Configured, Some(endpoint)) => endpoint.authority(),
            _ => {
                let stated = match service {
                    S3Service::Aws { region } => region.clone(),
                    S3Service::Configured => None,
                };
                let region = stated.or_else(|| self.config.region().map(ToString::to_string));
                format!("s3.{}.amazonaws.com:443", region.as_deref().unwrap_or("us-east-1"))
            }
        }
    }

    /// The SDK's client for that service.
    pub(crate) fn client_for(&self, service: &S3Service) -> aws_sdk_s3::Client {
        match service {
            S3Service::Configured => self.client.clone(),
            S3Service::Aws { region } => {
                let mut config = self.config.to_builder();
                if self.endpoint.is_some() {
                    config.set_endpoint_url(None);
                    config.set_force_path_style(Some(self.path_style == PathStyle::Always));
                }
                if let Some(region) = region {
                    config.set_region(Some(Region::new(region.clone())));
                }
                aws_sdk_s3::Client::from_conf(config.build())
            }
        }
    }

    /// Whether there are credentials to sign with. A positive or negative result is kept; a failed lookup is not.
    pub(crate) async fn has_credentials(&self) -> bool {
        let Some(provider) = &self.credentials else { return false };
        let look = || async { provider.provide_credentials().await.map(|_| true).map_err(|_| ()) };
        self.has_credentials.get_or_try_init(look).await.is_ok_and(|found| *found)
    }
}

/// The same client, signing for another region.
pub(crate) fn in_region(client: &aws_sdk_s3::Client, region: &str) -> aws_sdk_s3::Client {
    let config = client.config().to_builder().region(Region::new(region.to_owned())).build();
    aws_sdk_s3::Client::from_conf(config)
}

/// The endpoint that the SDK will use: the option's, else the one for S3, else the one for all services.
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
    let trimmed = |url: String| Some(trim_endpoint(&url).to_owned()).filter(|url| !url.is_empty());
    let stated = shared.endpoint_url().map(str::to_owned).and_then(trimmed);
    let is_option = shared.get_origin("endpoint_url").is_client_config();
    if is_option { stated } else { own().and_then(trimmed).or(stated) }
}

/// A variable of the environment; an empty one is not set.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The endpoint without slashes at its end.
fn trim_endpoint(url: &str) -> &str {
    url.trim().trim_end_matches('/')
}

/// Where the endpoint in use was set.
fn endpoint_origin(by_option: bool) -> &'static str {
    let variables = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"];
    match variables.into_iter().find(|name| variable(name).is_some()) {
        _ if by_option => "--endpoint-url",
        Some(name) => name,
        None => "endpoint_url of the AWS profile",
    }
}

/// # Errors
/// `usage`, with the option or variable to change.
fn parse_endpoint(url: &str, origin: &str) -> Result<Endpoint> {
    Endpoint::parse(url).map_err(|error| {
        let hint = "write it as http://HOST:PORT or https://HOST, with a path if the store has one";
        error.context(origin).hint(hint)
    })
}

/// The file of certificates that `AWS_CA_BUNDLE` or the profile's `ca_bundle` names.
pub(super) async fn aws_bundle() -> Option<Bundle> {
    if let Some(path) = std::env::var_os("AWS_CA_BUNDLE").filter(|path| !path.is_empty()) {
        return Some(Bundle { named_by: "the file of AWS_CA_BUNDLE", path: path.into() });
    }
    let files = EnvConfigFiles::default();
    // What is wrong with the files is reported when the SDK loads them.
    let profiles = aws_config::profile::load(&Fs::real(), &Env::real(), &files, None).await.ok()?;
    let path = profiles.get("ca_bundle").map(str::trim).filter(|path| !path.is_empty())?;
    let path = match (path.strip_prefix("~/"), std::env::var_os("HOME")) {
        (Some(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => PathBuf::from(path),
    };
    Some(Bundle { named_by: "the file of ca_bundle in the AWS profile", path })
}
