//! The best length of a request, from the size of the parts that the object was uploaded in.
//!
//! A store keeps an object that was uploaded in parts as parts, and a request within one part is answered faster. The number
//! of parts is the end of the ETag (`…-N`), and all parts but the last have the same size. Together with the length of the
//! object this leaves few sizes in whole MiB, and often one. No request is needed.

use crate::concurrency::DEFAULT_REQUEST_BYTES;

const MIB: u64 = 1 << 20;
/// Part sizes that tools use and that are no multiple of [`DEFAULT_REQUEST_BYTES`], in MiB.
const USUAL_MIB: [u64; 9] = [5, 6, 10, 12, 15, 20, 25, 50, 100];

/// The length of requests that start at its multiples. If the part size can be determined, no request crosses from one part
/// to the next. The result is [`DEFAULT_REQUEST_BYTES`], or between half of it and one and a half times it.
pub(super) fn request_bytes(etag: Option<&str>, len: u64) -> u64 {
    let parts = etag.and_then(|etag| etag.trim_end_matches('"').rsplit_once('-'));
    let parts: Option<u64> = parts.and_then(|(_, parts)| parts.parse().ok());
    let Some(parts) = parts.filter(|parts| *parts > 1) else { return DEFAULT_REQUEST_BYTES };
    let fits = |mib: u64| mib.checked_mul(MIB).is_some_and(|part| len.div_ceil(part) == parts);
    // The smallest size in whole MiB that gives this number of parts; is it the only one?
    let shortest = len.div_ceil(parts).div_ceil(MIB).max(1);
    let only = fits(shortest) && !shortest.checked_add(1).is_some_and(fits);
    let mut usual = USUAL_MIB.into_iter().filter(|mib| fits(*mib));
    let part = match (usual.next(), usual.next()) {
        _ if only => shortest,
        // A multiple of the default fits as well as any other.
        _ if (1..=64).any(|times| fits(times * (DEFAULT_REQUEST_BYTES / MIB))) => {
            return DEFAULT_REQUEST_BYTES;
        }
        (Some(mib), None) => mib,
        _ => return DEFAULT_REQUEST_BYTES,
    };
    // `fits` multiplied it before.
    part.checked_mul(MIB).map_or(DEFAULT_REQUEST_BYTES, share)
}

/// An equal share of a part, about as long as [`DEFAULT_REQUEST_BYTES`].
fn share(part: u64) -> u64 {
    let least = part.div_ceil(DEFAULT_REQUEST_BYTES + DEFAULT_REQUEST_BYTES / 2).max(1);
    let shares = least..=part.div_ceil(DEFAULT_REQUEST_BYTES / 2).max(least);
    let even = shares.into_iter().find(|shares| part.is_multiple_of(*shares));
    even.map_or(DEFAULT_REQUEST_BYTES, |shares| part / shares)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(part_mib: u64, len: u64) -> u64 {
        let etag = format!("\"d41d8cd98f00b204e9800998ecf8427e-{}\"", len.div_ceil(part_mib * MIB));
        request_bytes(Some(&etag), len)
    }

    #[test]
    fn requests_do_not_cross_parts_of_known_size() {
        let len = 10_000 * MIB + 4097;
        for part in [5, 7, 8, 10, 12, 15, 16, 20, 25, 32, 50, 64, 100, 128] {
            let request = of(part, len);
            assert_eq!(part * MIB % request, 0, "{part} MiB: {request}");
            assert!((4 * MIB..=12 * MIB).contains(&request), "{part} MiB: {request}");
        }
        assert_eq!(of(16, len), 8 * MIB);
        assert_eq!(of(10, len), 10 * MIB);
    }

    #[test]
    fn without_a_known_part_size_it_is_the_default() {
        let whole = "\"d41d8cd98f00b204e9800998ecf8427e\"";
        for etag in [None, Some(whole), Some("\"abc-def\""), Some("\"x-1\""), Some("\"x-0\""), Some("-")] {
            assert_eq!(request_bytes(etag, 1 << 40), DEFAULT_REQUEST_BYTES, "{etag:?}");
        }
        // Two parts of anything from 50 to 99 MiB.
        assert_eq!(request_bytes(Some("\"x-2\""), 100 * MIB), DEFAULT_REQUEST_BYTES);
        assert_eq!(request_bytes(Some("\"x-9999999999999999999\""), u64::MAX), DEFAULT_REQUEST_BYTES);
        assert_eq!(request_bytes(Some("\"x-18446744073709551615\""), u64::MAX), DEFAULT_REQUEST_BYTES);
        assert_eq!(request_bytes(Some("\"x-2\""), 0), DEFAULT_REQUEST_BYTES);
    }
}
