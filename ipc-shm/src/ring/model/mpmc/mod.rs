//! The work queue: its participants, and the books that are balanced when all is over. All cases
//! start just below the last lap, so that laps wrap on the way.

mod cases;
mod crowd;
mod deaths;

use super::{FOREVER, Mortal, Orderings, Words, checker::Checker, dies, locked};
use crate::ring::{
    Corrupt,
    mpmc::{self, Claim, Geometry, Held, Reader, Slot, Take, Writer},
};
use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Mutex,
        atomic::Ordering::{AcqRel, Acquire, Relaxed, Release},
    },
};

const S1: u32 = 1;
const S2: u32 = 2;
const R1: u32 = 3;
const R2: u32 = 4;
/// Who comes when all is over.
const LAST_SENDER: u32 = 5;
const LAST_RECEIVER: u32 = 6;
const PARTICIPANTS: u32 = 6;

const LAST_LAP: u64 = (1 << 39) - 1;
/// A slot's word that is free in this lap.
const FREE_IN_LAST_LAP: u64 = LAST_LAP << 25;
const MESSAGE_BYTES: usize = 8;
/// A limit that isn't met.
const MANY: u32 = 200;

/// A queue, what the kernel knows of its participants, and what came of its messages.
struct World<C: Checker> {
    words: Words<C>,
    geometry: Geometry,
    drop_oldest: bool,
    /// Whether hints are what they may be, or anything: then messages may come in any order.
    has_sound_hints: bool,
    log: Arc<Mutex<Log>>,
}

impl<C: Checker> Clone for World<C> {
    fn clone(&self) -> Self {
        Self { words: self.words.clone(), log: Arc::clone(&self.log), ..*self }
    }
}

/// What participants know of it, in the order in which it happened. None of the checker's.
#[derive(Default)]
struct Log {
    acknowledged: Vec<u64>,
    taken: Vec<Taken>,
    /// What was taken and put back, as if it had not been: it may come after what follows it.
    put_back: BTreeSet<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Taken {
    receiver: u32,
    message: u64,
    attempts: u32,
    released: bool,
}

/// A message that tells its sender, and which of its messages it is.
fn message(sender: u32, number: u64) -> u64 {
    u64::from(sender) << 8 | number
}

impl<C: Checker> World<C> {
    fn new(orderings: &Orderings, depth: u64, max_deliveries: u32) -> Self {
        const STATE_STRIDE: usize = 24;
        const SLOT_STRIDE: usize = 24;
        const STATES: usize = 24;
        let slots = STATES + PARTICIPANTS as usize * STATE_STRIDE;
        let geometry = Geometry {
            generation: 0,
            hints: 8,
            states: STATES,
            state_stride: STATE_STRIDE,
            drops_from_state: 8,
            participants: PARTICIPANTS,
            slots,
            stride: SLOT_STRIDE,
            end: slots + depth as usize * SLOT_STRIDE,
            depth,
            max_message_len: MESSAGE_BYTES,
            max_deliveries,
        };
        let shared = std::iter::repeat_n(0, slots / 8);
        let ring = (0..depth).flat_map(|_| [FREE_IN_LAST_LAP, 0, 0]);
        // Locks, and a signal.
        let apart = std::iter::repeat_n(0, PARTICIPANTS as usize + 1);
        let words = Words::new(shared.chain(ring).chain(apart), orderings.clone());
        Self { words, geometry, drop_oldest: false, has_sound_hints: true, log: Arc::default() }
    }

    fn dropping_oldest(self) -> Self {
        Self { drop_oldest: true, ..self }
    }

    fn with_any_hints(self) -> Self {
        Self { has_sound_hints: false, ..self }
    }

    /// The word of a slot.
    fn slot(&self, index: usize) -> usize {
        self.geometry.slots + index * self.geometry.stride
    }

    /// A word behind the queue.
    fn apart(&self, index: u32) -> &C::Word {
        self.words.word(self.slot(self.geometry.depth as usize) + 8 * index as usize)
    }

    /// Asks the kernel for a participant's byte. What its last owner did has been done.
    fn lock(&self, id: u32) -> bool {
        C::compare_exchange(self.apart(id - 1), 0, 1, AcqRel, Relaxed).is_ok()
    }

    fn unlock(&self, id: u32) {
        C::store(self.apart(id - 1), 0, Release);
    }

    /// Tells another participant something by other means than the queue.
    fn signal(&self) {
        C::store(self.apart(PARTICIPANTS), 1, Release);
    }

    fn is_signalled(&self) -> bool {
        C::load(self.apart(PARTICIPANTS), Acquire) == 1
    }

