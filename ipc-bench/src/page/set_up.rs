//! What the figures say of set-up: what comes before the first message, and when messages have made
//! up for it.

use super::{
    costs::lives,
    rate, time,
    verdicts::{ALIKE, Verdict, is_message_passing, least, not_measured},
};
use crate::record::Row;

const CLAIM: &str = "“Message passing is slower because the connection set-up takes time.”";

/// What it takes, and from how many messages on each model is ahead.
pub(super) fn set_up(rows: &[Row]) -> Verdict {
    let shared = |row: &Row| row.experiment == "open" && row.transport.starts_with("shm:");
    let passing = |row: &Row| row.experiment == "setup" && is_message_passing(row);
    let (Some(memory), Some(kernel)) = (Parts::of(rows, &shared), Parts::of(rows, &passing)) else {
        return not_measured(CLAIM);
    };
    let mut figures = vec![memory.text(), kernel.text()];
    let (memory_ns, kernel_ns) = (memory.whole_ns(), kernel.whole_ns());
    let mut says = match kernel_ns / memory_ns {
        ratio if ratio < 1.0 / ALIKE => format!(
            "No, the other way round: set-up takes shared memory {:.1} times as long ({} against {}).",
            1.0 / ratio,
            time(memory_ns),
            time(kernel_ns)
        ),
        ratio if ratio > ALIKE => format!(
            "Its set-up does take longer: {} against {}, {ratio:.1} times.",
            time(kernel_ns),
            time(memory_ns)
        ),
        _ => format!("Set-up takes both the same: {} and {}.", time(memory_ns), time(kernel_ns)),
    };
    let run = run(rows);
    if !run.is_empty() {
        figures.extend(run.iter().map(Life::text));
        says += &crossover(&run);
    }
    if let Some((messages, figure)) = made_up(rows, memory_ns - kernel_ns) {
        figures.push(format!("{figure}; put together with set-up, {}", calculated(messages)));
    }
    Verdict { claim: CLAIM.into(), says, figures }
}

/// How fast a channel is made and opened: that of a model for which both is fastest.
struct Parts {
    transport: String,
    create_ns: f64,
    open_ns: f64,
}

impl Parts {
    fn of(rows: &[Row], is_meant: &dyn Fn(&Row) -> bool) -> Option<Self> {
        let is = |row: &Row, operation: &str| row.operation.as_deref() == Some(operation) && is_meant(row);
        let parts = |created: &Row| {
            let opened =
                rows.iter().find(|row| is(row, "open+send") && row.transport == created.transport)?;
            let transport = created.transport.to_string();
            Some(Self { transport, create_ns: created.p50_ns?, open_ns: opened.p50_ns? })
        };
        let all = rows.iter().filter(|row| is(row, "create")).filter_map(parts);
        all.min_by(|one, other| one.whole_ns().total_cmp(&other.whole_ns()))
    }

    fn whole_ns(&self) -> f64 {
        self.create_ns + self.open_ns
    }

    fn text(&self) -> String {
        let (create, open) = (time(self.create_ns), time(self.open_ns));
        format!("{}: made in {create}, opened with a first message sent in {open}", self.transport)
    }
}

/// Whole lives with so many messages: the fastest of each model.
struct Life<'a> {
    messages: u64,
    memory: (&'a str, f64),
    kernel: (&'a str, f64),
}

impl Life<'_> {
    /// How many times as long the kernel's takes.
    fn ratio(&self) -> f64 {
        self.kernel.1 / self.memory.1
    }

    fn text(&self) -> String {
        let Self { messages, memory, kernel } = self;
        let plural = if *messages == 1 { "message" } else { "messages" };
        format!(
            "made, opened and used for {messages} {plural}, run as a whole: {} {}, {} {}",
            memory.0,
            time(memory.1),
            kernel.0,
            time(kernel.1)
        )
    }
}

/// Those numbers of messages that both models were run with, from the fewest on.
fn run(rows: &[Row]) -> Vec<Life<'_>> {
    let lives = lives(rows);
    let best = |messages: u64, is_memory: bool| {
        let its = lives.iter().filter(|(name, _)| name.starts_with("shm:") == is_memory);
        its.filter_map(|(name, times)| Some((*name, *times.get(&messages)?)))
            .min_by(|one, other| one.1.total_cmp(&other.1))
    };
    let mut counts: Vec<u64> = lives.values().flat_map(|times| times.keys().copied()).collect();
    counts.sort_unstable();
    counts.dedup();
    let both = |&messages: &u64| {
        Some(Life { messages, memory: best(messages, true)?, kernel: best(messages, false)? })
    };
    counts.iter().filter_map(both).collect()
}

/// Who is ahead until when, by what was run.
fn crossover(run: &[Life]) -> String {
    let behind = run.iter().rposition(|life| life.ratio() <= 1.0);
    let (Some(first), Some(last)) = (run.first(), run.last()) else { return String::new() };
    match behind {
        None => format!(" Run as a whole, shared memory is ahead from {} on.", messages(first.messages)),
        Some(index) if index + 1 == run.len() => {
            format!(" Run as a whole, message passing is ahead with up to {}.", messages(last.messages))
        }
        Some(index) => format!(
            " Run as a whole, message passing is ahead with {}, shared memory with {}: there its messages have \
             made up for its set-up.",
            messages(run[index].messages),
            messages(run[index + 1].messages)
        ),
    }
}

