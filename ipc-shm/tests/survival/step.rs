//! Killed between any two instructions of one operation.

use crate::{
    common::trace::stay_on_one_processor,
    report::{Tally, try_play},
    scenario::Scenario,
    stage::{Stage, Stop},
};

/// Kills after 0, 1, 2, … instructions, until the operation comes to its end; in a smoke,
/// after ever more of them.
pub(crate) fn run(scenarios: &[Scenario], smoke: bool) -> Tally {
    stay_on_one_processor();
    let mut tally = Tally::default();
    let stage = Stage::new();
    let mut all = 0;
    for scenario in scenarios.iter().filter(|scenario| scenario.is_short) {
        let (mut kills, mut steps) = (0, 0);
        while try_play(&mut tally, &stage, scenario, Stop::Instruction(steps)) && !stage.record().finished {
            kills += 1;
            steps += if smoke { 1 + steps } else { 1 };
        }
        tally.check(kills > 0, || format!("{}: never killed", scenario.title()));
        if !smoke {
            println!("instructions: killed at each of {kills}: {}", scenario.title());
        }
        all += kills;
    }
    tally.check(all > 0, || "no scene has such a name".into());
    println!("proof: instructions: {all} killed at");
    tally
}
