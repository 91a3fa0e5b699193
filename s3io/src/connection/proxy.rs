//! Which requests go through a proxy: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, read as curl and the AWS
//! command line read them.
//!
//! - The lower-case name of a variable is read first. A variable that is set but empty means "no proxy".
//! - Upper-case `HTTP_PROXY` is ignored if `REQUEST_METHOD` is set: in a CGI program, a client chooses its value.
//! - `NO_PROXY` is a list of names (with their subdomains), IP addresses and networks (`10.0.0.0/8`), each with an optional
//!   port. Commas or spaces separate them. `*` means every host.
//! - Link-local addresses and the metadata endpoints of the AWS SDK's environment are never reached through a proxy. They
//!   hand out the credentials of this machine.

use std::fmt;
use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Uri};
use percent_encoding::percent_decode_str;

/// Endpoints of credentials that the SDK's environment may name.
const METADATA_ENDPOINTS: [&str; 2] =
    ["AWS_EC2_METADATA_SERVICE_ENDPOINT", "AWS_CONTAINER_CREDENTIALS_FULL_URI"];

/// The proxies of this process's environment.
#[derive(Clone, Debug, Default)]
pub(super) struct Proxies {
    http: Option<Proxy>,
    https: Option<Proxy>,
    exceptions: Vec<Exception>,
}

/// A proxy, and the variable that names it.
#[derive(Clone, Debug)]
pub(super) struct Proxy {
    pub(super) variable: &'static str,
    /// The URL, or why the variable's value cannot be used.
    pub(super) url: Result<ProxyUrl, &'static str>,
}

/// `Debug` shows no password: the URI has none, and the header is marked as sensitive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ProxyUrl {
    /// Scheme, host and port.
    pub(super) uri: Uri,
    /// The value of `Proxy-Authorization`.
    pub(super) authorization: Option<HeaderValue>,
}

/// An entry of `NO_PROXY`.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Exception {
    host: ExceptedHost,
    port: Option<u16>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum ExceptedHost {
    Any,
    /// A network, or with all bits a single address.
    Network(IpAddr, u8),
    /// A name, in lower case. Its subdomains are included.
    Domain(String),
}

impl Proxies {
    /// Reads the environment of this process.
    pub(super) fn from_env() -> Self {
        Self::from_variables(|name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()))
    }

    fn from_variables(get: impl Fn(&str) -> Option<String>) -> Self {
        let first = |names: &[&'static str]| names.iter().find_map(|name| Some((*name, get(name)?)));
        let cgi = get("REQUEST_METHOD").is_some();
        let http = first(if cgi { &["http_proxy"] } else { &["http_proxy", "HTTP_PROXY"] });
        let https = first(&["https_proxy", "HTTPS_PROXY"]);
        let all = first(&["all_proxy", "ALL_PROXY"]);
        let proxy = |own: Option<(&'static str, String)>| {
            let (variable, value) = own.or_else(|| all.clone())?;
            let value = value.trim();
            (!value.is_empty()).then(|| Proxy { variable, url: ProxyUrl::parse(value) })
        };
        let listed = first(&["no_proxy", "NO_PROXY"]).map(|(_, list)| list).unwrap_or_default();
        let mut exceptions: Vec<Exception> =
            listed.split([',', ' ', '\t', '\n']).filter_map(Exception::parse).collect();
        exceptions.extend(METADATA_ENDPOINTS.iter().filter_map(|name| {
            let uri: Uri = get(name)?.parse().ok()?;
            let port = uri.port_u16().or_else(|| default_port(&uri));
            let host = Exception::parse(uri.host()?)?.host;
            Some(Exception { host, port })
        }));
        Self { http: proxy(http), https: proxy(https), exceptions }
    }

    /// The proxy for requests to that URI.
    pub(super) fn for_uri(&self, uri: &Uri) -> Option<&Proxy> {
        let proxy = if uri.scheme() == Some(&Scheme::HTTPS) { &self.https } else { &self.http };
        let proxy = proxy.as_ref()?;
        let host = bare(uri.host()?).trim_end_matches('.').to_ascii_lowercase();
        let port = uri.port_u16().or_else(|| default_port(uri));
        let excepted = is_metadata(&host) || self.exceptions.iter().any(|entry| entry.covers(&host, port));
        (!excepted).then_some(proxy)
    }
}

