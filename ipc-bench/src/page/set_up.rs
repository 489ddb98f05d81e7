//! What the figures say of set-up: what comes before the first message, and when messages have made
//! up for it.

use super::{
    costs::lives,
    rate, time,
    verdicts::{ALIKE, APART, Verdict, is_message_passing, least, not_measured},
};
use crate::{
    jobs::opening::CAPACITY_BYTES,
    record::{Row, size},
};

const CLAIM: &str = "“Message passing is slower because the connection set-up takes time.”";

/// What it takes, and from how many messages on each model is ahead.
pub(super) fn set_up(rows: &[Row]) -> Verdict {
    let Some(Both { memory, kernel, is_of_one_moment }) = Both::of(rows) else {
        return not_measured(CLAIM);
    };
    let mut figures = vec![memory.text(rows), kernel.text(rows)];
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
    says += &format!(" That is of {} and {}", memory.with_room(rows), kernel.with_room(rows));
    says += if is_of_one_moment { ", in the same rounds." } else { "." };
    if !is_of_one_moment {
        says += APART;
    }
    let run = run(rows);
    if !run.is_empty() {
        figures.extend(run.iter().map(Life::text));
        says += &crossover(&run);
    }
    if let Some((messages, figure)) = made_up(rows, memory_ns - kernel_ns) {
        figures.push(format!(
            "{figure}, of different moments; put together with set-up, {}",
            calculated(messages)
        ));
    }
    Verdict { claim: CLAIM.into(), says, figures }
}

/// How fast a channel is made and opened.
struct Parts {
    transport: String,
    create_ns: f64,
    open_ns: f64,
}

/// The channel of each model for which both is fastest.
struct Both {
    memory: Parts,
    kernel: Parts,
    /// Whether both were in the same rounds; else each is of its own.
    is_of_one_moment: bool,
}

impl Both {
    fn of(rows: &[Row]) -> Option<Self> {
        let passing = |row: &Row| row.experiment == "setup" && is_message_passing(row);
        let own = |row: &Row| row.p50_ns;
        // What shm:spsc took in the rounds of that row.
        let others = |row: &Row| Some(row.p50_ns? / row.shared_ratio?);
        let together = Parts::all(rows, &passing, &own).into_iter().filter_map(|kernel| {
            let is_its = |row: &Row| passing(row) && row.transport == kernel.transport;
            let memory = Parts::all(rows, &is_its, &others).pop()?;
            let memory = Parts { transport: "shm:spsc".into(), ..memory };
            Some(Self { memory, kernel, is_of_one_moment: true })
        });
        let by_ratio = |one: &Self, other: &Self| one.ratio().total_cmp(&other.ratio());
        together.min_by(by_ratio).or_else(|| {
            let shared = |row: &Row| row.experiment == "open" && row.transport.starts_with("shm:");
            let fastest = |is_meant: &dyn Fn(&Row) -> bool| {
                let all = Parts::all(rows, is_meant, &own).into_iter();
                all.min_by(|one, other| one.whole_ns().total_cmp(&other.whole_ns()))
            };
            Some(Self { memory: fastest(&shared)?, kernel: fastest(&passing)?, is_of_one_moment: false })
        })
    }

    fn ratio(&self) -> f64 {
        self.kernel.whole_ns() / self.memory.whole_ns()
    }
}

impl Parts {
    /// Of each transport that has both among those that are meant, by this time of each.
    fn all(
        rows: &[Row],
        is_meant: &dyn Fn(&Row) -> bool,
        time_ns: &dyn Fn(&Row) -> Option<f64>,
    ) -> Vec<Self> {
        let is = |row: &Row, operation: &str| row.operation.as_deref() == Some(operation) && is_meant(row);
        let parts = |created: &Row| {
            let opened =
                rows.iter().find(|row| is(row, "open+send") && row.transport == created.transport)?;
            let transport = created.transport.to_string();
            Some(Self { transport, create_ns: time_ns(created)?, open_ns: time_ns(opened)? })
        };
        rows.iter().filter(|row| is(row, "create")).filter_map(parts).collect()
    }

    fn whole_ns(&self) -> f64 {
        self.create_ns + self.open_ns
    }

    /// What it is, and how much it has room for: what was asked for, or what was found of the kernel's.
    fn with_room(&self, rows: &[Row]) -> String {
        let its = || rows.iter().filter(|row| row.transport == self.transport);
        let asked = || its().chain(rows.iter().filter(|row| row.experiment == "open"));
        if self.transport.starts_with("shm:") {
            let capacity_bytes = asked().find_map(|row| row.capacity_bytes).unwrap_or(CAPACITY_BYTES);
            return format!("{} with room for {} bytes", self.transport, size(capacity_bytes as usize));
        }
        match its().find_map(|row| row.memory.as_ref()?.room_bytes) {
            Some(room_bytes) => {
                format!(
                    "{} with the room that is its default, {} bytes",
                    self.transport,
                    size(room_bytes as usize)
                )
            }
            None => format!("{} with the room that is its default", self.transport),
        }
    }

    fn text(&self, rows: &[Row]) -> String {
        let (create, open) = (time(self.create_ns), time(self.open_ns));
        format!("{}: made in {create}, opened with a first message sent in {open}", self.with_room(rows))
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
    use super::{APART, set_up};
    use crate::{
        record::{Life, Row},
        spec::Memory,
    };

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
        assert!(
            verdict
                .says
                .contains("of shm:spsc with room for 1M bytes and mq with the room that is its default.")
        );
        assert!(verdict.says.contains(APART), "{}", verdict.says);
        // 240 µs more, 800 ns saved each.
        assert!(verdict.figures[5].ends_with("made up for after 300 messages"), "{:?}", verdict.figures);
    }

    #[test]
    fn where_both_models_were_in_the_same_rounds_these_count_and_both_rooms_are_named() {
        let beside = |transport, operation, p50_us, ratio| Row {
            shared_ratio: Some(ratio),
            ..opening("setup", transport, operation, p50_us)
        };
        let memory = Memory { room_bytes: Some(80 << 10), ..Memory::default() };
        let rows = [
            opening("open", "shm:spsc", "create", 200.0),
            opening("open", "shm:spsc", "open+send", 50.0),
            // There the machine was twice as slow.
            beside("mq", "create", 10.0, 10.0 / 400.0),
            beside("mq", "open+send", 10.0, 10.0 / 100.0),
            Row { memory: Some(memory), ..opening("idle", "mq", "memory", 0.0) },
        ];
        let verdict = set_up(&rows);
        let says = "No, the other way round: set-up takes shared memory 25.0 times as long (500.0 µs against 20.0 µs). \
                    That is of shm:spsc with room for 1M bytes and mq with the room that is its default, 80K bytes, in \
                    the same rounds.";
        assert_eq!(verdict.says, says);
        assert_eq!(
            verdict.figures[0],
            "shm:spsc with room for 1M bytes: made in 400.0 µs, opened with a first message sent in 100.0 µs"
        );
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
