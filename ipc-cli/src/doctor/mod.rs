//! What of the system the toolkit depends on: limits, mounts, abilities. Each check says
//! what it found, whether that is fine, what it means, and what would change it.

mod directory;
mod kernel;
mod limits;
mod mounts;
mod queues;
mod sockets;

use serde::Serialize;
use std::{fmt, fs};

/// What a check found. The keys of `--json` are these names in this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// What was looked at: `fs.mqueue.msg_max`.
    pub(crate) name: &'static str,
    /// What it is, in its unit; null if it can't be told.
    pub(crate) value: Option<String>,
    pub(crate) verdict: Verdict,
    /// What it means for channels.
    pub(crate) meaning: String,
    /// The command that changes it, if that would be of use.
    pub(crate) command: Option<String>,
}

/// What to think of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// Enough for what the toolkit does by itself.
    Fine,
    /// Less than that, or than what is usual: something will be refused, or slower.
    Short,
    /// A transport can't work.
    Missing,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Fine => "fine",
            Self::Short => "short",
            Self::Missing => "missing",
        })
    }
}

/// All findings, in the order in which they are shown.
pub(crate) fn examine() -> Vec<Finding> {
    [
        queues::posix(),
        queues::system_v(),
        sockets::findings(),
        directory::findings(),
        limits::findings(),
        kernel::findings(),
    ]
    .concat()
}

impl Finding {
    /// Something with which nothing is wrong.
    fn fine(name: &'static str, value: impl ToString, meaning: impl Into<String>) -> Self {
        let (value, meaning) = (Some(value.to_string()), meaning.into());
        Self { name, value, verdict: Verdict::Fine, meaning, command: None }
    }

    /// The same, with what changes it.
    fn with_command(self, command: impl Into<String>) -> Self {
        Self { command: Some(command.into()), ..self }
    }

    /// The same, less than it should be.
    fn short(self, command: impl Into<String>) -> Self {
        Self { verdict: Verdict::Short, command: Some(command.into()), ..self }
    }

    /// Something that isn't there.
    fn missing(name: &'static str, meaning: impl Into<String>, command: impl Into<String>) -> Self {
        let (meaning, command) = (meaning.into(), Some(command.into()));
        Self { name, value: None, verdict: Verdict::Missing, meaning, command }
    }

    /// Something that can't be told, which stops nothing.
    fn unknown(name: &'static str, meaning: impl Into<String>) -> Self {
        Self { name, value: None, verdict: Verdict::Fine, meaning: meaning.into(), command: None }
    }
}

/// A figure that `/proc/sys` shows under this name.
fn sysctl(name: &str) -> Option<u64> {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// A figure that is to be at least so much, with the words for both cases.
fn at_least(name: &'static str, least: u64, meaning: impl Into<String>) -> Finding {
    let meaning = meaning.into();
    match sysctl(name) {
        Some(value) if value >= least => Finding::fine(name, value, meaning),
        Some(value) => Finding::fine(name, value, meaning).short(format!("sysctl {name}={least}")),
        None => Finding::unknown(name, format!("/proc doesn't show it; {meaning}")),
    }
}
