//! Scenes at state that processes share: locking, waiting, repairing, coming and going.
//!
//! Whoever is killed with a lock leaves it abandoned, and with both halves of the value alike
//! if it had not begun to change it. Whoever is killed anywhere else leaves nothing.

use crate::{
    common::{fork, layout, read_word, write_at},
    scenario::Scenario,
    stage::{Act, Stage},
};
use ipc_shm::{
    ChannelError, Wait, Waiting,
    sync::{Barrier, Condvar, Event, LockError, Mutex, Once, Primitive, RwLock, Semaphore, Shared, State},
};
use nix::errno::Errno;
use std::{
    cell::RefCell,
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
    time::Duration,
};

/// What a victim has done.
const DONE: usize = 0;

/// A wait that is over soon, but not before a sleep that looks around.
const BRIEFLY: Duration = Duration::from_millis(1);
const WHILE: Duration = Duration::from_millis(12);
/// What is taken for a hang.
const HANG: Duration = Duration::from_secs(10);

type Pair = Mutex<[u64; 2]>;

/// How many mappings a segment's maker has of it before it takes part: its presence.
const MAPPED_BY_MAKER: usize = 1;

pub(crate) fn scenarios() -> Vec<Scenario> {
    let scene = |name: &str, scene: fn(&Stage)| Scenario::new("state", name, scene);
    let mut all = vec![
        scene("mutex, changes the value", |stage| mutex(stage, change)).short(),
        scene("mutex, is timed", |stage| mutex(stage, change_timed)),
        scene("mutex, panics", |stage| mutex(stage, panic_within)),
        scene("mutex, asks in vain", ask_in_vain).varying(),
        scene("mutex, gives back what is asked for", give_back_asked),
        scene("mutex, takes what is reserved for it", take_reserved),
        scene("mutex, after one that died", after_a_dead_owner).varying(),
        scene("mutex, gives up after one that died", give_up_repair).varying(),
        scene("mutex, a thread forgets it", forgets),
        scene("mutex, comes", comes::<Pair>),
        scene("mutex, goes", goes),
        scene("mutex, is made", is_made).varying(),
        scene("rwlock, reads", |stage| rwlock(stage, read)).short(),
        scene("rwlock, writes", |stage| rwlock(stage, write)),
        scene("rwlock, a reader forgets it", reader_forgets),
        scene("rwlock, reads in vain", read_in_vain).varying(),
        scene("rwlock, writes in vain", write_in_vain).varying(),
        scene("rwlock, reads what is reserved", read_reserved),
        scene("semaphore, acquires", semaphore).short(),
        scene("semaphore, acquires in vain", acquire_in_vain).varying(),
        scene("semaphore, after one that died", acquire_after_death).varying(),
        scene("condvar, notifies", notify),
        scene("condvar, waits in vain", wait_in_vain).varying(),
        scene("event, is set", event),
        scene("event, is waited for in vain", event_in_vain).varying(),
        scene("once, does it", once),
        scene("barrier, comes last", barrier).varying(),
        scene("barrier, waits in vain", barrier_in_vain).varying(),
        scene("shared, is changed", shared).short(),
        scene("shared, is read", shared_read).short(),
        scene("shared, is looked at", shared_reader).varying(),
        scene("onlooker of state", stat),
    ];
    if Stage::can_lack() {
        all.push(scene("mutex, is made and can't be entered", is_made_in_vain).varying());
    }
    all
}

fn state(stage: &Stage) -> State {
    State::at(stage.arena().path()).participants(4)
}

fn create<P: Primitive>(stage: &Stage, initial: P::Initial) -> P {
    state(stage).create("x", || initial).expect("it can be made")
}

fn open<P: Primitive>(stage: &Stage) -> P {
    state(stage).open("x").expect("it is there")
}

/// A mutex that sleeps at once when it has to wait.
fn open_pair(stage: &Stage) -> Pair {
    let mut mutex = open::<Pair>(stage);
    mutex.set_waiting(Waiting::Block);
    mutex
}

