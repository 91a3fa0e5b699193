//! The S3 store of the server: objects as files.

use std::io;
use std::path::Path;

use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;

pub(super) const ACCESS_KEY: &str = "DISKFERRYEMBEDDED";
pub(super) const SECRET_KEY: &str = "embedded-server-of-diskferry-not-a-secret";

/// Objects in a directory.
pub(super) struct BackingStore {
    /// Checks signatures.
    pub(super) signed: S3Service,
    /// Does not.
    pub(super) open: S3Service,
}

impl BackingStore {
    pub(super) fn new(root: &Path) -> io::Result<Self> {
        let files = || FileSystem::new(root).map_err(|error| io::Error::other(format!("{error:?}")));
        let mut signed = S3ServiceBuilder::new(files()?);
        signed.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        Ok(Self { signed: signed.build(), open: S3ServiceBuilder::new(files()?).build() })
    }
}
