//! More participants than all schedules can be tried of.

use super::{
    super::{
        FOREVER, Mortal, Orderings,
        checker::{Checker, Shuttle},
        is_long_run, report,
    },
    LAST_LAP, MANY, R1, R2, Receiver, S1, S2, Sender, World, message,
};
use std::sync::atomic::Ordering::Relaxed;

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
