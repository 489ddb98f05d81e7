//! What a fork must not break: a child inherits neither its parent's endpoints nor its
//! parent's locks, and may have endpoints of its own.

mod common;

use common::{
    Arena, Child, PATIENCE, end_after, fork, fork_child,
    kinds::{Ends, make},
    layout, name, read_word, say, serve, told, until_asleep, within,
};
use ipc_shm::{
    Batch, BatchReceiver, Cancel, Channel, ChannelError, ChannelName, EndMark, Kind, Loan, Message, Receiver,
    RecvError, Role, SendError, Sender, Shm, ShmConfig, Spsc, Transport, Wait, Waiting,
};
use nix::{
    fcntl::{FcntlArg, Flock, FlockArg, fcntl},
    libc,
};
use rstest::rstest;
use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
    process::Command,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

#[test]
fn this_binary_is_its_own_child() {
    serve(|role, arguments| {
        let shm = Spsc::at(&arguments[0]);
        match role {
            "fork while holding" => fork_while_holding(&shm, &arguments[1]),
            "fork with both ends" => fork_with_both_ends(Path::new(&arguments[0])),
            "use what was the parent's" => use_what_was_the_parents(&shm),
            "drop what was lent" => drop_what_was_lent(&shm),
            "fork in one thread, attach in another" => make_children_while_others_attach(&shm, fork_a_user),
            "spawn in one thread, attach in another" => make_children_while_others_attach(&shm, spawn),
            "fork while another thread comes first" => fork_while_another_comes_first(&shm),
            "fork while another thread can be cancelled" => fork_while_another_can_be_cancelled(&shm),
            other => panic!("no such child: {other}"),
        }
    });
}

fn small() -> ShmConfig {
    ShmConfig::new().capacity_bytes(4096)
}

#[test]
fn a_forked_child_is_told_that_the_endpoints_are_not_its_own() {
    let arena = Arena::new();
    Child::spawn("use what was the parent's", &[arena.path().to_str().unwrap()]).ends_well();
}

fn use_what_was_the_parents(shm: &Spsc) {
    let channel = shm.create(&name("x"), &small()).unwrap();
    let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
    tx.send(b"one").unwrap();
    tx.send(b"two").unwrap();
    // Left as a mistaken program may leave them: held, and reserved.
    rx.advance_batch(2, Wait::Never).unwrap();
    tx.reserve(100, Wait::Never).unwrap();
    let Some(child) = fork() else {
        end_after(|| {
            assert!(matches!(channel.sender(), Err(ChannelError::Forked)));
            assert!(matches!(channel.receiver(), Err(ChannelError::Forked)));
            let rejected = tx.reserved().commit(Wait::Never).map_err(|rejected| rejected.error);
            assert!(matches!(rejected, Err(SendError::Forked)), "{rejected:?}");
            assert_eq!(tx.reserved().len(), 0, "nothing of the parent's is lent");
            assert!(matches!(tx.try_send(b"x"), Err(SendError::Forked)));
            assert!(matches!(tx.send(b"x"), Err(SendError::Forked)));
            assert!(matches!(tx.send_timeout(b"x", Duration::ZERO), Err(SendError::Forked)));
            assert!(matches!(tx.send_end(Wait::Never), Err(SendError::Forked)));
            assert!(matches!(rx.try_recv().map(drop), Err(RecvError::Forked)));
            assert!(matches!(rx.recv().map(drop), Err(RecvError::Forked)));
            assert!(matches!(rx.advance_batch(3, Wait::Forever), Err(RecvError::Forked)));
            drop((tx, rx, channel));
        })
    };
    child.ends_well();
    // The parent doesn't notice any of it.
    let loan = tx.reserved();
    assert_eq!(loan.len(), 100);
    loan.commit(Wait::Never).unwrap();
    let batch = rx.held_batch();
    assert_eq!(batch.iter().collect::<Vec<_>>(), [b"one", b"two"]);
    batch.release_all();
    assert_eq!(rx.try_recv().unwrap().len(), 100);
    drop((tx, rx, channel));
    shm.remove(&name("x")).unwrap();
}

