//! Runs, as they are kept: a file of JSON lines, from the head to the end, each line out at
//! once, so that an interrupted run keeps what it has measured.
//!
//! ```text
//! {"head": …}     where, when and how; which version of this format
//! {"row": …}      a measurement
//! {"failed": …}   one that yielded no figures, and why
//! {"end": …}      only if the run came to its end
//! ```
//!
//! Whoever reads skips fields that it doesn't know, and says which line it can't read.

mod curve;
mod details;
mod row;

pub(crate) use curve::{Curve, Law, curves};
pub(crate) use details::{Idle, Load, Safety, Scale, per_second};
pub(crate) use row::{Row, delay, size};

use serde::{Deserialize, Serialize};
use std::{
    env,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// The format of the files that are written here; others aren't read.
const FORMAT: u32 = 1;

/// Where, when and how a run was made.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub(crate) struct Head {
    pub(crate) format: u32,
    /// Seconds since 1970.
    pub(crate) started_unix_s: u64,
    pub(crate) version: String,
    /// What was asked for: `quick` or `full`.
    pub(crate) extent: String,
    /// What the machine is, a line each.
    pub(crate) machine: Vec<String>,
    /// What makes the figures doubtful.
    pub(crate) warnings: Vec<String>,
}

impl Head {
    /// Of a run that begins now.
    pub(crate) fn now(extent: &str, machine: Vec<String>, warnings: Vec<String>) -> Self {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self {
            format: FORMAT,
            started_unix_s: since.map_or(0, |since| since.as_secs()),
            version: env!("CARGO_PKG_VERSION").into(),
            extent: extent.into(),
            machine,
            warnings,
        }
    }
}

/// A measurement that yielded no figures.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct Failure {
    pub(crate) what: String,
    pub(crate) why: String,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Head(Head),
    Row(Box<Row>),
    Failed(Failure),
    End { complete: bool },
}

/// A run that was kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Run {
    pub(crate) head: Head,
    pub(crate) rows: Vec<Row>,
    pub(crate) failures: Vec<Failure>,
    /// Whether it came to its end.
    pub(crate) is_complete: bool,
}

impl Run {
    /// Reads a file that a [`Keeper`] has written.
    ///
    /// # Errors
    ///
    /// If it can't be read, or isn't such a file: with its name, and the line.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                format!("there is no {}: make a run with `ipc-bench all --quick` first", path.display())
            }
            _ => format!("{} can't be read: {error}", path.display()),
        })?;
        Self::parse(&text).map_err(|what| format!("{}, {what}", path.display()))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut run = None;
        let mut lines = text.lines().enumerate().peekable();
        while let Some((index, line)) = lines.next() {
            let parsed = match serde_json::from_str(line) {
                Ok(parsed) => parsed,
                // Whoever wrote it was killed there.
                Err(_) if lines.peek().is_none() && !text.ends_with('\n') && run.is_some() => break,
                Err(error) => {
                    return Err(format!("line {}: that is no line of a run: {error}", index + 1));
                }
            };
            match (parsed, &mut run) {
                (Line::Head(head), None) if head.format == FORMAT => {
                    run = Some(Self { head, ..Self::default() })
                }
                (Line::Head(head), None) => {
                    return Err(format!(
                        "line {}: its format is {}, this program reads {FORMAT}",
                        index + 1,
                        head.format
                    ));
                }
                (Line::Row(row), Some(run)) => run.rows.push(*row),
                (Line::Failed(failure), Some(run)) => run.failures.push(failure),
                (Line::End { complete }, Some(run)) => run.is_complete = complete,
                (Line::Head(_), Some(_)) => return Err(format!("line {}: another run begins", index + 1)),
                (_, None) => return Err(format!("line {}: a run begins with its head", index + 1)),
            }
        }
        run.ok_or_else(|| "it is empty: a run begins with its head".into())
    }
}

/// Keeps a run that is being made.
#[derive(Debug)]
pub(crate) struct Keeper {
    file: File,
    pub(crate) path: PathBuf,
}

