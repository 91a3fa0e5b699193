//! URLs of sources and targets: parsing them, and showing them without secrets.
//!
//! There are two kinds. `s3://bucket/key` is read as the AWS command line reads it: the key is literal, nothing in it is
//! decoded, and only a `?versionId=` at its very end is not part of it. `http(s)://` is a URL of RFC 3986. If its host
//! belongs to AWS or is the caller's endpoint, it also names a bucket and a key, see [`s3_url`](super::s3_url).

use std::borrow::Cow;
use std::fmt;
use std::time::{Duration, SystemTime};

use diskferry_core::{Error, ErrorKind, Result};
use http::Uri;
use http::uri::Scheme;
use percent_encoding::percent_decode_str;

use super::timestamp::parse_utc;

/// The location that a source's URL names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Location {
    /// An object of the client's S3 endpoint.
    S3(S3Location),
    /// A resource that is read by plain HTTP.
    Http(HttpLocation),
}

impl Location {
    /// Parses `s3://bucket/key[?versionId=ID]` or an `http(s)://` URL.
    ///
    /// # Errors
    /// `usage`. The message does not repeat the URL, which may contain secrets.
    pub fn parse(url: &str) -> Result<Self> {
        let scheme = url.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        match scheme.as_deref() {
            Some("s3") => S3Location::parse(url).map(Self::S3),
            Some("http" | "https") => HttpLocation::parse(url).map(Self::Http),
            _ => Err(usage("the source is no URL that starts with s3://, http:// or https://")),
        }
    }
}

pub(super) fn usage(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Usage, message)
}

/// An object, by bucket and key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct S3Location {
    /// The bucket's name.
    pub bucket: String,
    /// The key, verbatim: not encoded in any way. It may contain any character, also `?`, `#`, `%` and `//`.
    pub key: String,
    /// A version of the object. If `None`: the current one.
    pub version_id: Option<String>,
}

impl S3Location {
    /// Parses `s3://bucket/key[?versionId=ID]`. The key is literal.
    ///
    /// # Errors
    /// `usage` if bucket or key are missing, or the bucket's name is not valid.
    pub fn parse(url: &str) -> Result<Self> {
        const VERSION: &str = "?versionId=";
        let rest = match url.get(..5) {
            Some(scheme) if scheme.eq_ignore_ascii_case("s3://") => url.get(5..).unwrap_or_default(),
            _ => return Err(usage("an object's URL starts with s3://")),
        };
        let (bucket, key) = rest
            .split_once('/')
            .ok_or_else(|| usage("the URL names a bucket and no object: s3://bucket/key is needed"))?;
        // A version id contains none of these characters; otherwise the text belongs to the key.
        let (key, version_id) = match key.rsplit_once(VERSION) {
            Some((_, "")) => return Err(usage("the URL ends in ?versionId= and names no version")),
            Some((key, id)) if !id.contains(['?', '&', '/', '#']) => (key, Some(id)),
            _ => (key, None),
        };
        Self::new(bucket, key, version_id)
    }

    pub(super) fn new(bucket: &str, key: &str, version_id: Option<&str>) -> Result<Self> {
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

    /// The object of that name under the same prefix, in its current version.
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

/// An `http(s)://` URL. `Display` and `Debug` show it without query, user and password, which may be secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpLocation {
    uri: Uri,
    /// `user:password`, decoded.
    user_info: Option<String>,
    shown: String,
}

impl HttpLocation {
    /// Parses an `http(s)://` URL. Characters that are not allowed in a URL, such as spaces, are encoded. Nothing else is
    /// changed, because a signature covers every byte. A fragment is dropped.
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

    /// The URL that a redirect from this one leads to.
    ///
    /// # Errors
    /// `source_unavailable` if it is not a URL or has another scheme.
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
        // Credentials are sent only to the server that they were given for.
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

    pub(crate) fn port(&self) -> u16 {
        self.uri.port_u16().unwrap_or(if self.is_tls() { 443 } else { 80 })
    }

    /// The parameters of the query, decoded.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
        self.uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (percent_decode_str(name).decode_utf8_lossy(), percent_decode_str(value).decode_utf8_lossy())
        })
    }

    pub(super) fn parameter(&self, names: &[&str]) -> Option<Cow<'_, str>> {
        self.pairs()
            .find(|(name, _)| names.iter().any(|n| name.eq_ignore_ascii_case(n)))
            .map(|(_, value)| value)
    }

    /// When a presigned URL expires: the query forms of AWS (`X-Amz-Date` and `X-Amz-Expires`; the older `Expires`),
    /// Google Cloud Storage (`X-Goog-`) and Azure (`se`).
    pub fn expires(&self) -> Option<SystemTime> {
        let seconds = |text: &str| text.parse::<u32>().ok().map(|s| Duration::from_secs(s.into()));
        if let (Some(date), Some(lasts)) = (
            self.parameter(&["X-Amz-Date", "X-Goog-Date"]),
            self.parameter(&["X-Amz-Expires", "X-Goog-Expires"]),
        ) {
            return parse_utc(&date)?.checked_add(seconds(&lasts)?);
        }
        if self.parameter(&["sig"]).is_some() {
            return parse_utc(&self.parameter(&["se"])?);
        }
        self.parameter(&["Signature"])?;
        SystemTime::UNIX_EPOCH.checked_add(seconds(&self.parameter(&["Expires"])?)?)
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

/// Encodes characters that are not allowed in a URL.
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

#[cfg(test)]
mod tests;
