//! An experiment from the command line to the report: which blocks, each one's rounds, and
//! what they amount to.

use crate::{
    cli::Options,
    latency,
    link::{Job, Outcome},
    machine::Machine,
    report::{Report, Row},
    rig::{Pair, Rig, Trouble},
    rounds::{Course, Series, interleave},
    stats::{iterations_for, median},
    transports::{LaneSpec, TransportId, Waiting},
};
use hdrhistogram::Histogram;
use std::process::ExitCode;

/// A question, and how the two processes answer it.
#[derive(Debug)]
pub(crate) struct Experiment {
    pub(crate) name: &'static str,
    /// What the near process does.
    pub(crate) near: Job,
    /// What the far process does.
    pub(crate) far: Job,
    /// Whether the fixed ring is measured in the same rounds as each transport: where
    /// there is no going back and forth, it is the floor.
    pub(crate) against_ring: bool,
}

/// One line of the report: a transport, a length, a way of waiting.
#[derive(Clone, Copy, Debug)]
struct Block {
    transport: TransportId,
    waiting: Waiting,
    message_len_bytes: usize,
}

/// How long things are measured.
#[derive(Clone, Copy, Debug)]
struct Pace {
    rounds: usize,
    /// How many rounds of a block may be measured again.
    spare_rounds: usize,
    floor_ns: u64,
    subject_ns: u64,
    opponent_ns: u64,
}

impl Pace {
    const DEFAULT: Self = Self {
        rounds: 7,
        spare_rounds: 7,
        floor_ns: 25_000_000,
        subject_ns: 80_000_000,
        opponent_ns: 50_000_000,
    };
    const QUICK: Self =
        Self { rounds: 3, spare_rounds: 1, floor_ns: 500_000, subject_ns: 1_000_000, opponent_ns: 1_000_000 };
}

impl Experiment {
    /// Measures what `options` ask for and reports it.
    pub(crate) fn run(&self, options: &Options) -> ExitCode {
        match self.try_run(options) {
            Ok(code) => code,
            Err(Trouble::Interrupted(signal)) => {
                eprintln!("ipc-bench: interrupted ({signal})");
                ExitCode::from(128 + signal as u8)
            }
            Err(Trouble::ReaderGone) => ExitCode::SUCCESS,
            Err(Trouble::Failed(why)) => {
                eprintln!("ipc-bench: {why}");
                ExitCode::FAILURE
            }
        }
    }

