//! What the options do not set comes from the SDK's environment and files.

use std::io::{self, Read as _};
use std::process::{Command, Output};
use std::sync::Arc;

use diskferry_core::ErrorKind;
use diskferry_s3io::server::{Server, ServerOptions};
use diskferry_s3io::{Client, ClientOptions, S3Source, open_source};

use crate::support::{URL, serve, serve_as};

/// Set in a process that a test started: the URL that it reads.
const CHILD: &str = "DISKFERRY_TEST_READS";

/// Runs `test` in another process, whose environment has no variables of the SDK except `variables`.
fn again(test: &str, url: &str, variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]);
    for (name, _) in std::env::vars_os() {
        let upper = name.to_string_lossy().to_ascii_uppercase();
        if upper.starts_with("AWS_") || upper.ends_with("_PROXY") {
            command.env_remove(name);
        }
    }
    command.env("AWS_EC2_METADATA_DISABLED", "true").env("HOME", "/nonexistent");
    command.env(CHILD, url).envs(variables.iter().copied()).output().unwrap()
}

/// In the started process: reads the URL with the default options.
async fn read() -> Option<String> {
    let url = std::env::var(CHILD).ok()?;
    let client = Client::new(ClientOptions::default()).await.unwrap();
    let opened = open_source(&client, &url).await.unwrap();
    assert_eq!(opened.source.len(), 5);
    Some(url)
}

fn assert_read(output: &Output) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
}

#[tokio::test]
async fn endpoint_keys_and_region_come_from_the_environment() {
    if read().await.is_some() {
        return;
    }
    let server = serve(b"image").await;
    let keys = server.keys();
    let test = "environment::endpoint_keys_and_region_come_from_the_environment";
    for (endpoint, other) in [("AWS_ENDPOINT_URL", "UNUSED"), ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")] {
        for url in [URL, &server.object_url("images", "disk.img")] {
            server.forget();
            let variables = [
                (endpoint, &*server.endpoint()),
                (other, "http://127.0.0.1:1"),
                ("AWS_ACCESS_KEY_ID", &*keys.access_key),
                ("AWS_SECRET_ACCESS_KEY", &*keys.secret_key),
                ("AWS_REGION", "eu-north-1"),
            ];
            assert_read(&again(test, url, &variables));
            assert_eq!(server.exchanges().len(), 1);
            assert!(server.exchanges()[0].request.signed);
        }
    }
}

#[tokio::test]
async fn endpoint_and_keys_come_from_a_profile() {
    if read().await.is_some() {
        return;
    }
    let server = serve(b"image").await;
    let keys = server.keys();
    let directory = tempfile::tempdir().unwrap();
    let (config, credentials) = (directory.path().join("config"), directory.path().join("credentials"));
    let services = format!("[services here]\ns3 =\n  endpoint_url = {}\n", server.endpoint());
    std::fs::write(&config, format!("[profile ferry]\nregion = eu-north-1\nservices = here\n{services}"))
        .unwrap();
    let lines =
        format!("aws_access_key_id = {}\naws_secret_access_key = {}", keys.access_key, keys.secret_key);
    std::fs::write(&credentials, format!("[ferry]\n{lines}\n")).unwrap();
    let variables = [
        ("AWS_PROFILE", "ferry"),
        ("AWS_CONFIG_FILE", config.to_str().unwrap()),
        ("AWS_SHARED_CREDENTIALS_FILE", credentials.to_str().unwrap()),
    ];
    let test = "environment::endpoint_and_keys_come_from_a_profile";
    for url in [URL, &server.object_url("images", "disk.img")] {
        assert_read(&again(test, url, &variables));
    }
    assert_eq!(server.exchanges().len(), 2);
}

#[tokio::test]
async fn empty_variables_are_not_set_and_slashes_after_an_endpoint_do_not_count() {
    if read().await.is_some() {
        return;
    }
    let server = serve(b"image").await;
    let keys = server.keys();
    let test = "environment::empty_variables_are_not_set_and_slashes_after_an_endpoint_do_not_count";
    for slashes in ["", "/", "//"] {
        let endpoint = format!("{}{slashes}", server.endpoint());
        let variables = [
            ("AWS_ENDPOINT_URL_S3", ""),
            ("AWS_ENDPOINT_URL", &*endpoint),
            ("AWS_ACCESS_KEY_ID", &*keys.access_key),
            ("AWS_SECRET_ACCESS_KEY", &*keys.secret_key),
            ("AWS_SESSION_TOKEN", ""),
            ("AWS_PROFILE", ""),
            ("AWS_REGION", ""),
            ("AWS_DEFAULT_REGION", "eu-north-1"),
        ];
        assert_read(&again(test, URL, &variables));
    }
}

#[tokio::test]
async fn an_endpoint_that_is_no_url_is_refused_by_the_name_of_its_variable() {
    let test = "environment::an_endpoint_that_is_no_url_is_refused_by_the_name_of_its_variable";
    if let Ok(name) = std::env::var(CHILD) {
        let error = Client::new(ClientOptions::default()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
        assert!(error.message().starts_with(&name), "{error}");
        assert!(error.hint_text().is_some_and(|hint| hint.contains("http://HOST:PORT")), "{error:?}");
        return;
    }
    for name in ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"] {
        assert_read(&again(test, name, &[(name, "localhost:9000")]));
    }
    let options = ClientOptions::default().endpoint_url(Some("minio.example:9000".into()));
    let error = Client::new(options).await.unwrap_err();
    assert!(error.message().starts_with("--endpoint-url"), "{error}");
}

