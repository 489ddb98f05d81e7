//! What the rounds of a block amount to.
//!
//! Ratios are taken within each round, where both sides had the machine in the same state,
//! and the median of them counts.

use super::{
    plan::{Against, Block, Contender},
    rounds::{Round, Series},
};
use crate::{
    jobs::opening::CAPACITY_BYTES,
    record::Row,
    spec::{Delivery, Experiment, Job, Outcome, Shape, TransportId},
    stats::{histogram, median, median_ns, quartiles, recorded},
    trouble::Trouble,
};
use hdrhistogram::Histogram;

/// One run of one contender, as all its processes saw it.
#[derive(Debug)]
pub(crate) struct Run {
    /// Messages; a round trip is two.
    pub(crate) messages: u64,
    pub(crate) elapsed_ns: u64,
    pub(crate) cpu_ns: u64,
    /// The median of what was timed one by one, finer than the clock's step.
    pub(crate) p50_ns: f64,
    /// Of groups.
    latencies_ns: Histogram<u64>,
    crowd: Option<CrowdRun>,
    /// How many of the values that were written the one who watched has seen.
    seen_share: Option<f64>,
    /// How much of the time that one had a processor.
    awake_share: Option<f64>,
    /// What the processors of all workers fetched from each other, or why that isn't known.
    pub(super) transfers: Option<Result<u64, String>>,
    /// For what share of its time a process was without a processor, of that which was so longest.
    pub(super) away_share: f64,
}

/// What is known of a run among several.
#[derive(Debug)]
struct CrowdRun {
    received: u64,
    missed: u64,
    /// Messages per second of the slowest sender over those of the fastest.
    senders_fairness: f64,
    /// Messages of the receiver that got least over those of the one that got most.
    receivers_fairness: f64,
}

impl Run {
    /// From what the near and the far processes saw of `count` iterations.
    pub(crate) fn new(
        contender: &Contender,
        [near, far]: &[Vec<Outcome>; 2],
        count: u64,
        clocks_step_ns: f64,
    ) -> Result<Self, Trouble> {
        let Some(starter) = near.first() else {
            return Err(Trouble::Failed("no near process has answered".into()));
        };
        let mut latencies_ns = histogram();
        for &(value_ns, count) in &starter.latencies_ns {
            latencies_ns.record_n(value_ns, count)?;
        }
        let all = || near.iter().chain(far);
        let started_ns = near.iter().map(|outcome| outcome.started_ns).min().unwrap_or(0);
        let its_delivery = contender.lane.transport.traits().delivery;
        let ended = |side: &[Outcome]| -> Vec<u64> { side.iter().map(|outcome| outcome.ended_ns).collect() };
        let ended_ns = match contender.lane.shape {
            // Whoever is stopped first is so after the last message was taken; until the last
            // one is, time passes that has to do with stopping them.
            Shape::Crowd { .. } if its_delivery == Delivery::One => ended(far).into_iter().min(),
            // Nobody is waited for, so what counts is how fast it is published.
            Shape::Crowd { .. } if its_delivery == (Delivery::All { lossy: true }) => {
                ended(near).into_iter().max()
            }
            _ => ended(near).into_iter().chain(ended(far)).max(),
        };
        let ended_ns = ended_ns.unwrap_or(0);
        let crowd = match contender.lane.shape {
            Shape::Crowd { .. } => Some(CrowdRun::new(contender, near, far, count)?),
            Shape::Workers { .. } => {
                all_is_done(near.iter().chain(far), contender.messages(count))?;
                None
            }
            _ => None,
        };
        let watcher = far.first().filter(|_| contender.jobs[1] == Job::Watch);
        Ok(Self {
            messages: contender.messages(count),
            elapsed_ns: ended_ns.saturating_sub(started_ns).max(1),
            cpu_ns: all().map(|outcome| outcome.cpu_ns).sum(),
            p50_ns: median_ns(&starter.latencies_ns, clocks_step_ns).unwrap_or(f64::NAN)
                / contender.group() as f64,
            latencies_ns,
            crowd,
            seen_share: watcher.map(|one| one.messages as f64 / (count * contender.group()) as f64),
            awake_share: watcher
                .map(|one| one.cpu_ns as f64 / one.ended_ns.saturating_sub(one.started_ns).max(1) as f64),
            transfers: all()
                .filter_map(|outcome| outcome.transfers.clone())
                .reduce(|one, other| Ok(one? + other?)),
            away_share: all().map(Outcome::away_share).fold(0.0, f64::max),
        })
    }

