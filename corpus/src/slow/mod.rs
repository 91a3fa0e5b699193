//! Slow, simple readers of every format, as references for diskferry's readers.
//!
//! They are written from the specifications and share no code with diskferry, not even decompressors. The whole image is in
//! memory. Each unit (cluster, sector, grain) is looked up from the header down; nothing is merged, cached or read ahead.
//! They check only the entries that a read needs. They therefore accept more images than diskferry does, but if both accept
//! an image, both must read the same bytes.
//!
//! They never panic. An inconsistent image gives `None`, without a reason.

mod bytes;
pub mod codec;
mod descriptor;
mod esx;
mod hosted;
mod qcow2;
mod tail;
mod vhd;
mod vmdk;

/// The files of an image with their names; the one to open comes first.
pub type Files<'a> = &'a [(&'a str, &'a [u8])];

/// A guest disk, read as the format's specification defines.
pub struct Disk<'a>(Kind<'a>);

enum Kind<'a> {
    Raw(&'a [u8]),
    Vhd(vhd::Image<'a>),
    Qcow2(qcow2::Image<'a>),
    Vmdk(vmdk::Image<'a>),
}

/// Opens an image of `format`, named as on diskferry's command line.
pub fn open<'a>(format: &str, files: Files<'a>) -> Option<Disk<'a>> {
    let (_, image) = *files.first()?;
    Some(Disk(match format {
        "raw" => Kind::Raw(image),
        "vhd" => Kind::Vhd(vhd::open(image)?),
        "qcow2" => Kind::Qcow2(qcow2::open(image)?),
        "vmdk" => Kind::Vmdk(vmdk::open(files)?),
        _ => return None,
    }))
}

impl Disk<'_> {
    /// Size of the guest disk, in bytes.
    pub fn virtual_bytes(&self) -> u64 {
        match &self.0 {
            Kind::Raw(image) => image.len() as u64,
            Kind::Vhd(image) => image.size,
            Kind::Qcow2(image) => image.size,
            Kind::Vmdk(image) => image.size,
        }
    }

    /// Reads `len` guest bytes at `at`.
    pub fn read(&self, at: u64, len: u64) -> Option<Vec<u8>> {
        let end = at.checked_add(len).filter(|end| *end <= self.virtual_bytes())?;
        let mut out = Vec::new();
        let mut at = at;
        while at < end {
            let (start, unit) = self.unit(at)?;
            let from = usize::try_from(at.checked_sub(start)?).ok()?;
            let rest = unit.get(from..).filter(|rest| !rest.is_empty())?;
            let wanted = usize::try_from(end - at).ok()?.min(rest.len());
            out.extend_from_slice(rest.get(..wanted)?);
            at = at.checked_add(wanted as u64)?;
        }
        Some(out)
    }

    /// Returns the unit that contains the guest byte `at`, clipped to the disk, and its start.
    fn unit(&self, at: u64) -> Option<(u64, Vec<u8>)> {
        match &self.0 {
            Kind::Raw(image) => {
                Some((at, bytes::slice(image, at, 512.min(image.len() as u64 - at))?.to_vec()))
            }
            Kind::Vhd(image) => image.sector(at, true),
            Kind::Qcow2(image) => image.cluster(at),
            Kind::Vmdk(image) => image.unit(at),
        }
    }
}

/// Reads a dynamic VHD without applying its sector bitmaps, as some other readers do.
pub fn vhd_without_bitmaps(image: &[u8], at: u64, len: u64) -> Option<Vec<u8>> {
    let disk = vhd::open(image)?;
    let mut out = Vec::new();
    let end = at.checked_add(len).filter(|end| *end <= disk.size)?;
    let mut at = at;
    while at < end {
        let (start, sector) = disk.sector(at, false)?;
        let rest = sector.get(usize::try_from(at - start).ok()?..)?;
        let wanted = usize::try_from(end - at).ok()?.min(rest.len());
        out.extend_from_slice(rest.get(..wanted)?);
        at = at.checked_add(wanted as u64)?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_reads_as_its_raw_disk() {
        let raw = |disk: &str| {
            let sample = crate::samples().iter().find(|sample| sample.disk == disk && sample.format == "raw");
            sample.map(|sample| sample.bytes())
        };
        let mut compared = 0;
        for sample in crate::samples() {
            let disk = open(sample.format, sample.files).unwrap_or_else(|| panic!("{} opens", sample.name));
            assert_eq!(disk.virtual_bytes(), sample.virtual_bytes, "{}", sample.name);
            let Some(truth) = raw(sample.disk) else { continue };
            let guest = disk.read(0, disk.virtual_bytes()).unwrap_or_else(|| panic!("{} reads", sample.name));
            assert!(guest == truth, "{}", sample.name);
            compared += 1;
        }
        assert!(compared > 8, "only {compared} samples have a raw disk to compare with");
    }

    #[test]
    fn truncated_samples_do_not_panic() {
        for sample in crate::samples().iter().filter(|sample| sample.format != "raw") {
            let image = sample.bytes();
            for len in (0..image.len().min(4096)).step_by(61).chain((0..image.len()).step_by(30_011)) {
                let files: Vec<(&str, &[u8])> = vec![("image", &image[..len])];
                if let Some(disk) = open(sample.format, &files) {
                    let most = disk.virtual_bytes().min(1 << 20);
                    let _ = disk.read(0, most);
                    let _ = disk.read(disk.virtual_bytes() - most, most);
                }
            }
        }
    }
}
