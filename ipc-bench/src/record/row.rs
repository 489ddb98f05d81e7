//! A measurement, as programs read it and as it is kept.

use super::details::{Idle, Life, Load, Repeats, Safety, Scale};
use crate::spec::{Memory, Touch};
use serde::{Deserialize, Serialize, Serializer};
use std::borrow::Cow;

/// A word that is known here, or was read from a file.
pub(crate) type Text = Cow<'static, str>;

/// One measurement. The fields up to `cpu_ns_per_message` are fixed, programs rely on them.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Row {
    pub(crate) experiment: Text,
    pub(crate) transport: Text,
    /// Null for `open` and `latest`, where nobody waits.
    pub(crate) wait: Option<Text>,
    pub(crate) message_len_bytes: usize,
    /// Round trips, or openings, of all rounds that count; null for throughput.
    #[serde(serialize_with = "rounded")]
    pub(crate) p50_ns: Option<f64>,
    pub(crate) p99_ns: Option<u64>,
    pub(crate) p999_ns: Option<u64>,
    pub(crate) max_ns: Option<u64>,
    /// The cache line's round trip, the median over the rounds.
    #[serde(serialize_with = "rounded")]
    pub(crate) floor_ns: Option<f64>,
    /// Latency: round trip over the cache line's, less is better. Throughput: messages per
    /// second over the fixed ring's (for copies, over those of `floor:memcpy`), more is
    /// better. The median of the rounds' ratios.
    #[serde(serialize_with = "rounded")]
    pub(crate) floor_ratio: Option<f64>,
    #[serde(serialize_with = "rounded")]
    pub(crate) messages_per_second: Option<f64>,
    #[serde(serialize_with = "rounded")]
    pub(crate) bytes_per_second: Option<f64>,
    /// Processor time of all processes; a round trip is two messages.
    #[serde(serialize_with = "rounded")]
    pub(crate) cpu_ns_per_message: Option<f64>,
    /// Latency: `floor_ratio` with the clock's reading taken off both times.
    #[serde(serialize_with = "rounded")]
    pub(crate) floor_ratio_net: Option<f64>,
    /// The same ratio against `floor:fixed-ring`, where it was in the same rounds.
    #[serde(serialize_with = "rounded")]
    pub(crate) fixed_ring_ratio: Option<f64>,
    /// The same ratio against the bare calls (`raw:mq`, `raw:file`).
    #[serde(serialize_with = "rounded")]
    pub(crate) raw_ratio: Option<f64>,
    /// The same ratio against `floor:futex`.
    #[serde(serialize_with = "rounded")]
    pub(crate) futex_ratio: Option<f64>,
    /// The same ratio against `floor:memcpy`.
    #[serde(serialize_with = "rounded")]
    pub(crate) memcpy_ratio: Option<f64>,
    /// The same ratio against the same transport with one sender and one receiver.
    #[serde(serialize_with = "rounded")]
    pub(crate) alone_ratio: Option<f64>,
    /// Of the kernel's channels, the same ratio against `shm:spsc`.
    #[serde(serialize_with = "rounded")]
    pub(crate) shared_ratio: Option<f64>,
    /// Of peers: how many times as fast the best of ours on the same work was in the same
    /// rounds, whose name follows; below 1 the peer wins.
    #[serde(serialize_with = "rounded")]
    pub(crate) ours_ratio: Option<f64>,
    pub(crate) ours: Option<Text>,
    /// What is done, where it isn't sending messages.
    pub(crate) operation: Option<Text>,
    /// What each hop took longer on purpose, how many requests were under way at a time, and how
    /// many were answered, or values changed, in a second.
    pub(crate) delay_ns: Option<u64>,
    pub(crate) in_flight: Option<u64>,
    #[serde(serialize_with = "rounded")]
    pub(crate) operations_per_second: Option<f64>,
    /// The capacity of the channels that are made and opened.
    pub(crate) capacity_bytes: Option<u64>,
    /// Processes that send, and that receive.
    pub(crate) senders: usize,
    pub(crate) receivers: usize,
    /// Messages sent with one commit, and taken together.
    pub(crate) batch: usize,
    /// Among several: the slowest sender's rate over the fastest one's, the median of the
    /// rounds.
    #[serde(serialize_with = "rounded")]
    pub(crate) senders_fairness: Option<f64>,
    /// Among several: messages of the receiver that got least over those of the one that got
    /// most, the median of the rounds.
    #[serde(serialize_with = "rounded")]
    pub(crate) receivers_fairness: Option<f64>,
    /// Among several, over all rounds that count: what was sent, what all receivers together
    /// got, and what they were told that they had missed.
    pub(crate) sent_messages: Option<u64>,
    pub(crate) received_messages: Option<u64>,
    pub(crate) lost_messages: Option<u64>,
    /// Of what the receivers should have got, where they may miss some.
    #[serde(serialize_with = "rounded")]
    pub(crate) lost_share: Option<f64>,
    /// Of the values that were written, what the process saw that watched, and how much of
    /// the time it had its processor: without it the writer was alone. Medians of the rounds.
    #[serde(serialize_with = "rounded")]
    pub(crate) seen_share: Option<f64>,
    #[serde(serialize_with = "rounded")]
    pub(crate) awake_share: Option<f64>,
    /// How much of the payload was written and read.
    pub(crate) touched: Touch,
    /// What one reading of the clock costs: part of each round trip, the floor's too.
    #[serde(serialize_with = "rounded")]
    pub(crate) clock_ns: Option<f64>,
    pub(crate) rounds: usize,
    #[serde(flatten)]
    pub(crate) repeats: Repeats,
    /// What a hypervisor gave to others of the time of its processors, as far as the kernel knows.
    #[serde(serialize_with = "rounded")]
    pub(crate) stolen_share: Option<f64>,
    /// What makes it doubtful, besides what does so with the whole run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) warnings: Vec<String>,
    /// The quartiles, over the rounds, of the ratio that the figure is judged by: to the floor,
    /// or to the bare calls where that is no measure.
    pub(crate) ratio_quartiles: Option<[f64; 2]>,
    /// The same of `raw_ratio`, `memcpy_ratio`, `alone_ratio`, `shared_ratio` and `ours_ratio`.
    pub(crate) raw_quartiles: Option<[f64; 2]>,
    pub(crate) memcpy_quartiles: Option<[f64; 2]>,
    pub(crate) alone_quartiles: Option<[f64; 2]>,
    pub(crate) shared_quartiles: Option<[f64; 2]>,
    pub(crate) ours_quartiles: Option<[f64; 2]>,
    /// What was timed one by one: shares of it, and the nanoseconds that so many took at most.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) distribution: Vec<(f64, u64)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) load: Option<Load>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) life: Option<Life>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) idle: Option<Idle>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory: Option<Memory>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) scale: Option<Scale>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) safety: Option<Safety>,
}

