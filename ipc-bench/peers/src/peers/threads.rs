//! Within one process, as a reference: two threads, and no process boundary to cross.
//!
//! The near process runs both, the second one on the far one's processor; the far process
//! stands by.

use crate::{
    jobs::{WARM_UP, drain, echo, ping, stood_by, stream},
    link::{Fallible, Lane, Link, Spec},
    pin_to,
};
use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use rtrb::{Consumer, Producer, PushError, RingBuffer};
use serde_json::Value;
use std::{hint::spin_loop, thread};

pub(crate) struct Threads<L> {
    /// None in the process that stands by.
    links: Option<[L; 2]>,
    other_processor: Option<usize>,
    next: u64,
}

impl<L> Threads<L> {
    fn new(spec: &Spec, links: impl FnOnce() -> [L; 2]) -> Self {
        Self { links: spec.is_near.then(links), other_processor: spec.other_processor, next: 1 }
    }
}

impl Threads<Crossbeam> {
    pub(crate) fn crossbeam(spec: &Spec) -> Self {
        Self::new(spec, || {
            let ((to_far, from_near), (to_near, from_far)) =
                (bounded(spec.messages_in_flight()), bounded(spec.messages_in_flight()));
            [Crossbeam(to_far, from_far), Crossbeam(to_near, from_near)]
        })
    }
}

impl Threads<Rtrb> {
    pub(crate) fn rtrb(spec: &Spec) -> Self {
        Self::new(spec, || {
            let (to_far, from_near) = RingBuffer::new(spec.messages_in_flight());
            let (to_near, from_far) = RingBuffer::new(spec.messages_in_flight());
            [Rtrb(to_far, from_far), Rtrb(to_near, from_near)]
        })
    }
}

impl<L: Link + Send> Lane for Threads<L> {
    fn run(&mut self, job: &str, count: u64) -> Fallible<Value> {
        let Some([near, far]) = &mut self.links else { return Ok(stood_by()) };
        let is_round_trip = job == "Ping";
        let warm_up = if is_round_trip { WARM_UP } else { 0 };
        let numbers = self.next..self.next + warm_up + count;
        self.next = numbers.end;
        let (its, processor) = (numbers.clone(), self.other_processor);
        thread::scope(|scope| {
            let other = scope.spawn(move || {
                processor.map_or(Ok(()), pin_to)?;
                if is_round_trip { echo(far, its) } else { drain(far, its) }
            });
            let mut outcome = if is_round_trip { ping(near, numbers) } else { stream(near, numbers) }?;
            let others = other.join().map_err(|_| "the second thread panicked")??;
            // The last message is read when the second thread has ended.
            if let Some(later) = others["Done"]["ended_ns"].as_u64() {
                let ended_ns = outcome["Done"]["ended_ns"].as_u64().unwrap_or(0).max(later);
                outcome["Done"]["ended_ns"] = ended_ns.into();
            }
            Ok(outcome)
        })
    }
}

pub(crate) struct Crossbeam(Sender<u64>, Receiver<u64>);

impl Link for Crossbeam {
    #[inline]
    fn send(&mut self, number: u64) -> Fallible<()> {
        Ok(self.0.send(number)?)
    }

    #[inline]
    fn receive(&mut self, number: u64) -> Fallible<()> {
        loop {
            match self.1.try_recv() {
                Ok(message) => return expected(message, number),
                Err(TryRecvError::Empty) => spin_loop(),
                Err(TryRecvError::Disconnected) => return Err("the other thread is gone".into()),
            }
        }
    }
}

pub(crate) struct Rtrb(Producer<u64>, Consumer<u64>);

impl Link for Rtrb {
    #[inline]
    fn send(&mut self, number: u64) -> Fallible<()> {
        while let Err(PushError::Full(_)) = self.0.push(number) {
            spin_loop();
        }
        Ok(())
    }

    #[inline]
    fn receive(&mut self, number: u64) -> Fallible<()> {
        loop {
            if let Ok(message) = self.1.pop() {
                return expected(message, number);
            }
            spin_loop();
        }
    }
}

fn expected(message: u64, number: u64) -> Fallible<()> {
    if message == number {
        return Ok(());
    }
    Err(format!("message {number} came as {message}").into())
}
