//! Files for the disk: programs and libraries of the machine in path order, up to a total size.

use std::fs;
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Result};

/// Directories of programs and libraries.
const ROOTS: [&str; 2] = ["/usr/bin", "/usr/lib"];

/// Stages the files below `staged`, as hard links if possible.
///
/// # Errors
/// If there are too few files, or `staged` cannot be written.
pub(crate) fn stage(staged: &Path, bytes: u64) -> Result<()> {
    if staged.exists() {
        fs::remove_dir_all(staged).map_err(Failure::at("removing", staged))?;
    }
    let mut left = bytes;
    // Half of the bytes from each root; the second root also fills the first one's shortfall.
    for (index, root) in ROOTS.iter().enumerate() {
        let share = if index + 1 == ROOTS.len() { left } else { bytes / ROOTS.len() as u64 };
        let taken = take(Path::new(root), staged, share)?;
        left = left.saturating_sub(taken);
    }
    // A small shortfall does not matter; a machine with hardly any files does.
    if left > bytes / 4 {
        return Err(Failure::Odd(format!(
            "{} have {} bytes of readable files, but {bytes} are required; use a smaller --content",
            ROOTS.join(" and "),
            bytes - left
        )));
    }
    Ok(())
}

/// Stages files of `root` in path order while they fit. Returns their total size.
fn take(root: &Path, staged: &Path, bytes: u64) -> Result<u64> {
    let mut taken = 0;
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        // Unreadable entries are skipped.
        let Ok(facts) = fs::symlink_metadata(&path) else { continue };
        if facts.is_dir() {
            let Ok(entries) = fs::read_dir(&path) else { continue };
            let mut names: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
            // A stack: entries are reversed, because the last one is visited first.
            names.sort_unstable_by(|a, b| b.cmp(a));
            waiting.extend(names);
        } else if facts.is_file() && facts.len() <= bytes - taken && place(&path, staged)? {
            taken += facts.len();
            if taken == bytes {
                break;
            }
        }
    }
    Ok(taken)
}

/// Returns false if the file cannot be read.
fn place(path: &Path, staged: &Path) -> Result<bool> {
    let to = staged.join(path.strip_prefix("/").unwrap_or(path));
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).map_err(Failure::at("making", parent))?;
    }
    if fs::hard_link(path, &to).is_ok() {
        return Ok(true);
    }
    match fs::copy(path, &to) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Ok(false),
        Err(error) => Err(Failure::at("copying", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_staged_in_path_order_while_they_fit() {
        let dir = tempfile::tempdir().unwrap();
        let (root, staged) = (dir.path().join("root"), dir.path().join("staged"));
        fs::create_dir_all(root.join("b")).unwrap();
        for (name, len) in [("a", 10), ("b/x", 50), ("b/y", 5), ("c", 5)] {
            fs::write(root.join(name), vec![1; len]).unwrap();
        }
        assert_eq!(take(&root, &staged, 21).unwrap(), 20);
        let placed = staged.join(root.strip_prefix("/").unwrap());
        let there = |name: &str| placed.join(name).exists();
        assert_eq!(["a", "b/x", "b/y", "c"].map(there), [true, false, true, true]);
    }
}
