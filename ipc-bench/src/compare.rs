//! What has changed between two runs, beyond the noise.
//!
//! Each measurement is judged by its ratio, to the floor or to the bare calls, since the
//! nanoseconds of two runs are of two states of the machine. A change counts if the medians
//! differ by more than a tenth and the quartiles of the rounds don't overlap.

use crate::record::{Row, Run};
use std::{cmp::Ordering, path::Path, process::ExitCode};

/// How far medians may differ and mean nothing.
const NOISE: f64 = 0.10;

/// Compares the runs in two files: exit code 0 if nothing is worse, 1 if something is, or if the
/// later run is not whole or something failed in it, 2 if they can't be compared.
pub(crate) fn run(old: &Path, new: &Path) -> ExitCode {
    let (old, new) = match (Run::read(old), Run::read(new)) {
        (Ok(old), Ok(new)) => (old, new),
        (Err(what), _) | (_, Err(what)) => {
            eprintln!("ipc-bench: {what}");
            return ExitCode::from(2);
        }
    };
    let comparison = compare(&old, &new);
    print!("{}", comparison.text());
    match (comparison.compared, comparison.is_well()) {
        (0, _) => ExitCode::from(2),
        (_, true) => ExitCode::SUCCESS,
        (_, false) => ExitCode::FAILURE,
    }
}

/// A change that counts: which measurement, the ratios before and after.
#[derive(Debug, PartialEq)]
struct Change {
    label: String,
    old: f64,
    new: f64,
}

#[derive(Debug, Default, PartialEq)]
struct Comparison {
    compared: usize,
    better: Vec<Change>,
    worse: Vec<Change>,
    /// What only one of the runs has.
    missing: Vec<String>,
    /// Whether the later run came to its end, and nothing failed in it.
    is_whole: bool,
    notes: Vec<String>,
}

fn compare(old: &Run, new: &Run) -> Comparison {
    let is_whole = new.is_complete && new.failures.is_empty();
    let mut comparison = Comparison { is_whole, ..Comparison::default() };
    for (run, name) in [(old, "earlier"), (new, "later")] {
        if !run.is_complete {
            comparison.notes.push(format!("the {name} run was interrupted"));
        }
        let failures = run.failures.iter();
        comparison
            .notes
            .extend(failures.map(|one| format!("failed in the {name} run: {}: {}", one.what, one.why)));
    }
    if old.head.machine != new.head.machine {
        comparison.notes.push("the machines are not the same, or not set up alike".into());
    }
    for row in &new.rows {
        let label = row.label();
        let Some(before) = old.rows.iter().find(|before| before.label() == label) else {
            comparison.missing.push(format!("only in the later run: {label}"));
            continue;
        };
        let (Some((old, _)), Some((new, less_is_better))) = (before.judged(), row.judged()) else { continue };
        comparison.compared += 1;
        let change = Change { label, old, new };
        match (moved(before, row), less_is_better) {
            (Some(Ordering::Less), true) | (Some(Ordering::Greater), false) => comparison.better.push(change),
            (Some(_), _) => comparison.worse.push(change),
            (None, _) => {}
        }
    }
    let is_gone = |row: &&Row| new.rows.iter().all(|other| other.label() != row.label());
    let gone = old.rows.iter().filter(is_gone);
    comparison.missing.extend(gone.map(|row| format!("only in the earlier run: {}", row.label())));
    comparison
}

/// Where the ratio went, if it went anywhere beyond the noise.
fn moved(old: &Row, new: &Row) -> Option<Ordering> {
    let ((before, _), (after, _)) = (old.judged()?, new.judged()?);
    let (low, high) = (before.min(after), before.max(after));
    if high <= low * (1.0 + NOISE) {
        return None;
    }
    // Without a spread, nothing is known to overlap.
    let apart = match (old.ratio_quartiles, new.ratio_quartiles) {
        (Some([old_low, old_high]), Some([new_low, new_high])) => old_high < new_low || new_high < old_low,
        _ => true,
    };
    apart.then(|| after.total_cmp(&before))
}

