//! Image formats and variants, with the names and options of each program.

/// A format and variant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Form {
    Raw,
    Plain,
    Zlib,
    Zstd,
    Vhd,
    SparseVmdk,
    StreamVmdk,
}

impl Form {
    /// Its name in the tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Plain => "plain QCOW2",
            Self::Zlib => "zlib QCOW2",
            Self::Zstd => "zstd QCOW2",
            Self::Vhd => "dynamic VHD",
            Self::SparseVmdk => "sparse VMDK",
            Self::StreamVmdk => "streamOptimized",
        }
    }

    /// qemu-img's name for the format.
    pub(crate) fn qemu(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Plain | Self::Zlib | Self::Zstd => "qcow2",
            Self::Vhd => "vpc",
            Self::SparseVmdk | Self::StreamVmdk => "vmdk",
        }
    }

    /// qemu-img's options to write it.
    pub(crate) fn qemu_target(self) -> &'static [&'static str] {
        match self {
            Self::Raw => &["-O", "raw"],
            Self::Plain => &["-O", "qcow2"],
            Self::Zlib => &["-O", "qcow2", "-c", "-o", "compression_type=zlib"],
            Self::Zstd => &["-O", "qcow2", "-c", "-o", "compression_type=zstd"],
            Self::Vhd => &["-O", "vpc", "-o", "subformat=dynamic,force_size=on"],
            Self::SparseVmdk => &["-O", "vmdk", "-o", "subformat=monolithicSparse"],
            Self::StreamVmdk => &["-O", "vmdk", "-o", "subformat=streamOptimized"],
        }
    }

    /// diskferry's name for the format.
    pub(crate) fn ours(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Plain | Self::Zlib | Self::Zstd => "qcow2",
            Self::Vhd => "vhd",
            Self::SparseVmdk | Self::StreamVmdk => "vmdk",
        }
    }

    /// diskferry's options to write it.
    pub(crate) fn our_target(self) -> &'static [&'static str] {
        match self {
            Self::Raw => &["-O", "raw"],
            Self::Plain => &["-O", "qcow2"],
            Self::Zlib => &["-O", "qcow2", "-o", "compression=zlib"],
            Self::Zstd => &["-O", "qcow2", "-o", "compression=zstd"],
            Self::Vhd => &["-O", "vhd"],
            Self::SparseVmdk => &["-O", "vmdk", "-o", "subformat=monolithicSparse"],
            Self::StreamVmdk => &["-O", "vmdk", "-o", "subformat=streamOptimized"],
        }
    }

    /// Returns true if its units are compressed.
    pub(crate) fn is_coded(self) -> bool {
        matches!(self, Self::Zlib | Self::Zstd | Self::StreamVmdk)
    }
}
