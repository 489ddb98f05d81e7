//! What only some measurements have.

use serde::{Deserialize, Serialize};
use std::iter::Sum;

/// How the rounds of a measurement went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Repeats {
    /// Rounds measured again, since they were in doubt.
    pub(crate) remeasured: usize,
    /// Rounds that count although they are: there were no more to spare.
    pub(crate) unsettled: usize,
    /// Of both, those in which a process that polls was without its processor for a while,
    pub(crate) displaced: usize,
    /// and those in which something took far more or less than in the others. The floor moved in
    /// the rest.
    pub(crate) out_of_line: usize,
}

impl Sum for Repeats {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |one, other| Self {
            remeasured: one.remeasured + other.remeasured,
            unsettled: one.unsettled + other.unsettled,
            displaced: one.displaced + other.displaced,
            out_of_line: one.out_of_line + other.out_of_line,
        })
    }
}

/// Of messages at a fixed rate.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct Load {
    /// The rate that was asked for; what came of it is in `messages_per_second`.
    pub(crate) asked_per_second: u64,
    /// Whether less than 95 % of it came, in every round.
    pub(crate) is_saturated: bool,
    /// How many were timed.
    pub(crate) messages: u64,
}

impl Load {
    /// What tells it from other rates.
    pub(super) fn label(&self) -> String {
        format!("at {}/s", per_second(self.asked_per_second))
    }
}

/// Of channels from their making to their last message.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct Life {
    pub(crate) messages: u64,
    /// Of the rounds.
    pub(crate) quartiles_ns: Option<[f64; 2]>,
}

/// Of a process that waits for what doesn't come.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct Idle {
    /// For how long it was watched.
    pub(crate) watched_s: f64,
    /// Processor time, all threads together.
    pub(crate) cpu_ns_per_second: f64,
    pub(crate) wakeups_per_second: f64,
}

/// Of several processes.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub(crate) struct Scale {
    pub(crate) processes: usize,
    /// How many there were to be used.
    pub(crate) processors: usize,
    /// Whether all do the same; else some send and some receive.
    pub(crate) are_workers: bool,
    /// Orders per second over those of as many workers with one lock, the median of the rounds.
    pub(crate) locked_ratio: Option<f64>,
    /// Lines that processors fetched from each other for each order, or why they weren't counted.
    pub(crate) transfers_per_order: Option<f64>,
    pub(crate) uncounted: Option<String>,
}

impl Scale {
    pub(crate) fn of(processes: usize, processors: usize) -> Self {
        Self { processes, processors, ..Self::default() }
    }

    /// Whether processes had to take turns.
    pub(crate) fn is_oversubscribed(&self) -> bool {
        self.processes > self.processors
    }
}

/// Of what is there for safety, beside what does the same without.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub(crate) struct Safety {
    /// What there is for it.
    pub(crate) buys: String,
    /// What does the same without, and what it takes.
    pub(crate) without: String,
    pub(crate) without_ns: Option<f64>,
    pub(crate) without_per_second: Option<f64>,
    /// Over the time that it takes without, the median of the rounds.
    pub(crate) times: f64,
}

/// As `--rate` takes it.
pub(crate) fn per_second(rate: u64) -> String {
    match rate {
        mega if mega >= 1_000_000 && mega % 1_000_000 == 0 => format!("{}M", mega / 1_000_000),
        kilo if kilo >= 1_000 && kilo % 1_000 == 0 => format!("{}K", kilo / 1_000),
        rate => rate.to_string(),
    }
}
