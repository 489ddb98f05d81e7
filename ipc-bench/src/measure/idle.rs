//! `ipc-bench idle`: what channels cost while nothing happens: processor time and wake-ups of a
//! receiver that waits, and memory.

use super::{
    experiment::Extent,
    plan::Contender,
    report::micros,
    survey::{Step, Survey, waits_only_by},
    table::{Table, decimals},
};
use crate::{
    cli::{Common, or_default},
    record::{Idle as IdleRow, Row},
    rig::team::Rig,
    spec::{Job, LaneSpec, Member, Memory, Outcome, Shape, TransportId, Waiting},
    trouble::Trouble,
};
use clap::Args;

/// The ways of waiting that are no busy-waiting.
const WAITS: &[Waiting] = &[Waiting::Adaptive, Waiting::Block];

/// What is measured if nothing is named: everything of the toolkit.
const TRANSPORTS: &[TransportId] = {
    use TransportId as T;
    &[
        T::Mq,
        T::Sysv,
        T::Unix,
        T::ShmSpsc,
        T::ShmMpmc,
        T::ShmSealed,
        T::ShmBroadcast,
        T::ShmBroadcastReliable,
        T::ShmLatest,
        T::ShmRpc,
    ]
};

/// Those that tell most.
const CHANNELS: &[TransportId] =
    &[TransportId::Mq, TransportId::Sysv, TransportId::Unix, TransportId::ShmSpsc, TransportId::ShmMpmc];

/// Round trips before: both have met, and have the channel's pages.
const WARM_UP: u64 = 16;

/// As it is asked for.
#[derive(Args, Clone, Debug)]
pub(crate) struct Asked {
    #[command(flatten)]
    pub(crate) common: Common,
    /// How the receiver waits, separated by commas: adaptive, block [default: both]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    wait: Vec<Waiting>,
}

impl Asked {
    pub(crate) fn survey(&self) -> Idle {
        Idle {
            transports: or_default(&self.common.transport, TRANSPORTS),
            waits: or_default(&self.wait, WAITS),
            watched_ms: if self.common.quick { 5 } else { 2_000 },
        }
    }
}

/// What is to be measured.
#[derive(Clone, Debug)]
pub(crate) struct Idle {
    transports: Vec<TransportId>,
    waits: Vec<Waiting>,
    /// For how long a receiver is watched.
    watched_ms: u32,
}

impl Idle {
    /// Its part of a run of everything.
    pub(super) fn of(extent: Extent) -> Self {
        let (transports, watched_ms) = match extent {
            Extent::Smoke => (CHANNELS, 5),
            Extent::Quick => (CHANNELS, 500),
            Extent::Full => (TRANSPORTS, 2_000),
        };
        Self { transports: transports.into(), waits: WAITS.into(), watched_ms }
    }

    /// Who waits how, or why not.
    fn receivers(&self) -> Vec<Result<LaneSpec, String>> {
        let mut lanes = Vec::new();
        for &transport in &self.transports {
            if !TRANSPORTS.contains(&transport) {
                lanes.push(Err(format!("{transport} is no channel of the toolkit's")));
                continue;
            }
            let its = transport.traits().waits;
            if !self.waits.iter().any(|waiting| its.contains(waiting)) {
                lanes.push(Err(waits_only_by(transport)));
            }
            for &waiting in self.waits.iter().filter(|waiting| its.contains(waiting)) {
                lanes.push(match waiting {
                    Waiting::Spin => Err(format!(
                        "{transport}, spin: who spins is never idle, and takes a whole processor"
                    )),
                    _ => Ok(Contender::new(transport, waiting, [Job::Answer; 2]).lane),
                });
            }
        }
        lanes
    }
}

/// Whether its channels can be weighed by one process alone.
fn can_be_weighed(transport: TransportId) -> bool {
    use TransportId as T;
    TRANSPORTS.contains(&transport) && !matches!(transport, T::ShmSealed | T::ShmLatest | T::ShmRpc)
}

