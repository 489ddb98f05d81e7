//! An experiment from the plan to the report: each block's rounds, and what they amount to.

use super::{
    figures::Figures,
    plan::{Block, Contender, plan},
    report::Report,
    rounds::{Course, Series, interleave},
    run::Run,
    survey::{self, Survey},
};
use crate::{
    cli::Asked,
    machine::{Machine, Unfit},
    record::{Head, Keeper, Row},
    rig::team::{Rig, Team},
    spec::{Experiment, LaneSpec, Layer, Waiting},
    stats::iterations_for,
    trouble::{Trouble, code, print},
};
use indicatif::{ProgressBar, ProgressStyle};
use std::{path::PathBuf, process::ExitCode};

/// How long things are measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) rounds: usize,
    /// How many rounds of a block may be measured again.
    pub(super) spare_rounds: usize,
    pub(super) floor_ns: u64,
    pub(super) subject_ns: u64,
    pub(super) opponent_ns: u64,
}

impl Pace {
    pub(super) const DEFAULT: Self = Self {
        rounds: 7,
        spare_rounds: 7,
        floor_ns: 25_000_000,
        subject_ns: 80_000_000,
        opponent_ns: 50_000_000,
    };
    /// Too short to mean anything.
    pub(super) const SMOKE: Self =
        Self { rounds: 3, spare_rounds: 1, floor_ns: 500_000, subject_ns: 1_000_000, opponent_ns: 1_000_000 };
    /// Many short rounds: what counts is the median of differences between neighbours.
    pub(super) const SELF_TEST: Self = Self {
        rounds: 15,
        spare_rounds: 30,
        floor_ns: 4_000_000,
        subject_ns: 15_000_000,
        opponent_ns: 60_000_000,
    };
    /// All experiments within three minutes.
    const QUICK: Self = Self {
        rounds: 5,
        spare_rounds: 3,
        floor_ns: 4_000_000,
        subject_ns: 15_000_000,
        opponent_ns: 10_000_000,
    };

    fn of(asked: &Asked) -> Self {
        if asked.quick { Self::SMOKE } else { Self::DEFAULT }
    }
}

/// How much of all there is to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Too little to mean anything: for testing the rig.
    Smoke,
    Quick,
    Full,
}

impl Extent {
    fn name(self) -> &'static str {
        match self {
            Self::Smoke => "smoke",
            Self::Quick => "quick",
            Self::Full => "full",
        }
    }

    pub(super) fn pace(self) -> Pace {
        match self {
            Self::Smoke => Pace::SMOKE,
            Self::Quick => Pace::QUICK,
            Self::Full => Pace::DEFAULT,
        }
    }
}

/// Measures what was asked for and reports it.
pub(crate) fn run(asked: &Asked, unfit: Unfit) -> ExitCode {
    code(try_run(asked, None, unfit))
}

/// The same with a survey that belongs to it.
pub(crate) fn run_with(asked: &Asked, survey: &dyn Survey, unfit: Unfit) -> ExitCode {
    code(try_run(asked, Some(survey), unfit))
}

/// Measures all that was asked for, one experiment after the other, reports it, and keeps it in
/// a file, whose path is said.
pub(crate) fn run_all(all: &[Asked], extent: Extent, keep: PathBuf, unfit: Unfit) -> ExitCode {
    code(try_run_all(all, extent, keep, unfit))
}

