//! `ipc-bench safety`: what safety costs: what has it beside what does the same without, in the
//! same rounds.
//!
//! There is no switch in the toolkit that turns its checks off, so what is beside it is the next
//! simpler thing that lacks them.

use super::{
    experiment::{Extent, Pace, measure_together},
    plan::Contender,
    report::micros,
    rounds::Series,
    run::Run,
    survey::{Step, Survey},
    table::{Table, decimals},
};
use crate::{
    cli::Common,
    locks,
    machine::Machine,
    record::{Row, Safety as SafetyRow},
    rig::team::Rig,
    spec::{Job, TransportId, Waiting},
    stats::{median, quartiles},
    trouble::Trouble,
};
use clap::Args;

/// What is there for safety, and what does the same without.
struct Pair {
    buys: &'static str,
    with: TransportId,
    without: TransportId,
    /// Whether both carry as many as are sent, as fast as it goes.
    streams: bool,
}

const PAIRS: [Pair; 4] = [
    Pair {
        buys: "each record checked, any death survived",
        with: TransportId::ShmSpsc,
        without: TransportId::FixedRing,
        streams: true,
    },
    Pair {
        buys: "many at each end, what the dead held delivered again",
        with: TransportId::ShmMpmc,
        without: TransportId::ShmSpsc,
        streams: true,
    },
    Pair {
        buys: "a peer that needn't be trusted",
        with: TransportId::ShmSealed,
        without: TransportId::ShmSpsc,
        streams: true,
    },
    Pair {
        buys: "the slow waited for, so that they miss nothing",
        with: TransportId::ShmBroadcastReliable,
        without: TransportId::ShmBroadcast,
        streams: false,
    },
];

/// What is done, and whether it is judged by the time that each takes.
const WORKS: [(&str, [Job; 2], bool); 2] =
    [("round trip", [Job::Ping, Job::Echo], true), ("one way", [Job::Stream, Job::Drain], false)];

/// As it is asked for.
#[derive(Args, Clone, Debug)]
pub(crate) struct Asked {
    #[command(flatten)]
    pub(crate) common: Common,
}

impl Asked {
    pub(crate) fn survey(&self) -> Safety {
        let extent = if self.common.quick { Extent::Smoke } else { Extent::Full };
        Safety { named: self.common.transport.clone(), ..Safety::of(extent) }
    }
}

/// What is to be measured.
#[derive(Clone, Debug)]
pub(crate) struct Safety {
    /// Only pairs of which one is among these, unless it is empty.
    named: Vec<TransportId>,
    pace: Pace,
    lock_rounds: u64,
}

impl Safety {
    /// Its part of a run of everything.
    pub(super) fn of(extent: Extent) -> Self {
        let lock_rounds = match extent {
            Extent::Smoke => 1,
            Extent::Quick => 5,
            Extent::Full => 21,
        };
        Self { named: Vec::new(), pace: extent.pace(), lock_rounds }
    }

    fn pairs(&self) -> impl Iterator<Item = &'static Pair> {
        PAIRS.iter().filter(|pair| self.named.is_empty() || self.named.contains(&pair.with))
    }

    fn measure(&self, pair: &Pair, rig: &mut Rig, machine: &Machine) -> Result<Vec<Row>, Trouble> {
        let works = WORKS.iter().filter(|(.., by_time)| *by_time || pair.streams);
        let rows = works.map(|&(work, jobs, by_time)| {
            let of = |transport| Contender::new(transport, Waiting::Spin, jobs);
            let contenders = vec![Contender::floor(), of(pair.with), of(pair.without)];
            let series = measure_together(rig, contenders, self.pace, machine)?;
            Ok(row(pair, work, by_time, &series))
        });
        rows.collect()
    }

    fn locks(&self, rig: &mut Rig, machine: &Machine) -> Result<Vec<Row>, Trouble> {
        let costs = locks::costs(rig, machine, self.lock_rounds)?;
        let rows = costs.into_iter().map(|cost| Row {
            experiment: "safety".into(),
            transport: "shm:mutex".into(),
            operation: Some("lock and unlock".into()),
            p50_ns: Some(cost.with_ns),
            rounds: cost.rounds,
            ratio_quartiles: cost.quartiles,
            safety: Some(SafetyRow {
                buys: "a lock whose owner may be killed".into(),
                without: cost.without.into(),
                without_ns: Some(cost.without_ns),
                without_per_second: None,
                times: cost.times,
            }),
            ..Row::default()
        });
        Ok(rows.collect())
    }
}