impl Survey for Idle {
    fn name(&self) -> &'static str {
        "idle"
    }

    fn heading(&self) -> String {
        format!(
            "idle: receivers that wait for nothing, watched for {} ms each; what a channel takes of memory",
            self.watched_ms
        )
    }

    fn steps(&self) -> Vec<Step<'_>> {
        let watch = |lane: LaneSpec| Step {
            label: format!("{}, {}", lane.transport, lane.waiting.name()),
            sides: [1, 1],
            measure: Box::new(move |rig, _| watch(&lane, self.watched_ms, rig).map(|row| vec![row])),
        };
        let weigh = |transport: TransportId| Step {
            label: format!("{transport}, memory"),
            sides: [1, 0],
            measure: Box::new(move |rig, _| weigh(transport, rig).map(|row| vec![row])),
        };
        let watched = self.receivers().into_iter().filter_map(Result::ok).map(watch);
        let weighed =
            self.transports.iter().copied().filter(|&transport| can_be_weighed(transport)).map(weigh);
        let watched: Vec<_> = watched.collect();
        if watched.is_empty() { watched } else { watched.into_iter().chain(weighed).collect() }
    }

    fn left_out(&self) -> Vec<String> {
        self.receivers().into_iter().filter_map(Result::err).collect()
    }

    fn text(&self, rows: &[Row]) -> String {
        let mut text = String::new();
        for waiting in WAITS {
            let its: Vec<&Row> =
                rows.iter().filter(|row| row.wait.as_deref() == Some(waiting.name())).collect();
            if !its.is_empty() {
                text += &format!("\nwait: {}\n{}", waiting.name(), waits(&its));
            }
        }
        let weighed: Vec<&Row> = rows.iter().filter(|row| row.memory.is_some()).collect();
        if !weighed.is_empty() {
            text += &format!("\nmemory\n{}", memory(&weighed));
        }
        text + "\n" + LEGEND
    }
}

const LEGEND: &str = "\
cpu us/s  processor time of the waiting process for each second, all of its threads
wakes/s   how often it went to sleep, and so was woken up, in each second
room      for messages, with the defaults; the kernel doesn't say what its queues take, and
          takes it when a message comes
file      blocks of the channel's file: memory where that is in /dev/shm
receiver  what of a process is in memory more once it can receive, or send; what both ends and
          other processes have mapped of the same file is there once
";

fn waits(rows: &[&Row]) -> String {
    let mut table = Table::new();
    let of = |figure: fn(&IdleRow) -> f64, digits| {
        rows.iter().map(move |row| decimals(row.idle.as_ref().map(figure), digits))
    };
    table.column("transport", rows.iter().map(|row| Some(row.transport.to_string())));
    table.column(
        "cpu us/s",
        rows.iter().map(|row| micros(row.idle.as_ref().map(|idle| idle.cpu_ns_per_second), 1)),
    );
    table.column("wakes/s", of(|idle| idle.wakeups_per_second, 1));
    table.text()
}

fn memory(rows: &[&Row]) -> String {
    let mut table = Table::new();
    let of = |bytes: fn(&Memory) -> Option<u64>| {
        rows.iter().map(move |row| decimals(row.memory.as_ref().and_then(bytes).map(kib), 0))
    };
    table.column("transport", rows.iter().map(|row| Some(row.transport.to_string())));
    table.column("room KiB", of(|memory| memory.room_bytes));
    table.column("file KiB", of(|memory| memory.file_bytes));
    table.column("receiver +KiB", of(|memory| Some(memory.receiver_bytes)));
    table.column("sender +KiB", of(|memory| Some(memory.sender_bytes)));
    table.text()
}

fn kib(bytes: u64) -> f64 {
    bytes as f64 / 1024.0
}

/// The far process waits, the near one watches it.
fn watch(lane: &LaneSpec, for_ms: u32, rig: &mut Rig) -> Result<Row, Trouble> {
    let mut team = rig.start(vec![LaneSpec { tag: "0".into(), ..lane.clone() }])?;
    team.run(0, [Job::Ping, Job::Echo], WARM_UP)?;
    let pid = team.pid(Member::NEAR.opposite());
    let pid = pid.ok_or_else(|| Trouble::Failed("there is no far process to be watched".into()))?;
    let outcomes = team.run(0, [Job::WatchIdle { pid, for_ms }, Job::Answer], 1)?;
    let seen = outcomes.0[0].first().ok_or_else(|| Trouble::Failed("no near process has answered".into()))?;
    Ok(Row { idle: Some(idle(seen)), wait: Some(lane.waiting.name().into()), ..row(lane.transport) })
}

fn idle(seen: &Outcome) -> IdleRow {
    let seconds = seen.ended_ns.saturating_sub(seen.started_ns).max(1) as f64 / 1e9;
    IdleRow {
        watched_s: seconds,
        cpu_ns_per_second: seen.cpu_ns as f64 / seconds,
        wakeups_per_second: seen.sleeps as f64 / seconds,
    }
}

