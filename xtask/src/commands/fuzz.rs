//! `cargo xtask fuzz`: scripts of calls and of changes to a channel's file, which coverage
//! leads on to new ones: <https://rust-fuzz.github.io/book/cargo-fuzz.html>.
//!
//! The target is a workspace of its own (`ipc-shm/fuzz`), since it takes a nightly compiler.
//! What it has learnt is kept with what cargo makes, for the next run.

use super::{Command, Given, Opt};
use crate::workspace;
use std::{
    fs,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
    process::{self, ExitCode, Stdio},
};

pub(crate) const COMMAND: Command = Command {
    name: "fuzz",
    summary: "have a fuzzer change whole images of channels, or a peer's memory, while they are used",
    options: &[
        Opt {
            name: "--target",
            value: Some("NAME"),
            summary: "image (the default), or sealed: a hostile peer of a sealed channel",
        },
        Opt { name: "--minutes", value: Some("N"), summary: "for so long (10)" },
        Opt { name: "--replay", value: Some("FILE"), summary: "play a script that was found instead" },
    ],
    run,
};

const TARGETS: [&str; 2] = ["image", "sealed"];
/// A script that takes longer hangs.
const SCRIPT_LIMIT_S: u32 = 20;
/// The longest script, in bytes: more than its steps can read.
const SCRIPT_LEN_BYTES: u32 = 800;

fn run(given: &Given) -> ExitCode {
    match prepare(given).and_then(|fuzzer| fuzzer.run()) {
        Ok(code) => code,
        Err(what) => {
            eprintln!("xtask: {what}");
            ExitCode::FAILURE
        }
    }
}

/// What is to be done, and where.
struct Fuzzer {
    target: &'static str,
    task: Task,
    corpus: PathBuf,
    findings: PathBuf,
}

enum Task {
    Search { minutes: u64 },
    Replay(PathBuf),
}

fn prepare(given: &Given) -> Result<Fuzzer, String> {
    let task = match given.value("--replay") {
        Some(script) => Task::Replay(fs::canonicalize(script).map_err(|error| format!("{script}: {error}"))?),
        None => Task::Search { minutes: minutes(given.value("--minutes"))? },
    };
    let target = target(given.value("--target"))?;
    require("rustc", &["+nightly", "--version"], "a nightly compiler: `rustup toolchain install nightly`")?;
    require("cargo", &["fuzz", "--version"], "cargo-fuzz: `cargo install cargo-fuzz`")?;
    let directory = workspace::target().join(format!("fuzz-{target}"));
    let fuzzer =
        Fuzzer { target, task, corpus: directory.join("corpus"), findings: directory.join("findings") };
    for directory in [&fuzzer.corpus, &fuzzer.findings] {
        fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    }
    if let Task::Search { .. } = fuzzer.task {
        begin(&fuzzer.corpus).map_err(|error| format!("{}: {error}", fuzzer.corpus.display()))?;
    }
    Ok(fuzzer)
}

/// Scripts of many steps to begin with, for every kind of channel: from nothing, it takes the
/// fuzzer long to come to so many.
fn begin(corpus: &Path) -> io::Result<()> {
    // xorshift64: Marsaglia, "Xorshift RNGs".
    let mut state = 1_u64;
    let mut roll = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[4]
    };
    for choice in 0..=u8::MAX {
        let script: Vec<u8> = std::iter::once(choice).chain((0..300).map(|_| roll())).collect();
        fs::write(corpus.join(format!("begin-{choice}")), script)?;
    }
    Ok(())
}

fn target(value: Option<&str>) -> Result<&'static str, String> {
    let value = value.unwrap_or(TARGETS[0]);
    let known = TARGETS.into_iter().find(|&target| target == value);
    known.ok_or_else(|| format!("--target {value}: there is {}", TARGETS.join(", ")))
}

fn minutes(value: Option<&str>) -> Result<u64, String> {
    let value = value.unwrap_or("10");
    match value.parse() {
        Ok(minutes) if (1..=10_000).contains(&minutes) => Ok(minutes),
        _ => Err(format!("--minutes {value}: give a number from 1 to 10000")),
    }
}

fn require(program: &str, arguments: &[&str], what: &str) -> Result<(), String> {
    let mut command = process::Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        _ => Err(format!("fuzzing takes {what}")),
    }
}

