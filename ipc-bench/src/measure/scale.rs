//! `ipc-bench scale`: what more processes make of it. Senders and receivers on one channel, and
//! workers that keep accounts together: under one lock, or each a part, with queues between
//! them. There may be more processes than processors; that is said of each figure.

use super::{
    experiment::{Extent, Pace, measure_together},
    figures::Figures,
    plan::{Against, Block, Contender},
    rounds::Series,
    run::Run,
    survey::{Step, Survey, by_itself},
    table::{Table, decimals, ratio},
};
use crate::{
    cli::{Common, or_default},
    machine::Machine,
    record::{Row, Scale as ScaleRow},
    rig::team::Rig,
    spec::{Design, Experiment, Job, LaneSpec, Shape, TransportId, Waiting},
    stats::{median, quartiles},
    trouble::Trouble,
};
use clap::{Args, value_parser};

/// How many processes take part at most.
const MOST: u8 = 8;

/// Senders and receivers.
const CROWDS: &[[usize; 2]] = &[[1, 1], [1, 2], [2, 1], [2, 2], [3, 3], [4, 4], [1, 7], [7, 1]];
const WORKERS: &[usize] = &[1, 2, 3, 4, 5, 6, 7, 8];
const TRANSPORTS: &[TransportId] = &[TransportId::Mq, TransportId::Sysv, TransportId::ShmMpmc];

/// The ways in which workers are organised, the one that others are compared with first.
const DESIGNS: [(Design, &str, &str); 3] = [
    (Design::Locked, "sync:mutex", "one structure, locked"),
    (Design::Queues { batch: 1 }, "shm:spsc", "own parts, queues"),
    (Design::Queues { batch: BATCH }, "shm:spsc", "own parts, queues"),
];
const BATCH: usize = 64;

/// As it is asked for.
#[derive(Args, Clone, Debug)]
pub(crate) struct Asked {
    #[command(flatten)]
    pub(crate) common: Common,
    /// How many workers keep accounts together, separated by commas, 1 to 8 [default: 1 to 8]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = value_parser!(u8).range(1..=i64::from(MOST)))]
    workers: Vec<u8>,
}

impl Asked {
    pub(crate) fn survey(&self) -> Scale {
        let workers: Vec<usize> = self.workers.iter().copied().map(usize::from).collect();
        let is_named = !self.common.transport.is_empty();
        Scale {
            transports: or_default(&self.common.transport, TRANSPORTS),
            // Who asks for one of both only doesn't want the other one.
            crowds: if workers.is_empty() || is_named { CROWDS } else { &[] },
            workers: if workers.is_empty() && is_named { workers } else { or_default(&workers, WORKERS) },
            pace: if self.common.quick { Pace::SMOKE } else { Pace::DEFAULT },
        }
    }
}

/// What is to be measured.
#[derive(Clone, Debug)]
pub(crate) struct Scale {
    transports: Vec<TransportId>,
    crowds: &'static [[usize; 2]],
    workers: Vec<usize>,
    pace: Pace,
}

impl Scale {
    /// Its part of a run of everything.
    pub(super) fn of(extent: Extent) -> Self {
        let (transports, crowds, workers): (&[_], &[_], &[_]) = match extent {
            Extent::Smoke => (&[TransportId::ShmMpmc], &[[2, 1]], &[1, 2]),
            Extent::Quick => {
                (&[TransportId::Mq, TransportId::ShmMpmc], &[[1, 2], [2, 1], [4, 4]], &[1, 2, 4, 8])
            }
            Extent::Full => (TRANSPORTS, CROWDS, WORKERS),
        };
        Self { transports: transports.into(), crowds, workers: workers.into(), pace: extent.pace() }
    }
}