#[test]
fn dropping_in_a_forked_child_what_was_lent_before_it_is_harmless() {
    let arena = Arena::new();
    Child::spawn("drop what was lent", &[arena.path().to_str().unwrap()]).ends_well();
}

fn drop_what_was_lent(shm: &Spsc) {
    let channel = shm.create(&name("x"), &small().transient()).unwrap();
    let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
    for text in [b"one", b"two", b"six"] {
        tx.send(text).unwrap();
    }
    let loan = tx.loan(10, Wait::Never).unwrap();
    let message = rx.try_recv().unwrap();
    let Some(child) = fork() else { end_after(|| drop(message)) };
    child.ends_well();
    let Some(child) = fork() else {
        end_after(|| {
            let rejected = loan.commit(Wait::Never).map_err(|rejected| rejected.error);
            assert!(matches!(rejected, Err(SendError::Forked)), "{rejected:?}");
        })
    };
    child.ends_well();
    assert_eq!(&*message, b"one");
    message.keep();
    assert_eq!(rx.advance_batch(2, Wait::Never).unwrap(), 2);
    let batch = rx.held_batch();
    let Some(child) = fork() else { end_after(|| batch.release_all()) };
    child.ends_well();
    assert_eq!(batch.iter().collect::<Vec<_>>(), [b"one", b"two"]);
    batch.release(1);
    drop((loan, rx));
    drop(channel);
    let mut rx = shm.open(&name("x")).unwrap().receiver().unwrap();
    assert_eq!(&*rx.try_recv().unwrap(), b"two", "the batch was held, not released");
    rx.try_recv().unwrap().keep();
    assert_eq!(&*rx.try_recv().unwrap(), b"six");
}

#[rstest]
#[case::a_sender(Role::Sender)]
#[case::a_receiver(Role::Receiver)]
fn a_child_does_not_keep_its_dead_parents_role(#[case] role: Role) {
    let arena = Arena::new();
    let channel = arena.shm().create(&name("x"), &small()).unwrap();
    let mut parent = Child::spawn("fork while holding", &[arena.path().to_str().unwrap(), &role.to_string()]);
    let orphan: i32 = parent.line().parse().unwrap();
    let busy = |answer: Result<(), ChannelError>| matches!(answer, Err(ChannelError::Busy { pid, .. }) if pid == Some(parent.pid()));
    assert!(match role {
        Role::Sender => busy(channel.sender().map(drop)),
        _ => busy(channel.receiver().map(drop)),
    });
    parent.kill();
    // SAFETY: signal 0 only asks whether the process is there.
    assert_eq!(unsafe { nix::libc::kill(orphan, 0) }, 0, "the child lives on");
    match role {
        Role::Sender => drop(channel.sender().expect("the role is free at once")),
        _ => drop(channel.receiver().expect("the role is free at once")),
    }
    drop(channel);
    arena.shm().remove(&name("x")).expect("nobody has it open, the orphan least of all");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(orphan), nix::sys::signal::SIGKILL).unwrap();
}

fn fork_while_holding(shm: &Spsc, role: &str) {
    let channel = shm.open(&name("x")).unwrap();
    let _sender = (role == "sender").then(|| channel.sender().unwrap());
    let _receiver = (role == "receiver").then(|| channel.receiver().unwrap());
    let orphan = fork_child(|| {
        // Lives on until it is killed, and would for a while if that failed.
        // SAFETY: sleeps; the alarm of the parent isn't inherited, this ends by itself.
        unsafe { nix::libc::sleep(60) };
    });
    say(&orphan.0.to_string());
    told();
}