fn messages(count: u64) -> String {
    if count == 1 { "one message".into() } else { format!("{count} messages") }
}

/// After how many messages what set-up takes more is made up for by messages that cost less; `None`
/// if never.
fn made_up(rows: &[Row], memory_takes_more_ns: f64) -> Option<(Option<f64>, String)> {
    let cost = |model: &dyn Fn(&Row) -> bool| {
        let streams = rows.iter().filter(|row| {
            let is_plain = row.batch == 1 && row.senders + row.receivers == 2 && row.message_len_bytes == 8;
            row.experiment == "throughput" && is_plain && row.wait.as_deref() == Some("block") && model(row)
        });
        least(streams, |row| row.messages_per_second.map(|rate| 1e9 / rate))
    };
    let (memory, memory_ns) = cost(&|row: &Row| row.transport.starts_with("shm:"))?;
    let (kernel, kernel_ns) = cost(&is_message_passing)?;
    let figure = format!(
        "8 bytes one way, blocking: {} {} messages/s, {} {}",
        memory.transport,
        rate(1e9 / memory_ns),
        kernel.transport,
        rate(1e9 / kernel_ns)
    );
    let messages = memory_takes_more_ns / (kernel_ns - memory_ns);
    Some(((messages > 0.0).then(|| messages.ceil()), figure))
}

fn calculated(messages: Option<f64>) -> String {
    match messages {
        Some(messages) => format!("what differs there should be made up for after {messages:.0} messages"),
        None => "what differs there should never be made up for".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::set_up;
    use crate::record::{Life, Row};

    fn opening(
        experiment: &'static str,
        transport: &'static str,
        operation: &'static str,
        p50_us: f64,
    ) -> Row {
        Row {
            experiment: experiment.into(),
            transport: transport.into(),
            operation: Some(operation.into()),
            p50_ns: Some(p50_us * 1e3),
            ..Row::default()
        }
    }

    fn stream(transport: &'static str, ns: f64) -> Row {
        Row {
            experiment: "throughput".into(),
            transport: transport.into(),
            wait: Some("block".into()),
            message_len_bytes: 8,
            messages_per_second: Some(1e9 / ns),
            batch: 1,
            senders: 1,
            receivers: 1,
            ..Row::default()
        }
    }

    fn parts() -> Vec<Row> {
        vec![
            opening("open", "shm:spsc", "create", 200.0),
            opening("open", "shm:spsc", "open+send", 50.0),
            opening("setup", "mq", "create", 5.0),
            opening("setup", "mq", "open+send", 5.0),
            // It is no part of a channel that is made more slowly.
            opening("setup", "unix", "create", 9.0),
            opening("setup", "unix", "open+send", 2.0),
            stream("shm:spsc", 100.0),
            stream("mq", 900.0),
        ]
    }

    /// With so many messages: memory's time, the kernel's.
    fn lives(all: &[(u64, f64, f64)]) -> Vec<Row> {
        let life = |transport: &'static str, messages, us| Row {
            life: Some(Life { messages, quartiles_ns: None }),
            ..opening("setup", transport, "whole life", us)
        };
        all.iter()
            .flat_map(|&(count, memory, kernel)| [life("shm:spsc", count, memory), life("mq", count, kernel)])
            .collect()
    }

    #[test]
    fn set_up_is_weighed_against_the_messages_that_were_run() {
        let run = lives(&[(1, 260.0, 15.0), (100, 270.0, 100.0), (1_000, 350.0, 900.0)]);
        let verdict = set_up(&[parts(), run].concat());
        assert!(verdict.says.starts_with("No, the other way round: set-up takes shared memory 25.0 times"));
        assert!(
            verdict
                .says
                .contains("message passing is ahead with 100 messages, shared memory with 1000 messages:"),
            "{}",
            verdict.says
        );
        assert_eq!(verdict.figures.len(), 2 + 3 + 1);
        assert_eq!(
            verdict.figures[2],
            "made, opened and used for 1 message, run as a whole: shm:spsc 260.0 µs, mq 15.0 µs"
        );
        // 240 µs more, 800 ns saved each.
        assert!(verdict.figures[5].ends_with("made up for after 300 messages"), "{:?}", verdict.figures);
    }

    #[test]
    fn who_is_ahead_all_the_way_is_said_to_be() {
        let says = |all: &[(u64, f64, f64)]| set_up(&[parts(), lives(all)].concat()).says;
        assert!(
            says(&[(1, 1.0, 2.0), (10, 1.0, 3.0)]).ends_with("shared memory is ahead from one message on.")
        );
        let never = says(&[(1, 3.0, 2.0), (10, 4.0, 3.0)]);
        assert!(never.ends_with("message passing is ahead with up to 10 messages."), "{never}");
        let again = says(&[(1, 1.0, 2.0), (10, 4.0, 3.0), (100, 1.0, 9.0)]);
        assert!(again.contains("ahead with 10 messages, shared memory with 100 messages:"), "{again}");
        assert!(!says(&[]).contains("as a whole"));
    }
}
