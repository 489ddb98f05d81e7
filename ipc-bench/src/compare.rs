//! What has changed between two runs, beyond the noise.
//!
//! Each measurement is judged by its ratio, to the floor or to the bare calls, since the
//! nanoseconds of two runs are of two states of the machine; where it has none, by what it has, and
//! more of that is noise. A change counts if the figures differ by more than that, and the quartiles
//! of the rounds, where there are some, don't overlap.
//!
//! Besides, it says of the ratios that both runs claim to be stable whether they are.

use crate::record::{CLOSE, Figure, Row, Run, are_close};
use std::{cmp::Ordering, collections::BTreeMap, path::Path, process::ExitCode};

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

/// A change that counts: which measurement, and what of it before and after.
#[derive(Debug, PartialEq)]
struct Change {
    label: String,
    old: Figure,
    new: Figure,
}

#[derive(Debug, Default, PartialEq)]
struct Comparison {
    /// Figures; a measurement may have several.
    compared: usize,
    better: Vec<Change>,
    worse: Vec<Change>,
    /// Ratios of which both runs claim that they hold: how many are close to each other, and which
    /// aren't.
    held: usize,
    not_held: Vec<String>,
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
        comparison.notes.extend(
            run.warnings().into_iter().map(|warning| format!("the {name} run is doubtful: {warning}")),
        );
        let failures = run.failures.iter();
        comparison
            .notes
            .extend(failures.map(|one| format!("failed in the {name} run: {}: {}", one.what, one.why)));
    }
    if set_up(&old.head.machine) != set_up(&new.head.machine) {
        comparison.notes.push("the machines are not the same, or not set up alike".into());
    }
    let bare = new.rows.iter().filter(|row| row.figures().is_empty());
    comparison.notes.extend(bare.map(|row| format!("nothing to compare it by: {}", row.label())));
    comparison.hold(&steady(&old.rows), &steady(&new.rows));
    let (old, new) = (figures(&old.rows), figures(&new.rows));
    let only = |here: &Keyed<Figure>, there: &Keyed<Figure>, name: &str| -> Vec<String> {
        let gone = here.iter().filter(|(key, _)| !there.contains_key(*key));
        gone.map(|(key, _)| format!("only in the {name} run: {}", key.text())).collect()
    };
    comparison.missing = [only(&new, &old, "later"), only(&old, &new, "earlier")].concat();
    for (key, after) in &new {
        let Some(before) = old.get(key) else { continue };
        comparison.compared += 1;
        let change = || Change { label: key.label.clone(), old: before.clone(), new: after.clone() };
        match (moved(before, after), after.less_is_better) {
            (Some(Ordering::Less), true) | (Some(Ordering::Greater), false) => {
                comparison.better.push(change());
            }
            (Some(_), _) => comparison.worse.push(change()),
            (None, _) => {}
        }
    }
    comparison
}

/// What a machine is and how it is set up: not what was measured of it, as of its clock.
fn set_up(machine: &[String]) -> Vec<&str> {
    let is_measured = |line: &&str| line.starts_with("clock");
    let known = |line| if is_measured(&line) { line.split(':').next().unwrap_or(line) } else { line };
    machine.iter().map(String::as_str).map(known).collect()
}

/// What tells a figure from the others of a run.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    label: String,
    name: &'static str,
    /// Which one of those that are called the same.
    number: usize,
}

impl Key {
    fn text(&self) -> String {
        let Self { label, name, number } = self;
        match number {
            0 => format!("{label}: {name}"),
            _ => format!("{label}: {name} ({})", number + 1),
        }
    }
}

type Keyed<T> = BTreeMap<Key, T>;

/// All figures that measurements are judged by.
fn figures(rows: &[Row]) -> Keyed<Figure> {
    keyed(rows, |row| row.figures().into_iter().map(|figure| (figure.name, figure)).collect())
}

/// All ratios of which the run claims that they hold.
fn steady(rows: &[Row]) -> Keyed<f64> {
    keyed(rows, |row| row.steady().into_iter().map(|steady| (steady.over, steady.ratio)).collect())
}