impl Survey for Scale {
    fn name(&self) -> &'static str {
        "scale"
    }

    fn heading(&self) -> String {
        "scale: more senders and receivers on one channel; workers that keep accounts together, by a lock\n       \
         or by queues"
            .into()
    }

    fn steps(&self) -> Vec<Step<'_>> {
        let crowd = |transport: TransportId, [senders, receivers]: [usize; 2]| Step {
            label: format!("{transport}, {senders} x {receivers}"),
            sides: [senders, receivers],
            measure: Box::new(move |rig, machine| {
                self.crowd(transport, [senders, receivers], rig, machine).map(|row| vec![row])
            }),
        };
        let workers = |count: usize| Step {
            label: format!("{count} workers"),
            // The floor takes one of each side.
            sides: [count.div_ceil(2), (count / 2).max(1)],
            measure: Box::new(move |rig, machine| self.workers(count, rig, machine)),
        };
        let crowding = self.transports.iter().filter(|transport| transport.traits().crowds);
        let crowds =
            crowding.flat_map(|&transport| self.crowds.iter().map(move |&sides| crowd(transport, sides)));
        crowds.chain(self.workers.iter().copied().map(workers)).collect()
    }

    fn left_out(&self) -> Vec<String> {
        let lonely = self.transports.iter().filter(|transport| !transport.traits().crowds);
        lonely.map(|transport| format!("{transport} is for one sender and one receiver")).collect()
    }

    fn text(&self, rows: &[Row]) -> String {
        let (workers, crowds): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|row| row.wait.is_none());
        let mut text = String::new();
        for waiting in Waiting::ALL {
            let its: Vec<_> =
                crowds.iter().copied().filter(|row| row.wait.as_deref() == Some(waiting.name())).collect();
            if !its.is_empty() {
                text += &format!("\nsenders x receivers, wait: {}\n{}", waiting.name(), crowd_table(&its));
            }
        }
        if !workers.is_empty() {
            text += &format!("\nworkers\n{}", worker_table(&workers));
        }
        text + "\n" + &legend(rows)
    }
}

fn crowd_table(rows: &[&Row]) -> String {
    let mut table = Table::new();
    table.column("transport", rows.iter().map(|row| Some(row.transport.to_string())));
    table.column("N x M", rows.iter().map(|row| Some(format!("{} x {}", row.senders, row.receivers))));
    table.column(
        "M msg/s",
        rows.iter().map(|row| decimals(row.messages_per_second.map(|rate| rate / 1e6), 3)),
    );
    table.column("x 1to1", rows.iter().map(|row| ratio(row.alone_ratio)));
    table.column("", rows.iter().map(|row| turns(row)));
    table.text()
}

fn worker_table(rows: &[&Row]) -> String {
    let mut table = Table::new();
    let of = |figure: fn(&ScaleRow) -> Option<f64>| rows.iter().map(move |row| figure(row.scale.as_ref()?));
    table.column(
        "workers",
        rows.iter().map(|row| row.scale.as_ref().map(|scale| scale.processes.to_string())),
    );
    table.column("how", rows.iter().map(|row| Some(how(row))));
    table.column(
        "M orders/s",
        rows.iter().map(|row| decimals(row.messages_per_second.map(|rate| rate / 1e6), 3)),
    );
    table.column("x locked", of(|scale| scale.locked_ratio).map(ratio));
    table.column("fetched", of(|scale| scale.transfers_per_order).map(|count| decimals(count, 2)));
    table.column("", rows.iter().map(|row| turns(row)));
    table.text()
}

/// How workers do it, in words.
fn how(row: &Row) -> String {
    let how = row.operation.as_deref().unwrap_or_default();
    if row.batch > 1 { format!("{how}, batches of {}", row.batch) } else { how.into() }
}

/// What is to be known of a figure.
fn turns(row: &Row) -> Option<String> {
    let scale = row.scale.as_ref()?;
    Some(if scale.is_oversubscribed() { format!("turns on {}", scale.processors) } else { String::new() })
}

