//! What people use instead, beside ours: the same work in the same rounds.
//!
//! The peers are in a program of their own, `ipc-bench/peers`, which is built here at first, so
//! that nobody who builds the toolkit builds them. Who spins is compared with who spins, and
//! who sleeps with who sleeps.

use super::{
    experiment::{Pace, bar, measure_together},
    figures::Figures,
    plan::{Block, Contender},
    rounds::{Round, Series},
    run::Run,
    table::{Table, decimals, ratio},
};
use crate::{
    machine::{Machine, Unfit},
    record::{Head, Keeper, Row, are_close, size},
    rig::team::Rig,
    spec::{Experiment, Guest, Job, LaneSpec, Shape, Touch, TransportId, Waiting},
    stats::{median, quartiles},
    trouble::{Trouble, code, print},
};
use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

/// The lengths of message that are measured.
pub(crate) const SIZES_BYTES: [usize; 3] = [8, 64 << 10, 1 << 20];

/// What was asked for.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) folder: Option<PathBuf>,
    pub(crate) json: bool,
    pub(crate) is_smoke: bool,
    /// All, if empty.
    pub(crate) sizes_bytes: Vec<usize>,
    pub(crate) keep: PathBuf,
}

/// Those that do the same work in the same way.
#[derive(Clone, Copy, Debug)]
struct Match {
    experiment: Experiment,
    waiting: Waiting,
    len_bytes: usize,
    touch: Touch,
}

/// Builds the peers, measures them beside ours, says what came of it, and keeps it in a file.
pub(crate) fn run(asked: &Asked, unfit: Unfit) -> ExitCode {
    code(try_run(asked, unfit))
}

