//! `cargo xtask test-all`: everything that must hold, in the order in which it is soonest
//! known to fail.
//!
//! A failed stage doesn't keep the next ones from running, except that nothing more can be
//! said when the workspace doesn't build. The last line is always `N passed, N failed`.

use super::{Command, Given};
use crate::{
    isolation::Isolation,
    leftovers::Watch,
    report::{Outcome, Report},
    stages,
};
use std::process::ExitCode;

pub(crate) const COMMAND: Command = Command {
    name: "test-all",
    summary: "check and test everything; `N passed, N failed` is its last line",
    options: &[],
    run,
};

fn run(_given: &Given) -> ExitCode {
    let isolation = Isolation::enter();
    println!("isolation: {isolation}");
    let watch = Watch::start(isolation);
    let mut report = Report::default();
    for stage in stages::ALL {
        let outcome = report.run(stage.name, stage.run);
        if stage.essential && outcome.failed > 0 {
            println!("stopped: nothing after `{}` can be tested before it passes", stage.name);
            break;
        }
    }
    report.run("leftovers", || leftovers(&watch));
    report.close()
}

fn leftovers(watch: &Watch) -> Outcome {
    match watch.leftovers() {
        Ok(leftovers) if leftovers.is_empty() => Outcome::passed(watch.description()),
        Ok(leftovers) => Outcome::failed(format!("left behind:\n{}", leftovers.join("\n"))),
        Err(error) => Outcome::failed(format!("can't say what is left behind: {error}")),
    }
}
