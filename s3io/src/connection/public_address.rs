//! Which IP addresses are public: a URL from a stranger must not reach the networks behind this host.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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
                // Embedded IPv4: mapped, compatible (with loopback and unspecified), NAT64, 6to4.
                [0, 0, 0, 0, 0, 0xffff | 0, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
                    is_public(IpAddr::V4(embedded(high, low)))
                }
                [0x2002, high, low, ..] => is_public(IpAddr::V4(embedded(high, low))),
                // Global unicast, without Teredo and the range for documentation.
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

/// The refusal to connect to an address that is not public.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NotPublic;

impl fmt::Display for NotPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the host's address is not public, and only public addresses are allowed")
    }
}

impl std::error::Error for NotPublic {}

#[cfg(test)]
mod tests {
    use super::*;

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
}
