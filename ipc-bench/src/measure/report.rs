//! What people and programs read: a table, or JSON lines.

use super::{
    table::{Table, decimals, ratio},
    tolerance::{lawful_per_second, laws},
};
use crate::{
    cli::Asked,
    machine::Machine,
    record::{Repeats, Row, curves, delay, size},
    spec::{Experiment, Touch, Waiting},
    trouble::{Trouble, print},
};
use indicatif::ProgressBar;
use std::fmt::Write as _;

/// A report that is being made.
#[derive(Debug)]
pub(crate) struct Report {
    json: bool,
    /// How far it is.
    bar: ProgressBar,
    experiment: Experiment,
    rows: Vec<Row>,
    notes: Vec<String>,
    any_failed: bool,
}

impl Report {
    /// Says what is measured, and where unless that was said.
    pub(crate) fn begin(asked: &Asked, machine: Option<&Machine>, bar: ProgressBar) -> Result<Self, Trouble> {
        let &Asked { experiment, json, .. } = asked;
        let mut heading = heading(asked);
        if let Some(machine) = machine {
            let _ = write!(heading, "\n{machine}");
        }
        // Standard output has nothing but objects then.
        match json {
            true => bar.suspend(|| eprintln!("{heading}")),
            false => bar.suspend(|| print(&heading))?,
        }
        Ok(Self { json, bar, experiment, rows: Vec::new(), notes: Vec::new(), any_failed: false })
    }

    pub(super) fn bar(&self) -> &ProgressBar {
        &self.bar
    }

    /// Says on a terminal what is under way.
    pub(crate) fn progress(&self, label: &str) {
        self.bar.set_message(format!("{} {label}", self.experiment.name()));
        self.bar.tick();
    }

    /// Takes a measurement; as JSON it is out at once.
    pub(crate) fn add(&mut self, row: Row) -> Result<(), Trouble> {
        self.bar.inc(1);
        if self.json {
            let line = serde_json::to_string(&row)?;
            self.bar.suspend(|| print(&line))?;
        }
        self.rows.push(row);
        Ok(())
    }

    /// Something that the reader should know.
    pub(crate) fn note(&mut self, what: String) {
        if self.json {
            self.bar.suspend(|| eprintln!("ipc-bench: left out: {what}"));
        } else {
            self.notes.push(what);
        }
    }

    /// A block that yields no figures.
    pub(crate) fn failed(&mut self, what: &str) {
        self.any_failed = true;
        self.bar.inc(1);
        self.bar.suspend(|| eprintln!("ipc-bench: failed: {what}"));
    }

    /// Finishes, and says whether all went well.
    pub(crate) fn end(self) -> Result<bool, Trouble> {
        if !self.json {
            self.bar.suspend(|| print(&self.tables()))?;
        }
        if self.bar.position() >= self.bar.length().unwrap_or(0) {
            self.bar.finish_and_clear();
        }
        Ok(!self.any_failed)
    }

    /// A table for each way of waiting: what spins and what sleeps can't be compared.
    fn tables(&self) -> String {
        let mut text = String::new();
        for wait in Waiting::ALL.iter().map(|wait| Some(wait.name())).chain([None]) {
            let mut rows: Vec<&Row> = self.rows.iter().filter(|row| row.wait.as_deref() == wait).collect();
            rows.sort_by_key(|row| row.message_len_bytes);
            if !rows.is_empty() {
                let heading = wait.map_or_else(String::new, |wait| format!("wait: {wait}\n"));
                let _ = write!(text, "\n{heading}{}", table(self.experiment, &rows));
            }
        }
        text.push('\n');
        text.push_str(&legend(self.experiment, &text));
        text.push_str(&laws(&self.rows));
        let rounds: usize = self.rows.iter().map(|row| row.rounds).sum();
        let repeats = self.rows.iter().map(|row| row.repeats).sum();
        let _ = write!(text, "rounds    {}", rounds_text(rounds, repeats));
        for note in &self.notes {
            let _ = write!(text, "\nleft out  {note}");
        }
        text
    }
}

