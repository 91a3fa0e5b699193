//! How long a request for a part of an object is best, from how the object was uploaded.
//!
//! A store keeps an object that came in parts as parts; a request that stays within one is answered faster. How many there
//! were stands at the end of an entity tag, as `…-N`, and all but the last are equal: with the object's length that leaves
//! few whole MiB, and often one. Nothing is asked of the store for it.

/// The best length of one request where nothing is known of the parts. Most tools upload parts of 8 MiB or a multiple.
pub(crate) const REQUEST: u64 = 8 << 20;

const MIB: u64 = 1 << 20;
/// Parts that are no multiple of [`REQUEST`], as tools are used to make them, in MiB.
const USUAL: [u64; 9] = [5, 6, 10, 12, 15, 20, 25, 50, 100];

/// The length of requests that are cut at its multiples: so that none crosses from one part to the next, where the parts'
/// length shows. From half of [`REQUEST`] to the whole of it, but for parts that are little longer.
pub(crate) fn request_bytes(etag: Option<&str>, len: u64) -> u64 {
    let parts = etag.and_then(|etag| etag.trim_end_matches('"').rsplit_once('-'));
    let parts: Option<u64> = parts.and_then(|(_, parts)| parts.parse().ok());
    let Some(parts) = parts.filter(|parts| *parts > 1) else { return REQUEST };
    let fits = |mib: u64| mib.checked_mul(MIB).is_some_and(|part| len.div_ceil(part) == parts);
    // The shortest that gives so many parts, in whole MiB, and the next one.
    let shortest = len.div_ceil(parts).div_ceil(MIB).max(1);
    let only = fits(shortest) && !fits(shortest.saturating_add(1));
    let mut usual = USUAL.into_iter().filter(|mib| fits(*mib));
    let part = match (usual.next(), usual.next()) {
        _ if only => shortest,
        // A multiple of the usual length fits as well as any other.
        _ if (1..=64).any(|times| fits(times * (REQUEST / MIB))) => return REQUEST,
        (Some(mib), None) => mib,
        _ => return REQUEST,
    };
    share(part.saturating_mul(MIB))
}

/// An equal share of a part, about as long as [`REQUEST`].
fn share(part: u64) -> u64 {
    let least = part.div_ceil(REQUEST + REQUEST / 2).max(1);
    let shares = least..=part.div_ceil(REQUEST / 2).max(least);
    let even = shares.into_iter().find(|shares| part.is_multiple_of(*shares));
    even.map_or(REQUEST, |shares| part / shares)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(part_mib: u64, len: u64) -> u64 {
        let etag = format!("\"d41d8cd98f00b204e9800998ecf8427e-{}\"", len.div_ceil(part_mib * MIB));
        request_bytes(Some(&etag), len)
    }

    #[test]
    fn parts_that_show_are_not_crossed() {
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
    fn where_nothing_shows_it_is_the_usual_length() {
        let whole = "\"d41d8cd98f00b204e9800998ecf8427e\"";
        for etag in [None, Some(whole), Some("\"abc-def\""), Some("\"x-1\""), Some("\"x-0\""), Some("-")] {
            assert_eq!(request_bytes(etag, 1 << 40), REQUEST, "{etag:?}");
        }
        // Two parts of anything from 50 to 99 MiB.
        assert_eq!(request_bytes(Some("\"x-2\""), 100 * MIB), REQUEST);
        assert_eq!(request_bytes(Some("\"x-9999999999999999999\""), u64::MAX), REQUEST);
        assert_eq!(request_bytes(Some("\"x-18446744073709551615\""), u64::MAX), REQUEST);
        assert_eq!(request_bytes(Some("\"x-2\""), 0), REQUEST);
    }
}
