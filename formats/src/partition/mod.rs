//! Partition tables and file-system signatures.
