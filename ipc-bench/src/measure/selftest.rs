//! `ipc-bench self-test`: what is put there on purpose has to be found.
//!
//! - A transport each hop of which takes a known time longer runs beside the same transport
//!   without: in each round the difference of their round trips has to be twice that time.
//! - A transport that loses messages has to yield no figures, but an error that says so.
//! - A probe of the floor with pauses in it has to be noticed: the rounds around it are measured
//!   again or, when there are no more to spare, marked. So has a round that stalls from its beginning
//!   to its end while the floor doesn't move, and one in which another program takes a processor.
//!
//! Whoever measures wrongly by a factor, leaves out a part of the way, or is content with what came
//! through, fails here and not in a figure.

use super::{
    experiment::{Pace, Running, measure_together, tagged},
    plan::Contender,
    rounds::{Course, Round, Series, interleave},
    run::Run,
    table::Table,
};
use crate::{
    machine::{self, Machine, Unfit},
    record::Repeats,
    rig::team::Rig,
    spec::{Job, LaneSpec, Layer, Member, TransportId, Waiting},
    stats::{median, quartiles},
    trouble::{Trouble, code, print},
};
use serde::Serialize;
use std::{
    borrow::Cow,
    hint,
    num::NonZeroU64,
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

/// The delays a hop.
const DELAYS_NS: [u64; 3] = [1_000, 10_000, 1_000_000];
/// How far from what was injected a delay may be found.
const MAY_BE_OFF: f64 = 0.05;
/// The share of round trips that are faster than the one that counts. Other programs only make
/// them longer, and those of milliseconds more often than not.
const FASTER: f64 = 0.1;
/// How many times something is looked for that is found wrong: other programs disturb now and then,
/// but who measures wrongly does so each time.
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
/// The pauses in the floor, and those of a round that stalls, for each hop.
const PAUSE_NS: u64 = 1_000;
const STALL_NS: u64 = 50_000;
/// Which probe of the floor has them: rounds are on both sides of it. And which round is disturbed.
const DISTURBED_PROBE: usize = 1;
const DISTURBED_ROUND: usize = 1;
/// How many rounds may be measured again at least where a round is disturbed, and how long each is at
/// least: others take a processor for slices of some milliseconds.
const SPARE_ROUNDS: usize = 10;
const LONG_ENOUGH_NS: u64 = 60_000_000;

const HEADING: &str = "self-test: what was put there on purpose, and what was found of it";

/// What came of one thing that was put there.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Finding {
    check: Cow<'static, str>,
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
    #[serde(flatten)]
    repeats: Repeats,
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
        add(attempted(|| {
            let finding = delayed(&mut rig, hop_ns, pace, &machine)?;
            Ok(if is_smoke { Finding { passed: None, ..finding } } else { finding })
        })?)?;
    }
    for jobs in [[Job::Stream, Job::Drain], [Job::Ping, Job::Echo]] {
        add(dropped(&mut rig, jobs)?)?;
    }
    for spare_rounds in [pace.spare_rounds.max(SPARE_ROUNDS), 0] {
        add(attempted(|| floor_disturbed(&mut rig, Pace { spare_rounds, ..pace }, &machine))?)?;
    }
    for how in [Disturbance::Stall, Disturbance::Displacement] {
        // Without a processor of its own, a process can't be left without it.
        if how == Disturbance::Displacement && machine.pinned.is_none() {
            continue;
        }
        for spare_rounds in [pace.spare_rounds.max(SPARE_ROUNDS), 0] {
            let subject_ns = pace.subject_ns.max(LONG_ENOUGH_NS);
            let pace = Pace { spare_rounds, subject_ns, ..pace };
            add(attempted(|| round_disturbed(&mut rig, how, pace, &machine))?)?;
        }
    }
    if !json {
        print(&table(&findings))?;
    }
    let is_well = findings.iter().all(|finding| finding.passed != Some(false));
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Looks for something, and again if it wasn't found.
fn attempted(mut look: impl FnMut() -> Result<Finding, Trouble>) -> Result<Finding, Trouble> {
    let mut attempts = 1;
    loop {
        let finding = look()?;
        if finding.passed != Some(false) || attempts == ATTEMPTS {
            return Ok(Finding { attempts, ..finding });
        }
        attempts += 1;
    }
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
        check: "delay of each hop".into(),
        injected: time(hop_ns as f64),
        found: time(found_ns),
        injected_ns: Some(hop_ns),
        found_ns: Some(found_ns),
        quartiles_ns: quartiles(hops_ns()),
        off_share: Some(off_share),
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
    Ok(Finding { check: check.into(), injected, found, passed: Some(passed), ..Finding::default() })
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
fn floor_disturbed(rig: &mut Rig, pace: Pace, machine: &Machine) -> Result<Finding, Trouble> {
    let floor = Contender::floor();
    let layer = Layer::Delay { hop_ns: PAUSE_NS };
    let disturbed = Contender { lane: LaneSpec { layer, ..floor.lane.clone() }, ..floor.clone() };
    let contenders = vec![floor, base([Job::Ping, Job::Echo], Layer::None), disturbed];
    let running = Running::start(rig, contenders, pace, machine)?;
    let mut course = FloorDisturbed { running, probes: 0, disturbed_ns: f64::INFINITY };
    let series = interleave(&mut course, pace.rounds, pace.spare_rounds)?;
    // A round's floor is the mean of both probes.
    let is_beside = |round: &Round<()>| round.floor_ns >= course.disturbed_ns / 2.0;
    let beside = series.rounds.iter().filter(|round| is_beside(round)).count();
    let (check, found, passed) = match pace.spare_rounds {
        0 => ("floor disturbed, none to spare", format!("{} rounds marked", series.repeats.unsettled), {
            beside == 2 && series.repeats.unsettled >= beside
        }),
        _ => ("floor disturbed, rounds to spare", format!("{} rounds again", series.repeats.remeasured), {
            beside == 0 && series.repeats.remeasured >= 2
        }),
    };
    let injected = format!("{} in a probe", time(PAUSE_NS as f64));
    Ok(Finding { check: check.into(), injected, found, passed: Some(passed), ..of_series(&series) })
}

/// A block one of whose probes of the floor has pauses in it.
struct FloorDisturbed<'a> {
    /// The floor, the subject, the floor with pauses.
    running: Running<'a>,
    probes: usize,
    disturbed_ns: f64,
}

