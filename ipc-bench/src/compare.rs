//! What has changed between two runs, beyond the noise.
//!
//! Each measurement is judged by its ratio, to the floor or to the bare calls, since the
//! nanoseconds of two runs are of two states of the machine; where it has none, by what it has, and
//! more of that is noise. A change counts if the figures differ by more than that, and the quartiles
//! of the rounds, where there are some, don't overlap. A ratio of which no spread was kept isn't
//! judged, since nothing says how far it moves by itself.
//!
//! Besides, it says of each ratio that one of the runs claims to be stable whether the other one found
//! it, too, be it claimed there or not.

use crate::{
    record::{CLOSE, Figure, Row, Run, Steady, are_close},
    trouble::{Trouble, print},
};
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
    // The exit code is for who doesn't read it.
    if let Err(Trouble::Failed(why)) = print(comparison.text().trim_end()) {
        eprintln!("ipc-bench: {why}");
        return ExitCode::from(2);
    }
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
    /// Of the ratios that the earlier run claims to hold, and of those that the later one does.
    claims: [Claims; 2],
    /// What only one of the runs has.
    missing: Vec<String>,
    /// Whether the later run came to its end, and nothing failed in it.
    is_whole: bool,
    notes: Vec<String>,
}

/// What became of the claims of one run, of those ratios that the other one has measured as well.
#[derive(Debug, Default, PartialEq)]
struct Claims {
    /// How many the other one found.
    held: usize,
    /// The others.
    not_held: Vec<String>,
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
    if old.head.extent != new.head.extent {
        comparison.notes.push(format!(
            "one is a {} run, the other a {} one: their rounds are of different length",
            old.head.extent, new.head.extent
        ));
    }
    let bare = new.rows.iter().filter(|row| row.figures().is_empty());
    comparison.notes.extend(bare.map(|row| format!("nothing to compare it by: {}", row.label())));
    let found = [old, new].map(|run| ratios(&run.rows, Row::alike));
    let claimed = [old, new].map(|run| ratios(&run.rows, Row::steady));
    comparison.claims = [hold(&claimed[0], &found, 1), hold(&claimed[1], &found, 0)];
    let (old, new) = (figures(&old.rows), figures(&new.rows));
    let only = |here: &Keyed<Figure>, there: &Keyed<Figure>, name: &str| -> Vec<String> {
        let gone = here.iter().filter(|(key, _)| !there.contains_key(*key));
        gone.map(|(key, _)| format!("only in the {name} run: {}", key.text())).collect()
    };
    comparison.missing = [only(&new, &old, "later"), only(&old, &new, "earlier")].concat();
    for (key, after) in &new {
        let Some(before) = old.get(key) else { continue };
        if !(before.is_judged() && after.is_judged()) {
            comparison.notes.push(format!("not judged, since no spread of it was kept: {}", key.text()));
            continue;
        }
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

/// All ratios of like to like, or those of them that are claimed to hold.
fn ratios(rows: &[Row], of: fn(&Row) -> Vec<Steady>) -> Keyed<f64> {
    keyed(rows, |row| of(row).into_iter().map(|ratio| (ratio.over, ratio.ratio)).collect())
}

/// Looks whether what is claimed was found in the other run; the earlier one's ratios come first.
fn hold(claimed: &Keyed<f64>, found: &[Keyed<f64>; 2], other: usize) -> Claims {
    let mut claims = Claims::default();
    for (key, &ratio) in claimed {
        let Some(&its) = found[other].get(key) else { continue };
        if are_close(ratio, its) {
            claims.held += 1;
            continue;
        }
        let (before, now) = if other == 0 { (its, ratio) } else { (ratio, its) };
        claims.not_held.push(format!("{}: over {} {before:.2} before, {now:.2} now", key.label, key.name));
    }
    claims
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
    // What is no ratio is known by its noise.
    let apart = match (old.quartiles, new.quartiles) {
        (Some([old_low, old_high]), Some([new_low, new_high])) => old_high < new_low || new_high < old_low,
        _ => true,
    };
    apart.then(|| new.value.total_cmp(&old.value))
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
        for (Claims { held, not_held }, [its, other]) in
            self.claims.iter().zip([["earlier", "later"], ["later", "earlier"]])
        {
            let claimed = held + not_held.len();
            if claimed > 0 {
                text.push_str(&format!(
                    "of {claimed} ratios that the {its} run claims to be stable, the {other} one found {held} within \
                     {:.0} %\n",
                    CLOSE * 100.0
                ));
            }
            not_held.iter().for_each(|one| text.push_str(&format!("moved    {one}\n")));
        }
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
    fn what_either_run_claims_to_be_stable_is_held_to_what_the_other_found() {
        let found = |transport: &'static str, ratio: f64, spread: f64| Row {
            transport: transport.into(),
            rounds: 5,
            raw_ratio: Some(ratio),
            raw_quartiles: Some([ratio - spread, ratio + spread]),
            ..row("latency", 1.0, 0.0)
        };
        let old = whole(vec![found("mq", 1.0, 0.0), found("sysv", 1.0, 0.0), found("unix", 1.0, 0.0)]);
        // Of these, it claims the first alone.
        let new = whole(vec![found("mq", 1.05, 0.0), found("sysv", 0.8, 0.3), found("raw:mq", 1.0, 0.0)]);
        let text = compare(&old, &new).text();
        let expected = "of 2 ratios that the earlier run claims to be stable, the later one found 1 within 10 %\n\
                        moved    latency sysv, 8 bytes: over the bare calls 1.00 before, 0.80 now\n\
                        of 1 ratios that the later run claims to be stable, the earlier one found 1 within 10 %\n";
        assert!(text.contains(expected), "{text}");
        assert!(!compare(&new, &whole(vec![row("latency", 1.0, 0.0)])).text().contains("stable"));
    }

    #[test]
    fn a_ratio_without_a_spread_is_not_judged() {
        let run = |ratio| {
            let (floor_ratio, ratio_quartiles) = (Some(ratio), None);
            whole(vec![
                Row { floor_ratio, ratio_quartiles, ..row("latest", 0.0, 0.0) },
                row("latency", 1.0, 0.0),
            ])
        };
        let comparison = compare(&run(1.0), &run(2.0));
        assert!(comparison.is_well());
        let text = comparison.text();
        assert!(text.starts_with("1 figures compared: 0 worse, 0 better, 1 the same"), "{text}");
        assert!(
            text.contains("not judged, since no spread of it was kept: latest mq, 8 bytes: ratio"),
            "{text}"
        );
    }

    #[test]
    fn runs_of_different_extent_are_said_to_be() {
        let of = |extent: &str| Run {
            head: Head { extent: extent.into(), ..Head::default() },
            ..whole(vec![row("latency", 1.0, 0.0)])
        };
        let said = "one is a quick run, the other a full one: their rounds are of different length";
        assert_eq!(compare(&of("quick"), &of("full")).notes, [said]);
        assert!(compare(&of("full"), &of("full")).notes.is_empty());
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
