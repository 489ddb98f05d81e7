//! The machine: which processors to use, what the clock costs, what might disturb.

use crate::{
    spec::{Member, Side},
    stats::clock_step_ns,
    trouble::Fallible,
};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    time::{ClockId, clock_gettime},
    unistd::Pid,
};
use std::{fmt, fs, hint::black_box, time::Instant};

/// What a reader of the figures should know about where they come from.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    model: String,
    kernel: String,
    usable_processors: usize,
    /// The processors of the measuring processes; `None` if there is only one.
    pub(crate) pinned: Option<Placement>,
    clock: Clock,
    /// What makes the figures doubtful.
    warnings: Vec<String>,
}

#[derive(Clone, Debug)]
struct Clock {
    source: String,
    /// What one reading costs.
    cost_ns: f64,
    /// What it moves on by.
    step_ns: f64,
}

impl Machine {
    /// Looks around, for so many near and far processes.
    pub(crate) fn observe(sides: [usize; 2]) -> Fallible<Self> {
        let usable = usable_processors()?;
        let spread = spread(&usable, |processor| read(&topology(processor, "thread_siblings_list")));
        let pinned = Placement::new(&spread, sides);
        Ok(Self {
            model: processor_model().unwrap_or_else(|| std::env::consts::ARCH.into()),
            kernel: read("/proc/sys/kernel/osrelease").unwrap_or_else(|| "of unknown version".into()),
            usable_processors: usable.len(),
            clock: Clock::observe(),
            warnings: warnings(usable.len(), pinned.as_ref(), sides),
            pinned,
        })
    }

    /// What it is, a line each, without the warnings.
    pub(crate) fn lines(&self) -> Vec<String> {
        let text = Self { warnings: Vec::new(), ..self.clone() }.to_string();
        text.lines().map(str::to_owned).collect()
    }

    /// How many processors may be used.
    pub(crate) fn processors(&self) -> usize {
        self.usable_processors
    }

    /// What makes the figures doubtful.
    pub(crate) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// What one reading of the clock costs; part of every round trip.
    pub(crate) fn clock_cost_ns(&self) -> f64 {
        self.clock.cost_ns
    }

    /// What the clock moves on by.
    pub(crate) fn clock_step_ns(&self) -> f64 {
        self.clock.step_ns
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { model, kernel, usable_processors, clock, .. } = self;
        writeln!(f, "machine  {model}, usable processors: {usable_processors}, Linux {kernel}")?;
        match &self.pinned {
            Some(pinned) => write!(f, "pinned   {pinned}")?,
            None => write!(f, "pinned   not at all")?,
        }
        let Clock { source, cost_ns, step_ns } = clock;
        write!(f, "\nclock    {source}: a reading costs {cost_ns:.0} ns, its step is {step_ns:.0} ns")?;
        for warning in &self.warnings {
            write!(f, "\nWARNING  {warning}")?;
        }
        Ok(())
    }
}

impl Clock {
    fn observe() -> Self {
        const READINGS: u32 = 20_000;
        let mut last = Instant::now();
        let between_ns: Vec<u64> = (0..READINGS)
            .map(|n| {
                // Work of varying length, so that the times between differ.
                for work in 0..n % 64 {
                    black_box(work);
                }
                let now = Instant::now();
                let between = now - last;
                last = now;
                between.as_nanos() as u64
            })
            .collect();
        Self {
            source: read("/sys/devices/system/clocksource/clocksource0/current_clocksource")
                .unwrap_or_else(|| "monotonic".into()),
            cost_ns: clock_cost_ns(),
            step_ns: clock_step_ns(&between_ns),
        }
    }
}

/// What a reading of the clock costs that nothing interrupts: the shortest of several.
pub(crate) fn clock_cost_ns() -> f64 {
    const READINGS: u32 = 1_000;
    (0..20)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..READINGS {
                black_box(Instant::now());
            }
            start.elapsed().as_nanos() as f64 / f64::from(READINGS)
        })
        .fold(f64::INFINITY, f64::min)
}

/// What a clock says: nanoseconds. That of CLOCK_MONOTONIC is the same for all processes.
#[inline]
pub(crate) fn now_ns(clock: ClockId) -> Fallible<u64> {
    let now = clock_gettime(clock)?;
    Ok(u64::try_from(now.tv_sec())? * 1_000_000_000 + u64::try_from(now.tv_nsec())?)
}

/// The processors that the near and the far processes stay on, taken in turns where there
/// are fewer of them than processes; a near and a far process never share one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placement([Vec<usize>; 2]);

impl Placement {
    /// Of `processors`, the best first, those for so many near and far processes; `None` if
    /// there is only one.
    fn new(processors: &[usize], [near, far]: [usize; 2]) -> Option<Self> {
        let used = &processors[..processors.len().min(near + far.max(1))];
        let most = used.len().checked_sub(1).filter(|&most| most > 0)?;
        let for_the_near = (used.len() * near / (near + far.max(1))).clamp(1, most);
        let (near, far) = used.split_at(for_the_near);
        Some(Self([near.into(), far.into()]))
    }

