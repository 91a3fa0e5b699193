//! The HTTP client in the form that the SDK expects.

use std::time::Duration;

use aws_smithy_runtime_api::client::http::{
    HttpClient as SdkHttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use http_body_util::BodyExt;

use super::http_client::HttpClient;
use super::upload_progress::{BodyProgress, CountedBody};

/// Sends the SDK's requests, with a limit on the time to the response headers.
#[derive(Clone, Debug)]
pub(super) struct SdkConnector {
    http: HttpClient,
    timeout: Option<Duration>,
}

impl SdkConnector {
    pub(super) fn new(http: HttpClient) -> Self {
        Self { http, timeout: None }
    }
}

impl SdkHttpClient for SdkConnector {
    fn http_connector(&self, settings: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        // Callers of an address that may not exist, such as the one for instance metadata, set a read timeout.
        let connect = settings.connect_timeout().unwrap_or_default();
        let timeout = settings.read_timeout().map(|read| read.saturating_add(connect));
        SharedHttpConnector::new(Self { http: self.http.clone(), timeout })
    }
}

impl HttpConnector for SdkConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let Self { http, timeout } = self.clone();
        HttpConnectorFuture::new(async move {
            let request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
            let request = match request.extensions().get::<BodyProgress>().cloned() {
                Some(progress) => request.map(|body| CountedBody::new(body, progress).boxed()),
                None => request.map(BodyExt::boxed),
            };
            let response = http.send(request);
            let response = match timeout {
                Some(limit) => tokio::time::timeout(limit, response)
                    .await
                    .map_err(|elapsed| ConnectorError::timeout(elapsed.into()))?,
                None => response.await,
            };
            let response = response.map_err(|error| ConnectorError::io(error.into()))?;
            HttpResponse::try_from(response.map(SdkBody::from_body_1_x))
                .map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}
