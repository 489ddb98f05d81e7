//! Unit, integration and documentation tests of all crates, the conformance suites among
//! them. Each test counts by itself.
//!
//! A test that can't be made here counts as passed to the harness; it prints `skipped: NAME: WHY`
//! past it, and is counted as skipped.
//!
//! Models compute, and most else waits for the processes that it starts and kills, so they run at
//! the same time. Models are explored by one thread of a process: it makes and unmaps stacks for
//! each schedule, for which the threads of a process would wait for each other.

use super::TIME_LIMIT;
use crate::{
    process::{self, Finished},
    report::Outcome,
    workspace,
};
use serde_json::Value;
use std::{collections::BTreeSet, iter, panic::resume_unwind, process::Command, thread};

/// How many programs are named for the time that they take.
const SLOWEST: usize = 6;

/// Programs of tests that need the optimizer: what single-steps or races through code, which had
/// better be short; what changes every byte; and what copies as fast as others write.
const STEPPED: [&str; 4] = ["corrupt", "kills", "latest", "sealed_attacks"];

/// Models: those that take about half of the time, and the others.
const MODELS: [&[&str]; 2] = [
    &["--test-threads=1", "::model::mpmc::", "::model::broadcast::"],
    &["--test-threads=1", "::model::", "--skip=::model::mpmc::", "--skip=::model::broadcast::"],
];

/// What kills at every access, and takes longest of all.
const LONGEST: &str = "survival";

/// What has processes that spin for each other, on all processors: one run after the other, as each
/// takes a multiple of its time beside another one.
const SPINNING: &str = "command";

/// Tests that `cargo` runs in one call.
#[derive(Debug)]
struct Part {
    targets: Vec<String>,
    harness: &'static [&'static str],
    /// How they are made.
    profile: &'static [&'static str],
}

/// Nobody looks into the programs, which are made sooner without what debuggers have.
const BARE: [&str; 2] = ["--config", "profile.dev.debug='none'"];

/// The same with more of the optimizer: models are explored for longer than it takes.
const EXPLORED: [&str; 4] =
    ["--config", "profile.dev.debug='none'", "--config", "profile.dev.package.ipc-shm.opt-level=2"];

/// The same without the optimizer: what waits more than it computes takes longer to improve than
/// to run.
pub(super) const AS_IT_IS: [&str; 4] =
    ["--config", "profile.dev.debug='none'", "--config", "profile.dev.package.ipc-shm.opt-level=0"];

impl Part {
    fn new(targets: impl IntoIterator<Item = String>, profile: &'static [&'static str]) -> Self {
        Self { targets: targets.into_iter().collect(), harness: &[], profile }
    }

    /// Tests within the libraries, those that the harness is to choose.
    fn libraries(harness: &'static [&'static str]) -> Self {
        Self { harness, ..Self::new(["--lib".into()], &EXPLORED) }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = workspace::cargo(&["test", "--workspace", "--all-features"]);
        command.args(&self.targets).args(arguments).args(self.profile);
        command
    }

    fn build(&self) -> Outcome {
        super::check(&mut self.command(&["--no-run", "--quiet"]))
    }

    fn run(&self) -> Finished {
        let mut command = self.command(&["--no-fail-fast"]);
        process::run(command.arg("--").args(self.harness), TIME_LIMIT)
    }
}

/// What is run at the same time, of these programs of tests: together all there is.
fn parts(programs: &BTreeSet<String>) -> Vec<Part> {
    let option = |program: &str| format!("--test={program}");
    let has_its_own = |program: &str| [LONGEST, SPINNING].contains(&program) || STEPPED.contains(&program);
    let is_other = |program: &&String| !has_its_own(program);
    let mut others: Vec<_> = programs.iter().filter(is_other).map(|program| option(program)).collect();
    let more = others.split_off(others.len() / 2);
    others.extend(["--bins", "--examples"].map(String::from));
    vec![
        Part::libraries(MODELS[0]),
        Part::libraries(MODELS[1]),
        Part::libraries(&["--skip=::model::"]),
        Part::new([option(LONGEST)], &BARE),
        Part::new(STEPPED.map(option), &BARE),
        Part { harness: &["--test-threads=1"], ..Part::new([option(SPINNING)], &AS_IT_IS) },
        Part::new(others, &AS_IT_IS),
        Part::new(more, &AS_IT_IS),
    ]
}