fn keyed<T>(rows: &[Row], of: impl Fn(&Row) -> Vec<(&'static str, T)>) -> Keyed<T> {
    let mut all = Keyed::new();
    for row in rows {
        for (name, figure) in of(row) {
            let mut key = Key { label: row.label(), name, number: 0 };
            while all.contains_key(&key) {
                key.number += 1;
            }
            all.insert(key, figure);
        }
    }
    all
}

/// Where the figure went, if it went anywhere beyond the noise.
fn moved(old: &Figure, new: &Figure) -> Option<Ordering> {
    let (low, high) = (old.value.min(new.value), old.value.max(new.value));
    if high <= low * (1.0 + new.noise_share) || high - low <= new.noise_least {
        return None;
    }
    // Without a spread, nothing is known to overlap.
    let apart = match (old.quartiles, new.quartiles) {
        (Some([old_low, old_high]), Some([new_low, new_high])) => old_high < new_low || new_high < old_low,
        _ => true,
    };
    apart.then(|| new.value.total_cmp(&old.value))
}

impl Comparison {
    /// Looks whether what both runs claim is so.
    fn hold(&mut self, old: &Keyed<f64>, new: &Keyed<f64>) {
        for (key, &after) in new {
            match old.get(key) {
                Some(&before) if are_close(before, after) => self.held += 1,
                Some(before) => self
                    .not_held
                    .push(format!("{}: over {} {before:.2} before, {after:.2} now", key.label, key.name)),
                None => {}
            }
        }
    }

    /// Nothing is worse, and nothing is unknown that could be.
    fn is_well(&self) -> bool {
        self.worse.is_empty() && self.is_whole
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for (title, changes) in [("worse", &self.worse), ("better", &self.better)] {
            for Change { label, old, new } in changes {
                let (name, before, now) = (new.name, old.text(), new.text());
                text.push_str(&format!("{title:<8} {label}: {name} {before} before, {now} now\n"));
            }
        }
        let unchanged = self.compared - self.worse.len() - self.better.len();
        text.push_str(&format!(
            "{} figures compared: {} worse, {} better, {unchanged} the same within their noise or their spread\n",
            self.compared,
            self.worse.len(),
            self.better.len(),
        ));
        if self.held + self.not_held.len() > 0 {
            let both = self.held + self.not_held.len();
            text.push_str(&format!(
                "{both} ratios that both runs claim to be stable: {} of them within {:.0} % of each other\n",
                self.held,
                CLOSE * 100.0
            ));
        }
        self.not_held.iter().for_each(|one| text.push_str(&format!("moved    {one}\n")));
        for note in self.notes.iter().chain(&self.missing) {
            text.push_str(&format!("note     {note}\n"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::{compare, moved, set_up};
    use crate::record::{Failure, Head, Idle, Row, Run};
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

    fn whole(rows: Vec<Row>) -> Run {
        Run { rows, is_complete: true, ..Run::default() }
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
        let figure = |ratio| row("latency", ratio, spread).figures().remove(0);
        assert_eq!(moved(&figure(old), &figure(new)), expected);
    }

    #[test]
    fn less_is_better_but_for_throughput() {
        let run = |ratio| whole(vec![row("latency", ratio, 0.0), row("throughput", ratio, 0.0)]);
        let comparison = compare(&run(1.0), &run(2.0));
        assert_eq!(comparison.worse[0].label, "latency mq, 8 bytes");
        assert_eq!(comparison.better[0].label, "throughput mq, 8 bytes");
        assert!(comparison.text().starts_with("worse    latency mq, 8 bytes: ratio 1.00 before, 2.00 now\n"));
    }

    #[test]
    fn what_has_no_ratio_is_compared_by_what_it_has() {
        let idle = |cpu_ns_per_second, wakeups_per_second| {
            let idle = Some(Idle { watched_s: 1.0, cpu_ns_per_second, wakeups_per_second });
            whole(vec![Row { experiment: "idle".into(), transport: "mq".into(), idle, ..Row::default() }])
        };
        let text = compare(&idle(200_000.0, 10.0), &idle(400_000.0, 11.0)).text();
        assert!(text.starts_with(
            "worse    idle mq, 0 bytes: processor time a second 200.0 us before, 400.0 us now\n"
        ));
        assert!(text.contains("2 figures compared: 1 worse, 0 better, 1 the same"), "{text}");
        // From nothing to next to nothing.
        let comparison = compare(&idle(0.0, 0.0), &idle(9_000.0, 1.0));
        assert_eq!((comparison.compared, comparison.worse.len()), (2, 0));
    }

    #[test]
    fn of_those_that_are_called_the_same_each_is_compared_with_its_own() {
        let run = |second| whole(vec![row("latency", 1.0, 0.0), row("latency", second, 0.0)]);
        let comparison = compare(&run(2.0), &run(4.0));
        assert_eq!((comparison.compared, comparison.worse.len()), (2, 1));
        let missing = compare(&run(2.0), &whole(vec![row("latency", 1.0, 0.0)])).missing;
        assert_eq!(missing, ["only in the earlier run: latency mq, 8 bytes: ratio (2)"]);
    }

    #[test]
    fn what_there_is_nothing_to_compare_by_and_what_is_doubtful_is_said() {
        let head = Head { warnings: vec!["one processor".into()], ..Head::default() };
        let bare = Row { experiment: "latency".into(), transport: "mq".into(), ..Row::default() };
        let run = Run { head, ..whole(vec![bare, row("open", 1.0, 0.0), row("latency", 1.0, 0.0)]) };
        let comparison = compare(&run, &run);
        let expected = [
            "the earlier run is doubtful: one processor",
            "the later run is doubtful: one processor",
            "nothing to compare it by: latency mq, 0 bytes",
            "nothing to compare it by: open mq, 8 bytes",
        ];
        assert_eq!((comparison.notes, comparison.compared), (expected.map(str::to_owned).into(), 1));
    }

    #[test]
    fn a_later_run_that_failed_in_part_or_was_cut_short_is_not_well() {
        let whole = whole(vec![row("latency", 1.0, 0.0)]);
        let failure = Failure { what: "latency mq, 8 bytes".into(), why: "the far process died".into() };
        let failed = Run { failures: vec![failure], ..whole.clone() };
        let cut = Run { is_complete: false, ..whole.clone() };
        assert!(compare(&whole, &whole).is_well() && compare(&failed, &whole).is_well());
        assert!(!compare(&whole, &failed).is_well() && !compare(&whole, &cut).is_well());
    }

    #[test]
    fn what_both_runs_claim_to_be_stable_is_held_to_it() {
        let claims = |transport: &'static str, ratio: f64| Row {
            transport: transport.into(),
            rounds: 5,
            raw_ratio: Some(ratio),
            raw_quartiles: Some([ratio, ratio]),
            ..row("latency", 1.0, 0.0)
        };
        let old = whole(vec![claims("mq", 1.0), claims("sysv", 1.0), row("open", 1.0, 0.0)]);
        let new = whole(vec![claims("mq", 1.05), claims("sysv", 0.9), claims("unix", 1.0)]);
        let text = compare(&old, &new).text();
        let expected = "2 ratios that both runs claim to be stable: 1 of them within 10 % of each other\n\
                        moved    latency sysv, 8 bytes: over the bare calls 1.00 before, 0.90 now\n";
        assert!(text.contains(expected), "{text}");
        assert!(!compare(&new, &whole(vec![row("latency", 1.0, 0.0)])).text().contains("stable"));
    }

    #[test]
    fn a_machine_is_the_same_though_its_clock_was_measured_anew() {
        let machine = |clock: &str| ["machine  AMD".to_owned(), format!("clock    {clock}")];
        let [one, later, other] =
            ["tsc: 30 ns a reading", "tsc: 27 ns a reading", "hpet: 900 ns a reading"].map(machine);
        assert_eq!(set_up(&one), set_up(&later));
        assert_ne!(set_up(&one), set_up(&other));
    }

    #[test]
    fn what_one_run_lacks_and_how_it_ended_is_said() {
        let comparison = compare(&whole(vec![row("latency", 1.0, 0.0)]), &Run::default());
        assert_eq!(comparison.missing, ["only in the earlier run: latency mq, 8 bytes: ratio"]);
        assert_eq!(comparison.notes, ["the later run was interrupted"]);
        assert_eq!((comparison.compared, comparison.is_well()), (0, false));
    }
}