impl Course for FloorDisturbed<'_> {
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

/// What is done to a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disturbance {
    /// Each hop takes longer, all the time.
    Stall,
    /// Another program uses the near process's processor.
    Displacement,
}

/// A round that something is done to. It may not count, unless it is marked.
fn round_disturbed(
    rig: &mut Rig,
    how: Disturbance,
    pace: Pace,
    machine: &Machine,
) -> Result<Finding, Trouble> {
    let round_trips = |layer| base([Job::Ping, Job::Echo], layer);
    let stalled = round_trips(Layer::Delay { hop_ns: STALL_NS });
    let contenders = vec![Contender::floor(), round_trips(Layer::None), stalled];
    let running = Running::start(rig, contenders, pace, machine)?;
    let processor = machine.pinned.as_ref().map(|pinned| pinned.of(Member::NEAR));
    let mut course = RoundDisturbed { running, how, processor, rounds: 0 };
    let Series { rounds, repeats } = interleave(&mut course, pace.rounds, pace.spare_rounds)?;
    let counts = rounds.iter().any(|round| round.measured.is_disturbed);
    let seen = match how {
        Disturbance::Stall => repeats.out_of_line,
        Disturbance::Displacement => repeats.displaced,
    };
    let (to_spare, found, passed) = match pace.spare_rounds {
        0 => {
            ("none to spare", format!("{} rounds marked", repeats.unsettled), counts && repeats.unsettled > 0)
        }
        _ => (
            "rounds to spare",
            format!("{} rounds again", repeats.remeasured),
            !counts && repeats.remeasured > 0,
        ),
    };
    let (check, injected) = match how {
        Disturbance::Stall => ("round stalled", format!("{} in a round", time(STALL_NS as f64))),
        Disturbance::Displacement => ("processor taken", "a program for a round".into()),
    };
    let check = format!("{check}, {to_spare}").into();
    let passed = Some(passed && seen > 0);
    Ok(Finding { check, injected, found, passed, rounds: rounds.len(), repeats, ..Finding::default() })
}

