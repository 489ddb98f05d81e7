//! The measured loops, as those of `ipc-bench`.

use crate::link::{Fallible, Lane, Link};
use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use std::{collections::BTreeMap, ops::Range, time::Instant};

/// Round trips before the timed ones.
pub(crate) const WARM_UP: u64 = 32;

/// Two processes with a link.
pub(crate) struct Two<L> {
    link: L,
    next: u64,
}

impl<L: Link> Two<L> {
    pub(crate) fn new(link: L) -> Self {
        Self { link, next: 1 }
    }
}

impl<L: Link> Lane for Two<L> {
    fn run(&mut self, job: &str, count: u64) -> Fallible<Value> {
        let warm_up = if matches!(job, "Ping" | "Echo") { WARM_UP } else { 0 };
        let numbers = self.next..self.next + warm_up + count;
        self.next = numbers.end;
        match job {
            "Ping" => ping(&mut self.link, numbers),
            "Echo" => echo(&mut self.link, numbers),
            "Stream" => stream(&mut self.link, numbers),
            "Drain" => drain(&mut self.link, numbers),
            other => Err(format!("there is no such job here: {other}").into()),
        }
    }
}

pub(crate) fn ping(link: &mut impl Link, numbers: Range<u64>) -> Fallible<Value> {
    let timed = numbers.start + WARM_UP..numbers.end;
    // Written, not just reserved, so that the pages are there.
    let mut samples_ns = vec![u32::MAX; usize::try_from(timed.end - timed.start)?];
    for number in numbers.start..timed.start {
        link.send(number)?;
        link.receive(number)?;
    }
    let begun = Begun::now()?;
    let mut before = Instant::now();
    for (number, sample) in timed.zip(&mut samples_ns) {
        link.send(number)?;
        link.receive(number)?;
        let after = Instant::now();
        *sample = u32::try_from((after - before).as_nanos()).unwrap_or(u32::MAX);
        before = after;
    }
    begun.done(&samples_ns)
}

pub(crate) fn echo(link: &mut impl Link, numbers: Range<u64>) -> Fallible<Value> {
    let timed = numbers.start + WARM_UP;
    for number in numbers.start..timed {
        link.receive(number)?;
        link.send(number)?;
    }
    let begun = Begun::now()?;
    for number in timed..numbers.end {
        link.receive(number)?;
        link.send(number)?;
    }
    begun.done(&[])
}

pub(crate) fn stream(link: &mut impl Link, numbers: Range<u64>) -> Fallible<Value> {
    let begun = Begun::now()?;
    for number in numbers {
        link.send(number)?;
    }
    begun.done(&[])
}

/// Its processor time starts with the first message.
pub(crate) fn drain(link: &mut impl Link, mut numbers: Range<u64>) -> Fallible<Value> {
    if let Some(first) = numbers.next() {
        link.receive(first)?;
    }
    let begun = Begun::now()?;
    for number in numbers {
        link.receive(number)?;
    }
    begun.done(&[])
}

/// A timed part that has begun.
struct Begun {
    started_ns: u64,
    cpu_ns: u64,
}

impl Begun {
    fn now() -> Fallible<Self> {
        let cpu_ns = now_ns(ClockId::CLOCK_PROCESS_CPUTIME_ID)?;
        Ok(Self { started_ns: now_ns(ClockId::CLOCK_MONOTONIC)?, cpu_ns })
    }

    /// As `ipc-bench` reads it.
    fn done(self, samples_ns: &[u32]) -> Fallible<Value> {
        let ended_ns = now_ns(ClockId::CLOCK_MONOTONIC)?;
        let cpu_ns = now_ns(ClockId::CLOCK_PROCESS_CPUTIME_ID)? - self.cpu_ns;
        let mut counted = BTreeMap::new();
        samples_ns.iter().for_each(|&sample_ns| *counted.entry(sample_ns).or_insert(0_u64) += 1);
        let latencies_ns: Vec<(u32, u64)> = counted.into_iter().collect();
        Ok(outcome(self.started_ns, ended_ns, cpu_ns, &latencies_ns))
    }
}

/// The outcome of who only stood by: it neither starts before the other one nor ends later.
pub(crate) fn stood_by() -> Value {
    outcome(0, 0, 0, &[])
}

fn outcome(started_ns: u64, ended_ns: u64, cpu_ns: u64, latencies_ns: &[(u32, u64)]) -> Value {
    json!({"Done": {
        "started_ns": started_ns, "ended_ns": ended_ns, "cpu_ns": cpu_ns, "latencies_ns": latencies_ns,
        "messages": 0, "sum": 0, "missed": 0,
    }})
}

fn now_ns(clock: ClockId) -> Fallible<u64> {
    let now = clock_gettime(clock)?;
    Ok(u64::try_from(now.tv_sec())? * 1_000_000_000 + u64::try_from(now.tv_nsec())?)
}
