//! Proxies and TLS, through the program with its sandbox: a real proxy (tinyproxy), and certificates made by openssl.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use diskferry_corpus::tools;
use diskferry_s3io::server::{Server, ServerOptions};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;

use crate::program::support::{Dir, Said, program};

const SAMPLE: &str = "qcow2-zlib";
const OBJECT: &str = "s3://images/zlib.qcow2";

/// A server with one object in its bucket `images`.
struct Store {
    server: Server,
    runtime: tokio::runtime::Runtime,
}

impl Store {
    fn new() -> Self {
        let server = Server::start(ServerOptions::default()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let bytes = diskferry_corpus::sample(SAMPLE).files.first().unwrap().1;
        runtime.block_on(async {
            server.create_bucket("images").await.unwrap();
            server.put("images", "zlib.qcow2", bytes).await.unwrap();
        });
        server.forget();
        Self { server, runtime }
    }

    fn address(&self) -> SocketAddr {
        self.server.endpoint().trim_start_matches("http://").trim_end_matches('/').parse().unwrap()
    }

    /// The program with the store's keys, and no files of the user.
    fn program(&self, endpoint: &str) -> Command {
        let keys = self.server.keys();
        let mut program = program();
        program.env("AWS_ACCESS_KEY_ID", keys.access_key).env("AWS_SECRET_ACCESS_KEY", keys.secret_key);
        program.env("AWS_ENDPOINT_URL", endpoint).env("AWS_EC2_METADATA_DISABLED", "true");
        program.env("AWS_CONFIG_FILE", "/dev/null").env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null");
        program
    }

    /// The command `digest`.
    fn digest(&self, endpoint: &str) -> Command {
        let mut program = self.program(endpoint);
        program.arg("digest");
        program
    }

    /// A presigned URL for the host and port.
    fn presigned(&self) -> String {
        let signed = self.server.presign("images", "zlib.qcow2", Duration::from_secs(600));
        self.runtime.block_on(signed).unwrap()
    }
}

fn said(program: &mut Command) -> Said {
    Said::of(program.output().unwrap())
}

/// Asserts that the sample was read.
#[track_caller]
fn assert_digest(program: &mut Command, source: &str) {
    let run = said(program.arg(source)).ends(0);
    assert!(run.out.contains(diskferry_corpus::sample(SAMPLE).digest_hex), "{}", run.out);
}

/// Asserts that the source is not available and that another try cannot help; gives the error.
#[track_caller]
fn assert_fatal(program: &mut Command, source: &str, facts: &[&str]) -> Value {
    let error = said(program.args([source, "--json"])).ends(5).error();
    assert_eq!(
        (&error["code"], &error["retryable"]),
        (&"source_unavailable".into(), &false.into()),
        "{error}"
    );
    for fact in facts {
        assert!(error["message"].as_str().unwrap().contains(fact), "{fact}: {error}");
    }
    assert!(error["hint"].is_string(), "{error}");
    error
}

/// A port that nothing listens on.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// tinyproxy with a user, until it is dropped.
struct TinyProxy {
    child: Child,
    port: u16,
    log: PathBuf,
}

impl TinyProxy {
    fn start(dir: &Dir) -> Self {
        let (port, log) = (free_port(), dir.join("tinyproxy.log"));
        let lines = format!(
            "Port {port}\nListen 127.0.0.1\nTimeout 60\nMaxClients 100\nLogFile \"{}\"\nLogLevel Connect\n\
             Allow 127.0.0.1\nBasicAuth ferry s3cret\n",
            log.display()
        );
        let config = dir.file("tinyproxy.conf", lines.as_bytes());
        let mut command = tools::command("tinyproxy");
        command.arg("-d").arg("-c").arg(config).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(began.elapsed() < Duration::from_secs(30), "tinyproxy does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { child, port, log }
    }

    fn url(&self) -> String {
        format!("http://ferry:s3cret@127.0.0.1:{}", self.port)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for TinyProxy {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Certificates made by openssl.
struct Certificates(Dir);

impl Certificates {
    fn new() -> Self {
        let made = Self(Dir::new());
        made.ca("ca");
        made.leaf("server", "subjectAltName=DNS:localhost,IP:127.0.0.1", "1");
        made
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn openssl(&self, args: &[&str]) {
        let output = tools::command("openssl").args(args).current_dir(self.0.path()).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// `NAME.pem` and `NAME.key`, signed by itself.
    fn ca(&self, name: &str) {
        let (pem, key, subject) = (format!("{name}.pem"), format!("{name}.key"), format!("/CN=test {name}"));
        self.openssl(&[
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", &key, "-out", &pem,
            "-subj", &subject,
        ]);
    }

    /// `NAME.pem` and `NAME.key`, signed by the CA.
    fn leaf(&self, name: &str, extension: &str, days: &str) {
        let (pem, key, csr) = (format!("{name}.pem"), format!("{name}.key"), format!("{name}.csr"));
        self.openssl(&[
            "req", "-newkey", "rsa:2048", "-nodes", "-keyout", &key, "-out", &csr, "-subj", "/CN=test",
            "-addext", extension,
        ]);
        self.openssl(&[
            "x509",
            "-req",
            "-in",
            &csr,
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            days,
            "-copy_extensions",
            "copyall",
            "-out",
            &pem,
        ]);
    }
}

/// TLS in front of a server, until it is dropped.
struct TlsFront {
    port: u16,
    connections: Arc<AtomicUsize>,
    _runtime: tokio::runtime::Runtime,
}

impl TlsFront {
    /// With the certificate `name`. If `client_ca` is given, clients must have a certificate of that CA.
    fn start(to: SocketAddr, certificates: &Certificates, name: &str, client_ca: Option<&str>) -> Self {
        let pem = |name: &str| certificates.path(name);
        let chain = vec![CertificateDer::from_pem_file(pem(&format!("{name}.pem"))).unwrap()];
        let key = PrivateKeyDer::from_pem_file(pem(&format!("{name}.key"))).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some(ca) => {
                let mut roots = rustls::RootCertStore::empty();
                roots.add(CertificateDer::from_pem_file(pem(ca)).unwrap()).unwrap();
                let verifier =
                    rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let acceptor =
            tokio_rustls::TlsAcceptor::from(Arc::new(builder.with_single_cert(chain, key).unwrap()));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicUsize::new(0));
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let counter = Arc::clone(&connections);
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::Relaxed);
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    // A client that does not trust the certificate ends here.
                    let Ok(mut inside) = acceptor.accept(stream).await else { return };
                    let mut outside = tokio::net::TcpStream::connect(to).await.unwrap();
                    let _closed = tokio::io::copy_bidirectional(&mut inside, &mut outside).await;
                });
            }
        });
        Self { port, connections, _runtime: runtime }
    }

