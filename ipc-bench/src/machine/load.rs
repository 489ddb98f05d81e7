//! What else the processors do: see proc(5) on `stat`, `loadavg` and `pressure`.

use super::read;
use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

/// Processors of whose time a hypervisor gives more than this share to others are short of it.
pub(crate) const MUCH_STOLEN: f64 = 0.05;

/// For how long it is looked at, and how often meanwhile.
const LOOKS_FOR: Duration = Duration::from_millis(300);
const LOOKS: u32 = 10;

/// What was seen while this program did nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Load {
    /// Shares of the time in which processors worked.
    pub(super) busy: BTreeMap<usize, f64>,
    /// The share of their time that the hypervisor gave to others.
    pub(super) stolen: f64,
    /// How many others would have run, on average.
    pub(super) runnable: f64,
    /// The share of the time in which somebody waited for a processor, where it is known.
    pub(super) pressure: Option<f64>,
    /// Over the last minute.
    pub(super) average: Option<f64>,
}

impl Load {
    pub(super) fn observe() -> Self {
        let (before, waited_before_us, begun) = (Times::now(), waited_us(), Instant::now());
        let mut runnable = 0.0;
        for _ in 0..LOOKS {
            thread::sleep(LOOKS_FOR / LOOKS);
            runnable += read("/proc/loadavg").and_then(|line| others_runnable(&line)).unwrap_or(0.0);
        }
        let after = Times::now();
        let pressure = waited_before_us.zip(waited_us()).map(|(before_us, after_us)| {
            after_us.saturating_sub(before_us) as f64 / begun.elapsed().as_micros() as f64
        });
        let average = read("/proc/loadavg").and_then(|line| line.split(' ').next()?.parse().ok());
        let stolen = after.stolen_since(&before, |_| true);
        Self {
            busy: after.busy_since(&before),
            stolen,
            runnable: runnable / f64::from(LOOKS),
            pressure,
            average,
        }
    }
}

/// How the time of each processor went, in the kernel's ticks.
#[derive(Clone, Debug, Default, PartialEq)]
struct Times(BTreeMap<usize, Ticks>);

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Ticks {
    all: u64,
    idle: u64,
    stolen: u64,
}

impl Times {
    fn now() -> Self {
        read("/proc/stat").map(|text| Self::parse(&text)).unwrap_or_default()
    }

    /// Of `/proc/stat`.
    fn parse(text: &str) -> Self {
        let line = |line: &str| -> Option<(usize, Ticks)> {
            let (name, ticks) = line.split_once(' ')?;
            // user, nice, system, idle, iowait, irq, softirq, steal; a guest's are among the user's.
            let ticks: Vec<u64> =
                ticks.split_whitespace().take(8).filter_map(|ticks| ticks.parse().ok()).collect();
            let [.., idle, waiting, _, _, stolen] = ticks[..] else { return None };
            let ticks = Ticks { all: ticks.iter().sum(), idle: idle + waiting, stolen };
            Some((name.strip_prefix("cpu")?.parse().ok()?, ticks))
        };
        Self(text.lines().filter_map(line).collect())
    }

    /// What has passed since; nothing where a processor wasn't there before.
    fn since<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = (usize, Ticks)> + 'a {
        self.0.iter().filter_map(|(&processor, now)| {
            let before = before.0.get(&processor)?;
            let ticks = Ticks {
                all: now.all.saturating_sub(before.all),
                idle: now.idle.saturating_sub(before.idle),
                stolen: now.stolen.saturating_sub(before.stolen),
            };
            Some((processor, ticks))
        })
    }

    fn busy_since(&self, before: &Self) -> BTreeMap<usize, f64> {
        let share = |ticks: Ticks| {
            ticks.all.saturating_sub(ticks.idle + ticks.stolen) as f64 / ticks.all.max(1) as f64
        };
        self.since(before).map(|(processor, ticks)| (processor, share(ticks))).collect()
    }

    fn stolen_since(&self, before: &Self, is_meant: impl Fn(usize) -> bool) -> f64 {
        let meant = self.since(before).filter(|&(processor, _)| is_meant(processor));
        let (stolen, all) =
            meant.fold((0, 0), |(stolen, all), (_, ticks)| (stolen + ticks.stolen, all + ticks.all));
        stolen as f64 / all.max(1) as f64
    }
}