#[rstest]
fn whatever_the_kind_a_child_can_not_use_what_was_its_parents_and_keeps_nobody_alive(
    #[values(Kind::Spsc, Kind::Mpmc, Kind::Broadcast, Kind::Latest, Kind::Rpc)] kind: Kind,
) {
    let arena = Arena::new();
    let shm = Shm::at(arena.path());
    make(arena.path(), &ShmConfig::new().kind(kind)).unwrap();
    let mut parent = Child::spawn("fork with both ends", &[arena.path().to_str().unwrap()]);
    let orphan: i32 = parent.line().parse().unwrap();
    let alive = || {
        let participants = shm.stat(&name("x")).unwrap().participants;
        participants.into_iter().filter(|one| one.alive).count()
    };
    parent.tell();
    parent.says("goes on");
    assert_eq!(alive(), 2);
    assert!(matches!(shm.remove(&name("x")), Err(ChannelError::Busy { .. })));
    parent.kill();
    // SAFETY: signal 0 only asks whether the process is there.
    assert_eq!(unsafe { nix::libc::kill(orphan, 0) }, 0, "the child lives on");
    assert_eq!(alive(), 0, "its parent is dead, and it is nobody");
    Ends::open(arena.path()).expect("their roles are free at once").pass(b"anew");
    shm.remove(&name("x")).expect("nobody has it open, the orphan least of all");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(orphan), nix::sys::signal::SIGKILL).unwrap();
}

fn fork_with_both_ends(directory: &Path) {
    let mut ends = Ends::open(directory).unwrap();
    ends.pass(b"before");
    let Some(child) = fork() else {
        end_after(|| {
            ends.assert_forked();
            say(&std::process::id().to_string());
            // Lives on until it is killed, and would for a while if that failed.
            // SAFETY: sleeps; the alarm of the parent isn't inherited, this ends by itself.
            unsafe { nix::libc::sleep(60) };
        })
    };
    let _ends_with_us = child;
    assert!(told());
    // Nothing of the child's attempts reached it.
    ends.pass(b"after");
    say("goes on");
    told();
}

#[test]
fn a_child_may_open_endpoints_of_its_own() {
    let arena = Arena::new();
    let shm = arena.shm();
    let channel = shm.create(&name("x"), &small()).unwrap();
    let mut rx = channel.receiver().unwrap();
    let child = fork_child(|| {
        let mut tx = shm.open(&name("x")).unwrap().sender().unwrap();
        tx.send(b"from the child").unwrap();
        assert!(matches!(shm.open(&name("x")).unwrap().receiver(), Err(ChannelError::Busy { .. })));
        // And so may its own child.
        fork_child(|| {
            assert!(matches!(tx.try_send(b"x"), Err(SendError::Forked)));
            assert!(matches!(shm.open(&name("x")).unwrap().sender(), Err(ChannelError::Busy { .. })));
        })
        .ends_well();
        tx.send(b"from the child again").unwrap();
    });
    assert_eq!(&*rx.recv_timeout(PATIENCE).unwrap(), b"from the child");
    assert_eq!(&*rx.recv_timeout(PATIENCE).unwrap(), b"from the child again");
    child.ends_well();
    drop(channel.sender().expect("the child is gone"));
}

#[test]
fn what_a_forked_child_cancels_is_not_its_parents_wait() {
    static STOP: Cancel = Cancel::new();
    let arena = Arena::new();
    let channel = arena.shm().create(&name("x"), &small()).unwrap();
    let mut rx = channel.receiver().unwrap();
    let waiter = thread::spawn(move || rx.advance(Wait::Forever.or_cancel(&STOP)).unwrap_err());
    until_asleep(&arena.file("x"), layout::RECEIVER);
    fork_child(|| {
        STOP.cancel();
        assert!(STOP.is_cancelled());
    })
    .ends_well();
    thread::sleep(Duration::from_millis(20));
    assert!(!waiter.is_finished() && !STOP.is_cancelled());
    STOP.cancel();
    let error = within(PATIENCE, move || waiter.join().unwrap());
    assert!(matches!(error, RecvError::Cancelled), "{error:?}");
}

