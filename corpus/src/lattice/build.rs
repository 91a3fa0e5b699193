//! Builds images: writes bytes at offsets, and computes the encodings and checksums that formats use.

/// A buffer that grows when it is written past its end.
#[derive(Clone, Default)]
pub(super) struct Image(pub(super) Vec<u8>);

impl Image {
    pub(super) fn new(len: usize) -> Self {
        Self(vec![0; len])
    }

    pub(super) fn put(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
        if self.0.len() < at + bytes.len() {
            self.0.resize(at + bytes.len(), 0);
        }
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    pub(super) fn be32(&mut self, at: usize, number: u32) -> &mut Self {
        self.put(at, &number.to_be_bytes())
    }

    pub(super) fn be64(&mut self, at: usize, number: u64) -> &mut Self {
        self.put(at, &number.to_be_bytes())
    }

    pub(super) fn le32(&mut self, at: usize, number: u32) -> &mut Self {
        self.put(at, &number.to_le_bytes())
    }

    pub(super) fn le64(&mut self, at: usize, number: u64) -> &mut Self {
        self.put(at, &number.to_le_bytes())
    }
}

/// Guest data: no zero bytes, no two equal sectors, and no magic number or table of any format.
pub(super) fn guest(len: usize) -> Vec<u8> {
    (0..len)
        .map(|at| if at % 512 == 0 { 0x20 | (at / 512 % 32) as u8 } else { 0x60 | (at % 29) as u8 })
        .collect()
}

/// A deflate stream (RFC 1951) of one stored block.
pub(super) fn deflate(bytes: &[u8]) -> Vec<u8> {
    let len = u16::try_from(bytes.len()).expect("the unit is short");
    let mut out = vec![1];
    out.extend(len.to_le_bytes());
    out.extend((!len).to_le_bytes());
    out.extend(bytes);
    out
}

/// A zlib stream (RFC 1950) of one stored block.
pub(super) fn zlib(bytes: &[u8]) -> Vec<u8> {
    let (a, b) = bytes.iter().fold((1u32, 0u32), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65_521;
        (a, (b + a) % 65_521)
    });
    let mut out = vec![0x78, 0x01];
    out.extend(deflate(bytes));
    out.extend((b << 16 | a).to_be_bytes());
    out
}

/// The CRC-32 of the GUID partition table, IEEE 802.3.
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(
            crc ^ u32::from(*byte),
            |crc, _| {
                if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 }
            },
        )
    })
}