impl Keeper {
    /// A new file at `path`, in place of an earlier one; its directory is made.
    pub(crate) fn new(path: PathBuf, head: Head) -> Result<Self, String> {
        let made = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| File::create(&path));
        let file = made.map_err(|error| {
            format!("{} can't be written: {error}; give another file with --keep", path.display())
        })?;
        let mut keeper = Self { file, path };
        keeper.write(&Line::Head(head))?;
        Ok(keeper)
    }

    pub(crate) fn row(&mut self, row: Row) -> Result<(), String> {
        self.write(&Line::Row(Box::new(row)))
    }

    pub(crate) fn failed(&mut self, what: &str, why: &str) -> Result<(), String> {
        self.write(&Line::Failed(Failure { what: what.into(), why: why.into() }))
    }

    pub(crate) fn end(&mut self) -> Result<(), String> {
        self.write(&Line::End { complete: true })
    }

    fn write(&mut self, line: &Line) -> Result<(), String> {
        let text = serde_json::to_string(line).map_err(|error| error.to_string())? + "\n";
        self.file
            .write_all(text.as_bytes())
            .map_err(|error| format!("{} can't be written: {error}", self.path.display()))
    }
}

/// Where the last run is kept unless another file is given: `$XDG_STATE_HOME/ipc-bench`, by the
/// XDG base directory specification.
pub(crate) fn last_run() -> PathBuf {
    let of_variable = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state =
        of_variable("XDG_STATE_HOME").or_else(|| of_variable("HOME").map(|home| home.join(".local/state")));
    state.unwrap_or_else(env::temp_dir).join("ipc-bench/last.jsonl")
}

#[cfg(test)]
mod tests {
    use super::{Head, Keeper, Row, Run};
    use rstest::rstest;
    use std::fs;

    fn head() -> Head {
        Head::now("quick", vec!["a machine".into()], vec![])
    }

    fn kept(name: &str, end: bool) -> (std::path::PathBuf, Run) {
        let path = std::env::temp_dir().join(format!("ipc-bench-{}-{name}.jsonl", std::process::id()));
        let (head, row) =
            (head(), Row { experiment: "latency".into(), transport: "mq".into(), ..Row::default() });
        let mut keeper = Keeper::new(path.clone(), head.clone()).unwrap();
        keeper.row(row.clone()).unwrap();
        keeper.failed("mq, 8 bytes", "the far process died").unwrap();
        if end {
            keeper.end().unwrap();
        }
        let failure = super::Failure { what: "mq, 8 bytes".into(), why: "the far process died".into() };
        (path, Run { head, rows: vec![row], failures: vec![failure], is_complete: end })
    }

    #[test]
    fn a_run_is_read_as_it_was_kept_and_an_interrupted_one_as_far_as_it_got() {
        for end in [true, false] {
            let (path, expected) = kept(&format!("whole-{end}"), end);
            assert_eq!(Run::read(&path).unwrap(), expected);
            // Killed in the middle of a line.
            let text = fs::read_to_string(&path).unwrap();
            let cut = Run::parse(&text[..text.len() - 5]).unwrap();
            assert!(!cut.is_complete && cut.rows.len() == 1);
            fs::remove_file(path).unwrap();
        }
    }

    #[rstest]
    #[case::nothing("", "it is empty")]
    #[case::no_json("latency 5 ns\n", "line 1: that is no line of a run")]
    #[case::foreign("{\"a\": 1}\n", "line 1: that is no line of a run")]
    #[case::no_head("{\"end\":{\"complete\":true}}\n", "line 1: a run begins with its head")]
    fn what_is_no_run_is_refused_with_its_line(#[case] text: &str, #[case] says: &str) {
        let error = Run::parse(text).unwrap_err();
        assert!(error.contains(says), "{error}");
    }

    #[test]
    fn another_format_is_refused_and_both_are_named() {
        let line = serde_json::to_string(&super::Line::Head(Head { format: 7, ..head() })).unwrap();
        let error = Run::parse(&(line + "\n")).unwrap_err();
        assert!(error.contains("its format is 7, this program reads 1"), "{error}");
    }
}
