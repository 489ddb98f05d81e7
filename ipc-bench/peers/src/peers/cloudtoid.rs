//! cloudtoid-interprocess: a queue of bytes each way, polled, into memory of the caller's.

use crate::link::{Fallible, Link, Payload, Spec};
use cloudtoid_interprocess::{Options, Publisher, Subscriber};
use std::hint::spin_loop;

pub(crate) struct Queues {
    publisher: Publisher,
    subscriber: Subscriber,
    payload: Payload,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
}

impl Queues {
    pub(crate) fn attach(spec: &Spec) -> Fallible<Self> {
        // A record has a header of 8 bytes.
        let capacity_bytes = spec.messages_in_flight() * (spec.payload.len_bytes + 8);
        let options = |direction: &str| {
            Options::new(format!("{}-{direction}", spec.prefix), capacity_bytes).with_path(&spec.directory)
        };
        let [out, back] = spec.directions();
        Ok(Self {
            publisher: Publisher::open(&options(out))?,
            subscriber: Subscriber::open(&options(back))?,
            payload: spec.payload,
            outgoing: vec![0; spec.payload.len_bytes],
            incoming: vec![0; spec.payload.len_bytes],
        })
    }
}

impl Link for Queues {
    #[inline]
    fn send(&mut self, number: u64) -> Fallible<()> {
        self.payload.write(&mut self.outgoing, number);
        loop {
            match self.publisher.try_send(&self.outgoing) {
                Err(error) if error.is_full() => spin_loop(),
                other => return Ok(other?),
            }
        }
    }

    #[inline]
    fn receive(&mut self, number: u64) -> Fallible<()> {
        loop {
            if let Some(len_bytes) = self.subscriber.try_recv_into(&mut self.incoming)? {
                return self.payload.check(&self.incoming[..len_bytes], number);
            }
            spin_loop();
        }
    }
}
