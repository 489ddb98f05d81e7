//! What went well and what didn't.

use crate::{
    scenario::Scenario,
    stage::{Stage, Stop},
};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What was found wrong.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    problems: Vec<String>,
}

impl Tally {
    pub(crate) fn check(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            let what = what();
            println!("PROBLEM: {what}");
            self.problems.push(what);
        }
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }
}

/// Plays a scene; false if the promise wasn't kept.
pub(crate) fn try_play(tally: &mut Tally, stage: &Stage, scenario: &Scenario, stop: Stop) -> bool {
    let played = catch_unwind(AssertUnwindSafe(|| stage.play(stop, &*scenario.scene)));
    if let Err(panic) = played {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default();
        tally.check(false, || format!("{}, {stop:?}: {text}", scenario.title()));
        stage.clean_up();
        return false;
    }
    true
}
