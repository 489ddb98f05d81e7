//! Whether the measuring rig works: each experiment briefly, and the form of what it prints
//! for programs. Each experiment is a check; the figures themselves mean nothing here.

use super::TIME_LIMIT;
use crate::{process, report::Outcome, workspace};
use serde_json::Value;

const EXPERIMENTS: [&str; 2] = ["latency", "throughput"];

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
    Outcome::of_problems(&EXPERIMENTS.map(problems), "latency and throughput, briefly")
}

fn problems(experiment: &str) -> Vec<String> {
    let arguments =
        ["run", "--quiet", "--package", "ipc-bench", "--", experiment, "--quick", "--json", "--size", "8"];
    let finished = process::run_for_stdout(&mut workspace::cargo(&arguments), TIME_LIMIT);
    match finished.success {
        true => problems_of_lines(experiment, &finished.output),
        false => vec![format!("{experiment}: {}", finished.output)],
    }
}

fn problems_of_lines(experiment: &str, lines: &str) -> Vec<String> {
    let of_line = |line| problem(experiment, line).map(|problem| format!("{experiment}: {problem}: {line}"));
    match lines.is_empty() {
        true => vec![format!("{experiment}: printed nothing")],
        false => lines.lines().filter_map(of_line).collect(),
    }
}

fn problem(experiment: &str, line: &str) -> Option<String> {
    let Ok(Value::Object(row)) = serde_json::from_str(line) else { return Some("no JSON object".into()) };
    if row.get("experiment").and_then(Value::as_str) != Some(experiment) {
        return Some("another experiment".into());
    }
    let problems: Vec<_> =
        KEYS.iter().filter(|key| !row.contains_key(**key)).map(|key| format!("no key `{key}`")).collect();
    (!problems.is_empty()).then(|| problems.join(", "))
}

#[cfg(test)]
mod tests {
    use super::{KEYS, problem, problems_of_lines};
    use serde_json::{Map, Value};

    fn row() -> Map<String, Value> {
        let mut row: Map<_, _> = KEYS.iter().map(|key| ((*key).to_string(), Value::Null)).collect();
        row["experiment"] = "latency".into();
        row
    }

    fn problem_of(row: Map<String, Value>) -> Option<String> {
        problem("latency", &Value::Object(row).to_string())
    }

    #[test]
    fn a_row_with_all_keys_is_fine() {
        assert_eq!(problem_of(row()), None);
    }

    #[test]
    fn missing_keys_are_named_and_more_are_welcome() {
        let mut row = row();
        row.remove("p50_ns");
        row.insert("raw_ratio".into(), Value::Null);
        assert_eq!(problem_of(row).as_deref(), Some("no key `p50_ns`"));
    }

    #[test]
    fn every_line_must_be_an_object_and_there_must_be_one() {
        assert_eq!(problems_of_lines("latency", "").len(), 1);
        assert_eq!(problems_of_lines("latency", "[]\nfloor: 100 ns\n").len(), 2);
    }
}