    /// The processor of a process.
    pub(crate) fn of(&self, member: Member) -> usize {
        let its = &self.0[member.side as usize];
        its[member.index % its.len()]
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [near, far] = [Side::Near, Side::Far]
            .map(|side| self.0[side as usize].iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
        write!(f, "near to processor {near}, far to processor {far}")
    }
}

/// Keeps this process on one processor.
pub(crate) fn pin_to(processor: usize) -> Fallible<()> {
    let mut set = CpuSet::new();
    set.set(processor)?;
    sched_setaffinity(Pid::from_raw(0), &set)
        .map_err(|error| format!("could not pin to processor {processor}: {error}").into())
}

fn usable_processors() -> Fallible<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0))?;
    Ok((0..CpuSet::count()).filter(|&processor| set.is_set(processor).unwrap_or(false)).collect())
}

/// The usable processors, one thread of each core before the other threads of any.
fn spread(usable: &[usize], core: impl Fn(usize) -> Option<String>) -> Vec<usize> {
    let (mut firsts, mut others) = (Vec::new(), Vec::new());
    let mut cores = Vec::new();
    for &processor in usable {
        let its_core = core(processor);
        let known = cores.contains(&its_core);
        cores.push(its_core);
        if known { others.push(processor) } else { firsts.push(processor) }
    }
    firsts.extend(others);
    firsts
}

fn warnings(usable_processors: usize, pinned: Option<&Placement>, [near, far]: [usize; 2]) -> Vec<String> {
    let mut warnings = Vec::new();
    if pinned.is_none() {
        warnings.push(
            "one usable processor: all processes take turns on it, spinning makes no sense there".into(),
        );
    }
    if pinned.is_some() && near + far > usable_processors {
        warnings.push(format!(
            "{near} and {far} processes share {usable_processors} processors: one that spins takes another's time"
        ));
    }
    let load = read("/proc/loadavg").and_then(|line| line.split(' ').next()?.parse::<f64>().ok());
    if let Some(load) = load.filter(|&load| load > 0.5 * usable_processors as f64) {
        warnings.push(format!("the load average is {load}: other programs disturb the measurement"));
    }
    for processor in pinned.iter().flat_map(|pinned| pinned.0.iter().flatten()) {
        let governor = format!("/sys/devices/system/cpu/cpu{processor}/cpufreq/scaling_governor");
        if let Some(governor) = read(&governor).filter(|governor| governor != "performance") {
            warnings.push(format!("processor {processor} changes its frequency (governor `{governor}`)"));
        }
    }
    warnings
}

fn processor_model() -> Option<String> {
    let info = read("/proc/cpuinfo")?;
    let line = info.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn topology(processor: usize, what: &str) -> String {
    format!("/sys/devices/system/cpu/cpu{processor}/topology/{what}")
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::{Placement, spread};
    use crate::spec::{Member, Side};
    use rstest::rstest;

    #[rstest]
    #[case::separate_cores(&[0, 2], &[0, 2])]
    #[case::threads_of_the_same_core_come_later(&[0, 1, 2, 3], &[0, 2, 1, 3])]
    #[case::better_than_nothing(&[2, 3], &[2, 3])]
    fn cores_come_before_their_other_threads(#[case] usable: &[usize], #[case] expected: &[usize]) {
        let core = |processor: usize| Some((processor / 2).to_string());
        assert_eq!(spread(usable, core), expected);
    }

    #[rstest]
    #[case::one_only(&[3], [1, 1], None)]
    #[case::two(&[0, 2], [1, 1], Some([&[0][..], &[2]]))]
    #[case::more_than_needed(&[0, 2, 1, 3], [1, 1], Some([&[0][..], &[2]]))]
    #[case::one_each(&[0, 1, 2, 3], [1, 3], Some([&[0][..], &[1, 2, 3]]))]
    #[case::shared_by_each_side(&[0, 1], [8, 3], Some([&[0][..], &[1]]))]
    #[case::shared_in_proportion(&[0, 1, 2, 3], [2, 6], Some([&[0][..], &[1, 2, 3]]))]
    #[case::one_side_alone(&[0, 1], [1, 0], Some([&[0][..], &[1]]))]
    fn near_and_far_processes_share_no_processor(
        #[case] processors: &[usize],
        #[case] sides: [usize; 2],
        #[case] expected: Option<[&[usize]; 2]>,
    ) {
        let expected = expected.map(|sides| Placement(sides.map(Into::into)));
        assert_eq!(Placement::new(processors, sides), expected);
    }

    #[test]
    fn processes_take_turns_on_too_few_processors() {
        let placement = Placement::new(&[4, 5, 6], [2, 4]).unwrap();
        let far = (0..4).map(|index| placement.of(Member { side: Side::Far, index }));
        assert_eq!(far.collect::<Vec<_>>(), [5, 6, 5, 6]);
        assert_eq!(placement.to_string(), "near to processor 4, far to processor 5 6");
    }
}