    fn try_run(&self, options: &Options) -> Result<ExitCode, Trouble> {
        let machine = Machine::observe().map_err(|error| Trouble::Failed(error.to_string()))?;
        let mut rig = Rig::new(machine.pinned, options.watchdog())?;
        let (blocks, left_out) = self.plan(options);
        if blocks.is_empty() {
            eprintln!("ipc-bench: nothing is left to measure: {}", left_out.join("; "));
            return Ok(ExitCode::from(2));
        }
        let mut report = Report::begin(self.name, options.json, &machine, options.touch())?;
        left_out.into_iter().for_each(|why| report.note(why));
        let pace = if options.quick { Pace::QUICK } else { Pace::DEFAULT };
        for (index, block) in blocks.iter().enumerate() {
            let label = block.label();
            report.progress(index, blocks.len(), &label);
            let row = self.measure(&mut rig, block, options, pace, machine.clock_cost_ns());
            match row {
                Ok(row) => report.add(row)?,
                Err(Trouble::Failed(why)) => report.failed(&format!("{label}: {why}")),
                Err(interrupted) => {
                    report.end()?;
                    return Err(interrupted);
                }
            }
        }
        Ok(if report.end()? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// What to measure, and why something that was asked for isn't.
    fn plan(&self, options: &Options) -> (Vec<Block>, Vec<String>) {
        let (mut blocks, mut left_out) = (Vec::new(), Vec::new());
        let waits = options.waits();
        for transport in options.transports() {
            let its_waits = transport.traits().waits;
            let names =
                |waits: &[Waiting]| waits.iter().map(|wait| wait.name()).collect::<Vec<_>>().join(", ");
            if !(transport.traits().streams || self.near == Job::Ping) {
                left_out.push(format!("{transport} has no {}: it carries one message at a time", self.name));
                continue;
            }
            if !its_waits.iter().any(|wait| waits.contains(wait)) {
                let (can, asked) = (names(its_waits), names(&waits));
                left_out.push(format!("{transport} waits by {can} only, not by {asked}"));
                continue;
            }
            for message_len_bytes in options.sizes_bytes() {
                if let Some(why) = transport.refuses(message_len_bytes) {
                    left_out.push(format!("{transport} with {message_len_bytes} bytes: {why}"));
                    continue;
                }
                for &waiting in its_waits.iter().filter(|wait| waits.contains(wait)) {
                    blocks.push(Block { transport, waiting, message_len_bytes });
                }
            }
        }
        (blocks, left_out)
    }

    fn measure(
        &self,
        rig: &mut Rig,
        block: &Block,
        options: &Options,
        pace: Pace,
        clock_ns: f64,
    ) -> Result<Row, Trouble> {
        let opponents = block.transport.opponents(self);
        let opponents_wait = opponents.iter().map(|opponent| (*opponent, opponent.traits().waits[0]));
        let lanes = [(TransportId::CacheLine, Waiting::Spin), (block.transport, block.waiting)]
            .into_iter()
            .chain(opponents_wait)
            .enumerate()
            .map(|(index, (transport, waiting))| LaneSpec {
                transport,
                waiting,
                message_len_bytes: block.message_len_bytes,
                touch: options.touch(),
                tag: index.to_string(),
                region: None,
            })
            .collect();
        let pair = rig.start(lanes)?;
        let mut running = Running { experiment: self, pair, pace, counts: vec![0; 2 + opponents.len()] };
        running.calibrate()?;
        let series = interleave(&mut running, pace.rounds, pace.spare_rounds)?;
        let row = self.evaluate(block, &opponents, &series);
        Ok(Row { touched: options.touch(), clock_ns: Some(clock_ns), ..row })
    }

    /// What the rounds amount to. `measured` holds the subject's run, then the opponents'.
    fn evaluate(&self, block: &Block, opponents: &[TransportId], series: &Series<Vec<Run>>) -> Row {
        let round_trips = self.near == Job::Ping;
        let of_subject = |figure: fn(&Run) -> f64| {
            median(series.rounds.iter().map(|round| figure(&round.measured[0]))).unwrap_or(f64::NAN)
        };
        let against = |transport: TransportId| {
            let index = 1 + opponents.iter().position(|&opponent| opponent == transport)?;
            let figure = if round_trips { Run::p50_ns } else { Run::messages_per_second };
            let ratio = |runs: &Vec<Run>| figure(&runs[0]) / figure(&runs[index]);
            median(series.rounds.iter().map(|round| ratio(&round.measured)))
        };
        let own_ring = (block.transport == TransportId::FixedRing && !round_trips).then_some(1.0);
        let fixed_ring_ratio = against(TransportId::FixedRing).or(own_ring);
        let to_floor = series.rounds.iter().map(|round| round.measured[0].p50_ns() / round.floor_ns);
        let all = latency::merge(series.rounds.iter().map(|round| &round.measured[0].latencies_ns));
        let quantile = |quantile: f64| round_trips.then(|| all.value_at_quantile(quantile));
        let (cpu_ns, messages) = series.rounds.iter().fold((0, 0), |(cpu_ns, messages), round| {
            (cpu_ns + round.measured[0].cpu_ns, messages + round.measured[0].messages)
        });
        let messages_per_second = (!round_trips).then(|| of_subject(Run::messages_per_second));
        Row {
            experiment: self.name,
            transport: block.transport.name(),
            wait: block.waiting.name(),
            message_len_bytes: block.message_len_bytes,
            p50_ns: quantile(0.5),
            p99_ns: quantile(0.99),
            p999_ns: quantile(0.999),
            max_ns: quantile(1.0),
            floor_ns: median(series.rounds.iter().map(|round| round.floor_ns)),
            floor_ratio: if round_trips { median(to_floor) } else { fixed_ring_ratio },
            messages_per_second,
            bytes_per_second: messages_per_second.map(|rate| rate * block.message_len_bytes as f64),
            cpu_ns_per_message: Some(cpu_ns as f64 / messages as f64),
            fixed_ring_ratio,
            raw_ratio: against(TransportId::RawMq),
            rounds: series.rounds.len(),
            remeasured: series.remeasured,
            unsettled: series.unsettled,
            ..Row::default()
        }
    }
}

impl Block {
    fn label(&self) -> String {
        format!("{}, {} bytes, {}", self.transport, self.message_len_bytes, self.waiting.name())
    }
}

/// One run of one lane, as both processes saw it.
#[derive(Debug)]
struct Run {
    /// Messages; a round trip is two.
    messages: u64,
    elapsed_ns: u64,
    cpu_ns: u64,
    latencies_ns: Histogram<u64>,
}

impl Run {
    fn new(near: &Outcome, far: &Outcome, messages: u64) -> Result<Self, Trouble> {
        let mut latencies_ns = latency::histogram();
        for &(value_ns, count) in &near.latencies_ns {
            latencies_ns.record_n(value_ns, count)?;
        }
        Ok(Self {
            messages,
            elapsed_ns: near.ended_ns.max(far.ended_ns).saturating_sub(near.started_ns).max(1),
            cpu_ns: near.cpu_ns + far.cpu_ns,
            latencies_ns,
        })
    }

    fn p50_ns(&self) -> f64 {
        self.latencies_ns.value_at_quantile(0.5) as f64
    }

    fn messages_per_second(&self) -> f64 {
        self.messages as f64 * 1e9 / self.elapsed_ns as f64
    }
}

/// A block under way. Its lanes: the cache line, the subject, then the opponents.
struct Running<'a> {
    experiment: &'a Experiment,
    pair: Pair<'a>,
    pace: Pace,
    /// For each lane, how many iterations last as long as they should.
    counts: Vec<u64>,
}

/// The lane of the cache line.
const FLOOR: usize = 0;

/// The most iterations of a run: their samples are 16 MiB then.
const MOST_ITERATIONS: u64 = 4 << 20;

impl Running<'_> {
    fn target_ns(&self, lane: usize) -> u64 {
        match lane {
            FLOOR => self.pace.floor_ns,
            1 => self.pace.subject_ns,
            _ => self.pace.opponent_ns,
        }
    }