/// Host without the brackets of an IPv6 address.
pub(super) fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

pub(super) fn default_port(uri: &Uri) -> Option<u16> {
    Some(if uri.scheme()? == &Scheme::HTTPS { 443 } else { 80 })
}

/// `host:port` of a URI.
pub(super) fn host_port(uri: &Uri) -> String {
    let port = uri.port_u16().or_else(|| default_port(uri)).unwrap_or(80);
    format!("{}:{port}", uri.host().unwrap_or_default())
}

/// Link-local addresses, and the addresses of AWS's metadata services in IPv6.
fn is_metadata(host: &str) -> bool {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => address.is_link_local(),
        Ok(IpAddr::V6(address)) => {
            address.is_unicast_link_local() || matches!(address.segments(), [0xfd00, 0xec2, ..])
        }
        Err(_) => false,
    }
}

impl Proxy {
    /// `host:port` of the proxy, to be shown.
    pub(super) fn shown(&self) -> String {
        self.url.as_ref().map_or_else(|_| String::new(), |url| host_port(&url.uri))
    }
}

impl ProxyUrl {
    /// Parses `[http[s]://][USER[:PASSWORD]@]HOST[:PORT]`. A path is ignored.
    fn parse(text: &str) -> Result<Self, &'static str> {
        const MALFORMED: &str = "is not a URL http://[USER:PASSWORD@]HOST[:PORT]";
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        let default_port = match &*scheme.to_ascii_lowercase() {
            // The port that curl assumes.
            "http" => 1080,
            "https" => 443,
            "socks" | "socks4" | "socks4a" | "socks5" | "socks5h" => {
                return Err(
                    "names a SOCKS proxy, which is not supported: only http:// and https:// proxies are",
                );
            }
            _ => return Err(MALFORMED),
        };
        // A password may contain an unencoded '@' or '/'.
        let (user, rest) = rest.rsplit_once('@').map_or((None, rest), |(user, rest)| (Some(user), rest));
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let authority: Authority = host.parse().map_err(|_| MALFORMED)?;
        if authority.host().is_empty() {
            return Err(MALFORMED);
        }
        let port: u16 = match authority.as_str().strip_prefix(authority.host()).unwrap_or_default() {
            "" => default_port,
            port => port.strip_prefix(':').and_then(|port| port.parse().ok()).ok_or(MALFORMED)?,
        };
        let uri = format!("{}://{}:{port}/", scheme.to_ascii_lowercase(), authority.host());
        let authorization = user.map(basic).transpose().map_err(|()| MALFORMED)?;
        Ok(Self { uri: uri.parse().map_err(|_| MALFORMED)?, authorization })
    }
}

/// The header value for `USER[:PASSWORD]`, which is percent-encoded.
fn basic(user: &str) -> Result<HeaderValue, ()> {
    let (user, password) = user.split_once(':').unwrap_or((user, ""));
    let mut pair: Vec<u8> = percent_decode_str(user).collect();
    pair.push(b':');
    pair.extend(percent_decode_str(password));
    let mut value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(pair))).map_err(|_| ())?;
    value.set_sensitive(true);
    Ok(value)
}

