//! The figures, for people and programs.

use super::{
    Cost, Round,
    jobs::{Job, Outcome},
};
use crate::{
    machine::Machine,
    stats::{median, quartiles},
};
use serde::Serialize;

/// What two jobs come to beside each other.
#[derive(Debug, Serialize)]
struct Figure {
    what: &'static str,
    unit: &'static str,
    ours: f64,
    beside: &'static str,
    theirs: f64,
    /// Median of the rounds' ratios, or differences where it says so.
    compared: f64,
    compared_as: &'static str,
    promised: &'static str,
    /// What makes it doubtful.
    warnings: Vec<String>,
}

/// Nanoseconds an operation, of one process.
fn each_ns(round: &Round) -> f64 {
    round.0.took_ns as f64 / round.0.operations.max(1) as f64
}

/// Operations a microsecond, of all.
fn rate(round: &Round) -> f64 {
    let of = |outcome: &Outcome| outcome.operations as f64 * 1e3 / outcome.took_ns.max(1) as f64;
    of(&round.0) + round.1.as_ref().map_or(0.0, of)
}

/// The slowest of a hundred, in microseconds, of the process that fared worse.
fn wait_us(round: &Round) -> f64 {
    let far = round.1.map_or(0, |far| far.wait_p99_ns);
    round.0.wait_p99_ns.max(far) as f64 / 1e3
}

fn figures(rounds: &[(Job, Vec<Round>)]) -> Vec<Figure> {
    let of = |job: Job, figure: fn(&Round) -> f64| -> Vec<f64> {
        rounds.iter().filter(|(other, _)| *other == job).flat_map(|(_, all)| all.iter().map(figure)).collect()
    };
    let compare = |ours: Vec<f64>, theirs: Vec<f64>, how: fn(f64, f64) -> f64| {
        let each = ours.iter().zip(&theirs).map(|(ours, theirs)| how(*ours, *theirs));
        let compared = median(each).unwrap_or(f64::NAN);
        (median(ours).unwrap_or(f64::NAN), median(theirs).unwrap_or(f64::NAN), compared)
    };
    let figure = |what, unit, (ours, theirs, compared), beside, compared_as, promised| Figure {
        what,
        unit,
        ours,
        beside,
        theirs,
        compared,
        compared_as,
        promised,
        warnings: Vec::new(),
    };
    let ratio = |ours: f64, theirs: f64| ours / theirs;
    let difference = |ours: f64, theirs: f64| ours - theirs;
    use Job::*;
    vec![
        figure(
            "mutex, alone: lock and unlock",
            "ns",
            compare(of(Mutex, each_ns), of(ParkingLot, each_ns), ratio),
            "parking_lot, in one process",
            "ratio",
            "at most 1.2",
        ),
        figure(
            "mutex, alone: lock and unlock",
            "ns",
            compare(of(Mutex, each_ns), of(Pthread, each_ns), ratio),
            "pthread, shared and robust",
            "ratio",
            "",
        ),
        figure(
            "mutex, two processes: all operations",
            "M/s",
            compare(of(MutexContended, rate), of(PthreadContended, rate), ratio),
            "pthread, shared and robust",
            "ratio",
            "at least 1.0",
        ),
        figure(
            "mutex, two processes: wait, p99",
            "us",
            compare(of(MutexWaits, wait_us), of(PthreadWaits, wait_us), ratio),
            "pthread, shared and robust",
            "ratio",
            "at most 1.0",
        ),
        figure(
            "rwlock, two readers: each one's rate",
            "M/s",
            compare(of(ReadTogether, |round| rate(round) / 2.0), of(Read, rate), ratio),
            "one reader alone",
            "ratio",
            "at least 0.9",
        ),
        figure(
            "shared value, read-only, unchanged: read",
            "ns",
            compare(of(SharedRead, each_ns), of(Load, each_ns), difference),
            "a plain load",
            "ns more",
            "at most 5",
        ),
        figure(
            "write window: enter and leave",
            "ns",
            compare(of(Window, each_ns), of(TwoCalls, each_ns), ratio),
            "two getppid(2)",
            "ratio",
            "",
        ),
    ]
}

/// What our lock costs, beside one that no death is survived by.
pub(super) fn costs(rounds: &[(Job, Vec<Round>)]) -> Vec<Cost> {
    let of = |job: Job| -> Vec<f64> {
        let its = rounds.iter().filter(|(other, _)| *other == job);
        its.flat_map(|(_, all)| all.iter().map(each_ns)).collect()
    };
    let (with, without) = (of(Job::Mutex), of(Job::ParkingLot));
    let ratios = || with.iter().zip(&without).map(|(with, without)| with / without);
    let figures = (median(with.iter().copied()), median(without.iter().copied()), median(ratios()));
    let (Some(with_ns), Some(without_ns), Some(times)) = figures else { return Vec::new() };
    let (quartiles, rounds) = (quartiles(ratios()), with.len());
    vec![Cost { without: "parking_lot", with_ns, without_ns, times, quartiles, rounds }]
}

/// A table.
pub(super) fn text(machine: &Machine, rounds: &[(Job, Vec<Round>)]) -> String {
    let mut text = format!("{machine}\n");
    let head = ["", "ours", "beside", "theirs", "compared", "promised"];
    let mut rows = vec![head.map(String::from)];
    rows.extend(figures(rounds).into_iter().map(|figure| {
        [
            figure.what.into(),
            format!("{:.2} {}", figure.ours, figure.unit),
            figure.beside.into(),
            format!("{:.2} {}", figure.theirs, figure.unit),
            format!("{:.2} {}", figure.compared, figure.compared_as),
            figure.promised.into(),
        ]
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text += "\nMedians of interleaved rounds; what is compared is compared within each round.\n";
    text
}

/// A JSON object a line.
pub(super) fn json(machine: &Machine, rounds: &[(Job, Vec<Round>)]) -> String {
    let warned = |figure| Figure { warnings: machine.warnings().to_vec(), ..figure };
    let lines =
        figures(rounds).into_iter().map(warned).filter_map(|figure| serde_json::to_string(&figure).ok());
    lines.map(|line| line + "\n").collect()
}
