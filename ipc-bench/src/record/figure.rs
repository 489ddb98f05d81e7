//! What measurements are judged by when two runs are compared.

use super::Row;
use crate::spec::Memory;

/// How far medians of ratios may differ and mean nothing.
const NOISE: f64 = 0.10;
/// And those of times and rates, since the machine is in another state each time.
const MUCH_NOISE: f64 = 0.50;
/// And those of the slowest of a hundred.
const TAIL_NOISE: f64 = 1.00;

/// A figure, and how far it may differ and mean nothing.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) value: f64,
    unit: Unit,
    pub(crate) less_is_better: bool,
    pub(crate) quartiles: Option<[f64; 2]>,
    /// As a share of the smaller one, and in its unit: a change is more than both.
    pub(crate) noise_share: f64,
    pub(crate) noise_least: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Ratio,
    Nanoseconds,
    PerSecond,
    Bytes,
}

impl Figure {
    fn of(name: &'static str, value: f64, unit: Unit) -> Self {
        let noise_share = if unit == Unit::Ratio { NOISE } else { MUCH_NOISE };
        let less_is_better = unit != Unit::PerSecond;
        Self { name, value, unit, less_is_better, quartiles: None, noise_share, noise_least: 0.0 }
    }

    fn more_is_better(self) -> Self {
        Self { less_is_better: false, ..self }
    }

    /// Whether it is known how far it moves by itself: of ratios that is their spread.
    pub(crate) fn is_judged(&self) -> bool {
        self.unit != Unit::Ratio || self.quartiles.is_some()
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let value = self.value;
        match self.unit {
            Unit::Ratio => format!("{value:.2}"),
            Unit::Nanoseconds if value < 1e3 => format!("{value:.0} ns"),
            Unit::Nanoseconds => format!("{:.1} us", value / 1e3),
            Unit::PerSecond if value < 1e3 => format!("{value:.1}/s"),
            Unit::PerSecond => format!("{value:.0}/s"),
            Unit::Bytes => format!("{:.0} KiB", value / 1024.0),
        }
    }
}

impl Row {
    /// What it is judged by: its ratio, and else what it has.
    pub(crate) fn figures(&self) -> Vec<Figure> {
        let mut figures = Vec::new();
        if let Some((ratio, less_is_better)) = self.judged() {
            let quartiles = self.ratio_quartiles;
            figures.push(Figure { less_is_better, quartiles, ..Figure::of("ratio", ratio, Unit::Ratio) });
        }
        if let Some(ratio) = self.ours_ratio {
            let figure = Figure::of("ours over it", ratio, Unit::Ratio).more_is_better();
            figures.push(Figure { quartiles: self.ours_quartiles, ..figure });
        }
        figures.extend(self.special());
        if figures.is_empty() {
            figures = self.plain();
        }
        figures
    }

    /// What only some measurements have.
    fn special(&self) -> Vec<Figure> {
        let mut figures = Vec::new();
        if let Some(safety) = &self.safety {
            let figure = Figure::of("time over that without", safety.times, Unit::Ratio);
            figures.push(Figure { quartiles: self.ratio_quartiles, ..figure });
        }
        if let Some(ratio) = self.scale.as_ref().and_then(|scale| scale.locked_ratio) {
            let figure = Figure::of("rate over that with one lock", ratio, Unit::Ratio).more_is_better();
            figures.push(Figure { quartiles: self.ratio_quartiles, ..figure });
        }
        if let Some(ratio) = self.alone_ratio {
            let figure = Figure::of("rate over one to one", ratio, Unit::Ratio).more_is_better();
            figures.push(Figure { quartiles: self.alone_quartiles, ..figure });
        }
        if let Some(idle) = &self.idle {
            let cpu = Figure::of("processor time a second", idle.cpu_ns_per_second, Unit::Nanoseconds);
            figures.push(Figure { noise_least: 50_000.0, ..cpu });
            let wakeups = Figure::of("wake-ups", idle.wakeups_per_second, Unit::PerSecond);
            figures.push(Figure { less_is_better: true, noise_least: 2.0, ..wakeups });
        }
        if let (Some(life), Some(ns)) = (&self.life, self.p50_ns) {
            figures
                .push(Figure { quartiles: life.quartiles_ns, ..Figure::of("time", ns, Unit::Nanoseconds) });
        }
        figures.extend(self.memory.iter().flat_map(weighed));
        if let Some(load) = &self.load {
            let came = self.messages_per_second.map(|rate| Figure::of("came", rate, Unit::PerSecond));
            // It has come if it is within that of what was asked for.
            figures.extend(came.map(|came| Figure { noise_share: 0.05, ..came }));
            if !load.is_saturated {
                figures.extend(self.times());
            }
        }
        figures
    }

