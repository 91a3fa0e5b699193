//! The outcome of a read or write by the ring.

/// What a request brought, and what it was given back.
#[derive(Debug)]
pub(crate) struct Moved<T> {
    pub(crate) data: T,
    /// How many bytes from the start are done. If these are not all of them, the plain call tells why.
    pub(crate) done: usize,
}
