//! Scenes at an arena: a transaction that changes a list and a map in it is killed anywhere, given
//! up, undone for another one. It has happened whole, or it hasn't.

use crate::{
    common::fork,
    scenario::Scenario,
    stage::{Act, Stage},
};
use ipc_shm::{
    Wait,
    sync::{Arena, ArenaError, Heap, List, Map, State, arena::Contents},
};
use std::time::Duration;

ipc_shm::layout! {
    /// The same numbers in a list and in a map.
    #[derive(Clone, Copy, Debug, Default, PartialEq)]
    pub(crate) struct Twice { list: List, map: Map, next: u64 }
}

pub(crate) type Twofold = Arena<Twice>;

/// So many numbers are there at a time.
const MOST: u64 = 5;
/// What a victim has done.
const DONE: usize = 0;
/// What is taken for a hang.
const HANG: Duration = Duration::from_secs(10);

pub(crate) fn scenarios() -> Vec<Scenario> {
    let scene = |name: &str, scene: fn(&Stage)| Scenario::new("arena", name, scene);
    vec![
        scene("is changed", is_changed),
        scene("is changed, and given up", is_given_up),
        scene("after one that died at it", after_a_dead_one).varying(),
        scene("is made", is_made),
    ]
}

pub(crate) fn contents() -> Contents<Twice> {
    Contents { capacity_bytes: 1 << 12, root: Twice::default() }
}

fn state(stage: &Stage) -> State {
    State::at(stage.arena().path()).participants(4)
}

fn open(stage: &Stage) -> Twofold {
    state(stage).open("x").expect("it is there")
}

/// The next number comes, of some length, and the oldest one goes.
pub(crate) fn turn(twice: &mut Twice, heap: &mut Heap<'_>) -> Result<(), ArenaError> {
    let number = twice.next.to_ne_bytes();
    let item = [&number[..], &vec![7; (twice.next * 37 % 150) as usize]].concat();
    twice.list.push_back(heap, &item)?;
    twice.map.insert(heap, &number, &item)?;
    if twice.list.len() > MOST {
        let oldest = twice.list.pop_front(heap)?.ok_or_else(|| other("an empty list"))?;
        if !twice.map.remove(heap, &oldest[..8])? {
            return Err(other("a number that isn't in the map"));
        }
    }
    twice.next += 1;
    Ok(())
}

fn other(what: &str) -> ArenaError {
    ArenaError::Other(what.into())
}

/// Both hold the same, nothing is lost or given out twice, and it goes on. How many turns there
/// were.
pub(crate) fn check(arena: &Twofold) -> Result<u64, String> {
    let answer = arena.with_wait(Wait::timeout(HANG), |twice, heap| {
        let items: Vec<_> = twice.list.iter(heap).collect::<Result<_, _>>()?;
        let entries: Vec<_> = twice.map.iter(heap).collect::<Result<_, _>>()?;
        let expected: Vec<u64> = (twice.next.saturating_sub(MOST)..twice.next).collect();
        let number = |item: &[u8]| u64::from_ne_bytes(item[..8].try_into().expect("eight bytes"));
        let branches = entries.len().saturating_sub(1);
        let is_sound = items.iter().map(|item| number(item)).eq(expected.iter().copied())
            && items
                .iter()
                .all(|item| twice.map.get(heap, &item[..8]).is_ok_and(|value| value == Some(item)))
            && entries.len() == items.len()
            && heap.stats()?.objects == (items.len() + entries.len() + branches) as u64;
        match is_sound {
            true => Ok(twice.next),
            false => Err(ArenaError::Other(format!("{twice:?}: {items:?}, {entries:?}").into())),
        }
    });
    let turns = answer.map_err(|error| error.to_string())?;
    arena.with_wait(Wait::timeout(HANG), turn).map_err(|error| error.to_string())?;
    Ok(turns)
}

fn end(stage: &Stage, arena: Twofold) {
    drop(arena);
    state(stage).remove("x").expect("nobody has it open");
}

/// With some turns behind it.
fn create(stage: &Stage, turns: u64) -> Twofold {
    let arena: Twofold = state(stage).create("x", contents).expect("it can be made");
    (0..turns).for_each(|_| arena.with(turn).expect("there is room"));
    arena
}

fn is_changed(stage: &Stage) {
    const BEFORE: u64 = 7;
    let arena = create(stage, BEFORE);
    stage.victim(
        || open(stage),
        |arena| {
            arena.with(turn)?;
            stage.note(DONE);
            Ok(())
        },
    );
    let turns = check(&arena).expect("whole");
    assert!(turns == BEFORE + 1 || turns == BEFORE && stage.noted(DONE) == 0, "{turns} turns");
    end(stage, arena);
}

fn is_given_up(stage: &Stage) {
    let arena = create(stage, 7);
    stage.victim(|| open(stage), give_up);
    assert_eq!(check(&arena).expect("whole"), 7);
    end(stage, arena);
}

fn give_up(arena: &mut Twofold) -> Act {
    let answer = arena.with(|twice, heap| {
        turn(twice, heap)?;
        Err::<(), _>(other("given up"))
    });
    match answer {
        Err(ArenaError::Other(_)) => Ok(()),
        answer => Err(format!("{answer:?}").into()),
    }
}

fn after_a_dead_one(stage: &Stage) {
    let arena = create(stage, 7);
    stage.victim(
        || {
            let arena = open(stage);
            dies_at_it(stage);
            arena
        },
        |arena| {
            if arena.with(|twice, _| Ok(twice.next))? == 7 { Ok(()) } else { Err("it isn't undone".into()) }
        },
    );
    assert_eq!(check(&arena).expect("whole"), 7);
    end(stage, arena);
}

/// Somebody is killed when all but the commit is done.
fn dies_at_it(stage: &Stage) {
    if let Some(child) = fork() {
        let _ = child.ended();
        return;
    }
    let arena = open(stage);
    let _ = arena.with(|twice, heap| {
        turn(twice, heap)?;
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
        Ok(())
    });
}

fn is_made(stage: &Stage) {
    stage.victim(
        || (),
        |()| {
            drop(state(stage).open_or_create::<Twofold>("x", contents)?);
            Ok(())
        },
    );
    let arena = state(stage).open_or_create::<Twofold>("x", contents).expect("it can be made");
    check(&arena).expect("whole");
    end(stage, arena);
}
