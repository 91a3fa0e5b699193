//! Confines the process with Landlock before it reads any image data.
//!
//! The arguments determine every path that the run can open:
//!
//! - the source and its directory,
//! - the directory of the target,
//! - for a remote source or target, the files that the resolver, TLS and the AWS SDK read.
//!
//! The kernel denies access to all other paths. Executing programs is denied too, unless an AWS profile names a
//! `credential_process`. If neither source nor target is remote, TCP is denied. Landlock applies to the calling thread and
//! its descendants, so [`confine`] must run before the process starts other threads.
//!
//! This is a second line of defence: the readers do not open files that an image names. A kernel without Landlock is
//! therefore logged and is not an error.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use crate::args::{Cli, Command, SourceArgs};
use crate::destination::{self, Destination};
use crate::source::{self, Location};

/// The newest Landlock ABI that is used. An older kernel restricts the accesses that it knows.
const KNOWN: ABI = ABI::V6;

/// The paths that a run opens.
#[derive(Default, PartialEq, Eq, Debug)]
struct Needs {
    /// Files and directories to read; a directory includes its contents.
    read: Vec<PathBuf>,
    /// Directories in which a target is created.
    write: Vec<PathBuf>,
    /// Block devices to write.
    devices: Vec<PathBuf>,
    /// The source or the target is a URL.
    remote: bool,
}

impl Needs {
    fn source(&mut self, src: &OsStr) {
        // A source that does not parse fails the run later.
        match source::parse(src) {
            Ok(Location::Path(path)) => {
                self.read.push(directory(&path));
                // A symbolic link may point outside the directory.
                self.read.push(path);
            }
            Ok(Location::Url(_)) => self.remote = true,
            Ok(Location::StandardInput) | Err(_) => {}
        }
    }

    fn destination(&mut self, dst: &OsStr) {
        match destination::parse(dst) {
            Ok(Destination::File(path)) => self.write.push(directory(&path)),
            Ok(Destination::Device(path)) => {
                self.devices.push(path);
                self.read.push("/sys/dev/block".into());
                self.read.push("/sys/devices".into());
            }
            Ok(Destination::S3(_)) => self.remote = true,
            Ok(Destination::StandardOutput) | Err(_) => {}
        }
    }

    /// Returns the paths that `command` opens; none if they are not known in advance.
    fn of(command: &Command) -> Option<Self> {
        let mut needs = Self::default();
        match command {
            Command::Info(one) | Command::Map(one) | Command::Digest(one) => needs.source(&one.src),
            Command::Measure(args) => args.src.iter().for_each(|src| needs.source(src)),
            Command::Convert(args) => {
                args.src.iter().for_each(|src| needs.source(src));
                args.dst.iter().for_each(|dst| needs.destination(dst));
            }
            Command::Compare(args) => {
                needs.source(&args.a);
                needs.source(&args.b);
            }
            // The demo creates its own images and a temporary directory for its server.
            #[cfg(feature = "demo")]
            Command::Demo => return None,
        }
        if let Some(source) = source_args(command).filter(|_| needs.remote) {
            needs.read.extend(source.connection_files().cloned());
        }
        Some(needs)
    }
}

/// The options of the command's sources.
fn source_args(command: &Command) -> Option<&SourceArgs> {
    match command {
        Command::Info(one) | Command::Map(one) | Command::Digest(one) => Some(&one.source),
        Command::Measure(args) => Some(&args.source),
        Command::Convert(args) => Some(&args.source),
        Command::Compare(args) => Some(&args.source),
        #[cfg(feature = "demo")]
        Command::Demo => None,
    }
}

/// The directory that a path names something in.
fn directory(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Returns the files that the resolver, TLS and the AWS SDK read.
fn system_files() -> Vec<PathBuf> {
    let fixed = [
        // The resolver, and the C library modules that it loads.
        "/etc/resolv.conf",
        "/etc/hosts",
        "/etc/host.conf",
        "/etc/gai.conf",
        "/etc/nsswitch.conf",
        "/etc/services",
        "/etc/ld.so.cache",
        "/etc/ld.so.preload",
        "/lib",
        "/lib64",
        "/usr/lib",
        "/usr/lib64",
        "/run/systemd/resolve",
        // Certificates.
        "/etc/ssl",
        "/etc/pki",
        "/etc/ca-certificates",
        "/usr/share/ca-certificates",
        "/usr/local/share/ca-certificates",
    ];
    let named = [
        "SSL_CERT_FILE",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
        "AWS_CA_BUNDLE",
    ];
    let certificates = std::env::var_os("SSL_CERT_DIR").unwrap_or_default();
    let mut files: Vec<PathBuf> = fixed.iter().map(PathBuf::from).collect();
    files.extend(named.iter().filter_map(std::env::var_os).map(PathBuf::from));
    files.extend(std::env::split_paths(&certificates));
    files.extend(aws_files());
    files.extend(profile_bundles());
    files
}

/// The files of certificates that profiles name. Which profile is used is not known here.
fn profile_bundles() -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let bundle = |line: &str| {
        let (key, path) = line.split_once('=')?;
        let path = path.trim();
        if key.trim() != "ca_bundle" || path.is_empty() {
            return None;
        }
        Some(match (path.strip_prefix("~/"), &home) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => PathBuf::from(path),
        })
    };
    let configurations =
        aws_files().into_iter().map(|path| if path.is_dir() { path.join("config") } else { path });
    let texts = configurations.filter_map(|path| std::fs::read(path).ok());
    let texts: Vec<String> = texts.map(|text| String::from_utf8_lossy(&text).into_owned()).collect();
    texts.iter().flat_map(|text| text.lines()).filter_map(bundle).collect()
}

