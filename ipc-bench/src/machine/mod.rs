//! The machine: which processors to use, what the clock costs, what might disturb.

mod control_groups;
mod fitness;
mod load;
mod placement;

pub(crate) use load::{MUCH_STOLEN, Stolen};
pub(crate) use placement::{Placement, pin_to};

use crate::{
    stats::clock_step_ns,
    trouble::{Fallible, Trouble},
};
use fitness::Facts;
use nix::time::{ClockId, clock_gettime};
use std::{fmt, fs, hint::black_box, time::Instant};

/// What becomes of a run where its figures would mean nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// It isn't made.
    Refuse,
    /// It is made, and says so with its figures.
    Warn,
}

/// What a reader of the figures should know about where they come from.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    model: String,
    kernel: String,
    /// The processors that may be used, one thread of each core before the others.
    processors: Vec<usize>,
    /// Whether processes can be kept on them.
    can_pin: bool,
    /// The processors of the measuring processes; `None` if they stay nowhere.
    pub(crate) pinned: Option<Placement>,
    clock: Clock,
    /// What makes the figures doubtful, however many processes there are.
    doubts: Vec<String>,
    /// That, and what comes of how many there are.
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
    /// Looks around, for one near and one far process. That takes a moment in which nothing is done,
    /// to see what others do.
    ///
    /// # Errors
    ///
    /// If nothing can be measured here, and the run is not to be made anyway.
    pub(crate) fn observe(unfit: Unfit) -> Result<Self, Trouble> {
        let facts = Facts::gather().map_err(|error| Trouble::Failed(error.to_string()))?;
        let (refusals, mut doubts) = (facts.refusals(), facts.warnings());
        if unfit == Unfit::Refuse && !refusals.is_empty() {
            return Err(Trouble::Unfit(refusals));
        }
        doubts.splice(0..0, refusals);
        let machine = Self {
            model: processor_model().unwrap_or_else(|| std::env::consts::ARCH.into()),
            kernel: read("/proc/sys/kernel/osrelease").unwrap_or_else(|| "of unknown version".into()),
            can_pin: facts.unpinnable.is_none(),
            processors: facts.usable,
            pinned: None,
            clock: Clock::observe(),
            doubts,
            warnings: Vec::new(),
        };
        Ok(machine.with([1, 1]))
    }

    /// The same with so many near and far processes.
    pub(crate) fn with(&self, sides: [usize; 2]) -> Self {
        let pinned = Placement::new(&self.processors, sides).filter(|_| self.can_pin);
        let mut warnings = self.doubts.clone();
        let (usable, [near, far]) = (self.processors.len(), sides);
        if near + far > usable.max(2) {
            warnings.push(format!(
                "{near} and {far} processes share {usable} processors: one that spins takes another's time"
            ));
        }
        Self { pinned, warnings, ..self.clone() }
    }

    /// What it is, a line each, without the warnings.
    pub(crate) fn lines(&self) -> Vec<String> {
        let text = Self { warnings: Vec::new(), ..self.clone() }.to_string();
        text.lines().map(str::to_owned).collect()
    }

    /// How many processors may be used.
    pub(crate) fn processors(&self) -> usize {
        self.processors.len()
    }

    /// What makes the figures doubtful.
    pub(crate) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Begins to count what the hypervisor takes of the processors of the measuring processes.
    pub(crate) fn stolen(&self) -> Stolen {
        let processors = self.pinned.as_ref().map_or(self.processors.clone(), Placement::processors);
        Stolen::begin(processors)
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
        let Self { model, kernel, processors, clock, .. } = self;
        writeln!(f, "machine  {model}, usable processors: {}, Linux {kernel}", processors.len())?;
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

fn processor_model() -> Option<String> {
    let info = read("/proc/cpuinfo")?;
    let line = info.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}
