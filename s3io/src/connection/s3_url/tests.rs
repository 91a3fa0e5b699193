use super::*;

fn object(url: &str, endpoint: Option<&str>) -> Option<(String, S3Service)> {
    let endpoint = endpoint.map(|url| Endpoint::parse(url).unwrap());
    let found = s3_object(&HttpLocation::parse(url).unwrap(), endpoint.as_ref());
    found.map(|found| (found.location.to_string(), found.service))
}

#[test]
fn aws_urls_name_bucket_key_and_region() {
    let aws = |region: Option<&str>| S3Service::Aws { region: region.map(Into::into) };
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
    let found = |text: &str| Some((text.to_owned(), S3Service::Configured));
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