    /// How long what it consists of took: the median of what was timed one by one, else the mean.
    pub(super) fn each_ns(&self) -> f64 {
        if self.latencies_ns.is_empty() { 1e9 / self.messages_per_second() } else { self.p50_ns }
    }

    /// What this share of what was timed took at most, in groups.
    pub(super) fn quantile_ns(&self, share: f64) -> f64 {
        self.latencies_ns.value_at_quantile(share) as f64
    }

    pub(super) fn messages_per_second(&self) -> f64 {
        self.messages as f64 * 1e9 / self.elapsed_ns as f64
    }
}

impl CrowdRun {
    /// # Errors
    ///
    /// If what was received isn't what was sent.
    fn new(contender: &Contender, near: &[Outcome], far: &[Outcome], count: u64) -> Result<Self, Trouble> {
        let total = |side: &[Outcome]| {
            let add = |(messages, sum): (u64, u64), outcome: &Outcome| {
                (messages + outcome.messages, sum.wrapping_add(outcome.sum))
            };
            side.iter().fold((0, 0), add)
        };
        let ((sent, sent_sum), (received, received_sum)) = (total(near), total(far));
        let complete = match contender.lane.transport.traits().delivery {
            Delivery::One => (sent, sent_sum) == (received, received_sum),
            Delivery::All { lossy: false } => {
                far.iter().all(|one| (one.messages, one.sum) == (sent, sent_sum))
            }
            Delivery::All { lossy: true } => far.iter().all(|one| one.messages + one.missed == sent),
        };
        if !complete || sent != contender.messages(count) {
            return Err(Trouble::Failed(format!(
                "{sent} messages were sent, and {received} received by {} receivers, or others than those",
                far.len()
            )));
        }
        let rate = |outcome: &Outcome| count as f64 / (outcome.ended_ns - outcome.started_ns).max(1) as f64;
        Ok(Self {
            received,
            missed: far.iter().map(|outcome| outcome.missed).sum(),
            senders_fairness: least_over_most(near.iter().map(rate)),
            receivers_fairness: least_over_most(far.iter().map(|outcome| outcome.messages as f64)),
        })
    }
}

/// That workers have done as many orders as they had, and none in place of another.
fn all_is_done<'a>(workers: impl Iterator<Item = &'a Outcome>, orders: u64) -> Result<(), Trouble> {
    let add =
        |(done, sum): (u64, u64), outcome: &Outcome| (done + outcome.messages, sum.wrapping_add(outcome.sum));
    match workers.fold((0, 0), add) {
        (done, 0) if done == orders => Ok(()),
        (done, _) => {
            Err(Trouble::Failed(format!("of {orders} orders {done} were done, or others than those")))
        }
    }
}

