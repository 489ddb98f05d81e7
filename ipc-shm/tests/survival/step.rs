//! Killed between any two instructions of one operation.

use crate::{
    common::trace::stay_on_one_processor,
    report::{Tally, try_play},
    scenario::Scenario,
    stage::{Stage, Stop},
};

/// In a smoke, how many instructions are killed at in each scenario.
const SMOKE_KILLS: usize = 40;

/// Kills after 0, 1, 2, … instructions, until the operation comes to its end; in a smoke,
/// after some of these.
pub(crate) fn run(scenarios: &[Scenario], smoke: bool) -> Tally {
    stay_on_one_processor();
    let mut tally = Tally::default();
    let stage = Stage::new();
    let mut all = 0;
    for scenario in scenarios.iter().filter(|scenario| scenario.is_short) {
        let mut kills = 0;
        let stride = match smoke {
            false => 1,
            // At first to about its end, by doubling.
            true => match about_its_length(&mut tally, &stage, scenario) {
                Some(len) => 1 + len / SMOKE_KILLS,
                None => continue,
            },
        };
        let mut steps = 0;
        while try_play(&mut tally, &stage, scenario, Stop::Instruction(steps)) && !stage.record().finished {
            kills += 1;
            steps += stride;
        }
        println!("instructions: {kills} of about {steps} killed at: {}", scenario.title());
        tally.check(kills > 0, || format!("{}: never killed", scenario.title()));
        all += kills;
    }
    println!("instructions: {all} killed at");
    tally
}

fn about_its_length(tally: &mut Tally, stage: &Stage, scenario: &Scenario) -> Option<usize> {
    let mut steps = 64;
    while try_play(tally, stage, scenario, Stop::Instruction(steps)) {
        if stage.record().finished {
            return Some(steps);
        }
        steps *= 2;
    }
    None
}
