//! The machine: which processors to use, what the clock costs, what might disturb.

use crate::{Fallible, stats::clock_step_ns};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use std::{fmt, fs, hint::black_box, time::Instant};

/// What a reader of the figures should know about where they come from.
#[derive(Debug)]
pub(crate) struct Machine {
    model: String,
    kernel: String,
    usable_processors: usize,
    /// The processors of the near and the far process; `None` if there is only one.
    pub(crate) pinned: Option<[usize; 2]>,
    clock: Clock,
    /// What makes the figures doubtful.
    warnings: Vec<String>,
}

#[derive(Debug)]
struct Clock {
    source: String,
    /// What one reading costs.
    cost_ns: f64,
    /// What it moves on by.
    step_ns: f64,
}

impl Machine {
    /// Looks around.
    pub(crate) fn observe() -> Fallible<Self> {
        let usable = usable_processors()?;
        let pinned = two_processors(&usable, |processor| read(&topology(processor, "thread_siblings_list")));
        Ok(Self {
            model: processor_model().unwrap_or_else(|| std::env::consts::ARCH.into()),
            kernel: read("/proc/sys/kernel/osrelease").unwrap_or_else(|| "of unknown version".into()),
            usable_processors: usable.len(),
            pinned,
            clock: Clock::observe(),
            warnings: warnings(usable.len(), pinned),
        })
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
        match self.pinned {
            Some([near, far]) => {
                write!(f, "pinned   near process to processor {near}, far process to {far}")?
            }
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
        // The shortest of several: what a reading costs that nothing interrupts.
        let cost_ns = (0..20)
            .map(|_| {
                let start = Instant::now();
                for _ in 0..READINGS / 20 {
                    black_box(Instant::now());
                }
                start.elapsed().as_nanos() as f64 / f64::from(READINGS / 20)
            })
            .fold(f64::INFINITY, f64::min);
        Self {
            source: read("/sys/devices/system/clocksource/clocksource0/current_clocksource")
                .unwrap_or_else(|| "monotonic".into()),
            cost_ns,
            step_ns: clock_step_ns(&between_ns),
        }
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

/// The first usable processor and the next one that isn't a thread of the same core, or the
/// next one at all.
fn two_processors(usable: &[usize], core: impl Fn(usize) -> Option<String>) -> Option<[usize; 2]> {
    let (&near, others) = usable.split_first()?;
    let on_another_core = others.iter().find(|&&other| core(other) != core(near));
    on_another_core.or(others.first()).map(|&far| [near, far])
}

fn warnings(usable_processors: usize, pinned: Option<[usize; 2]>) -> Vec<String> {
    let mut warnings = Vec::new();
    if pinned.is_none() {
        warnings.push(
            "one usable processor: both processes take turns on it, spinning makes no sense there".into(),
        );
    }
    let load = read("/proc/loadavg").and_then(|line| line.split(' ').next()?.parse::<f64>().ok());
    if let Some(load) = load.filter(|&load| load > 0.5 * usable_processors as f64) {
        warnings.push(format!("the load average is {load}: other programs disturb the measurement"));
    }
    for processor in pinned.into_iter().flatten() {
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
    use super::two_processors;
    use rstest::rstest;

    #[rstest]
    #[case::one_only(&[3], None)]
    #[case::separate_cores(&[0, 2], Some([0, 2]))]
    #[case::the_thread_of_the_same_core_is_passed_over(&[0, 1, 2, 3], Some([0, 2]))]
    #[case::better_than_nothing(&[2, 3], Some([2, 3]))]
    fn two_cores_if_there_are_two(#[case] usable: &[usize], #[case] chosen: Option<[usize; 2]>) {
        let core = |processor: usize| Some((processor / 2).to_string());
        assert_eq!(two_processors(usable, core), chosen);
    }
}