#[tokio::test]
async fn without_credentials_the_error_has_a_hint() {
    let test = "environment::without_credentials_the_error_has_a_hint";
    if std::env::var_os(CHILD).is_some() {
        let client = Client::new(ClientOptions::default()).await.unwrap();
        let error = S3Source::open(&client, URL).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SourceForbidden, "{error}");
        assert!(error.hint_text().is_some_and(|hint| hint.contains("--s3-anonymous")), "{error}");
        // The URL of a public object needs no credentials.
        let url = std::env::var(CHILD).unwrap();
        assert_eq!(open_source(&client, &url).await.unwrap().source.len(), 5);
        return;
    }
    let server: Server = serve_as(ServerOptions::default().public(true), b"image").await;
    let url = server.object_url("images", "disk.img");
    assert_read(&again(test, &url, &[("AWS_ENDPOINT_URL", &server.endpoint())]));
    assert_eq!(server.exchanges().len(), 1);
}

/// A TLS proxy for a server, with this certificate, until it is dropped.
async fn with_tls(
    to: String,
    certified: &rcgen::CertifiedKey<rcgen::KeyPair>,
) -> io::Result<(u16, tokio::task::JoinSet<()>)> {
    let key = rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], key)
            .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, to) = (acceptor.clone(), to.clone());
            connections.spawn(async move {
                // One that does not trust the certificate ends here.
                let Ok(mut inside) = acceptor.accept(stream).await else { return };
                let mut outside = tokio::net::TcpStream::connect(to).await.unwrap();
                // Either side may close first.
                let _closed = tokio::io::copy_bidirectional(&mut inside, &mut outside).await;
            });
        }
    });
    Ok((port, tasks))
}

#[tokio::test]
async fn tls_requires_a_trusted_certificate() {
    let test = "environment::tls_requires_a_trusted_certificate";
    let trusted = "DISKFERRY_TEST_TRUSTS";
    if let Ok(url) = std::env::var(CHILD) {
        let options = ClientOptions::default().stall_timeout(std::time::Duration::from_secs(2));
        let client = Client::new(options).await.unwrap();
        for url in [&*url, URL] {
            match open_source(&client, url).await {
                Ok(opened) => assert!(opened.source.len() == 5 && std::env::var_os(trusted).is_some()),
                Err(error) => {
                    assert!(std::env::var_os(trusted).is_none(), "{error}");
                    assert_eq!(error.kind(), ErrorKind::SourceUnavailable, "{error}");
                    assert!(error.message().contains("certificate"), "{error}");
                }
            }
        }
        return;
    }
    let server = serve(b"image").await;
    let keys = server.keys();
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (port, _tasks) = with_tls(server.endpoint().replace("http://", ""), &certified).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (good, bad) = (directory.path().join("good.pem"), directory.path().join("bad.pem"));
    std::fs::write(&good, certified.cert.pem()).unwrap();
    let other = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(&bad, other.cert.pem()).unwrap();
    let endpoint = format!("https://localhost:{port}");
    let url = server.object_url("images", "disk.img").replace(&server.endpoint(), &endpoint);
    for (certificates, asked) in [(&good, 2), (&bad, 0)] {
        server.forget();
        let mut variables = vec![
            ("SSL_CERT_FILE", certificates.to_str().unwrap()),
            ("AWS_ENDPOINT_URL", &*endpoint),
            ("AWS_ACCESS_KEY_ID", &*keys.access_key),
            ("AWS_SECRET_ACCESS_KEY", &*keys.secret_key),
        ];
        variables.extend((asked > 0).then_some((trusted, "yes")));
        let (url, variables) =
            (url.clone(), variables.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect::<Vec<_>>());
        let output = tokio::task::spawn_blocking(move || {
            let variables: Vec<_> = variables.iter().map(|(a, b)| (&**a, &**b)).collect();
            again(test, &url, &variables)
        });
        assert_read(&output.await.unwrap());
        assert_eq!(server.exchanges().len(), asked);
    }
}

/// A proxy that refuses everything, and the first line of each request to it.
fn refusing_proxy() -> (String, std::sync::mpsc::Receiver<String>) {
    use std::io::{BufRead, BufReader, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (seen, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.unwrap());
            let request: Vec<String> =
                reader.by_ref().lines().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
            let _answered =
                reader.get_mut().write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n");
            if request.first().is_some_and(|line| seen.send(line.clone()).is_err()) {
                return;
            }
        }
    });
    (url, lines)
}

#[tokio::test]
async fn with_public_only_a_proxy_resolves_no_name() {
    let test = "environment::with_public_only_a_proxy_resolves_no_name";
    if std::env::var_os(CHILD).is_some() {
        let client = Client::new(ClientOptions::default().public_only(true)).await.unwrap();
        for url in ["https://localhost:1/x", "http://localhost:1/x", "https://127.0.0.1:1/x"] {
            let error = open_source(&client, url).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::SourceForbidden, "{url}: {error}");
            assert!(error.message().contains("not public"), "{url}: {error}");
        }
        let error = open_source(&client, "https://8.8.8.8/x").await.unwrap_err();
        assert!(
            error.message().contains("(ALL_PROXY) does not connect to 8.8.8.8:443: status 403"),
            "{error}"
        );
        return;
    }
    let (proxy, lines) = refusing_proxy();
    assert_read(&again(test, "unused", &[("ALL_PROXY", &proxy)]));
    assert_eq!(lines.try_iter().collect::<Vec<_>>(), ["CONNECT 8.8.8.8:443 HTTP/1.1"]);
}
