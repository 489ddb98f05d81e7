//! Which processes come from us: those with our mark in their environment, `proc(5)`.
//!
//! The mark is inherited through all generations and stays when parents die, and nothing
//! has to become another process's parent for it.

use std::{
    env, fs,
    path::Path,
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
};

/// Holds the marks of all runs that a process is part of, one may be within another.
const VARIABLE: &str = "XTASK_MARKS";
const SEPARATOR: char = '/';

/// The mark of one run of a program and of all that it starts.
pub(crate) struct Mark(String);

impl Mark {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        Self(format!("{}{}", own_prefix(), COUNT.fetch_add(1, Ordering::Relaxed)))
    }

    /// Marks what the command will start.
    pub(crate) fn put_on(&self, command: &mut Command) {
        let inherited = env::var(VARIABLE).map_or(String::new(), |marks| marks + "/");
        command.env(VARIABLE, inherited + &self.0);
    }

    /// The living processes with this mark.
    pub(crate) fn bearers(&self) -> Vec<Bearer> {
        bearers(|mark| mark == self.0)
    }
}

/// A process with a mark.
pub(crate) struct Bearer {
    pub(crate) pid: i32,
    pub(crate) command: String,
}

impl Bearer {
    /// Ends it; if it is gone already, that is as good.
    pub(crate) fn kill(&self) {
        #[cfg(unix)]
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid), nix::sys::signal::SIGKILL);
    }
}

/// The living processes with any mark of ours.
pub(crate) fn all_bearers() -> Vec<Bearer> {
    let prefix = own_prefix();
    bearers(|mark| mark.starts_with(&prefix))
}

fn own_prefix() -> String {
    format!("{}-", process::id())
}

/// None where there is no `/proc`.
fn bearers(is_meant: impl Fn(&str) -> bool) -> Vec<Bearer> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let found = entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let environment = fs::read(entry.path().join("environ")).ok()?;
        let is_bearer = marks(&environment).any(&is_meant);
        is_bearer.then(|| Bearer { pid, command: command_line(&entry.path()) })
    });
    found.collect()
}

/// The marks in an environment, which is `NAME=VALUE`s with a NUL after each.
fn marks(environment: &[u8]) -> impl Iterator<Item = &str> {
    let variables =
        environment.split(|&byte| byte == 0).filter_map(|variable| std::str::from_utf8(variable).ok());
    let values = variables.filter_map(|variable| variable.strip_prefix(VARIABLE)?.strip_prefix('='));
    values.flat_map(|value| value.split(SEPARATOR))
}

fn command_line(process: &Path) -> String {
    let bytes = fs::read(process.join("cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ").trim_end().into()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::{Bearer, Mark, all_bearers, marks};
    use std::{
        process::{Command, Stdio},
        thread,
        time::{Duration, Instant},
    };

    #[test]
    fn marks_are_found_among_other_variables() {
        let environment = b"PATH=/bin\0XTASK_MARKS=1-2/3-4\0XTASK_MARKS_NOT=5-6\0\xff=\0";
        assert_eq!(marks(environment).collect::<Vec<_>>(), ["1-2", "3-4"]);
        assert_eq!(marks(b"").count(), 0);
    }

    #[test]
    fn orphans_keep_their_mark() {
        let mark = Mark::new();
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 600 >/dev/null 2>&1 & echo $!"]).stdout(Stdio::piped());
        mark.put_on(&mut command);
        let output = command.spawn().unwrap().wait_with_output().unwrap();
        let orphan: i32 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
        // For a moment, between two programs, a process has no environment.
        let give_up = Instant::now() + Duration::from_secs(10);
        while mark.bearers().is_empty() && Instant::now() < give_up {
            thread::yield_now();
        }
        assert_eq!(mark.bearers().iter().map(|bearer| bearer.pid).collect::<Vec<_>>(), [orphan]);
        assert!(all_bearers().iter().any(|bearer| bearer.pid == orphan));
        assert!(Mark::new().bearers().is_empty());
        mark.bearers().iter().for_each(Bearer::kill);
    }
}
