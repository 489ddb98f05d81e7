//! The measuring: P1's side and P2's side of round trips and of streams.
//!
//! Both sides of both models run this same code, each with its backend's endpoints. A
//! message's first 8 bytes are a counter that is written, read and checked; the highest
//! counter ends an exercise.

use crate::{
    backend::{Backend, ReceiverOf, SenderOf},
    exit::{Exit, Failure},
};
use ipc_core::{Loan as _, Receiver as _, RecvError, SendError, Sender as _, Wait};
use std::{
    fmt,
    time::{Duration, Instant},
};

const COUNTER_LEN: usize = size_of::<u64>();
const LAST: u64 = u64::MAX;

/// Nothing in the demo takes so long, unless the other process is gone.
const PATIENCE: Duration = Duration::from_secs(15);

/// One process's two endpoints.
pub(crate) struct Ends<B: Backend> {
    pub(crate) tx: SenderOf<B>,
    pub(crate) rx: ReceiverOf<B>,
}

/// What a number of round trips took.
pub(crate) struct RoundTrips {
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
}

/// What a stream carried.
pub(crate) struct Stream {
    pub(crate) messages: u64,
    pub(crate) took: Duration,
}

impl<B: Backend> Ends<B> {
    /// P1: sends 8 bytes and waits for the answer, again and again.
    pub(crate) fn round_trips(&mut self, time: Duration) -> Result<RoundTrips, Failure> {
        const WARM_UP: u64 = 200;
        let mut took = Vec::new();
        let begin = Instant::now();
        for counter in 0.. {
            let start = Instant::now();
            self.send(counter, COUNTER_LEN)?;
            expect(self.receive()?, counter)?;
            if counter >= WARM_UP {
                took.push(start.elapsed());
            }
            if counter > WARM_UP && begin.elapsed() >= time {
                break;
            }
        }
        self.send(LAST, COUNTER_LEN)?;
        took.sort_unstable();
        Ok(RoundTrips { p50: took[took.len() / 2], p99: took[took.len() * 99 / 100] })
    }

    /// P2: sends back what comes.
    pub(crate) fn echo(&mut self) -> Result<(), Failure> {
        loop {
            match self.receive()? {
                LAST => return Ok(()),
                counter => self.send(counter, COUNTER_LEN)?,
            }
        }
    }

    /// P1: sends messages of `len` bytes as fast as it can, then waits until all are counted.
    pub(crate) fn stream(&mut self, len: usize, time: Duration) -> Result<Stream, Failure> {
        const BETWEEN_LOOKS_AT_THE_CLOCK: u64 = 64;
        let begin = Instant::now();
        let mut messages = 0;
        while messages % BETWEEN_LOOKS_AT_THE_CLOCK != 0 || begin.elapsed() < time {
            self.send(messages, len)?;
            messages += 1;
        }
        self.send(LAST, len)?;
        expect(self.receive()?, messages)?;
        Ok(Stream { messages, took: begin.elapsed() })
    }

    /// P2: counts what comes, checks its order, and reports the count.
    pub(crate) fn count(&mut self) -> Result<(), Failure> {
        let mut messages = 0;
        loop {
            match self.receive()? {
                LAST => return self.send(messages, COUNTER_LEN),
                counter => expect(counter, messages)?,
            }
            messages += 1;
        }
    }

    /// A message with this counter; every cache line of it is written.
    fn send(&mut self, counter: u64, len: usize) -> Result<(), Failure> {
        let wait = Wait::timeout(PATIENCE);
        self.tx.reserve(len, wait).map_err(sending)?;
        let mut loan = self.tx.reserved();
        loan[COUNTER_LEN..].fill(counter as u8);
        loan[..COUNTER_LEN].copy_from_slice(&counter.to_le_bytes());
        loan.commit(wait).map_err(|rejected| sending(rejected.error))
    }

    /// The counter of the next message; every cache line of it is read.
    fn receive(&mut self) -> Result<u64, Failure> {
        const CACHE_LINE: usize = 64;
        self.rx.advance(Wait::timeout(PATIENCE)).map_err(receiving)?;
        let message = self.rx.held();
        let (counter, rest) =
            message.split_first_chunk::<COUNTER_LEN>().ok_or_else(|| broken("a message is too short"))?;
        let counter = u64::from_le_bytes(*counter);
        if rest.iter().step_by(CACHE_LINE).any(|&byte| byte != counter as u8) {
            return Err(broken("a message arrived changed"));
        }
        Ok(counter)
    }
}

fn expect(found: u64, expected: u64) -> Result<(), Failure> {
    match found == expected {
        true => Ok(()),
        false => Err(broken(format_args!("message {expected} was expected, {found} came"))),
    }
}

pub(crate) fn sending(error: SendError) -> Failure {
    broken(format_args!("sending: {error}"))
}

pub(crate) fn receiving(error: RecvError) -> Failure {
    broken(format_args!("receiving: {error}"))
}

fn broken(what: impl fmt::Display) -> Failure {
    Failure::new(Exit::Failure, "demo", what)
}

#[cfg(test)]
mod tests {
    use super::Ends;
    use ipc_core::{Channel, ChannelName, Transport, local::Local};
    use std::{thread, time::Duration};

    #[test]
    fn both_sides_agree() {
        let local = Local::new();
        let make = |name| local.create(&ChannelName::new(name).unwrap(), &Default::default()).unwrap();
        let (there, back) = (make("there"), make("back"));
        let mut p1 = Ends::<Local> { tx: there.sender().unwrap(), rx: back.receiver().unwrap() };
        let mut p2 = Ends::<Local> { tx: back.sender().unwrap(), rx: there.receiver().unwrap() };
        let p2 = thread::spawn(move || {
            p2.echo().unwrap();
            p2.count().unwrap();
        });
        let round_trips = p1.round_trips(Duration::from_millis(1)).unwrap();
        assert!(round_trips.p50 <= round_trips.p99);
        assert!(p1.stream(100, Duration::from_millis(1)).unwrap().messages >= 64);
        p2.join().unwrap();
    }
}