fn try_run(asked: &Asked, survey: Option<&dyn Survey>, unfit: Unfit) -> Result<ExitCode, Trouble> {
    let (blocks, left_out) = plan(asked);
    let steps = survey.map_or(0, |survey| survey.steps().len());
    if blocks.len() + steps == 0 {
        eprintln!("ipc-bench: nothing is left to measure: {}", left_out.join("; "));
        return Ok(ExitCode::from(2));
    }
    let machine = Machine::observe(unfit)?.with([asked.senders, asked.receivers]);
    let mut rig = Rig::new(machine.pinned.clone(), asked.watchdog)?;
    let mut report = Report::begin(asked, Some(&machine), bar(blocks.len() + steps))?;
    left_out.into_iter().for_each(|why| report.note(why));
    let mut session = Session { rig: &mut rig, machine: &machine, pace: Pace::of(asked), keeper: None };
    let ended = session.measure_all(asked.experiment, &blocks, &mut report);
    let bar = report.bar().clone();
    let mut is_well = report.end()?;
    ended?;
    if let Some(survey) = survey.filter(|_| steps > 0) {
        is_well &= run_survey(survey, asked.json, &machine, &mut rig, None, &bar)?;
    }
    bar.finish_and_clear();
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn try_run_all(all: &[Asked], extent: Extent, keep: PathBuf, unfit: Unfit) -> Result<ExitCode, Trouble> {
    let Some(first) = all.first() else { return Ok(ExitCode::from(2)) };
    let machine = Machine::observe(unfit)?;
    let mut rig = Rig::new(machine.pinned.clone(), first.watchdog)?;
    let surveys = survey::all(extent);
    let plans: Vec<_> = all.iter().map(Plan::of).collect();
    let head = Head::now(extent.name(), machine.lines(), machine.warnings().to_vec());
    let head = Head { left_out: left_out(&plans, &surveys), ..head };
    let mut keeper = Keeper::new(keep, head).map_err(Trouble::Failed)?;
    let steps: usize = surveys.iter().map(|survey| survey.steps().len()).sum();
    let bar = bar(steps + plans.iter().map(|plan| plan.blocks.len()).sum::<usize>());
    let mut is_well = true;
    for (index, Plan { asked, blocks, left_out }) in plans.into_iter().enumerate() {
        let machine = machine.with([asked.senders, asked.receivers]);
        rig.pin(machine.pinned.clone());
        let mut report = Report::begin(asked, (index == 0).then_some(&machine), bar.clone())?;
        left_out.into_iter().for_each(|why| report.note(why));
        let pace = extent.pace();
        let mut session = Session { rig: &mut rig, machine: &machine, pace, keeper: Some(&mut keeper) };
        let ended = session.measure_all(asked.experiment, &blocks, &mut report);
        is_well &= report.end()?;
        if ended.is_err() {
            eprintln!("ipc-bench: {}", keeper.whereabouts());
        }
        ended?;
    }
    for survey in surveys {
        is_well &= run_survey(&*survey, first.json, &machine, &mut rig, Some(&mut keeper), &bar)?;
    }
    keeper.end().map_err(Trouble::Failed)?;
    bar.finish_and_clear();
    eprintln!("ipc-bench: {}", keeper.whereabouts());
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What was asked for, and what comes of it.
struct Plan<'a> {
    asked: &'a Asked,
    blocks: Vec<Block>,
    left_out: Vec<String>,
}

impl<'a> Plan<'a> {
    fn of(asked: &'a Asked) -> Self {
        let (blocks, left_out) = plan(asked);
        Self { asked, blocks, left_out }
    }
}

/// What a run of everything leaves out, each with the experiment that it isn't in.
fn left_out(plans: &[Plan], surveys: &[Box<dyn Survey>]) -> Vec<String> {
    let planned = plans.iter().map(|plan| (plan.asked.experiment.name(), plan.left_out.clone()));
    let surveyed = surveys.iter().map(|survey| (survey.name(), survey.left_out()));
    let each = |(name, left_out): (&str, Vec<String>)| {
        left_out.into_iter().map(|why| format!("{name}: {why}")).collect::<Vec<_>>()
    };
    planned.chain(surveyed).flat_map(each).collect()
}

/// Measures one that has no blocks, and returns whether all went well.
fn run_survey(
    survey: &dyn Survey,
    json: bool,
    machine: &Machine,
    rig: &mut Rig,
    mut keeper: Option<&mut Keeper>,
    bar: &ProgressBar,
) -> Result<bool, Trouble> {
    let heading = survey.heading();
    match json {
        true => bar.suspend(|| eprintln!("{heading}")),
        false => bar.suspend(|| print(&heading))?,
    }
    let mut session = survey::Session { rig, machine, json, bar: bar.clone(), keeper: keeper.as_deref_mut() };
    let ended = session.measure(survey);
    for what in survey.left_out() {
        bar.suspend(|| eprintln!("ipc-bench: left out: {what}"));
    }
    if let (Err(_), Some(keeper)) = (&ended, keeper) {
        eprintln!("ipc-bench: {}", keeper.whereabouts());
    }
    ended
}

/// What shows on a terminal how far it is, and how long it will take.
pub(super) fn bar(blocks: usize) -> ProgressBar {
    const SHOWN: &str = "[{pos}/{len}, {eta} left] {wide_msg}";
    let style = ProgressStyle::with_template(SHOWN).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(blocks as u64).with_style(style)
}

/// What is needed to measure a block after the other.
struct Session<'a> {
    rig: &'a mut Rig,
    machine: &'a Machine,
    pace: Pace,
    keeper: Option<&'a mut Keeper>,
}

impl Session<'_> {
    /// A block that fails is said, and the next one is measured.
    ///
    /// # Errors
    ///
    /// What ends the whole run.
    fn measure_all(
        &mut self,
        experiment: Experiment,
        blocks: &[Block],
        report: &mut Report,
    ) -> Result<(), Trouble> {
        for block in blocks {
            let label = block.label();
            report.progress(&label);
            let stolen = self.machine.stolen();
            let kept = match measure(self.rig, experiment, block, self.pace, self.machine) {
                Ok(row) => {
                    let row = Row {
                        warnings: self.machine.warnings().to_vec(),
                        stolen_share: Some(stolen.share()),
                        ..row
                    };
                    let kept = self.keeper.as_mut().map(|keeper| keeper.row(row.clone()));
                    report.add(row)?;
                    kept
                }
                Err(Trouble::Failed(why)) => {
                    report.failed(&format!("{label}: {why}"));
                    let what = format!("{} {label}", experiment.name());
                    self.keeper.as_mut().map(|keeper| keeper.failed(&what, &why))
                }
                Err(interrupted) => return Err(interrupted),
            };
            kept.unwrap_or(Ok(())).map_err(Trouble::Failed)?;
        }
        Ok(())
    }
}

