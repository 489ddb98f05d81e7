//! `ipc-bench self-test`: what is put there on purpose has to be found.
//!
//! - A transport each hop of which takes a known time longer runs beside the same transport
//!   without: in each round the difference of their round trips has to be twice that time.
//! - A transport that loses messages has to yield no figures, but an error that says so.
//! - A probe of the floor with pauses in it has to be noticed: the rounds around it are measured
//!   again or, when there are no more to spare, marked.
//!
//! Whoever measures wrongly by a factor, leaves out a part of the way, or is content with what came
//! through, fails here and not in a figure.

use super::{
    experiment::{Pace, Running, measure_together, tagged},
    figures::Run,
    plan::Contender,
    report::print,
    rounds::{Course, Round, Series, interleave},
    table::Table,
};
use crate::{
    machine::{Machine, Unfit},
    rig::team::Rig,
    spec::{Job, LaneSpec, Layer, TransportId, Waiting},
    stats::{median, quartiles},
    trouble::{Trouble, code},
};
use serde::Serialize;
use std::{
    num::NonZeroU64,
    process::ExitCode,
    time::{Duration, Instant},
};

/// The delays a hop.
const DELAYS_NS: [u64; 3] = [1_000, 10_000, 1_000_000];
/// How far from what was injected a delay may be found.
const MAY_BE_OFF: f64 = 0.05;
/// The share of round trips that are faster than the one that counts. Other programs only make
/// them longer, and those of milliseconds more often than not.
const FASTER: f64 = 0.1;
/// How many times a delay is measured that is found wrong: other programs disturb now and then, but
/// who measures wrongly does so each time.
const ATTEMPTS: usize = 3;
/// What carries the messages, and how its ends wait.
const BASE: (TransportId, Waiting) = (TransportId::ShmSpsc, Waiting::Spin);
/// One message in so many is dropped.
const DROPPED_ONE_IN: NonZeroU64 = NonZeroU64::new(100_000).expect("not zero");
/// How many are sent there in a run, so that others follow the one that is dropped, and how many
/// runs it takes. They are short, so that a busy machine isn't taken for a loss.
const SENT: u64 = 7_000;
const RUNS: u64 = DROPPED_ONE_IN.get() / SENT + 1;
/// How long processes may be silent.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long those may be at least that wait for a message which was dropped, and how many times as
/// long as they took without that.
const PATIENCE_FOR_LOST: Duration = Duration::from_secs(2);
const TIMES_AS_LONG: u32 = 20;
/// The pauses in the floor, for each hop.
const PAUSE_NS: u64 = 1_000;
/// Which probe of the floor has them: rounds are on both sides of it.
const DISTURBED_PROBE: usize = 1;

const HEADING: &str = "self-test: what was put there on purpose, and what was found of it";

/// What came of one thing that was put there.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Finding {
    check: &'static str,
    injected: String,
    found: String,
    /// Of a delay: that of a hop, as the median of the rounds, and its quartiles.
    injected_ns: Option<u64>,
    found_ns: Option<f64>,
    quartiles_ns: Option<[f64; 2]>,
    /// How far off it is, as a share of what was injected.
    off_share: Option<f64>,
    /// How many times it was measured.
    attempts: usize,
    rounds: usize,
    remeasured: usize,
    unsettled: usize,
    /// Null if it isn't judged.
    passed: Option<bool>,
    /// What makes it doubtful.
    warnings: Vec<String>,
}

/// Tests, and says what came of it: exit code 1 if something was not found.
pub(crate) fn run(json: bool, is_smoke: bool, unfit: Unfit) -> ExitCode {
    code(try_run(json, is_smoke, unfit))
}

