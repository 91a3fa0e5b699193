//! Why ours refuses what the slow reader reads: by what the message says.

use diskferry_core::{Error, ErrorKind};
use diskferry_formats::Format;

const ANY: &[Format] = &Format::ALL;
const QCOW2: &[Format] = &[Format::Qcow2];
const VHD: &[Format] = &[Format::Vhd];
const VMDK: &[Format] = &[Format::Vmdk];

/// What a message has in it, of which formats, and why that is refused.
const REASONS: &[(&[Format], &str, &str)] = &[
    (ANY, "the object is valid both as", "valid as two formats: nobody can say which was meant"),
    (ANY, "the image is declared", "the marks of the declared format are not where it has them"),
    (QCOW2, "header_length is", "the header must lie in its cluster"),
    (QCOW2, "header extension", "extensions must lie in the header's cluster"),
    (QCOW2, "the bitmaps extension", "an extension contradicts its kind"),
    (QCOW2, "refcount", "a refcount table must be there, though reading needs none"),
    (QCOW2, "the L1 table", "tables are aligned, apart from each other and whole"),
    (QCOW2, "l1_size is", "the L1 table is as long as the disk needs, and bounded"),
    (QCOW2, "snapshot", "the snapshot table is bounded and lies in the object"),
    (QCOW2, "compression", "the compression type is said twice, and both must agree"),
    (QCOW2, "reserved bits", "reserved bits may mean what we do not know"),
    (QCOW2, "zero flag", "a flag that the version or the kind of entry does not have"),
    (QCOW2, "which is no cluster of", "tables are aligned, behind the header"),
    (QCOW2, "no multiple of the cluster size", "clusters and tables are aligned"),
    (QCOW2, "and the object ends at", "a table must be there as far as the disk uses it"),
    (QCOW2, ", inside ", "an entry must not lead into metadata"),
    (QCOW2, "extended L2 entries need", "a sub-cluster is at least a sector"),
    (QCOW2, "sub-cluster", "a compressed cluster has no sub-clusters"),
    (QCOW2, "beyond 56 bits", "offsets have 56 bits"),
    (QCOW2, "ends in zeros from", "zeros may be what never came, and not what was never written"),
    (QCOW2, "many share one", "work beyond what the object can hold"),
    (VHD, "overlap", "blocks lie apart from each other and from the metadata"),
    (VHD, "max_table_entries is", "the table is as long as the disk needs, and bounded"),
    (VHD, "version is", "another major version may mean anything"),
    (VHD, "data_offset is", "the header lies apart from the footers"),
    (VHD, "block allocation table", "the table lies in the object, apart from the rest"),
    (VHD, "the footer at the end is missing", "zeros may be what never came, and not what was never written"),
    (VHD, "the object ends at", "a block must be there as a whole"),
    (VMDK, "contradict each other", "the text and the header must agree"),
    (VMDK, "createType", "the text must say a kind of disk that is known"),
    (VMDK, "descriptor version", "another version may mean anything"),
    (VMDK, "the descriptor says", "a key that stands twice has one value"),
    (VMDK, "of the descriptor", "a line of the text must be what such a line is"),
    (VMDK, "the descriptor gives the extent", "the text and the header must agree on the size"),
    (VMDK, "the descriptor is", "a text must be plain"),
    (VMDK, "encoding", "a name must be in an encoding that is known"),
    (VMDK, "the descriptor has", "the text has a bounded length"),
    (VMDK, "of compressed", "a compressed unit is bounded"),
    (VMDK, "other data begins", "two grains overlap"),
    (VMDK, ": it points to", "text, directories, tables and grains lie apart from each other"),
    (VMDK, "grain directory", "directories and tables lie in the object"),
    (VMDK, "more than twice a grain", "no deflate stream of a grain needs so much"),
    (VMDK, "many share one", "work beyond what the object can hold"),
];

/// Why an image of a format is refused with this error that somebody could read.
pub(crate) fn reason(format: Format, error: &Error) -> Option<&'static str> {
    if error.kind() == ErrorKind::Internal {
        return None;
    }
    let known = |(formats, part, _): &&(&[Format], &str, &str)| {
        formats.contains(&format) && error.message().contains(part)
    };
    REASONS.iter().find(known).map(|(_, _, why)| *why)
}