impl Exception {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_lowercase();
        if let Some(host) = Self::network(bare(&text)) {
            return Some(Self { host, port: None });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok()?)),
            None => (&*text, None),
        };
        let domain = host.strip_prefix("*.").unwrap_or(host).trim_matches('.');
        let host = match host {
            "*" => ExceptedHost::Any,
            _ if domain.is_empty() => return None,
            _ => Self::network(bare(host)).unwrap_or_else(|| ExceptedHost::Domain(domain.to_owned())),
        };
        Some(Self { host, port })
    }

    fn network(text: &str) -> Option<ExceptedHost> {
        let (address, bits) = text.split_once('/').map_or((text, None), |(a, b)| (a, Some(b)));
        let address: IpAddr = address.parse().ok()?;
        let all = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Some(all), |bits| bits.parse().ok()).filter(|bits| *bits <= all)?;
        Some(ExceptedHost::Network(address, bits))
    }

    fn covers(&self, host: &str, port: Option<u16>) -> bool {
        if self.port.is_some() && self.port != port {
            return false;
        }
        match &self.host {
            ExceptedHost::Any => true,
            ExceptedHost::Network(network, bits) => {
                host.parse().is_ok_and(|address| same_network(*network, address, *bits))
            }
            ExceptedHost::Domain(domain) => {
                host.strip_suffix(domain.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
        }
    }
}

fn same_network(a: IpAddr, b: IpAddr, bits: u8) -> bool {
    let differ = |a: u128, b: u128, width: u32| {
        let host_bits = width.saturating_sub(bits.into());
        // Shifting by all bits is the network of everything.
        (a ^ b).checked_shr(host_bits).unwrap_or(0) != 0
    };
    match (a, b.to_canonical()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => !differ(a.to_bits().into(), b.to_bits().into(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => !differ(a.to_bits(), b.to_bits(), 128),
        _ => false,
    }
}

/// Why a proxy did not do what it was asked for.
#[derive(Debug)]
pub(super) enum ProxyError {
    /// The variable's value cannot be used.
    Unusable { variable: &'static str, why: &'static str },
    /// No connection to the proxy.
    Unreachable { proxy: String, variable: &'static str, cause: String },
    /// The proxy's own response, instead of a tunnel or the server's response.
    Refused { proxy: String, variable: &'static str, target: String, status: u16 },
    /// The proxy ended the connection, or said what is no response.
    Broken { proxy: String, variable: &'static str, cause: String },
}

impl ProxyError {
    /// Whether another try can help.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Unusable { .. } => false,
            Self::Unreachable { .. } | Self::Broken { .. } => true,
            Self::Refused { status, .. } => *status >= 500 || matches!(status, 408 | 429),
        }
    }

    pub(super) fn hint(&self) -> Option<String> {
        match self {
            Self::Unusable { variable, .. } => {
                Some(format!("correct {variable}, or list the host in NO_PROXY to connect directly"))
            }
            // Some proxies answer 401 to CONNECT if the password is wrong.
            Self::Refused { variable, status: 401 | 407, .. } => Some(format!(
                "put the user and password for the proxy into {variable}: http://USER:PASSWORD@HOST:PORT"
            )),
            Self::Refused { variable, .. } => Some(format!(
                "ask for access through the proxy, change {variable}, or list the host in NO_PROXY to connect directly"
            )),
            Self::Unreachable { .. } | Self::Broken { .. } => None,
        }
    }
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unusable { variable, why } => write!(f, "the variable {variable} {why}"),
            Self::Unreachable { proxy, variable, cause } => {
                write!(f, "the proxy {proxy} ({variable}) cannot be reached: {cause}")
            }
            Self::Refused { proxy, variable, target, status: status @ (401 | 407) } => write!(
                f,
                "the proxy {proxy} ({variable}) asks for a user and password for {target}, or refuses the ones given: status {status}"
            ),
            Self::Refused { proxy, variable, target, status } => {
                write!(f, "the proxy {proxy} ({variable}) does not connect to {target}: status {status}")
            }
            Self::Broken { proxy, variable, cause } => {
                write!(f, "the proxy {proxy} ({variable}) does not answer as a proxy does: {cause}")
            }
        }
    }
}

impl std::error::Error for ProxyError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Proxies {
        let get = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        Proxies::from_variables(get)
    }

    fn used(proxies: &Proxies, uri: &str) -> Option<String> {
        proxies.for_uri(&uri.parse().unwrap()).map(Proxy::shown)
    }

    #[test]
    fn each_scheme_has_its_variable_and_all_proxy_is_for_both() {
        let both = proxies(&[("ALL_PROXY", "all:1"), ("HTTPS_PROXY", "http://tls:2")]);
        assert_eq!(used(&both, "http://h/"), Some("all:1".into()));
        assert_eq!(used(&both, "https://h/"), Some("tls:2".into()));
        let lower = proxies(&[("https_proxy", "lower"), ("HTTPS_PROXY", "upper:2")]);
        assert_eq!(used(&lower, "https://h/"), Some("lower:1080".into()));
        assert_eq!(used(&lower, "http://h/"), None);
        let empty = proxies(&[("https_proxy", ""), ("HTTPS_PROXY", "upper:2"), ("ALL_PROXY", "all:1")]);
        assert_eq!(used(&empty, "https://h/"), None);
        let cgi = proxies(&[("REQUEST_METHOD", "GET"), ("HTTP_PROXY", "p:1"), ("HTTPS_PROXY", "p:2")]);
        assert_eq!(used(&cgi, "http://h/"), None);
        assert_eq!(used(&cgi, "https://h/"), Some("p:2".into()));
    }

    #[test]
    fn a_proxy_url_has_credentials_that_are_not_shown() {
        let url = ProxyUrl::parse("http://us%40er:p@ss%3A/w@[::1]:3128/").unwrap();
        assert_eq!(url.uri, "http://[::1]:3128/");
        let expected = format!("Basic {}", STANDARD.encode("us@er:p@ss:/w"));
        assert_eq!(url.authorization.as_ref().unwrap(), expected.as_str());
        assert!(!format!("{url:?}").contains(&expected));
        for wrong in ["ftp://h", "http://", "h:port", "h:99999", "socks5://h:1"] {
            assert!(ProxyUrl::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn no_proxy_lists_names_addresses_networks_and_ports() {
        let direct = |list: &str, uri: &str| {
            used(&proxies(&[("ALL_PROXY", "p:1"), ("NO_PROXY", list)]), uri).is_none()
        };
        for (list, uri) in [
            ("*", "https://h/"),
            ("example.com", "https://example.com/"),
            ("example.com", "https://a.b.EXAMPLE.com/"),
            (".example.com, other", "https://a.example.com/"),
            ("*.example.com", "https://a.example.com/"),
            ("a b.example", "http://b.example./"),
            ("10.0.0.0/8", "http://10.1.2.3/"),
            ("0.0.0.0/0", "http://10.1.2.3/"),
            ("10.1.2.3", "http://10.1.2.3:8080/"),
            ("10.1.2.3:8080", "http://10.1.2.3:8080/"),
            ("h:443", "https://h/"),
            ("::1", "http://[::1]:9/"),
            ("[::1]:9", "http://[::1]:9/"),
            ("fd00::/8", "http://[fd12::1]/"),
            ("", "http://169.254.169.254/latest"),
            ("", "http://169.254.170.2/"),
            ("", "http://[fd00:ec2::254]/"),
        ] {
            assert!(direct(list, uri), "{list}: {uri}");
        }
        for (list, uri) in [
            ("", "http://127.0.0.1/"),
            ("example.com", "https://notexample.com/"),
            ("a.example.com", "https://example.com/"),
            ("10.0.0.0/8", "http://11.1.2.3/"),
            ("10.0.0.0/33", "http://10.0.0.0/"),
            ("h:443", "http://h/"),
            ("10.1.2.3:8080", "http://10.1.2.3/"),
            ("::1", "http://[::2]/"),
            (",, :80", "http://h/"),
        ] {
            assert!(!direct(list, uri), "{list}: {uri}");
        }
    }

    #[test]
    fn the_endpoints_of_credentials_are_reached_directly() {
        let proxies = proxies(&[
            ("HTTP_PROXY", "p:1"),
            ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1338/"),
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://localhost/keys"),
        ]);
        assert_eq!(used(&proxies, "http://127.0.0.1:1338/latest"), None);
        assert_eq!(used(&proxies, "http://localhost/keys"), None);
        assert_eq!(used(&proxies, "http://127.0.0.1:1339/"), Some("p:1".into()));
    }
}