/// The names of the programs of tests, as `cargo` has them.
fn programs() -> Result<BTreeSet<String>, String> {
    let mut command = workspace::cargo(&["metadata", "--no-deps", "--format-version=1"]);
    let told = process::run_for_stdout(&mut command, TIME_LIMIT);
    let metadata: Value = match told.success {
        true => serde_json::from_str(&told.output).map_err(|error| error.to_string())?,
        false => return Err(told.output),
    };
    let targets = metadata["packages"].as_array().into_iter().flatten();
    let targets = targets.flat_map(|package| package["targets"].as_array().into_iter().flatten());
    let tests = targets.filter(|target| target["kind"][0] == "test");
    Ok(tests.filter_map(|target| target["name"].as_str().map(String::from)).collect())
}

pub(super) fn run() -> Outcome {
    let parts = match programs() {
        Ok(programs) => parts(&programs),
        Err(problem) => return Outcome::failed(problem),
    };
    let mut finished: Vec<Finished> = thread::scope(|scope| {
        let running: Vec<_> = parts.iter().map(|part| scope.spawn(|| part.run())).collect();
        running.into_iter().map(|part| part.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    });
    finished.push(Part::new(["--doc".into()], &AS_IT_IS).run());
    evaluate(&finished)
}

/// Whether programs and tests can be built; nothing can be run otherwise.
pub(super) fn build() -> Outcome {
    let parts = match programs() {
        Ok(programs) => parts(&programs),
        Err(problem) => return Outcome::failed(problem),
    };
    let mut outcomes = parts.iter().map(Part::build).chain(iter::once_with(super::programs::build));
    outcomes.find(|outcome| outcome.failed > 0).unwrap_or(Outcome::passed(""))
}

fn evaluate(parts: &[Finished]) -> Outcome {
    let output: String = parts.iter().map(|part| part.output.as_str()).collect();
    let results: Vec<Counts> = output.lines().filter_map(Counts::parse).collect();
    let sum = |field: fn(&Counts) -> u32| results.iter().map(field).sum::<u32>();
    let skipped = marked(&output, "skipped: ");
    let (ended_well, mut failed, ignored) = (sum(|c| c.passed), sum(|c| c.failed), sum(|c| c.ignored));
    let passed = ended_well.saturating_sub(skipped.len() as u32);
    // A test program that crashed has no result line, nor has one that didn't compile.
    if parts.iter().any(|part| !part.success) && failed == 0 {
        failed = 1;
    }
    let mut note = format!("{passed} of {} in {} programs", ended_well + failed, results.len());
    if ignored > 0 {
        note.push_str(&format!(", {ignored} ignored"));
    }
    if !skipped.is_empty() {
        note.push_str(&format!(", {} skipped", skipped.len()));
    }
    let mut details = slowest(&output) + &figures(&output);
    if failed > 0 {
        details.push_str(&of_failed_programs(&output));
    }
    Outcome { passed, failed, skipped, note, details }
}

/// The programs that took longest, if any took a second.
fn slowest(output: &str) -> String {
    let mut times = Vec::new();
    let mut program = "";
    for line in output.lines() {
        let name = ["     Running ", "   Doc-tests "].iter().find_map(|head| line.strip_prefix(head));
        program = name.map_or(program, |name| name.split(" (").next().unwrap_or(name));
        let seconds = line.rsplit_once("finished in ").and_then(|(_, time)| time.strip_suffix('s'));
        if let Some(seconds) = seconds.and_then(|seconds| seconds.parse::<f64>().ok()) {
            times.push((seconds, program));
        }
    }
    times.retain(|(seconds, _)| *seconds >= 1.0);
    times.sort_by(|one, other| other.0.total_cmp(&one.0));
    times.truncate(SLOWEST);
    let named: Vec<_> = times.iter().map(|(seconds, program)| format!("{program} {seconds:.0} s")).collect();
    if named.is_empty() { String::new() } else { format!("slowest: {}\n", named.join(", ")) }
}

/// What the proofs came to.
fn figures(output: &str) -> String {
    marked(output, "proof: ").iter().map(|line| format!("{line}\n")).collect()
}

/// What tests say past the harness, which keeps what they print.
fn marked(output: &str, mark: &str) -> Vec<String> {
    output.lines().filter_map(|line| line.strip_prefix(mark)).map(str::to_owned).collect()
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

/// The output of the programs that failed, without what went well in them.
fn of_failed_programs(output: &str) -> String {
    let mut programs = vec![String::new()];
    for line in output.lines() {
        if ["     Running ", "   Doc-tests "].iter().any(|head| line.starts_with(head)) {
            programs.push(String::new());
        }
        let is_success = line.starts_with("test ") && line.ends_with(" ... ok");
        if let Some(program) = programs.last_mut().filter(|_| !is_success && !line.is_empty()) {
            program.push_str(line);
            program.push('\n');
        }
    }
    programs.into_iter().filter(|program| !program.contains("\ntest result: ok. ")).collect()
}

#[cfg(test)]
mod tests {
    use super::{Counts, evaluate, of_failed_programs, parts, programs, slowest};
    use crate::process::Finished;

    const OUTPUT: &str = "\
     Running unittests src/lib.rs (target/debug/deps/one)
running 3 tests
test a ... ok
test b ... FAILED
test c ... ok

test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.05s

     Running tests/two.rs (target/debug/deps/two)
running 6 tests

test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.00s
";

    fn finished(success: bool, output: &str) -> [Finished; 1] {
        [Finished { success, output: output.into() }]
    }

    #[test]
    fn each_program_of_tests_is_in_one_part() {
        let programs = programs().unwrap();
        for program in ["command", "kills", "survival", "waiting"] {
            assert!(programs.contains(program), "{program} in {programs:?}");
        }
        let mut named: Vec<String> = parts(&programs)
            .iter()
            .flat_map(|part| &part.targets)
            .filter_map(|target| target.strip_prefix("--test=").map(String::from))
            .collect();
        named.sort();
        assert_eq!(named, Vec::from_iter(programs));
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
    fn success_shows_no_details_but_the_figures_of_proofs() {
        let line = "test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(evaluate(&finished(true, line)).details, "");
        let proven = format!("proof: 3 of 3 points\ntest points ... ok\n{line}");
        assert_eq!(evaluate(&finished(true, &proven)).details, "3 of 3 points\n");
    }

    #[test]
    fn what_was_skipped_has_not_passed_and_says_why() {
        let line = "test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out";
        let output = format!("test a ... ok\n\nskipped: b: it takes root\ntest b ... ok\n{line}");
        let outcome = evaluate(&finished(true, &output));
        assert_eq!((outcome.passed, outcome.failed), (4, 0));
        assert_eq!(outcome.skipped, ["b: it takes root"]);
        assert_eq!(outcome.note, "4 of 5 in 1 programs, 1 skipped");
    }

    #[test]
    fn what_takes_long_is_named() {
        let result =
            "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in";
        let output = format!(
            "     Running tests/a.rs (target/a)\n{result} 0.50s\n     Running unittests src/lib.rs (target/b)\n\
             {result} 2.00s\n   Doc-tests c\n{result} 30.40s\n"
        );
        assert_eq!(slowest(&output), "slowest: c 30 s, unittests src/lib.rs 2 s\n");
        assert_eq!(slowest("nothing"), "");
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
    fn only_failed_programs_are_shown_and_of_them_what_went_wrong() {
        let result = "test result: ok. 1 passed; 0 failed; 0 ignored";
        let good = format!("     Running a (target/a)\nrunning 1 test\ntest a ... ok\n\n{result}\n");
        let bad = "     Running b (target/b)\ntest c ... ok\ntest b ... FAILED\n\nwhy\n";
        let crashed = "   Doc-tests c\nsignal: 9, SIGKILL: kill\n";
        let expected =
            "     Running b (target/b)\ntest b ... FAILED\nwhy\n   Doc-tests c\nsignal: 9, SIGKILL: kill\n";
        assert_eq!(of_failed_programs(&[&good, bad, &good, crashed].concat()), expected);
    }
}