#[test]
fn a_child_may_cancel_whatever_its_parents_threads_were_about() {
    const FORKS: usize = 200;
    static STOP: Cancel = Cancel::new();
    let arena = Arena::new();
    let channel = arena.shm().create(&name("x"), &small()).unwrap();
    let mut rx = channel.receiver().unwrap();
    rx.set_waiting(Waiting::Block);
    let waiter = thread::spawn(move || {
        loop {
            let wait = Wait::timeout(Duration::from_micros(20)).or_cancel(&STOP);
            match rx.advance(wait) {
                Err(RecvError::TimedOut) => {}
                answer => break answer,
            }
        }
    });
    for _ in 0..FORKS {
        fork_child(|| STOP.cancel()).ends_well();
    }
    STOP.cancel();
    let answer = within(PATIENCE, move || waiter.join().unwrap());
    assert!(matches!(answer, Err(RecvError::Cancelled)), "{answer:?}");
}

#[test]
fn threads_may_fork_while_another_one_waits_for_a_process_that_is_stopped() {
    let arena = Arena::new();
    let directory = fs::File::open(arena.path()).unwrap();
    let _locked = Flock::lock(directory, FlockArg::LockExclusive).expect("nobody has it locked");
    let shm = arena.shm();
    let waiting = thread::spawn(move || shm.create(&name("x"), &small()).map(drop));
    let mut forks = 0;
    while !waiting.is_finished() {
        fork_child(|| ()).ends_well();
        forks += 1;
    }
    let answer = waiting.join().unwrap();
    assert!(matches!(answer, Err(ChannelError::Limit(_))), "{answer:?}");
    // One or two that came before it waited.
    assert!(forks > 10, "{forks}");
}

#[rstest]
#[case("fork in one thread, attach in another")]
// By `posix_spawn`, which runs no handlers.
#[case("spawn in one thread, attach in another")]
fn threads_that_make_children_and_threads_that_attach_do_not_lock_each_other_out(#[case] role: &str) {
    let arena = Arena::new();
    let mut child = Child::spawn(role, &[arena.path().to_str().unwrap()]);
    child.says("no role was kept by a child");
    child.ends_well();
}

fn fork_a_user(shm: &Spsc, own: &ChannelName) {
    fork_child(|| {
        let tx = shm.create(own, &small().transient()).unwrap().sender().unwrap();
        drop(tx);
    })
    .ends_well();
}

fn spawn(_shm: &Spsc, _own: &ChannelName) {
    assert!(Command::new("true").status().unwrap().success());
}

