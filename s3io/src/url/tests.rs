use super::*;

fn http(url: &str) -> HttpLocation {
    HttpLocation::parse(url).unwrap()
}

fn object(url: &str, endpoint: Option<&str>) -> Option<(String, Place)> {
    let endpoint = endpoint.map(|url| Endpoint::parse(url).unwrap());
    http(url).object(endpoint.as_ref()).map(|found| (found.object.to_string(), found.place))
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
fn aws_urls_name_bucket_key_and_region() {
    let aws = |region: Option<&str>| Place::Aws { region: region.map(Into::into) };
    for (url, want, region) in [
        ("https://my.bucket.s3.eu-west-1.amazonaws.com/a/b", "s3://my.bucket/a/b", Some("eu-west-1")),
        ("https://s3.eu-west-1.amazonaws.com/bucket/a/b", "s3://bucket/a/b", Some("eu-west-1")),
        ("https://bucket.s3.amazonaws.com/a+b%2Bc%20d", "s3://bucket/a b+c d", None),
        ("https://s3.amazonaws.com/bucket/a", "s3://bucket/a", None),
        ("https://bucket.s3-us-west-2.amazonaws.com/a", "s3://bucket/a", Some("us-west-2")),
        ("https://bucket.s3.dualstack.us-west-2.amazonaws.com/a", "s3://bucket/a", Some("us-west-2")),
        ("https://bucket.s3.cn-north-1.amazonaws.com.cn/a", "s3://bucket/a", Some("cn-north-1")),
        (
            "https://bucket.s3.us-east-1.amazonaws.com/a?versionId=v%2F1",
            "s3://bucket/a?versionId=v/1",
            Some("us-east-1"),
        ),
        ("https://s3-odd.s3.us-east-1.amazonaws.com/a", "s3://s3-odd/a", Some("us-east-1")),
    ] {
        assert_eq!(object(url, None), Some((want.into(), aws(region))), "{url}");
    }
    for url in [
        "https://bucket.s3.amazonaws.com/a?X-Amz-Signature=00",
        "https://bucket.s3-website-us-east-1.amazonaws.com/a",
        "https://ec2.us-east-1.amazonaws.com/a/b",
        "https://s3.amazonaws.com.evil.example/bucket/a",
        "https://evils3.amazonaws.com/bucket/a",
        "https://bucket.s3.amazonaws.com/",
    ] {
        assert_eq!(object(url, None), None, "{url}");
    }
}

#[test]
fn urls_under_the_endpoint_name_bucket_and_key() {
    let at = |url: &str, endpoint: &str| object(url, Some(endpoint));
    let found = |text: &str| Some((text.to_owned(), Place::Endpoint));
    assert_eq!(at("http://127.0.0.1:9000/b/a+b%20c", "http://127.0.0.1:9000"), found("s3://b/a+b c"));
    assert_eq!(at("https://store.example:443/b/k", "https://store.example/"), found("s3://b/k"));
    assert_eq!(at("https://b.store.example/k//l", "https://store.example"), found("s3://b/k//l"));
    assert_eq!(at("https://store.example/s3/b/k", "https://store.example/s3"), found("s3://b/k"));
    assert_eq!(at("http://store.example/b/k", "https://store.example"), None);
    assert_eq!(at("https://store.example:444/b/k", "https://store.example"), None);
    assert_eq!(at("https://other.example/b/k", "https://store.example"), None);
    assert_eq!(at("https://evilstore.example/b/k", "https://store.example"), None);
}

#[test]
fn endpoints_without_room_for_a_bucket_name_need_path_style() {
    let needs = |url: &str| Endpoint::parse(url).unwrap().needs_path_style();
    assert!(needs("http://127.0.0.1:9000") && needs("http://[::1]:9000") && needs("http://localhost:9000"));
    assert!(needs("http://minio:9000"));
    assert!(!needs("https://s3.store.example"));
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

#[test]
fn only_public_addresses_are_public() {
    for address in ["8.8.8.8", "172.32.0.1", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"] {
        assert!(is_public(address.parse().unwrap()), "{address}");
    }
    for address in [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "255.255.255.255",
        "224.0.0.1",
        "198.18.0.1",
        "192.0.0.1",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
        "fe80::1",
        "fc00::1",
        "fd00:ec2::254",
        "ff02::1",
        "2001:db8::1",
        "2001::1",
    ] {
        assert!(!is_public(address.parse().unwrap()), "{address}");
    }
}