    fn endpoint(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    fn url(&self) -> String {
        format!("{}/images/zlib.qcow2", self.endpoint())
    }
}

#[test]
fn requests_go_through_the_proxy_that_the_environment_names() {
    let (store, dir, certificates) = (Store::new(), Dir::new(), Certificates::new());
    let proxy = TinyProxy::start(&dir);
    let plain = store.server.endpoint();
    assert_digest(store.digest(&plain).env("HTTP_PROXY", proxy.url()), OBJECT);
    assert_digest(program().arg("digest").env("ALL_PROXY", proxy.url()), &store.presigned());
    let line = format!("GET http://{}/images/zlib.qcow2", store.address());
    assert!(proxy.log().matches(&line).count() >= 2, "{}", proxy.log());

    let front = TlsFront::start(store.address(), &certificates, "server", None);
    let connect = format!("CONNECT localhost:{}", front.port);
    assert!(!proxy.log().contains(&connect));
    let mut run = store.program(&front.endpoint());
    run.env("https_proxy", proxy.url()).env("AWS_CA_BUNDLE", certificates.path("ca.pem"));
    let out =
        said(run.args(["convert", OBJECT, "s3://images/copy.raw", "--verify", "--json"])).ends(0).json();
    assert_eq!(out["digest"]["hex"], diskferry_corpus::sample(SAMPLE).digest_hex);
    let tunnels = proxy.log().matches(&connect).count();
    assert!(tunnels > 0, "{}", proxy.log());
    assert_eq!(front.connections.load(Ordering::Relaxed), tunnels, "nothing goes past the proxy");

    // NO_PROXY and other variables: directly.
    for no_proxy in ["localhost", "*", "other,.localhost", &format!("localhost:{}", front.port)] {
        let mut run = store.digest(&front.endpoint());
        run.env("HTTPS_PROXY", proxy.url()).env("NO_PROXY", no_proxy);
        assert_digest(run.env("AWS_CA_BUNDLE", certificates.path("ca.pem")), OBJECT);
    }
    assert_digest(store.digest(&plain).env("http_proxy", proxy.url()).env("no_proxy", "127.0.0.0/8"), OBJECT);
    let mut cgi = store.digest(&plain);
    cgi.env("HTTP_PROXY", "http://127.0.0.1:1").env("REQUEST_METHOD", "GET");
    assert_digest(&mut cgi, OBJECT);
    assert_eq!(proxy.log().matches(&connect).count(), tunnels);
}

#[test]
fn an_error_of_a_proxy_names_it_and_its_variable() {
    let (store, dir) = (Store::new(), Dir::new());
    let proxy = TinyProxy::start(&dir);
    let at = format!("127.0.0.1:{}", proxy.port);
    let (none, wrong) = (format!("http://{at}"), format!("http://ferry:wr0ng@{at}"));
    let tls = "https://localhost:1".to_owned();
    for (endpoint, variable, url, status) in [
        (store.server.endpoint(), "HTTP_PROXY", &none, "status 407"),
        (tls.clone(), "HTTPS_PROXY", &none, "status 407"),
        (tls, "ALL_PROXY", &wrong, "status 401"),
    ] {
        let error =
            assert_fatal(store.digest(&endpoint).env(variable, url), OBJECT, &[status, &at, variable]);
        assert!(error["hint"].as_str().unwrap().contains(variable), "{error}");
        assert!(!error.to_string().contains("wr0ng"), "{error}");
    }
    let failed = |url: &str| {
        let mut run = store.digest(&store.server.endpoint());
        run.env("HTTP_PROXY", url).args([OBJECT, "--json", "--stall-timeout", "1"]);
        let error = said(&mut run).ends(5).error();
        assert_eq!(error["code"], "source_unavailable");
        error["message"].as_str().unwrap().to_owned()
    };
    let closed = format!("127.0.0.1:{}", free_port());
    let message = failed(&format!("http://{closed}"));
    assert!(
        message.contains(&format!("the proxy {closed} (HTTP_PROXY) cannot be reached: Connection refused")),
        "{message}"
    );
    let message = failed("http://proxy.invalid:3128");
    assert!(message.contains("the proxy proxy.invalid:3128 (HTTP_PROXY) cannot be reached"), "{message}");
    let mut socks = store.digest(&store.server.endpoint());
    socks.env("ALL_PROXY", "socks5://127.0.0.1:1").args([OBJECT, "--json"]);
    let error = said(&mut socks).ends(2).error();
    assert!(error["message"].as_str().unwrap().contains("ALL_PROXY names a SOCKS proxy"), "{error}");
}

/// Serves one set of credentials as the metadata service of EC2 does, for as long as the test runs.
fn metadata_service(access_key: &str, secret_key: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}/", listener.local_addr().unwrap());
    let keys = serde_json::json!({"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": access_key,
        "SecretAccessKey": secret_key, "Token": "", "LastUpdated": "2020-01-01T00:00:00Z",
        "Expiration": "2099-01-01T00:00:00Z"})
    .to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).unwrap();
            let request = String::from_utf8_lossy(&request[..read]).into_owned();
            let body = match request.split(' ').nth(1).unwrap_or_default() {
                "/latest/api/token" => "token",
                path if path.trim_end_matches('/').ends_with("security-credentials") => "role",
                _ => &keys,
            };
            let head =
                "HTTP/1.1 200 OK\r\nconnection: close\r\nx-aws-ec2-metadata-token-ttl-seconds: 600\r\n";
            write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len()).unwrap();
        }
    });
    endpoint
}