fn make_children_while_others_attach(shm: &Spsc, make_child: fn(&Spsc, &ChannelName)) {
    let stop = Arc::new(AtomicBool::new(false));
    let rounds = Arc::new(AtomicUsize::new(0));
    let attachers: Vec<_> = (0..3)
        .map(|number| {
            let (shm, stop, rounds) = (shm.clone(), Arc::clone(&stop), Arc::clone(&rounds));
            thread::spawn(move || {
                let name = name(&format!("x{number}"));
                drop(shm.create(&name, &small()).unwrap());
                while !stop.load(Ordering::Relaxed) {
                    // Whatever a child inherited would keep the role, or the channel.
                    let channel = shm.open(&name).unwrap();
                    drop(channel.sender().expect("ours alone"));
                    drop(channel.receiver().expect("ours alone"));
                    drop(channel);
                    shm.remove(&name).expect("nobody else has it open");
                    drop(shm.create(&name, &small()).unwrap());
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let parents: Vec<_> = (0..2)
        .map(|number| {
            let (shm, stop) = (shm.clone(), Arc::clone(&stop));
            thread::spawn(move || {
                let own = name(&format!("y{number}"));
                while !stop.load(Ordering::Relaxed) {
                    make_child(&shm, &own);
                }
            })
        })
        .collect();
    // On a busy machine a round may take longer than that.
    let started = Instant::now();
    let goes_on = || started.elapsed() < Duration::from_secs(1) || rounds.load(Ordering::Relaxed) == 0;
    while goes_on() && attachers.iter().all(|thread| !thread.is_finished()) {
        assert!(started.elapsed() < PATIENCE, "nobody attaches while others make children");
        thread::sleep(Duration::from_millis(5));
    }
    stop.store(true, Ordering::Relaxed);
    within(PATIENCE, move || {
        parents.into_iter().chain(attachers).for_each(|thread| thread.join().unwrap());
    });
    say("no role was kept by a child");
}

/// How often it is tried, and how often at least it has to come out: a thread may be late.
const ROUNDS: u32 = 20;

/// The state of the mark of a channel on a disk: in use.
const STATE: u64 = 1024 + 16;

#[rstest]
#[case::transient(Arena::new(), small().transient(), |file: &Path| !file.exists())]
#[case::on_a_disk(Arena::on_disk(), small(), |file: &Path| read_word(file, STATE) == 0)]
fn who_leaves_last_is_not_misled_by_a_process_that_is_being_spawned(
    #[case] arena: Arena,
    #[case] config: ShmConfig,
    #[case] is_settled: fn(&Path) -> bool,
) {
    let file = arena.file("x");
    let mut settled = 0;
    for _ in 0..ROUNDS {
        let tx = arena.shm().create(&name("x"), &config).unwrap().sender().unwrap();
        // What such a process has is a copy of this lock, until it runs its own program.
        let copy = OpenOptions::new().read(true).write(true).open(&file).unwrap();
        let mut lock = libc::flock { l_type: 0, l_whence: 0, l_start: 0, l_len: 1, l_pid: 0 };
        lock.l_type = libc::F_RDLCK as libc::c_short;
        fcntl(&copy, FcntlArg::F_OFD_SETLK(&lock)).unwrap();
        let leaver = thread::spawn(move || drop(tx));
        let mut pid = [0; 8];
        while copy.read_exact_at(&mut pid, layout::SENDER).is_ok() && pid != [0; 8] {
            thread::yield_now();
        }
        thread::sleep(Duration::from_millis(1));
        drop(copy);
        leaver.join().unwrap();
        settled += u32::from(is_settled(&file));
        let _ = arena.shm().remove(&name("x"));
    }
    assert!(settled >= ROUNDS / 2, "{settled} of {ROUNDS}");
}

#[test]
fn a_child_that_is_forked_while_a_thread_opens_the_first_endpoint_opens_its_own() {
    let arena = Arena::new();
    Child::spawn("fork while another thread comes first", &[arena.path().to_str().unwrap()]).ends_well();
}

fn fork_while_another_comes_first(shm: &Spsc) {
    const TRIALS: u32 = 200;
    let open = || drop(shm.open(&name("x")));
    // Each in a process that hasn't used the crate yet.
    for trial in 0..TRIALS {
        let user = fork_child(|| {
            let together = Barrier::new(2);
            thread::scope(|scope| {
                scope.spawn(|| {
                    together.wait();
                    open();
                });
                together.wait();
                (0..trial % 30 * 20).for_each(|_| std::hint::spin_loop());
                fork_child(open).ends_well();
            });
        });
        user.ends_well();
    }
}

/// Ends another thread's work, also where a panic passes.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_child_that_is_forked_while_a_thread_can_be_cancelled_cancels_its_own_waits() {
    let arena = Arena::new();
    Child::spawn("fork while another thread can be cancelled", &[arena.path().to_str().unwrap()]).ends_well();
}

fn fork_while_another_can_be_cancelled(shm: &Spsc) {
    const TRIALS: u32 = 500;
    static STOP: Cancel = Cancel::new();
    static NEVER: Cancel = Cancel::new();
    let [channel, _kept] = ["x", "y"].map(|each| shm.create(&name(each), &small()).unwrap());
    let is_over = AtomicBool::new(false);
    let mut parents = channel.receiver().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let wait = Wait::timeout(Duration::from_micros(1)).or_cancel(&NEVER);
                assert!(matches!(parents.advance(wait), Err(RecvError::TimedOut)));
                STOP.cancel();
            }
        });
        let _over = Over(&is_over);
        for _ in 0..TRIALS {
            let child = fork_child(|| {
                [&STOP, &NEVER].into_iter().for_each(Cancel::cancel);
                let mut own = shm.open(&name("y")).unwrap().receiver().unwrap();
                let answer = own.advance(Wait::Forever.or_cancel(&STOP));
                assert!(matches!(answer, Err(RecvError::Cancelled)), "{answer:?}");
            });
            child.ends_well();
        }
    });
}