/// What the rounds of a pair amount to.
fn row(pair: &Pair, work: &'static str, by_time: bool, series: &Series<Vec<Run>>) -> Row {
    let of = |index: usize, figure: fn(&Run) -> f64| {
        series.rounds.iter().map(move |round| figure(&round.measured[index]))
    };
    let time = |run: &Run| run.p50_ns;
    let each_time: fn(&Run) -> f64 = if by_time { time } else { |run| 1e9 / run.messages_per_second() };
    let times = || of(0, each_time).zip(of(1, each_time)).map(|(with, without)| with / without);
    let times_taken = |index| median(of(index, time)).filter(|_| by_time);
    let rate = |index| median(of(index, Run::messages_per_second)).filter(|_| !by_time);
    Row {
        experiment: "safety".into(),
        transport: pair.with.traits().name.into(),
        wait: Some(Waiting::Spin.name().into()),
        operation: Some(work.into()),
        message_len_bytes: 8,
        p50_ns: times_taken(0),
        messages_per_second: rate(0),
        floor_ns: median(series.rounds.iter().map(|round| round.floor_ns)),
        rounds: series.rounds.len(),
        repeats: series.repeats,
        ratio_quartiles: quartiles(times()),
        safety: Some(SafetyRow {
            buys: pair.buys.into(),
            without: pair.without.traits().name.into(),
            without_ns: times_taken(1),
            without_per_second: rate(1),
            times: median(times()).unwrap_or(f64::NAN),
        }),
        ..Row::default()
    }
}

impl Survey for Safety {
    fn name(&self) -> &'static str {
        "safety"
    }

    fn heading(&self) -> String {
        "safety: what has it, beside the next simpler thing without; 8 bytes, spinning".into()
    }

    fn steps(&self) -> Vec<Step<'_>> {
        let pairs = self.pairs().map(|pair| Step {
            label: pair.with.to_string(),
            sides: [1, 1],
            measure: Box::new(move |rig, machine| self.measure(pair, rig, machine)),
        });
        let locks = Step {
            label: "locks".into(),
            sides: [1, 1],
            measure: Box::new(move |rig: &mut Rig, machine: &Machine| self.locks(rig, machine)),
        };
        pairs.chain(self.named.is_empty().then_some(locks)).collect()
    }

    fn left_out(&self) -> Vec<String> {
        let is_paired = |name: &&TransportId| PAIRS.iter().any(|pair| pair.with == **name);
        let others = self.named.iter().filter(|name| !is_paired(name));
        others.map(|name| format!("{name} has nothing beside it that is the same without safety")).collect()
    }

    fn text(&self, rows: &[Row]) -> String {
        let mut table = Table::new();
        let pair = |row: &Row, figure: fn(&SafetyRow) -> Option<f64>| figure(row.safety.as_ref()?);
        table.column("buys", rows.iter().map(|row| Some(row.safety.as_ref()?.buys.clone())));
        table.column("with", rows.iter().map(|row| Some(row.transport.to_string())));
        table.column("without", rows.iter().map(|row| Some(row.safety.as_ref()?.without.clone())));
        table.column("", rows.iter().map(|row| row.operation.as_ref().map(ToString::to_string)));
        let us = |ns: Option<f64>| micros(ns, 3);
        table.column("us", rows.iter().map(|row| us(row.p50_ns)));
        table.column("us without", rows.iter().map(|row| us(pair(row, |pair| pair.without_ns))));
        let mega = |rate: Option<f64>| decimals(rate.map(|rate| rate / 1e6), 2);
        table.column("M msg/s", rows.iter().map(|row| mega(row.messages_per_second)));
        table.column("M/s without", rows.iter().map(|row| mega(pair(row, |pair| pair.without_per_second))));
        table.column("x time", rows.iter().map(|row| decimals(pair(row, |pair| Some(pair.times)), 2)));
        format!(
            "\n{}\nx time  what each takes over what it takes without, the median of the rounds\n",
            table.text()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{Extent, PAIRS, Safety, SafetyRow, Survey};
    use crate::{record::Row, spec::TransportId};

    #[test]
    fn each_pair_is_measured_and_what_has_none_is_said() {
        let all = Safety::of(Extent::Smoke);
        assert_eq!(all.steps().len(), PAIRS.len() + 1);
        let some = Safety { named: vec![TransportId::ShmSealed, TransportId::Mq], ..all };
        assert_eq!(some.steps().len(), 1);
        assert_eq!(some.left_out(), ["mq has nothing beside it that is the same without safety"]);
    }

    #[test]
    fn what_it_costs_is_a_factor_of_time() {
        let safety = SafetyRow {
            buys: "trust".into(),
            without: "shm:spsc".into(),
            without_ns: Some(150.0),
            without_per_second: None,
            times: 1.234,
        };
        let row = Row {
            transport: "shm:sealed".into(),
            p50_ns: Some(185.0),
            safety: Some(safety),
            ..Row::default()
        };
        let text = Safety::of(Extent::Smoke).text(&[row]);
        assert!(text.contains("shm:sealed") && text.contains("1.23"), "{text}");
    }
}
