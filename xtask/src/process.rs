//! Running a program to its end: its whole output, a time limit, and nothing of it alive
//! after the limit.

use crate::marks::{Bearer, Mark};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek},
    process::{Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A program that has ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) success: bool,
    /// What it printed, and how it ended if that was no success.
    pub(crate) output: String,
}

/// Runs a program without input and takes standard output and error as they come. A program
/// that can't be started, fails or takes longer than `limit` is no success, and its output
/// says so.
pub(crate) fn run(command: &mut Command, limit: Duration) -> Finished {
    let finished = unnamed_file().and_then(|mut output| {
        let ending = run_into(command, limit, &output, &output)?;
        Ok(Finished { success: ending.is_none(), output: read(&mut output)? + &ending.unwrap_or_default() })
    });
    finished.unwrap_or_else(|error| not_run(command, &error))
}

/// Like [`run`], but standard output is returned alone if all went well.
pub(crate) fn run_for_stdout(command: &mut Command, limit: Duration) -> Finished {
    let finished = unnamed_file().and_then(|mut stdout| {
        let mut stderr = unnamed_file()?;
        let ending = run_into(command, limit, &stdout, &stderr)?;
        let stdout = read(&mut stdout)?;
        Ok(match ending {
            None => Finished { success: true, output: stdout },
            Some(ending) => Finished { success: false, output: stdout + &read(&mut stderr)? + &ending },
        })
    });
    finished.unwrap_or_else(|error| not_run(command, &error))
}

fn not_run(command: &Command, error: &io::Error) -> Finished {
    let program = command.get_program().to_string_lossy();
    Finished { success: false, output: format!("{program} can't be run: {error}\n") }
}

/// Runs a program to its end and returns how it ended if that was no success.
///
/// Its streams are files and not pipes: a process that is left behind with them open can't
/// make us wait.
fn run_into(
    command: &mut Command,
    limit: Duration,
    stdout: &File,
    stderr: &File,
) -> io::Result<Option<String>> {
    command.stdin(Stdio::null()).stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
    let mark = Mark::new();
    mark.put_on(command);
    let mut child = command.spawn()?;
    let status = wait_until(Instant::now() + limit, || child.try_wait())?;
    if status.is_none() {
        // The first one first, so that it neither reports nor replaces the others.
        let _ = child.kill();
        mark.bearers().iter().for_each(Bearer::kill);
        child.wait()?;
    }
    Ok(ending(status, limit))
}

fn read(file: &mut File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn ending(status: Option<ExitStatus>, limit: Duration) -> Option<String> {
    match status {
        Some(status) if status.success() => None,
        Some(status) => Some(format!("[{status}]\n")),
        None => Some(format!("[killed after {} s, its time limit]\n", limit.as_secs())),
    }
}

/// Asks again and again until there is an answer, or the deadline has passed: `None`.
pub(crate) fn wait_until<T>(
    deadline: Instant,
    mut ask: impl FnMut() -> io::Result<Option<T>>,
) -> io::Result<Option<T>> {
    loop {
        match ask()? {
            None if Instant::now() < deadline => thread::sleep(POLL_INTERVAL),
            answer => return Ok(answer),
        }
    }
}

fn unnamed_file() -> io::Result<File> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("xtask-output-{}-{count}", std::process::id()));
    let file = OpenOptions::new().read(true).append(true).create_new(true).open(&path)?;
    fs::remove_file(path)?;
    Ok(file)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::{run, run_for_stdout};
    use std::{
        process::Command,
        time::{Duration, Instant},
    };

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn the_output_holds_both_streams_in_order() {
        let finished = run(&mut shell("echo one; echo two >&2; echo three"), Duration::from_secs(60));
        assert!(finished.success);
        assert_eq!(finished.output, "one\ntwo\nthree\n");
    }

    #[test]
    fn a_failure_shows_its_exit_code() {
        let finished = run(&mut shell("echo why; exit 3"), Duration::from_secs(60));
        assert!(!finished.success);
        assert_eq!(finished.output, "why\n[exit status: 3]\n");
    }

    #[test]
    fn standard_output_is_had_alone_unless_it_fails() {
        let script = "echo result; echo note >&2; exit $0";
        let run = |code: &str| run_for_stdout(shell(script).arg(code), Duration::from_secs(60)).output;
        assert_eq!(run("0"), "result\n");
        assert_eq!(run("1"), "result\nnote\n[exit status: 1]\n");
    }

    #[test]
    fn a_missing_program_is_named() {
        let finished = run(&mut Command::new("/no/such/program"), Duration::from_secs(60));
        assert!(!finished.success);
        assert!(finished.output.starts_with("/no/such/program can't be run"));
    }

    #[test]
    fn what_takes_too_long_is_killed_and_shows_what_it_printed() {
        let start = Instant::now();
        let finished = run(&mut shell("echo begun; sleep 600 & sleep 600"), Duration::from_millis(500));
        assert!(!finished.success && start.elapsed() < Duration::from_secs(60));
        assert_eq!(finished.output, "begun\n[killed after 0 s, its time limit]\n");
    }
}
