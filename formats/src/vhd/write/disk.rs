//! Properties that both kinds share: the size of the disk, and its footer.

use diskferry_core::internal::sha256;
use diskferry_core::{Error, ErrorKind, LayoutFacts, Result};

use crate::format::Format;
use crate::sector_size::SectorSize;
use crate::vhd::footer::{self, Kind};

/// The largest disk, 2,040 GiB: the limit of Virtual PC, Windows and cloud providers.
const MOST_BYTES: u64 = 2040 << 30;

/// The size of the target disk for a source of `source_bytes`.
///
/// # Errors
/// `destination_unsuitable` if it is not a whole number of sectors and must not be rounded up, or if it is too large.
pub(super) fn size_of(sectors: SectorSize, source_bytes: u64) -> Result<u64> {
    let bytes = sectors.size(source_bytes)?;
    check_most(bytes)?;
    Ok(bytes)
}

/// Checks that a disk, or a part of it that ends at `bytes`, is not larger than the format allows.
pub(super) fn check_most(bytes: u64) -> Result<()> {
    if bytes > MOST_BYTES {
        return Err(unsuitable(format!(
            "the disk has {bytes} bytes, and a VHD has at most {MOST_BYTES} (2,040 GiB)"
        ))
        .hint("convert to qcow2, vmdk or raw"));
    }
    Ok(())
}

pub(super) fn unsuitable(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::DestinationUnsuitable, message)
}

/// The footer of a disk of `virtual_bytes`, with `id` or with one derived from the disk and its source.
pub(super) fn footer_of(
    kind: Kind,
    virtual_bytes: u64,
    id: Option<[u8; 16]>,
    facts: &LayoutFacts,
) -> [u8; footer::LEN] {
    let id = id.unwrap_or_else(|| {
        let parts: [&[u8]; 4] = [
            Format::Vhd.name().as_bytes(),
            kind.name().as_bytes(),
            &virtual_bytes.to_be_bytes(),
            &facts.fingerprint,
        ];
        uuid(sha256(&parts))
    });
    footer::to_bytes(kind, virtual_bytes, id)
}

/// The UUID derived from a hash: version 8, for vendor-specific methods (RFC 9562, section 5.8).
fn uuid(hash: [u8; 32]) -> [u8; 16] {
    let [first, _] = hash.as_chunks::<16>().0 else { return [0; 16] };
    let [a, b, c, d, e, f, g, h, i, rest @ ..] = *first;
    let [j, k, l, m, n, o, p] = rest;
    [a, b, c, d, e, f, (g & 0x0f) | 0x80, h, (i & 0x3f) | 0x80, j, k, l, m, n, o, p]
}
