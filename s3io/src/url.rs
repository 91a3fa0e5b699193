//! What a source's URL names, and how it may be shown.
//!
//! Two kinds. `s3://bucket/key` is taken as the AWS command line takes it: the key is literal, nothing in it is
//! decoded, and only a `?versionId=` at its very end is not part of it. `http(s)://` is a URL as RFC 3986 has it; where
//! its host is AWS's or the caller's endpoint, it also names a bucket and a key, percent-decoded once.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime};

use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use diskferry_core::{Error, ErrorKind, Result};
use http::Uri;
use http::uri::Scheme;
use percent_encoding::percent_decode_str;

/// What a source's URL names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Location {
    /// An object of the client's S3 endpoint.
    S3(S3Location),
    /// Something behind HTTP.
    Http(HttpLocation),
}

impl Location {
    /// Takes `s3://bucket/key[?versionId=ID]` or an `http(s)://` URL.
    ///
    /// # Errors
    /// `usage`. The message does not repeat the URL, which may hold secrets.
    pub fn parse(url: &str) -> Result<Self> {
        let scheme = url.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        match scheme.as_deref() {
            Some("s3") => S3Location::parse(url).map(Self::S3),
            Some("http" | "https") => HttpLocation::parse(url).map(Self::Http),
            _ => Err(usage("the source is no URL that starts with s3://, http:// or https://")),
        }
    }
}

fn usage(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Usage, message)
}

/// An object, by bucket and key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct S3Location {
    /// The bucket's name.
    pub bucket: String,
    /// The key, as it is: not encoded in any way. May hold any character, also `?`, `#`, `%` and `//`.
    pub key: String,
    /// One version of it, else the current one.
    pub version_id: Option<String>,
}

impl S3Location {
    /// Takes `s3://bucket/key[?versionId=ID]`. The key is literal.
    ///
    /// # Errors
    /// `usage` where bucket or key are missing, or the bucket's name cannot be one.
    pub fn parse(url: &str) -> Result<Self> {
        const VERSION: &str = "?versionId=";
        let rest = match url.get(..5) {
            Some(scheme) if scheme.eq_ignore_ascii_case("s3://") => url.get(5..).unwrap_or_default(),
            _ => return Err(usage("an object's URL starts with s3://")),
        };
        let (bucket, key) = rest
            .split_once('/')
            .ok_or_else(|| usage("the URL names a bucket and no object: s3://bucket/key is needed"))?;
        // A version id holds none of these, so what holds one is the key's own.
        let (key, version_id) = match key.rsplit_once(VERSION) {
            Some((_, "")) => return Err(usage("the URL ends in ?versionId= and names no version")),
            Some((key, id)) if !id.contains(['?', '&', '/', '#']) => (key, Some(id)),
            _ => (key, None),
        };
        Self::new(bucket, key, version_id)
    }

    fn new(bucket: &str, key: &str, version_id: Option<&str>) -> Result<Self> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if !bucket.starts_with(|c: char| c.is_ascii_alphanumeric())
            || !bucket.chars().all(plain)
            || bucket.len() > 255
        {
            return Err(usage(
                "the URL's bucket is no bucket name: letters, digits, '.', '-' and '_', a letter or digit first",
            ));
        }
        if key.is_empty() {
            return Err(usage("the URL names a bucket and no object: s3://bucket/key is needed"));
        }
        if key.len() > 1024 {
            return Err(usage(format!(
                "the object's key has {} bytes, and at most 1024 are possible",
                key.len()
            )));
        }
        Ok(Self { bucket: bucket.into(), key: key.into(), version_id: version_id.map(Into::into) })
    }

    /// The object of that name under the same prefix; no version is meant.
    pub fn sibling(&self, name: &str) -> Self {
        let prefix = self.key.rsplit_once('/').map_or("", |(prefix, _)| prefix);
        let slash = if self.key.contains('/') { "/" } else { "" };
        Self { bucket: self.bucket.clone(), key: format!("{prefix}{slash}{name}"), version_id: None }
    }
}

impl fmt::Display for S3Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.key)?;
        self.version_id.iter().try_for_each(|id| write!(f, "?versionId={id}"))
    }
}

/// A URL. It is shown, in `Display` as in `Debug`, without its query, user and password: these may be secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpLocation {
    uri: Uri,
    /// `user:password`, decoded.
    user_info: Option<String>,
    shown: String,
}