/// How they went.
fn rounds_text(rounds: usize, repeats: Repeats) -> String {
    let Repeats { remeasured, unsettled, displaced, out_of_line } = repeats;
    let mut text = format!("{rounds} count; {remeasured} in doubt were measured again");
    if unsettled > 0 {
        let _ = write!(text, ", {unsettled} count nevertheless");
    }
    let reasons = [
        (displaced, "without a processor for a while"),
        (out_of_line, "far from the others"),
        ((remeasured + unsettled).saturating_sub(displaced + out_of_line), "floor moved"),
    ];
    let reasons = reasons.into_iter().filter(|(count, _)| *count > 0);
    let reasons: Vec<_> = reasons.map(|(count, why)| format!("{count} {why}")).collect();
    if !reasons.is_empty() {
        let _ = write!(text, "\n          ({})", reasons.join(", "));
    }
    text
}

/// What is measured, and on which bytes.
fn heading(asked: &Asked) -> String {
    let &Asked { experiment, touch, senders, receivers, batch, .. } = asked;
    let what = match (experiment, senders, receivers) {
        (Experiment::Latency, ..) => {
            "latency: round trips, there over one channel and back over another, one at a time".into()
        }
        (Experiment::Throughput, 1, 1) => "throughput: one way, the receiver checks every message".into(),
        (Experiment::Throughput, ..) => format!(
            "throughput: {senders} to {receivers} processes on one channel, the receivers check every message"
        ),
        (Experiment::Latest, ..) => {
            "latest: the newest value, read while nobody writes, written while another process reads;\n         \
             16 at a time are timed, the figures are of one"
                .into()
        }
        (Experiment::Tolerance, ..) => {
            return "tolerance: each hop takes longer; requests and replies of 8 bytes, so many under way at a \
                    time,\n         there over one channel and back over another; a value under a lock, \
                    which both change,\n         and which takes a delay to get and one to get back"
                .into();
        }
        (Experiment::Setup, ..) => {
            return "setup: a channel with the defaults is made; one that exists is opened and its first \
                    message, 8 bytes,\n         sent or received; warm, one at a time"
                .into();
        }
        (Experiment::Open, ..) => {
            return "open: a channel of 1 MiB is made; one that exists is opened and its first message, \
                    8 bytes,\n         sent or received; warm, one at a time"
                .into();
        }
    };
    let payload = match touch {
        Touch::All => "every byte written and read",
        Touch::First => "lent: only the first byte written and read",
        Touch::Copied => "copied in and out; of the copies only the first and the last word written and read",
    };
    let batches = match batch {
        1 => String::new(),
        _ => format!("\nbatch    {batch} messages with one commit, copied in, read in place"),
    };
    format!("{what}\npayload  {payload}{batches}")
}

