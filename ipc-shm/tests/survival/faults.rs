//! Each system call fails, one at a time: it is an error or doesn't matter, nothing is
//! leaked, and the next try works.

use crate::{
    report::{Tally, try_play},
    scenario::Scenario,
    stage::{Fault, Stage, Stop},
};

/// In a smoke, how often what is called again and again at one place of the sources fails there.
const SMOKE_REPEATS: usize = 3;

/// Lets the n-th system call fail, n = 0, 1, … until there are no more.
pub(crate) fn run(scenarios: &[Scenario], smoke: bool) -> Tally {
    let mut tally = Tally::default();
    let stage = Stage::new();
    let mut failures = [0; 2];
    for scenario in scenarios.iter().filter(|scenario| !smoke || !scenario.is_variation) {
        if !try_play(&mut tally, &stage, scenario, Stop::Point(usize::MAX)) {
            continue;
        }
        let usual = stage.record().calls;
        for (fault, count) in [Fault::Shortage, Fault::Interrupted].into_iter().zip(&mut failures) {
            let mut call = 0;
            loop {
                let played = try_play(&mut tally, &stage, scenario, Stop::Failure { call, fault });
                let record = stage.record();
                *count += record.failures;
                if !played || call >= record.calls.len() {
                    break;
                }
                // An interruption is met in one place of the code, whatever the call.
                call += if smoke && fault == Fault::Interrupted { 4 } else { 1 };
                while smoke && is_repeated(&usual, call) {
                    call += 1;
                }
            }
        }
    }
    let [shortages, interruptions] = failures;
    println!("proof: faults: {shortages} system calls failed and {interruptions} were interrupted");
    tally.check(shortages > 0 && interruptions > 0, || "nothing failed".into());
    tally
}

/// Whether the call of this number is one of many at its place.
fn is_repeated(calls: &[u64], call: usize) -> bool {
    let Some((this, before)) = calls.get(..=call).and_then(<[u64]>::split_last) else { return false };
    before.iter().filter(|caller| *caller == this).count() >= SMOKE_REPEATS
}
