//! Newest values: what reading one costs and what writing one costs, each for itself.
//!
//! Both take less time than reading the clock, so they are timed in groups. A reader doesn't
//! copy again what hasn't changed; that is a cost of its own. Each read of the other kind
//! finds a new value: a process that has several channels writes one to each, which isn't
//! timed, and then reads them one after the other, which is. A watched writer writes while
//! a process on the other processor reads as fast as it can; how much of the time that one
//! had its processor, and how many of the values it saw, are part of the figure.

use super::{
    clock::{Samples, sample_ns},
    lane::{AnyLane, Lane},
};
use crate::{
    links::{
        backends::ReadsNewest,
        ends::{InPlace, SendingEnd},
        link::EndsLink,
    },
    spec::{Job, LaneSpec, Outcome, Payload},
    trouble::Fallible,
};
use ipc_core::Sender;
use std::{ops::Range, time::Instant};

/// How many are timed together.
pub(crate) const GROUP: u64 = 16;

/// The shortest value that has room for its number.
pub(crate) const SHORTEST_BYTES: usize = 8;

/// Groups before the timed ones of each run.
const WARM_UP: u64 = 8;

/// Channels of which one process has both ends, as many as are timed together.
pub(crate) struct OwnValues<S, R> {
    channels: Vec<(InPlace<S>, R)>,
    payload: Payload,
    /// The next value's number.
    next: u64,
    samples: Samples,
}

impl<S: Sender, R: ReadsNewest> OwnValues<S, R> {
    pub(crate) fn new(ends: Vec<(S, R)>, spec: &LaneSpec) -> Self {
        let channels = ends.into_iter().map(|(tx, rx)| (InPlace::new(tx, spec), rx)).collect();
        Self { channels, payload: spec.payload(), next: 1, samples: Samples::default() }
    }

    /// Writes a new value to each channel.
    fn write(&mut self) -> Fallible<()> {
        self.next += 1;
        for (tx, _) in &mut self.channels {
            tx.send(self.next)?;
        }
        Ok(())
    }

    /// Reads the value of each channel. How long that takes, in nanoseconds.
    fn read(&mut self) -> Fallible<u32> {
        let (payload, number) = (self.payload, self.next);
        let start = Instant::now();
        for (_, rx) in &mut self.channels {
            if !rx.read_newest(|value| payload.check(value, number))? {
                return Err("there is no value where one was written".into());
            }
        }
        Ok(sample_ns(start.elapsed()))
    }
}

impl<S: Sender, R: ReadsNewest> AnyLane for OwnValues<S, R> {
    fn run(&mut self, job: Job, count: u64) -> Fallible<Outcome> {
        let writes = match job {
            Job::ReadNew => true,
            Job::ReadAgain => false,
            other => return Err(format!("one process has no such job with values: {other:?}").into()),
        };
        self.write()?;
        for _ in 0..WARM_UP {
            self.read()?;
        }
        let mut samples = std::mem::take(&mut self.samples);
        let samples_ns = samples.start(count)?;
        let outcome = Outcome::begin()?;
        for sample in samples_ns {
            if writes {
                self.write()?;
            }
            *sample = self.read()?;
        }
        let outcome = outcome.end()?;
        let latencies_ns = samples.counted()?;
        self.samples = samples;
        Ok(Outcome { latencies_ns, ..outcome })
    }
}

/// A value from one process to another, and one back.
pub(crate) struct Newest<S, R> {
    lane: Lane<EndsLink<InPlace<S>, InPlace<R>>>,
}

impl<S: Sender, R: ReadsNewest> Newest<S, R> {
    pub(crate) fn new(tx: S, rx: R, spec: &LaneSpec) -> Self {
        let (tx, rx) = (InPlace::new(tx, spec), InPlace::new(rx, spec));
        Self { lane: Lane::new(EndsLink { tx, rx, payload: spec.payload() }) }
    }

    /// The numbers of a run: of `count` groups, and those before them. Both sides count
    /// alike.
    fn numbers(&mut self, count: u64) -> Range<u64> {
        let first = self.lane.next;
        self.lane.next += (WARM_UP + count) * GROUP;
        first..self.lane.next
    }

    /// Writes values while the peer reads.
    fn write_watched(&mut self, count: u64) -> Fallible<Outcome> {
        let mut numbers = self.numbers(count);
        let Lane { link, samples, .. } = &mut self.lane;
        let samples_ns = samples.start(count)?;
        let mut group = || -> Fallible<()> {
            for number in numbers.by_ref().take(GROUP as usize) {
                link.tx.send(number)?;
            }
            Ok(())
        };
        for _ in 0..WARM_UP {
            group()?;
        }
        let outcome = Outcome::begin()?;
        for sample in samples_ns {
            let start = Instant::now();
            group()?;
            *sample = sample_ns(start.elapsed());
        }
        let outcome = outcome.end()?;
        Ok(Outcome { latencies_ns: samples.counted()?, ..outcome })
    }

    /// Reads whatever is there until it is the last value of the run, and counts how many
    /// different ones it sees. None may be torn, and none older than the one before.
    fn watch(&mut self, count: u64) -> Fallible<Outcome> {
        let last = self.numbers(count).end - 1;
        let link = &mut self.lane.link;
        let payload = link.payload;
        let outcome = Outcome::begin()?;
        let (mut newest, mut seen) = (0, 0);
        while newest < last {
            link.rx.end.read_newest(|value| {
                let number = Payload::number_of(value).unwrap_or(0);
                payload.check(value, number)?;
                if number < newest || number > last {
                    return Err(format!("value {number} came after {newest}, before {last}").into());
                }
                seen += u64::from(number > newest);
                newest = number;
                Ok(())
            })?;
        }
        Ok(Outcome { messages: seen, ..outcome.end()? })
    }
}

impl<S: Sender, R: ReadsNewest> AnyLane for Newest<S, R> {
    fn run(&mut self, job: Job, count: u64) -> Fallible<Outcome> {
        match job {
            Job::WriteWatched => self.write_watched(count),
            Job::Watch => self.watch(count),
            other => self.lane.run(other, count),
        }
    }
}
