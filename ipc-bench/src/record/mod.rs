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
mod figure;
mod keeper;
mod row;
mod steady;

pub(crate) use curve::{Curve, Law, curves};
pub(crate) use details::{Idle, Life, Load, Repeats, Safety, Scale, per_second};
pub(crate) use figure::Figure;
pub(crate) use keeper::Keeper;
pub(crate) use row::{Row, delay, size};
pub(crate) use steady::{CLOSE, Steady, are_close};

use crate::machine::MUCH_STOLEN;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    env, fs, io,
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
    /// What isn't measured of what was asked for, and why.
    #[serde(default)]
    pub(crate) left_out: Vec<String>,
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
            left_out: Vec::new(),
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

    /// What makes its figures doubtful: all of them, or some.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let mut warnings = self.head.warnings.clone();
        let mut of_some: BTreeMap<&str, usize> = BTreeMap::new();
        for warning in self.rows.iter().flat_map(|row| &row.warnings) {
            *of_some.entry(warning).or_default() += 1;
        }
        warnings.extend(of_some.into_iter().map(|(warning, rows)| match rows {
            1 => format!("of one measurement: {warning}"),
            _ => format!("of {rows} measurements: {warning}"),
        }));
        let shares = self.rows.iter().filter_map(|row| row.stolen_share);
        let stolen: Vec<f64> = shares.filter(|&share| share > MUCH_STOLEN).collect();
        if let Some(most) = stolen.iter().copied().reduce(f64::max) {
            warnings.push(format!(
                "the hypervisor gave up to {:.0} % of the processors' time to others while {} of {} measurements \
                 were made",
                most * 100.0,
                stolen.len(),
                self.rows.len()
            ));
        }
        warnings
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
    use super::{Head, Run};
    use rstest::rstest;

    fn head() -> Head {
        Head::now("quick", vec!["a machine".into()], vec![])
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
