//! The result of a read or write by the ring.

/// The result of a request, with its returned buffers.
#[derive(Debug)]
pub(crate) struct Moved<T> {
    pub(crate) data: T,
    /// The number of bytes that are done, from the start. If some are missing, the plain call reports why.
    pub(crate) done: usize,
}