impl HttpLocation {
    /// Takes an `http(s)://` URL. Characters that must not stand in a URL, such as spaces, are encoded; nothing else
    /// is changed: a signature covers every byte. A fragment is dropped.
    ///
    /// # Errors
    /// `usage`. The message does not repeat the URL.
    pub fn parse(url: &str) -> Result<Self> {
        let url = url.split_once('#').map_or(url, |(before, _)| before);
        let (scheme, rest) = url.split_once("://").ok_or_else(|| usage("the URL has no scheme"))?;
        let scheme = scheme.to_ascii_lowercase();
        if scheme != "http" && scheme != "https" {
            return Err(usage("the URL starts with neither http:// nor https://"));
        }
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (user_info, host) =
            authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
        let slash = if path.starts_with('/') { "" } else { "/" };
        let uri: Uri = format!("{scheme}://{}{slash}{}", host.to_ascii_lowercase(), encode_illegal(path)?)
            .parse()
            .map_err(|_| usage("the URL is not well-formed"))?;
        if uri.host().is_none_or(str::is_empty) {
            return Err(usage("the URL has no host"));
        }
        let user_info = user_info.map(|text| percent_decode_str(text).decode_utf8_lossy().into_owned());
        let mut location = Self { uri, user_info, shown: String::new() };
        let version = location.parameter(&["versionId"]).map(|id| format!("?versionId={id}"));
        location.shown =
            format!("{scheme}://{host}{}{}", location.uri.path(), version.as_deref().unwrap_or_default());
        Ok(location)
    }

    /// The URL that a redirect of this one leads to.
    ///
    /// # Errors
    /// `source_unavailable` where it is no URL or has another scheme.
    pub(crate) fn redirected(&self, to: &str) -> Result<Self> {
        let refuse = |why: &str| {
            Error::new(ErrorKind::SourceUnavailable, format!("{self}: the server redirects {why}"))
                .retry(false)
        };
        let authority = self.uri.authority().map_or("", |authority| authority.as_str());
        let scheme = if self.is_tls() { "https" } else { "http" };
        let absolute = match to {
            to if to.contains("://") && !to.starts_with(['/', '?']) => to.to_owned(),
            to if to.starts_with("//") => format!("{scheme}:{to}"),
            to if to.starts_with('/') => format!("{scheme}://{authority}{to}"),
            to => {
                let base = self.uri.path().rsplit_once('/').map_or("", |(base, _)| base);
                format!("{scheme}://{authority}{base}/{to}")
            }
        };
        let mut target = Self::parse(&absolute).map_err(|_| refuse("to what is no http(s) URL"))?;
        if target.is_tls() != self.is_tls() {
            return Err(
                refuse("to another scheme, which is not followed").hint("give the URL that it redirects to")
            );
        }
        // Credentials go to the server that they were given for, and to no other.
        target.user_info =
            if target.uri.authority() == self.uri.authority() { self.user_info.clone() } else { None };
        Ok(target)
    }

    pub(crate) fn uri(&self) -> &Uri {
        &self.uri
    }

    pub(crate) fn user_info(&self) -> Option<&str> {
        self.user_info.as_deref()
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.uri.scheme() == Some(&Scheme::HTTPS)
    }

    /// Host without port, in lower case, without the brackets of an IPv6 address.
    pub(crate) fn host(&self) -> &str {
        self.uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')
    }

    fn port(&self) -> u16 {
        self.uri.port_u16().unwrap_or(if self.is_tls() { 443 } else { 80 })
    }

