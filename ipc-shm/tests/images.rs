//! Images that are changed at random, behind the back of those who use them: every call
//! answers. The fuzzer plays the same scripts with more cunning (`cargo xtask fuzz`).

mod common;
#[path = "../fuzz/src/image.rs"]
mod image;

use common::{Dice, prove, within};
use rstest::rstest;
use std::time::Duration;

/// Scripts of each run here; more by the environment.
const SCRIPTS: u64 = 400;

#[rstest]
fn every_call_on_a_changed_image_answers(#[values(1, 2, 3, 4)] seed: u64) {
    let rounds = std::env::var("IPC_SHM_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1);
    within(Duration::from_secs(60) * rounds, move || {
        let directory = image::Directory::new();
        let mut dice = Dice::new(seed);
        for _ in 0..SCRIPTS * u64::from(rounds) {
            let len = 4 + dice.below(400);
            let script: Vec<u8> = (0..len).map(|_| dice.roll() as u8).collect();
            image::play(&script, &directory);
        }
    });
    prove(&format!("images: {} scripts of seed {seed} played", SCRIPTS * u64::from(rounds)));
}