/// What the columns mean; only those that are there.
fn legend(rows: &[Row]) -> String {
    let mut lines = Vec::new();
    if rows.iter().any(|row| row.alone_ratio.is_some()) {
        lines.push(
            "x 1to1    messages per second over those of one sender and one receiver, in the same rounds",
        );
    }
    let scales = || rows.iter().filter_map(|row| row.scale.as_ref());
    if scales().any(|scale| scale.locked_ratio.is_some()) {
        lines.push(
            "x locked  orders per second over those of as many workers with one lock, in the same rounds",
        );
    }
    if scales().any(|scale| scale.transfers_per_order.is_some()) {
        lines.push("fetched   lines that a processor fetched from another one's cache, for each order");
    }
    if scales().any(ScaleRow::is_oversubscribed) {
        lines.push(
            "turns     more processes than processors: what they do by turns says nothing of more of those",
        );
    }
    let why = scales().find_map(|scale| scale.uncounted.as_deref()).map(|why| {
        format!("fetched   what processors fetch from each other can't be counted on this machine:\n          {why}\n")
    });
    lines.iter().map(|line| format!("{line}\n")).collect::<String>() + &why.unwrap_or_default()
}

impl Scale {
    /// So many senders and receivers, beside one of each.
    fn crowd(
        &self,
        transport: TransportId,
        [senders, receivers]: [usize; 2],
        rig: &mut Rig,
        machine: &Machine,
    ) -> Result<Row, Trouble> {
        let of = |shape| {
            let Contender { lane, jobs } =
                Contender::new(transport, by_itself(transport), [Job::Stream, Job::Drain]);
            Contender { lane: LaneSpec { shape, ..lane }, jobs }
        };
        let subject = of(Shape::Crowd { senders, receivers });
        let alone = (senders + receivers > 2)
            .then(|| (Against::Alone, of(Shape::Crowd { senders: 1, receivers: 1 })));
        let block = Block { subject, opponents: alone.into_iter().collect() };
        let series = measure_together(rig, block.contenders(), self.pace, machine)?;
        let row = figures(&block, &series, machine);
        let scale = ScaleRow::of(senders + receivers, machine.processors());
        Ok(Row { scale: Some(scale), ..row })
    }

    /// So many workers, in each way, in the same rounds.
    fn workers(&self, count: usize, rig: &mut Rig, machine: &Machine) -> Result<Vec<Row>, Trouble> {
        let shape = Shape::Workers { near: count.div_ceil(2), far: count / 2 };
        let contenders: Vec<Contender> = DESIGNS
            .iter()
            .map(|&(design, ..)| {
                let jobs = [Job::Work(design); 2];
                let Contender { lane, jobs } = Contender::new(TransportId::ShmSpsc, Waiting::Adaptive, jobs);
                Contender { lane: LaneSpec { shape, ..lane }, jobs }
            })
            .collect();
        let all = [Contender::floor()].into_iter().chain(contenders.iter().cloned()).collect();
        let series = measure_together(rig, all, self.pace, machine)?;
        let rows = DESIGNS.iter().enumerate().map(|(index, &(design, transport, operation))| {
            let figures = WorkerFigures { count, index, series: &series, processors: machine.processors() };
            let batch = if let Design::Queues { batch } = design { batch } else { 1 };
            Row {
                transport: transport.into(),
                operation: Some(operation.into()),
                batch,
                clock_ns: Some(machine.clock_cost_ns()),
                ..figures.row()
            }
        });
        Ok(rows.collect())
    }
}

fn figures(block: &Block, series: &Series<Vec<Run>>, machine: &Machine) -> Row {
    let (clock_ns, clocks_step_ns) = (machine.clock_cost_ns(), machine.clock_step_ns());
    let row = Figures { block, series, clock_ns, clocks_step_ns }.row(Experiment::Throughput);
    Row { experiment: "scale".into(), ..row }
}