/// The near process makes a channel and opens it.
fn weigh(transport: TransportId, rig: &mut Rig) -> Result<Row, Trouble> {
    // Nobody waits.
    let Contender { lane, jobs } = Contender::new(transport, Waiting::Block, [Job::Weigh; 2]);
    let mut team = rig.start(vec![LaneSpec { shape: Shape::Solo, tag: "0".into(), ..lane }])?;
    let outcomes = team.run(0, jobs, 1)?;
    let memory = outcomes.0[0].first().and_then(|outcome| outcome.memory.clone());
    let memory = memory.ok_or_else(|| Trouble::Failed("the near process has weighed nothing".into()))?;
    Ok(Row { memory: Some(memory), operation: Some("memory".into()), ..row(transport) })
}

fn row(transport: TransportId) -> Row {
    Row {
        experiment: "idle".into(),
        transport: transport.name().into(),
        message_len_bytes: 8,
        senders: 1,
        receivers: 1,
        batch: 1,
        rounds: 1,
        ..Row::default()
    }
}

#[cfg(test)]
mod tests {
    use super::{Idle, TRANSPORTS, idle};
    use crate::{
        measure::{experiment::Extent, survey::Survey},
        record::{Idle as IdleRow, Row},
        spec::{Memory, Outcome, TransportId, Waiting},
    };

    #[test]
    fn every_way_of_waiting_but_spinning_is_watched_of_every_channel() {
        let steps: Vec<String> = Idle::of(Extent::Full).steps().into_iter().map(|step| step.label).collect();
        for shown in ["mq, block", "shm:rpc, adaptive", "shm:latest, block", "unix, memory"] {
            assert!(steps.iter().any(|step| step == shown), "no {shown} in {steps:?}");
        }
        assert!(!steps.iter().any(|step| step.contains("mq, adaptive")), "the kernel has no such way");
        assert_eq!(steps.iter().filter(|step| step.ends_with("memory")).count(), TRANSPORTS.len() - 3);
    }

    #[test]
    fn who_spins_and_who_is_no_channel_is_left_out_and_said() {
        let asked = |transport, waiting| Idle {
            transports: vec![transport],
            waits: vec![waiting],
            ..Idle::of(Extent::Smoke)
        };
        let spinning = asked(TransportId::ShmSpsc, Waiting::Spin);
        assert!(spinning.steps().is_empty() && spinning.left_out()[0].contains("takes a whole processor"));
        let kernel = asked(TransportId::Mq, Waiting::Adaptive);
        assert!(kernel.steps().is_empty() && kernel.left_out()[0].contains("mq waits by spin, block only"));
        let floor = asked(TransportId::Futex, Waiting::Block);
        assert!(floor.steps().is_empty() && floor.left_out()[0].contains("floor:futex is no channel"));
    }

    #[test]
    fn what_was_seen_is_told_for_each_second() {
        let seen = Outcome {
            started_ns: 1_000,
            ended_ns: 500_001_000,
            cpu_ns: 60_000,
            sleeps: 2,
            ..Outcome::default()
        };
        let expected = IdleRow { watched_s: 0.5, cpu_ns_per_second: 120_000.0, wakeups_per_second: 4.0 };
        assert_eq!(idle(&seen), expected);
    }

    #[test]
    fn what_the_kernel_doesnt_say_is_no_figure() {
        let row = |transport: TransportId, memory| Row { memory: Some(memory), ..super::row(transport) };
        let room_bytes = Some(80 << 10);
        let rows = [
            row(
                TransportId::Mq,
                Memory { room_bytes, file_bytes: None, receiver_bytes: 4096, sender_bytes: 0 },
            ),
            row(
                TransportId::ShmSpsc,
                Memory { room_bytes, file_bytes: Some(96 << 10), receiver_bytes: 0, sender_bytes: 8192 },
            ),
        ];
        let text = Idle::of(Extent::Smoke).text(&rows);
        let cells = |name: &str| -> Vec<String> {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().map(str::to_owned).collect()
        };
        assert_eq!(cells("mq "), ["mq", "80", "-", "4", "0"]);
        assert_eq!(cells("shm:spsc "), ["shm:spsc", "80", "96", "0", "8"]);
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    }
}
