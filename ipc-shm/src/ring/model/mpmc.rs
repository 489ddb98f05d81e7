//! The work queue. All cases start just below the last lap, so that laps wrap on the way.

use super::{
    Case, FOREVER, Mortal, Orderings, Words,
    checker::{Checker, Loom, Shuttle},
    dies, every_ordering_is_needed, is_long_run, locked, report,
};
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

impl World<Shuttle> {
    /// Has the hints say something, if they may say anything.
    fn confuse(&self) {
        if !self.has_sound_hints {
            for hint in [0, 8] {
                let lap = (LAST_LAP + Shuttle::any_below(3) as u64) % (LAST_LAP + 1);
                let position =
                    lap * self.geometry.depth + Shuttle::any_below(self.geometry.depth as usize) as u64;
                Shuttle::store(self.words.word(self.geometry.hints + hint), position + 1, Relaxed);
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

fn one_to_one(orderings: &Orderings, depth: u64, messages: u64) {
    let world = World::<Loom>::new(orderings, depth, MANY);
    let (mut sender, mut receiver) = (world.sender(S1), world.receiver(R1));
    let sender = Loom::spawn(move || {
        sender.send_all(messages);
        sender
    });
    receiver.receive_all(messages);
    world.close(vec![Loom::join(sender)], vec![receiver]);
}

const ONE_TO_ONE_BY_ONE: Case = Case {
    name: "one sender, one receiver, one slot",
    preemptions: [1, 2],
    run: |orderings, _| {
        one_to_one(orderings, 1, 3);
        false
    },
};

const ONE_TO_ONE_BY_TWO: Case = Case {
    name: "one sender, one receiver, two slots",
    preemptions: [1, 2],
    run: |orderings, _| {
        // With three, one of the slots is used again.
        one_to_one(orderings, 2, if is_long_run() { 4 } else { 3 });
        false
    },
};

/// Two senders, one of which is behind; one receiver. Nobody waits.
fn two_senders(orderings: &Orderings, depth: u64) {
    let world = World::<Loom>::new(orderings, depth, MANY);
    let mut receiver = world.receiver(R1);
    let senders = [S1, S2].map(|id| {
        let mut sender = world.sender(id);
        Loom::spawn(move || {
            sender.send(message(id, 0));
            sender
        })
    });
    receiver.receive();
    world.close(senders.map(Loom::join).into(), vec![receiver]);
}

const TWO_SENDERS_BY_ONE: Case = Case {
    name: "two senders, one receiver, one slot",
    preemptions: [1, 2],
    run: |orderings, _| {
        two_senders(orderings, 1);
        false
    },
};

const TWO_SENDERS_BY_TWO: Case = Case {
    name: "two senders, one receiver, two slots",
    preemptions: [1, 2],
    run: |orderings, _| {
        two_senders(orderings, 2);
        false
    },
};

fn two_receivers(orderings: &Orderings, depth: u64) {
    let world = World::<Loom>::new(orderings, depth, MANY);
    let mut sender = world.sender(S1);
    let receivers = [R1, R2].map(|id| {
        let mut receiver = world.receiver(id);
        Loom::spawn(move || {
            receiver.receive();
            receiver
        })
    });
    for number in 0..depth {
        sender.send(message(S1, number));
    }
    world.close(vec![sender], receivers.map(Loom::join).into());
}

const TWO_RECEIVERS_BY_ONE: Case = Case {
    name: "one sender, two receivers, one slot",
    preemptions: [1, 2],
    run: |orderings, _| {
        two_receivers(orderings, 1);
        false
    },
};

const TWO_RECEIVERS_BY_TWO: Case = Case {
    name: "one sender, two receivers, two slots",
    preemptions: [0, 1],
    run: |orderings, _| {
        two_receivers(orderings, 2);
        false
    },
};

/// There is always a message, and never a moment without.
const HONEST_EMPTY: Case = Case {
    name: "nothing is called empty that is not",
    preemptions: [2, 4],
    run: |orderings, _| {
        let world = World::<Loom>::new(orderings, 2, MANY);
        let (mut sender, mut other) = (world.sender(S1), world.receiver(R1));
        let mut receiver = world.receiver(R2);
        // It has looked back for what was made ready again, and won't once more.
        assert!(!receiver.receive());
        sender.send(message(S1, 0));
        let sender = Loom::spawn(move || {
            sender.send(message(S1, 1));
            sender.world.signal();
            sender
        });
        let other = Loom::spawn(move || {
            // With the second message there, it takes the first one.
            let held = other.world.is_signalled().then(|| other.take()).flatten();
            (other, held)
        });
        assert!(receiver.receive(), "empty, it says");
        let (mut other, held) = Loom::join(other);
        held.iter().for_each(|held| other.release(held));
        world.close(vec![Loom::join(sender)], vec![receiver, other]);
        false
    },
};

/// There is always a slot, and never a moment without. `far`: the senders have not followed
/// the queue, and walk.
fn honest_full(orderings: &Orderings, far: bool) {
    let world = World::<Loom>::new(orderings, 2, MANY);
    let mut receiver = world.receiver(R1);
    let (mut other, mut sender) = (world.sender(S1), world.sender(S2));
    let mut first = world.sender(LAST_SENDER);
    first.send_all(2);
    first.leave();
    world.unlock(LAST_SENDER);
    if !far {
        assert!(other.claim().is_none() && sender.claim().is_none());
    }
    receiver.receive();
    let held = receiver.take().expect("sent");
    let receiver = Loom::spawn(move || {
        receiver.release(&held);
        receiver.world.signal();
        receiver
    });
    let other = Loom::spawn(move || {
        // With the second slot free, it claims the first one.
        let slot = other.world.is_signalled().then(|| other.claim()).flatten();
        (other, slot)
    });
    assert!(sender.send(message(S2, 0)), "full, it says");
    let (mut other, slot) = Loom::join(other);
    slot.iter().for_each(|slot| other.fill(slot, message(S1, 0)));
    world.close(vec![sender, other], vec![Loom::join(receiver)]);
}

const HONEST_FULL: Case = Case {
    name: "nothing is called full that is not",
    preemptions: [2, 4],
    run: |orderings, _| {
        honest_full(orderings, false);
        false
    },
};

const HONEST_FULL_FROM_AFAR: Case = Case {
    name: "nothing is called full that is not, by those who walk",
    preemptions: [2, 4],
    run: |orderings, _| {
        honest_full(orderings, true);
        false
    },
};

const ABORT: Case = Case {
    name: "a reservation is given up",
    preemptions: [2, 3],
    run: |orderings, _| {
        let world = World::<Loom>::new(orderings, 1, MANY);
        let (mut fickle, mut sender) = (world.sender(S1), world.sender(S2));
        let mut receiver = world.receiver(R1);
        let fickle = Loom::spawn(move || {
            if let Some(slot) = fickle.claim() {
                fickle.memory.write_payload(fickle.ring.payload(&slot), 99);
                fickle.ring.abort(&slot).expect("ours");
            }
            fickle
        });
        sender.send(message(S2, 0));
        receiver.receive();
        world.close(vec![Loom::join(fickle), sender], vec![receiver]);
        false
    },
};

const DAMAGED: Case = Case {
    name: "a damaged message is damaged for everybody",
    preemptions: [1, 2],
    run: |orderings, _| {
        let world = World::<Loom>::new(orderings, 1, MANY);
        let mut sender = world.sender(S1);
        let (mut one, mut other) = (world.receiver(R1), world.receiver(R2));
        sender.send_all(1);
        one.receive_all(1);
        let sender = Loom::spawn(move || {
            let slot = sender.claim().expect("free");
            sender.memory.write_payload(sender.ring.payload(&slot), 99);
            sender.ring.commit(&slot, MESSAGE_BYTES + 1).expect("ours");
        });
        let other = Loom::spawn(move || assert!(!matches!(other.try_take(), Ok(Some(_)))));
        assert!(!matches!(one.try_take(), Ok(Some(_))), "it isn't what it was");
        Loom::join(sender);
        Loom::join(other);
        assert!(one.try_take().is_err());
        false
    },
};

const DEAD_SENDER: Case = Case {
    name: "a sender dies",
    preemptions: [1, 2],
    run: |orderings, accesses| {
        let world = World::<Loom>::new(orderings, 2, MANY);
        let mut receiver = world.receiver(R1);
        let theirs = world.clone();
        let victim = Loom::spawn(move || {
            theirs.live(S1, accesses, |memory| {
                let mut sender = Sender::attach(&theirs, S1, memory);
                sender.send(message(S1, 0));
                sender.send(message(S1, 1));
                let _ = sender.claim();
                sender.give_back();
            })
        });
        receiver.receive();
        receiver.look_for(S1);
        receiver.receive();
        let died = Loom::join(victim).expect("its place was free");
        world.close(vec![], vec![receiver]);
        died
    },
};

/// A receiver dies beside another one and a sender.
fn dead_receiver(orderings: &Orderings, accesses: usize, max_deliveries: u32) -> bool {
    let world = World::<Loom>::new(orderings, 2, max_deliveries);
    let (mut sender, mut receiver) = (world.sender(S1), world.receiver(R1));
    sender.send_all(1);
    let theirs = world.clone();
    let victim = Loom::spawn(move || {
        theirs.live(R2, accesses, |memory| {
            let mut receiver = Receiver::attach(&theirs, R2, memory);
            let _ = receiver.take();
            receiver.give_back();
        })
    });
    receiver.receive();
    receiver.look_for(R2);
    receiver.receive();
    let died = Loom::join(victim).expect("its place was free");
    world.close(vec![sender], vec![receiver]);
    died
}

const DEAD_RECEIVER: Case = Case {
    name: "a receiver dies",
    preemptions: [1, 2],
    run: |orderings, accesses| dead_receiver(orderings, accesses, MANY),
};

const DEAD_RECEIVER_ONCE: Case = Case {
    name: "a receiver dies, nothing is delivered again",
    preemptions: [1, 2],
    run: |orderings, accesses| dead_receiver(orderings, accesses, 1),
};

/// Somebody puts in order what two dead ones left, and dies over it; another receiver has
/// passed their slots already.
fn dead_repairer(orderings: &Orderings, accesses: usize, max_deliveries: u32) -> bool {
    let world = World::<Loom>::new(orderings, 3, max_deliveries);
    let (mut first, mut receiver) = (world.receiver(R1), world.receiver(R2));
    let mut sender = world.sender(S1);
    sender.send_all(2);
    let _ = first.take();
    receiver.receive_all(1);
    assert!(!receiver.receive());
    world.unlock(R1);
    let _ = sender.claim();
    world.unlock(S1);
    let theirs = world.clone();
    let repairer = Loom::spawn(move || {
        theirs.live(S2, accesses, |memory| {
            let sender = Sender::attach(&theirs, S2, memory);
            sender.look_for(R1);
            sender.look_for(S1);
        })
    });
    receiver.receive();
    receiver.look_for(R1);
    receiver.receive();
    let died = Loom::join(repairer).expect("its place was free");
    world.close(vec![], vec![receiver]);
    died
}

const DEAD_REPAIRER: Case = Case {
    name: "who repairs dies",
    preemptions: [1, 2],
    run: |orderings, accesses| dead_repairer(orderings, accesses, MANY),
};

const DEAD_REPAIRER_ONCE: Case = Case {
    name: "who repairs dies, nothing is delivered again",
    preemptions: [1, 2],
    run: |orderings, accesses| dead_repairer(orderings, accesses, 1),
};

const SUCCESSOR: Case = Case {
    name: "a dead one's place is taken while others look for it",
    preemptions: [1, 2],
    run: |orderings, accesses| {
        let world = World::<Loom>::new(orderings, 2, 2);
        let (mut first, mut receiver) = (world.receiver(R1), world.receiver(R2));
        let mut sender = world.sender(S1);
        sender.send_all(2);
        let _ = first.take();
        world.unlock(R1);
        let theirs = world.clone();
        let successor = Loom::spawn(move || {
            theirs.live(R1, accesses, |memory| {
                let mut receiver = Receiver::attach(&theirs, R1, memory);
                let _ = receiver.take();
            })
        });
        receiver.look_for(R1);
        receiver.receive();
        receiver.receive();
        let died = Loom::join(successor).unwrap_or(false);
        world.close(vec![sender], vec![receiver]);
        died
    },
};

const LEAVING: Case = Case {
    name: "who leaves gives back what it holds, beside others",
    preemptions: [2, 3],
    run: |orderings, _| {
        let world = World::<Loom>::new(orderings, 2, MANY);
        let (mut sender, mut leaving) = (world.sender(S1), world.receiver(R1));
        let mut receiver = world.receiver(R2);
        sender.send_all(2);
        let _ = leaving.take();
        receiver.receive_all(1);
        assert!(!receiver.receive());
        let leaving = Loom::spawn(move || {
            let world = leaving.world.clone();
            leaving.give_back();
            world.unlock(R1);
        });
        sender.send(message(S1, 2));
        receiver.receive();
        receiver.receive();
        Loom::join(leaving);
        world.close(vec![sender], vec![receiver]);
        false
    },
};

/// What was sent, taken and given back by others is taken from the hands of the latter.
const SECOND_HAND: Case = Case {
    name: "a message is given back and taken by another one",
    preemptions: [2, 3],
    run: |orderings, _| {
        let world = World::<Loom>::new(orderings, 2, MANY);
        let (mut sender, mut leaving) = (world.sender(S1), world.receiver(R1));
        let mut receiver = world.receiver(R2);
        let others = Loom::spawn(move || {
            sender.send(message(S1, 0));
            let _ = leaving.take();
            leaving.give_back();
            sender
        });
        receiver.receive();
        world.close(vec![Loom::join(others)], vec![receiver]);
        false
    },
};

/// It is as if nobody had taken it, and who takes it gives its slot to a sender that writes there.
const PUT_BACK: Case = Case {
    name: "a message is put back and taken by another one",
    preemptions: [2, 3],
    run: |orderings, _| {
        let world = World::<Loom>::new(orderings, 1, 1);
        let (mut sender, mut fickle) = (world.sender(S1), world.receiver(R1));
        let mut receiver = world.receiver(R2);
        sender.send_all(1);
        let fickle = Loom::spawn(move || {
            if let Some(held) = fickle.take() {
                fickle.put_back(&held);
            }
            fickle
        });
        if receiver.receive() {
            sender.send(message(S1, 1));
        }
        world.close(vec![sender], vec![receiver, Loom::join(fickle)]);
        let survey = mpmc::survey(&world.words, &world.geometry, &mut []);
        assert_eq!((survey.lost, survey.redelivered), (Some(0), Some(0)));
        false
    },
};

const PUT_BACK_AND_DROPPED: Case = Case {
    name: "a message is put back and dropped",
    preemptions: [2, 3],
    run: |orderings, _| {
        let world = World::<Loom>::new(orderings, 1, 1).dropping_oldest();
        let (mut sender, mut fickle) = (world.sender(S1), world.receiver(R1));
        sender.send_all(1);
        let fickle = Loom::spawn(move || {
            if let Some(held) = fickle.take() {
                fickle.put_back(&held);
            }
            fickle
        });
        sender.send(message(S1, 1));
        world.close(vec![sender], vec![Loom::join(fickle)]);
        false
    },
};

/// Whoever has passed it finds it, also if the one who puts it back dies.
const DEAD_PUTTING_BACK: Case = Case {
    name: "who puts a message back dies",
    preemptions: [1, 2],
    run: |orderings, accesses| {
        let world = World::<Loom>::new(orderings, 2, MANY);
        let (mut sender, mut receiver) = (world.sender(S1), world.receiver(R1));
        sender.send_all(2);
        let theirs = world.clone();
        let victim = Loom::spawn(move || {
            theirs.live(R2, accesses, |memory| {
                let mut receiver = Receiver::attach(&theirs, R2, memory);
                if let Some(held) = receiver.take() {
                    receiver.put_back(&held);
                }
                receiver.leave();
            })
        });
        receiver.receive();
        receiver.receive();
        receiver.look_for(R2);
        receiver.receive();
        let died = Loom::join(victim).expect("its place was free");
        world.close(vec![sender], vec![receiver]);
        died
    },
};

const SECOND_HAND_SLOT: Case = Case {
    name: "a slot is claimed, given back and claimed by another one",
    preemptions: [2, 3],
    run: |orderings, _| {
        let world = World::<Loom>::new(orderings, 1, MANY);
        let (mut sender, mut leaving) = (world.sender(S1), world.sender(S2));
        let other = Loom::spawn(move || {
            if let Some(slot) = leaving.claim() {
                leaving.memory.write_payload(leaving.ring.payload(&slot), 99);
            }
            leaving.give_back();
        });
        sender.send(message(S1, 0));
        Loom::join(other);
        world.close(vec![sender], vec![]);
        false
    },
};

/// A sender that makes room for itself dies.
fn dropping(orderings: &Orderings, accesses: usize, depth: u64) -> bool {
    let world = World::<Loom>::new(orderings, depth, MANY).dropping_oldest();
    let (mut receiver, mut sender) = (world.receiver(R1), world.sender(S2));
    let theirs = world.clone();
    let victim = Loom::spawn(move || {
        theirs.live(S1, accesses, |memory| {
            let mut sender = Sender::attach(&theirs, S1, memory);
            for number in 0..=depth {
                sender.send(message(S1, number));
            }
        })
    });
    receiver.receive();
    sender.send(message(S2, 0));
    sender.look_for(S1);
    receiver.receive();
    let died = Loom::join(victim).expect("its place was free");
    world.close(vec![sender], vec![receiver]);
    died
}

const DROPPING_BY_ONE: Case = Case {
    name: "a sender that drops the oldest dies, one slot",
    preemptions: [1, 2],
    run: |orderings, accesses| dropping(orderings, accesses, 1),
};

const DROPPING_BY_TWO: Case = Case {
    name: "a sender that drops the oldest dies, two slots",
    preemptions: [1, 2],
    run: |orderings, accesses| dropping(orderings, accesses, 2),
};

const CASES: [Case; 25] = [
    ONE_TO_ONE_BY_ONE,
    ABORT,
    HONEST_EMPTY,
    HONEST_FULL,
    HONEST_FULL_FROM_AFAR,
    DAMAGED,
    LEAVING,
    SECOND_HAND,
    SECOND_HAND_SLOT,
    PUT_BACK,
    PUT_BACK_AND_DROPPED,
    TWO_SENDERS_BY_ONE,
    TWO_RECEIVERS_BY_ONE,
    ONE_TO_ONE_BY_TWO,
    TWO_SENDERS_BY_TWO,
    TWO_RECEIVERS_BY_TWO,
    DEAD_SENDER,
    DEAD_RECEIVER,
    DEAD_RECEIVER_ONCE,
    DEAD_PUTTING_BACK,
    DEAD_REPAIRER,
    DEAD_REPAIRER_ONCE,
    SUCCESSOR,
    DROPPING_BY_ONE,
    DROPPING_BY_TWO,
];

/// Enough of them to miss every ordering.
const SMALL_CASES: usize = 11;

#[rstest::rstest]
fn holds(
    #[values(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24)] case: usize,
) {
    CASES[case].check("mpmc");
}

#[test]
fn needs_every_ordering() {
    let cases = &CASES[..SMALL_CASES];
    let files = [
        ("ring/mpmc/mod.rs", include_str!("../mpmc/mod.rs")),
        ("ring/mpmc/reader.rs", include_str!("../mpmc/reader.rs")),
        ("ring/mpmc/repair.rs", include_str!("../mpmc/repair.rs")),
        ("ring/mpmc/writer.rs", include_str!("../mpmc/writer.rs")),
    ];
    every_ordering_is_needed("mpmc", &files, cases);
}

/// Two senders, two receivers; three of them die anywhere, and successors come. Who finds
/// nothing to do looks for the dead.
fn crowd(world: World<Shuttle>) {
    let spared = S1 + Shuttle::any_below(4) as u32;
    let members = [S1, S2, R1, R2].map(|id| {
        let world = world.clone();
        Shuttle::spawn(move || {
            for life in 0..2 {
                let is_victim = life == 0 && id != spared;
                let accesses = if is_victim { Shuttle::any_below(MOST_ACCESSES) } else { FOREVER };
                while world.live(id, accesses, |memory| work(&world, id, life, memory)).is_none() {
                    // Somebody puts in order what was left.
                    Shuttle::yield_now();
                }
            }
        })
    });
    for member in members {
        Shuttle::join(member);
    }
    world.close(vec![], vec![]);
}

/// About what a life takes.
const MOST_ACCESSES: usize = 100;

fn work(world: &World<Shuttle>, id: u32, life: u64, memory: Mortal<Shuttle>) {
    world.confuse();
    let others = (S1..=R2).filter(|other| *other != id);
    if id <= S2 {
        let mut sender = Sender::attach(world, id, memory);
        for number in 0..3 {
            if !sender.send(message(id, life << 4 | number)) {
                others.clone().for_each(|other| sender.look_for(other));
            }
        }
        sender.leave();
    } else {
        let mut receiver = Receiver::attach(world, id, memory);
        for _ in 0..3 {
            if !receiver.receive() {
                others.clone().for_each(|other| receiver.look_for(other));
            }
        }
        match Shuttle::any_below(3) {
            0 => receiver.leave(),
            1 => {
                if let Some(held) = receiver.take() {
                    receiver.put_back(&held);
                }
                receiver.leave();
            }
            _ => {
                let _ = receiver.take();
                receiver.give_back();
            }
        }
    }
}

#[rstest::rstest]
#[case("three slots", 3, MANY, |world| world)]
#[case("four slots, delivered twice at most", 4, 2, |world| world)]
#[case("three slots, delivered once", 3, 1, |world| world)]
#[case("three slots, the oldest is dropped", 3, MANY, World::dropping_oldest)]
#[case("three slots, hints that say anything", 3, MANY, World::with_any_hints)]
fn a_crowd_loses_nothing(
    #[case] name: &str,
    #[case] depth: u64,
    #[case] max_deliveries: u32,
    #[case] with: fn(World<Shuttle>) -> World<Shuttle>,
) {
    let schedules = if is_long_run() { 100_000 } else { 1_000 };
    let schedules = Shuttle::explore(schedules, move || {
        crowd(with(World::new(&Orderings::AsWritten, depth, max_deliveries)));
    });
    report("mpmc", &format!("two senders, two receivers, three deaths, {name}"), schedules);
}
