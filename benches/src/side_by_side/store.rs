//! Controls the server process.

use std::collections::HashSet;
use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use clap::ValueEnum;

use crate::failure::{Failure, Result};
use crate::part::serve::{BUCKET, Line};

/// A running server. Dropping it stops it.
#[derive(Debug)]
pub(crate) struct Store {
    child: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    endpoint: String,
    access: String,
    secret: String,
    added: HashSet<&'static str>,
}

/// A ranged GET that the server answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Get {
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// Bytes of the response that were sent.
    pub(crate) sent: u64,
}

impl Store {
    /// Starts it; it stores its data below `work`.
    ///
    /// # Errors
    /// If it does not start.
    pub(crate) fn start(work: &Path) -> Result<Self> {
        let program = env::current_exe().map_err(Failure::io("finding this program"))?;
        let mut child = Command::new(program)
            .arg("serve")
            .env("TMPDIR", work)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(Failure::io("starting the server"))?;
        let (Some(commands), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Failure::Odd("the server has no pipes".to_owned()));
        };
        let mut store = Self {
            child,
            commands: Some(commands),
            answers: BufReader::new(answers),
            endpoint: String::new(),
            access: String::new(),
            secret: String::new(),
            added: HashSet::new(),
        };
        store.endpoint = store.fact("endpoint ")?;
        store.access = store.fact("access ")?;
        store.secret = store.fact("secret ")?;
        Ok(store)
    }

    /// Serves a file as the object `key`, unless it is already served.
    ///
    /// # Errors
    /// If the server has exited.
    pub(crate) fn add(&mut self, key: &'static str, file: &Path) -> Result<()> {
        if self.added.insert(key) {
            self.tell(&format!("add {key} {}", file.display()))?;
        }
        Ok(())
    }

    /// Changes the simulated network.
    ///
    /// # Errors
    /// If the server has exited.
    pub(crate) fn line(&mut self, line: Line) -> Result<()> {
        let name = line.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        self.tell(&format!("line {name}")).map(drop)
    }

    /// Returns the object's URL for programs that support S3.
    pub(crate) fn s3_url(key: &str) -> String {
        format!("s3://{BUCKET}/{key}")
    }

    /// Returns the object's URL for programs that support only HTTP.
    pub(crate) fn http_url(&self, key: &str) -> String {
        format!("{}/{BUCKET}/{key}", self.endpoint)
    }

    /// Sets the server's endpoint and credentials in the environment of a command.
    pub(crate) fn reach(&self, command: &mut Command) {
        command
            .env("AWS_ENDPOINT_URL", &self.endpoint)
            .env("AWS_ACCESS_KEY_ID", &self.access)
            .env("AWS_SECRET_ACCESS_KEY", &self.secret)
            .env("AWS_REGION", "us-east-1")
            .env("AWS_EC2_METADATA_DISABLED", "true");
        for other in ["AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"] {
            command.env_remove(other);
        }
    }

    /// Clears the request log.
    ///
    /// # Errors
    /// If the server has exited.
    pub(crate) fn forget(&mut self) -> Result<()> {
        self.tell("forget").map(drop)
    }

    /// Returns the requests since the log was last cleared.
    ///
    /// # Errors
    /// If the server has exited.
    pub(crate) fn log(&mut self) -> Result<Vec<Get>> {
        self.tell("log")?.iter().map(|line| get(line)).collect()
    }

    /// Sends a command, and returns the lines of its response.
    fn tell(&mut self, command: &str) -> Result<Vec<String>> {
        let commands = self.commands.as_mut().ok_or_else(gone)?;
        writeln!(commands, "{command}")
            .and_then(|()| commands.flush())
            .map_err(Failure::io("sending a command to the server"))?;
        let mut lines = Vec::new();
        loop {
            match self.answer()? {
                done if done == "done" => return Ok(lines),
                line => lines.push(line),
            }
        }
    }

    fn fact(&mut self, name: &str) -> Result<String> {
        let line = self.answer()?;
        line.strip_prefix(name).map(str::to_owned).ok_or_else(gone)
    }

    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        match self.answers.read_line(&mut line).map_err(Failure::io("reading a response of the server"))? {
            0 => Err(gone()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // The server exits at the end of its input.
        drop(self.commands.take());
        let _gone = self.child.wait();
    }
}

fn gone() -> Failure {
    Failure::Odd("the server exited or sent an invalid response".to_owned())
}

fn get(line: &str) -> Result<Get> {
    let numbers: Option<Vec<u64>> = line.split(' ').map(|word| word.parse().ok()).collect();
    match numbers.as_deref() {
        Some(&[first, last, sent]) => Ok(Get { first, last, sent }),
        _ => Err(Failure::Odd(format!("{line:?} is not a line of the server's log"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_line_has_three_numbers() {
        assert_eq!(get("0 131071 131072").unwrap(), Get { first: 0, last: 131_071, sent: 131_072 });
        assert!(get("0 1").is_err() && get("a b c").is_err());
    }
}
