//! The floors: what the hardware allows, and a fair opponent written for the purpose.
//!
//! `floor:cache-line` is the least that two processors can do: each polls a word on a line
//! of its own and answers on the other's. Nothing else happens, not even a pause in the
//! loop. `floor:fixed-ring` moves real payloads, copied in and out of 1,024 fixed slots.

use crate::{
    Fallible,
    link::{Link, Payload, Side},
    shared::{LINE_BYTES, Region, RingLayout, RingReceiver, RingSender},
    transports::{LaneSpec, messages_in_flight},
};
use std::sync::atomic::{AtomicU64, Ordering};

/// Bare ping-pong of a cache line each way. It carries the number of the message and
/// nothing else, whatever size is measured.
pub(crate) struct CacheLine {
    there: &'static AtomicU64,
    back: &'static AtomicU64,
}

impl CacheLine {
    /// The memory that it takes.
    pub(crate) const LEN_BYTES: usize = 2 * LINE_BYTES;

    pub(crate) fn attach(region: &'static Region, side: Side) -> Self {
        let (near, far) = (&region.words(0, 1)[0], &region.words(LINE_BYTES, 1)[0]);
        match side {
            Side::Near => Self { there: near, back: far },
            Side::Far => Self { there: far, back: near },
        }
    }
}

impl Link for CacheLine {
    #[inline]
    fn send(&mut self, number: u64) -> Fallible<()> {
        // Release: pairs with the Acquire in `receive`. Free on x86, and what any real
        // transport needs.
        self.there.store(number, Ordering::Release);
        Ok(())
    }

    #[inline]
    fn receive(&mut self, number: u64) -> Fallible<()> {
        // Acquire: pairs with the Release in `send`.
        while self.back.load(Ordering::Acquire) != number {}
        Ok(())
    }
}

/// A fixed-slot ring each way; the payload is written to private memory, copied in, copied
/// out and read.
pub(crate) struct FixedRing {
    tx: RingSender,
    rx: RingReceiver,
    payload: Payload,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
}

impl FixedRing {
    fn layout(message_bytes: usize) -> RingLayout {
        RingLayout::new(messages_in_flight(message_bytes), message_bytes)
    }

    /// The memory that two of them take.
    pub(crate) fn len_bytes(message_bytes: usize) -> usize {
        2 * Self::layout(message_bytes).len_bytes()
    }

    pub(crate) fn attach(region: &'static Region, side: Side, spec: &LaneSpec) -> Self {
        let layout = Self::layout(spec.message_len_bytes);
        let (there, back) = match side {
            Side::Near => (0, layout.len_bytes()),
            Side::Far => (layout.len_bytes(), 0),
        };
        Self {
            tx: RingSender::at(region, there, layout),
            rx: RingReceiver::at(region, back, layout),
            payload: spec.payload(),
            outgoing: vec![0; spec.message_len_bytes],
            incoming: vec![0; spec.message_len_bytes],
        }
    }
}

impl Link for FixedRing {
    #[inline]
    fn send(&mut self, number: u64) -> Fallible<()> {
        self.payload.write(&mut self.outgoing, number);
        self.tx.send(&self.outgoing);
        Ok(())
    }

    #[inline]
    fn receive(&mut self, number: u64) -> Fallible<()> {
        self.rx.receive(&mut self.incoming);
        self.payload.check(&self.incoming, number)
    }
}
