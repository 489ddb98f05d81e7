//! What the rounds of a block amount to.
//!
//! Ratios are taken within each round, where both sides had the machine in the same state,
//! and the median of them counts.

use crate::{
    link::Outcome,
    report::Row,
    rig::Trouble,
    rounds::{Round, Series},
    stats::{median, median_ns},
    transports::TransportId,
};
use hdrhistogram::Histogram;

/// One run of one connection, as both processes saw it.
#[derive(Debug)]
pub(crate) struct Run {
    /// Messages; a round trip is two.
    pub(crate) messages: u64,
    pub(crate) elapsed_ns: u64,
    pub(crate) cpu_ns: u64,
    /// The median round trip, finer than the clock's step.
    pub(crate) p50_ns: f64,
    latencies_ns: Histogram<u64>,
}

impl Run {
    pub(crate) fn new(
        near: &Outcome,
        far: &Outcome,
        messages: u64,
        clocks_step_ns: f64,
    ) -> Result<Self, Trouble> {
        let mut latencies_ns = histogram();
        for &(value_ns, count) in &near.latencies_ns {
            latencies_ns.record_n(value_ns, count)?;
        }
        Ok(Self {
            messages,
            elapsed_ns: near.ended_ns.max(far.ended_ns).saturating_sub(near.started_ns).max(1),
            cpu_ns: near.cpu_ns + far.cpu_ns,
            p50_ns: median_ns(&near.latencies_ns, clocks_step_ns).unwrap_or(f64::NAN),
            latencies_ns,
        })
    }

    fn messages_per_second(&self) -> f64 {
        self.messages as f64 * 1e9 / self.elapsed_ns as f64
    }
}

/// An empty histogram: nanoseconds, exact below 2,048 and to 0.1 % above.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new(3).expect("3 digits are within what histograms can do")
}

/// What a histogram holds, in ascending order: values and their counts.
pub(crate) fn recorded(histogram: &Histogram<u64>) -> Vec<(u64, u64)> {
    histogram.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value())).collect()
}

/// The rounds of a block, to be evaluated. Each holds the subject's run, then those of the
/// opponents.
#[derive(Debug)]
pub(crate) struct Figures<'a> {
    pub(crate) series: &'a Series<Vec<Run>>,
    pub(crate) opponents: &'a [TransportId],
    /// What a reading of the clock costs.
    pub(crate) clock_ns: f64,
    pub(crate) clocks_step_ns: f64,
}

impl Figures<'_> {
    /// What every experiment has.
    pub(crate) fn common(&self) -> Row {
        let (mut cpu_ns, mut messages) = (0, 0);
        for subject in self.series.rounds.iter().map(|round| &round.measured[0]) {
            cpu_ns += subject.cpu_ns;
            messages += subject.messages;
        }
        Row {
            floor_ns: self.median_of(|round| round.floor_ns),
            cpu_ns_per_message: Some(cpu_ns as f64 / messages as f64),
            rounds: self.series.rounds.len(),
            remeasured: self.series.remeasured,
            unsettled: self.series.unsettled,
            ..Row::default()
        }
    }

    /// Adds what round trips have.
    pub(crate) fn round_trips(&self, row: Row) -> Row {
        let mut all_ns = histogram();
        for round in &self.series.rounds {
            all_ns.add(&round.measured[0].latencies_ns).expect("a histogram that grows takes any other");
        }
        let net = |time_ns: f64| (time_ns - self.clock_ns).max(1.0);
        Row {
            p50_ns: median_ns(&recorded(&all_ns), self.clocks_step_ns),
            p99_ns: Some(all_ns.value_at_quantile(0.99)),
            p999_ns: Some(all_ns.value_at_quantile(0.999)),
            max_ns: Some(all_ns.max()),
            floor_ratio: self.median_of(|round| round.measured[0].p50_ns / round.floor_ns),
            floor_ratio_net: self.median_of(|round| net(round.measured[0].p50_ns) / net(round.floor_ns)),
            fixed_ring_ratio: self.against(TransportId::FixedRing, |run| run.p50_ns),
            raw_ratio: self.against(TransportId::RawMq, |run| run.p50_ns),
            ..row
        }
    }

    /// Adds what a stream has. There the fixed ring is the floor, its own one, too.
    pub(crate) fn one_way(&self, row: Row, subject: TransportId) -> Row {
        let messages_per_second = self.median_of(|round| round.measured[0].messages_per_second());
        let itself = (subject == TransportId::FixedRing).then_some(1.0);
        let fixed_ring_ratio = self.against(TransportId::FixedRing, Run::messages_per_second).or(itself);
        Row {
            messages_per_second,
            bytes_per_second: messages_per_second.map(|rate| rate * row.message_len_bytes as f64),
            floor_ratio: fixed_ring_ratio,
            fixed_ring_ratio,
            raw_ratio: self.against(TransportId::RawMq, Run::messages_per_second),
            ..row
        }
    }

    fn median_of(&self, figure: impl Fn(&Round<Vec<Run>>) -> f64) -> Option<f64> {
        median(self.series.rounds.iter().map(figure))
    }

    /// The subject's figure over an opponent's; `None` if that one didn't take part.
    fn against(&self, opponent: TransportId, figure: impl Fn(&Run) -> f64) -> Option<f64> {
        let index = 1 + self.opponents.iter().position(|&other| other == opponent)?;
        self.median_of(|round| figure(&round.measured[0]) / figure(&round.measured[index]))
    }
}

