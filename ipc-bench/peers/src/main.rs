//! A measuring process that drives what people use instead of the toolkit.
//!
//! `ipc-bench` starts two of these for each peer, and talks to them as to its own measuring
//! processes: orders come as lines of JSON on standard input, replies go to standard output.
//! The loops and the payload are those of `ipc-bench` (`jobs/latency.rs`,
//! `jobs/throughput.rs`, `links/payload.rs`): every message is numbered, written and read.

mod jobs;
mod link;
mod peers;

use link::{Fallible, Lane, Spec};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    sys::{prctl, signal::Signal},
    unistd::Pid,
};
use serde_json::Value;
use std::{
    env,
    io::{self, BufRead, Write},
    process::ExitCode,
};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["list"] => {
            // Nobody may be left to read it.
            let _ = writeln!(io::stdout(), "{}", peers::NAMES.join("\n"));
            ExitCode::SUCCESS
        }
        ["measuring-process", spec] => match serve(spec) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let _ = writeln!(io::stderr(), "{error}");
                ExitCode::FAILURE
            }
        },
        _ => {
            let _ = writeln!(io::stderr(), "not for use by hand: run `ipc-bench peers`");
            ExitCode::from(2)
        }
    }
}

fn serve(spec: &str) -> Fallible<()> {
    let spec: Value = serde_json::from_str(spec).map_err(|error| format!("not for use by hand: {error}"))?;
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if let Some(processor) = spec["processor"].as_u64() {
        pin_to(usize::try_from(processor)?)?;
    }
    let mut lane: Option<(u64, Box<dyn Lane>)> = None;
    for line in io::stdin().lock().lines() {
        let order: Value = serde_json::from_str(&line?)?;
        if order == "Attach" {
            let (index, its) = Spec::of(&spec)?;
            lane = Some((index, peers::attach(&its)?));
            say(&Value::from("Attached"))?;
        } else {
            let run = &order["Run"];
            let count = run["count"].as_u64().ok_or("an order without a count")?;
            let job = run["job"].as_str().ok_or("an order without a job")?;
            let (_, lane) = lane
                .as_mut()
                .filter(|(index, _)| run["lane"].as_u64() == Some(*index))
                .ok_or("an order for a lane that isn't attached")?;
            say(&Value::from("Ready"))?;
            say(&lane.run(job, count)?)?;
        }
    }
    Ok(())
}

/// Keeps this thread, and those it starts, on one processor.
fn pin_to(processor: usize) -> Fallible<()> {
    let mut set = CpuSet::new();
    set.set(processor)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

fn say(reply: &Value) -> Fallible<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{reply}")?;
    Ok(stdout.flush()?)
}
