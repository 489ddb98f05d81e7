//! What the rounds of a block amount to.
//!
//! Ratios are taken within each round, where both sides had the machine in the same state,
//! and the median of them counts.

use super::{
    plan::{Against, Block},
    rounds::{Round, Series},
    run::Run,
};
use crate::{
    jobs::opening::CAPACITY_BYTES,
    record::Row,
    spec::{Delivery, Experiment, Shape, TransportId},
    stats::{histogram, median, median_ns, quartiles, recorded},
};

/// The shares whose times are kept.
pub(super) const SHARES: [f64; 16] =
    [0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9995, 0.9999, 1.0];

/// The rounds of a block, to be evaluated. Each holds the subject's run, then those of the
/// opponents.
#[derive(Debug)]
pub(crate) struct Figures<'a> {
    pub(crate) block: &'a Block,
    pub(crate) series: &'a Series<Vec<Run>>,
    /// What a reading of the clock costs.
    pub(crate) clock_ns: f64,
    pub(crate) clocks_step_ns: f64,
}

impl Figures<'_> {
    /// The block's line in the report.
    pub(crate) fn row(&self, experiment: Experiment) -> Row {
        let row = Row { experiment: experiment.name().into(), ..self.common() };
        match experiment {
            Experiment::Latency => self.round_trips(row),
            Experiment::Throughput => self.one_way(row),
            Experiment::Open => Row { capacity_bytes: Some(CAPACITY_BYTES), ..self.openings(row) },
            // The kernel's channels have the room that it gives them.
            Experiment::Setup => self.openings(row),
            Experiment::Latest => self.values(row),
            Experiment::Tolerance => self.under_delay(row),
        }
    }

    /// What every experiment has.
    fn common(&self) -> Row {
        let subject = &self.block.subject;
        let (mut cpu_ns, mut messages) = (0, 0);
        for run in self.subjects() {
            cpu_ns += run.cpu_ns;
            messages += run.messages;
        }
        let [senders, receivers] = subject.lane.shape.sides();
        Row {
            transport: subject.lane.transport.name().into(),
            wait: Some(subject.lane.waiting.name().into()),
            message_len_bytes: subject.lane.message_len_bytes,
            touched: subject.lane.touch,
            clock_ns: Some(self.clock_ns),
            floor_ns: self.median_of(|round| round.floor_ns),
            cpu_ns_per_message: Some(cpu_ns as f64 / messages as f64),
            senders,
            receivers,
            batch: subject.lane.batch,
            rounds: self.series.rounds.len(),
            repeats: self.series.repeats,
            ..Row::default()
        }
    }

    /// Adds what is timed one by one, and the ratios of that.
    fn one_by_one(&self, row: Row) -> Row {
        let mut all_ns = histogram();
        for run in self.subjects() {
            all_ns.add(&run.latencies_ns).expect("a histogram that grows takes any other");
        }
        let group = self.block.subject.group();
        Row {
            p50_ns: median_ns(&recorded(&all_ns), self.clocks_step_ns).map(|ns| ns / group as f64),
            p99_ns: Some(all_ns.value_at_quantile(0.99) / group),
            p999_ns: Some(all_ns.value_at_quantile(0.999) / group),
            max_ns: Some(all_ns.max() / group),
            distribution: SHARES.map(|share| (share, all_ns.value_at_quantile(share) / group)).into(),
            ..self.ratios(row, |run| run.p50_ns)
        }
    }

    /// Adds what round trips have.
    fn round_trips(&self, row: Row) -> Row {
        let net = |time_ns: f64| (time_ns - self.clock_ns).max(1.0);
        Row {
            floor_ratio: self.median_of(|round| round.measured[0].p50_ns / round.floor_ns),
            floor_ratio_net: self.median_of(|round| net(round.measured[0].p50_ns) / net(round.floor_ns)),
            ratio_quartiles: self.quartiles_of(|round| round.measured[0].p50_ns / round.floor_ns),
            ..self.one_by_one(row)
        }
    }

    /// Adds what openings have. They wait for nobody, and the cache line is no measure of
    /// them.
    fn openings(&self, row: Row) -> Row {
        let row = self.one_by_one(row);
        Row {
            wait: None,
            operation: self.block.subject.operation().map(Into::into),
            ratio_quartiles: row.raw_quartiles,
            // It is of the whole run, what isn't timed included.
            cpu_ns_per_message: None,
            ..row
        }
    }

    /// Adds what reading and writing values have. A sixteenth of a reading of the clock is
    /// part of each; what is spared of it makes the ratio smaller, so the floor is taken
    /// without its own in the net one.
    fn values(&self, row: Row) -> Row {
        let net = |time_ns: f64| (time_ns - self.clock_ns).max(1.0);
        let row = self.one_by_one(row);
        Row {
            wait: None,
            operation: self.block.subject.operation().map(Into::into),
            seen_share: median(self.subjects().filter_map(|run| run.seen_share)),
            awake_share: median(self.subjects().filter_map(|run| run.awake_share)),
            floor_ratio: self.median_of(|round| round.measured[0].p50_ns / round.floor_ns),
            floor_ratio_net: self.median_of(|round| round.measured[0].p50_ns / net(round.floor_ns)),
            ratio_quartiles: self.quartiles_of(|round| round.measured[0].p50_ns / round.floor_ns),
            // It is of the whole run, what isn't timed included.
            cpu_ns_per_message: None,
            ..row
        }
    }

    /// Adds what requests and replies have when hops take longer, and updates under a lock.
    fn under_delay(&self, row: Row) -> Row {
        let subject = &self.block.subject;
        // A request and its reply are two messages.
        let messages = if subject.in_flight().is_some() { 2.0 } else { 1.0 };
        Row {
            operation: subject.operation().map(Into::into),
            delay_ns: Some(subject.delay_ns()),
            in_flight: subject.in_flight(),
            operations_per_second: self.median_of(|round| round.measured[0].messages_per_second() / messages),
            // Who polls takes all there is.
            cpu_ns_per_message: None,
            ..row
        }
    }

    /// Adds what a stream has. There the fixed ring is the floor, its own one, too; for
    /// copies it is the two copies.
    fn one_way(&self, row: Row) -> Row {
        let messages_per_second = self.median_of(|round| round.measured[0].messages_per_second());
        let row = self.ratios(row, Run::messages_per_second);
        let floor_ratio = row.memcpy_ratio.or(row.fixed_ring_ratio);
        let row = Row {
            messages_per_second,
            bytes_per_second: messages_per_second.map(|rate| rate * row.message_len_bytes as f64),
            floor_ratio,
            ratio_quartiles: row
                .memcpy_quartiles
                .or_else(|| self.quartiles_against(Against::FixedRing, Run::messages_per_second)),
            ..row
        };
        self.among_several(row)
    }

    /// Adds what is known only of several.
    fn among_several(&self, row: Row) -> Row {
        if !matches!(self.block.subject.lane.shape, Shape::Crowd { .. }) {
            return row;
        }
        let crowds = || self.subjects().filter_map(|run| run.crowd.as_ref());
        let received: u64 = crowds().map(|crowd| crowd.received).sum();
        let missed: u64 = crowds().map(|crowd| crowd.missed).sum();
        let lossy = self.block.subject.lane.transport.traits().delivery == Delivery::All { lossy: true };
        Row {
            senders_fairness: median(crowds().map(|crowd| crowd.senders_fairness)),
            receivers_fairness: median(crowds().map(|crowd| crowd.receivers_fairness)),
            sent_messages: Some(self.subjects().map(|run| run.messages).sum()),
            received_messages: Some(received),
            lost_messages: Some(missed),
            lost_share: lossy.then(|| missed as f64 / (received + missed).max(1) as f64),
            ..row
        }
    }

    /// Adds the ratios to all opponents.
    fn ratios(&self, row: Row, figure: fn(&Run) -> f64) -> Row {
        let itself = |id| (self.block.subject.lane.transport == id).then_some(1.0);
        Row {
            fixed_ring_ratio: self
                .against(Against::FixedRing, figure)
                .or_else(|| itself(TransportId::FixedRing).filter(|_| row.experiment == "throughput")),
            raw_ratio: self.against(Against::Raw, figure),
            futex_ratio: self.against(Against::Futex, figure),
            memcpy_ratio: self.against(Against::Memcpy, figure).or_else(|| itself(TransportId::Memcpy)),
            raw_quartiles: self.quartiles_against(Against::Raw, figure),
            memcpy_quartiles: self.quartiles_against(Against::Memcpy, figure),
            alone_ratio: self.against(Against::Alone, figure),
            alone_quartiles: self.quartiles_against(Against::Alone, figure),
            shared_ratio: self.against(Against::Shared, figure),
            shared_quartiles: self.quartiles_against(Against::Shared, figure),
            ..row
        }
    }

    fn subjects(&self) -> impl Iterator<Item = &Run> {
        self.series.rounds.iter().map(|round| &round.measured[0])
    }

    fn median_of(&self, figure: impl Fn(&Round<Vec<Run>>) -> f64) -> Option<f64> {
        median(self.series.rounds.iter().map(figure))
    }

    fn quartiles_of(&self, figure: impl Fn(&Round<Vec<Run>>) -> f64) -> Option<[f64; 2]> {
        quartiles(self.series.rounds.iter().map(figure))
    }

    /// The quartiles of the same ratio as [`against`](Self::against).
    fn quartiles_against(&self, opponent: Against, figure: fn(&Run) -> f64) -> Option<[f64; 2]> {
        let index = 1 + self.block.opponents.iter().position(|&(other, _)| other == opponent)?;
        self.quartiles_of(|round| figure(&round.measured[0]) / figure(&round.measured[index]))
    }

    /// The subject's figure over an opponent's; `None` if that one didn't take part.
    fn against(&self, opponent: Against, figure: fn(&Run) -> f64) -> Option<f64> {
        let index = 1 + self.block.opponents.iter().position(|&(other, _)| other == opponent)?;
        self.median_of(|round| figure(&round.measured[0]) / figure(&round.measured[index]))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::{Figures, Run};
    use crate::{
        cli::Asked,
        measure::{
            plan::{Block, plan},
            rounds::{Round, Series},
        },
        record::{Repeats, Row},
        spec::{Experiment, Outcome, Touch, TransportId, Waiting},
    };
    use std::time::Duration;

    pub(in crate::measure) fn block(
        experiment: Experiment,
        transport: TransportId,
        senders: usize,
        receivers: usize,
    ) -> Block {
        let asked = Asked {
            experiment,
            transports: vec![transport],
            transports_named: true,
            sizes_bytes: vec![8],
            waits: vec![Waiting::Block],
            touch: Touch::All,
            senders,
            receivers,
            batch: 1,
            delays_ns: vec![0, 1_000],
            in_flight: vec![1, 16],
            json: false,
            quick: true,
            watchdog: Duration::from_secs(1),
        };
        plan(&asked).0.remove(0)
    }

    fn run(block: &Block, latency_ns: u64, elapsed_ns: u64) -> Run {
        let messages = block.subject.messages(20);
        let latencies_ns = vec![(latency_ns, 10)];
        let near = Outcome { ended_ns: 1, cpu_ns: 300, messages, latencies_ns, ..Outcome::default() };
        let far = Outcome { ended_ns: elapsed_ns, cpu_ns: 100, messages, ..Outcome::default() };
        Run::new(&block.subject, &[vec![near], vec![far]], 20, 1.0).unwrap()
    }

    const REPEATS: Repeats = Repeats { remeasured: 2, unsettled: 1, displaced: 0, out_of_line: 1 };

    /// Three rounds; in the second the whole machine is four times as slow.
    fn series(block: &Block) -> Series<Vec<Run>> {
        let rounds = [(100, 1), (400, 4), (110, 1)].map(|(floor_ns, slow)| {
            let opponents = block.opponents.iter().map(|_| run(block, 300 * slow, 1_000 * slow));
            let measured = [run(block, 150 * slow, 2_000 * slow)].into_iter().chain(opponents).collect();
            Round { floor_ns: floor_ns as f64, measured }
        });
        Series { rounds: rounds.into(), repeats: REPEATS }
    }

    fn row(block: &Block, experiment: Experiment) -> Row {
        Figures { block, series: &series(block), clock_ns: 20.0, clocks_step_ns: 1.0 }.row(experiment)
    }

    fn near(figure: Option<f64>, expected: f64) -> bool {
        figure.is_some_and(|figure| (figure - expected).abs() < 0.01)
    }

    #[test]
    fn round_trips_are_compared_within_their_round() {
        let row = row(&block(Experiment::Latency, TransportId::ShmSpsc, 1, 1), Experiment::Latency);
        assert!(near(row.floor_ratio, 1.5), "{row:?}");
        assert!(near(row.floor_ratio_net, 1.526), "{row:?}");
        assert!(near(row.futex_ratio, 0.5), "{row:?}");
        assert!(near(row.p50_ns, 150.25), "{row:?}");
        assert!(near(row.cpu_ns_per_message, 10.0), "{row:?}");
        assert_eq!((row.max_ns, row.raw_ratio, row.messages_per_second), (Some(600), None, None));
        assert_eq!((row.rounds, row.repeats), (3, REPEATS));
    }

    #[test]
    fn both_models_are_in_the_rounds_of_a_kernels_channel() {
        for experiment in [Experiment::Latency, Experiment::Setup] {
            let row = row(&block(experiment, TransportId::Mq, 1, 1), experiment);
            assert!(near(row.shared_ratio, 0.5) && row.shared_quartiles.is_some(), "{row:?}");
        }
        let memory = row(&block(Experiment::Latency, TransportId::ShmSpsc, 1, 1), Experiment::Latency);
        assert_eq!(memory.shared_ratio, None);
    }

    #[test]
    fn streams_are_compared_by_their_rate() {
        let row = row(&block(Experiment::Throughput, TransportId::ShmSpsc, 1, 1), Experiment::Throughput);
        assert!(near(row.messages_per_second, 1e7), "{row:?}");
        assert!(near(row.bytes_per_second, 8e7), "{row:?}");
        assert!(near(row.floor_ratio, 0.5), "{row:?}");
        assert!(near(row.cpu_ns_per_message, 20.0), "{row:?}");
        assert_eq!((row.p50_ns, row.max_ns, row.receivers_fairness), (None, None, None));
    }

    #[test]
    fn openings_are_compared_with_the_bare_calls_only() {
        let row = row(&block(Experiment::Open, TransportId::ShmSpsc, 1, 1), Experiment::Open);
        assert!(near(row.raw_ratio, 0.5) && near(row.p50_ns, 150.25), "{row:?}");
        assert_eq!((row.operation, row.wait, row.floor_ratio), (Some("create".into()), None, None));
        assert_eq!(row.capacity_bytes, Some(1 << 20));
    }

    #[test]
    fn a_kernels_channel_is_made_with_its_own_room() {
        let row = row(&block(Experiment::Setup, TransportId::Mq, 1, 1), Experiment::Setup);
        assert_eq!((row.operation, row.capacity_bytes), (Some("create".into()), None));
    }

    #[test]
    fn ratios_that_a_run_is_judged_by_have_their_spread() {
        let latest = row(&block(Experiment::Latest, TransportId::ShmLatest, 1, 1), Experiment::Latest);
        assert!(latest.floor_ratio.is_some() && latest.ratio_quartiles.is_some(), "{latest:?}");
        let crowd = block(Experiment::Throughput, TransportId::ShmMpmc, 2, 1);
        let figures = row(&crowd, Experiment::Throughput).figures();
        assert!(figures.iter().all(|figure| figure.quartiles.is_some()), "{figures:?}");
    }
}