/// The value is whole, or somebody is told; then it can be used as if nothing had happened.
fn assert_sound(mutex: &Pair) {
    match mutex.lock_timeout(HANG) {
        Ok(pair) => assert_eq!(pair[0], pair[1], "taken over in silence"),
        Err(LockError::OwnerDied) => {
            let mut recovery = mutex.recover().expect("sound").expect("abandoned");
            recovery[0] = recovery[1];
            drop(recovery.repaired());
        }
        Err(error) => panic!("{error}"),
    }
    let mut pair = mutex.lock_timeout(HANG).expect("it is in order");
    pair[0] += 1;
    pair[1] += 1;
}

fn end(stage: &Stage) {
    state(stage).remove("x").expect("nobody has it open");
}

fn mutex(stage: &Stage, act: fn(&mut Pair) -> Act) {
    let mutex = create::<Pair>(stage, [0; 2]);
    stage.victim(|| open_pair(stage), act);
    assert_sound(&mutex);
    drop(mutex);
    end(stage);
}

fn change(mutex: &mut Pair) -> Act {
    let mut pair = mutex.lock()?;
    pair[0] += 1;
    pair[1] += 1;
    Ok(())
}

fn change_timed(mutex: &mut Pair) -> Act {
    mutex.set_timed(true);
    change(mutex)
}

fn panic_within(mutex: &mut Pair) -> Act {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _pair = mutex.lock();
        panic!("as the scene wants");
    }));
    std::panic::set_hook(hook);
    assert!(panicked.is_err());
    Ok(())
}

/// Somebody waits, and gives up.
fn ask_in_vain(stage: &Stage) {
    let mutex = create::<Pair>(stage, [0; 2]);
    let guard = mutex.lock().expect("free");
    stage.victim(
        || open_pair(stage),
        |mutex| {
            match mutex.try_lock() {
                Err(LockError::WouldBlock) => {}
                other => return Err(format!("{other:?}").into()),
            }
            match mutex.lock_timeout(WHILE) {
                Err(LockError::TimedOut) => Ok(()),
                other => Err(format!("{other:?}").into()),
            }
        },
    );
    drop(guard);
    assert_sound(&mutex);
    drop(mutex);
    end(stage);
}

/// Where the lock's words are: its own, who asks for it, and how often it was given back since.
const LOCK: u64 = layout::PAGE + 2048;
const NEXT: u64 = LOCK + 8;
const PASSES: u64 = LOCK + 16;
const RESERVED: u64 = 0x6c6b << 48 | 1 << 47;

/// The lock is reserved for a participant: this thread of it, and so that of a fork.
fn reserve(stage: &Stage, id: u64, held: u64) {
    const THREAD: u64 = u32::MAX as u64;
    put(stage, NEXT, id << 32 | held & THREAD);
    put(stage, LOCK, RESERVED);
}

fn put(stage: &Stage, at: u64, word: u64) {
    write_at(&stage.arena().file("x"), at, &word.to_ne_bytes());
}

/// Somebody else asks for it, and is to have it next.
fn give_back_asked(stage: &Stage) {
    let mutex = create::<Pair>(stage, [0; 2]);
    put(stage, NEXT, 4 << 32 | 1);
    put(stage, PASSES, 255);
    stage.victim(|| open_pair(stage), change);
    assert_sound(&mutex);
    drop(mutex);
    end(stage);
}

/// It is reserved for the victim.
fn take_reserved(stage: &Stage) {
    let mutex = create::<Pair>(stage, [0; 2]);
    let guard = mutex.lock().expect("free");
    let held = word_of(stage);
    drop(guard);
    stage.victim(
        || {
            let mutex = open_pair(stage);
            reserve(stage, 2, held);
            mutex
        },
        change,
    );
    assert_sound(&mutex);
    drop(mutex);
    end(stage);
}

fn word_of(stage: &Stage) -> u64 {
    read_word(&stage.arena().file("x"), LOCK)
}

