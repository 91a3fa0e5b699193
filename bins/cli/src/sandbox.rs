//! The program confines itself before it reads a byte of an image.
//!
//! From its arguments it knows all that it will ever open: the source and what lies beside it, the directory of the target,
//! and for anything remote what the resolver, TLS and the AWS SDK read. Everything else is closed to it by the
//! kernel (Landlock), for this thread and for all that it starts: it must be called before there is another one. Nothing is
//! executed, unless a profile of the AWS configuration names a `credential_process`; and without a remote end
//! no TCP connection can be made.
//!
//! It is a second wall: what an image names is not opened in the first place. So a kernel that has no Landlock is told of,
//! and no failure.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use crate::args::{Cli, Command, SourceArgs};
use crate::destination::{self, Destination};
use crate::source::{self, Location};

/// The accesses that are closed: those that the kernel of this version knew; older ones close what they know.
const KNOWN: ABI = ABI::V6;

/// What a run will open.
#[derive(Default, PartialEq, Eq, Debug)]
struct Needs {
    /// To be read; a directory with all that is in it.
    read: Vec<PathBuf>,
    /// Directories in which a target appears.
    write: Vec<PathBuf>,
    /// Block devices to be written.
    devices: Vec<PathBuf>,
    /// Something lies behind a URL.
    remote: bool,
}

impl Needs {
    fn source(&mut self, src: &OsStr) {
        // What does not parse ends the run by itself.
        match source::parse(src) {
            Ok(Location::Path(path)) => {
                self.read.push(directory(&path));
                // A link may lead elsewhere.
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

    /// What `command` will open; none where that is not known before.
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
            // It makes its own images, and a server in a directory of its own.
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

/// What resolving names, TLS and the AWS SDK read.
fn system_files() -> Vec<PathBuf> {
    let fixed = [
        // The resolver, and the modules of the C library that it loads.
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

/// True where a profile gets its credentials from a program, which may need anything.
fn needs_a_program() -> bool {
    let in_directory = |path: PathBuf| match path.is_dir() {
        true => vec![path.join("config"), path.join("credentials")],
        false => vec![path],
    };
    let text = |path: PathBuf| std::fs::read(path).unwrap_or_default();
    let names = |text: Vec<u8>| text.windows(18).any(|window| window == b"credential_process");
    aws_files().into_iter().flat_map(in_directory).map(text).any(names)
}

/// Closes what the run does not need. Tells how that went; never fails.
pub(crate) fn confine(cli: &Cli) {
    let Some(needs) = Needs::of(&cli.command) else {
        tracing::info!("not confined: the demo makes its own images");
        return;
    };
    let program = needs.remote && needs_a_program();
    match close(&needs, program) {
        Ok(RulesetStatus::NotEnforced) => {
            tracing::info!("not confined: this kernel has no Landlock, or it is off");
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
    // A program for credentials may talk to whom it likes.
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
    // How much memory was used at most is read there, and standard output is opened once more.
    allow(&["/proc/self".into()], read);
    if needs.remote {
        allow(&system_files(), read);
    }
    if program {
        allow(&["/".into()], read | AccessFs::Execute);
    }
    let mut ruleset = ruleset.create()?;
    for (path, access) in rules {
        // What is not there needs no rule, and what cannot be opened none either.
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
    fn a_run_may_open_what_its_arguments_name_and_what_lies_beside_the_source() {
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