impl Row {
    /// The ratio that the figure is judged by, and whether less of it is better.
    pub(crate) fn judged(&self) -> Option<(f64, bool)> {
        let ratio = match &*self.experiment {
            "open" | "setup" => self.raw_ratio,
            _ => self.floor_ratio,
        };
        ratio.map(|ratio| (ratio, self.experiment != "throughput"))
    }

    /// Whether it is of something that would be used between processes instead of ours.
    pub(crate) fn is_rival(&self) -> bool {
        ["peer:", "raw:"].iter().any(|kind| self.transport.starts_with(kind))
    }

    /// What tells this measurement from the others of a run, in words.
    pub(crate) fn label(&self) -> String {
        let mut label =
            format!("{} {}, {} bytes", self.experiment, self.transport, size(self.message_len_bytes));
        for part in [&self.operation, &self.wait].into_iter().flatten() {
            label.push_str(", ");
            label.push_str(part);
        }
        if let Some(in_flight) = self.in_flight {
            label.push_str(&format!(", {in_flight} in flight"));
        }
        if let Some(delay_ns) = self.delay_ns {
            label.push_str(&format!(", {} a hop", delay(delay_ns)));
        }
        match self.touched {
            Touch::All => {}
            Touch::First => label.push_str(", lent"),
            Touch::Copied => label.push_str(", copied"),
        }
        if self.batch > 1 {
            label.push_str(&format!(", batches of {}", self.batch));
        }
        if self.senders + self.receivers > 2 {
            label.push_str(&format!(", {} x {}", self.senders, self.receivers));
        }
        if let Some(workers) = self.scale.as_ref().filter(|scale| scale.are_workers) {
            label.push_str(&format!(", {} workers", workers.processes));
        }
        if let Some(life) = &self.life {
            label.push_str(&format!(", {} messages", life.messages));
        }
        if let Some(load) = &self.load {
            label.push_str(&format!(", {}", load.label()));
        }
        label
    }
}