/// Somebody died with it before the victim comes.
fn dies_with<P: Primitive>(stage: &Stage, act: fn(&P)) {
    if let Some(child) = fork() {
        let _ = child.ended();
    } else {
        let held = open::<P>(stage);
        act(&held);
        std::mem::forget(held);
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
    }
}

fn forget_lock(mutex: &Pair) {
    std::mem::forget(mutex.lock());
}

fn after_a_dead_owner(stage: &Stage) {
    let mutex = create::<Pair>(stage, [0; 2]);
    stage.victim(
        || {
            let mutex = open_pair(stage);
            dies_with::<Pair>(stage, forget_lock);
            mutex
        },
        |mutex| {
            drop(mutex.lock_or_repair(|pair| pair[0] = pair[1])?);
            Ok(())
        },
    );
    assert_sound(&mutex);
    drop(mutex);
    end(stage);
}

fn give_up_repair(stage: &Stage) {
    let mutex = create::<Pair>(stage, [0; 2]);
    stage.victim(
        || {
            let mutex = open_pair(stage);
            dies_with::<Pair>(stage, forget_lock);
            mutex
        },
        |mutex| {
            match mutex.lock().map(drop) {
                Err(LockError::Poisoned) => {}
                Err(LockError::OwnerDied) => drop(mutex.recover()?.ok_or("somebody else repairs it")?),
                other => other?,
            }
            stage.note(DONE);
            Ok(())
        },
    );
    let answer = mutex.lock_timeout(HANG).map(drop);
    assert!(
        matches!(answer, Err(LockError::Poisoned))
            || stage.noted(DONE) == 0 && matches!(answer, Err(LockError::OwnerDied)),
        "{answer:?}"
    );
    drop(mutex);
    end(stage);
}

/// Comes where somebody has died with everything.
fn comes<P: Primitive<Initial = [u64; 2]>>(stage: &Stage) {
    let mutex = create::<Pair>(stage, [0; 2]);
    dies_with::<Pair>(stage, forget_lock);
    stage.victim(
        || None,
        |opened| {
            *opened = Some(state(stage).open::<P>("x")?);
            Ok(())
        },
    );
    assert!(matches!(mutex.lock_timeout(HANG), Err(LockError::OwnerDied)));
    assert_sound(&mutex);
    drop(mutex);
    end(stage);
}

/// Goes, and has forgotten a guard.
fn goes(stage: &Stage) {
    let mutex = create::<Pair>(stage, [0; 2]);
    stage.victim(
        || {
            let mutex = open_pair(stage);
            forget_lock(&mutex);
            Some(mutex)
        },
        |mutex| {
            drop(mutex.take());
            Ok(())
        },
    );
    assert!(matches!(mutex.lock_timeout(HANG), Err(LockError::OwnerDied)));
    assert_sound(&mutex);
    drop(mutex);
    end(stage);
}

/// A thread of the victim ends with something, and others meet it.
fn in_a_thread<T: Sync>(what: &T, act: fn(&T)) -> Act {
    let ended = thread::scope(|scope| scope.spawn(|| act(what)).join());
    ended.map_err(|_| "a thread panicked".into())
}

/// Leaves a stack for the victim's thread, so that it maps none of its own.
fn leave_a_stack() {
    thread::spawn(|| {}).join().expect("it does nothing");
}

fn forgets(stage: &Stage) {
    let mutex = create::<Pair>(stage, [0; 2]);
    leave_a_stack();
    stage.victim(
        || open_pair(stage),
        |mutex| {
            in_a_thread(mutex, forget_lock)?;
            match mutex.lock().map(drop) {
                Err(LockError::Forgotten) => Ok(()),
                other => Err(format!("{other:?}").into()),
            }
        },
    );
    assert_sound(&mutex);
    drop(mutex);
    end(stage);
}