fn measure(
    rig: &mut Rig,
    experiment: Experiment,
    block: &Block,
    pace: Pace,
    machine: &Machine,
) -> Result<Row, Trouble> {
    let series = measure_together(rig, block.contenders(), pace, machine)?;
    let figures = Figures {
        block,
        series: &series,
        clock_ns: machine.clock_cost_ns(),
        clocks_step_ns: machine.clock_step_ns(),
    };
    Ok(figures.row(experiment))
}

/// Measures contenders in the same rounds; the first one is the floor, and isn't among the
/// runs of a round.
pub(super) fn measure_together(
    rig: &mut Rig,
    contenders: Vec<Contender>,
    pace: Pace,
    machine: &Machine,
) -> Result<Series<Vec<Run>>, Trouble> {
    interleave(&mut Running::start(rig, contenders, pace, machine)?, pace.rounds, pace.spare_rounds)
}

/// Their lanes, in the same order.
pub(super) fn tagged(contenders: &[Contender]) -> Vec<LaneSpec> {
    let tagged = |(index, contender): (usize, &Contender)| LaneSpec {
        tag: index.to_string(),
        ..contender.lane.clone()
    };
    contenders.iter().enumerate().map(tagged).collect()
}

/// A block under way.
pub(super) struct Running<'a> {
    team: Team<'a>,
    /// The floor, the subject, then the opponents.
    contenders: Vec<Contender>,
    pace: Pace,
    clocks_step_ns: f64,
    /// How many there are for them.
    processors: usize,
    /// For each contender, how many iterations last as long as they should.
    counts: Vec<u64>,
}

/// For what share of its time a process that polls may be without its processor and mean nothing.
const MAY_BE_AWAY: f64 = 0.05;

/// The lane of the cache line.
const FLOOR: usize = 0;

/// The most iterations of a run: their samples are 16 MiB then.
const MOST_ITERATIONS: u64 = 4 << 20;

impl<'a> Running<'a> {
    /// Starts the processes of contenders, the first one of which is the floor, and finds how fast
    /// each of them is.
    pub(super) fn start(
        rig: &'a mut Rig,
        contenders: Vec<Contender>,
        pace: Pace,
        machine: &Machine,
    ) -> Result<Self, Trouble> {
        let team = rig.start(tagged(&contenders))?;
        let counts = vec![0; contenders.len()];
        let (clocks_step_ns, processors) = (machine.clock_step_ns(), machine.processors());
        let mut running = Self { team, contenders, pace, clocks_step_ns, processors, counts };
        running.calibrate()?;
        Ok(running)
    }

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
            self.counts[lane] = self.contenders[lane].first_count();
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

    /// Whether a process that polls was without its processor for longer than means nothing. Those that
    /// share one are so by turns, and who has a long delay to wait for sleeps.
    pub(super) fn is_displaced(&self, lane: usize, run: &Run) -> bool {
        let LaneSpec { waiting, layer, shape, .. } = &self.contenders[lane].lane;
        let has_its_own = shape.sides().iter().sum::<usize>() <= self.processors;
        *waiting == Waiting::Spin && *layer == Layer::None && has_its_own && run.away_share > MAY_BE_AWAY
    }

    pub(super) fn run(&mut self, lane: usize) -> Result<Run, Trouble> {
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

    fn was_displaced(&self, runs: &Vec<Run>) -> bool {
        runs.iter().enumerate().any(|(index, run)| self.is_displaced(1 + index, run))
    }

    fn times_ns(&self, runs: &Vec<Run>) -> Vec<f64> {
        runs.iter().map(Run::each_ns).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Extent, Plan, left_out};
    use crate::{
        cli::Asked,
        spec::{Experiment, TransportId},
    };

    #[test]
    fn what_is_left_out_of_a_run_of_everything_is_said_with_what_it_is_left_out_of() {
        let asked = Asked {
            experiment: Experiment::Latest,
            transports: vec![TransportId::ShmLatest],
            sizes_bytes: vec![7, 8],
            ..Asked::all(Extent::Smoke, false).remove(0)
        };
        let expected = "latest: shm:latest with 7 bytes: values are known by numbers of 8 bytes";
        assert_eq!(left_out(&[Plan::of(&asked)], &[]), [expected]);
    }
}
