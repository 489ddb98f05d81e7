//! Arenas: what a transaction promises, in threads and real processes, and what damage comes to.

mod common;

use common::{Child, Dice, PATIENCE, fork_child, say, serve, told, within};
use ipc_shm::{
    ChannelError, Wait,
    sync::{
        Arena, ArenaError, List, LockError, Map, Mutex, Offset, State,
        arena::{ArenaStats, Contents},
    },
    zerocopy::IntoBytes,
};
use rstest::rstest;
use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    ops::{Bound, RangeBounds},
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
};

ipc_shm::layout! {
    #[derive(Clone, Copy, Debug, Default, PartialEq)]
    struct Root { list: List, map: Map, count: u64 }
}

ipc_shm::layout! {
    #[derive(Clone, Copy, Debug, Default, PartialEq)]
    struct Node { value: u64, next: Offset<Node> }
}

const CAPACITY_BYTES: u64 = 1 << 14;

fn state(directory: &common::Arena) -> State {
    State::at(directory.path())
}

fn create(directory: &common::Arena) -> Arena<Root> {
    let contents = || Contents { capacity_bytes: CAPACITY_BYTES, root: Root::default() };
    state(directory).create("x", contents).unwrap()
}

#[test]
fn this_binary_is_its_own_child() {
    serve(|role, arguments| {
        assert_eq!(role, "fill");
        let arena = State::at(&arguments[0]).open::<Arena<Root>>("x").unwrap();
        say("ready");
        assert!(told());
        for number in 0..TIMES {
            let key = [std::process::id() as u64, number].as_bytes().to_vec();
            let put = arena.with(|root, heap| {
                root.count += 1;
                root.map.insert(heap, &key, b"there")?;
                root.list.push_back(heap, &key)
            });
            put.unwrap();
        }
        say("done");
    });
}

const TIMES: u64 = 50;

#[test]
fn what_two_processes_put_in_is_all_there() {
    let directory = common::Arena::new();
    let arena = create(&directory);
    let path = directory.path().to_str().unwrap();
    let mut children = [(); 2].map(|()| Child::spawn("fill", &[path]));
    children.iter_mut().for_each(|child| child.says("ready"));
    children.iter_mut().for_each(Child::tell);
    children.iter_mut().for_each(|child| child.says("done"));
    children.into_iter().for_each(Child::ends_well);
    let check = arena.with(|root, heap| {
        assert_eq!((root.count, root.list.len(), root.map.len()), (2 * TIMES, 2 * TIMES, 2 * TIMES));
        for item in root.list.iter(heap) {
            assert_eq!(root.map.get(heap, item?)?, Some(&b"there"[..]));
        }
        Ok(())
    });
    check.unwrap();
    let ArenaStats { objects, .. } = arena.stats().unwrap();
    let info = state(&directory).stat("x").unwrap();
    assert_eq!((info.kind, objects), ("arena", 6 * TIMES - 1));
    let condition = info.condition.unwrap();
    assert!(condition.starts_with("299 objects in ") && condition.ends_with(" bytes"), "{condition}");
}

