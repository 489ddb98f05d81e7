//! What people and programs read: a table, or JSON lines.

use crate::{link::Touch, machine::Machine, rig::Trouble};
use serde::{Serialize, Serializer};
use std::{
    fmt::Write as _,
    io::{self, IsTerminal, Write},
};

/// One measurement. The fields up to `cpu_ns_per_message` are fixed, programs rely on them.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Row {
    pub(crate) experiment: &'static str,
    pub(crate) transport: &'static str,
    pub(crate) wait: &'static str,
    pub(crate) message_len_bytes: usize,
    /// Round trips of all rounds that count; null for throughput.
    #[serde(serialize_with = "rounded")]
    pub(crate) p50_ns: Option<f64>,
    pub(crate) p99_ns: Option<u64>,
    pub(crate) p999_ns: Option<u64>,
    pub(crate) max_ns: Option<u64>,
    /// The cache line's round trip, the median over the rounds.
    #[serde(serialize_with = "rounded")]
    pub(crate) floor_ns: Option<f64>,
    /// Latency: round trip over the cache line's, less is better. Throughput: messages per
    /// second over the fixed ring's, more is better. The median of the rounds' ratios.
    #[serde(serialize_with = "rounded")]
    pub(crate) floor_ratio: Option<f64>,
    #[serde(serialize_with = "rounded")]
    pub(crate) messages_per_second: Option<f64>,
    #[serde(serialize_with = "rounded")]
    pub(crate) bytes_per_second: Option<f64>,
    /// Processor time of both processes; a round trip is two messages.
    #[serde(serialize_with = "rounded")]
    pub(crate) cpu_ns_per_message: Option<f64>,
    /// Latency: `floor_ratio` with the clock's reading taken off both times.
    #[serde(serialize_with = "rounded")]
    pub(crate) floor_ratio_net: Option<f64>,
    /// The same ratio against `floor:fixed-ring`, where it was in the same rounds.
    #[serde(serialize_with = "rounded")]
    pub(crate) fixed_ring_ratio: Option<f64>,
    /// The same ratio against `raw:mq`, where it was in the same rounds.
    #[serde(serialize_with = "rounded")]
    pub(crate) raw_ratio: Option<f64>,
    /// How much of the payload was written and read.
    pub(crate) touched: Touch,
    /// What one reading of the clock costs: part of each round trip, the floor's too.
    #[serde(serialize_with = "rounded")]
    pub(crate) clock_ns: Option<f64>,
    pub(crate) rounds: usize,
    /// Rounds measured again, since the floor moved.
    pub(crate) remeasured: usize,
    /// Rounds that count although the floor moved.
    pub(crate) unsettled: usize,
}

/// Three decimals: no figure here knows more.
fn rounded<S: Serializer>(figure: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    figure.map(|figure| (figure * 1e3).round() / 1e3).serialize(serializer)
}

/// A report that is being made.
#[derive(Debug)]
pub(crate) struct Report {
    json: bool,
    /// Whether somebody watches standard error.
    watched: bool,
    latency: bool,
    rows: Vec<Row>,
    notes: Vec<String>,
    any_failed: bool,
}

impl Report {
    /// Says what is measured and where.
    pub(crate) fn begin(
        experiment: &str,
        json: bool,
        machine: &Machine,
        touched: Touch,
    ) -> Result<Self, Trouble> {
        let latency = experiment == "latency";
        let what = match latency {
            true => "latency: round trips, there over one channel and back over another, one at a time",
            false => "throughput: one way, the receiver checks every message",
        };
        let payload = match touched {
            Touch::All => "every byte written and read",
            Touch::First => "lent: only the first byte written and read",
        };
        let heading = format!("{what}\npayload  {payload}\n{machine}");
        // Standard output has nothing but objects then.
        if json {
            eprintln!("{heading}")
        } else {
            print(&heading)?
        }
        let watched = io::stderr().is_terminal();
        Ok(Self { json, watched, latency, rows: Vec::new(), notes: Vec::new(), any_failed: false })
    }

