//! What participants do who all live, and all cases together.

use super::{
    super::{
        Case, Orderings,
        checker::{Checker, Loom},
        every_ordering_is_needed,
    },
    LAST_SENDER, MANY, MESSAGE_BYTES, R1, R2, S1, S2, World,
    deaths::{
        DEAD_PUTTING_BACK, DEAD_RECEIVER, DEAD_RECEIVER_ONCE, DEAD_REPAIRER, DEAD_REPAIRER_ONCE, DEAD_SENDER,
        DROPPING_BY_ONE, DROPPING_BY_TWO, SUCCESSOR,
    },
    message,
};
use crate::ring::mpmc;

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
        one_to_one(orderings, 2, 4);
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
        ("ring/mpmc/mod.rs", include_str!("../../mpmc/mod.rs")),
        ("ring/mpmc/reader.rs", include_str!("../../mpmc/reader.rs")),
        ("ring/mpmc/repair.rs", include_str!("../../mpmc/repair.rs")),
        ("ring/mpmc/writer.rs", include_str!("../../mpmc/writer.rs")),
    ];
    every_ordering_is_needed("mpmc", &files, cases);
}
