//! What it costs to wait: one process waits for a message that doesn't come, the other one reads
//! what the kernel has counted of it, sleeps, and reads again.

use crate::{links::link::Link, machine::now_ns, spec::Outcome, trouble::Fallible};
use nix::{time::ClockId, unistd::Pid};
use std::{fs, ops::Range, thread, time::Duration};

/// From when the other one has begun to wait to when it is watched: it may spin at first.
const SETTLES: Duration = Duration::from_millis(20);

/// Watches the process `pid` for a while, and then has it go on by a message that comes back.
pub(crate) fn watch_idle(
    link: &mut impl Link,
    numbers: Range<u64>,
    pid: u32,
    for_ms: u32,
) -> Fallible<Outcome> {
    thread::sleep(SETTLES);
    let outcome = Outcome::begin()?;
    let before = Counted::of(pid)?;
    thread::sleep(Duration::from_millis(for_ms.into()));
    let after = Counted::of(pid)?;
    let outcome = outcome.end()?;
    for number in numbers {
        link.send(number)?;
        link.receive(number)?;
    }
    let (cpu_ns, sleeps) = (after.cpu_ns - before.cpu_ns, after.sleeps.saturating_sub(before.sleeps));
    Ok(Outcome { cpu_ns, sleeps, ..outcome })
}

/// What the kernel has counted of a process, all its threads together.
#[derive(Debug)]
struct Counted {
    cpu_ns: u64,
    /// How often one went to sleep, and so has been or will be woken up.
    sleeps: u64,
}

impl Counted {
    fn of(pid: u32) -> Fallible<Self> {
        let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(pid.try_into()?))?;
        let mut sleeps = 0;
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            // A thread may have ended since.
            if let Ok(status) = fs::read_to_string(task?.path().join("status")) {
                sleeps += sleeps_in(&status).ok_or("the kernel counts no context switches")?;
            }
        }
        Ok(Self { cpu_ns: now_ns(clock)?, sleeps })
    }
}

/// By `/proc/PID/task/TID/status`: see proc(5).
fn sleeps_in(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{Counted, sleeps_in, watch_idle};
    use crate::{links::link::Link, trouble::Fallible};
    use std::{
        sync::mpsc,
        thread,
        time::{Duration, Instant},
    };

    /// What was sent comes back.
    #[derive(Default)]
    struct Mirror(Vec<u64>);

    impl Link for Mirror {
        fn send(&mut self, number: u64) -> Fallible<()> {
            self.0.push(number);
            Ok(())
        }

        fn receive(&mut self, number: u64) -> Fallible<()> {
            assert_eq!(self.0.last(), Some(&number));
            Ok(())
        }
    }

    #[test]
    fn who_is_awake_has_its_time_counted_and_who_wakes_up_its_sleeps() {
        let (stop, stopped) = mpsc::channel::<()>();
        let (wake, woken) = mpsc::channel::<()>();
        let napping = thread::spawn(move || {
            while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
                let awake = Instant::now();
                while awake.elapsed() < Duration::from_micros(200) {}
                thread::sleep(Duration::from_micros(200));
            }
        });
        // It comes after the other one, and sleeps all the time.
        let sleeping = thread::spawn(move || woken.recv());
        let (mut mirror, deadline) = (Mirror::default(), Instant::now() + Duration::from_secs(30));
        loop {
            // This very process: whoever watches sleeps once, so there is somebody else.
            let outcome = watch_idle(&mut mirror, 7..8, std::process::id(), 50).unwrap();
            assert!(outcome.ended_ns - outcome.started_ns >= 50_000_000, "{outcome:?}");
            if outcome.sleeps >= 3 && outcome.cpu_ns >= 400_000 {
                break;
            }
            assert!(Instant::now() < deadline, "{outcome:?}");
        }
        stop.send(()).unwrap();
        napping.join().unwrap();
        wake.send(()).unwrap();
        sleeping.join().unwrap().unwrap();
        assert!(mirror.0.iter().all(|&number| number == 7));
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        assert!(Counted::of(child.id()).is_err());
    }

    #[test]
    fn sleeps_are_the_voluntary_switches() {
        let status = "Name:\tx\nvoluntary_ctxt_switches:\t12\nnonvoluntary_ctxt_switches:\t7\n";
        assert_eq!(sleeps_in(status), Some(12));
        assert_eq!(sleeps_in("nonvoluntary_ctxt_switches:\t7\n"), None);
    }
}
