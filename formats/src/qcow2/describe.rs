//! The description of an image without a walk: its features, refusals and warnings.

use diskferry_core::internal::read_up_to;
use diskferry_core::{ErrorKind, ImageInfo, Refusal, Result, Source, Warning, Warnings};

use super::header::{Compression, Encryption, Header, Version, field};
use super::snapshots;
use crate::format::Format;

/// Bytes of the snapshot table that are read.
const SNAPSHOTS_SEEN: u64 = 64 << 10;

/// External files or keys that the image needs.
pub(super) async fn refusals(file: &dyn Source, header: &Header) -> Result<Vec<Refusal>> {
    let mut refusals = Vec::new();
    if let Some(place) = header.backing_name {
        let name = file.read(place).await?;
        let name = String::from_utf8_lossy(&name);
        let format = header.extensions.backing_format.as_ref();
        let format = format.map(|format| format!(" of format {format:?}")).unwrap_or_default();
        refusals.push(
            Refusal::new(
                ErrorKind::BackingFileRefused,
                format!("the image is a difference to the backing file {name:?}{format}"),
            )
            .hint("flatten it on a host with the backing file: qemu-img convert -O qcow2")
            .at(field::BACKING_FILE_OFFSET),
        );
    }
    if header.external_data {
        let name = header.extensions.data_file.as_ref();
        let name = name.map(|name| format!(" {name:?}")).unwrap_or_default();
        refusals.push(
            Refusal::new(
                ErrorKind::ExternalDataRefused,
                format!("the image stores its data in another file{name}"),
            )
            .hint("merge both into one file on a host with the data file: qemu-img convert -O qcow2")
            .at(field::INCOMPATIBLE),
        );
    }
    if let Some(encryption) = header.encryption {
        let method = match encryption {
            Encryption::Aes => "AES",
            Encryption::Luks => "LUKS",
        };
        refusals.push(
            Refusal::new(ErrorKind::EncryptedRefused, format!("the image is encrypted with {method}"))
                .hint("decrypt it on a host with the key: qemu-img convert")
                .at(field::CRYPT_METHOD),
        );
    }
    Ok(refusals)
}

/// The features of the image.
pub(super) fn info(header: &Header) -> ImageInfo {
    let mut features = vec![match header.compression {
        Compression::Zlib => "compression: zlib".to_owned(),
        Compression::Zstd => "compression: zstd".to_owned(),
    }];
    features.push(format!("refcount_bits: {}", header.refcount_bits));
    let mut flag = |set: bool, name: &str| {
        if set {
            features.push(name.to_owned());
        }
    };
    flag(header.grid.extended_l2(), "extended_l2");
    flag(header.lazy_refcounts, "lazy_refcounts");
    flag(header.backing_name.is_some(), "backing_file");
    flag(header.external_data, "data_file");
    flag(header.encryption == Some(Encryption::Aes), "encryption: aes");
    flag(header.encryption == Some(Encryption::Luks), "encryption: luks");
    if let Some(table) = header.snapshots {
        features.push(format!("snapshots: {}", table.count));
    }
    if header.extensions.bitmaps > 0 {
        features.push(format!("bitmaps: {}", header.extensions.bitmaps));
    }
    ImageInfo::default()
        .format(Format::Qcow2.name())
        .variant(match header.version {
            Version::V2 => "v2".to_owned(),
            Version::V3 => "v3".to_owned(),
        })
        .virtual_bytes(header.virtual_bytes)
        .cluster_bytes(Some(header.grid.cluster_bytes()))
        .features(features)
}

/// Warnings about the image as a whole.
pub(super) async fn warn(file: &dyn Source, header: &Header, warnings: &Warnings) -> Result<()> {
    if header.dirty {
        warnings.add(Warning::new(
            "dirty",
            "the image was not closed: its reference counts may be wrong, but reading does not use them",
        ));
    }
    if header.corrupt {
        warnings.add(Warning::new(
            "corrupt",
            "the image is marked corrupt: each entry is checked when it is used",
        ));
    }
    if let Some(table) = header.snapshots {
        let start = read_up_to(file, table.at, SNAPSHOTS_SEEN).await?;
        let seen = snapshots::parse(&start, table.count);
        let names: Vec<String> = seen.iter().take(8).map(|snapshot| format!("{:?}", snapshot.name)).collect();
        warnings.add(Warning::new(
            "snapshots_not_converted",
            format!(
                "{} internal snapshots are not part of the active disk: {}{}",
                table.count,
                names.join(", "),
                if u64::from(table.count) > names.len() as u64 { ", …" } else { "" }
            ),
        ));
        let states = seen.iter().filter(|snapshot| snapshot.vm_state_bytes > 0);
        let bytes = states.clone().fold(0u64, |sum, state| sum.saturating_add(state.vm_state_bytes));
        if bytes > 0 {
            warnings.add(Warning::new(
                "vm_state_not_converted",
                format!("{} snapshots hold {bytes} bytes of a machine's state", states.count()),
            ));
        }
    }
    if header.extensions.bitmaps > 0 {
        let stale = if header.bitmaps_consistent { "" } else { "; they are not up to date" };
        warnings.add(Warning::new(
            "bitmaps_not_converted",
            format!("{} persistent bitmaps are not converted{stale}", header.extensions.bitmaps),
        ));
    }
    Ok(())
}