fn try_run(asked: &Asked, unfit: Unfit) -> Result<ExitCode, Trouble> {
    let program = build(asked.folder.as_deref()).map_err(Trouble::Failed)?;
    let machine = Machine::observe(unfit)?;
    let mut rig = Rig::new(machine.pinned.clone(), Duration::from_secs(20))?;
    rig.invite(program);
    let pace = if asked.is_smoke { Pace::SMOKE } else { Pace::DEFAULT };
    let head = Head::now("peers", machine.lines(), machine.warnings().to_vec());
    let mut keeper = Keeper::new(asked.keep.clone(), head).map_err(Trouble::Failed)?;
    match asked.json {
        true => eprintln!("{machine}"),
        false => print(&machine.to_string())?,
    }
    let matches = matches(&asked.sizes_bytes);
    let bar = bar(matches.len());
    let mut is_well = true;
    for its in matches {
        bar.set_message(its.title());
        match its.measure(&mut rig, pace, &machine) {
            Ok(rows) => {
                rows.iter().try_for_each(|row| keeper.row(row.clone())).map_err(Trouble::Failed)?;
                bar.suspend(|| show(&its, &rows, asked.json))?;
            }
            Err(Trouble::Failed(why)) => {
                is_well = false;
                bar.suspend(|| eprintln!("ipc-bench: failed: {}: {why}", its.title()));
                keeper.failed(&its.title(), &why).map_err(Trouble::Failed)?;
            }
            Err(other) => {
                eprintln!("ipc-bench: {}", keeper.whereabouts());
                return Err(other);
            }
        }
        bar.inc(1);
    }
    keeper.end().map_err(Trouble::Failed)?;
    bar.finish_and_clear();
    eprintln!("ipc-bench: {}", keeper.whereabouts());
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds the program that drives the peers, and says where it is.
fn build(folder: Option<&Path>) -> Result<PathBuf, String> {
    let built_from = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
    let folder = folder.unwrap_or(&built_from);
    let manifest = folder.join("Cargo.toml");
    if !manifest.is_file() {
        return Err(format!(
            "there is no {}: give the folder ipc-bench/peers of the source code with --folder",
            manifest.display()
        ));
    }
    let target = folder.join("target");
    let status = Command::new("cargo")
        .args(["build", "--release", "--locked", "--manifest-path"])
        .arg(&manifest)
        .arg("--target-dir")
        .arg(&target)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .map_err(|error| format!("cargo, which builds the peers, can't be run: {error}"))?;
    match status.success() {
        true => Ok(target.join("release/ipc-bench-peers")),
        false => Err(format!("cargo has not built the peers in {} ({status}), see above", folder.display())),
    }
}

fn matches(sizes_bytes: &[usize]) -> Vec<Match> {
    use Experiment::{Latency, Throughput};
    let all = [
        (Latency, 8, Touch::All),
        (Throughput, 8, Touch::All),
        (Latency, SIZES_BYTES[1], Touch::Copied),
        (Latency, SIZES_BYTES[2], Touch::Copied),
        (Latency, SIZES_BYTES[1], Touch::First),
        (Latency, SIZES_BYTES[2], Touch::First),
    ];
    let is_asked = |len_bytes| sizes_bytes.is_empty() || sizes_bytes.contains(&len_bytes);
    all.into_iter()
        .filter(|&(_, len_bytes, _)| is_asked(len_bytes))
        .flat_map(|(experiment, len_bytes, touch)| {
            [Waiting::Spin, Waiting::Block].map(|waiting| Match { experiment, waiting, len_bytes, touch })
        })
        // Nobody lends whose receiver sleeps.
        .filter(|its| its.guests().next().is_some())
        .collect()
}

impl Match {
    fn title(&self) -> String {
        let what = match (self.experiment, self.touch) {
            (Experiment::Throughput, _) => "one way",
            (_, Touch::All) => "there and back",
            (_, Touch::First) => "there and back, lent",
            (_, Touch::Copied) => "there and back, copied in and out",
        };
        format!("{} bytes {what}, {}", size(self.len_bytes), self.waiting.name())
    }

    fn guests(&self) -> impl Iterator<Item = Guest> {
        Guest::ALL.into_iter().filter(|guest| {
            guest.waiting() == self.waiting
                && (guest.lends() || self.touch != Touch::First)
                && (!guest.is_in_process() || self.len_bytes == 8)
        })
    }

    fn contender(&self, transport: TransportId) -> Contender {
        let jobs = match self.experiment {
            Experiment::Throughput => [Job::Stream, Job::Drain],
            _ => [Job::Ping, Job::Echo],
        };
        let Contender { lane, jobs } = Contender::new(transport, self.waiting, jobs);
        Contender { lane: LaneSpec { message_len_bytes: self.len_bytes, touch: self.touch, ..lane }, jobs }
    }

    /// Ours, the first one of which the others are compared with, the bare calls, the peers.
    fn contenders(&self) -> Vec<(String, Contender)> {
        let mut contenders = vec![(OURS.into(), self.contender(TransportId::ShmSpsc))];
        if self.experiment == Experiment::Throughput {
            // None of the others has such a call.
            let Contender { lane, jobs } = self.contender(TransportId::ShmSpsc);
            let lane = LaneSpec { batch: BATCH, ..lane };
            contenders.push((format!("{OURS}, {BATCH} at a time"), Contender { lane, jobs }));
        }
        if self.waiting == Waiting::Block {
            let bare = [TransportId::RawUnix, TransportId::RawMq];
            let fitting = if self.len_bytes == 8 { &bare[..] } else { &bare[..1] };
            contenders.extend(fitting.iter().map(|&id| (id.name().into(), self.contender(id))));
        }
        for (index, peer) in self.guests().enumerate() {
            let contender = self.contender(TransportId::ShmSpsc);
            let shape = Shape::Guests { peer, index: 1 + index };
            let kind = if peer.is_in_process() { "in-process" } else { "peer" };
            let lane = LaneSpec { shape, ..contender.lane };
            contenders.push((format!("{kind}:{}", peer.name()), Contender { lane, ..contender }));
        }
        contenders
    }

    /// A row of each.
    fn measure(&self, rig: &mut Rig, pace: Pace, machine: &Machine) -> Result<Vec<Row>, Trouble> {
        let (names, contenders): (Vec<_>, Vec<_>) = self.contenders().into_iter().unzip();
        let all = [Contender::floor()].into_iter().chain(contenders.iter().cloned()).collect();
        let stolen = machine.stolen();
        let mut series = measure_together(rig, all, pace, machine)?;
        let stolen_share = Some(stolen.share());
        let against_ours: Vec<_> = (0..names.len()).map(|index| self.against_ours(&series, index)).collect();
        // From the last one on, each takes its runs out of the rounds.
        let mut rows = Vec::new();
        for ((name, subject), ratios) in names.into_iter().zip(contenders).zip(against_ours).rev() {
            let rounds = series.rounds.iter_mut().filter_map(|round| {
                Some(Round { floor_ns: round.floor_ns, measured: vec![round.measured.pop()?] })
            });
            let rounds = rounds.collect();
            let its = Series { rounds, repeats: series.repeats };
            let block = Block { subject, opponents: Vec::new() };
            let (clock_ns, clocks_step_ns) = (machine.clock_cost_ns(), machine.clock_step_ns());
            let row = Figures { block: &block, series: &its, clock_ns, clocks_step_ns }.row(self.experiment);
            let row = Row { warnings: machine.warnings().to_vec(), stolen_share, ..row };
            rows.push(named(row, name, &ratios));
        }
        rows.reverse();
        Ok(rows)
    }

    /// How many times as fast ours was, round by round.
    fn against_ours(&self, series: &Series<Vec<Run>>, index: usize) -> Vec<f64> {
        let faster = |ours: &Run, other: &Run| match self.experiment {
            Experiment::Throughput => ours.messages_per_second() / other.messages_per_second(),
            _ => other.p50_ns / ours.p50_ns,
        };
        series.rounds.iter().map(|round| faster(&round.measured[0], &round.measured[index])).collect()
    }
}

const OURS: &str = "shm:spsc";

/// How many of our messages are sent and received at a time, where they are.
const BATCH: usize = 64;

fn named(row: Row, name: String, ratios: &[f64]) -> Row {
    let row = Row { transport: name.into(), ..row };
    if row.transport == OURS {
        return row;
    }
    let (ours_ratio, ours_quartiles) = (median(ratios.iter().copied()), quartiles(ratios.iter().copied()));
    Row { ours_ratio, ours_quartiles, ours: Some(OURS.into()), ..row }
}

fn show(its: &Match, rows: &[Row], json: bool) -> Result<(), Trouble> {
    if json {
        return rows.iter().try_for_each(|row| print(&serde_json::to_string(row)?));
    }
    let mut table = Table::new();
    let of = |figure: fn(&Row) -> Option<f64>| rows.iter().map(figure);
    table.column("transport", rows.iter().map(|row| Some(row.transport.to_string())));
    table.column("p50 ns", of(|row| row.p50_ns).map(|ns| decimals(ns, 0)));
    table.column("p99 ns", rows.iter().map(|row| row.p99_ns.map(|ns| ns.to_string())));
    table.column("M msg/s", of(|row| row.messages_per_second).map(|rate| decimals(rate.map(|r| r / 1e6), 2)));
    table.column("x floor", of(|row| row.floor_ratio).map(ratio));
    table.column("ours x", of(|row| row.ours_ratio).map(ratio));
    print(&format!("\n{}\n{}{}", its.title(), table.text(), verdict(rows)))
}

/// In words, who is fastest among those of other processes.
fn verdict(rows: &[Row]) -> String {
    let rivals =
        rows.iter().filter(|row| !["in-process:", OURS].iter().any(|no| row.transport.starts_with(no)));
    let best =
        rivals.filter_map(|row| Some((row, row.ours_ratio?))).min_by(|one, other| one.1.total_cmp(&other.1));
    match best {
        Some((row, ratio)) if are_close(ratio, 1.0) => {
            format!("{OURS} and the best other, {}, are alike: {ratio:.2} times as fast", row.transport)
        }
        Some((row, ratio)) if ratio > 1.0 => {
            format!("{OURS} is {ratio:.2} times as fast as the best other, {}", row.transport)
        }
        Some((row, ratio)) => {
            format!("{} wins: it is {:.2} times as fast as {OURS}", row.transport, 1.0 / ratio)
        }
        None => "there was nobody to compare with".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Row, build, matches, verdict};
    use crate::spec::Waiting;
    use std::path::Path;

    #[test]
    fn who_spins_is_never_compared_with_who_sleeps() {
        for its in matches(&[]) {
            let waits: Vec<_> =
                its.contenders().iter().map(|(_, contender)| contender.lane.waiting).collect();
            assert!(waits.iter().all(|&waiting| waiting == its.waiting), "{its:?}");
            assert!(its.guests().all(|guest| guest.waiting() == its.waiting));
        }
        assert!(matches(&[8]).iter().any(|its| its.waiting == Waiting::Block));
    }

    #[test]
    fn a_peer_that_wins_is_said_to() {
        let row =
            |name: &'static str, ours_ratio| Row { transport: name.into(), ours_ratio, ..Row::default() };
        let ours = row("shm:spsc", None);
        let reference = row("in-process:rtrb", Some(0.2));
        let says = verdict(&[ours.clone(), row("peer:a", Some(0.5)), row("peer:b", Some(3.0))]);
        assert_eq!(says, "peer:a wins: it is 2.00 times as fast as shm:spsc");
        let says = verdict(&[ours.clone(), row("peer:a", Some(0.95)), row("peer:b", Some(3.0))]);
        assert_eq!(says, "shm:spsc and the best other, peer:a, are alike: 0.95 times as fast");
        let batched = row("shm:spsc, 64 at a time", Some(0.4));
        let says = verdict(&[ours, batched, row("peer:b", Some(3.0)), reference]);
        assert_eq!(says, "shm:spsc is 3.00 times as fast as the best other, peer:b");
    }

    #[test]
    fn a_folder_without_the_peers_is_refused_with_what_to_do() {
        let error = build(Some(Path::new("/nowhere"))).unwrap_err();
        assert!(error.contains("/nowhere/Cargo.toml") && error.contains("--folder"), "{error}");
    }
}
