//! `cargo xtask model`: the algorithms of shared memory under the model checkers, further
//! than their tests go; and each ordering taken away in turn, which some case must notice.

use super::{Command, Given, Opt};
use crate::{process, report, workspace};
use std::{collections::BTreeMap, process::ExitCode, time::Duration};

pub(crate) const COMMAND: Command = Command {
    name: "model",
    summary: "run the models of all rings, with every ordering taken away in turn",
    options: &[
        Opt { name: "--smoke", value: None, summary: "no further than `cargo test` goes" },
        Opt {
            name: "--seconds",
            value: Some("N"),
            summary: "at most so long for each case, and each access at which somebody dies in it",
        },
        Opt { name: "--only", value: Some("TEXT"), summary: "only models with this in their names" },
    ],
    run,
};

/// For all models, compilation included.
const TIME_LIMIT: Duration = Duration::from_secs(4 * 3600);

fn run(given: &Given) -> ExitCode {
    let only = given.value("--only").unwrap_or_default();
    let filter = if only.is_empty() { "model::".into() } else { format!("model::{only}") };
    let mut cargo = workspace::cargo(&["test", "--profile", "model", "-p", "ipc-shm", "--lib"]);
    cargo.args([&filter, "--", "--show-output"]).env("RUST_BACKTRACE", "0");
    match given.has("--smoke") {
        true => cargo.env_remove("IPC_SHM_LONG_RUN"),
        false => cargo.env("IPC_SHM_LONG_RUN", "1"),
    };
    if let Some(seconds) = given.value("--seconds") {
        if seconds.parse::<u32>().is_err() {
            eprintln!("xtask: --seconds takes a whole number, not {seconds}");
            return ExitCode::from(2);
        }
        cargo.env("IPC_SHM_EXPLORE_SECONDS", seconds);
    }
    let finished = process::run(&mut cargo, TIME_LIMIT);
    let models = parse(&finished.output);
    print!("{}", summary(&models));
    if !finished.success {
        println!("\n{}", finished.output);
    }
    let problems = problems(&models);
    problems.iter().for_each(|problem| println!("{problem}"));
    if finished.success && problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What a model's tests have printed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Model {
    cases: u64,
    /// Those of which not all schedules were run.
    cut_short: u64,
    schedules: u64,
    /// Orderings, or other parts, that were taken away; and how many were missed.
    taken_away: u64,
    noticed: u64,
}

/// The models by their names, from lines such as `model spsc: a sender dies: 120 schedules`
/// and `model spsc: 7 of 7 weakened orderings noticed`.
fn parse(output: &str) -> BTreeMap<String, Model> {
    let mut models: BTreeMap<String, Model> = BTreeMap::new();
    for line in output.lines() {
        let Some((name, what)) = line.strip_prefix("model ").and_then(|line| line.split_once(": ")) else {
            continue;
        };
        let words: Vec<&str> = what.split(' ').collect();
        let number = |word: &str| word.parse::<u64>().ok();
        match words[..] {
            [noticed, "of", total, .., "noticed"] => {
                let (Some(noticed), Some(total)) = (number(noticed), number(total)) else { continue };
                let model = models.entry(name.into()).or_default();
                model.noticed += noticed;
                model.taken_away += total;
            }
            [.., schedules, "schedules"] => {
                let Some(schedules) = number(schedules) else { continue };
                let model = models.entry(name.into()).or_default();
                model.cases += 1;
                model.cut_short += u64::from(what.contains(", as far as it got: "));
                model.schedules += schedules;
            }
            _ => {}
        }
    }
    models
}

/// Why the models don't prove anything.
fn problems(models: &BTreeMap<String, Model>) -> Vec<String> {
    let mut problems = Vec::new();
    if models.is_empty() {
        problems.push("no model has run".into());
    }
    for (name, model) in models {
        if model.schedules == 0 {
            problems.push(format!("{name}: no schedule has run"));
        }
        if model.taken_away == 0 || model.noticed < model.taken_away {
            let missed = model.taken_away - model.noticed;
            problems.push(format!("{name}: {missed} of {} taken away, unnoticed", model.taken_away));
        }
    }
    problems
}

fn summary(models: &BTreeMap<String, Model>) -> String {
    let header =
        ["model", "cases", "cut short", "schedules", "taken away", "noticed"].map(String::from).to_vec();
    let rows = models.iter().map(|(name, model)| {
        let figures = [model.cases, model.cut_short, model.schedules, model.taken_away, model.noticed];
        std::iter::once(name.clone()).chain(figures.map(|figure| figure.to_string())).collect()
    });
    report::table(&std::iter::once(header).chain(rows).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::{Model, parse, problems};

    const OUTPUT: &str = "\
---- a test stdout ----
model spsc: a sender dies: 120 schedules
model spsc: a case: of two, as far as it got: 3 schedules
test x ... ok
model spsc: 6 of 7 weakened orderings noticed
";

    #[test]
    fn figures_of_a_model_are_summed() {
        let model = Model { cases: 2, cut_short: 1, schedules: 123, taken_away: 7, noticed: 6 };
        assert_eq!(parse(OUTPUT).into_iter().collect::<Vec<_>>(), [("spsc".into(), model)]);
    }

    #[test]
    fn what_is_unnoticed_or_not_run_is_a_problem() {
        assert_eq!(problems(&parse(OUTPUT)), ["spsc: 1 of 7 taken away, unnoticed"]);
        assert_eq!(problems(&parse("")), ["no model has run"]);
        let all = OUTPUT.replace("6 of 7", "7 of 7");
        assert!(problems(&parse(&all)).is_empty());
    }
}