#[test]
fn a_list_and_a_map_do_as_those_of_the_standard_library() {
    let directory = common::Arena::new();
    let arena = create(&directory);
    let (mut list, mut map) = (VecDeque::new(), BTreeMap::new());
    let mut dice = Dice::new(7);
    for round in 0..1500 {
        let bytes = vec![dice.roll() as u8; dice.below(90) as usize];
        let key: Vec<u8> = (0..dice.below(4)).map(|_| dice.below(3) as u8).collect();
        let (removes, way) = (round % 5 == 0, dice.below(5));
        let [from, to] = [(); 2].map(|()| {
            let bound = (0..dice.below(4)).map(|_| dice.below(3) as u8).collect::<Vec<u8>>();
            match dice.below(5) {
                0 => Bound::Unbounded,
                1 | 2 => Bound::Included(bound),
                _ => Bound::Excluded(bound),
            }
        });
        let had = match removes {
            true => map.remove(&key),
            false => map.insert(key.clone(), bytes.clone()),
        };
        match way {
            0 => list.push_front(bytes.clone()),
            1 => list.push_back(bytes.clone()),
            _ => {}
        }
        let popped = match way {
            0 | 1 => None,
            2 | 3 => list.pop_front(),
            _ => list.pop_back(),
        };
        let done = arena.with(|root, heap| {
            let found = match removes {
                true => root.map.remove(heap, &key)?,
                false => root.map.insert(heap, &key, &bytes)?,
            };
            assert_eq!(found, had.is_some());
            match way {
                0 => root.list.push_front(heap, &bytes)?,
                1 => root.list.push_back(heap, &bytes)?,
                2 | 3 => assert_eq!(root.list.pop_front(heap)?, popped),
                _ => assert_eq!(root.list.pop_back(heap)?, popped),
            }
            assert_eq!(root.list.front(heap)?, list.front().map(|item| &item[..]));
            assert_eq!(root.map.contains_key(heap, &key)?, map.contains_key(&key));
            let bounds = (from.as_ref().map(|key| &key[..]), to.as_ref().map(|key| &key[..]));
            let found: Vec<_> = root.map.range(heap, bounds).collect::<Result<_, _>>()?;
            let is_within = |key: &&Vec<u8>| RangeBounds::<&[u8]>::contains(&bounds, &&key[..]);
            assert!(found.iter().map(|(key, _)| *key).eq(map.keys().filter(is_within).map(|key| &key[..])));
            assert_eq!((root.map.len(), root.list.len()), (map.len() as u64, list.len() as u64));
            assert_eq!(root.map.get(heap, &key)?, map.get(&key).map(|value| &value[..]));
            let entries: Vec<_> = root.map.iter(heap).collect::<Result<_, _>>()?;
            assert!(entries.into_iter().eq(map.iter().map(|(key, value)| (&key[..], &value[..]))));
            let items: Vec<_> = root.list.iter(heap).collect::<Result<_, _>>()?;
            assert!(items.iter().eq(list.iter()));
            Ok(())
        });
        done.unwrap();
    }
    let emptied = arena.with(|root, heap| {
        while root.list.pop_front(heap)?.is_some() {}
        map.keys().try_for_each(|key| root.map.remove(heap, key).map(drop))
    });
    emptied.unwrap();
    let stats = arena.stats().unwrap();
    assert_eq!((stats.objects, stats.used_bytes), (0, 0));
    assert_eq!(stats.largest_bytes, stats.capacity_bytes - 16, "all in one piece again");
}

#[test]
fn what_is_cleared_is_gone_and_its_room_is_free() {
    let directory = common::Arena::new();
    let arena = create(&directory);
    for items in [0, 1, 30] {
        let filled = arena.with(|root, heap| {
            (0..items).try_for_each(|number: u32| {
                root.list.push_back(heap, &number.to_ne_bytes())?;
                root.map.insert(heap, &number.to_ne_bytes(), b"there").map(drop)
            })
        });
        filled.unwrap();
        let undone = arena.with(|root, heap| {
            root.list.clear(heap)?;
            root.map.clear(heap)?;
            assert!(root.list.front(heap)?.is_none() && root.map.iter(heap).next().is_none());
            Err::<(), _>(ArenaError::Other("not yet".into()))
        });
        assert!(matches!(undone, Err(ArenaError::Other(_))), "{undone:?}");
        arena
            .with(|root, heap| {
                assert_eq!((root.list.len(), root.map.len()), (items.into(), items.into()));
                root.list.clear(heap)?;
                root.map.clear(heap)
            })
            .unwrap();
        let (stats, lens) =
            arena.with(|root, heap| Ok((heap.stats()?, (root.list.len(), root.map.len())))).unwrap();
        assert_eq!((stats.objects, stats.used_bytes, lens), (0, 0, (0, 0)));
        assert_eq!(stats.largest_bytes, stats.capacity_bytes - 16, "all in one piece again");
    }
}

#[test]
fn offsets_are_in_order_and_can_be_keys() {
    let [one, two] = [1, 2].map(Offset::<[u64]>::from_bits);
    assert!(Offset::NONE < one && one < two);
    let both: HashSet<_> = [one, two, one].into();
    assert_eq!(both.len(), 2);
}