/// What the hypervisor gives of these processors' time to others, from now on.
#[derive(Debug)]
pub(crate) struct Stolen {
    processors: Vec<usize>,
    begun: Times,
}

impl Stolen {
    pub(super) fn begin(processors: Vec<usize>) -> Self {
        Self { processors, begun: Times::now() }
    }

    /// The share until now.
    pub(crate) fn share(&self) -> f64 {
        Times::now().stolen_since(&self.begun, |processor| self.processors.contains(&processor))
    }
}

/// How many others are runnable, by `/proc/loadavg`: whoever reads it is one of them.
fn others_runnable(line: &str) -> Option<f64> {
    let (runnable, _) = line.split(' ').nth(3)?.split_once('/')?;
    Some((runnable.parse::<f64>().ok()? - 1.0).max(0.0))
}

/// For how long anybody has ever waited for a processor; `None` where the kernel doesn't count.
fn waited_us() -> Option<u64> {
    read("/proc/pressure/cpu").and_then(|text| total_us(&text))
}

fn total_us(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with("some "))?;
    line.split_whitespace().find_map(|word| word.strip_prefix("total="))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{Load, Stolen, Times, others_runnable, total_us};
    use std::{
        sync::atomic::{AtomicBool, Ordering},
        thread,
    };

    const BEFORE: &str = "\
cpu  1000 0 0 1000 0 0 0 0 0 0
cpu0 500 0 0 500 0 0 0 0 0 0
cpu1 500 0 0 500 0 0 0 0 7 0
intr 1 2 3
";
    const AFTER: &str = "\
cpu0 510 5 5 560 10 5 5 0 0 0
cpu1 500 0 0 550 0 0 0 50 7 0
cpu2 500 0 0 550 0 0 0 50 0 0
";

    #[test]
    fn what_processors_did_is_known_by_what_the_kernel_counted() {
        let (before, after) = (Times::parse(BEFORE), Times::parse(AFTER));
        let busy = after.busy_since(&before);
        assert_eq!(busy.into_iter().collect::<Vec<_>>(), [(0, 0.3), (1, 0.0)]);
        assert_eq!(after.stolen_since(&before, |_| true), 0.25);
        assert_eq!(after.stolen_since(&before, |processor| processor == 1), 0.5);
        assert_eq!(Times::parse("no such thing\n").stolen_since(&before, |_| true), 0.0);
    }

    #[test]
    fn whoever_looks_is_not_counted_among_the_others() {
        assert_eq!(others_runnable("3.92 2.51 2.59 6/137 25395"), Some(5.0));
        assert_eq!(others_runnable("0.00 0.00 0.00 1/137 25395"), Some(0.0));
        assert_eq!(others_runnable("what"), None);
        let text = "some avg10=63.55 avg60=35.14 avg300=23.43 total=7515110992\nfull avg10=0 total=9\n";
        assert_eq!(total_us(text), Some(7_515_110_992));
        assert_eq!(total_us("full avg10=0.00 total=9\n"), None);
    }

    #[test]
    fn a_program_that_runs_meanwhile_is_seen() {
        let is_over = AtomicBool::new(false);
        let load = thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
            let load = Load::observe();
            is_over.store(true, Ordering::Relaxed);
            load
        });
        // However little of a processor it gets, it would always run.
        assert!(load.runnable >= 1.0, "{load:?}");
        assert!(load.busy.values().any(|&share| share > 0.0), "{load:?}");
        let stolen = Stolen::begin(vec![0]).share();
        assert!((0.0..=1.0).contains(&stolen), "{stolen}");
    }
}
