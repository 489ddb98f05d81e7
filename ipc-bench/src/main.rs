//! `ipc-bench`: what each model of interprocess communication costs on this machine.
//!
//! Every figure stands beside the physical floor of the same moment, since that floor
//! moves: a bare cache-line ping-pong between the same two processors, interleaved with
//! what is measured. The figure that counts is the ratio of the two. Where something else
//! is the fairer measure, it is in the same rounds as well: a fixed-slot ring for streams,
//! the bare system calls beneath a kernel queue or an opening, a bare futex ping-pong for
//! who sleeps, two copies for what is copied, one sender and one receiver for several; and,
//! where one model is compared with the other, the other one.
//!
//! At least three processes take part. The *coordinator* (the one the user starts) plans,
//! sleeps and evaluates; the *near* and the *far* ones do the work, each pinned, a near and
//! a far one never to the same processor. Nothing but the measured loop runs in those
//! meanwhile, and whatever becomes of them, the coordinator is there to notice and to clean
//! up.
//!
//! The modules build on each other in this order, and never the other way: `spec` (plain
//! types), `links` (what carries messages), `jobs` (the timed loops), `rig` (the
//! processes), `measure` (plan, rounds, figures, report; surveys, whose steps yield rows of
//! their own). `locks` is apart: state that is shared carries no messages.

mod cli;
mod coherence;
mod compare;
mod jobs;
mod links;
mod locks;
mod machine;
mod measure;
mod page;
mod record;
mod rig;
mod spec;
mod stats;
mod trouble;

use clap::Parser;
use cli::{Asked, Cli, Command};
use machine::Unfit;
use measure::{
    experiment::{self, Extent},
    lifetimes::Lifetimes,
    peers, selftest, survey,
};
use std::{process::ExitCode, time::Duration};

fn main() -> ExitCode {
    let Cli { command, anyway } = Cli::parse();
    let unfit = if anyway { Unfit::Warn } else { Unfit::Refuse };
    match command {
        Command::Latency { common, messages } => experiment::run(&Asked::latency(&common, &messages), unfit),
        Command::Throughput { common, messages, streams } => {
            experiment::run(&Asked::throughput(&common, &messages, &streams), unfit)
        }
        Command::Open { common } => experiment::run(&Asked::open(&common), unfit),
        Command::Setup { common } => {
            let asked = Asked::setup(&common);
            let extent = if common.quick { Extent::Smoke } else { Extent::Full };
            let lives = Lifetimes::of(extent).only(&asked.transports);
            experiment::run_with(&asked, &lives, unfit)
        }
        Command::Idle(asked) => survey::run(&asked.survey(), &asked.common, unfit),
        Command::Scale(asked) => survey::run(&asked.survey(), &asked.common, unfit),
        Command::Safety(asked) => survey::run(&asked.survey(), &asked.common, unfit),
        Command::Load(asked) => survey::run(&asked.survey(), &asked.common, unfit),
        Command::Latest { common, size } => experiment::run(&Asked::latest(&common, &size), unfit),
        Command::Tolerance { common, delay, in_flight } => {
            experiment::run(&Asked::tolerance(&common, &delay, &in_flight), unfit)
        }
        Command::All { full, quick: _, smoke, json, keep } => {
            let extent = match (full, smoke) {
                (true, _) => Extent::Full,
                (_, true) => Extent::Smoke,
                _ => Extent::Quick,
            };
            let keep = keep.unwrap_or_else(record::last_run);
            experiment::run_all(&Asked::all(extent, json), extent, keep, unfit)
        }
        Command::Peers { folder, json, smoke, size, keep } => {
            let keep = keep.unwrap_or_else(|| record::last_run().with_file_name("peers.jsonl"));
            peers::run(&peers::Asked { folder, json, is_smoke: smoke, sizes_bytes: size, keep }, unfit)
        }
        Command::SelfTest { json, smoke } => selftest::run(json, smoke, unfit),
        Command::Report { run, out } => page::make(&run.unwrap_or_else(record::last_run), &out),
        Command::Compare { old, new } => compare::run(&old, &new),
        Command::Lock { json, quick, watchdog_s } => {
            locks::run(json, quick, Duration::from_secs(watchdog_s), unfit)
        }
        Command::LockingProcess { directory, processor } => locks::peer(&directory, &processor),
        Command::Peer { spec } => rig::peer::main(&spec),
    }
}