#[test]
fn credentials_of_the_machine_are_not_asked_through_the_proxy() {
    let store = Store::new();
    let keys = store.server.keys();
    let mut run = store.digest(&store.server.endpoint());
    run.env_remove("AWS_ACCESS_KEY_ID")
        .env_remove("AWS_SECRET_ACCESS_KEY")
        .env_remove("AWS_EC2_METADATA_DISABLED");
    run.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata_service(&keys.access_key, &keys.secret_key));
    // The proxy serves the store and nothing else.
    let dir = Dir::new();
    let proxy = TinyProxy::start(&dir);
    run.env("HTTP_PROXY", proxy.url()).arg(OBJECT);
    let run = said(&mut run);
    assert!(!proxy.log().contains("/latest/"), "{}", proxy.log());
    assert!(proxy.log().contains("/images/zlib.qcow2"), "{}\n{}", run.err, proxy.log());
}

#[test]
fn a_private_ca_is_trusted_however_it_is_named() {
    let (store, certificates) = (Store::new(), Certificates::new());
    let front = TlsFront::start(store.address(), &certificates, "server", None);
    let ca = certificates.path("ca.pem");
    let directory = Dir::new();
    std::fs::copy(&ca, directory.join("0a1b2c3d.0")).unwrap();
    let profile =
        directory.file("config", format!("[profile ferry]\nca_bundle = {}\n", ca.display()).as_bytes());
    let run = || store.digest(&front.endpoint());
    for source in [OBJECT.to_owned(), front.url()] {
        assert_digest(run().env("AWS_CA_BUNDLE", &ca), &source);
        assert_digest(run().env("SSL_CERT_FILE", &ca), &source);
        assert_digest(run().env("SSL_CERT_DIR", directory.path()), &source);
        assert_digest(run().arg("--ca-bundle").arg(&ca), &source);
        assert_digest(run().env("AWS_CONFIG_FILE", &profile).env("AWS_PROFILE", "ferry"), &source);
        assert_digest(run().env("AWS_CA_BUNDLE", "").env("SSL_CERT_FILE", &ca), &source);
    }
    // A bundle replaces the system's certificates, and the option the variables.
    let facts = ["self-signed or signed by an unknown issuer", &format!("localhost:{}", front.port)];
    certificates.ca("other");
    let other = certificates.path("other.pem");
    assert_fatal(run().env("SSL_CERT_FILE", &ca).env("AWS_CA_BUNDLE", &other), OBJECT, &facts);
    assert_fatal(run().env("AWS_CA_BUNDLE", &ca).arg("--ca-bundle").arg(&other), OBJECT, &facts);
}