#[test]
fn values_and_slices_are_what_they_were_set_to() {
    let directory = common::Arena::new();
    let contents = || Contents { capacity_bytes: CAPACITY_BYTES, root: Offset::<Node>::NONE };
    let arena = state(&directory).create::<Arena<Offset<Node>>>("x", contents).unwrap();
    let made = arena.with(|first, heap| {
        let last = heap.allocate(&Node { value: 2, next: Offset::NONE })?;
        *first = heap.allocate(&Node { value: 1, next: last })?;
        heap.allocate_slice(&[1_u16, 2, 3, 4, 5])
    });
    let slice = made.unwrap();
    let changed = arena.with(|first, heap| {
        let Node { next, .. } = *heap.get(*first)?;
        heap.set(next, &Node { value: 7, next: Offset::NONE })?;
        assert_eq!(heap.get(next)?.value, 7);
        heap.set_slice(slice, 2, &[9, 8])?;
        assert_eq!(heap.get_slice(slice)?, [1, 2, 9, 8, 5]);
        assert!(heap.set_slice(slice, 4, &[0, 0]).is_err(), "beyond its end");
        assert!(heap.get(Offset::<Node>::from_bits(slice.to_bits())).is_err(), "of another length");
        Ok(())
    });
    changed.unwrap();
}

#[test]
fn what_fails_or_panics_has_not_happened() {
    let directory = common::Arena::new();
    let arena = create(&directory);
    let fill = |root: &mut Root, heap: &mut ipc_shm::sync::Heap<'_>| {
        root.list.push_back(heap, b"an item")?;
        root.map.insert(heap, b"key", b"value")
    };
    arena.with(fill).unwrap();
    let before = (arena.stats().unwrap(), arena.with(|root, _| Ok(*root)).unwrap());
    let failed = arena.with(|root, heap| {
        fill(root, heap)?;
        root.list.pop_front(heap)?;
        Err::<(), _>(ArenaError::Other("as it is to be".into()))
    });
    assert!(matches!(failed, Err(ArenaError::Other(_))));
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _ = arena.with(|root, heap| {
            fill(root, heap)?;
            panic!("as it is to be");
            #[expect(unreachable_code, reason = "says what the transaction would be")]
            Ok(())
        });
    }));
    assert!(panicked.is_err());
    assert_eq!((arena.stats().unwrap(), arena.with(|root, _| Ok(*root)).unwrap()), before);
}

#[test]
fn a_full_arena_says_what_there_is_and_goes_on() {
    let directory = common::Arena::new();
    let arena = create(&directory);
    let filled = arena.with(|root, heap| {
        let refused = loop {
            match heap.allocate_slice(&[1_u8; 1000]) {
                Ok(_) => root.count += 1,
                Err(error) => break error,
            }
        };
        let stats = heap.stats()?;
        assert!(matches!(refused, ArenaError::Full { asked_bytes: 1000, largest_bytes, free_bytes }
            if largest_bytes == stats.largest_bytes && largest_bytes < 1000
                && free_bytes == stats.capacity_bytes - stats.used_bytes));
        // What there is room for still fits.
        heap.allocate_slice(&vec![1_u8; stats.largest_bytes as usize]).map(drop)
    });
    filled.unwrap();
    let stats = arena.stats().unwrap();
    assert!(stats.capacity_bytes >= CAPACITY_BYTES && stats.objects >= CAPACITY_BYTES / 1016);
}

#[test]
fn what_a_full_arena_refuses_a_map_leaves_nothing_behind() {
    let mut was_branch_refused = false;
    for left in (0..256).step_by(16) {
        let directory = common::Arena::new();
        let arena = create(&directory);
        let refused = arena.with(|root, heap| {
            root.map.insert(heap, b"one", b"")?;
            let largest = heap.stats()?.largest_bytes as usize;
            heap.allocate_slice(&vec![1_u8; largest - left])?;
            let before = root.map;
            match root.map.insert(heap, b"two", b"") {
                Err(ArenaError::Full { asked_bytes, .. }) => {
                    assert_eq!(root.map, before);
                    Ok(Some(asked_bytes))
                }
                answer => answer.map(|_| None),
            }
        });
        let refused = refused.unwrap();
        let objects = if refused.is_some() { 2 } else { 4 };
        assert_eq!(arena.stats().unwrap().objects, objects, "{left} bytes were left, {refused:?} asked for");
        was_branch_refused |= refused == Some(24);
    }
    assert!(was_branch_refused, "there was room for a key, and none for what leads to it");
}

