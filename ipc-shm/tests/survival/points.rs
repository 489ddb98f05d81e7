//! Killed at every point: before and after each access to shared memory and each system
//! call.

use crate::{
    report::{Tally, try_play},
    scenario::Scenario,
    sites,
    stage::{Stage, Stop, key},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    iter,
};

/// In a smoke, the share of the points to die at that were died at before. At those of
/// short operations all die.
const SMOKE_STRIDE: usize = 13;

/// How often a scene is played again for a point that it came by once and, when a victim was to
/// die there, didn't.
const SECOND_CHANCES: usize = 20;

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
    let mut came_by: BTreeMap<u64, Vec<&Scenario>> = BTreeMap::new();
    let mut kills = 0_usize;
    for scenario in scenarios {
        // First to its end, to see what there is.
        if !try_play(&mut tally, &stage, scenario, Stop::Point(usize::MAX)) {
            continue;
        }
        let points = stage.record().points;
        for point in points.iter().collect::<BTreeSet<_>>() {
            came_by.entry(*point).or_default().push(scenario);
        }
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
    // Where scenes vary, the point of a number may be another one each time.
    came_by.retain(|point, _| !died_at.contains(point));
    for (point, scenarios) in came_by {
        if dies_at_last(&mut tally, &stage, point, &scenarios) {
            died_at.insert(point);
            kills += 1;
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

/// Plays what once came by a point until somebody dies there.
fn dies_at_last(tally: &mut Tally, stage: &Stage, point: u64, scenarios: &[&Scenario]) -> bool {
    let chances = scenarios.iter().flat_map(|scenario| iter::repeat_n(scenario, SECOND_CHANCES));
    for scenario in chances {
        if !try_play(tally, stage, scenario, Stop::First(point)) {
            return false;
        }
        let record = stage.record();
        if !record.finished && record.points.last() == Some(&point) {
            return true;
        }
    }
    false
}