/// A block one of whose rounds is disturbed.
struct RoundDisturbed<'a> {
    /// The floor, the subject, the subject with delays.
    running: Running<'a>,
    how: Disturbance,
    /// That of the near process.
    processor: Option<usize>,
    rounds: usize,
}

struct RoundOf {
    run: Run,
    is_disturbed: bool,
}

impl Course for RoundDisturbed<'_> {
    type Measured = RoundOf;
    type Error = Trouble;

    fn floor_ns(&mut self) -> Result<f64, Trouble> {
        self.running.floor_ns()
    }

    fn measure(&mut self) -> Result<RoundOf, Trouble> {
        self.rounds += 1;
        let is_disturbed = self.rounds - 1 == DISTURBED_ROUND;
        let run = match (is_disturbed, self.how) {
            (false, _) => self.running.run(1)?,
            (true, Disturbance::Stall) => self.running.run(2)?,
            (true, Disturbance::Displacement) => {
                let (is_over, processor) = (AtomicBool::new(false), self.processor);
                thread::scope(|scope| {
                    scope.spawn(|| occupy(processor, &is_over));
                    let run = self.running.run(1);
                    is_over.store(true, Ordering::Relaxed);
                    run
                })?
            }
        };
        Ok(RoundOf { run, is_disturbed })
    }

    fn was_displaced(&self, round: &RoundOf) -> bool {
        self.how == Disturbance::Displacement && self.running.is_displaced(1, &round.run)
    }

    fn times_ns(&self, round: &RoundOf) -> Vec<f64> {
        if self.how == Disturbance::Stall { vec![round.run.each_ns()] } else { Vec::new() }
    }
}

/// Uses a processor as another program would, until that is over.
fn occupy(processor: Option<usize>, is_over: &AtomicBool) {
    // If it can't be there, the check fails: nothing is noticed.
    if processor.is_some_and(|processor| machine::pin_to(processor).is_ok()) {
        while !is_over.load(Ordering::Relaxed) {
            hint::spin_loop();
        }
    }
}

fn of_series<T>(series: &Series<T>) -> Finding {
    Finding { rounds: series.rounds.len(), repeats: series.repeats, ..Finding::default() }
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
    column("check", &|finding| Some(finding.check.to_string()));
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
    use super::{ATTEMPTS, Finding, attempted, table};

    #[test]
    fn what_is_not_found_is_looked_for_again_but_not_for_ever() {
        for (found_at, expected) in
            [(1, (1, Some(true))), (2, (2, Some(true))), (99, (ATTEMPTS, Some(false)))]
        {
            let mut looks = 0;
            let finding = attempted(|| {
                looks += 1;
                Ok(Finding { passed: Some(looks >= found_at), ..Finding::default() })
            });
            let Ok(finding) = finding else { panic!("nothing fails") };
            assert_eq!((finding.attempts, finding.passed), expected);
        }
    }

    #[test]
    fn what_was_not_found_is_shouted() {
        let loss = |passed| Finding { check: "loss".into(), passed: Some(passed), ..Finding::default() };
        let delay = Finding { check: "delay".into(), off_share: Some(-0.081), ..loss(false) };
        let table = table(&[loss(true), loss(false), delay]);
        let verdicts: Vec<_> = table.lines().map(|line| line.split_whitespace().last()).collect();
        assert_eq!(verdicts, [None, Some("verdict"), Some("noticed"), Some("NOTICED"), Some("WRONG")]);
        assert!(table.contains("NOT NOTICED") && table.contains("-8.1 %"), "{table}");
    }
}
