//! Exit codes, and errors as text or JSON.

use std::error::Error as _;
use std::io::{self, Write};
use std::process::ExitCode;

use diskferry_core::{Error, ErrorKind, Result};

use diskferry::json;

/// The answer of a command that succeeded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    /// Done.
    Yes,
    /// Done, and the answer is no: the images differ or a rule fails.
    No,
}

/// Prints the error, if there is one, and returns the exit code.
pub(crate) fn end(ended: &Result<Answer>, json: bool, verbose: bool) -> ExitCode {
    match ended {
        Ok(Answer::Yes) => ExitCode::SUCCESS,
        Ok(Answer::No) => ExitCode::from(1),
        Err(error) => {
            let text = if json { as_json(error) } else { as_text(error, verbose) };
            // If standard error is closed, the failure cannot be reported.
            let _ = io::stderr().lock().write_all(text.as_bytes());
            ExitCode::from(error.kind().exit_code())
        }
    }
}

fn as_json(error: &Error) -> String {
    // Strings and numbers always serialize.
    serde_json::to_string(&json::Failure::from(error)).unwrap_or_default() + "\n"
}

/// Formats the error as text for standard error.
pub(crate) fn as_text(error: &Error, verbose: bool) -> String {
    let mut text = format!("error[{}]: {}", error.kind(), error.message());
    if let Some(offset) = error.offset() {
        text += &format!(" (at offset {offset})");
    }
    text.push('\n');
    if let Some(hint) = error.hint_text() {
        text += &format!("  hint: {hint}\n");
    }
    let mut cause = error.source().filter(|_| verbose || error.kind() == ErrorKind::Internal);
    while let Some(error) = cause {
        text += &format!("  because: {}\n", diskferry_core::internal::printable(&error.to_string()));
        cause = error.source();
    }
    text
}

/// Converts clap's error: help and version are returned as text for standard output, anything else as a usage error.
pub(crate) fn usage(error: &clap::Error) -> Result<String> {
    use clap::error::ErrorKind as Clap;
    let text = error.render().to_string();
    if matches!(error.kind(), Clap::DisplayHelp | Clap::DisplayVersion) {
        return Ok(text);
    }
    let see = "see `diskferry --help`, and `diskferry COMMAND --help`";
    if error.kind() == Clap::DisplayHelpOnMissingArgumentOrSubcommand {
        return Err(Error::new(ErrorKind::Usage, "a command is required").hint(see));
    }
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    // clap prints its finding first, then the usage and a pointer to --help. Only the finding is kept.
    let (facts, _) = text.split_once("\nUsage:").unwrap_or((text, ""));
    let (facts, _) = facts.split_once("\nFor more information").unwrap_or((facts, ""));
    let mut lines = facts.lines().map(str::trim).filter(|line| !line.is_empty());
    let mut message = lines.next().unwrap_or("the command line is wrong").trim_end_matches(':').to_owned();
    let mut tips = Vec::new();
    let mut more = Vec::new();
    for line in lines {
        match line.strip_prefix("tip: ") {
            Some(tip) => tips.push(tip.to_owned()),
            None => more.push(line.trim_matches(['[', ']']).to_owned()),
        }
    }
    if !more.is_empty() {
        message += &format!(": {}", more.join(", "));
    }
    let hint = if tips.is_empty() { see.to_owned() } else { tips.join("; ") };
    Err(Error::new(ErrorKind::Usage, message).hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Cli;
    use clap::Parser;

    fn said(line: &[&str]) -> Error {
        usage(&Cli::try_parse_from(line).expect_err("the command line must be rejected"))
            .expect_err("this is not a help request")
    }

    #[test]
    fn usage_error_is_one_sentence_and_a_hint() {
        let error = said(&["diskferry", "info"]);
        assert_eq!(error.message(), "the following required arguments were not provided: <SRC>");
        let error = said(&["diskferry", "info", "x", "--jsno"]);
        assert_eq!(error.message(), "unexpected argument '--jsno' found");
        assert_eq!(error.hint_text(), Some("a similar argument exists: '--json'"));
        let error = said(&["diskferry", "info", "x", "--memory", "1M"]);
        assert_eq!(error.message(), "invalid value '1M' for '--memory <SIZE>': must be at least 16 MiB");
        assert_eq!(said(&["diskferry"]).message(), "a command is required");
    }

    #[test]
    fn error_format_follows_the_interface_contract() {
        let error = Error::malformed("the cluster size is 7 bytes").hint("make the image again").at(20u64);
        assert_eq!(
            as_text(&error, false),
            "error[malformed]: the cluster size is 7 bytes (at offset 20)\n  hint: make the image again\n"
        );
        let json: serde_json::Value = serde_json::from_str(&as_json(&error)).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"error": {"code": "malformed", "message": "the cluster size is 7 bytes",
                "hint": "make the image again", "retryable": false, "offset": 20}})
        );
    }
}
