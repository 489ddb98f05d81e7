//! What is shown: a line for each stage when it ends, everything about those that failed,
//! a summary, and the closing line that scripts look for.

use std::{
    io::{Write, stdout},
    process::ExitCode,
    time::{Duration, Instant},
};

/// How a stage ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Checks that passed; a stage that can't count them is one check.
    pub(crate) passed: u32,
    pub(crate) failed: u32,
    /// Checks that this system doesn't allow, neither passed nor failed: `name: why`.
    pub(crate) skipped: Vec<String>,
    /// A few words for the stage's line.
    pub(crate) note: String,
    /// Shown beneath the stage's line.
    pub(crate) details: String,
}

impl Outcome {
    /// One check that passed.
    pub(crate) fn passed(note: impl Into<String>) -> Self {
        Self { passed: 1, note: note.into(), ..Self::default() }
    }

    /// One check that failed, and why.
    pub(crate) fn failed(details: impl Into<String>) -> Self {
        Self { failed: 1, details: details.into(), ..Self::default() }
    }

    /// One check for each of `problems` lists: failed if there are any in it.
    pub(crate) fn of_problems(checks: &[Vec<String>], note: impl Into<String>) -> Self {
        let failed = checks.iter().filter(|problems| !problems.is_empty()).count() as u32;
        Self {
            passed: checks.len() as u32 - failed,
            failed,
            note: note.into(),
            details: checks.concat().join("\n"),
            ..Self::default()
        }
    }

    fn word(&self) -> &'static str {
        if self.failed == 0 { "ok" } else { "FAIL" }
    }
}

/// The stages that have run.
#[derive(Default)]
pub(crate) struct Report {
    stages: Vec<(&'static str, Outcome, Duration)>,
}

impl Report {
    /// Runs a stage and shows how it went.
    pub(crate) fn run(&mut self, name: &'static str, stage: impl FnOnce() -> Outcome) -> &Outcome {
        print!("{name:<14}");
        let _ = stdout().flush();
        let start = Instant::now();
        let outcome = stage();
        let took = start.elapsed();
        println!("{:<4} {:>8}  {}", outcome.word(), seconds(took), outcome.note);
        if !outcome.details.is_empty() {
            println!("\n{}\n", outcome.details.trim_end());
        }
        self.stages.push((name, outcome, took));
        &self.stages[self.stages.len() - 1].1
    }

    /// The summary and the closing line.
    pub(crate) fn close(&self) -> ExitCode {
        println!("\n{}{}", self.summary(), self.skipped());
        println!("{}", closing_line(self.passed(), self.failed()));
        if self.failed() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn passed(&self) -> u32 {
        self.stages.iter().map(|(_, outcome, _)| outcome.passed).sum()
    }

    fn failed(&self) -> u32 {
        self.stages.iter().map(|(_, outcome, _)| outcome.failed).sum()
    }

    /// What nobody knows after this run, since it could not be tried here.
    fn skipped(&self) -> String {
        let skipped: Vec<_> = self.stages.iter().flat_map(|(_, outcome, _)| &outcome.skipped).collect();
        match skipped.len() {
            0 => String::new(),
            count => format!(
                "\n{count} skipped:\n{}\n",
                skipped.iter().map(|what| format!("  {what}\n")).collect::<String>()
            ),
        }
    }

    fn summary(&self) -> String {
        let header = ["stage", "", "passed", "failed", "time"].map(String::from).to_vec();
        let rows = self.stages.iter().map(|(name, outcome, took)| {
            let (passed, failed) = (outcome.passed.to_string(), outcome.failed.to_string());
            vec![(*name).into(), outcome.word().into(), passed, failed, seconds(*took)]
        });
        table(&std::iter::once(header).chain(rows).collect::<Vec<_>>())
    }
}

/// `N passed, N failed`.
pub(crate) fn closing_line(passed: u32, failed: u32) -> String {
    format!("{passed} passed, {failed} failed")
}

/// `12.3 s`.
pub(crate) fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

/// Rows of cells as aligned columns; a cell that begins with a digit is set to the right.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let cells = |column: usize| rows.iter().filter_map(move |row| row.get(column));
    let widths: Vec<usize> = (0..columns)
        .map(|column| cells(column).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| match cell.starts_with(char::is_numeric) {
            true => format!("{cell:>width$}"),
            false => format!("{cell:<width$}"),
        });
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::{Outcome, Report, closing_line, table};
    use std::process::ExitCode;

    #[test]
    fn columns_are_aligned_and_figures_set_to_the_right() {
        let rows = [vec!["stage", "passed"], vec!["format", "1"], vec!["tests", "412"]];
        let rows = rows.map(|row| row.into_iter().map(String::from).collect());
        assert_eq!(table(&rows), "stage   passed\nformat       1\ntests      412\n");
    }

    #[test]
    fn rows_may_be_shorter_than_others() {
        let rows = [vec!["a".into()], vec!["b".into(), "c".into()]];
        assert_eq!(table(&rows), "a\nb  c\n");
    }

    #[test]
    fn an_empty_table_is_nothing() {
        assert_eq!(table(&[]), "");
    }

    #[test]
    fn checks_of_all_stages_are_summed() {
        let mut report = Report::default();
        report.run("one", || Outcome::passed(""));
        report.run("many", || Outcome { passed: 40, failed: 2, ..Outcome::default() });
        assert_eq!(closing_line(report.passed(), report.failed()), "41 passed, 2 failed");
        assert_eq!(report.close(), ExitCode::FAILURE);
    }

    #[test]
    fn what_was_skipped_in_any_stage_is_counted_and_listed_with_its_reason() {
        let mut report = Report::default();
        assert_eq!(report.skipped(), "");
        let skipped = |what: &str| Outcome { skipped: vec![what.into()], ..Outcome::passed("") };
        report.run("one", || skipped("a: why"));
        report.run("another", || skipped("b: why not"));
        assert_eq!(report.skipped(), "\n2 skipped:\n  a: why\n  b: why not\n\n");
    }

    #[test]
    fn a_check_with_problems_has_failed() {
        let outcome = Outcome::of_problems(&[vec![], vec!["a".into(), "b".into()]], "");
        assert_eq!((outcome.passed, outcome.failed, outcome.details.as_str()), (1, 1, "a\nb"));
    }
}