fn reader_forgets(stage: &Stage) {
    let lock = create::<RwLock<[u64; 2]>>(stage, [0; 2]);
    leave_a_stack();
    stage.victim(
        || open_lock(stage),
        |lock| {
            in_a_thread(lock, |lock| std::mem::forget(lock.read()))?;
            match lock.write().map(drop) {
                Err(LockError::Forgotten) => Ok(()),
                other => Err(format!("{other:?}").into()),
            }
        },
    );
    assert_usable(&lock);
    drop(lock);
    end(stage);
}

fn is_made(stage: &Stage) {
    stage.victim(
        || (),
        |()| {
            let mutex = state(stage).transient().open_or_create::<Pair>("x", || [7; 2])?;
            drop(mutex.lock()?);
            Ok(())
        },
    );
    let mutex = state(stage).transient().open_or_create::<Pair>("x", || [7; 2]).expect("it can be made");
    match mutex.lock_timeout(HANG) {
        Ok(pair) => assert_eq!(*pair, [7; 2]),
        Err(error) => assert!(matches!(error, LockError::OwnerDied), "{error}"),
    }
    drop(mutex.lock_or_repair(|_| {}).expect("sound"));
    drop(mutex);
}

/// Who has made it and can't enter takes it back. Killed before that, or kept from it, it leaves it
/// as it is made.
fn is_made_in_vain(stage: &Stage) {
    // The one before is what it makes it with.
    stage.lack_at(MAPPED_BY_MAKER, "mmap", Errno::ENOMEM);
    stage.victim(
        || (),
        |()| match state(stage).create::<Pair>("x", || [7; 2]).map(drop) {
            // Also when it is done again, and there is room.
            Ok(()) | Err(ChannelError::Os(_) | ChannelError::AlreadyExists) => Ok(()),
            Err(error) => Err(error.into()),
        },
    );
    match state(stage).open::<Pair>("x") {
        Ok(mutex) => {
            assert_eq!(*mutex.lock_timeout(HANG).expect("nobody has it"), [7; 2]);
            drop(mutex);
            end(stage);
        }
        Err(error) => assert!(matches!(error, ChannelError::NotFound), "{error}"),
    }
}

fn rwlock(stage: &Stage, act: fn(&mut RwLock<[u64; 2]>) -> Act) {
    let lock = create::<RwLock<[u64; 2]>>(stage, [0; 2]);
    stage.victim(|| open::<RwLock<[u64; 2]>>(stage), act);
    assert_usable(&lock);
    drop(lock);
    end(stage);
}

fn assert_usable(lock: &RwLock<[u64; 2]>) {
    match lock.write_timeout(HANG) {
        Ok(pair) => assert_eq!(pair[0], pair[1], "taken over in silence"),
        Err(LockError::OwnerDied) => drop(lock.write_or_repair(|pair| pair[0] = pair[1]).expect("sound")),
        Err(error) => panic!("{error}"),
    }
    let pair = lock.read_timeout(HANG).expect("it is in order");
    assert_eq!(pair[0], pair[1]);
}

fn read(lock: &mut RwLock<[u64; 2]>) -> Act {
    let pair = lock.read()?;
    assert_eq!(pair[0], pair[1]);
    Ok(())
}

fn write(lock: &mut RwLock<[u64; 2]>) -> Act {
    let mut pair = lock.write()?;
    pair[0] += 1;
    pair[1] += 1;
    Ok(())
}

fn open_lock(stage: &Stage) -> RwLock<[u64; 2]> {
    let mut lock = open::<RwLock<[u64; 2]>>(stage);
    lock.set_waiting(Waiting::Block);
    lock
}

fn read_in_vain(stage: &Stage) {
    let lock = create::<RwLock<[u64; 2]>>(stage, [0; 2]);
    let guard = lock.write().expect("free");
    stage.victim(
        || open_lock(stage),
        |lock| match lock.read_timeout(WHILE) {
            Err(LockError::TimedOut) => Ok(()),
            other => Err(format!("{other:?}").into()),
        },
    );
    drop(guard);
    assert_usable(&lock);
    drop(lock);
    end(stage);
}

