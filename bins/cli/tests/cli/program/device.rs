//! Block devices as targets, tested with loop devices.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use diskferry_corpus::tools::command;

use crate::program::support::{Dir, Said, noise, program};

/// A loop device over a file; detached on drop.
struct Loop(PathBuf);

impl Loop {
    fn over(file: &Path) -> Self {
        let output = command("losetup").args(["--find", "--show"]).arg(file).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "losetup needs root, and loop devices of the kernel: {message}");
        Self(PathBuf::from(String::from_utf8(output.stdout).unwrap().trim()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = command("losetup").arg("--detach").arg(&self.0).status();
    }
}

#[test]
fn conversion_refused_at_its_start_leaves_the_device_unchanged() {
    let dir = Dir::new();
    let old = noise(4 << 20);
    let device = Loop::over(&dir.file("disk", &old));
    let new: Vec<u8> = noise(1 << 20).into_iter().rev().collect();
    let image = dir.file("image.raw", &new);
    let convert = |options: &[&str]| {
        let mut command = program();
        command.args(["convert", "-", "-f", "raw", "--json"]).args(options).arg(&device.0);
        command.stdin(Stdio::from(std::fs::File::open(&image).unwrap()));
        Said::of(command.output().unwrap())
    };
    // The length of the metadata before the blocks depends on the disk size, which a raw stream shows only at its end.
    let refused = convert(&["-O", "vhd"]).ends(6);
    assert_eq!(refused.error()["code"], "destination_unsuitable");
    assert!(std::fs::read(&device.0).unwrap() == old, "not a byte of the device was changed");
    convert(&["-O", "raw"]).ends(0);
    assert!(std::fs::read(&device.0).unwrap()[..1 << 20] == new, "an accepted conversion is written");
}