fn rounded<S: Serializer>(figure: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    figure.map(short).serialize(serializer)
}

/// Three decimals, and four digits of what is less than 1, so that a small ratio isn't none: no
/// figure here knows more.
fn short(figure: f64) -> f64 {
    let decimals = match figure.abs() {
        small if small > 0.0 && small < 1.0 => 3 - small.log10().floor() as i32,
        _ => 3,
    };
    let scale = 10f64.powi(decimals);
    (figure * scale).round() / scale
}

/// As `--size` takes it.
pub(crate) fn size(bytes: usize) -> String {
    match bytes {
        mega if mega >= 1 << 20 && mega % (1 << 20) == 0 => format!("{}M", mega >> 20),
        kilo if kilo >= 1 << 10 && kilo % (1 << 10) == 0 => format!("{}K", kilo >> 10),
        bytes => bytes.to_string(),
    }
}

/// As `--delay` takes it.
pub(crate) fn delay(ns: u64) -> String {
    match ns {
        0 => "0".into(),
        whole if whole % 1_000_000_000 == 0 => format!("{}s", whole / 1_000_000_000),
        milli if milli % 1_000_000 == 0 => format!("{}ms", milli / 1_000_000),
        micro => format!("{}us", micro / 1_000),
    }
}

#[cfg(test)]
mod tests {
    use super::{Repeats, Row, delay, short, size};
    use rstest::rstest;

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
    fn figures_have_the_digits_that_they_know() {
        let figures = [20_703.916_4, 1.234_56, 0.000_260_096_14, 0.0, -0.5].map(short);
        assert_eq!(figures, [20_703.916, 1.235, 0.000_260_1, 0.0, -0.5]);
        assert!(short(f64::NAN).is_nan());
    }

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

    #[rstest]
    #[case(0, "0")]
    #[case(1023, "1023")]
    #[case(1024, "1K")]
    #[case(65_536, "64K")]
    #[case(1 << 20, "1M")]
    #[case((1 << 20) + 1024, "1025K")]
    fn sizes_are_shown_as_they_are_asked_for(#[case] bytes: usize, #[case] shown: &str) {
        assert_eq!(size(bytes), shown);
    }

    #[test]
    fn delays_are_shown_as_they_are_asked_for() {
        let shown = [0, 1_000, 250_000, 10_000_000, 1_000_000_000].map(delay);
        assert_eq!(shown, ["0", "1us", "250us", "10ms", "1s"]);
    }

    #[test]
    fn what_differs_by_its_delay_or_by_how_many_are_under_way_has_another_name() {
        let row = Row { delay_ns: Some(1_000), in_flight: Some(16), ..Row::default() };
        assert!(row.label().ends_with(", 16 in flight, 1us a hop"), "{}", row.label());
    }

    #[test]
    fn what_was_written_is_read_again() {
        let row = Row {
            experiment: "latency".into(),
            transport: "mq".into(),
            wait: Some("block".into()),
            message_len_bytes: 1 << 10,
            p50_ns: Some(44_600.0),
            distribution: vec![(0.5, 44_600)],
            ratio_quartiles: Some([0.5, 1.5]),
            repeats: Repeats { remeasured: 3, unsettled: 1, displaced: 2, out_of_line: 1 },
            ..Row::default()
        };
        let json = serde_json::to_string(&row).unwrap();
        assert_eq!(serde_json::from_str::<Row>(&json).unwrap(), row);
        assert!(json.contains("\"remeasured\":3,\"unsettled\":1"), "{json}");
        let before = json.replace(",\"displaced\":2,\"out_of_line\":1", "");
        let known = serde_json::from_str::<Row>(&before).unwrap().repeats;
        assert_eq!(known, Repeats { remeasured: 3, unsettled: 1, ..Repeats::default() });
        assert_eq!(row.label(), "latency mq, 1K bytes, block");
    }
}
