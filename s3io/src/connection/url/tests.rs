use super::*;

fn http(url: &str) -> HttpLocation {
    HttpLocation::parse(url).unwrap()
}

#[test]
fn a_key_is_literal() {
    for (url, key, version) in [
        ("s3://b/a b+c%20d", "a b+c%20d", None),
        ("s3://b//a/../b", "/a/../b", None),
        ("s3://b/what?#now", "what?#now", None),
        ("s3://b/k?versionId=3/L4", "k?versionId=3/L4", None),
        ("s3://b/k?versionId=3sL4+k.J_-", "k", Some("3sL4+k.J_-")),
        ("S3://b/é?versionId=null", "é", Some("null")),
    ] {
        let Location::S3(found) = Location::parse(url).unwrap() else { panic!("{url}") };
        assert_eq!((&*found.key, found.version_id.as_deref()), (key, version), "{url}");
        assert_eq!(found.to_string().to_lowercase(), url.to_lowercase());
    }
}

#[test]
fn what_names_no_object_is_wrong_usage_and_not_repeated() {
    for url in [
        "s3://",
        "s3://bucket",
        "s3://bucket/",
        "s3:///key",
        "s3://user:hush@bucket/key",
        "s3://../key",
        "s3://b/k?versionId=",
        "ftp://host/hush",
        "http://",
        "https:///hush",
        "http://host/a\nhush",
        "http://ho st/hush",
        "",
    ] {
        let error = Location::parse(url).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage, "{url}");
        assert!(!error.message().contains("hush"), "{error}");
    }
}

#[test]
fn siblings_share_the_prefix() {
    let at = |url: &str| S3Location::parse(url).unwrap().sibling("x-s001.vmdk").to_string();
    assert_eq!(at("s3://b/a/c/x.vmdk?versionId=7"), "s3://b/a/c/x-s001.vmdk");
    assert_eq!(at("s3://b/x.vmdk"), "s3://b/x-s001.vmdk");
    assert_eq!(at("s3://b//x.vmdk"), "s3://b//x-s001.vmdk");
}

#[test]
fn a_url_is_shown_without_secrets() {
    let url =
        http("https://me:hush@Host.example:8443/a%2Fb/c d?X-Amz-Signature=hush&versionId=v1&token=hush#hush");
    assert_eq!(url.to_string(), "https://Host.example:8443/a%2Fb/c%20d?versionId=v1");
    assert!(!format!("{url:?}").contains("hush"));
    assert_eq!(url.user_info(), Some("me:hush"));
    assert_eq!(
        url.uri().to_string(),
        "https://host.example:8443/a%2Fb/c%20d?X-Amz-Signature=hush&versionId=v1&token=hush"
    );
}

#[test]
fn a_presigned_url_says_when_it_ends() {
    let at = |url: &str| {
        http(url).expires().map(|at| at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs())
    };
    let second = 1_369_353_600;
    assert_eq!(at("https://h/k?X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400"), Some(second + 86400));
    assert_eq!(at("https://h/k?x-goog-date=20130524T000000Z&x-goog-expires=60"), Some(second + 60));
    assert_eq!(at("https://h/k?AWSAccessKeyId=x&Signature=y&Expires=1369353600"), Some(second));
    assert_eq!(at("https://h/k?sig=y&se=2013-05-24T00%3A00%3A00Z"), Some(second));
    assert_eq!(at("https://h/k?X-Amz-Date=2013é524T000000Z&X-Amz-Expires=86400"), None);
    assert_eq!(at("https://h/k?X-Amz-Date=20130524T000000Z&X-Amz-Expires=-1"), None);
    assert_eq!(at("https://h/k?Expires=1369353600"), None);
}

#[test]
fn a_redirect_keeps_the_scheme_and_takes_no_password_elsewhere() {
    let from = http("https://me:hush@h.example/a/b?c=d");
    let to = |location: &str| from.redirected(location).unwrap();
    assert_eq!(to("/x?y=z").uri().to_string(), "https://h.example/x?y=z");
    assert_eq!(to("x").uri().to_string(), "https://h.example/a/x");
    assert_eq!(to("/x").user_info(), Some("me:hush"));
    assert_eq!(to("//cdn.example/x").uri().to_string(), "https://cdn.example/x");
    assert_eq!(to("https://cdn.example/x?u=http://z").user_info(), None);
    for location in ["http://h.example/a", "ftp://h.example/a", "file:///etc/passwd"] {
        let error = from.redirected(location).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SourceUnavailable);
        assert!(!error.is_retryable() && !error.message().contains("hush"));
    }
}