    fn sender(&self, id: u32) -> Sender<C> {
        assert!(self.lock(id));
        Sender::attach(self, id, Mortal::new(&self.words, FOREVER))
    }

    fn receiver(&self, id: u32) -> Receiver<C> {
        assert!(self.lock(id));
        Receiver::attach(self, id, Mortal::new(&self.words, FOREVER))
    }

    /// The life of a participant from before it comes, ended after so many accesses, or by
    /// itself. Whether it was ended; nothing if another one has its place.
    fn live(&self, id: u32, accesses: usize, life: impl FnOnce(Mortal<C>)) -> Option<bool> {
        self.lock(id).then(|| {
            let died = dies(|| life(Mortal::new(&self.words, accesses)));
            self.unlock(id);
            died
        })
    }

    /// All is over: what is left is received, by those who are still there; nothing is left
    /// after that, all places can be filled, and the books are balanced.
    fn close(&self, senders: Vec<Sender<C>>, receivers: Vec<Receiver<C>>) {
        let mut receivers = receivers;
        for receiver in &mut receivers {
            (S1..=R2).for_each(|id| receiver.look_for(id));
            receiver.drain();
        }
        let mut last = self.receiver(LAST_RECEIVER);
        (S1..=R2).for_each(|id| last.look_for(id));
        let overlooked = last.drain();
        assert!(receivers.is_empty() || overlooked == 0, "who was there all the time didn't find it");
        receivers.push(last);

        let mut senders = senders;
        senders.push(self.sender(LAST_SENDER));
        for (sender, number) in senders.iter_mut().zip(200..) {
            let id = sender.id;
            for number in (0..self.geometry.depth).map(|more| number + 8 * more) {
                assert!(sender.send(message(id, number)), "room is denied where it is");
            }
            if !self.drop_oldest {
                assert!(!sender.send(message(id, 255)), "there is no room");
            }
            for receiver in &mut receivers {
                receiver.receive();
            }
            receivers[0].drain();
        }
        self.audit();
    }

    fn audit(&self) {
        let log = locked(&self.log);
        let survey = mpmc::survey(&self.words, &self.geometry, &mut []);
        let released: Vec<Taken> = log.taken.iter().filter(|taken| taken.released).copied().collect();
        let done: BTreeSet<u64> = released.iter().map(|taken| taken.message).collect();
        let sent: BTreeSet<u64> = log.acknowledged.iter().copied().collect();
        let lost = survey.lost.expect("counted");
        assert_eq!(survey.queued, Some(0));
        assert_eq!(done.len(), released.len(), "released twice: {released:?}");
        assert!(done.is_subset(&sent), "never sent: {:?}", done.difference(&sent));
        assert_eq!(done.len() as u64 + lost, sent.len() as u64, "sent {sent:?}, done {released:?}");
        // Each attempt has its number, and numbers are given once.
        let attempts: BTreeSet<(u64, u32)> =
            log.taken.iter().map(|taken| (taken.message, taken.attempts)).collect();
        assert_eq!(attempts.len(), log.taken.len(), "an attempt twice: {:?}", log.taken);
        assert!(log.taken.iter().all(|taken| taken.attempts < self.geometry.max_deliveries));
        if !self.drop_oldest {
            let again: u32 = released.iter().map(|taken| taken.attempts).sum();
            let spent = lost * u64::from(self.geometry.max_deliveries - 1);
            assert_eq!(survey.redelivered, Some(u64::from(again) + spent));
        }
        for receiver in (R1..=LAST_RECEIVER).filter(|_| self.has_sound_hints) {
            for sender in S1..=LAST_SENDER {
                let first = log.taken.iter().filter(|taken| {
                    taken.attempts == 0
                        && !log.put_back.contains(&taken.message)
                        && taken.receiver == receiver
                        && taken.message >> 8 == u64::from(sender)
                });
                assert!(first.map(|taken| taken.message).is_sorted(), "out of order: {:?}", log.taken);
            }
        }
    }
}

/// A participant.
struct Member<C: Checker, R> {
    world: World<C>,
    id: u32,
    memory: Mortal<C>,
    ring: R,
}

type Sender<C> = Member<C, Writer<Mortal<C>>>;
type Receiver<C> = Member<C, Reader<Mortal<C>>>;

/// Tries after which an `Again` is an endless loop.
const MOST_TRIES: usize = 50;

impl<C: Checker, R> Member<C, R> {
    /// Puts in order what another one left, if it is dead.
    fn look_for(&self, id: u32) {
        let (memory, geometry) = (&self.memory, &self.world.geometry);
        if id == self.id || !mpmc::is_entered(memory, geometry, id) || !self.world.lock(id) {
            return;
        }
        let repaired = catch_unwind(AssertUnwindSafe(|| mpmc::repair(memory, geometry, id)));
        self.world.unlock(id);
        repaired.unwrap_or_else(|death| resume_unwind(death)).expect("sound");
    }