    /// The parameters of the query, decoded.
    fn pairs(&self) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
        self.uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (percent_decode_str(name).decode_utf8_lossy(), percent_decode_str(value).decode_utf8_lossy())
        })
    }

    fn parameter(&self, names: &[&str]) -> Option<Cow<'_, str>> {
        self.pairs()
            .find(|(name, _)| names.iter().any(|n| name.eq_ignore_ascii_case(n)))
            .map(|(_, value)| value)
    }

    /// When a presigned URL ends to be valid: the query forms of AWS (`X-Amz-Date` and `X-Amz-Expires`; before
    /// that `Expires`), Google Cloud Storage (`X-Goog-`) and Azure (`se`).
    pub fn expires(&self) -> Option<SystemTime> {
        let seconds = |text: &str| text.parse::<u32>().ok().map(|s| Duration::from_secs(s.into()));
        let rfc3339 = |text: &str| {
            DateTime::from_str(text, Format::DateTime).ok().and_then(|at| SystemTime::try_from(at).ok())
        };
        if let (Some(date), Some(lasts)) = (
            self.parameter(&["X-Amz-Date", "X-Goog-Date"]),
            self.parameter(&["X-Amz-Expires", "X-Goog-Expires"]),
        ) {
            // YYYYMMDDThhmmssZ: the basic form, of which only the extended one is read by the library.
            let part = |from: usize, to: usize| date.get(from..to);
            let (y, m, d) = (part(0, 4)?, part(4, 6)?, part(6, 8)?);
            let (hour, minute, second) = (part(9, 11)?, part(11, 13)?, part(13, 15)?);
            let signed = rfc3339(&format!("{y}-{m}-{d}T{hour}:{minute}:{second}Z"))?;
            return signed.checked_add(seconds(&lasts)?);
        }
        if self.parameter(&["sig"]).is_some() {
            return rfc3339(&self.parameter(&["se"])?);
        }
        self.parameter(&["Signature"])?;
        SystemTime::UNIX_EPOCH
            .checked_add(Duration::from_secs(self.parameter(&["Expires"])?.parse::<u32>().ok()?.into()))
    }

    /// The bucket and key that the URL names, where its host is `endpoint`'s or AWS's and nothing in its query but
    /// a version: a URL as a store's console shows it.
    pub(crate) fn object(&self, endpoint: Option<&Endpoint>) -> Option<StoreObject> {
        if self.user_info.is_some() || self.pairs().any(|(name, _)| name != "versionId") {
            return None;
        }
        let version = self.parameter(&["versionId"]).filter(|id| !id.is_empty());
        let found = |bucket: &str, path: &str, place: Place| {
            // AWS reads '+' in a path as a space, and its console writes a space so; others take it as it is.
            let spaced =
                if matches!(place, Place::Aws { .. }) { path.replace('+', " ") } else { path.into() };
            let key = percent_decode_str(&spaced).decode_utf8().ok()?;
            let object = S3Location::new(bucket, &key, version.as_deref()).ok()?;
            Some(StoreObject { object, place })
        };
        let path = self.uri.path().strip_prefix('/')?;
        let by_path = |path: &str, place: Place| {
            let (bucket, key) = path.split_once('/')?;
            found(bucket, key, place)
        };
        if let Some(endpoint) = endpoint
            && endpoint.tls == self.is_tls()
            && endpoint.port == self.port()
        {
            let path = path.strip_prefix(&*endpoint.prefix).map(|path| path.trim_start_matches('/'));
            let path = if endpoint.prefix.is_empty() { self.uri.path().strip_prefix('/') } else { path };
            if endpoint.host == self.host() {
                return by_path(path?, Place::Endpoint);
            }
            if let Some(bucket) = self.host().strip_suffix(&*endpoint.host).and_then(|b| b.strip_suffix('.'))
            {
                return found(bucket, path?, Place::Endpoint);
            }
        }
        let (bucket, region) = aws_host(self.host())?;
        match bucket {
            Some(bucket) => found(bucket, path, Place::Aws { region }),
            None => by_path(path, Place::Aws { region }),
        }
    }

    /// The bucket and region of an AWS URL, also of a presigned one.
    pub(crate) fn aws_bucket(&self) -> Option<(String, Option<String>)> {
        let (bucket, region) = aws_host(self.host())?;
        let by_path = || self.uri.path().strip_prefix('/')?.split('/').next();
        Some((bucket.or_else(by_path)?.to_owned(), region))
    }
}

impl fmt::Display for HttpLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for HttpLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpLocation({})", self.shown)
    }
}

/// An object of a store that is reached by its own protocol.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct StoreObject {
    pub(crate) object: S3Location,
    pub(crate) place: Place,
}

/// Which store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// The client's own endpoint.
    Endpoint,
    /// AWS, whatever endpoint the client has, and the region where the host says it.
    Aws { region: Option<String> },
}

/// Where an S3 endpoint is, for telling URLs under it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Endpoint {
    tls: bool,
    host: String,
    port: u16,
    /// Its path, without slashes around.
    prefix: String,
}