    /// Says on a terminal what is under way.
    pub(crate) fn progress(&self, done: usize, all: usize, label: &str) {
        if self.watched {
            eprint!("\r\x1b[K[{}/{all}] {label}", done + 1);
        }
    }

    /// Takes a measurement; as JSON it is out at once.
    pub(crate) fn add(&mut self, row: Row) -> Result<(), Trouble> {
        if self.json {
            self.clear_progress();
            print(&serde_json::to_string(&row)?)?;
        }
        self.rows.push(row);
        Ok(())
    }

    /// Something that the reader should know.
    pub(crate) fn note(&mut self, what: String) {
        if self.json {
            self.clear_progress();
            eprintln!("ipc-bench: left out: {what}");
        } else {
            self.notes.push(what);
        }
    }

    /// A block that yields no figures.
    pub(crate) fn failed(&mut self, what: &str) {
        self.any_failed = true;
        self.clear_progress();
        eprintln!("ipc-bench: failed: {what}");
    }

    /// Finishes, and says whether all went well.
    pub(crate) fn end(self) -> Result<bool, Trouble> {
        self.clear_progress();
        if !self.json {
            print(&self.tables())?;
        }
        Ok(!self.any_failed)
    }

    fn clear_progress(&self) {
        if self.watched {
            eprint!("\r\x1b[K");
        }
    }

    /// A table for each way of waiting: what spins and what sleeps can't be compared.
    fn tables(&self) -> String {
        let mut text = String::new();
        for wait in ["spin", "adaptive", "block"] {
            let mut rows: Vec<&Row> = self.rows.iter().filter(|row| row.wait == wait).collect();
            rows.sort_by_key(|row| row.message_len_bytes);
            if !rows.is_empty() {
                let lines = if self.latency { latency_table(&rows) } else { throughput_table(&rows) };
                let _ = write!(text, "\nwait: {wait}\n{lines}");
            }
        }
        text.push_str(if self.latency { LATENCY_LEGEND } else { THROUGHPUT_LEGEND });
        let (again, moved) = self
            .rows
            .iter()
            .fold((0, 0), |(again, moved), row| (again + row.remeasured, moved + row.unsettled));
        let rounds: usize = self.rows.iter().map(|row| row.rounds).sum();
        let _ = write!(text, "\nrounds    {rounds} count");
        if moved > 0 {
            let _ = write!(text, ", {moved} of them although the floor moved");
        }
        let _ = write!(text, "; {again} were measured again because it did");
        for note in &self.notes {
            let _ = write!(text, "\nleft out  {note}");
        }
        text
    }
}

const LATENCY_LEGEND: &str = "
x floor   p50 over the p50 of a bare cache-line ping-pong in the same round, median of the rounds
x raw     p50 over that of raw:mq; less is better
cpu       of both processes for a message; a round trip is two messages
again     rounds measured again, since the floor moved";

const THROUGHPUT_LEGEND: &str = "
x ring    messages per second over those of floor:fixed-ring in the same round, median of the rounds
x raw     the same over raw:mq; more is better
cpu       of both processes
again     rounds measured again, since the floor moved";

fn latency_table(rows: &[&Row]) -> String {
    let mut text = format!(
        "{:<16} {:>8} {:>8} {:>8} {:>8} {:>9} {:>8} {:>7} {:>6} {:>7} {:>5}\n",
        "transport",
        "bytes",
        "p50 ns",
        "p99 ns",
        "p99.9 ns",
        "max ns",
        "floor ns",
        "x floor",
        "x raw",
        "cpu ns",
        "again"
    );
    for row in rows {
        let _ = writeln!(
            text,
            "{:<16} {:>8} {:>8} {:>8} {:>8} {:>9} {:>8} {:>7} {:>6} {:>7} {:>5}",
            row.transport,
            row.message_len_bytes,
            decimals(row.p50_ns, 0),
            whole(row.p99_ns),
            whole(row.p999_ns),
            whole(row.max_ns),
            decimals(row.floor_ns, 0),
            ratio(row.floor_ratio),
            ratio(row.raw_ratio),
            decimals(row.cpu_ns_per_message, 0),
            row.remeasured,
        );
    }
    text
}