    /// What a drop does of whoever has something; the lock is not given up here.
    fn give_back(self) {
        mpmc::repair(&self.memory, &self.world.geometry, self.id).expect("sound");
    }
}

impl<C: Checker> Sender<C> {
    fn attach(world: &World<C>, id: u32, memory: Mortal<C>) -> Self {
        let ring = Writer::attach(memory.clone(), world.geometry, id).expect("sound");
        Self { world: world.clone(), id, memory, ring }
    }

    /// What a drop does of whoever has claimed nothing.
    fn leave(self) {
        self.ring.leave().expect("sound");
    }

    fn claim(&mut self) -> Option<Slot> {
        for _ in 0..MOST_TRIES {
            // As the endpoints do.
            let claimed = self.ring.claim_here().map(|slot| Ok(Claim::Claimed(slot)));
            let claimed = claimed.unwrap_or_else(|| self.ring.try_claim(self.world.drop_oldest));
            match claimed.expect("sound") {
                Claim::Claimed(slot) => return Some(slot),
                Claim::Full { .. } => return None,
                Claim::Again => {}
            }
        }
        panic!("no end");
    }

    fn fill(&mut self, slot: &Slot, message: u64) {
        self.memory.write_payload(self.ring.payload(slot), message);
        self.ring.commit(slot, MESSAGE_BYTES).expect("ours");
        locked(&self.world.log).acknowledged.push(message);
    }

    /// Whether there was room.
    fn send(&mut self, message: u64) -> bool {
        let slot = self.claim();
        if let Some(slot) = &slot {
            self.fill(slot, message);
        }
        slot.is_some()
    }

    fn send_all(&mut self, count: u64) {
        for number in 0..count {
            while !self.send(message(self.id, number)) {
                C::yield_now();
            }
        }
    }
}

impl<C: Checker> Receiver<C> {
    fn attach(world: &World<C>, id: u32, memory: Mortal<C>) -> Self {
        let ring = Reader::attach(memory.clone(), world.geometry, id).expect("sound");
        Self { world: world.clone(), id, memory, ring }
    }

    /// What a drop does of whoever holds nothing.
    fn leave(self) {
        self.ring.leave().expect("sound");
    }

    fn try_take(&mut self) -> Result<Option<Held>, Corrupt> {
        for _ in 0..MOST_TRIES {
            // As the endpoints do.
            let taken = self.ring.take_here().map(|held| Ok(Take::Taken(held)));
            match taken.unwrap_or_else(|| self.ring.try_take())? {
                Take::Taken(held) => return Ok(Some(held)),
                Take::Empty { .. } => return Ok(None),
                Take::Again => {}
            }
        }
        panic!("no end");
    }

    fn take(&mut self) -> Option<Held> {
        let held = self.try_take().expect("sound")?;
        assert_eq!(held.len(), MESSAGE_BYTES);
        let message = self.memory.read_payload(self.ring.payload(&held));
        let taken = Taken { receiver: self.id, message, attempts: held.attempts(), released: false };
        locked(&self.world.log).taken.push(taken);
        Some(held)
    }

    fn release(&mut self, held: &Held) {
        // Read again: nobody has written there meanwhile.
        let message = self.memory.read_payload(self.ring.payload(held));
        self.ring.release(held).expect("ours");
        let mut log = locked(&self.world.log);
        let taken = log.taken.iter_mut().rev().find(|taken| taken.receiver == self.id && !taken.released);
        let taken = taken.expect("logged");
        assert_eq!(taken.message, message);
        taken.released = true;
    }

    /// Puts what was taken last back. For others it comes to the same if we die before it is done.
    fn put_back(&mut self, held: &Held) {
        let mut log = locked(&self.world.log);
        let taken = log.taken.iter().rposition(|taken| taken.receiver == self.id && !taken.released);
        let taken = log.taken.remove(taken.expect("logged"));
        log.put_back.insert(taken.message);
        drop(log);
        self.ring.put_back([held]);
    }

    /// Whether there was a message.
    fn receive(&mut self) -> bool {
        let held = self.take();
        if let Some(held) = &held {
            self.release(held);
        }
        held.is_some()
    }

    fn receive_all(&mut self, count: u64) {
        for _ in 0..count {
            while !self.receive() {
                C::yield_now();
            }
        }
    }

    fn drain(&mut self) -> usize {
        std::iter::from_fn(|| self.receive().then_some(())).count()
    }
}
