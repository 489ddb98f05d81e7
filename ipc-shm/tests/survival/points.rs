//! Killed at every point: before and after each access to shared memory and each system
//! call.

use crate::{
    report::{Tally, try_play},
    scenario::Scenario,
    sites,
    stage::{Stage, Stop, key},
};
use std::collections::BTreeSet;

/// In a smoke, the share of the points to die at that were died at before. At those of
/// short operations all die.
const SMOKE_STRIDE: usize = 13;

/// Kills at every point of every scenario; in a smoke, at each point of the sources once
/// and at some again.
pub(crate) fn run(scenarios: &[Scenario], is_whole: bool, smoke: bool) -> Tally {
    let mut tally = Tally::default();
    let known: BTreeSet<_> = sites::of_this_crate();
    let keys: Vec<_> = known
        .iter()
        .flat_map(|site| {
            let key = |is_after| (key(&site.file, site.line, site.column, is_after), site, is_after);
            [key(false), key(true)]
        })
        .collect();
    let stage = Stage::new();
    let mut died_at = BTreeSet::new();
    let mut kills = 0_usize;
    for scenario in scenarios {
        // First to its end, to see what there is.
        if !try_play(&mut tally, &stage, scenario, Stop::Point(usize::MAX)) {
            continue;
        }
        let points = stage.record().points;
        for (number, point) in points.iter().enumerate() {
            if smoke && !scenario.is_short && died_at.contains(point) && (number + kills) % SMOKE_STRIDE != 0
            {
                continue;
            }
            if !try_play(&mut tally, &stage, scenario, Stop::Point(number)) {
                break;
            }
            // It may have gone another way, or come to its end.
            let trace = stage.record().points;
            if let Some(last) = trace.get(number).filter(|_| trace.len() == number + 1) {
                died_at.insert(*last);
                kills += 1;
            } else {
                tally.check(scenario.varies, || format!("{}: not killed at {number}", scenario.title()));
            }
        }
    }
    let hit = keys.iter().filter(|(key, ..)| died_at.contains(key)).count();
    println!("proof: crash points: {hit}/{} hit, {kills} kills in {} scenarios", keys.len(), scenarios.len());
    tally.check(kills > 0, || "nobody was killed".into());
    let strange = died_at.iter().filter(|point| !keys.iter().any(|(key, ..)| key == *point));
    for point in strange {
        let (line, column) = (point >> 12 & 0xf_ffff, point >> 1 & 0x7ff);
        tally.check(false, || {
            format!("hit, and not in the sources: line {line}, column {column} of some file")
        });
    }
    if is_whole {
        for (_, site, is_after) in keys.iter().filter(|(key, ..)| !died_at.contains(key)) {
            let moment = if *is_after { "after" } else { "before" };
            tally.check(false, || format!("not hit: {moment} {}:{}:{}", site.file, site.line, site.column));
        }
    }
    tally
}