fn write_in_vain(stage: &Stage) {
    let lock = create::<RwLock<[u64; 2]>>(stage, [0; 2]);
    let guard = lock.read().expect("free");
    stage.victim(
        || {
            let lock = open_lock(stage);
            // One of the readers is dead.
            dies_with::<RwLock<[u64; 2]>>(stage, |lock| std::mem::forget(lock.read()));
            lock
        },
        |lock| match lock.write_timeout(WHILE) {
            Err(LockError::TimedOut) => Ok(()),
            other => Err(format!("{other:?}").into()),
        },
    );
    drop(guard);
    assert_usable(&lock);
    drop(lock);
    end(stage);
}

/// It is reserved for a reader.
fn read_reserved(stage: &Stage) {
    let lock = create::<RwLock<[u64; 2]>>(stage, [0; 2]);
    let guard = lock.write().expect("free");
    let held = word_of(stage);
    drop(guard);
    stage.victim(
        || {
            let lock = open_lock(stage);
            reserve(stage, 2, held);
            lock
        },
        read,
    );
    assert_usable(&lock);
    drop(lock);
    end(stage);
}

fn semaphore(stage: &Stage) {
    let permits = create::<Semaphore>(stage, 3);
    stage.victim(
        || open::<Semaphore>(stage),
        |permits| {
            let permit = permits.acquire_many(2, Wait::Never)?;
            permits.add_permits(0)?;
            drop(permit);
            Ok(())
        },
    );
    assert_all(stage, permits, 3);
}

fn assert_all(stage: &Stage, semaphore: Semaphore, permits: u64) {
    drop(semaphore.acquire_many(permits, Wait::timeout(HANG)).expect("all are free"));
    assert_eq!(semaphore.available().expect("sound"), permits);
    drop(semaphore);
    end(stage);
}

fn acquire_in_vain(stage: &Stage) {
    let permits = create::<Semaphore>(stage, 1);
    let permit = permits.acquire().expect("free");
    stage.victim(
        || {
            let mut permits = open::<Semaphore>(stage);
            permits.set_waiting(Waiting::Block);
            permits
        },
        |permits| match permits.acquire_timeout(WHILE) {
            Err(LockError::TimedOut) => Ok(()),
            other => Err(format!("{other:?}").into()),
        },
    );
    drop(permit);
    assert_all(stage, permits, 1);
}

fn acquire_after_death(stage: &Stage) {
    let permits = create::<Semaphore>(stage, 1);
    stage.victim(
        || {
            let permits = open::<Semaphore>(stage);
            dies_with::<Semaphore>(stage, |permits| std::mem::forget(permits.acquire()));
            permits
        },
        |permits| {
            drop(permits.acquire()?);
            Ok(())
        },
    );
    assert_all(stage, permits, 1);
}

fn notify(stage: &Stage) {
    let condvar = create::<Condvar>(stage, ());
    stage.victim(
        || open::<Condvar>(stage),
        |condvar| {
            condvar.notify_all()?;
            Ok(())
        },
    );
    drop(condvar);
    end(stage);
}

fn wait_in_vain(stage: &Stage) {
    let mutex = create::<Pair>(stage, [0; 2]);
    stage.victim(
        || (open_pair(stage), state(stage).transient().open_or_create::<Condvar>("y", || ()).expect("made")),
        |(mutex, condvar)| {
            let (guard, timed_out) = condvar.wait_timeout(mutex.lock()?, BRIEFLY)?;
            drop(guard);
            if timed_out { Ok(()) } else { Err("nobody notifies".into()) }
        },
    );
    assert_sound(&mutex);
    drop(mutex);
    end(stage);
    drop(state(stage).transient().open_or_create::<Condvar>("y", || ()).expect("made"));
}

fn event(stage: &Stage) {
    let event = create::<Event>(stage, ());
    stage.victim(
        || open::<Event>(stage),
        |event| {
            event.set()?;
            assert!(event.is_set()?);
            stage.note(DONE);
            Ok(())
        },
    );
    assert!(event.is_set().expect("sound") || stage.noted(DONE) == 0);
    drop(event);
    end(stage);
}

