//! `ipc-bench`: what each model of interprocess communication costs on this machine.
//!
//! Every figure stands beside the physical floor of the same moment, since that floor
//! moves: a bare cache-line ping-pong between the same two processors, interleaved with
//! what is measured. The figure that counts is the ratio of the two.
//!
//! Three processes take part. The *coordinator* (the one the user starts) plans, sleeps and
//! evaluates; the *near* and the *far* one do the work, each pinned to a processor of its
//! own. Nothing but the measured loop runs in those two meanwhile, and whatever becomes of
//! them, the coordinator is there to notice and to clean up.

mod backends;
mod cli;
mod experiment;
mod figures;
mod floor;
mod latency;
mod link;
mod machine;
mod peer;
mod raw_mq;
mod report;
mod rig;
mod rounds;
mod shared;
mod stats;
mod throughput;
mod transports;

use clap::Parser;
use std::{error::Error, process::ExitCode};

/// The result of what can fail for reasons that are only told to the user.
type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> ExitCode {
    match cli::Cli::parse().command {
        cli::Command::Latency(options) => latency::EXPERIMENT.run(&options),
        cli::Command::Throughput(options) => throughput::EXPERIMENT.run(&options),
        cli::Command::Peer { spec } => peer::main(&spec),
    }
}