#[test]
fn a_transaction_of_too_many_changes_is_refused_whatever_it_says() {
    let directory = common::Arena::new();
    let arena = create(&directory);
    let at = arena.with(|_, heap| heap.allocate_slice(&[1_u64; 1500])).unwrap();
    let answer = arena.with(|root, heap| {
        root.count = 9;
        let _ = heap.set_slice(at, 0, &[2; 1500]);
        Ok(())
    });
    assert!(
        matches!(answer, Err(ArenaError::TooManyChanges { max: Arena::<Root>::MAX_CHANGES })),
        "{answer:?}"
    );
    let is_unchanged = arena.with(|root, heap| Ok(root.count == 0 && *heap.get_slice(at)? == [1; 1500]));
    assert!(is_unchanged.unwrap());
    // The new one for the old one is no such change.
    let replaced = arena.with(|_, heap| {
        heap.free(at)?;
        heap.allocate_slice(&[2_u64; 400])
    });
    replaced.unwrap();
}

#[test]
fn an_offset_of_what_was_freed_leads_nowhere() {
    let directory = common::Arena::new();
    let arena = create(&directory);
    let is_nowhere =
        |answer: Result<(), ArenaError>| matches!(answer, Err(ArenaError::Lock(LockError::Corrupt(_))));
    let freed = arena.with(|_, heap| {
        let [one, other] = [heap.allocate(&1_u64)?, heap.allocate(&2_u64)?];
        heap.free(one)?;
        assert!(is_nowhere(heap.get(one).map(drop)) && is_nowhere(heap.free(one)));
        heap.free(other)?;
        Ok([one, other])
    });
    let again = arena.with(|_, heap| {
        for at in freed.unwrap().into_iter().chain([
            Offset::NONE,
            Offset::from_bits(8),
            Offset::from_bits(u64::MAX),
        ]) {
            assert!(is_nowhere(heap.get(at).map(drop)) && is_nowhere(heap.free(at)), "{at:?}");
        }
        Ok(())
    });
    again.unwrap();
}

#[test]
fn another_transaction_within_one_is_an_error_and_no_hang() {
    let directory = common::Arena::new();
    let arena = create(&directory);
    let other = state(&directory).open::<Arena<Root>>("x").unwrap();
    let answer = arena.with(|_, _| other.stats().map(drop));
    assert!(matches!(answer, Err(ArenaError::Lock(LockError::Recursive))));
    let waits = arena.with(|_, _| {
        Ok(thread::scope(|scope| {
            let waiter = scope.spawn(|| other.with_wait(Wait::Never, |_, _| Ok(())));
            waiter.join().unwrap()
        }))
    });
    assert!(matches!(waits, Ok(Err(ArenaError::Lock(LockError::WouldBlock)))));
}

#[test]
fn a_child_that_is_forked_in_a_transaction_has_no_part_in_it() {
    let directory = common::Arena::new();
    let arena = create(&directory);
    let done = arena.with(|root, heap| {
        root.list.push_back(heap, b"before")?;
        let child = fork_child(|| {
            let refused = root.list.push_back(heap, b"in the child");
            assert!(matches!(refused, Err(ArenaError::Lock(LockError::Forked))), "{refused:?}");
            assert!(matches!(arena.stats(), Err(ArenaError::Lock(LockError::Forked))));
        });
        child.ends_well();
        root.list.push_back(heap, b"after")
    });
    done.unwrap();
    let len = arena.with(|root, heap| Ok(root.list.iter(heap).count()));
    assert_eq!(len.unwrap(), 2);
}

#[test]
fn another_root_is_refused_and_the_error_names_both() {
    let directory = common::Arena::new();
    let arena = create(&directory);
    let error = state(&directory).open::<Arena<Offset<Node>>>("x").unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, ChannelError::Mismatch { .. }));
    assert!(text.contains("offset<{value: u64, next: offset}>"), "{text}");
    assert!(text.contains("{list: {first: offset<[u8]>, last: offset<[u8]>, len: u64}"), "{text}");
    assert!(matches!(state(&directory).open::<Mutex<Root>>("x"), Err(ChannelError::Mismatch { .. })));
    drop(arena);
}