/// What the rounds of one of the designs amount to.
struct WorkerFigures<'a> {
    count: usize,
    /// Which one of the designs.
    index: usize,
    series: &'a Series<Vec<Run>>,
    processors: usize,
}

impl WorkerFigures<'_> {
    fn row(&self) -> Row {
        let runs = || self.series.rounds.iter().map(|round| &round.measured[self.index]);
        let over_locked = || {
            let rounds = self.series.rounds.iter();
            rounds.map(|round| {
                round.measured[self.index].messages_per_second() / round.measured[0].messages_per_second()
            })
        };
        let (mut orders, mut transfers) = (0, Ok(0));
        for run in runs() {
            orders += run.messages;
            transfers = match (transfers, run.transfers.clone()) {
                (Ok(sum), Some(Ok(count))) => Ok(sum + count),
                (Err(why), _) | (_, Some(Err(why))) => Err(why),
                (_, None) => Err("nobody has counted".into()),
            };
        }
        let is_other = self.index > 0;
        let scale = ScaleRow {
            are_workers: true,
            locked_ratio: median(over_locked()).filter(|_| is_other),
            transfers_per_order: transfers.as_ref().ok().map(|&sum: &u64| sum as f64 / orders as f64),
            uncounted: transfers.err(),
            ..ScaleRow::of(self.count, self.processors)
        };
        Row {
            experiment: "scale".into(),
            message_len_bytes: 8,
            messages_per_second: median(runs().map(Run::messages_per_second)),
            cpu_ns_per_message: Some(runs().map(|run| run.cpu_ns).sum::<u64>() as f64 / orders as f64),
            floor_ns: median(self.series.rounds.iter().map(|round| round.floor_ns)),
            rounds: self.series.rounds.len(),
            repeats: self.series.repeats,
            ratio_quartiles: quartiles(over_locked()).filter(|_| is_other),
            scale: Some(scale),
            ..Row::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Asked, DESIGNS, Design, Scale, WORKERS, WorkerFigures};
    use crate::{
        measure::{
            experiment::Extent,
            plan::Contender,
            rounds::{Round, Series},
            run::Run,
            survey::Survey,
        },
        record::{Repeats, Row, Scale as ScaleRow},
        spec::{Job, LaneSpec, Outcome, Shape, TransportId, Waiting},
    };
    use clap::{FromArgMatches, Parser};

    /// A run of two workers with 50 orders each.
    fn run(elapsed_ns: u64, transfers: Result<u64, String>) -> Run {
        let Contender { lane, jobs } =
            Contender::new(TransportId::ShmSpsc, Waiting::Adaptive, [Job::Work(Design::Locked); 2]);
        let shape = Shape::Workers { near: 1, far: 1 };
        let contender = Contender { lane: LaneSpec { shape, ..lane }, jobs };
        let of = |sum, messages| {
            let transfers = Some(transfers.clone());
            vec![Outcome { ended_ns: elapsed_ns, messages, sum, transfers, ..Outcome::default() }]
        };
        // What one did more than it had, the other one had more.
        Run::new(&contender, &[of(7, 60), of(7u64.wrapping_neg(), 40)], 50, 1.0).unwrap()
    }

    fn series(transfers: Result<u64, String>) -> Series<Vec<Run>> {
        let round = |slow: u64| Round {
            floor_ns: 100.0,
            measured: [4_000, 2_000, 1_000].map(|ns| run(ns * slow, transfers.clone())).into(),
        };
        Series { rounds: vec![round(1), round(10), round(1)], repeats: Repeats::default() }
    }

    fn row(index: usize, transfers: Result<u64, String>) -> Row {
        WorkerFigures { count: 2, index, series: &series(transfers), processors: 2 }.row()
    }

    #[test]
    fn designs_are_compared_with_the_lock_within_their_round() {
        let locked = row(0, Ok(25));
        assert_eq!(locked.messages_per_second, Some(25e6));
        assert_eq!(locked.scale.as_ref().unwrap().locked_ratio, None);
        let batches = row(2, Ok(25)).scale.unwrap();
        assert_eq!((batches.locked_ratio, batches.transfers_per_order), (Some(4.0), Some(0.5)));
        assert!(batches.are_workers && !batches.is_oversubscribed());
    }

    #[test]
    fn what_cant_be_counted_is_no_figure_but_a_reason() {
        let scale = row(1, Err("no such event".into())).scale.unwrap();
        assert_eq!((scale.transfers_per_order, scale.uncounted.as_deref()), (None, Some("no such event")));
        let text = Scale::of(Extent::Smoke).text(&[row(1, Err("no such event".into()))]);
        assert!(text.contains("can't be counted on this machine:\n          no such event"), "{text}");
    }

    #[test]
    fn an_order_that_nobody_did_is_no_figure() {
        let Contender { lane, jobs } =
            Contender::new(TransportId::ShmSpsc, Waiting::Adaptive, [Job::Work(Design::Locked); 2]);
        let contender =
            Contender { lane: LaneSpec { shape: Shape::Workers { near: 1, far: 0 }, ..lane }, jobs };
        for (messages, sum) in [(49, 0), (50, 3)] {
            let outcome = Outcome { messages, sum, ..Outcome::default() };
            let error = format!("{:?}", Run::new(&contender, &[vec![outcome], vec![]], 50, 1.0).unwrap_err());
            assert!(error.contains(&format!("of 50 orders {messages} were done")), "{error}");
        }
    }

    #[test]
    fn processes_that_take_turns_are_marked_and_tables_fit_100_columns() {
        let worker = |processes| Row {
            operation: Some(DESIGNS[2].2.into()),
            batch: 64,
            messages_per_second: Some(123.456e6),
            scale: Some(ScaleRow {
                are_workers: true,
                locked_ratio: Some(99.9),
                transfers_per_order: Some(12.34),
                ..ScaleRow::of(processes, 4)
            }),
            ..Row::default()
        };
        let crowd = Row {
            transport: "shm:mpmc".into(),
            wait: Some("adaptive".into()),
            alone_ratio: Some(0.5),
            senders: 7,
            receivers: 1,
            scale: Some(ScaleRow::of(8, 4)),
            ..Row::default()
        };
        let text = Scale::of(Extent::Smoke).text(&[worker(4), worker(5), crowd]);
        let marked: Vec<&str> = text.lines().filter(|line| line.ends_with("turns on 4")).collect();
        assert!(marked.len() == 2 && marked[0].contains("7 x 1") && marked[1].starts_with('5'), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        let alone = Scale::of(Extent::Smoke).text(&[worker(4)]);
        assert!(
            !alone.contains("x 1to1") && !alone.contains("turns") && alone.contains("fetched"),
            "{alone}"
        );
    }

    #[test]
    fn who_asks_for_workers_or_for_transports_gets_those() {
        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            asked: Asked,
        }
        let labels = |arguments: &[&str]| -> Vec<String> {
            let all = ["scale"].iter().chain(arguments);
            let matches = <Line as clap::CommandFactory>::command().try_get_matches_from(all).unwrap();
            let survey = Line::from_arg_matches(&matches).unwrap().asked.survey();
            survey.steps().into_iter().map(|step| step.label).collect()
        };
        assert_eq!(labels(&["--workers", "3,1"]), ["3 workers", "1 workers"]);
        assert!(labels(&["--transport", "sysv"]).iter().all(|label| label.starts_with("sysv, ")));
        let both = labels(&["--transport", "mq", "--workers", "2"]);
        assert!(both.contains(&"mq, 4 x 4".to_owned()) && both.contains(&"2 workers".to_owned()));
        let all = labels(&[]);
        assert_eq!(all.iter().filter(|label| label.ends_with("workers")).count(), WORKERS.len());
        assert!(all.contains(&"shm:mpmc, 7 x 1".to_owned()));
    }
}
