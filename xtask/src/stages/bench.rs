//! Whether the measuring rig works: each experiment briefly, and the form of what it prints
//! for programs. Each experiment is a check; how large the figures are means nothing here.

use super::{TIME_LIMIT, programs};
use crate::{process, report::Outcome};
use serde_json::{Map, Value};
use std::{collections::BTreeSet, path::Path, process::Command};

/// An experiment, and what it has to have measured.
struct Experiment {
    name: &'static str,
    figure: &'static str,
}

const EXPERIMENTS: [Experiment; 2] = [
    Experiment { name: "latency", figure: "p50_ns" },
    Experiment { name: "throughput", figure: "messages_per_second" },
];

/// Of each model one.
const TRANSPORTS: [&str; 2] = ["mq", "shm:spsc"];

/// The keys that programs rely on; there may be more.
const KEYS: [&str; 13] = [
    "bytes_per_second",
    "cpu_ns_per_message",
    "experiment",
    "floor_ns",
    "floor_ratio",
    "max_ns",
    "message_len_bytes",
    "messages_per_second",
    "p50_ns",
    "p999_ns",
    "p99_ns",
    "transport",
    "wait",
];

pub(super) fn run() -> Outcome {
    match programs::path("ipc-bench") {
        Ok(bench) => {
            let of_each = EXPERIMENTS.each_ref().map(|experiment| problems(&bench, experiment));
            Outcome::of_problems(&of_each, "latency and throughput, briefly")
        }
        Err(problem) => Outcome::failed(problem),
    }
}

fn problems(bench: &Path, experiment: &Experiment) -> Vec<String> {
    let mut command = Command::new(bench);
    command.args([experiment.name, "--quick", "--json", "--size", "8"]);
    let finished = process::run_for_stdout(&mut command, TIME_LIMIT);
    match finished.success {
        true => problems_of_lines(experiment, &finished.output),
        false => vec![format!("{}: {}", experiment.name, finished.output)],
    }
}

fn problems_of_lines(experiment: &Experiment, lines: &str) -> Vec<String> {
    let name = experiment.name;
    let mut problems = Vec::new();
    let mut measured = BTreeSet::new();
    for line in lines.lines() {
        match row(experiment, line) {
            Ok(row) => measured.extend(row["transport"].as_str().map(str::to_owned)),
            Err(problem) => problems.push(format!("{name}: {problem}: {line}")),
        }
    }
    let missing = TRANSPORTS.iter().filter(|transport| !measured.contains(**transport));
    problems.extend(missing.map(|transport| format!("{name}: {transport} isn't measured")));
    problems
}

/// What a line says, or what is wrong with it.
fn row(experiment: &Experiment, line: &str) -> Result<Map<String, Value>, String> {
    let Ok(Value::Object(row)) = serde_json::from_str(line) else { return Err("no JSON object".into()) };
    if row.get("experiment").and_then(Value::as_str) != Some(experiment.name) {
        return Err("another experiment".into());
    }
    let problems: Vec<_> =
        KEYS.iter().filter(|key| !row.contains_key(**key)).map(|key| format!("no key `{key}`")).collect();
    if !problems.is_empty() {
        return Err(problems.join(", "));
    }
    match row[experiment.figure].as_f64() {
        Some(figure) if figure > 0.0 => Ok(row),
        _ => Err(format!("`{}` isn't measured", experiment.figure)),
    }
}

#[cfg(test)]
mod tests {
    use super::{EXPERIMENTS, KEYS, problems_of_lines, row};
    use serde_json::{Map, Value};

    fn measured(transport: &str) -> Map<String, Value> {
        let mut row: Map<_, _> = KEYS.iter().map(|key| ((*key).to_string(), Value::Null)).collect();
        row["experiment"] = "latency".into();
        row["transport"] = transport.into();
        row["p50_ns"] = 130.5.into();
        row
    }

    fn problem_of(of_line: Map<String, Value>) -> Option<String> {
        row(&EXPERIMENTS[0], &Value::Object(of_line).to_string()).err()
    }

    fn problems_of(rows: &[Map<String, Value>]) -> Vec<String> {
        let lines: Vec<_> = rows.iter().map(|row| Value::Object(row.clone()).to_string()).collect();
        problems_of_lines(&EXPERIMENTS[0], &lines.join("\n"))
    }

    #[test]
    fn a_row_with_all_keys_is_fine() {
        assert_eq!(problem_of(measured("mq")), None);
    }

    #[test]
    fn missing_keys_are_named_and_more_are_welcome() {
        let mut row = measured("mq");
        row.remove("p99_ns");
        row.insert("raw_ratio".into(), Value::Null);
        assert_eq!(problem_of(row).as_deref(), Some("no key `p99_ns`"));
    }

    #[test]
    fn what_was_not_measured_is_no_figure() {
        let mut row = measured("mq");
        row["p50_ns"] = Value::Null;
        assert_eq!(problem_of(row).as_deref(), Some("`p50_ns` isn't measured"));
    }

    #[test]
    fn there_must_be_a_row_of_each_model() {
        assert_eq!(problems_of(&[measured("mq"), measured("shm:spsc")]), [""; 0]);
        assert_eq!(problems_of(&[measured("mq")]), ["latency: shm:spsc isn't measured"]);
        assert_eq!(problems_of(&[]).len(), 2);
    }

    #[test]
    fn every_line_must_be_an_object() {
        assert_eq!(problems_of_lines(&EXPERIMENTS[0], "[]\nfloor: 100 ns\n").len(), 4);
    }
}
