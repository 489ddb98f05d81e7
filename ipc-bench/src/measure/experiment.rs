//! An experiment from the plan to the report: each block's rounds, and what they amount to.

use super::{
    figures::{Figures, Run},
    plan::{Block, Contender, plan},
    report::{Report, Row},
    rounds::{Course, interleave},
};
use crate::{
    cli::Asked,
    machine::Machine,
    rig::team::{Rig, Team},
    spec::Experiment,
    stats::iterations_for,
    trouble::Trouble,
};
use std::process::ExitCode;

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

/// Measures what was asked for and reports it.
pub(crate) fn run(asked: &Asked) -> ExitCode {
    match try_run(asked) {
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

fn try_run(asked: &Asked) -> Result<ExitCode, Trouble> {
    let machine = Machine::observe([asked.senders, asked.receivers])
        .map_err(|error| Trouble::Failed(error.to_string()))?;
    let mut rig = Rig::new(machine.pinned.clone(), asked.watchdog)?;
    let (blocks, left_out) = plan(asked);
    if blocks.is_empty() {
        eprintln!("ipc-bench: nothing is left to measure: {}", left_out.join("; "));
        return Ok(ExitCode::from(2));
    }
    let mut report = Report::begin(asked, &machine)?;
    left_out.into_iter().for_each(|why| report.note(why));
    let pace = if asked.quick { Pace::QUICK } else { Pace::DEFAULT };
    for (index, block) in blocks.iter().enumerate() {
        let label = block.label();
        report.progress(index, blocks.len(), &label);
        match measure(&mut rig, asked.experiment, block, pace, &machine) {
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

fn measure(
    rig: &mut Rig,
    experiment: Experiment,
    block: &Block,
    pace: Pace,
    machine: &Machine,
) -> Result<Row, Trouble> {
    let team = rig.start(block.lanes())?;
    let contenders = block.contenders();
    let counts = vec![0; contenders.len()];
    let mut running = Running { team, contenders, pace, clocks_step_ns: machine.clock_step_ns(), counts };
    running.calibrate()?;
    let series = interleave(&mut running, pace.rounds, pace.spare_rounds)?;
    let figures = Figures {
        block,
        series: &series,
        clock_ns: machine.clock_cost_ns(),
        clocks_step_ns: machine.clock_step_ns(),
    };
    Ok(figures.row(experiment))
}

/// A block under way.
struct Running<'a> {
    team: Team<'a>,
    /// The floor, the subject, then the opponents.
    contenders: Vec<Contender>,
    pace: Pace,
    clocks_step_ns: f64,
    /// For each contender, how many iterations last as long as they should.
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
        let (count, contender) = (self.counts[lane], &self.contenders[lane]);
        let outcomes = self.team.run(lane, contender.jobs, count)?;
        let run = Run::new(contender, &outcomes.0, count, self.clocks_step_ns)?;
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
