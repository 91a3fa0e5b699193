//! What the guest has at the end of a sparse image, and what is put behind it where a reader would take it for another
//! format.
//!
//! The grains are the end of the file, and the footer of a VHD is looked for at a file's end, with zeros behind it or
//! without. A guest that has one there would make the image two formats at once; so zeros are put behind the last grain,
//! more than any footer is looked for behind, in whole grains that no table names.

use diskferry_core::address::GuestOffset;
use diskferry_core::scan::Scanned;

use super::disk::GRAIN;
use crate::vhd;

/// Bytes of the zeros.
pub(super) const GUARD: u64 = vhd::TAIL_LEN.div_ceil(GRAIN).saturating_mul(GRAIN);
/// What a footer begins with.
const COOKIE: &[u8] = b"conectix";
/// Bytes of a footer.
const FOOTER: usize = 512;

/// Looks at the end of what is written.
pub(super) struct Ending {
    /// The last bytes, as many as a footer has or fewer, and where they end on the disk.
    last: Vec<u8>,
    end: GuestOffset,
    misleading: bool,
}

impl Default for Ending {
    fn default() -> Self {
        Self { last: Vec::new(), end: GuestOffset::ZERO, misleading: false }
    }
}

impl Ending {
    /// Takes the next guest bytes, in guest order.
    pub(super) fn note(&mut self, scanned: &Scanned) {
        for (guest, zero) in scanned.ranges() {
            if zero {
                continue;
            }
            // Grains follow each other in the target whatever lies between them on the disk.
            let both = guest.start().is_aligned(GRAIN) && self.end.is_aligned(GRAIN);
            self.run(&scanned.slice(guest), both || guest.start() == self.end);
            self.end = guest.end();
        }
    }

    /// Takes a run, the last bytes of which lie in a 4 KiB block that is not all zeros; `follows` where no zeros are written
    /// between it and the one before.
    fn run(&mut self, bytes: &[u8], follows: bool) {
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last.saturating_add(1));
        // A footer begins at most its length before the last byte that is not zero; its cookie may reach beyond that.
        let end = used.saturating_add(COOKIE.len()).min(bytes.len());
        let mut within = bytes.get(used.saturating_sub(FOOTER)..end).unwrap_or_default();
        let missing = FOOTER.saturating_sub(used);
        if follows && missing > 0 {
            let skip = self.last.len().saturating_sub(missing);
            self.last.drain(..skip);
            self.last.extend(within);
            within = &self.last;
        }
        self.misleading = within.windows(COOKIE.len()).any(|window| window == COOKIE);
        let rest = bytes.len().saturating_sub(FOOTER);
        self.last.clear();
        self.last.extend(bytes.get(rest..).unwrap_or_default());
    }

    /// True where the file must not end here.
    pub(super) fn is_misleading(&self) -> bool {
        self.misleading
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_seen_where_a_footer_could_begin_however_the_bytes_come() {
        // A footer's place, the last byte that is not zero, and whether it is one.
        for (place, last, expected) in [
            (8192 - 512, 8191, true),
            (8192 - 511, 8191, true),
            (8192 - 8, 8191, true),
            (8192 - 513, 8191, false),
            (4096, 4096 + 84, true),
            (4000, 4096 + 84, true),
            (4096, 4096 + 600, false),
            (3584, 4096, false),
            (3585, 4096, true),
        ] {
            let mut bytes = vec![7; 8192];
            bytes[last + 1..].fill(0);
            bytes[place..place + 8].copy_from_slice(COOKIE);
            for cut in [0, 4096] {
                let mut ending = Ending::default();
                ending.run(&bytes[..cut], false);
                ending.run(&bytes[cut..], true);
                assert_eq!(ending.is_misleading(), expected, "{place} {last} {cut}");
            }
        }
        let mut ending = Ending::default();
        ending.run(&[&[7; 4088][..], COOKIE].concat(), false);
        assert!(ending.is_misleading());
        ending.run(&[[1; 10].as_slice(), &[0; 4086]].concat(), false);
        assert!(!ending.is_misleading(), "zeros lie between");
    }
}