impl Endpoint {
    pub(crate) fn parse(url: &str) -> Result<Self> {
        let location = HttpLocation::parse(url)?;
        if location.user_info.is_some() || location.uri.query().is_some() {
            return Err(usage("the endpoint's URL has a user or a query, and must have neither"));
        }
        Ok(Self {
            tls: location.is_tls(),
            host: location.host().to_owned(),
            port: location.port(),
            prefix: location.uri.path().trim_matches('/').to_owned(),
        })
    }

    /// True where buckets cannot be names under it: an address, `localhost`, or a name without a domain.
    pub(crate) fn needs_path_style(&self) -> bool {
        self.host.parse::<IpAddr>().is_ok() || !self.host.contains('.') || self.host.ends_with(".localhost")
    }
}

/// Bucket (of virtual-hosted style) and region that an S3 host of AWS names, or `None` for any other host.
///
/// `[BUCKET.]s3[.dualstack][.REGION].amazonaws.com[.cn]`, with `s3-REGION` in old URLs and `s3-accelerate`,
/// see "Methods for accessing a general purpose bucket" in the Amazon S3 User Guide.
fn aws_host(host: &str) -> Option<(Option<&str>, Option<String>)> {
    let name = host.strip_suffix(".cn").unwrap_or(host).strip_suffix(".amazonaws.com")?;
    let labels: Vec<&str> = name.split('.').collect();
    // The last label of that shape: a bucket's own name may hold one too.
    let at = labels.iter().rposition(|label| *label == "s3" || label.starts_with("s3-"))?;
    let (before, after) = labels.split_at_checked(at)?;
    let (service, after) = after.split_first()?;
    let after = after.strip_prefix(&["dualstack"]).unwrap_or(after);
    let region = match (service.strip_prefix("s3-"), after) {
        (None | Some("accelerate"), []) => None,
        (None, [region]) => Some(*region),
        (Some(region), []) if !matches!(region, "website" | "fips") && !region.starts_with("website-") => {
            (region != "external-1").then_some(region)
        }
        _ => return None,
    };
    let bucket = host.get(..before.join(".").len()).filter(|bucket| !bucket.is_empty());
    Some((bucket, region.map(str::to_owned)))
}

/// Encodes what must not stand in a URL.
fn encode_illegal(path: &str) -> Result<String> {
    let mut encoded = String::with_capacity(path.len());
    for c in path.chars() {
        if c.is_control() {
            return Err(usage("the URL holds a control character"));
        }
        if c.is_ascii() && !matches!(c, ' ' | '"' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}') {
            encoded.push(c);
        } else {
            let mut bytes = [0; 4];
            encoded.extend(c.encode_utf8(&mut bytes).bytes().map(percent_encoding::percent_encode_byte));
        }
    }
    Ok(encoded)
}

/// True for an address that a stranger's URL may lead to: not loopback, link-local, private, shared, multicast or
/// reserved, and not an IPv6 form of such an IPv4 address (IANA's special-purpose address registries).
pub(crate) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            !(a == 0
                || a >= 224
                || address.is_loopback()
                || address.is_private()
                || address.is_link_local()
                || address.is_documentation()
                || (a == 100 && (64..128).contains(&b))
                || (a == 192 && b == 0 && c == 0)
                || (a == 198 && (b == 18 || b == 19)))
        }
        IpAddr::V6(address) => {
            let segments = address.segments();
            match segments {
                // IPv4 in disguise: mapped, compatible (with loopback and unspecified), NAT64, 6to4.
                [0, 0, 0, 0, 0, 0xffff | 0, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
                    is_public(IpAddr::V4(embedded(high, low)))
                }
                [0x2002, high, low, ..] => is_public(IpAddr::V4(embedded(high, low))),
                // Global unicast, without Teredo and the documentation's.
                [first, second, ..] => {
                    first & 0xe000 == 0x2000
                        && !(first == 0x2001 && (second == 0 || second == 0xdb8))
                        && address != Ipv6Addr::UNSPECIFIED
                }
            }
        }
    }
}

fn embedded(high: u16, low: u16) -> Ipv4Addr {
    let [a, b] = high.to_be_bytes();
    let [c, d] = low.to_be_bytes();
    Ipv4Addr::new(a, b, c, d)
}

#[cfg(test)]
mod tests;