    fn times(&self) -> Vec<Figure> {
        let p50 = self.p50_ns.map(|ns| Figure::of("p50", ns, Unit::Nanoseconds));
        let p99 = self
            .p99_ns
            .map(|ns| Figure { noise_share: TAIL_NOISE, ..Figure::of("p99", ns as f64, Unit::Nanoseconds) });
        p50.into_iter().chain(p99).collect()
    }

    /// What there is where nothing is beside it.
    fn plain(&self) -> Vec<Figure> {
        let rate = |name, rate: Option<f64>| rate.map(|rate| Figure::of(name, rate, Unit::PerSecond));
        let mut figures = self.times();
        figures.extend(rate("messages", self.messages_per_second));
        figures.extend(rate("operations", self.operations_per_second));
        figures
    }
}

/// Pages come and go, so that a few of them are noise.
fn weighed(memory: &Memory) -> Vec<Figure> {
    let parts = [
        ("room", memory.room_bytes),
        ("file", memory.file_bytes),
        ("more in a receiver", Some(memory.receiver_bytes)),
        ("more in a sender", Some(memory.sender_bytes)),
    ];
    let figure = |(name, bytes): (_, Option<u64>)| {
        let figure = Figure::of(name, bytes? as f64, Unit::Bytes);
        let figure = Figure { noise_share: NOISE, noise_least: 16_384.0, ..figure };
        // Who has more room for messages is better off.
        Some(if name == "room" { figure.more_is_better() } else { figure })
    };
    parts.into_iter().filter_map(figure).collect()
}

#[cfg(test)]
mod tests {
    use crate::{
        record::{Idle, Life, Load, Row, Safety, Scale},
        spec::Memory,
    };

    fn names(row: &Row) -> Vec<&'static str> {
        row.figures().iter().map(|figure| figure.name).collect()
    }

    #[test]
    fn whatever_is_measured_has_something_that_it_is_judged_by() {
        let idle = Idle { watched_s: 1.0, cpu_ns_per_second: 9e4, wakeups_per_second: 1.0 };
        let memory = Memory { room_bytes: Some(80), receiver_bytes: 5, ..Memory::default() };
        let load = |is_saturated| Some(Load { asked_per_second: 9, is_saturated, messages: 9 });
        let base = Row { p50_ns: Some(5.0), p99_ns: Some(9), ..Row::default() };
        let rate = Some(7.0);
        let all = [
            (Row { floor_ratio: Some(1.0), ..base.clone() }, &["ratio"][..]),
            (
                Row { floor_ratio: Some(1.0), ours_ratio: Some(2.0), ..base.clone() },
                &["ratio", "ours over it"],
            ),
            (base.clone(), &["p50", "p99"]),
            (Row { life: Some(Life { messages: 7, quartiles_ns: None }), ..base.clone() }, &["time"]),
            (Row { operations_per_second: rate, ..Row::default() }, &["operations"]),
            (Row { idle: Some(idle), ..Row::default() }, &["processor time a second", "wake-ups"]),
            (
                Row { memory: Some(memory), ..Row::default() },
                &["room", "more in a receiver", "more in a sender"],
            ),
            (Row { load: load(false), messages_per_second: rate, ..base.clone() }, &["came", "p50", "p99"]),
            (Row { load: load(true), messages_per_second: rate, ..base.clone() }, &["came"]),
            (Row { safety: Some(Safety::default()), ..base.clone() }, &["time over that without"]),
            (
                Row { scale: Some(Scale { locked_ratio: Some(2.0), ..Scale::default() }), ..base.clone() },
                &["rate over that with one lock"],
            ),
            (
                Row { scale: Some(Scale::default()), messages_per_second: rate, ..Row::default() },
                &["messages"],
            ),
            (
                Row { alone_ratio: Some(2.0), messages_per_second: rate, ..Row::default() },
                &["rate over one to one"],
            ),
        ];
        for (row, expected) in &all {
            assert_eq!(names(row), *expected, "{row:?}");
        }
    }

    #[test]
    fn rates_are_better_if_there_is_more_of_them_and_times_if_less() {
        let row = Row { p50_ns: Some(1_500.0), operations_per_second: Some(7.0), ..Row::default() };
        let [time, rate] = &row.figures()[..] else { panic!("two figures") };
        assert!(time.less_is_better && !rate.less_is_better);
        assert_eq!((time.text(), rate.text()), ("1.5 us".into(), "7.0/s".into()));
        let idle = Idle { watched_s: 1.0, cpu_ns_per_second: 9e4, wakeups_per_second: 1.0 };
        let idle = Row { idle: Some(idle), ..Row::default() };
        assert!(idle.figures().iter().all(|figure| figure.less_is_better), "{idle:?}");
    }
}