    /// Finds how fast each lane is, with ever more iterations. Warms everything up, too.
    fn calibrate(&mut self) -> Result<(), Trouble> {
        for lane in 0..self.counts.len() {
            self.counts[lane] = 16;
            loop {
                let tried = self.counts[lane];
                let run = self.run(lane)?;
                if run.elapsed_ns >= self.target_ns(lane) / 8 || tried >= MOST_ITERATIONS {
                    break;
                }
                // `run` has set what would be right; a first guess may be far off.
                self.counts[lane] = self.counts[lane].min(tried * 16);
            }
        }
        Ok(())
    }

    fn run(&mut self, lane: usize) -> Result<Run, Trouble> {
        let count = self.counts[lane];
        let jobs = match lane {
            FLOOR => [Job::Ping, Job::Echo],
            _ => [self.experiment.near, self.experiment.far],
        };
        let [near, far] = self.pair.run(lane, jobs, count)?;
        let messages = if jobs[0] == Job::Ping { 2 * count } else { count };
        let run = Run::new(&near, &far, messages)?;
        self.counts[lane] = iterations_for(self.target_ns(lane), count, run.elapsed_ns, MOST_ITERATIONS);
        Ok(run)
    }
}

impl Course for Running<'_> {
    type Measured = Vec<Run>;
    type Error = Trouble;

    fn floor_ns(&mut self) -> Result<f64, Trouble> {
        Ok(self.run(FLOOR)?.p50_ns())
    }

    fn measure(&mut self) -> Result<Vec<Run>, Trouble> {
        (1..self.counts.len()).map(|lane| self.run(lane)).collect()
    }
}