impl Comparison {
    /// Nothing is worse, and nothing is unknown that could be.
    fn is_well(&self) -> bool {
        self.worse.is_empty() && self.is_whole
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for (title, changes) in [("worse", &self.worse), ("better", &self.better)] {
            for Change { label, old, new } in changes {
                text.push_str(&format!("{title:<8} {label}: ratio {old:.2} before, {new:.2} now\n"));
            }
        }
        let unchanged = self.compared - self.worse.len() - self.better.len();
        text.push_str(&format!(
            "{} compared: {} worse, {} better, {unchanged} the same within {:.0} % or their spread\n",
            self.compared,
            self.worse.len(),
            self.better.len(),
            NOISE * 100.0
        ));
        for note in self.notes.iter().chain(&self.missing) {
            text.push_str(&format!("note     {note}\n"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::{compare, moved};
    use crate::record::{Failure, Row, Run};
    use rstest::rstest;
    use std::cmp::Ordering;

    fn row(experiment: &'static str, ratio: f64, spread: f64) -> Row {
        Row {
            experiment: experiment.into(),
            transport: "mq".into(),
            message_len_bytes: 8,
            floor_ratio: Some(ratio),
            ratio_quartiles: Some([ratio - spread, ratio + spread]),
            ..Row::default()
        }
    }

    #[rstest]
    #[case::the_same(1.0, 1.0, 0.0, None)]
    #[case::within_a_tenth(1.0, 1.09, 0.0, None)]
    #[case::up(1.0, 1.2, 0.05, Some(Ordering::Greater))]
    #[case::down(1.2, 1.0, 0.05, Some(Ordering::Less))]
    #[case::up_but_spread(1.0, 1.2, 0.15, None)]
    fn a_change_is_one_beyond_the_noise(
        #[case] old: f64,
        #[case] new: f64,
        #[case] spread: f64,
        #[case] expected: Option<Ordering>,
    ) {
        assert_eq!(moved(&row("latency", old, spread), &row("latency", new, spread)), expected);
    }

    #[test]
    fn less_is_better_but_for_throughput() {
        let run = |ratio| Run {
            rows: vec![row("latency", ratio, 0.0), row("throughput", ratio, 0.0)],
            is_complete: true,
            ..Run::default()
        };
        let comparison = compare(&run(1.0), &run(2.0));
        assert_eq!(comparison.worse[0].label, "latency mq, 8 bytes");
        assert_eq!(comparison.better[0].label, "throughput mq, 8 bytes");
        assert!(comparison.text().starts_with("worse    latency mq, 8 bytes: ratio 1.00 before, 2.00 now\n"));
    }

    #[test]
    fn a_later_run_that_failed_in_part_or_was_cut_short_is_not_well() {
        let whole = Run { rows: vec![row("latency", 1.0, 0.0)], is_complete: true, ..Run::default() };
        let failure = Failure { what: "latency mq, 8 bytes".into(), why: "the far process died".into() };
        let failed = Run { failures: vec![failure], ..whole.clone() };
        let cut = Run { is_complete: false, ..whole.clone() };
        assert!(compare(&whole, &whole).is_well() && compare(&failed, &whole).is_well());
        assert!(!compare(&whole, &failed).is_well() && !compare(&whole, &cut).is_well());
    }

    #[test]
    fn what_one_run_lacks_and_how_it_ended_is_said() {
        let old = Run { rows: vec![row("latency", 1.0, 0.0)], is_complete: true, ..Run::default() };
        let comparison = compare(&old, &Run::default());
        assert_eq!(comparison.missing, ["only in the earlier run: latency mq, 8 bytes"]);
        assert_eq!(comparison.notes, ["the later run was interrupted"]);
        assert_eq!((comparison.compared, comparison.is_well()), (0, false));
    }
}
