//! An experiment from the command line to the report: which blocks, each one's rounds, and
//! what they amount to.

use crate::{
    cli::Options,
    figures::{Figures, Run},
    link::Job,
    machine::Machine,
    report::{Report, Row},
    rig::{Pair, Rig, Trouble},
    rounds::{Course, interleave},
    stats::iterations_for,
    transports::{LaneSpec, TransportId, Waiting},
};
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
            let row = self.measure(&mut rig, block, options, pace, &machine);
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
        machine: &Machine,
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
        let mut running = Running {
            experiment: self,
            pair,
            pace,
            clocks_step_ns: machine.clock_step_ns(),
            counts: vec![0; 2 + opponents.len()],
        };
        running.calibrate()?;
        let series = interleave(&mut running, pace.rounds, pace.spare_rounds)?;
        let figures = Figures {
            series: &series,
            opponents: &opponents,
            clock_ns: machine.clock_cost_ns(),
            clocks_step_ns: machine.clock_step_ns(),
        };
        let row = Row {
            experiment: self.name,
            transport: block.transport.name(),
            wait: block.waiting.name(),
            message_len_bytes: block.message_len_bytes,
            touched: options.touch(),
            clock_ns: Some(machine.clock_cost_ns()),
            ..figures.common()
        };
        Ok(if self.near == Job::Ping {
            figures.round_trips(row)
        } else {
            figures.one_way(row, block.transport)
        })
    }
}

impl Block {
    fn label(&self) -> String {
        format!("{}, {} bytes, {}", self.transport, self.message_len_bytes, self.waiting.name())
    }
}

/// A block under way. Its lanes: the cache line, the subject, then the opponents.
struct Running<'a> {
    experiment: &'a Experiment,
    pair: Pair<'a>,
    pace: Pace,
    clocks_step_ns: f64,
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
        let run = Run::new(&near, &far, messages, self.clocks_step_ns)?;
        self.counts[lane] = iterations_for(self.target_ns(lane), count, run.elapsed_ns, MOST_ITERATIONS);
        Ok(run)
    }
}

impl Course for Running<'_> {
    type Measured = Vec<Run>;
    type Error = Trouble;

    fn floor_ns(&mut self) -> Result<f64, Trouble> {
        Ok(self.run(FLOOR)?.p50_ns)
    }

    fn measure(&mut self) -> Result<Vec<Run>, Trouble> {
        (1..self.counts.len()).map(|lane| self.run(lane)).collect()
    }
}
