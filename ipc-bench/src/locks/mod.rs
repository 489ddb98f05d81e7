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
    links::{
        folder::{self, Folder},
        site,
    },
    machine::{self, Machine, Unfit},
    spec::{Member, Side},
    trouble::{Fallible, Trouble, code},
};
use jobs::{Bench, Job, Outcome};
use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdout, Command, ExitCode, Stdio},
};

/// Rounds, and for how long each job goes on in each.
const ROUNDS: u64 = 21;
const SLICE_MS: u64 = 40;

/// One round's outcomes of a job: the near process's, and the far one's if it took part.
type Round = (Outcome, Option<Outcome>);

/// Measures, and prints.
pub(crate) fn run(json: bool, quick: bool, unfit: Unfit) -> ExitCode {
    code(try_run(json, quick, unfit))
}

fn try_run(json: bool, quick: bool, unfit: Unfit) -> Result<ExitCode, Trouble> {
    let machine = Machine::observe(unfit)?;
    let (rounds, slice_ms) = if quick { (1, 2) } else { (ROUNDS, SLICE_MS) };
    let measured = rounds_of(&machine, Job::ALL, rounds, slice_ms)
        .map_err(|error| Trouble::Failed(error.to_string()))?;
    if json {
        eprintln!("{machine}");
    }
    print!("{}", if json { report::json(&machine, &measured) } else { report::text(&machine, &measured) });
    Ok(ExitCode::SUCCESS)
}

/// A lock that outlives its owner beside one that doesn't.
pub(crate) struct Cost {
    pub(crate) without: &'static str,
    pub(crate) with_ns: f64,
    pub(crate) without_ns: f64,
    /// The median of the rounds' ratios.
    pub(crate) times: f64,
    pub(crate) quartiles: Option<[f64; 2]>,
    pub(crate) rounds: usize,
}

/// What it costs that a lock's owner may be killed: lock and unlock, with nobody else there.
pub(crate) fn costs(machine: &Machine, rounds: u64) -> Fallible<Vec<Cost>> {
    let jobs = [Job::Mutex, Job::ParkingLot];
    Ok(report::costs(&rounds_of(machine, &jobs, rounds, SLICE_MS)?))
}

/// All rounds of each job.
type Measured = Vec<(Job, Vec<Round>)>;

fn rounds_of(machine: &Machine, jobs: &[Job], rounds: u64, slice_ms: u64) -> Fallible<Measured> {
    site::clear_after_the_killed();
    let directory = Folder::new(&format!("{}lock-{}", folder::PREFIX, std::process::id()))?;
    let start = |side| {
        let processor = machine.pinned.as_ref().map(|pinned| pinned.of(Member { side, index: 0 }));
        Peer::start(directory.path(), processor)
    };
    let (mut near, mut far) = (start(Side::Near)?, start(Side::Far)?);
    near.expect("ready")?;
    far.expect("ready")?;
    let mut measured: Measured = jobs.iter().map(|job| (*job, Vec::new())).collect();
    for _ in 0..rounds {
        for (job, outcomes) in &mut measured {
            near.begin(*job, slice_ms)?;
            if job.is_shared() {
                far.begin(*job, slice_ms)?;
                outcomes.push((near.outcome()?, Some(far.outcome()?)));
            } else {
                outcomes.push((near.outcome()?, None));
            }
        }
    }
    Ok(measured)
}

/// One of the two processes. It is ended when it is dropped.
struct Peer {
    process: Child,
    said: BufReader<ChildStdout>,
}

impl Peer {
    fn start(directory: &Path, processor: Option<usize>) -> Fallible<Self> {
        let processor = processor.map_or("-".into(), |processor| processor.to_string());
        let mut process = Command::new(std::env::current_exe()?)
            .arg("locking-process")
            .arg(directory)
            .arg(processor)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let said = BufReader::new(process.stdout.take().ok_or("no standard output")?);
        Ok(Self { process, said })
    }

    fn line(&mut self) -> Fallible<String> {
        let mut line = String::new();
        match self.said.read_line(&mut line)? {
            0 => Err("a measuring process has ended".into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }

    fn expect(&mut self, word: &str) -> Fallible<()> {
        let line = self.line()?;
        if line == word { Ok(()) } else { Err(format!("a measuring process said: {line}").into()) }
    }

    fn begin(&mut self, job: Job, slice_ms: u64) -> Fallible<()> {
        let stdin = self.process.stdin.as_mut().ok_or("no standard input")?;
        Ok(writeln!(stdin, "{} {slice_ms}", serde_json::to_string(&job)?)?)
    }

    fn outcome(&mut self) -> Fallible<Outcome> {
        Ok(serde_json::from_str(&self.line()?)?)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
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