#[test]
fn a_file_of_certificates_that_cannot_be_used_is_named() {
    let store = Store::new();
    let dir = Dir::new();
    let (missing, empty) = (dir.join("missing.pem"), dir.file("empty.pem", b"nothing"));
    let usage = |run: &mut Command, named: &str| {
        let error = said(run.args([OBJECT, "--json"])).ends(2).error();
        assert!(error["message"].as_str().unwrap().contains(named), "{named}: {error}");
    };
    let run = || store.digest(&store.server.endpoint());
    for path in [&missing, &empty] {
        usage(run().arg("--ca-bundle").arg(path), "--ca-bundle");
        usage(run().env("AWS_CA_BUNDLE", path), "AWS_CA_BUNDLE");
        usage(run().env("SSL_CERT_FILE", path), "SSL_CERT_FILE");
        usage(run().arg("--client-cert").arg(path), "client certificate");
    }
    usage(run().arg("--client-key").arg(&empty), "--client-cert");
}

#[test]
fn an_error_of_tls_is_a_sentence_with_a_hint_and_is_not_retried() {
    let (store, certificates) = (Store::new(), Certificates::new());
    certificates.ca("selfsigned");
    certificates.leaf("expired", "subjectAltName=DNS:localhost", "-1");
    certificates.leaf("elsewhere", "subjectAltName=DNS:elsewhere.example", "1");
    let ca = certificates.path("ca.pem");
    for (name, trusted, fact) in [
        ("server", false, "unknown issuer"),
        ("selfsigned", true, "self-signed"),
        ("expired", true, "has expired"),
        ("elsewhere", true, "is for another host"),
    ] {
        let front = TlsFront::start(store.address(), &certificates, name, None);
        let at = format!("localhost:{}", front.port);
        for source in [OBJECT, &*front.url()] {
            front.connections.store(0, Ordering::Relaxed);
            let mut run = store.digest(&front.endpoint());
            if trusted {
                run.env("AWS_CA_BUNDLE", &ca);
            }
            assert_fatal(&mut run, source, &[fact, &at]);
            // A URL under the endpoint is an object of the store.
            assert_eq!(front.connections.load(Ordering::Relaxed), 1, "{name}: it is not retried");
        }
        let mut target = store.program(&front.endpoint());
        if trusted {
            target.env("AWS_CA_BUNDLE", &ca);
        }
        let dir = Dir::new();
        let error =
            said(target.arg("convert").arg(dir.sample(SAMPLE)).args(["s3://images/new.raw", "--json"]));
        let error = error.ends(6).error();
        assert_eq!((&error["code"], &error["retryable"]), (&"destination_unavailable".into(), &false.into()));
        assert!(error["message"].as_str().unwrap().contains(fact), "{error}");
    }
}