#[cfg(test)]
mod tests {
    use super::{Figures, Run};
    use crate::{
        link::Outcome,
        report::Row,
        rounds::{Round, Series},
        transports::TransportId,
    };

    fn run(latency_ns: u64, elapsed_ns: u64) -> Run {
        let near =
            Outcome { ended_ns: 1, cpu_ns: 300, latencies_ns: vec![(latency_ns, 10)], ..Outcome::default() };
        let far = Outcome { ended_ns: elapsed_ns, cpu_ns: 100, ..Outcome::default() };
        Run::new(&near, &far, 20, 1.0).unwrap()
    }

    /// Three rounds; in the second the whole machine is four times as slow.
    fn series() -> Series<Vec<Run>> {
        let rounds = [(100, 1), (400, 4), (110, 1)].map(|(floor_ns, slow)| Round {
            floor_ns: floor_ns as f64,
            measured: vec![run(150 * slow, 2_000 * slow), run(300 * slow, 1_000 * slow)],
        });
        Series { rounds: rounds.into(), remeasured: 2, unsettled: 1 }
    }

    fn figures(series: &Series<Vec<Run>>) -> Figures<'_> {
        Figures { series, opponents: &[TransportId::FixedRing], clock_ns: 20.0, clocks_step_ns: 1.0 }
    }

    fn near(figure: Option<f64>, expected: f64) -> bool {
        figure.is_some_and(|figure| (figure - expected).abs() < 0.01)
    }

    #[test]
    fn round_trips_are_compared_within_their_round() {
        let series = series();
        let row = figures(&series).round_trips(figures(&series).common());
        assert!(near(row.floor_ratio, 1.5), "{row:?}");
        assert!(near(row.floor_ratio_net, 1.526), "{row:?}");
        assert!(near(row.fixed_ring_ratio, 0.5), "{row:?}");
        assert!(near(row.p50_ns, 150.25), "{row:?}");
        assert_eq!((row.max_ns, row.raw_ratio, row.messages_per_second), (Some(600), None, None));
        assert_eq!((row.rounds, row.remeasured, row.unsettled), (3, 2, 1));
    }

    #[test]
    fn streams_are_compared_by_their_rate() {
        let series = series();
        let row = Row { message_len_bytes: 8, ..figures(&series).common() };
        let row = figures(&series).one_way(row, TransportId::ShmSpsc);
        assert!(near(row.messages_per_second, 1e7), "{row:?}");
        assert!(near(row.bytes_per_second, 8e7), "{row:?}");
        assert!(near(row.floor_ratio, 0.5), "{row:?}");
        assert!(near(row.cpu_ns_per_message, 20.0), "{row:?}");
        assert_eq!((row.p50_ns, row.max_ns), (None, None));
    }
}