/// 1 if all are alike, 0 if one is nothing.
fn least_over_most(figures: impl Iterator<Item = f64> + Clone) -> f64 {
    let (least, most) = (figures.clone().fold(f64::INFINITY, f64::min), figures.fold(0.0, f64::max));
    if most > 0.0 { least / most } else { 1.0 }
}

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
            Experiment::Open | Experiment::Setup => self.openings(row),
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
            capacity_bytes: Some(CAPACITY_BYTES),
            ratio_quartiles: self.quartiles_against(Against::Raw, |run| run.p50_ns),
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
        let quartiles = |against| self.quartiles_against(against, Run::messages_per_second);
        let row = Row {
            messages_per_second,
            bytes_per_second: messages_per_second.map(|rate| rate * row.message_len_bytes as f64),
            floor_ratio,
            ratio_quartiles: quartiles(Against::Memcpy).or_else(|| quartiles(Against::FixedRing)),
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
            alone_ratio: self.against(Against::Alone, figure),
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
mod tests {
    use super::{CrowdRun, Figures, Run};
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

    fn block(experiment: Experiment, transport: TransportId, senders: usize, receivers: usize) -> Block {
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
        let near =
            Outcome { ended_ns: 1, cpu_ns: 300, latencies_ns: vec![(latency_ns, 10)], ..Outcome::default() };
        let far = Outcome { ended_ns: elapsed_ns, cpu_ns: 100, ..Outcome::default() };
        Run::new(&block.subject, &[vec![near], vec![far]], 20, 1.0).unwrap()
    }

    const REPEATS: Repeats = Repeats { remeasured: 2, unsettled: 1, displaced: 0, out_of_line: 1 };

    /// Three rounds; in the second the whole machine is four times as slow.
    fn series(block: &Block) -> Series<Vec<Run>> {
        let rounds = [(100, 1), (400, 4), (110, 1)].map(|(floor_ns, slow)| Round {
            floor_ns: floor_ns as f64,
            measured: vec![run(block, 150 * slow, 2_000 * slow), run(block, 300 * slow, 1_000 * slow)],
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
    }

    fn one_of_several(messages: u64, sum: u64, ended_ns: u64) -> Outcome {
        Outcome { messages, sum, ended_ns, ..Outcome::default() }
    }

    #[test]
    fn fairness_is_the_least_over_the_most() {
        let block = block(Experiment::Throughput, TransportId::Mq, 2, 2);
        let near = [one_of_several(20, 50, 100), one_of_several(20, u64::MAX, 400)];
        let far = [one_of_several(10, 9, 1), one_of_several(30, 40, 1)];
        let crowd = CrowdRun::new(&block.subject, &near, &far, 20).unwrap();
        assert!(
            near_enough(crowd.senders_fairness, 0.25) && near_enough(crowd.receivers_fairness, 1.0 / 3.0)
        );
        assert_eq!((crowd.received, crowd.missed), (40, 0));
    }

    fn near_enough(figure: f64, expected: f64) -> bool {
        near(Some(figure), expected)
    }

    #[test]
    fn a_broadcast_reaches_every_subscriber() {
        let block = block(Experiment::Throughput, TransportId::ShmBroadcastReliable, 2, 2);
        let near = [one_of_several(20, 50, 100), one_of_several(20, 70, 100)];
        let all = || one_of_several(40, 120, 1);
        let crowd = CrowdRun::new(&block.subject, &near, &[all(), all()], 20).unwrap();
        assert_eq!((crowd.received, crowd.missed), (80, 0));
        let others = [one_of_several(39, 120, 1), one_of_several(40, 121, 1)];
        for other in others {
            assert!(CrowdRun::new(&block.subject, &near, &[all(), other], 20).is_err());
        }
    }

    #[test]
    fn what_a_subscriber_got_and_missed_is_all_there_was() {
        let block = block(Experiment::Throughput, TransportId::ShmBroadcast, 1, 1);
        let near = [one_of_several(20, 50, 100)];
        let far = |messages, missed| [Outcome { missed, ..one_of_several(messages, 0, 1) }];
        let crowd = CrowdRun::new(&block.subject, &near, &far(5, 15), 20).unwrap();
        assert_eq!((crowd.received, crowd.missed), (5, 15));
        for (messages, missed) in [(5, 14), (20, 1), (19, 0)] {
            assert!(CrowdRun::new(&block.subject, &near, &far(messages, missed), 20).is_err());
        }
    }

    #[test]
    fn a_message_lost_or_taken_for_another_one_is_no_figure() {
        let block = block(Experiment::Throughput, TransportId::Mq, 2, 1);
        let near = [one_of_several(20, 50, 100), one_of_several(20, 70, 100)];
        for far in [one_of_several(39, 120, 1), one_of_several(40, 121, 1)] {
            assert!(CrowdRun::new(&block.subject, &near, &[far], 20).is_err());
        }
        assert!(CrowdRun::new(&block.subject, &near, &[one_of_several(40, 120, 1)], 20).is_ok());
    }
}