/// The rows of one way of waiting.
fn table(experiment: Experiment, rows: &[&Row]) -> String {
    let mut table = Table::new();
    let mut column = |title, cell: &dyn Fn(&Row) -> Option<String>| {
        table.column(title, rows.iter().map(|row| cell(row)));
    };
    let several = |row: &Row| row.senders_fairness.is_some();
    column("transport", &|row| Some(row.transport.to_string()));
    column("operation", &|row| row.operation.as_ref().map(ToString::to_string));
    match experiment {
        Experiment::Open | Experiment::Setup | Experiment::Tolerance => {}
        Experiment::Latency | Experiment::Throughput | Experiment::Latest => {
            column("bytes", &|row| Some(size(row.message_len_bytes)));
        }
    }
    column("N x M", &|row| several(row).then(|| format!("{} x {}", row.senders, row.receivers)));
    match experiment {
        Experiment::Latency => {
            column("p50 ns", &|row| decimals(row.p50_ns, 0));
            column("p99 ns", &|row| whole(row.p99_ns));
            column("p99.9 ns", &|row| whole(row.p999_ns));
            column("max us", &|row| micros(row.max_ns.map(|ns| ns as f64), 0));
        }
        Experiment::Latest => {
            column("p50 ns", &|row| decimals(row.p50_ns, 1));
            column("p99 ns", &|row| whole(row.p99_ns));
        }
        Experiment::Throughput => {
            column("M msg/s", &|row| decimals(row.messages_per_second.map(|rate| rate / 1e6), 3));
            column("MB/s", &|row| decimals(row.bytes_per_second.map(|rate| rate / 1e6), 1));
        }
        Experiment::Open | Experiment::Setup => {
            column("p50 us", &|row| micros(row.p50_ns, 1));
            column("p99 us", &|row| micros(row.p99_ns.map(|ns| ns as f64), 1));
            column("max us", &|row| micros(row.max_ns.map(|ns| ns as f64), 1));
        }
        Experiment::Tolerance => {
            column("in flight", &|row| row.in_flight.map(|in_flight| in_flight.to_string()));
            column("a hop", &|row| row.delay_ns.map(delay));
            column("per second", &|row| decimals(row.operations_per_second, 0));
            let curves = curves(rows.iter().copied());
            column("by law", &|row| decimals(lawful_per_second(row, &curves), 0));
        }
    }
    column("floor", &|row| decimals(row.floor_ns, 0));
    if matches!(experiment, Experiment::Latency | Experiment::Latest) {
        column("x floor", &|row| ratio(row.floor_ratio));
    }
    column("x ring", &|row| ratio(row.fixed_ring_ratio));
    column("x memcpy", &|row| ratio(row.memcpy_ratio));
    column("x raw", &|row| ratio(row.raw_ratio));
    column("x futex", &|row| ratio(row.futex_ratio));
    // Of round trips there are columns enough.
    if experiment == Experiment::Setup {
        column("x spsc", &|row| ratio(row.shared_ratio));
    }
    column("x 1to1", &|row| ratio(row.alone_ratio));
    column("fair s/r", &|row| {
        Some(format!("{}/{}", ratio(row.senders_fairness)?, ratio(row.receivers_fairness)?))
    });
    column("lost %", &|row| decimals(row.lost_share.map(|share| share * 100.0), 1));
    column("seen %", &|row| decimals(row.seen_share.map(|share| share * 100.0), 1));
    column("awake %", &|row| decimals(row.awake_share.map(|share| share * 100.0), 0));
    let cpu_decimals = usize::from(experiment == Experiment::Throughput);
    column("cpu ns", &|row| decimals(row.cpu_ns_per_message, cpu_decimals));
    table.text()
}

/// What the columns mean; only those that are there.
fn legend(experiment: Experiment, tables: &str) -> String {
    let what = match experiment {
        Experiment::Throughput => "messages per second over those of",
        Experiment::Latency
        | Experiment::Open
        | Experiment::Setup
        | Experiment::Latest
        | Experiment::Tolerance => "p50 over the p50 of",
    };
    let bare = match experiment {
        Experiment::Open => "raw:file, the bare system calls",
        Experiment::Latency
        | Experiment::Throughput
        | Experiment::Setup
        | Experiment::Latest
        | Experiment::Tolerance => "raw:mq, raw:sysv or raw:unix, the bare calls",
    };
    let better = match experiment {
        Experiment::Throughput => "more is better",
        Experiment::Latency
        | Experiment::Open
        | Experiment::Setup
        | Experiment::Latest
        | Experiment::Tolerance => "less is better",
    };
    let ratios = [
        ("x floor", "a bare cache-line ping-pong"),
        ("x ring", "floor:fixed-ring"),
        ("x memcpy", "floor:memcpy, two bare copies"),
        ("x raw", bare),
        ("x futex", "floor:futex, a bare futex ping-pong"),
        ("x spsc", "shm:spsc, of the kernel's channels"),
        ("x 1to1", "the same with one sender and one receiver"),
    ];
    let mut lines: Vec<String> = ratios
        .into_iter()
        .filter(|(title, _)| tables.contains(title))
        .map(|(title, of)| format!("{title:<8}  {what} {of}"))
        .collect();
    if !lines.is_empty() {
        lines.push(format!("          in the same round each, median of the rounds; {better}"));
    }
    let others = [
        ("fair s/r", "slowest over fastest sender; least over most messages of a receiver"),
        ("lost %", "of what the subscribers should have got; M msg/s is what was published"),
        ("seen %", "of the values that were written, those that the reader saw"),
        ("awake %", "of the time the reader had its processor; the less, the more the writer was alone"),
        ("cpu ns", "of all processes for a message; a round trip is two messages"),
        ("a hop", "what each takes longer than without; of a lock, to get it, and to get it back"),
        ("by law", "what there should be with this delay, see below"),
        ("floor", "nanoseconds of a round trip of a bare cache line"),
    ];
    let there = others.into_iter().filter(|(title, _)| tables.contains(title));
    lines.extend(there.map(|(title, what)| format!("{title:<8}  {what}")));
    lines.iter().map(|line| format!("{line}\n")).collect()
}