fn try_run(json: bool, is_smoke: bool, unfit: Unfit) -> Result<ExitCode, Trouble> {
    let machine = Machine::observe(unfit)?;
    let mut rig = Rig::new(machine.pinned.clone(), PATIENCE)?;
    let pace = if is_smoke { Pace::SMOKE } else { Pace::SELF_TEST };
    let heading = format!("{HEADING}\n{machine}");
    match json {
        true => eprintln!("{heading}"),
        false => print(&heading)?,
    }
    let mut findings = Vec::new();
    let mut add = |finding: Finding| {
        let finding = Finding { warnings: machine.warnings().to_vec(), ..finding };
        if json {
            print(&serde_json::to_string(&finding)?)?;
        }
        findings.push(finding);
        Ok::<_, Trouble>(())
    };
    for hop_ns in DELAYS_NS {
        let mut finding = delayed(&mut rig, hop_ns, pace, &machine)?;
        if is_smoke {
            finding.passed = None;
        }
        for attempt in 2..=ATTEMPTS {
            if finding.passed == Some(false) {
                finding = Finding { attempts: attempt, ..delayed(&mut rig, hop_ns, pace, &machine)? };
            }
        }
        add(finding)?;
    }
    for jobs in [[Job::Stream, Job::Drain], [Job::Ping, Job::Echo]] {
        add(dropped(&mut rig, jobs)?)?;
    }
    for spare_rounds in [pace.spare_rounds.max(2), 0] {
        add(disturbed(&mut rig, Pace { spare_rounds, ..pace }, &machine)?)?;
    }
    if !json {
        print(&table(&findings))?;
    }
    let is_well = findings.iter().all(|finding| finding.passed != Some(false));
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The base with a layer over it.
fn base(jobs: [Job; 2], layer: Layer) -> Contender {
    let Contender { lane, jobs } = Contender::new(BASE.0, BASE.1, jobs);
    Contender { lane: LaneSpec { layer, ..lane }, jobs }
}

/// A delay on each hop, beside none in the same rounds.
fn delayed(rig: &mut Rig, hop_ns: u64, pace: Pace, machine: &Machine) -> Result<Finding, Trouble> {
    let round_trips = |layer| base([Job::Ping, Job::Echo], layer);
    let contenders = vec![Contender::floor(), round_trips(Layer::None), round_trips(Layer::Delay { hop_ns })];
    let series = measure_together(rig, contenders, pace, machine)?;
    // There and back are two hops.
    let hop = |runs: &[Run]| (runs[1].quantile_ns(FASTER) - runs[0].quantile_ns(FASTER)) / 2.0;
    let hops_ns = || series.rounds.iter().map(|round| hop(&round.measured));
    let found_ns = median(hops_ns()).ok_or_else(|| Trouble::Failed("no round counts".into()))?;
    let off_share = found_ns / hop_ns as f64 - 1.0;
    Ok(Finding {
        check: "delay of each hop",
        injected: time(hop_ns as f64),
        found: time(found_ns),
        injected_ns: Some(hop_ns),
        found_ns: Some(found_ns),
        quartiles_ns: quartiles(hops_ns()),
        off_share: Some(off_share),
        attempts: 1,
        passed: Some(off_share.abs() <= MAY_BE_OFF),
        ..of_series(&series)
    })
}

/// A message that isn't sent. The same without that has to succeed.
fn dropped(rig: &mut Rig, jobs: [Job; 2]) -> Result<Finding, Trouble> {
    // In a round trip nothing follows the one that is missing.
    let (check, says) = match jobs[0] {
        Job::Stream => ("loss in a stream", format!("message {DROPPED_ONE_IN} is missing")),
        _ => ("loss in round trips", "a message is lost".into()),
    };
    let (found, passed) = match send(rig, jobs, Layer::None)? {
        Err(why) => (format!("none dropped, but: {why}"), false),
        Ok(slowest) => {
            rig.watch((slowest * TIMES_AS_LONG).max(PATIENCE_FOR_LOST));
            let sent = send(rig, jobs, Layer::Drop { one_in: DROPPED_ONE_IN });
            rig.watch(PATIENCE);
            match sent? {
                Ok(_) => ("nothing".into(), false),
                Err(why) if why.contains(&says) => (says, true),
                Err(why) => (why, false),
            }
        }
    };
    let injected = format!("one in {DROPPED_ONE_IN}");
    Ok(Finding { check, injected, found, passed: Some(passed), ..Finding::default() })
}

/// Sends until one would be dropped and some after it. How long the slowest run took, or why one
/// failed.
fn send(rig: &mut Rig, jobs: [Job; 2], layer: Layer) -> Result<Result<Duration, String>, Trouble> {
    let mut team = rig.start(tagged(&[base(jobs, layer)]))?;
    let mut slowest = Duration::ZERO;
    for _ in 0..RUNS {
        let begun = Instant::now();
        match team.run(0, jobs, SENT) {
            Ok(_) => slowest = slowest.max(begun.elapsed()),
            Err(Trouble::Failed(why)) => return Ok(Err(why)),
            Err(other) => return Err(other),
        }
    }
    Ok(Ok(slowest))
}

/// A probe of the floor with pauses in it. No round beside it may count, unless it is marked.
fn disturbed(rig: &mut Rig, pace: Pace, machine: &Machine) -> Result<Finding, Trouble> {
    let floor = Contender::floor();
    let layer = Layer::Delay { hop_ns: PAUSE_NS };
    let disturbed = Contender { lane: LaneSpec { layer, ..floor.lane.clone() }, ..floor.clone() };
    let contenders = vec![floor, base([Job::Ping, Job::Echo], Layer::None), disturbed];
    let running = Running::start(rig, contenders, pace, machine)?;
    let mut course = Disturbed { running, probes: 0, disturbed_ns: f64::INFINITY };
    let series = interleave(&mut course, pace.rounds, pace.spare_rounds)?;
    // A round's floor is the mean of both probes.
    let is_beside = |round: &Round<()>| round.floor_ns >= course.disturbed_ns / 2.0;
    let beside = series.rounds.iter().filter(|round| is_beside(round)).count();
    let (check, found, passed) = match pace.spare_rounds {
        0 => ("floor disturbed, none to spare", format!("{} rounds marked", series.unsettled), {
            beside == 2 && series.unsettled >= beside
        }),
        _ => ("floor disturbed, rounds to spare", format!("{} rounds again", series.remeasured), {
            beside == 0 && series.remeasured >= 2
        }),
    };
    let injected = format!("{} in a probe", time(PAUSE_NS as f64));
    Ok(Finding { check, injected, found, passed: Some(passed), ..of_series(&series) })
}

/// A block one of whose probes of the floor has pauses in it.
struct Disturbed<'a> {
    /// The floor, the subject, the floor with pauses.
    running: Running<'a>,
    probes: usize,
    disturbed_ns: f64,
}

