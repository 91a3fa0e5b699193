//! Options of the server.

use super::fault_connection::Shape;

/// Options of a [`Server`](super::Server).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ServerOptions {
    /// Unsigned GETs and HEADs are allowed.
    pub public: bool,
    /// The region that it states for its buckets; none if `None`.
    pub region: Option<String>,
    /// Speed of the link.
    pub shape: Shape,
}

setters!(ServerOptions { public: bool, region: Option<String>, shape: Shape });