fn throughput_table(rows: &[&Row]) -> String {
    let mut text = format!(
        "{:<16} {:>8} {:>10} {:>10} {:>7} {:>7} {:>12} {:>9} {:>6}\n",
        "transport", "bytes", "M msg/s", "MB/s", "x ring", "x raw", "cpu ns/msg", "floor ns", "again"
    );
    for row in rows {
        let _ = writeln!(
            text,
            "{:<16} {:>8} {:>10} {:>10} {:>7} {:>7} {:>12} {:>9} {:>6}",
            row.transport,
            row.message_len_bytes,
            decimals(row.messages_per_second.map(|rate| rate / 1e6), 3),
            decimals(row.bytes_per_second.map(|rate| rate / 1e6), 1),
            ratio(row.fixed_ring_ratio),
            ratio(row.raw_ratio),
            decimals(row.cpu_ns_per_message, 1),
            decimals(row.floor_ns, 0),
            row.remeasured,
        );
    }
    text
}

/// What stands where there is nothing.
const NOTHING: &str = "-";

fn whole(figure: Option<u64>) -> String {
    figure.map_or_else(|| NOTHING.into(), |figure| figure.to_string())
}

fn decimals(figure: Option<f64>, digits: usize) -> String {
    figure.map_or_else(|| NOTHING.into(), |figure| format!("{figure:.digits$}"))
}

/// Two decimals as long as they say something.
fn ratio(figure: Option<f64>) -> String {
    match figure {
        Some(large) if large >= 100.0 => decimals(Some(large), 0),
        other => decimals(other, 2),
    }
}

fn print(text: &str) -> Result<(), Trouble> {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Trouble::ReaderGone),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::{Row, latency_table, throughput_table};

    const FIXED_KEYS: [&str; 13] = [
        "experiment",
        "transport",
        "wait",
        "message_len_bytes",
        "p50_ns",
        "p99_ns",
        "p999_ns",
        "max_ns",
        "floor_ns",
        "floor_ratio",
        "messages_per_second",
        "bytes_per_second",
        "cpu_ns_per_message",
    ];

    #[test]
    fn the_fixed_keys_are_there_in_order_even_if_nothing_is_known() {
        let json = serde_json::to_string(&Row::default()).unwrap();
        let positions = FIXED_KEYS.map(|key| json.find(&format!("\"{key}\":")).expect(key));
        assert!(positions.is_sorted(), "{json}");
        assert!(json.contains("\"p50_ns\":null"), "{json}");
    }

    #[test]
    fn figures_have_three_decimals() {
        let row = Row { floor_ratio: Some(1.234_567), ..Row::default() };
        assert!(serde_json::to_string(&row).unwrap().contains("\"floor_ratio\":1.235,"));
    }

    #[test]
    fn the_widest_rows_fit_100_columns() {
        let row = Row {
            transport: "floor:cache-line",
            message_len_bytes: 16 << 20,
            p50_ns: Some(99_999_999.0),
            p99_ns: Some(99_999_999),
            p999_ns: Some(99_999_999),
            max_ns: Some(999_999_999),
            floor_ns: Some(12_345.6),
            floor_ratio: Some(123_456.7),
            messages_per_second: Some(199e6),
            bytes_per_second: Some(99e9),
            cpu_ns_per_message: Some(9_999_999.4),
            fixed_ring_ratio: Some(99_999.0),
            raw_ratio: Some(99_999.0),
            ..Row::default()
        };
        for table in [latency_table(&[&row]), throughput_table(&[&row])] {
            assert!(table.lines().all(|line| line.chars().count() <= 100), "{table}");
        }
    }
}