impl Course for Disturbed<'_> {
    type Measured = ();
    type Error = Trouble;

    fn floor_ns(&mut self) -> Result<f64, Trouble> {
        self.probes += 1;
        if self.probes - 1 != DISTURBED_PROBE {
            return self.running.floor_ns();
        }
        self.disturbed_ns = self.running.run(2)?.p50_ns;
        Ok(self.disturbed_ns)
    }

    fn measure(&mut self) -> Result<(), Trouble> {
        self.running.run(1).map(|_| ())
    }
}

fn of_series<T>(series: &Series<T>) -> Finding {
    let Series { rounds, remeasured, unsettled } = series;
    Finding { rounds: rounds.len(), remeasured: *remeasured, unsettled: *unsettled, ..Finding::default() }
}

fn time(ns: f64) -> String {
    match ns {
        _ if ns < 1e6 => format!("{:.3} us", ns / 1e3),
        _ => format!("{:.3} ms", ns / 1e6),
    }
}

fn table(findings: &[Finding]) -> String {
    let mut table = Table::new();
    let mut column = |title, cell: &dyn Fn(&Finding) -> Option<String>| {
        table.column(title, findings.iter().map(cell));
    };
    column("check", &|finding| Some(finding.check.into()));
    column("injected", &|finding| Some(finding.injected.clone()));
    column("found", &|finding| Some(finding.found.clone()));
    column("off", &|finding| finding.off_share.map(|off| format!("{:+.1} %", off * 100.0)));
    column("attempts", &|finding| (finding.attempts > 1).then(|| finding.attempts.to_string()));
    column("verdict", &|finding| Some(verdict(finding).into()));
    format!("\n{}", table.text().trim_end())
}

fn verdict(finding: &Finding) -> &'static str {
    match (finding.passed, finding.off_share) {
        (None, _) => "not judged",
        (Some(true), None) => "noticed",
        (Some(true), Some(_)) => "within 5 %",
        (Some(false), None) => "NOT NOTICED",
        (Some(false), Some(_)) => "WRONG",
    }
}

#[cfg(test)]
mod tests {
    use super::{Finding, table};

    #[test]
    fn what_was_not_found_is_shouted() {
        let loss = |passed| Finding { check: "loss", passed: Some(passed), ..Finding::default() };
        let delay = Finding { check: "delay", off_share: Some(-0.081), ..loss(false) };
        let table = table(&[loss(true), loss(false), delay]);
        let verdicts: Vec<_> = table.lines().map(|line| line.split_whitespace().last()).collect();
        assert_eq!(verdicts, [None, Some("verdict"), Some("noticed"), Some("NOTICED"), Some("WRONG")]);
        assert!(table.contains("NOT NOTICED") && table.contains("-8.1 %"), "{table}");
    }
}
