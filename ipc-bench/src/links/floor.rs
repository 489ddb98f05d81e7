//! The floors: what the hardware and the kernel allow, and a fair opponent written for the
//! purpose.
//!
//! - `floor:cache-line` is the least that two processors can do: each polls a word on a
//!   line of its own and answers on the other's. Nothing else happens, not even a pause in
//!   the loop: these are the fewest instructions, and the floor that figures are ratios to.
//! - `floor:cache-line-paused` has that pause, as everything else here that polls has it: a
//!   processor that doesn't rush ahead reading the line has less to take back when it changes
//!   (Intel 64 and IA-32 Architectures Optimization Reference Manual, on PAUSE). Where that is
//!   faster, the hardware allows less than the floor, and its ratio, below 1, says by how much.
//! - `floor:futex` is the same between processes that sleep: each stores a word and wakes
//!   the other one. It is what waking whoever is blocked costs.
//! - `floor:fixed-ring` moves real payloads, copied in and out of 1,024 fixed slots.
//! - `floor:memcpy` is that ring with payloads of which only the ends are written and read,
//!   so that the two copies are all it does: `--copy` compares with it.

use super::{
    link::Link,
    shared::{FutexWord, LINE_BYTES, Region, RingLayout, RingReceiver, RingSender},
};
use crate::{
    spec::{LaneSpec, Payload, Side, Touch},
    trouble::Fallible,
};
use std::{
    hint,
    sync::atomic::{AtomicU64, Ordering},
};

/// Bare ping-pong of a cache line each way, with or without a pause after each look. It carries the number of the message and
/// nothing else, whatever size is measured.
pub(crate) struct CacheLine<const PAUSES: bool> {
    there: &'static AtomicU64,
    back: &'static AtomicU64,
}

impl<const PAUSES: bool> CacheLine<PAUSES> {
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

impl<const PAUSES: bool> Link for CacheLine<PAUSES> {
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
        while self.back.load(Ordering::Acquire) != number {
            if PAUSES {
                hint::spin_loop();
            }
        }
        Ok(())
    }
}

/// Bare ping-pong of two processes that sleep while they wait, a futex word each way. Like
/// the cache line's, it carries the number of the message and nothing else.
pub(crate) struct Futex {
    there: FutexWord,
    back: FutexWord,
}

impl Futex {
    /// The memory that it takes.
    pub(crate) const LEN_BYTES: usize = 2 * LINE_BYTES;

    pub(crate) fn attach(region: &'static Region, side: Side) -> Self {
        let (near, far) = (FutexWord::at(region, 0), FutexWord::at(region, LINE_BYTES));
        match side {
            Side::Near => Self { there: near, back: far },
            Side::Far => Self { there: far, back: near },
        }
    }
}

impl Link for Futex {
    #[inline]
    fn send(&mut self, number: u64) -> Fallible<()> {
        self.there.set_and_wake(number as u32);
        Ok(())
    }

    #[inline]
    fn receive(&mut self, number: u64) -> Fallible<()> {
        self.back.sleep_until(number as u32);
        Ok(())
    }
}

/// How many messages a ring holds, for the floor, its opponents and the peers alike: 1,024, or
/// what is 4 MiB together, or two of 1 MiB and more. A ring that is longer than the cache of
/// one processor, and takes up but a part of that which processors share, has long messages
/// copied fastest: here twice as fast as one of 16 MiB. Where a message is lent, nothing is
/// copied, and the room is what counts: 16 MiB, and 16 messages at least.
///
/// Of round trips, one message is under way at a time each way. Where 1 MiB and more are copied or
/// touched, there is room for that one: what goes round a longer ring is out of the cache when its place comes again, and that would be
/// measured for nothing.
pub(crate) fn messages_in_flight(payload: Payload, in_turn: bool) -> usize {
    const MOST: usize = 1024;
    let len_bytes = payload.len_bytes.max(1);
    let fitting = match payload.touch {
        Touch::First => ((16 << 20) / len_bytes).max(16),
        Touch::All | Touch::Copied if in_turn && len_bytes >= 1 << 20 => 1,
        Touch::All | Touch::Copied if len_bytes >= 1 << 20 => 2,
        Touch::All | Touch::Copied => (4 << 20) / len_bytes,
    };
    (fitting.min(MOST) + 1).next_power_of_two() / 2
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
    fn layout(spec: &LaneSpec) -> RingLayout {
        RingLayout::new(messages_in_flight(spec.payload(), spec.in_turn), spec.message_len_bytes)
    }

    /// The memory that two of them take.
    pub(crate) fn len_bytes(spec: &LaneSpec) -> usize {
        2 * Self::layout(spec).len_bytes()
    }

    pub(crate) fn attach(region: &'static Region, side: Side, spec: &LaneSpec) -> Self {
        let layout = Self::layout(spec);
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

#[cfg(test)]
mod tests {
    use super::messages_in_flight;
    use crate::spec::{Payload, Touch};
    use rstest::rstest;

    #[rstest]
    #[case::short(8, Touch::All, [1024, 1024])]
    #[case::long(64 << 10, Touch::Copied, [64, 64])]
    #[case::longer(1 << 20, Touch::Copied, [2, 1])]
    #[case::lent(64 << 10, Touch::First, [256, 256])]
    #[case::longer_and_lent(1 << 20, Touch::First, [16, 16])]
    fn a_ring_has_room_for_what_is_under_way(
        #[case] len_bytes: usize,
        #[case] touch: Touch,
        #[case] streams_and_round_trips: [usize; 2],
    ) {
        let payload = Payload { len_bytes, touch };
        assert_eq!(
            [false, true].map(|in_turn| messages_in_flight(payload, in_turn)),
            streams_and_round_trips
        );
    }
}
