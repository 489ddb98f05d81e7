//! A measuring process: attach, then do what the coordinator says.
//!
//! Orders come as lines of JSON on standard input, replies go to standard output. While a
//! job runs, this process does nothing else, not even look for signals: it is the
//! coordinator's to end it, and the kernel's if the coordinator dies.

use crate::{
    jobs::{lane::AnyLane, transports::attach},
    links::site::Site,
    machine,
    spec::{Job, LaneSpec, Member, Outcome},
    trouble::Fallible,
};
use nix::sys::{prctl, signal::Signal};
use serde::{Deserialize, Serialize};
use std::{
    io::{self, BufRead, Write},
    process::ExitCode,
};

/// What a measuring process is to be.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct PeerSpec {
    pub(crate) member: Member,
    /// The processor to stay on.
    pub(crate) processor: Option<usize>,
    /// The one that its opposite stays on: guests within one process are on both.
    pub(crate) other_processor: Option<usize>,
    pub(crate) site: Site,
    pub(crate) lanes: Vec<LaneSpec>,
}

/// What the coordinator says.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) enum Order {
    /// Attach to all lanes.
    Attach,
    /// Do a job on a lane, for this many messages or round trips.
    Run { lane: usize, job: Job, count: u64 },
}

/// What a measuring process answers.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) enum Reply {
    /// It is attached to all lanes.
    Attached,
    /// It begins the job now.
    Ready,
    /// The job is done.
    Done(Outcome),
}

/// Runs a measuring process until there are no more orders. What goes wrong is told on
/// standard error, which the coordinator reads.
pub(crate) fn main(spec: &str) -> ExitCode {
    match serve(spec) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody may be left to read it.
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(spec: &str) -> Fallible<()> {
    let spec: PeerSpec =
        serde_json::from_str(spec).map_err(|error| format!("not for use by hand: {error}"))?;
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if let Some(processor) = spec.processor {
        machine::pin_to(processor)?;
    }
    // For each lane, this process's part in it.
    let mut lanes: Vec<Option<Box<dyn AnyLane>>> = Vec::new();
    for line in io::stdin().lock().lines() {
        match serde_json::from_str(&line?)? {
            Order::Attach => {
                for lane in &spec.lanes {
                    let takes_part = lane.shape.includes(spec.member);
                    lanes.push(takes_part.then(|| attach(lane, spec.member, &spec.site)).transpose()?);
                }
                say(&Reply::Attached)?;
            }
            Order::Run { lane, job, count } => {
                let lane = lanes
                    .get_mut(lane)
                    .and_then(Option::as_mut)
                    .ok_or("an order for a lane that isn't attached")?;
                say(&Reply::Ready)?;
                say(&Reply::Done(lane.run(job, count)?))?;
            }
        }
    }
    Ok(())
}

fn say(reply: &Reply) -> Fallible<()> {
    let mut stdout = io::stdout().lock();
    serde_json::to_writer(&mut stdout, reply)?;
    stdout.write_all(b"\n")?;
    Ok(stdout.flush()?)
}