/// The AWS SDK's own files: configuration, credentials, tokens.
fn aws_files() -> Vec<PathBuf> {
    let home = |name: &str| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(name));
    let named = |name: &str| std::env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
    [named("AWS_CONFIG_FILE"), named("AWS_SHARED_CREDENTIALS_FILE"), home(".aws")]
        .into_iter()
        .flatten()
        .collect()
}

/// Returns true if an AWS profile uses a `credential_process`. Such a program may need any file.
fn needs_a_program() -> bool {
    let in_directory = |path: PathBuf| match path.is_dir() {
        true => vec![path.join("config"), path.join("credentials")],
        false => vec![path],
    };
    let text = |path: PathBuf| std::fs::read(path).unwrap_or_default();
    let names = |text: Vec<u8>| text.windows(18).any(|window| window == b"credential_process");
    aws_files().into_iter().flat_map(in_directory).map(text).any(names)
}

/// Denies all access that the run does not need. Logs the outcome; never fails.
pub(crate) fn confine(cli: &Cli) {
    let Some(needs) = Needs::of(&cli.command) else {
        tracing::info!("not confined: the demo creates its own images");
        return;
    };
    let program = needs.remote && needs_a_program();
    match close(&needs, program) {
        Ok(RulesetStatus::NotEnforced) => {
            tracing::info!("not confined: this kernel has no Landlock, or Landlock is disabled");
        }
        Ok(status) => tracing::info!(
            read = %listed(&needs.read),
            write = %listed(&[&needs.write[..], &needs.devices[..]].concat()),
            network = needs.remote,
            programs = program,
            partly = status == RulesetStatus::PartiallyEnforced,
            "confined by Landlock"
        ),
        Err(error) => tracing::info!(%error, "not confined"),
    }
}

fn listed(paths: &[PathBuf]) -> String {
    let names: Vec<String> =
        paths.iter().map(|path| diskferry_core::internal::printable(&path.to_string_lossy())).collect();
    if names.is_empty() { "nothing".to_owned() } else { names.join(" ") }
}

fn close(needs: &Needs, program: bool) -> Result<RulesetStatus, RulesetError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let target = read | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::MakeReg | AccessFs::RemoveFile;
    let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(KNOWN))?;
    // A `credential_process` may connect anywhere, so TCP is not restricted for remote runs.
    if !needs.remote {
        ruleset = ruleset.handle_access(AccessNet::from_all(KNOWN))?;
    }
    if !program {
        ruleset = ruleset.scope(Scope::from_all(KNOWN))?;
    }
    let mut rules: Vec<(PathBuf, BitFlags<AccessFs>)> = Vec::new();
    let mut allow = |paths: &[PathBuf], access| rules.extend(paths.iter().map(|path| (path.clone(), access)));
    allow(&needs.read, read);
    allow(&needs.write, target);
    allow(&needs.devices, device);
    // Needed to read the peak memory, and to reopen standard output.
    allow(&["/proc/self".into()], read);
    if needs.remote {
        allow(&system_files(), read);
    }
    if program {
        allow(&["/".into()], read | AccessFs::Execute);
    }
    let mut ruleset = ruleset.create()?;
    for (path, access) in rules {
        // A path that does not exist or cannot be opened needs no rule.
        let Ok(opened) = PathFd::new(&path) else { continue };
        let access = if path.is_dir() { access } else { access & AccessFs::from_file(KNOWN) };
        ruleset = ruleset.add_rule(PathBeneath::new(opened, access))?;
    }
    Ok(ruleset.restrict_self()?.ruleset)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use clap::Parser;

    use super::*;

    fn needs(args: &[&str]) -> Option<Needs> {
        let args = std::iter::once("diskferry").chain(args.iter().copied()).map(OsString::from);
        Needs::of(&Cli::try_parse_from(args).unwrap().command)
    }

    #[test]
    fn run_may_open_its_arguments_and_the_siblings_of_the_source() {
        let paths = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        let local = Needs { read: paths(&["a", "a/b.vmdk"]), write: paths(&["."]), ..Needs::default() };
        assert_eq!(needs(&["convert", "a/b.vmdk", "c.raw"]), Some(local));
        let remote = Needs { remote: true, write: paths(&["/d"]), ..Needs::default() };
        assert_eq!(needs(&["convert", "s3://b/k", "/d/c.raw"]), Some(remote));
        let both = Needs { read: paths(&[".", "x", "y", "y/z"]), ..Needs::default() };
        assert_eq!(needs(&["compare", "x", "y/z"]), Some(both));
        assert_eq!(needs(&["convert", "-f", "raw", "-", "-"]), Some(Needs::default()));
        let trusting = Needs { remote: true, read: paths(&["ca.pem"]), ..Needs::default() };
        assert_eq!(needs(&["info", "s3://b/k", "--ca-bundle", "ca.pem"]), Some(trusting));
        #[cfg(feature = "demo")]
        assert_eq!(needs(&["demo"]), None);
    }
}
