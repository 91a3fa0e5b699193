//! Why our reader refuses images that the slow reader reads, by the error message.

use diskferry_core::{Error, ErrorKind};
use diskferry_formats::Format;

const ANY: &[Format] = &Format::ALL;
const QCOW2: &[Format] = &[Format::Qcow2];
const VHD: &[Format] = &[Format::Vhd];
const VMDK: &[Format] = &[Format::Vmdk];

/// Formats, a part of the message, and the reason for the refusal.
const REASONS: &[(&[Format], &str, &str)] = &[
    (ANY, "the object is valid both as", "valid as two formats, so the object is ambiguous"),
    (ANY, "the image is declared", "the magic of the declared format is missing"),
    (QCOW2, "header_length is", "the header must be inside its cluster"),
    (QCOW2, "header extension", "extensions must be inside the header's cluster"),
    (QCOW2, "the bitmaps extension", "an extension contradicts its kind"),
    (QCOW2, "refcount", "a refcount table is required, although reading does not use it"),
    (QCOW2, "the L1 table", "tables are aligned, complete and do not overlap"),
    (QCOW2, "l1_size is", "the L1 table is as long as the disk needs, and bounded"),
    (QCOW2, "snapshot", "the snapshot table is bounded and inside the object"),
    (QCOW2, "compression", "the compression type is stored twice, and both values must agree"),
    (QCOW2, "reserved bits", "reserved bits may have an unknown meaning"),
    (QCOW2, "zero flag", "a flag that is invalid for the version or the kind of entry"),
    (QCOW2, "which is no cluster of", "tables are aligned and after the header"),
    (QCOW2, "no multiple of the cluster size", "clusters and tables are aligned"),
    (QCOW2, "and the object ends at", "the used part of a table must be inside the object"),
    (QCOW2, ", inside ", "an entry must not point into metadata"),
    (QCOW2, "extended L2 entries need", "a sub-cluster is at least a sector"),
    (QCOW2, "sub-cluster", "a compressed cluster has no sub-clusters"),
    (QCOW2, "beyond 56 bits", "offsets have 56 bits"),
    (QCOW2, "ends in zeros from", "the zeros may be missing data"),
    (QCOW2, "many share one", "more work than the object can justify"),
    (VHD, "overlap", "blocks do not overlap each other or the metadata"),
    (VHD, "max_table_entries is", "the table is as long as the disk needs, and bounded"),
    (VHD, "version is", "another major version has an unknown meaning"),
    (VHD, "data_offset is", "the header does not overlap the footers"),
    (VHD, "block allocation table", "the table is inside the object and overlaps nothing"),
    (VHD, "the footer at the end is missing", "the zeros may be missing data"),
    (VHD, "the object ends at", "a block must be complete"),
    (VMDK, "contradict each other", "the text and the header must agree"),
    (VMDK, "createType", "the descriptor must have a known createType"),
    (VMDK, "descriptor version", "another version has an unknown meaning"),
    (VMDK, "the descriptor says", "a repeated key has one value"),
    (VMDK, "of the descriptor", "every line must be valid"),
    (VMDK, "the descriptor gives the extent", "the text and the header must agree on the size"),
    (VMDK, "the descriptor is", "the descriptor must not be encrypted"),
    (VMDK, "encoding", "a name must have a known encoding"),
    (VMDK, "the descriptor has", "the text has a bounded length"),
    (VMDK, "of compressed", "a compressed unit is bounded"),
    (VMDK, "other data begins", "two grains overlap"),
    (VMDK, ": it points to", "descriptor, directories, tables and grains do not overlap"),
    (VMDK, "grain directory", "directories and tables are inside the object"),
    (VMDK, "more than twice a grain", "no deflate stream of a grain is that long"),
    (VMDK, "many share one", "more work than the object can justify"),
];

/// The reason for refusing an image of a format with this error, which another reader could read.
pub(crate) fn reason(format: Format, error: &Error) -> Option<&'static str> {
    if error.kind() == ErrorKind::Internal {
        return None;
    }
    let known = |(formats, part, _): &&(&[Format], &str, &str)| {
        formats.contains(&format) && error.message().contains(part)
    };
    REASONS.iter().find(known).map(|(_, _, why)| *why)
}