impl Fuzzer {
    fn run(&self) -> Result<ExitCode, String> {
        let before = scripts(&self.findings)?;
        let mut child = self.command().spawn().map_err(|error| format!("cargo can't be run: {error}"))?;
        let mut figures = Figures::default();
        let lines = BufReader::new(child.stderr.take().ok_or("it has no output")?);
        for line in lines.split(b'\n') {
            let line = line.map_err(|error: io::Error| format!("its output can't be read: {error}"))?;
            let line = String::from_utf8_lossy(&line);
            if figures.is_worth_showing(&line) {
                println!("{line}");
            }
        }
        let status = child.wait().map_err(|error| format!("cargo can't be waited for: {error}"))?;
        let found: Vec<_> =
            scripts(&self.findings)?.into_iter().filter(|script| !before.contains(script)).collect();
        if let Task::Search { minutes } = self.task {
            println!("proof: fuzz {}: {minutes} minutes: {figures}, {} findings", self.target, found.len());
        }
        for script in &found {
            println!(
                "found: {0}\nto play it again: cargo xtask fuzz --target {1} --replay {0}",
                script.display(),
                self.target
            );
        }
        if !status.success() && found.is_empty() {
            println!("the fuzzer failed, see above");
        }
        Ok(if status.success() && found.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn command(&self) -> process::Command {
        // Not the `cargo` that runs us, which is one of a certain toolchain.
        let mut command = process::Command::new("cargo");
        // What rustup sets for us is not for the other toolchain.
        for variable in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN"] {
            command.env_remove(variable);
        }
        command
            .args(["+nightly", "fuzz", "run", "--fuzz-dir", "ipc-shm/fuzz", self.target])
            .arg("--target-dir")
            .arg(workspace::target().join("fuzz"))
            .current_dir(workspace::root())
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        match &self.task {
            Task::Search { minutes } => {
                command.arg(&self.corpus).arg("--").args([
                    format!("-max_total_time={}", minutes * 60),
                    format!("-timeout={SCRIPT_LIMIT_S}"),
                    format!("-max_len={SCRIPT_LEN_BYTES}"),
                    // Scripts may be long from the beginning.
                    "-len_control=0".into(),
                    format!("-artifact_prefix={}/", self.findings.display()),
                    // Polling makes scripts slow: the kernel takes milliseconds to close what is polled.
                    "-entropic_scale_per_exec_time=1".into(),
                    "-print_final_stats=1".into(),
                    // What isn't memory is closed by a thread of its own, which would be taken for a
                    // leak. Descriptors and mappings are counted by `cargo xtask crash`.
                    format!("-detect_leaks={}", u8::from(self.target != "sealed")),
                ]);
            }
            Task::Replay(script) => {
                command.arg(script).arg("--").arg(format!("-timeout={SCRIPT_LIMIT_S}"));
            }
        }
        command
    }
}

/// The scripts in a folder.
fn scripts(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let listed = fs::read_dir(folder).and_then(|entries| {
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()
    });
    let mut scripts = listed.map_err(|error| format!("{}: {error}", folder.display()))?;
    scripts.sort();
    Ok(scripts)
}

/// What the fuzzer says of itself, as of its last line about it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Figures {
    executions: u64,
    edges: u64,
    features: u64,
}

impl Figures {
    /// Takes in a line; false if it is one of very many like it.
    fn is_worth_showing(&mut self, line: &str) -> bool {
        let after = |what: &str| -> Option<u64> {
            let (_, rest) = line.split_once(what)?;
            rest.split_whitespace().next()?.parse().ok()
        };
        // `#1024  pulse  cov: 1200 ft: 3400 corp: 99/2Kb exec/s: 512 rss: 60Mb`
        let counted = line.strip_prefix('#').and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        if let Some(executions) = counted {
            self.executions = executions;
            self.edges = after(" cov: ").unwrap_or(self.edges);
            self.features = after(" ft: ").unwrap_or(self.features);
            return line.contains("pulse") || line.contains("DONE");
        }
        self.executions = after("stat::number_of_executed_units:").unwrap_or(self.executions);
        // What was new in the code, and words that the fuzzer found useful.
        !["\tNEW_", "NEW_", "######", "\""].iter().any(|start| line.starts_with(start))
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { executions, edges, features } = self;
        write!(f, "{executions} executions, {edges} edges and {features} features covered")
    }
}

#[cfg(test)]
mod tests {
    use super::{Figures, minutes, target};

    #[test]
    fn the_last_figures_count() {
        let mut figures = Figures::default();
        for line in [
            "INFO: Seed: 1",
            "#2\tINITED cov: 10 ft: 11 corp: 1/1b exec/s: 0 rss: 40Mb",
            "#512\tNEW    cov: 900 ft: 3000 corp: 3/9b lim: 4 exec/s: 0 rss: 41Mb L: 2/4 MS: 1 ChangeBit-",
            "#1024\tpulse  cov: 901 ft: 3001 corp: 3/9b lim: 4 exec/s: 512 rss: 42Mb",
            "#1100\tDONE   cov: 902 ft: 3002 corp: 3/9b lim: 4 exec/s: 512 rss: 42Mb",
            "stat::number_of_executed_units: 1101",
        ] {
            figures.is_worth_showing(line);
        }
        assert_eq!(figures, Figures { executions: 1101, edges: 902, features: 3002 });
    }

    #[test]
    fn what_comes_too_often_is_left_out() {
        let mut figures = Figures::default();
        for line in [
            "#512\tNEW    cov: 900",
            "#600\tREDUCE cov: 900",
            "\tNEW_FUNC[1/2]: 0x1 in f",
            "\"\\001\" # Uses: 9",
        ] {
            assert!(!figures.is_worth_showing(line), "{line}");
        }
        for line in ["#1024\tpulse  cov: 901", "error: no such target", "panicked at src/a.rs"] {
            assert!(figures.is_worth_showing(line), "{line}");
        }
    }

    #[test]
    fn a_target_is_one_of_those_there_are() {
        assert_eq!((target(None), target(Some("sealed"))), (Ok("image"), Ok("sealed")));
        assert!(target(Some("seal")).unwrap_err().contains("image, sealed"));
    }

    #[test]
    fn minutes_are_a_number() {
        assert_eq!((minutes(None), minutes(Some("60"))), (Ok(10), Ok(60)));
        for wrong in ["0", "-1", "ten", "10001"] {
            assert!(minutes(Some(wrong)).is_err(), "{wrong}");
        }
    }
}
