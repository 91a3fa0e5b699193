//! Tools that read an object remotely, block by block: qemu-img with its curl driver, or through nbdkit's curl plugin.

use std::path::Path;
use std::process::Command;

use crate::bench::qemu_convert;
use crate::failure::Result;
use crate::form::Form;
use crate::run::run;
use crate::tools;

/// How to install one.
pub(crate) const HOW_TO_INSTALL: &str =
    "apt-get install -y --no-install-recommends qemu-block-extra, or nbdkit";

/// A tool that streams.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Streaming {
    /// qemu-img's own driver.
    Curl,
    /// nbdkit's curl plugin, read by qemu-img.
    Nbdkit,
}

/// Returns the tool that can read `url`, if there is one.
pub(crate) fn find(url: &str) -> Option<Streaming> {
    let info = |qemu| run(Command::new(qemu).args(["info", "-f", "raw", url])).ok();
    if tools::qemu_img().ok().and_then(info).is_some() {
        return Some(Streaming::Curl);
    }
    let plugin = |nbdkit| run(Command::new(nbdkit).args(["--dump-plugin", "curl"])).ok();
    tools::nbdkit().and_then(plugin).map(|_| Streaming::Nbdkit)
}

impl Streaming {
    /// Its name in the tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Curl => "qemu-img with its curl driver",
            Self::Nbdkit => "qemu-img on nbdkit's curl plugin",
        }
    }

    /// Converts the object to a raw file.
    ///
    /// # Errors
    /// If qemu-img is missing.
    pub(crate) fn convert(self, url: &str, form: Form, out_of_order: bool, to: &Path) -> Result<Command> {
        let mut convert = qemu_convert(form, Form::Raw, out_of_order)?;
        match self {
            Self::Curl => {
                convert.arg(url).arg(to);
                Ok(convert)
            }
            Self::Nbdkit => {
                let mut nbdkit = Command::new(tools::nbdkit().unwrap_or_else(|| "nbdkit".into()));
                nbdkit.args(["-U", "-", "-r", "curl", url, "--run"]);
                let words = std::iter::once(convert.get_program()).chain(convert.get_args());
                let words: Vec<String> = words.map(|word| quoted(&word.to_string_lossy())).collect();
                // nbdkit passes the address of its socket to the shell in this variable.
                nbdkit.arg(format!("{} \"$uri\" {}", words.join(" "), quoted(&to.to_string_lossy())));
                Ok(nbdkit)
            }
        }
    }
}

/// Quotes a word for a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_word_is_one_word_for_a_shell() {
        let ran = run(diskferry_corpus::tools::command("sh")
            .args(["-c", &format!("printf %s {}", quoted("it's $HOME"))]));
        assert_eq!(ran.unwrap().out, "it's $HOME");
    }
}
