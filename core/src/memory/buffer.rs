//! Large buffers that are reused or returned to the system.
//!
//! General allocators keep freed memory per thread: with many buffers of megabytes that are allocated on one thread
//! and freed on another, a process holds a multiple of what it uses. These buffers are separate anonymous maps. A few
//! are kept for reuse, since touching new pages costs more than inflating into old ones.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use memmap2::MmapMut;

use crate::error::{Error, Result};

/// Shorter buffers come from the allocator.
const MAPPED: usize = 128 << 10;
/// Lengths are rounded up to this, so that buffers are interchangeable.
const ROUND: usize = 64 << 10;
/// Most bytes kept for reuse in the whole process, in addition to the budgets.
const KEPT: usize = 24 << 20;

static FREE: Mutex<Free> = Mutex::new(Free { maps: Vec::new(), bytes: 0 });

struct Free {
    maps: Vec<MmapMut>,
    bytes: usize,
}

/// A buffer of a fixed length. Its initial content is unspecified: zeros, or data of an earlier use.
#[derive(Debug)]
pub struct Buffer {
    held: Held,
    len: usize,
}

#[derive(Debug)]
enum Held {
    Small(Vec<u8>),
    /// `None` only during drop.
    Mapped(Option<MmapMut>),
}

impl Buffer {
    /// A buffer of `len` bytes.
    ///
    /// # Errors
    /// `out_of_memory` if the allocation fails.
    pub fn new(len: usize) -> Result<Self> {
        if len < MAPPED {
            return Ok(Self { held: Held::Small(vec![0; len]), len });
        }
        let room = len.next_multiple_of(ROUND);
        if let Some(map) = reuse(room) {
            return Ok(Self { held: Held::Mapped(Some(map)), len });
        }
        let map = MmapMut::map_anon(room).map_err(|error| no_memory(len, error))?;
        Ok(Self { held: Held::Mapped(Some(map)), len })
    }

    /// A buffer for `bytes` bytes of a range.
    ///
    /// # Errors
    /// `out_of_memory`, also if `bytes` exceeds the address space.
    pub fn for_bytes(bytes: u64) -> Result<Self> {
        Self::new(usize::try_from(bytes).map_err(|_| Error::out_of_memory(bytes))?)
    }

    /// Turns the buffer into bytes that can be shared. The memory is returned with the last slice of them.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

/// `len` zeros that take almost no memory: their pages are never written, so the system maps one zero page for all.
///
/// # Errors
/// See [`Buffer::new`].
pub fn zeros(len: usize) -> Result<Bytes> {
    if len < MAPPED {
        return Ok(Bytes::from(vec![0; len]));
    }
    let map =
        MmapMut::map_anon(len).and_then(MmapMut::make_read_only).map_err(|error| no_memory(len, error))?;
    Ok(Bytes::from_owner(map))
}

fn no_memory(len: usize, error: std::io::Error) -> Error {
    Error::out_of_memory(len as u64).caused_by(error)
}

/// A buffer that is filled from its start, piece by piece.
#[derive(Debug)]
pub(super) struct FillBuffer {
    buffer: Buffer,
    filled: usize,
}

impl FillBuffer {
    /// An empty buffer with a capacity of `bytes` bytes.
    ///
    /// # Errors
    /// See [`Buffer::for_bytes`].
    pub(super) fn for_bytes(bytes: u64) -> Result<Self> {
        Ok(Self { buffer: Buffer::for_bytes(bytes)?, filled: 0 })
    }

    /// True if the buffer is full.
    pub(super) fn is_full(&self) -> bool {
        self.filled == self.buffer.len()
    }

    /// Appends `bytes`, as many as fit.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let room = self.buffer.get_mut(self.filled..).unwrap_or_default();
        let taken = bytes.len().min(room.len());
        room.split_at_mut(taken).0.copy_from_slice(bytes.split_at(taken).0);
        self.filled += taken;
    }

    /// The filled part, as bytes that can be shared.
    pub(super) fn freeze(self) -> Bytes {
        self.buffer.freeze().slice(..self.filled)
    }
}

/// The smallest cached map that fits without wasting half of it.
fn reuse(room: usize) -> Option<MmapMut> {
    let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
    let fits = |map: &MmapMut| map.len() >= room && map.len() / 2 <= room;
    let candidates = free.maps.iter().enumerate().filter(|(_, map)| fits(map));
    let (index, _) = candidates.min_by_key(|(_, map)| map.len())?;
    let map = free.maps.swap_remove(index);
    free.bytes -= map.len();
    Some(map)
}

impl std::ops::Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.held {
            Held::Small(bytes) => bytes,
            Held::Mapped(map) => map.as_deref().and_then(|map| map.get(..self.len)).unwrap_or_default(),
        }
    }
}

impl std::ops::DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.held {
            Held::Small(bytes) => bytes,
            Held::Mapped(map) => {
                map.as_deref_mut().and_then(|map| map.get_mut(..self.len)).unwrap_or_default()
            }
        }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Held::Mapped(map) = &mut self.held else { return };
        let Some(map) = map.take() else { return };
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        // The oldest maps are unmapped first: the newest are most likely in the CPU caches.
        free.bytes += map.len();
        free.maps.push(map);
        while free.bytes > KEPT {
            let oldest = free.maps.remove(0);
            free.bytes -= oldest.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_has_the_requested_length_and_its_memory_is_reused() {
        for len in [0, 1, MAPPED - 1, MAPPED, MAPPED + 1, 3 << 20] {
            let mut buffer = Buffer::new(len).unwrap();
            assert_eq!(buffer.len(), len);
            buffer.fill(7);
            let bytes = buffer.freeze();
            assert!(bytes.len() == len && bytes.iter().all(|byte| *byte == 7));
        }
        for len in [0, 1, MAPPED, 3 << 20] {
            assert!(zeros(len).unwrap() == vec![0; len]);
        }
        for _ in 0..100 {
            drop(Buffer::new(8 << 20).unwrap());
        }
        let free = FREE.lock().unwrap();
        assert!(free.bytes <= KEPT);
        assert_eq!(free.bytes, free.maps.iter().map(|map| map.len()).sum::<usize>());
    }
}