fn event_in_vain(stage: &Stage) {
    let event = create::<Event>(stage, ());
    stage.victim(
        || open::<Event>(stage),
        |event| match event.wait_timeout(BRIEFLY) {
            Err(LockError::TimedOut) => Ok(()),
            other => Err(format!("{other:?}").into()),
        },
    );
    drop(event);
    end(stage);
}

fn once(stage: &Stage) {
    let once = create::<Once>(stage, ());
    stage.victim(
        || open::<Once>(stage),
        |once| {
            once.call(|_| {})?;
            stage.note(DONE);
            Ok(())
        },
    );
    let mut again = false;
    once.call(|_| again = true).expect("nobody hangs");
    assert!(!again || stage.noted(DONE) == 0, "done twice");
    drop(once);
    end(stage);
}

fn barrier(stage: &Stage) {
    let barrier = create::<Barrier>(stage, 1);
    stage.victim(
        || {
            let barrier = open::<Barrier>(stage);
            dies_with::<Barrier>(stage, |barrier| {
                let _ = barrier.wait();
            });
            barrier
        },
        |barrier| if barrier.wait()? { Ok(()) } else { Err("alone".into()) },
    );
    assert!(barrier.wait_timeout(HANG).expect("alone"));
    drop(barrier);
    end(stage);
}

fn barrier_in_vain(stage: &Stage) {
    let barrier = create::<Barrier>(stage, 2);
    stage.victim(
        || open::<Barrier>(stage),
        |barrier| match barrier.wait_timeout(BRIEFLY) {
            Err(LockError::TimedOut) => Ok(()),
            other => Err(format!("{other:?}").into()),
        },
    );
    assert!(matches!(barrier.wait_timeout(BRIEFLY), Err(LockError::TimedOut)), "the dead don't count");
    drop(barrier);
    end(stage);
}

fn shared(stage: &Stage) {
    let mut value = create::<Shared<[u64; 2]>>(stage, [1; 2]);
    stage.victim(
        || open::<Shared<[u64; 2]>>(stage),
        |value| {
            value.update(|pair| *pair = [2; 2])?;
            stage.note(DONE);
            Ok(())
        },
    );
    let found = value.read().expect("a value")[0];
    assert!(found == 2 || found == 1 && stage.noted(DONE) == 0);
    assert_eq!(value.read().expect("a value"), &[found; 2]);
    drop(value.lock_timeout(HANG).expect("nothing is to be repaired"));
    value.update(|pair| *pair = [3; 2]).expect("nothing is to be repaired");
    assert_eq!(value.read().expect("a value"), &[3; 2]);
    drop(value);
    end(stage);
}

fn shared_read(stage: &Stage) {
    let mut value = create::<Shared<[u64; 2]>>(stage, [1; 2]);
    value.update(|pair| *pair = [2; 2]).expect("alone");
    stage.victim(
        || open::<Shared<[u64; 2]>>(stage),
        |value| if value.read()? == &[2; 2] { Ok(()) } else { Err("another value".into()) },
    );
    drop(value);
    end(stage);
}

fn shared_reader(stage: &Stage) {
    let value = RefCell::new(create::<Shared<[u64; 2]>>(stage, [1; 2]));
    stage.victim(
        || state(stage).reader::<[u64; 2]>("x").expect("it is there"),
        |reader| {
            reader.read()?;
            match reader.changed(Wait::timeout(BRIEFLY)) {
                Err(LockError::TimedOut) => Ok(()),
                other => Err(format!("{other:?}").into()),
            }
        },
    );
    drop(value);
    end(stage);
}

fn stat(stage: &Stage) {
    let mutex = create::<Pair>(stage, [0; 2]);
    let guard = mutex.lock().expect("free");
    stage.victim(
        || (),
        |()| {
            let info = state(stage).stat("x")?;
            match info.condition.as_deref() {
                Some("held") => Ok(()),
                other => Err(format!("it is said to be {other:?}").into()),
            }
        },
    );
    drop(guard);
    drop(mutex);
    end(stage);
}
