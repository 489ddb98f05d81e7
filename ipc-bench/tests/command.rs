//! The binary as its users meet it: what it prints, how it fails, and that nothing of it
//! stays. No test here says anything about time: rounds are too short to mean anything.

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rstest::rstest;
use serde_json::Value;
use std::{
    fs,
    path::Path,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

const FIXED_KEYS: [&str; 13] = [
    "experiment",
    "transport",
    "wait",
    "message_len_bytes",
    "p50_ns",
    "p99_ns",
    "p999_ns",
    "max_ns",
    "floor_ns",
    "floor_ratio",
    "messages_per_second",
    "bytes_per_second",
    "cpu_ns_per_message",
];

fn bench(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ipc-bench"));
    // What is tested is the rig, not where it measures.
    command.args(arguments).arg("--anyway");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Does it where there is one processor only: a program has the affinity of the thread that starts
/// it.
fn on_one_processor<T>(act: impl FnOnce() -> T) -> T {
    let myself = Pid::from_raw(0);
    let before = sched_getaffinity(myself).unwrap();
    let first = (0..CpuSet::count()).find(|&processor| before.is_set(processor).unwrap()).unwrap();
    let mut one = CpuSet::new();
    one.set(first).unwrap();
    sched_setaffinity(myself, &one).unwrap();
    let what = act();
    sched_setaffinity(myself, &before).unwrap();
    what
}

#[rstest]
#[case::an_experiment(&["latency", "--quick"])]
#[case::a_survey(&["idle", "--quick"])]
#[case::all(&["all", "--smoke"])]
#[case::the_self_test(&["self-test", "--smoke"])]
#[case::locks(&["lock", "--quick"])]
fn where_there_is_one_processor_nothing_is_measured_and_what_to_do_is_said(#[case] arguments: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ipc-bench"));
    let output = on_one_processor(|| command.args(arguments).output().unwrap());
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
    let said = stderr(&output);
    assert!(
        said.contains("all processes take turns on it") || said.contains("there is one processor"),
        "{said}"
    );
    assert!(said.contains("--anyway measures nevertheless"), "{said}");
}

#[test]
fn what_is_measured_on_one_processor_anyway_says_so() {
    let folder = Folder::new("one");
    let kept = folder.file("run.jsonl");
    let asked = ["all", "--smoke", "--json", "--keep", &kept];
    let mut child = on_one_processor(|| bench(&asked).spawn().unwrap());
    let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    std::io::BufRead::read_line(&mut stdout, &mut first).unwrap();
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    std::io::copy(&mut stdout, &mut std::io::sink()).unwrap();
    let output = child.wait_with_output().unwrap();
    let row: Value = serde_json::from_str(&first).unwrap();
    assert!(row["warnings"].to_string().contains("take turns on it"), "{row}");
    assert!(stderr(&output).contains("WARNING  "), "{}", stderr(&output));
    let output = bench(&["report", &kept, "--out", &folder.file("page")]).output().unwrap();
    let summary = String::from_utf8_lossy(&output.stdout);
    let caution =
        summary.lines().find(|line| line.starts_with("CAUTION ") && line.contains("take turns on it"));
    assert!(caution.is_some(), "{summary}");
    let page = fs::read_to_string(folder.0.join("page/index.html")).unwrap();
    assert!(page.contains("take turns on it"));
}

fn rows(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[rstest]
#[case::latency("latency", "p50_ns", "messages_per_second")]
#[case::throughput("throughput", "messages_per_second", "p50_ns")]
fn json_has_the_fixed_keys_for_every_transport(
    #[case] experiment: &str,
    #[case] measured: &str,
    #[case] doesnt_apply: &str,
) {
    let output = bench(&[experiment, "--quick", "--json", "--size", "8,100"]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let rows = rows(&output);
    let paused = rows.iter().any(|row| row["transport"] == "floor:cache-line-paused");
    assert_eq!(paused, experiment == "latency", "{rows:?}");
    for transport in [
        "floor:fixed-ring",
        "raw:mq",
        "raw:sysv",
        "raw:unix",
        "mq",
        "sysv",
        "unix",
        "shm:spsc",
        "shm:sealed",
        "shm:mpmc",
        "shm:broadcast",
        "shm:broadcast-reliable",
    ] {
        assert!(rows.iter().any(|row| row["transport"] == transport), "no {transport} in {rows:?}");
    }
    for row in &rows {
        assert!(FIXED_KEYS.iter().all(|key| row.get(key).is_some()), "{row}");
        assert_eq!(row["experiment"], experiment);
        assert!(row[measured].as_f64().unwrap() > 0.0, "{row}");
        assert!(row["floor_ns"].as_f64().unwrap() > 0.0, "{row}");
        assert!(row["floor_ratio"].as_f64().unwrap() > 0.0, "{row}");
        assert!(row["cpu_ns_per_message"].as_f64().unwrap() > 0.0, "{row}");
        assert!(row[doesnt_apply].is_null(), "{row}");
    }
}

#[test]
fn the_table_keeps_ways_of_waiting_apart_and_fits_100_columns() {
    // With the longest names.
    let transports = "floor:cache-line-paused,raw:sysv,sysv,shm:broadcast-reliable";
    let arguments = ["latency", "--quick", "--size", "8,16K", "--transport", transports];
    let output = bench(&arguments).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    for heading in ["wait: spin", "wait: adaptive", "wait: block", "x floor", "pinned"] {
        assert!(text.contains(heading), "no {heading} in {text}");
    }
    let is_prose = |line: &&str| ["left out", "machine", "WARNING"].iter().any(|word| line.starts_with(word));
    let table_lines = text.lines().filter(|line| !is_prose(line));
    for line in table_lines {
        assert!(line.chars().count() <= 100, "{line}");
    }
}

#[test]
fn setting_up_a_kernel_channel_is_measured_beside_the_bare_calls() {
    let output = bench(&["setup", "--quick", "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let rows = rows(&output);
    let (lives, rows): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row["operation"] == "whole life");
    for transport in ["mq", "sysv", "unix"] {
        let operations: Vec<_> = rows.iter().filter(|row| row["transport"] == transport).collect();
        assert_eq!(operations.len(), 3, "{rows:?}");
        assert!(operations.iter().all(|row| row["raw_ratio"].as_f64().unwrap() > 0.0), "{rows:?}");
    }
    for transport in ["mq", "sysv", "unix", "shm:spsc", "shm:mpmc"] {
        let its = lives.iter().filter(|row| row["transport"] == transport);
        let messages: Vec<_> = its.map(|row| row["life"]["messages"].as_u64().unwrap()).collect();
        // Those with more may have been too long.
        assert!([1, 10, 100].starts_with(&messages) && !messages.is_empty(), "{lives:?}");
    }
    assert!(lives.iter().all(|row| row["p50_ns"].as_f64().unwrap() > 0.0), "{lives:?}");
}

#[test]
fn lent_messages_are_measured_up_to_a_mebibyte() {
    let output =
        bench(&["latency", "--quick", "--json", "--loan", "--transport", "shm:spsc", "--wait", "spin"])
            .output()
            .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let lens: Vec<u64> = rows(&output).iter().map(|row| row["message_len_bytes"].as_u64().unwrap()).collect();
    assert_eq!(lens, [8, 64 << 10, 1 << 20]);
}

#[test]
fn whoever_is_blocked_is_compared_with_a_bare_futex() {
    let arguments = ["latency", "--quick", "--json", "--size", "8", "--wait", "block"];
    let output = bench(&arguments).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let rows = rows(&output);
    assert!(rows.iter().any(|row| row["transport"] == "floor:futex"), "{rows:?}");
    for row in rows.iter().filter(|row| row["transport"] != "floor:futex") {
        assert!(row["futex_ratio"].as_f64().unwrap() > 0.0, "{row}");
    }
}

#[rstest]
#[case::latency("latency")]
#[case::throughput("throughput")]
fn copied_messages_are_compared_with_two_bare_copies(#[case] experiment: &str) {
    let arguments = [experiment, "--quick", "--json", "--copy", "--transport", "floor:memcpy,shm:spsc"];
    let output = bench(&[&arguments[..], &["--wait", "spin"]].concat()).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let rows = rows(&output);
    let lens: Vec<_> = rows.iter().map(|row| row["message_len_bytes"].as_u64().unwrap()).collect();
    assert_eq!(lens, [64 << 10, 1 << 20, 64 << 10, 1 << 20]);
    for row in &rows {
        assert_eq!(row["touched"], "copied");
        assert!(row["memcpy_ratio"].as_f64().unwrap() > 0.0, "{row}");
        assert!(row["fixed_ring_ratio"].is_null(), "{row}");
    }
}

#[test]
fn openings_are_compared_with_the_bare_calls() {
    let output = bench(&["open", "--quick", "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let rows = rows(&output);
    for transport in ["raw:file", "shm:spsc", "shm:mpmc"] {
        let operations: Vec<_> =
            rows.iter().filter(|row| row["transport"] == transport).map(|row| &row["operation"]).collect();
        assert_eq!(operations, ["create", "open+send", "open+receive"]);
    }
    for row in &rows {
        assert!(FIXED_KEYS.iter().all(|key| row.get(key).is_some()), "{row}");
        let (p50, p99, max) = ("p50_ns", "p99_ns", "max_ns");
        assert!(row[p50].as_f64().unwrap() > 0.0, "{row}");
        assert!(row[p50].as_f64().unwrap() <= row[p99].as_f64().unwrap() + 1.0, "{row}");
        assert!(row[p99].as_f64().unwrap() <= row[max].as_f64().unwrap(), "{row}");
        assert_eq!(row["raw_ratio"].is_null(), row["transport"] == "raw:file", "{row}");
        assert_eq!(row["capacity_bytes"], 1 << 20);
        assert!(row["wait"].is_null() && row["floor_ratio"].is_null(), "{row}");
    }
}

#[rstest]
#[case::many_to_one("mq", 4, 1, "1")]
#[case::one_to_many("mq", 1, 3, "1")]
#[case::many_to_many("mq", 2, 2, "1")]
#[case::in_shared_memory("shm:mpmc", 2, 2, "1")]
#[case::in_batches("shm:mpmc", 3, 2, "16")]
fn several_processes_share_one_queue_and_nothing_is_lost(
    #[case] transport: &str,
    #[case] senders: usize,
    #[case] receivers: usize,
    #[case] batch: &str,
) {
    let (n, m) = (senders.to_string(), receivers.to_string());
    let arguments = ["throughput", "--quick", "--json", "--transport", transport, "--size", "8,100"];
    // More processes than processors: none of them may spin.
    let crowd = ["--wait", "block", "--senders", &n, "--receivers", &m, "--batch", batch];
    let output = bench(&[&arguments[..], &crowd].concat()).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let rows = rows(&output);
    assert_eq!(rows.len(), 2);
    for row in &rows {
        assert_eq!(row["batch"].to_string(), batch);
        assert_eq!(row["raw_ratio"].is_null(), transport != "mq", "{row}");
        assert_eq!((&row["senders"], &row["receivers"]), (&senders.into(), &receivers.into()));
        for key in ["messages_per_second", "alone_ratio", "fixed_ring_ratio"] {
            assert!(row[key].as_f64().unwrap() > 0.0, "{key}: {row}");
        }
        for key in ["senders_fairness", "receivers_fairness"] {
            assert!((0.0..=1.0).contains(&row[key].as_f64().unwrap()), "{key}: {row}");
        }
        assert_eq!(row["rounds"], 3);
        assert!(row["sent_messages"].as_u64().unwrap() > 0, "{row}");
        assert_eq!(row["received_messages"], row["sent_messages"], "{row}");
        assert_eq!(row["lost_messages"], 0, "{row}");
    }
}

#[test]
fn values_and_calls_go_back_and_forth_by_every_way_of_waiting() {
    let arguments = ["latency", "--quick", "--json", "--transport", "shm:latest,shm:rpc", "--size", "0,8,4K"];
    let output = bench(&arguments).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let rows = rows(&output);
    assert_eq!(rows.len(), 2 * 3 * 3);
    for row in &rows {
        assert!(row["floor_ratio"].as_f64().unwrap() > 0.0, "{row}");
        assert_eq!(row["futex_ratio"].is_number(), row["wait"] == "block", "{row}");
    }
}

#[test]
fn load_goes_up_until_a_channel_is_saturated_and_no_further() {
    let output = bench(&["load", "--quick", "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let rows = rows(&output);
    for transport in ["shm:spsc", "shm:mpmc", "mq", "unix", "sysv"] {
        let its: Vec<_> = rows.iter().filter(|row| row["transport"] == transport).collect();
        let saturated: Vec<_> = its.iter().map(|row| row["load"]["is_saturated"] == true).collect();
        // One a nanosecond is more than any machine can do.
        assert!(saturated.last() == Some(&true) && saturated.len() >= 2, "{its:?}");
        let (_, before) = saturated.split_last().unwrap();
        assert!(!before.windows(2).any(|two| two == [true, true]), "{its:?}");
        for row in its {
            assert!(FIXED_KEYS.iter().all(|key| row.get(key).is_some()), "{row}");
            assert_eq!(row["wait"], if transport.starts_with("shm:") { "adaptive" } else { "block" });
            let (p50, p99, max) = (&row["p50_ns"], &row["p99_ns"], &row["max_ns"]);
            assert!(p50.as_f64().unwrap() > 0.0 && p99.as_u64() <= max.as_u64(), "{row}");
            let enough = row["load"]["messages"].as_u64().unwrap() >= 1000;
            assert_eq!(row["p999_ns"].is_number(), enough, "{row}");
            assert!(row["floor_ns"].as_f64().unwrap() > 0.0, "{row}");
        }
    }
}

#[test]
fn the_table_of_load_says_what_was_asked_and_what_came() {
    let arguments =
        ["load", "--quick", "--transport", "shm:spsc,shm:sealed", "--rate", "5K", "--size", "8,64"];
    let output = bench(&arguments).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    for shown in ["wait: adaptive", "asked", "95 % of what was asked", "5K"] {
        assert!(text.contains(shown), "no {shown} in {text}");
    }
    assert!(
        stderr(&output).contains("left out: shm:sealed isn't measured under load"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn who_waits_is_watched_and_what_a_channel_takes_is_weighed() {
    let output = bench(&["idle", "--quick", "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let rows = rows(&output);
    let (waiting, weighed): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.get("idle").is_some());
    // Three that the kernel has block only.
    assert_eq!(waiting.len(), 3 + 2 * 7, "{waiting:?}");
    for row in waiting {
        assert!(FIXED_KEYS.iter().all(|key| row.get(key).is_some()), "{row}");
        for key in ["watched_s", "cpu_ns_per_second", "wakeups_per_second"] {
            assert!(row["idle"][key].as_f64().unwrap() >= 0.0, "{row}");
        }
        // Far from a processor of its own.
        assert!(row["idle"]["cpu_ns_per_second"].as_f64().unwrap() < 0.9e9, "{row}");
    }
    assert_eq!(weighed.len(), 7, "{weighed:?}");
    for row in weighed {
        let is_shared = row["transport"].as_str().unwrap().starts_with("shm:");
        let (room, file) = (&row["memory"]["room_bytes"], &row["memory"]["file_bytes"]);
        assert_eq!(room.is_number(), row["transport"] != "unix", "{row}");
        assert!(!is_shared || file.as_u64().unwrap() > room.as_u64().unwrap(), "{row}");
        assert!(!is_shared || row["memory"]["receiver_bytes"].as_u64().unwrap() > 0, "{row}");
    }
}

#[test]
fn what_safety_costs_stands_beside_what_there_is_without() {
    let output = bench(&["safety", "--quick", "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let rows = rows(&output);
    let of = |transport: &str| rows.iter().filter(|row| row["transport"] == transport).count();
    assert_eq!([of("shm:spsc"), of("shm:mpmc"), of("shm:sealed"), of("shm:mutex")], [2, 2, 2, 1]);
    assert_eq!(of("shm:broadcast-reliable"), 1, "who may miss some has no stream to compare with");
    for row in &rows {
        assert!(row["safety"]["times"].as_f64().unwrap() > 0.0, "{row}");
        let takes = [&row["safety"]["without_ns"], &row["safety"]["without_per_second"]];
        assert_eq!(takes.iter().filter(|figure| figure.is_number()).count(), 1, "{row}");
    }
}

#[test]
fn workers_and_crowds_are_measured_and_those_that_take_turns_are_told_apart() {
    let arguments = ["scale", "--quick", "--json"];
    let output = bench(&[&arguments[..], &["--workers", "1,2,8"]].concat()).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let workers = rows(&output);
    assert_eq!(workers.len(), 3 * 3);
    for row in &workers {
        assert!(FIXED_KEYS.iter().all(|key| row.get(key).is_some()), "{row}");
        assert!(row["messages_per_second"].as_f64().unwrap() > 0.0, "{row}");
        let scale = &row["scale"];
        assert_eq!(scale["locked_ratio"].is_number(), row["transport"] == "shm:spsc", "{row}");
        // It is counted, or said why not.
        assert_ne!(scale["transfers_per_order"].is_number(), scale["uncounted"].is_string(), "{row}");
        assert!(scale["processors"].as_u64().unwrap() > 0, "{row}");
    }
    let output = bench(&[&arguments[..], &["--transport", "shm:mpmc"]].concat()).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let crowds = rows(&output);
    assert_eq!(crowds.len(), 8);
    for row in &crowds {
        let count = |key: &str| row[key].as_u64().unwrap();
        assert_eq!(row["scale"]["processes"], count("senders") + count("receivers"), "{row}");
        assert_eq!(row["alone_ratio"].is_number(), row["scale"]["processes"] != 2, "{row}");
        assert_eq!(row["received_messages"], row["sent_messages"], "{row}");
    }
}

#[test]
fn newest_values_are_read_and_written_each_for_itself() {
    let output = bench(&["latest", "--quick", "--json", "--size", "8,100"]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let rows = rows(&output);
    assert_eq!(rows.len(), 6);
    for row in &rows {
        assert!(FIXED_KEYS.iter().all(|key| row.get(key).is_some()), "{row}");
        assert_eq!((&row["experiment"], &row["transport"]), (&"latest".into(), &"shm:latest".into()));
        assert!(row["p50_ns"].as_f64().unwrap() > 0.0, "{row}");
        assert!(row["floor_ratio"].as_f64().unwrap() > 0.0, "{row}");
        let watched = row["operation"] == "write watched";
        assert_eq!(row["seen_share"].is_number(), watched, "{row}");
        assert_eq!(row["awake_share"].is_number(), watched, "{row}");
        assert!(["read new", "read again", "write watched"].contains(&row["operation"].as_str().unwrap()));
    }
}

#[rstest]
#[case::lossy("shm:broadcast", 1, 3)]
#[case::lossy_to_one("shm:broadcast", 1, 1)]
#[case::lossy_from_several("shm:broadcast", 2, 2)]
#[case::reliable("shm:broadcast-reliable", 1, 3)]
#[case::reliable_from_several("shm:broadcast-reliable", 2, 2)]
fn what_is_published_reaches_every_subscriber_or_is_counted_as_lost(
    #[case] transport: &str,
    #[case] senders: usize,
    #[case] receivers: usize,
    #[values("1", "16")] batch: &str,
) {
    let (n, m) = (senders.to_string(), receivers.to_string());
    let arguments = ["throughput", "--quick", "--json", "--transport", transport, "--size", "8,100"];
    let crowd = ["--wait", "block", "--senders", &n, "--receivers", &m, "--batch", batch];
    let output = bench(&[&arguments[..], &crowd].concat()).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let rows = rows(&output);
    assert_eq!(rows.len(), 2);
    for row in &rows {
        let count = |key: &str| row[key].as_u64().unwrap();
        let to_all = count("sent_messages") * receivers as u64;
        assert!(to_all > 0, "{row}");
        assert_eq!(count("received_messages") + count("lost_messages"), to_all, "{row}");
        match transport {
            "shm:broadcast" => assert!((0.0..=1.0).contains(&row["lost_share"].as_f64().unwrap()), "{row}"),
            _ => assert!(count("lost_messages") == 0 && row["lost_share"].is_null(), "{row}"),
        }
        assert_eq!(row["alone_ratio"].is_null(), senders + receivers == 2, "{row}");
    }
}

#[test]
fn batches_are_streams_whose_messages_are_all_checked() {
    let arguments = ["throughput", "--quick", "--json", "--transport", "shm:spsc,shm:mpmc"];
    let batches = ["--wait", "spin", "--size", "8,100", "--batch", "64"];
    let output = bench(&[&arguments[..], &batches].concat()).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let rows = rows(&output);
    assert_eq!(rows.len(), 4);
    for row in &rows {
        assert_eq!((&row["batch"], &row["senders"]), (&64.into(), &1.into()));
        assert!(row["fixed_ring_ratio"].as_f64().unwrap() > 0.0, "{row}");
    }
}

#[test]
fn the_table_of_several_names_them_and_explains_its_columns() {
    let arguments = ["throughput", "--quick", "--senders", "2", "--receivers", "2", "--size", "8"];
    let output = bench(&arguments).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    for shown in ["2 to 2 processes", "2 x 2", "x 1to1", "fair s/r", "left out  shm:spsc"] {
        assert!(text.contains(shown), "no {shown} in {text}");
    }
}

#[rstest]
#[case::transport(&["latency", "--transport", "pigeon"], "shm:spsc")]
#[case::several_senders(&["throughput", "--senders", "2", "--transport", "shm:spsc"], "shm:spsc is measured with one sender")]
#[case::several_receivers(&["throughput", "--receivers", "8", "--transport", "shm:spsc"], "not with 1 and 8")]
#[case::batches(&["throughput", "--batch", "8", "--transport", "mq"], "mq sends no batches")]
#[case::too_many(&["throughput", "--senders", "9"], "1..=8")]
#[case::copies(&["latency", "--transport", "floor:memcpy"], "add --copy")]
#[case::openings(&["open", "--transport", "mq"], "mq has no channel in a file")]
#[case::numbers(&["throughput", "--senders", "2", "--transport", "mq", "--size", "7"], "numbers of 8 bytes")]
#[case::size(&["latency", "--size", "huge"], "0 to 128M")]
#[case::wait(&["throughput", "--wait", "never"], "adaptive")]
#[case::way_of_waiting_that_it_lacks(&["latency", "--transport", "mq", "--wait", "adaptive"], "mq waits by spin, block only")]
#[case::messages_that_the_kernel_refuses(&["latency", "--transport", "mq", "--size", "16M"], "msgsize_max")]
#[case::more_than_it_holds(&["tolerance", "--transport", "mq", "--in-flight", "1000"], "its channels hold")]
#[case::newest_with_several_under_way(&["tolerance", "--transport", "shm:latest"], "doesn't keep all")]
#[case::value_under_a_lock(&["latency", "--transport", "shm:mutex"], "for `tolerance`")]
#[case::spinning(&["idle", "--wait", "spin", "--transport", "shm:spsc"], "takes a whole processor")]
#[case::workers(&["scale", "--workers", "9"], "1..=8")]
#[case::no_crowd(&["scale", "--transport", "shm:spsc"], "shm:spsc is for one sender and one receiver")]
#[case::rate(&["load", "--rate", "fast"], "500, 10K, 2M")]
#[case::load_of_what_is_lossy(&["load", "--transport", "shm:broadcast"], "isn't measured under load")]
#[case::experiment(&["speed"], "--help")]
fn wrong_usage_ends_with_2_and_says_what_there_is(#[case] arguments: &[&str], #[case] said: &str) {
    let output = bench(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains(said), "{}", stderr(&output));
    assert!(output.stdout.is_empty());
}

#[test]
fn requests_and_a_locked_value_are_counted_with_ever_longer_hops() {
    let arguments = ["tolerance", "--quick", "--json", "--delay", "0,5us,2ms", "--in-flight", "1,8"];
    let transports = ["--transport", "mq,sysv,unix,shm:spsc,shm:mutex"];
    let output = bench(&[&arguments[..], &transports].concat()).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let rows = rows(&output);
    assert_eq!(rows.len(), 4 * 2 * 3 + 3);
    for row in &rows {
        assert!(FIXED_KEYS.iter().all(|key| row.get(key).is_some()), "{row}");
        let a_second = row["operations_per_second"].as_f64().unwrap();
        let (delay_ns, in_flight) = (row["delay_ns"].as_u64().unwrap(), row["in_flight"].as_u64());
        assert_eq!(in_flight.is_none(), row["transport"] == "shm:mutex", "{row}");
        // However fast or slow the machine is, no operation is done before both its delays are over.
        let most = in_flight.unwrap_or(1) as f64 * 1e9 / (2 * delay_ns) as f64;
        assert!(0.0 < a_second && a_second < most * 1.1, "{most}: {row}");
    }
}

#[test]
fn the_self_test_finds_what_is_delayed_lost_and_disturbed() {
    let output = bench(&["self-test", "--smoke", "--json"]).output().unwrap();
    let found = rows(&output);
    assert!(output.status.success(), "{found:?} {}", stderr(&output));
    let delays: Vec<_> = found.iter().filter(|finding| finding["check"] == "delay of each hop").collect();
    let injected_ns: Vec<_> = delays.iter().map(|finding| finding["injected_ns"].as_u64().unwrap()).collect();
    assert_eq!(injected_ns, [1_000, 10_000, 1_000_000]);
    assert!(delays.iter().all(|finding| finding["found_ns"].is_number() && finding["passed"].is_null()));
    let others: Vec<_> = found.iter().filter(|finding| finding["passed"] == true).collect();
    let found: Vec<_> = others.iter().map(|finding| finding["found"].as_str().unwrap()).collect();
    assert_eq!(found[..2], ["message 100000 is missing", "a message is lost"]);
    assert_eq!(others.len(), 8, "{others:?}");
}

/// A run that would take long, with its two measuring processes at work.
fn long_run(extra: &[&str]) -> (Child, [Pid; 2]) {
    long_run_of("shm:spsc", extra)
}

fn long_run_of(transport: &str, extra: &[&str]) -> (Child, [Pid; 2]) {
    let arguments = [&["latency", "--transport", transport, "--wait", "block"], extra].concat();
    let child = bench(&arguments).spawn().unwrap();
    let peers = its_two(&child, "measuring-process");
    (child, peers)
}

/// The two processes of this kind that a run has started, once they are there.
fn its_two(run: &Child, kind: &str) -> [Pid; 2] {
    let children = format!("/proc/{0}/task/{0}/children", run.id());
    until(kind, || {
        let listed = fs::read_to_string(&children).ok()?;
        let pids: Vec<Pid> =
            listed.split_whitespace().map(|pid| Pid::from_raw(pid.parse().unwrap())).collect();
        // A child that is stopped before its exec(2) would stop its parent, too.
        let begun = pids.iter().all(|pid| {
            fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains(kind))
        });
        begun.then_some(pids)?.try_into().ok()
    })
}

fn until<T>(what: &str, mut seen: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(value) = seen() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Whether a process is gone, or a zombie that whoever inherited it hasn't looked after.
fn has_ended(pid: Pid) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
}

fn assert_nothing_stays(coordinator: u32, peers: [Pid; 2]) {
    for peer in peers {
        assert!(!Path::new(&format!("/proc/{peer}")).exists(), "process {peer} is still there");
    }
    let left: Vec<_> = fs::read_dir("/dev/shm")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| {
            name.starts_with(&format!("ipc-bench-{coordinator}-"))
                || *name == format!("ipc-bench-lock-{coordinator}")
        })
        .collect();
    assert!(left.is_empty(), "{left:?} stays behind");
}

#[rstest]
#[case::near(0)]
#[case::far(1)]
fn a_killed_process_fails_its_block_and_the_run_goes_on(#[case] victim: usize) {
    let (child, peers) = long_run(&["--size", "8,16"]);
    let coordinator = child.id();
    kill(peers[victim], Signal::SIGKILL).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let name = ["near", "far"][victim];
    assert!(
        stderr(&output).contains(&format!("the {name} process ended early (signal: 9")),
        "{}",
        stderr(&output)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.lines().any(|line| line.split_whitespace().take(2).eq(["shm:spsc", "16"])), "{text}");
    assert_nothing_stays(coordinator, peers);
}

#[test]
fn a_stopped_process_is_given_up_after_the_watchdogs_time() {
    let (child, peers) = long_run(&["--size", "8", "--watchdog-s", "1"]);
    let coordinator = child.id();
    kill(peers[1], Signal::SIGSTOP).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("no measuring process was heard of for 1 s"), "{}", stderr(&output));
    assert_nothing_stays(coordinator, peers);
}

#[rstest]
#[case::interrupted(Signal::SIGINT, 130)]
#[case::terminated(Signal::SIGTERM, 143)]
fn a_signal_ends_the_run_and_leaves_nothing(#[case] signal: Signal, #[case] code: i32) {
    let (child, peers) = long_run(&[]);
    let coordinator = child.id();
    kill(Pid::from_raw(i32::try_from(coordinator).unwrap()), signal).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
    assert_nothing_stays(coordinator, peers);
}

#[rstest]
#[case::stopped(Signal::SIGSTOP, "1", "no measuring process was heard of for 1 s")]
#[case::killed(Signal::SIGKILL, "60", "the far process ended early")]
fn who_ends_or_says_nothing_is_missed_among_the_locks_too(
    #[case] signal: Signal,
    #[case] watchdog_s: &str,
    #[case] said: &str,
) {
    let child = bench(&["lock", "--watchdog-s", watchdog_s]).spawn().unwrap();
    let (coordinator, peers) = (child.id(), its_two(&child, "locking-process"));
    kill(peers[1], signal).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(said), "{}", stderr(&output));
    assert_nothing_stays(coordinator, peers);
}

#[rstest]
#[case::by_themselves(&["lock"])]
#[case::among_others(&["safety", "--quick", "--json"])]
fn a_signal_ends_a_run_of_locks_and_leaves_nothing(#[case] arguments: &[&str]) {
    let mut child = bench(arguments).stdout(Stdio::null()).spawn().unwrap();
    let (coordinator, peers) = (child.id(), its_two(&child, "locking-process"));
    kill(Pid::from_raw(i32::try_from(coordinator).unwrap()), Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(128 + Signal::SIGINT as i32));
    assert_nothing_stays(coordinator, peers);
}

#[rstest]
#[case::in_memory("shm:spsc")]
#[case::in_the_kernel("sysv")]
fn what_a_killed_run_leaves_goes_with_the_next_one(#[case] transport: &str) {
    let (mut child, peers) = long_run_of(transport, &[]);
    let prefix = format!("ipc-bench-{}-", child.id());
    let left = || {
        let folders = fs::read_dir("/dev/shm").unwrap().map(|entry| entry.unwrap().file_name());
        let names = folders.map(|name| name.into_string().unwrap());
        let queues = ipc_core::Transport::list(&ipc_mq::Sysv::new()).unwrap();
        let queues = queues.into_iter().map(|name| name.to_string());
        names.chain(queues).filter(|name| name.starts_with(&prefix)).collect::<Vec<_>>()
    };
    until("its channel", || (left().len() > usize::from(transport == "sysv")).then_some(()));
    child.kill().unwrap();
    child.wait().unwrap();
    for peer in peers {
        until("the end of the measuring processes", || has_ended(peer).then_some(()));
    }
    assert!(!left().is_empty(), "nobody was there to remove it");
    let next = bench(&["latency", "--quick", "--transport", "shm:spsc", "--wait", "spin"]).output().unwrap();
    assert!(next.status.success(), "{}", stderr(&next));
    assert!(left().is_empty(), "{:?} stays behind", left());
}

/// A folder that goes when the test is over.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ipc-bench-{}-{name}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

#[test]
fn all_is_kept_becomes_a_page_and_is_the_same_as_itself() {
    let folder = Folder::new("all");
    let (kept, out) = (folder.file("sub/run.jsonl"), folder.file("page"));
    let output = bench(&["all", "--smoke", "--json", "--keep", &kept]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let experiments: std::collections::BTreeSet<_> =
        rows(&output).iter().map(|row| row["experiment"].as_str().unwrap().to_owned()).collect();
    assert_eq!(
        Vec::from_iter(experiments),
        ["idle", "latency", "latest", "load", "open", "safety", "scale", "setup", "throughput", "tolerance"]
    );
    let output = bench(&["report", &kept, "--out", &out]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("Shared memory is faster"));
    let page = fs::read_to_string(folder.0.join("page/index.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("shm:spsc"));
    for section in ["Latency under load", "What waiting costs", "More processes"] {
        assert!(page.contains(section), "no {section}");
    }
    let output = bench(&["compare", &kept, &kept]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stdout).contains(" 0 worse, 0 better"));
}

#[test]
fn an_interrupted_run_keeps_what_it_has_measured() {
    let folder = Folder::new("interrupted");
    let kept = folder.file("run.jsonl");
    let mut child = bench(&["all", "--quick", "--json", "--keep", &kept]).spawn().unwrap();
    let mut first = String::new();
    let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut stdout, &mut first).unwrap();
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    std::io::copy(&mut stdout, &mut std::io::sink()).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(128 + Signal::SIGINT as i32));
    let output = bench(&["report", &kept, "--out", &folder.file("page")]).output().unwrap();
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("The run was interrupted"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_run_that_is_interrupted_before_its_first_result_leaves_the_last_one() {
    let folder = Folder::new("last");
    let kept = folder.file("run.jsonl");
    fs::write(&kept, "the last run\n").unwrap();
    let child = bench(&["all", "--full", "--json", "--keep", &kept]).spawn().unwrap();
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    let at_work = || fs::read_to_string(&children).ok().filter(|listed| !listed.trim().is_empty());
    until("a measuring process", at_work);
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(128 + Signal::SIGINT as i32), "{}", stderr(&output));
    assert!(output.stdout.is_empty(), "nothing was measured");
    assert_eq!(fs::read_to_string(&kept).unwrap(), "the last run\n");
    assert!(stderr(&output).contains("run.jsonl is as it was"), "{}", stderr(&output));
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1, "nothing is left beside it");
}

#[rstest]
#[case::report(&["report", "RUN", "--out", "OUT"])]
#[case::compare(&["compare", "RUN", "RUN"])]
#[case::lock(&["lock", "--quick"])]
fn a_reader_that_has_gone_is_no_fault(#[case] arguments: &[&str]) {
    let folder = Folder::new(&format!("gone-{}", arguments[0]));
    let (kept, out) = (folder.file("run.jsonl"), folder.file("page"));
    let head = r#"{"head":{"format":1,"started_unix_s":0,"version":"0","extent":"quick","machine":[],"warnings":[]}}"#;
    let row =
        r#"{"row":{"experiment":"latency","transport":"mq","floor_ratio":1.0,"ratio_quartiles":[1.0,1.0]}}"#;
    fs::write(&kept, format!("{head}\n{row}\n{{\"end\":{{\"complete\":true}}}}\n")).unwrap();
    let named = |argument: &&str| match *argument {
        "RUN" => kept.clone(),
        "OUT" => out.clone(),
        other => other.to_owned(),
    };
    let arguments: Vec<String> = arguments.iter().map(named).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut child = bench(&arguments).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[rstest]
#[case::nothing_there(None, "make a run with `ipc-bench all")]
#[case::foreign(Some("<html>"), "line 1: that is no line of a run")]
fn what_is_no_run_is_neither_compared_nor_made_a_page(#[case] content: Option<&str>, #[case] says: &str) {
    let folder = Folder::new(if content.is_some() { "foreign" } else { "missing" });
    let file = folder.file("run.jsonl");
    if let Some(content) = content {
        fs::write(&file, content).unwrap();
    }
    for (arguments, code) in [(vec!["report", &file], 1), (vec!["compare", &file, &file], 2)] {
        let output = bench(&arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(code));
        assert!(stderr(&output).contains(says), "{}", stderr(&output));
    }
}

#[test]
fn a_folder_that_cant_be_written_is_named() {
    let folder = Folder::new("unwritable");
    let kept = folder.file("run.jsonl");
    let head = r#"{"head":{"format":1,"started_unix_s":0,"version":"0","extent":"quick","machine":[],"warnings":[]}}"#;
    fs::write(&kept, format!("{head}\n")).unwrap();
    // A file is in the way.
    let output = bench(&["report", &kept, "--out", &format!("{kept}/page")]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("give another folder with --out"), "{}", stderr(&output));
}

#[test]
fn peers_that_arent_there_are_an_error_that_says_what_to_do() {
    let output = bench(&["peers", "--folder", "/nowhere"]).output().unwrap();
    assert!(!output.status.success());
    let says = stderr(&output);
    assert!(says.contains("there is no /nowhere/Cargo.toml") && says.contains("--folder"), "{says}");
}

#[test]
fn peers_are_not_measured_with_any_length() {
    let output = bench(&["peers", "--size", "9"]).output().unwrap();
    assert!(!output.status.success());
    assert!(stderr(&output).contains("8, 64K and 1M"), "{}", stderr(&output));
}
