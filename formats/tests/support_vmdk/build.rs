//! Builds streams by hand, as the specification draws them.
