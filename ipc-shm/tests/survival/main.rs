//! What is promised holds however a process ends: killed at every point, between any two
//! instructions, with every system call failing, and in a crowd.
//!
//! ```text
//! cargo test -p ipc-shm --features crash-points --test survival -- PROOF OPTION…
//! ```
//!
//! Without a proof's name, all of them run briefly. `cargo xtask crash` and `cargo xtask
//! soak` are shorter to type.

#![cfg_attr(not(feature = "crash-points"), allow(dead_code, reason = "nobody dies at points then"))]

#[path = "../common/mod.rs"]
mod common;

mod arena;
mod broadcast;
#[cfg(feature = "crash-points")]
mod faults;
mod kinds;
mod latest;
mod locks;
mod mpmc;
mod places;
#[cfg(feature = "crash-points")]
mod points;
mod protection;
mod queues;
mod report;
mod rpc;
mod scenario;
#[cfg(feature = "crash-points")]
mod sites;
mod soak;
mod spsc;
mod stage;
mod state;
mod step;

use report::Tally;
use std::{
    process::{self, ExitCode},
    time::{Duration, Instant},
};

/// A proof, by its name.
struct Proof {
    name: &'static str,
    run: fn(&Options) -> Tally,
}

const PROOFS: &[Proof] = &[
    #[cfg(feature = "crash-points")]
    Proof { name: "points", run: points },
    #[cfg(feature = "crash-points")]
    Proof { name: "faults", run: faults },
    Proof { name: "soak", run: |options| soak::run(options.time(), options.seed, options.only.as_deref()) },
    Proof {
        name: "locks",
        run: |options| locks::run(options.kills(), options.seed, options.only.as_deref()),
    },
    Proof { name: "step", run: |options| step::run(&options.scenarios(), options.smoke) },
];

#[cfg(feature = "crash-points")]
fn points(options: &Options) -> Tally {
    ipc_shm::hooks::blindfold_tries();
    points::run(&options.scenarios(), options.only.is_none(), options.smoke)
}

#[cfg(feature = "crash-points")]
fn faults(options: &Options) -> Tally {
    ipc_shm::hooks::blindfold_tries();
    faults::run(&options.scenarios(), options.smoke)
}

/// What was asked for.
struct Options {
    proof: Option<String>,
    smoke: bool,
    /// A part of the names of what to play.
    only: Option<String>,
    minutes: u64,
    kills: u64,
    seed: u64,
}

impl Options {
    /// What the arguments say; those of the usual test harness are taken for nothing.
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            proof: None,
            smoke: false,
            only: None,
            minutes: 10,
            kills: 10_000,
            seed: process::id().into(),
        };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} takes a value"));
            match argument.as_str() {
                "--smoke" => options.smoke = true,
                "--only" => options.only = Some(value()?),
                "--minutes" => options.minutes = number(&value()?)?,
                "--kills" => options.kills = number(&value()?)?,
                "--seed" => options.seed = number(&value()?)?,
                other if !other.starts_with('-') => {
                    if options.proof.is_some() || !PROOFS.iter().any(|proof| proof.name == other) {
                        let names: Vec<_> = PROOFS.iter().map(|proof| proof.name).collect();
                        return Err(format!("{other}: one of these, once: {}", names.join(", ")));
                    }
                    options.proof = Some(argument);
                }
                // Those of the usual test harness, which cargo's users may give to all programs.
                "--quiet" | "--nocapture" | "--exact" | "--show-output" | "--include-ignored" => {}
                other if other.starts_with("--test-threads") || other.starts_with("--color") => {}
                other => return Err(format!("{other}: no such option")),
            }
        }
        options.smoke |= options.proof.is_none();
        Ok(options)
    }

    fn time(&self) -> Duration {
        Duration::from_secs(if self.smoke { 8 } else { self.minutes * 60 })
    }

    fn kills(&self) -> u64 {
        if self.smoke { 100 } else { self.kills }
    }

    fn scenarios(&self) -> Vec<scenario::Scenario> {
        let mut all = kinds::scenarios();
        all.retain(|scenario| self.only.as_ref().is_none_or(|part| scenario.title().contains(part)));
        all
    }
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("not a number: {text}"))
}

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("survival: {error}");
            return ExitCode::from(2);
        }
    };
    let (mut passed, mut failed) = (0, 0);
    let started = Instant::now();
    for proof in PROOFS.iter().filter(|proof| options.proof.as_ref().is_none_or(|name| name == proof.name)) {
        let tally = (proof.run)(&options);
        let word = if tally.is_clean() { "ok" } else { "FAILED" };
        println!("test {} ... {word}", proof.name);
        *(if tally.is_clean() { &mut passed } else { &mut failed }) += 1;
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out; \
         finished in {:.2}s",
        started.elapsed().as_secs_f64()
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
