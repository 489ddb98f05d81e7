//! Experiments that have no floor to be a ratio of: each of their steps yields some rows, and
//! each says in its own words what they mean.

use super::{
    experiment::{Extent, bar},
    idle::Idle,
    lifetimes::Lifetimes,
    load::Load,
    safety::Safety,
    scale::Scale,
};
use crate::{
    cli::Common,
    machine::{Machine, Unfit},
    record::{Keeper, Row},
    rig::team::Rig,
    spec::{TransportId, Waiting},
    trouble::{Trouble, code, print},
};
use indicatif::ProgressBar;
use std::{process::ExitCode, time::Duration};

/// An experiment.
pub(crate) trait Survey {
    /// As the command is called.
    fn name(&self) -> &'static str;

    /// What is measured, for people.
    fn heading(&self) -> String;

    /// What is measured one after the other.
    fn steps(&self) -> Vec<Step<'_>>;

    /// What was asked for that can't be measured, and why.
    fn left_out(&self) -> Vec<String>;

    /// The tables, and what is in them.
    fn text(&self, rows: &[Row]) -> String;
}

/// What takes place between the same processes.
pub(crate) struct Step<'a> {
    pub(crate) label: String,
    /// How many near and far processes.
    pub(crate) sides: [usize; 2],
    pub(crate) measure: Measuring<'a>,
}

/// Yields rows, or why not.
type Measuring<'a> = Box<dyn Fn(&mut Rig, &Machine) -> Result<Vec<Row>, Trouble> + 'a>;

/// All of them, at this extent.
pub(crate) fn all(extent: Extent) -> Vec<Box<dyn Survey>> {
    vec![
        Box::new(Lifetimes::of(extent)),
        Box::new(Load::of(extent)),
        Box::new(Idle::of(extent)),
        Box::new(Scale::of(extent)),
        Box::new(Safety::of(extent)),
    ]
}

/// Measures one, and reports it.
pub(crate) fn run(survey: &dyn Survey, common: &Common, unfit: Unfit) -> ExitCode {
    code(try_run(survey, common, unfit))
}

fn try_run(survey: &dyn Survey, common: &Common, unfit: Unfit) -> Result<ExitCode, Trouble> {
    let left_out = survey.left_out();
    if survey.steps().is_empty() {
        eprintln!("ipc-bench: nothing is left to measure: {}", left_out.join("; "));
        return Ok(ExitCode::from(2));
    }
    let machine = Machine::observe(unfit)?;
    let mut rig = Rig::new(machine.pinned.clone(), Duration::from_secs(common.watchdog_s))?;
    let bar = bar(survey.steps().len());
    match common.json {
        true => eprintln!("{}\n{machine}", survey.heading()),
        false => print(&format!("{}\n{machine}", survey.heading()))?,
    }
    let mut session =
        Session { rig: &mut rig, machine: &machine, json: common.json, bar: bar.clone(), keeper: None };
    let is_well = session.measure(survey)?;
    bar.finish_and_clear();
    for what in left_out {
        eprintln!("ipc-bench: left out: {what}");
    }
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// How ends of a transport wait that aren't told how to.
pub(super) fn by_itself(transport: TransportId) -> Waiting {
    let can_spin_and_sleep = transport.traits().waits.contains(&Waiting::Adaptive);
    if can_spin_and_sleep { Waiting::Adaptive } else { Waiting::Block }
}

/// Why nothing is measured of a transport that has none of the ways of waiting that were asked for.
pub(super) fn waits_only_by(transport: TransportId) -> String {
    let names: Vec<_> = transport.traits().waits.iter().map(|wait| wait.name()).collect();
    format!("{transport} waits by {} only", names.join(", "))
}

/// What is needed to measure one survey after the other.
pub(super) struct Session<'a> {
    pub(super) rig: &'a mut Rig,
    pub(super) machine: &'a Machine,
    pub(super) json: bool,
    pub(super) bar: ProgressBar,
    pub(super) keeper: Option<&'a mut Keeper>,
}

impl Session<'_> {
    /// Measures it, and says what came of it. A step that fails is said, and the next one is
    /// measured. Returns whether none has failed.
    ///
    /// # Errors
    ///
    /// What ends the whole run; what was measured until then is said, too.
    pub(super) fn measure(&mut self, survey: &dyn Survey) -> Result<bool, Trouble> {
        let (mut rows, mut is_well) = (Vec::new(), true);
        let mut ended = Ok(());
        for step in survey.steps() {
            self.bar.set_message(format!("{} {}", survey.name(), step.label));
            self.bar.tick();
            let machine = self.machine.with(step.sides);
            self.rig.pin(machine.pinned.clone());
            let stolen = machine.stolen();
            match (step.measure)(self.rig, &machine) {
                Ok(its) => {
                    let stolen_share = Some(stolen.share());
                    for row in its {
                        let row = Row { warnings: machine.warnings().to_vec(), stolen_share, ..row };
                        self.take(&row)?;
                        rows.push(row);
                    }
                }
                Err(Trouble::Failed(why)) => {
                    is_well = false;
                    let what = format!("{} {}", survey.name(), step.label);
                    self.bar.suspend(|| eprintln!("ipc-bench: failed: {what}: {why}"));
                    let kept = self.keeper.as_mut().map(|keeper| keeper.failed(&what, &why));
                    kept.unwrap_or(Ok(())).map_err(Trouble::Failed)?;
                }
                Err(other) => {
                    ended = Err(other);
                    break;
                }
            }
            self.bar.inc(1);
            if let Err(other) = self.rig.check() {
                ended = Err(other);
                break;
            }
        }
        if !self.json {
            self.bar.suspend(|| print(&survey.text(&rows)))?;
        }
        ended.map(|()| is_well)
    }

    /// Keeps a row; as JSON it is out at once.
    fn take(&mut self, row: &Row) -> Result<(), Trouble> {
        let kept = self.keeper.as_mut().map(|keeper| keeper.row(row.clone()));
        kept.unwrap_or(Ok(())).map_err(Trouble::Failed)?;
        if self.json {
            let line = serde_json::to_string(row)?;
            self.bar.suspend(|| print(&line))?;
        }
        Ok(())
    }
}