#[test]
fn tls_to_a_plain_port_and_plain_http_to_a_tls_port_are_told() {
    let (store, certificates) = (Store::new(), Certificates::new());
    let front = TlsFront::start(store.address(), &certificates, "server", None);
    let tls = format!("https://{}", store.address());
    let error =
        assert_fatal(&mut store.digest(&tls), OBJECT, &["does not speak TLS", &store.address().to_string()]);
    assert!(error["hint"].as_str().unwrap().contains("http://"), "{error}");
    let plain = format!("http://localhost:{}", front.port);
    let error = assert_fatal(&mut store.digest(&plain), OBJECT, &["does not answer in HTTP"]);
    assert!(error["hint"].as_str().unwrap().contains("https://"), "{error}");
}

#[test]
fn a_client_certificate_is_shown_to_servers_of_urls() {
    let (store, certificates) = (Store::new(), Certificates::new());
    certificates.leaf("client", "extendedKeyUsage=clientAuth", "1");
    let front = TlsFront::start(store.address(), &certificates, "server", Some("ca.pem"));
    let path = |name: &str| certificates.path(name);
    let url = store.presigned().replace(&store.server.endpoint(), &front.endpoint());
    // The signature is for another host name: the store refuses, after TLS.
    let run = |more: &[(&str, &Path)]| {
        let mut run = program();
        run.args(["digest", &url, "--json", "--ca-bundle"]).arg(path("ca.pem"));
        for (option, file) in more {
            run.arg(option).arg(file);
        }
        said(&mut run).ends(5).error()
    };
    let (certificate, key) = (path("client.pem"), path("client.key"));
    assert_eq!(run(&[("--client-cert", &certificate), ("--client-key", &key)])["code"], "source_forbidden");
    let both = [std::fs::read(&certificate).unwrap(), std::fs::read(&key).unwrap()].concat();
    let dir = Dir::new();
    assert_eq!(run(&[("--client-cert", &dir.file("both.pem", &both))])["code"], "source_forbidden");
    let error = run(&[]);
    assert_eq!(
        (&error["code"], &error["retryable"]),
        (&"source_unavailable".into(), &false.into()),
        "{error}"
    );
    assert!(error["hint"].as_str().unwrap().contains("--client-cert"), "{error}");
}

/// A server that redirects every request to `to`, and gives the requests that it got.
fn redirecting(to: String) -> (String, std::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/start", listener.local_addr().unwrap());
    let (seen, requests) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = vec![0; 8192];
            let read = stream.read(&mut request).unwrap();
            if seen.send(String::from_utf8_lossy(&request[..read]).into_owned()).is_err() {
                return;
            }
            let head = "HTTP/1.1 302 Found\r\nconnection: close\r\ncontent-length: 0\r\n";
            write!(stream, "{head}location: {to}\r\n\r\n").unwrap();
        }
    });
    (url, requests)
}

#[test]
fn headers_are_sent_to_the_host_and_port_of_the_url_only() {
    let dir = Dir::new();
    let (elsewhere, other) = redirecting("/loop".to_owned());
    let (url, first) = redirecting(elsewhere);
    let file = dir.file("headers", b"# for the gateway\nX-Team: s3cret-team\n");
    let mut run = program();
    run.args(["info", &url, "-vv", "--header", "Authorization: Bearer s3cret-token", "--header-file"])
        .arg(&file);
    let run = said(&mut run).ends(5);
    assert!(!run.err.contains("s3cret"), "{}", run.err);
    let request = first.recv().unwrap().to_ascii_lowercase();
    assert!(request.contains("authorization: bearer s3cret-token\r\n"), "{request}");
    assert!(request.contains("x-team: s3cret-team\r\n"), "{request}");
    let mut redirected = other.try_iter();
    assert!(redirected.next().is_some_and(|request| !request.contains("s3cret")));
    assert!(redirected.all(|request| !request.contains("s3cret")));
    for (option, value) in
        [("--header", "s3cret"), ("--header", "Range: s3cret"), ("--header", "a b: s3cret")]
    {
        let error = said(program().args(["info", &url, "--json", option, value])).ends(2).error();
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }
}
