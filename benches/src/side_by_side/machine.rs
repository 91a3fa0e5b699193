//! Describes the measuring machine: properties that affect speed, without host names.

use std::fs;
use std::num::NonZero;
use std::path::Path;
use std::process::Command;

use crate::failure::Result;
use crate::run::run;
use crate::tools;

/// Describes the machine and the versions of the programs.
///
/// # Errors
/// If a program does not print its version.
pub(crate) fn described(program: &Path) -> Result<String> {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let model = fact("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned());
    let memory = fact("/proc/meminfo", "MemTotal")
        .and_then(|total| total.trim_end_matches("kB").trim().parse::<u64>().ok())
        .map_or_else(String::new, |kib| format!(", {} GiB of memory", (kib + (1 << 19)) >> 20));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let ours = run(Command::new(program).arg("--version"))?.out;
    let qemu = run(Command::new(tools::qemu_img()?).arg("--version"))?.out;
    let qemu = qemu.lines().next().unwrap_or_default();
    let qemu = qemu.split(" (").next().unwrap_or_default();
    Ok(format!("{cores} cores ({model}){memory}, Linux {}; {ours}, {qemu}", kernel.trim()))
}

/// Returns the value of the first line `NAME : VALUE`.
fn fact(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'))?;
    Some(value.trim().to_owned())
}
