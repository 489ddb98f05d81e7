//! Peers of sealed channels that say, hand over and store what they like: every call answers.
//! The fuzzer plays the same scripts with more cunning (`cargo xtask fuzz --target sealed`).

mod common;
#[path = "../fuzz/src/sealed.rs"]
mod sealed;

use common::{Dice, prove, within};
use nix::libc;
use rstest::rstest;
use std::time::Duration;

/// Scripts of each run here.
const SCRIPTS: u64 = 500;

#[rstest]
fn every_call_with_a_hostile_peer_answers(#[values(1, 2, 3, 4)] seed: u64) {
    within(Duration::from_secs(60), move || {
        let mut dice = Dice::new(seed);
        for _ in 0..SCRIPTS {
            let len = 16 + dice.below(400);
            let script: Vec<u8> = (0..len).map(|_| dice.roll() as u8).collect();
            sealed::play(&script);
        }
    });
    prove(&format!("hostile peers: {SCRIPTS} scripts of seed {seed} played"));
}
