//! The content ID of a VMDK.

use diskferry_core::internal::sha256;

use crate::format::Format;

/// The `longContentID` of a disk. Its last four bytes are the CID.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ContentId(pub(crate) [u8; 16]);

impl ContentId {
    /// The CID.
    pub(crate) fn cid(self) -> u32 {
        let [.., a, b, c, d] = self.0;
        u32::from_be_bytes([a, b, c, d])
    }

    /// True if the CID has a special meaning: no parent, a disk that was never written, or nothing.
    pub(crate) fn is_reserved(self) -> bool {
        matches!(self.cid(), 0 | 0xffff_fffe | 0xffff_ffff)
    }

    /// Derives an ID from the source and the size of the disk, and from nothing else.
    pub(crate) fn derived(variant: &str, virtual_bytes: u64, fingerprint: &[u8; 32]) -> Self {
        let size = virtual_bytes.to_le_bytes();
        let hash = sha256(&[Format::Vmdk.name().as_bytes(), variant.as_bytes(), &size, fingerprint]);
        let mut id = [0; 16];
        id.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
        if Self(id).is_reserved() {
            id.iter_mut().skip(12).take(1).for_each(|byte| *byte ^= 0x10);
        }
        Self(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmdk::options::VmdkOptions;

    #[test]
    fn a_derived_id_never_ends_in_a_reserved_cid() {
        for cid in [0u32, 0xffff_fffe, 0xffff_ffff] {
            let mut id = [7; 16];
            id[12..].copy_from_slice(&cid.to_be_bytes());
            assert!(ContentId(id).is_reserved());
            assert!(VmdkOptions::default().id(Some(id)).content_id().is_err());
            id[12] ^= 0x10;
            assert!(!ContentId(id).is_reserved());
        }
    }

    #[test]
    fn an_id_depends_on_the_source_and_the_size() {
        let one = ContentId::derived("streamOptimized", 512, &[1; 32]);
        assert_eq!(one, ContentId::derived("streamOptimized", 512, &[1; 32]));
        for other in [
            ContentId::derived("monolithicSparse", 512, &[1; 32]),
            ContentId::derived("streamOptimized", 1024, &[1; 32]),
            ContentId::derived("streamOptimized", 512, &[2; 32]),
        ] {
            assert_ne!(one, other);
        }
    }
}
