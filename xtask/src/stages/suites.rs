//! Unit, integration and documentation tests of all crates, the conformance suites among
//! them. Each test counts by itself.

use super::TIME_LIMIT;
use crate::{
    process::{self, Finished},
    report::Outcome,
    workspace,
};

pub(super) fn run() -> Outcome {
    let mut command = workspace::cargo(&["test", "--workspace", "--all-features", "--no-fail-fast"]);
    evaluate(&process::run(&mut command, TIME_LIMIT))
}

fn evaluate(finished: &Finished) -> Outcome {
    let results: Vec<Counts> = finished.output.lines().filter_map(Counts::parse).collect();
    let sum = |field: fn(&Counts) -> u32| results.iter().map(field).sum::<u32>();
    let (passed, mut failed, ignored) = (sum(|c| c.passed), sum(|c| c.failed), sum(|c| c.ignored));
    // A test program that crashed has no result line, nor has one that didn't compile.
    if !finished.success && failed == 0 {
        failed = 1;
    }
    let mut note = format!("{passed} of {} in {} programs", passed + failed, results.len());
    if ignored > 0 {
        note.push_str(&format!(", {ignored} ignored"));
    }
    let details = if failed == 0 { String::new() } else { without_successes(&finished.output) };
    Outcome { passed, failed, note, details }
}

/// What one test program says at its end.
#[derive(Debug, PartialEq, Eq)]
struct Counts {
    passed: u32,
    failed: u32,
    ignored: u32,
}

impl Counts {
    /// `test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; …`
    fn parse(line: &str) -> Option<Self> {
        let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
        let count = |what: &str| {
            let mut words = counts.split("; ").filter_map(|count| count.split_once(' '));
            words.find(|(_, word)| *word == what)?.0.parse().ok()
        };
        Some(Self { passed: count("passed")?, failed: count("failed")?, ignored: count("ignored")? })
    }
}

/// The output without the lines of what went well.
fn without_successes(output: &str) -> String {
    let is_success = |line: &str| line.starts_with("test ") && line.ends_with(" ... ok");
    let lines = output.lines().filter(|line| !is_success(line) && !line.is_empty());
    lines.map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::{Counts, evaluate, without_successes};
    use crate::process::Finished;

    const OUTPUT: &str = "\
running 3 tests
test a ... ok
test b ... FAILED
test c ... ok

test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.05s

test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.00s
";

    fn finished(success: bool, output: &str) -> Finished {
        Finished { success, output: output.into() }
    }

    #[test]
    fn the_results_of_all_programs_are_summed() {
        let outcome = evaluate(&finished(false, OUTPUT));
        assert_eq!((outcome.passed, outcome.failed), (7, 1));
        assert_eq!(outcome.note, "7 of 8 in 2 programs, 1 ignored");
        assert!(outcome.details.contains("test b ... FAILED") && !outcome.details.contains("test a"));
    }

    #[test]
    fn a_crash_without_a_result_is_a_failure() {
        let outcome = evaluate(&finished(false, "running 3 tests\nsignal: 9, SIGKILL: kill\n"));
        assert_eq!((outcome.passed, outcome.failed), (0, 1));
        assert!(outcome.details.contains("SIGKILL"));
    }

    #[test]
    fn success_shows_no_details() {
        let line = "test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(evaluate(&finished(true, line)).details, "");
    }

    #[test]
    fn other_lines_are_no_results() {
        for line in [
            "test result",
            "test result: ok. many passed; 0 failed; 0 ignored",
            "  test result: ok. 1 passed",
        ] {
            assert_eq!(Counts::parse(line), None, "{line}");
        }
    }

    #[test]
    fn successes_are_left_out_of_the_details() {
        assert_eq!(
            without_successes("test a ... ok\ntest b ... FAILED\n\nwhy\n"),
            "test b ... FAILED\nwhy\n"
        );
    }
}