#[test]
fn a_capacity_there_cannot_be_is_refused() {
    let directory = common::Arena::new();
    for capacity_bytes in [u64::MAX, 1 << 40] {
        let made = state(&directory).create::<Arena<u64>>("x", || Contents { capacity_bytes, root: 0 });
        assert!(matches!(made, Err(ChannelError::InvalidConfig(_))), "{made:?}");
    }
    let arena =
        state(&directory).create::<Arena<u64>>("x", || Contents { capacity_bytes: 0, root: 0 }).unwrap();
    assert!(arena.stats().unwrap().capacity_bytes >= 32, "a page's rest");
}

/// The words of an arena in use are spoiled, one after the other; all of them in the long run.
#[rstest]
fn whatever_word_is_damaged_every_call_answers(#[values(0, 1, 2)] part: usize) {
    let directory = common::Arena::new();
    let arena = create(&directory);
    for number in 0..12_u64 {
        let filled = arena.with(|root, heap| {
            root.list.push_back(heap, &vec![3; number as usize * 9])?;
            root.map.insert(heap, &number.to_be_bytes(), b"value")?;
            if number % 3 == 2 { root.list.pop_front(heap).map(drop) } else { Ok(()) }
        });
        filled.unwrap();
    }
    // One dies in the middle, so that there is something to be undone.
    let child = fork_child(|| {
        let arena = state(&directory).open::<Arena<Root>>("x").unwrap();
        let _ = arena.with(|root, heap| {
            root.map.insert(heap, b"another", b"one")?;
            nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL)
                .map_err(|_| ArenaError::Other("alive".into()))
        });
    });
    child.ended();
    let file = directory.file("x");
    let image = std::fs::read(&file).unwrap();
    let state = state(&directory);
    within(10 * PATIENCE, move || {
        let is_long_run = std::env::var_os("IPC_SHM_LONG_RUN").is_some();
        // From the shared words on; those of the heap that are zero are many.
        let used: Vec<usize> =
            (PAGE..image.len()).step_by(8).filter(|&at| image[at..at + 8] != [0; 8]).collect();
        let step = if is_long_run { 1 } else { 3 };
        for (number, &at) in used.iter().enumerate().skip(part).step_by(step) {
            let old = u64::from_ne_bytes(image[at..at + 8].try_into().unwrap());
            let values = [0, u64::MAX, old ^ 1, old + 16, old << 4, 1 << 40, old ^ 1 << 7];
            for new in values.iter().skip(if is_long_run { 0 } else { number % 3 }).step_by(if is_long_run {
                1
            } else {
                3
            }) {
                common::write_at(&file, PAGE as u64, &image[PAGE..]);
                common::write_at(&file, at as u64, &new.to_ne_bytes());
                let answers = use_all(&arena, &state);
                assert!(answers.is_ok(), "the word at {at} is {new:#x}: {answers:?}");
            }
        }
    });
}

const PAGE: usize = common::layout::PAGE as usize;

/// Every call; an error that says nothing of damage is one.
fn use_all(arena: &Arena<Root>, state: &State) -> Result<(), ArenaError> {
    let _ = state.stat("x").map(|info| info.condition);
    let wait = || Wait::timeout(PATIENCE);
    let all = [
        arena.with_wait(wait(), |root, heap| {
            let _ = (root.list.iter(heap).last(), root.map.iter(heap).last());
            heap.stats().map(drop)
        }),
        arena.with_wait(wait(), |root, heap| {
            root.list.push_front(heap, b"new")?;
            root.list.push_back(heap, &[7; 100])?;
            (0..20).try_for_each(|_| root.list.pop_front(heap).map(drop))
        }),
        arena.with_wait(wait(), |root, heap| {
            root.map.insert(heap, b"new", b"one")?;
            (0..13_u64).try_for_each(|number| root.map.remove(heap, &number.to_be_bytes()).map(drop))
        }),
        arena.with_wait(wait(), |root, heap| {
            let _ = (root.list.front(heap), root.map.range(heap, &b"k"[..]..).last());
            root.list.pop_back(heap)?;
            root.list.clear(heap)?;
            root.map.clear(heap)
        }),
    ];
    for answer in all {
        match answer {
            Ok(()) | Err(ArenaError::Lock(LockError::Corrupt(_) | LockError::Poisoned)) => {}
            // What is free, or freed, is counted in words that may be damaged.
            Err(ArenaError::Full { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
