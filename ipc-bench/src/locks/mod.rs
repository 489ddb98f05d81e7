//! `ipc-bench lock`: what it costs to share state: locks beside those that a program would use
//! instead, in the same rounds.
//!
//! A lock carries no messages, so this is no lane of a team: two processes, each on a
//! processor of its own, do one [`Job`] after the other for as long as they are told, each by
//! itself or both at once, over and over. What counts is the ratio of two jobs of one round,
//! and of those the median.

mod jobs;
mod pthread;
mod report;

use crate::{
    links::folder::{self, Folder},
    machine::{self, Machine, Unfit},
    rig::team::Rig,
    spec::{Member, Side},
    trouble::{Fallible, Trouble, code, print},
};
use jobs::{Bench, Job, Outcome};
use nix::sys::{prctl, signal::Signal};
use std::{
    io::Write,
    path::Path,
    process::{Child, ChildStdin, Command, ExitCode, Stdio},
    time::Duration,
};

/// Rounds, and for how long each job goes on in each.
const ROUNDS: u64 = 21;
const SLICE_MS: u64 = 40;

/// One round's outcomes of a job: the near process's, and the far one's if it took part.
type Round = (Outcome, Option<Outcome>);

/// Measures, and prints. It fails if no process was heard of for as long as the watchdog waits.
pub(crate) fn run(json: bool, quick: bool, watchdog: Duration, unfit: Unfit) -> ExitCode {
    code(try_run(json, quick, watchdog, unfit))
}

fn try_run(json: bool, quick: bool, watchdog: Duration, unfit: Unfit) -> Result<ExitCode, Trouble> {
    let machine = Machine::observe(unfit)?;
    let mut rig = Rig::new(machine.pinned.clone(), watchdog)?;
    let (rounds, slice_ms) = if quick { (1, 2) } else { (ROUNDS, SLICE_MS) };
    let measured = rounds_of(&mut rig, &machine, Job::ALL, rounds, slice_ms)?;
    if json {
        eprintln!("{machine}");
    }
    let text = if json { report::json(&machine, &measured) } else { report::text(&machine, &measured) };
    print(text.trim_end())?;
    Ok(ExitCode::SUCCESS)
}

/// A lock that outlives its owner beside one that doesn't.
pub(crate) struct Cost {
    pub(crate) without: &'static str,
    pub(crate) with_ns: f64,
    pub(crate) without_ns: f64,
    /// The median of the rounds' ratios, and their quartiles.
    pub(crate) times: f64,
    pub(crate) quartiles: Option<[f64; 2]>,
    pub(crate) rounds: usize,
}

/// What it costs that a lock's owner may be killed: lock and unlock, with nobody else there.
pub(crate) fn costs(rig: &mut Rig, machine: &Machine, rounds: u64) -> Result<Vec<Cost>, Trouble> {
    let jobs = [Job::Mutex, Job::ParkingLot];
    Ok(report::costs(&rounds_of(rig, machine, &jobs, rounds, SLICE_MS)?))
}

/// All rounds of each job.
type Measured = Vec<(Job, Vec<Round>)>;

fn rounds_of(
    rig: &mut Rig,
    machine: &Machine,
    jobs: &[Job],
    rounds: u64,
    slice_ms: u64,
) -> Result<Measured, Trouble> {
    let directory = Folder::new(&format!("{}lock-{}", folder::PREFIX, std::process::id()))?;
    let mut two = Two::start(rig, directory.path(), machine)?;
    let mut measured: Measured = jobs.iter().map(|job| (*job, Vec::new())).collect();
    for _ in 0..rounds {
        for (job, outcomes) in &mut measured {
            outcomes.push(two.run(*job, slice_ms)?);
        }
    }
    Ok(measured)
}

/// The near process and the far one. Dropping them ends them.
struct Two<'rig> {
    rig: &'rig Rig,
    team: u64,
    processes: [Process; 2],
}

/// One of them. It is ended when it is dropped.
struct Process {
    child: Child,
    orders: Option<ChildStdin>,
}

impl<'rig> Two<'rig> {
    fn start(rig: &'rig mut Rig, directory: &Path, machine: &Machine) -> Result<Self, Trouble> {
        let team = rig.new_team();
        let rig = &*rig;
        let start = |side| -> Result<Process, Trouble> {
            let member = Member { side, index: 0 };
            let processor = machine.pinned.as_ref().map(|pinned| pinned.of(member));
            let mut process = Process::start(directory, processor)?;
            rig.listen(team, member, process.child.stdout.take());
            Ok(process)
        };
        let mut two = Self { rig, team, processes: [start(Side::Near)?, start(Side::Far)?] };
        for said in two.lines([true, true])?.into_iter().flatten() {
            if said != "ready" {
                return Err(Trouble::Failed(format!("a measuring process said: {said}")));
            }
        }
        Ok(two)
    }

    /// Has the near one do a job, and the far one too if it is one of both.
    fn run(&mut self, job: Job, slice_ms: u64) -> Result<Round, Trouble> {
        let takes_part = [true, job.is_shared()];
        let order = format!("{} {slice_ms}", serde_json::to_string(&job)?);
        for (process, takes_part) in self.processes.iter_mut().zip(takes_part) {
            if takes_part {
                process.order(&order);
            }
        }
        let outcome = |said: String| -> Result<Outcome, Trouble> {
            serde_json::from_str(&said)
                .map_err(|_| Trouble::Failed(format!("a measuring process said: {said}")))
        };
        let [near, far] = self.lines(takes_part)?.map(|said| said.map(outcome).transpose());
        let near = near?.ok_or_else(|| Trouble::Failed("the near process has said nothing".into()))?;
        Ok((near, far?))
    }

    /// The next line of each that is waited for.
    fn lines(&mut self, waited_for: [bool; 2]) -> Result<[Option<String>; 2], Trouble> {
        let mut lines = [None, None];
        while (0..2).any(|index| waited_for[index] && lines[index].is_none()) {
            let (member, line) = self.rig.hear(self.team)?;
            let its = member.side as usize;
            match line {
                Some(line) => lines[its] = Some(line),
                None => return Err(Trouble::Failed(format!("the {member} {}", self.processes[its].ended()))),
            }
        }
        Ok(lines)
    }
}

impl Process {
    fn start(directory: &Path, processor: Option<usize>) -> Result<Self, Trouble> {
        let processor = processor.map_or("-".into(), |processor| processor.to_string());
        let mut child = Command::new(std::env::current_exe()?)
            .arg("locking-process")
            .arg(directory)
            .arg(processor)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let orders = child.stdin.take();
        Ok(Self { child, orders })
    }

    /// If it is gone, the next line is that it has ended.
    fn order(&mut self, order: &str) {
        if let Some(orders) = &mut self.orders {
            let _ = writeln!(orders, "{order}");
        }
    }

    /// Of one that has closed its output: how it ended.
    fn ended(&mut self) -> String {
        self.orders = None;
        let status = self.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
        format!("ended early ({status})")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One of the two processes.
pub(crate) fn peer(directory: &Path, processor: &str) -> ExitCode {
    match serve(directory, processor) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(directory: &Path, processor: &str) -> Fallible<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if let Ok(processor) = processor.parse() {
        machine::pin_to(processor)?;
    }
    let mut bench = Bench::open(directory)?;
    println!("ready");
    for line in std::io::stdin().lines() {
        let line = line?;
        let (job, slice_ms) = line.rsplit_once(' ').ok_or("no job")?;
        let outcome = bench.run(serde_json::from_str(job)?, slice_ms.parse()?)?;
        println!("{}", serde_json::to_string(&outcome)?);
    }
    Ok(())
}
