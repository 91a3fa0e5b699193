//! The AWS SDK's client: configuration, credentials and endpoint.
//!
//! Credentials, profile, region and endpoint come from the SDK's environment and files unless the options set them. The
//! SDK's retries and its protection against slow streams are off: [`retry`](super::retry) does both, and covers bodies.

use std::path::PathBuf;

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
        let region = RegionProviderChain::first_try(options.region.clone().map(Region::new))
            .or_else(EnvironmentVariableRegionProvider::new())
            .or_else(ProfileFileRegionProvider::builder().configure(&provider).build())
            .or_else("us-east-1");
        let mut loader =
            aws_config::defaults(BehaviorVersion::latest()).http_client(connector).region(region);
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
    let stated = shared.endpoint_url().map(str::to_owned);
    if shared.get_origin("endpoint_url").is_client_config() { stated } else { own().or(stated) }
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