pub(super) fn micros(figure_ns: Option<f64>, digits: usize) -> Option<String> {
    decimals(figure_ns.map(|ns| ns / 1e3), digits)
}

pub(super) fn whole(figure: Option<u64>) -> Option<String> {
    figure.map(|figure| figure.to_string())
}

#[cfg(test)]
mod tests {
    use super::{legend, rounds_text, table};
    use crate::{
        record::{Repeats, Row},
        spec::Experiment,
    };
    use rstest::rstest;

    fn wide() -> Row {
        Row {
            transport: "shm:broadcast-reliable".into(),
            wait: Some("adaptive".into()),
            message_len_bytes: 16 << 20,
            floor_ns: Some(1_234.5),
            cpu_ns_per_message: Some(999_999.4),
            repeats: Repeats { remeasured: 7, ..Repeats::default() },
            ..Row::default()
        }
    }

    #[test]
    fn why_rounds_were_in_doubt_is_said() {
        assert_eq!(rounds_text(7, Repeats::default()), "7 count; 0 in doubt were measured again");
        let repeats = Repeats { remeasured: 9, unsettled: 2, displaced: 6, out_of_line: 1 };
        let expected = "7 count; 9 in doubt were measured again, 2 count nevertheless\n          \
                        (6 without a processor for a while, 1 far from the others, 4 floor moved)";
        assert_eq!(rounds_text(7, repeats), expected);
    }

    fn wide_round_trip() -> Row {
        Row {
            p50_ns: Some(99_999_999.0),
            p99_ns: Some(99_999_999),
            p999_ns: Some(99_999_999),
            max_ns: Some(999_999_999),
            floor_ratio: Some(123_456.7),
            futex_ratio: Some(99.1),
            raw_ratio: Some(99.1),
            shared_ratio: Some(99.1),
            ..wide()
        }
    }

    fn wide_stream() -> Row {
        Row {
            messages_per_second: Some(199e6),
            bytes_per_second: Some(99e9),
            fixed_ring_ratio: Some(1.2),
            raw_ratio: Some(99_999.0),
            alone_ratio: Some(1.0),
            senders: 8,
            receivers: 8,
            senders_fairness: Some(0.5),
            receivers_fairness: Some(0.5),
            cpu_ns_per_message: Some(9_999.4),
            ..wide()
        }
    }

    fn wide_opening() -> Row {
        Row { wait: None, operation: Some("open+receive".into()), futex_ratio: None, ..wide_round_trip() }
    }

    fn wide_delay() -> Row {
        Row {
            operation: Some("update".into()),
            delay_ns: Some(999_000_000),
            in_flight: Some(1024),
            operations_per_second: Some(99_999_999.0),
            ..wide()
        }
    }

    #[rstest]
    #[case::tolerance(Experiment::Tolerance, wide_delay())]
    #[case::latency(Experiment::Latency, wide_round_trip())]
    #[case::throughput(Experiment::Throughput, wide_stream())]
    #[case::lossy(Experiment::Throughput, Row { raw_ratio: None, lost_share: Some(1.0), ..wide_stream() })]
    #[case::open(Experiment::Open, wide_opening())]
    fn the_widest_rows_fit_100_columns(#[case] experiment: Experiment, #[case] row: Row) {
        let table = table(experiment, &[&row]);
        let legend = legend(experiment, &table);
        for line in table.lines().chain(legend.lines()) {
            assert!(line.chars().count() <= 100, "{table}{legend}");
        }
    }

    #[test]
    fn every_column_is_explained_and_none_that_isnt_there() {
        let stream = table(Experiment::Throughput, &[&wide_stream()]);
        let explained = legend(Experiment::Throughput, &stream);
        for title in ["x ring", "x raw", "x 1to1", "fair s/r", "cpu ns", "floor"] {
            assert!(stream.contains(title) && explained.contains(title), "{title}: {stream}{explained}");
        }
        for title in ["x futex", "x memcpy", "p50"] {
            assert!(!explained.contains(title), "{title}: {explained}");
        }
    }
}
