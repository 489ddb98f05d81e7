//! Somebody dies, at any access.

use super::{
    super::{
        Case, Orderings,
        checker::{Checker, Loom},
    },
    MANY, R1, R2, Receiver, S1, S2, Sender, World, message,
};

pub(super) const DEAD_SENDER: Case = Case {
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

pub(super) const DEAD_RECEIVER: Case = Case {
    name: "a receiver dies",
    preemptions: [1, 2],
    run: |orderings, accesses| dead_receiver(orderings, accesses, MANY),
};

pub(super) const DEAD_RECEIVER_ONCE: Case = Case {
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

pub(super) const DEAD_REPAIRER: Case = Case {
    name: "who repairs dies",
    preemptions: [1, 2],
    run: |orderings, accesses| dead_repairer(orderings, accesses, MANY),
};

pub(super) const DEAD_REPAIRER_ONCE: Case = Case {
    name: "who repairs dies, nothing is delivered again",
    preemptions: [1, 2],
    run: |orderings, accesses| dead_repairer(orderings, accesses, 1),
};

pub(super) const SUCCESSOR: Case = Case {
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

/// Whoever has passed it finds it, also if the one who puts it back dies.
pub(super) const DEAD_PUTTING_BACK: Case = Case {
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

pub(super) const DROPPING_BY_ONE: Case = Case {
    name: "a sender that drops the oldest dies, one slot",
    preemptions: [1, 2],
    run: |orderings, accesses| dropping(orderings, accesses, 1),
};

pub(super) const DROPPING_BY_TWO: Case = Case {
    name: "a sender that drops the oldest dies, two slots",
    preemptions: [1, 2],
    run: |orderings, accesses| dropping(orderings, accesses, 2),
};
