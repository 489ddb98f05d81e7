//! One run of one contender: what all its processes saw, put together and checked.

use super::plan::Contender;
use crate::{
    spec::{Delivery, Job, Outcome, Shape},
    stats::{histogram, median_ns},
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
    pub(super) latencies_ns: Histogram<u64>,
    pub(super) crowd: Option<CrowdRun>,
    /// How many of the values that were written the one who watched has seen.
    pub(super) seen_share: Option<f64>,
    /// How much of the time that one had a processor.
    pub(super) awake_share: Option<f64>,
    /// What the processors of all workers fetched from each other, or why that isn't known.
    pub(super) transfers: Option<Result<u64, String>>,
    /// For what share of its time a process was without a processor, of that which was so longest.
    pub(super) away_share: f64,
}

/// What is known of a run among several.
#[derive(Debug)]
pub(super) struct CrowdRun {
    pub(super) received: u64,
    pub(super) missed: u64,
    /// Messages per second of the slowest sender over those of the fastest.
    pub(super) senders_fairness: f64,
    /// Messages of the receiver that got least over those of the one that got most.
    pub(super) receivers_fairness: f64,
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

#[cfg(test)]
mod tests {
    use super::CrowdRun;
    use crate::{
        measure::figures::tests::block,
        spec::{Experiment, Outcome, TransportId},
    };

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
        (figure - expected).abs() < 0.01
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
