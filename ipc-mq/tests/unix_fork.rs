//! Sockets and `fork`: a child doesn't use its parent's endpoints, nor keep it alive.
#![cfg(target_os = "linux")]

mod common;

use common::{
    alone, await_child, fresh_name, in_child,
    sockets::{Place, open_descriptors},
    start_child,
};
use ipc_mq::{
    BatchReceiver, Cancel, Channel, ChannelError, Loan, OsError, Pollable, Receiver, RecvError, SendError,
    Sender, Transport, UnixConfig, Wait,
};
use nix::{
    sys::{
        signal::{Signal, kill},
        wait::waitpid,
    },
    unistd::{Pid, alarm, close, pipe, read, write},
};
use std::{
    fs::{self, File},
    io::Read,
    os::fd::{AsRawFd, OwnedFd},
    path::PathBuf,
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

#[test]
fn a_child_is_told_that_its_parents_endpoints_are_not_its_own_and_opens_some() {
    let place = Place::new();
    let channel = place.channel();
    let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
    // Not connected yet, connected, and with a message that is held.
    let mut fresh = channel.sender().unwrap();
    tx.send(b"held").unwrap();
    rx.advance(Wait::Never).unwrap();
    let mut reserved = channel.sender().unwrap();
    reserved.send(b"sent").unwrap();
    reserved.reserve(4, Wait::Never).unwrap();
    in_child(|| {
        for tx in [&mut tx, &mut fresh] {
            assert!(matches!(tx.try_send(b"x"), Err(SendError::Forked)));
            assert!(matches!(tx.send(&[0; 200_000]), Err(SendError::Forked)));
            assert!(matches!(tx.loan(1, Wait::Forever), Err(SendError::Forked)));
        }
        let rejected = reserved.reserved().commit(Wait::Forever).unwrap_err();
        assert!(matches!(rejected.error, SendError::Forked));
        assert!(matches!(rx.try_recv(), Err(RecvError::Forked)));
        assert!(matches!(rx.recv(), Err(RecvError::Forked)));
        assert!(matches!(rx.advance_batch(9, Wait::Forever), Err(RecvError::Forked)));
        assert!(matches!(rx.arm(), Err(RecvError::Forked)));
        let OsError { error, .. } = rx.descriptor().unwrap_err();
        assert!(error.to_string().contains("fork"), "{error}");
        // It can have its own.
        let mut own = channel.sender().unwrap();
        own.send(b"from the child").unwrap();
        std::mem::forget(own);
    });
    assert_eq!(&*rx.try_recv().unwrap(), b"held");
    assert_eq!(&*rx.try_recv().unwrap(), b"sent");
    assert_eq!(&*rx.try_recv().unwrap(), b"from the child");
    for tx in [&mut tx, &mut fresh, &mut reserved] {
        tx.send(b"as ever").unwrap();
        assert_eq!(&*rx.recv().unwrap(), b"as ever");
    }
}

/// Their descriptors' numbers are others' there.
#[test]
fn a_child_that_drops_its_copies_harms_neither_its_own_files_nor_its_parent() {
    alone("a_child_that_drops_its_copies_harms_neither_its_own_files_nor_its_parent", || {
        let place = Place::new();
        let channel = place.channel();
        let mut ends = Some((channel.sender().unwrap(), channel.receiver().unwrap()));
        let (tx, rx) = ends.as_mut().unwrap();
        tx.send(b"in").unwrap();
        assert_eq!(&*rx.recv().unwrap(), b"in");
        let before = open_descriptors();
        in_child(|| {
            // Those of the listener, of its epoll, of the role and of both ends of the connection.
            assert_eq!(open_descriptors(), before - 5);
            let mut files: Vec<File> = (0..10).map(|_| File::open("/proc/self/status").unwrap()).collect();
            drop(ends.take());
            for file in &mut files {
                assert!(file.read(&mut [0; 8]).unwrap() > 0);
            }
        });
        let (tx, rx) = ends.as_mut().unwrap();
        tx.send(b"still in").unwrap();
        assert_eq!(&*rx.recv().unwrap(), b"still in");
        assert!(matches!(rx.try_recv(), Err(RecvError::WouldBlock)));
    });
}

/// A process that has something, and a child that lives on until this is dropped.
struct Parent {
    parent: Pid,
    _child_lives: OwnedFd,
}

impl Parent {
    fn having<T>(make: impl FnOnce() -> T) -> Self {
        let ((is_ready, ready), (may_go, go)) = (pipe().unwrap(), pipe().unwrap());
        let parent = start_child(|| {
            // The end of the test's copy is to be the last one.
            close(go.as_raw_fd()).unwrap();
            let _ends = make();
            start_child(|| {
                write(&ready, b"!").unwrap();
                let _ = read(&may_go, &mut [0]);
            });
            let _ = read(&may_go, &mut [0]);
        });
        assert_eq!(read(&is_ready, &mut [0]).unwrap(), 1);
        Self { parent, _child_lives: go }
    }

    fn kill(&self) {
        kill(self.parent, Signal::SIGKILL).unwrap();
        waitpid(self.parent, None).unwrap();
    }
}

#[test]
fn the_role_of_a_receiver_that_is_killed_is_free_though_its_child_lives() {
    let place = Place::new();
    let channel = place.channel();
    let parent = Parent::having(|| channel.receiver().unwrap());
    let mut tx = channel.sender().unwrap();
    tx.send(b"to the parent").unwrap();
    assert!(matches!(channel.receiver(), Err(ChannelError::Busy { .. })));
    parent.kill();
    let mut rx = channel.receiver().unwrap();
    assert!(matches!(tx.send(b"to the parent"), Err(SendError::PeerDied)));
    tx.send(b"to the successor").unwrap();
    assert_eq!(&*rx.recv().unwrap(), b"to the successor");
}

#[test]
fn the_death_of_a_sender_is_noticed_though_its_child_lives() {
    let place = Place::new();
    let channel = place.channel();
    let mut rx = channel.receiver().unwrap();
    rx.report_deaths(true);
    let parent = Parent::having(|| {
        let mut tx = channel.sender().unwrap();
        tx.send(b"in").unwrap();
        tx
    });
    assert_eq!(&*rx.recv().unwrap(), b"in");
    assert!(matches!(rx.try_recv(), Err(RecvError::WouldBlock)));
    parent.kill();
    assert!(matches!(rx.recv_timeout(Duration::from_secs(60)), Err(RecvError::PeerDied)));
}

/// Says that it is over, even if a panic says so.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Whatever another thread does when it forks: a child has none of what is being made.
#[test]
fn no_child_has_a_descriptor_that_another_thread_makes_at_the_moment() {
    alone("no_child_has_a_descriptor_that_another_thread_makes_at_the_moment", || {
        let place = Place::new();
        let channel = place.channel();
        let over = AtomicBool::new(false);
        let before = descriptors();
        thread::scope(|threads| {
            threads.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
                    tx.send(b"in").unwrap();
                    assert_eq!(&*rx.recv_timeout(Duration::from_secs(60)).unwrap(), b"in");
                }
            });
            let _end = End(&over);
            let (reader, writer) = pipe().unwrap();
            for _ in 0..300 {
                // It doesn't panic: a lock that another thread had is locked for ever there.
                in_child(|| {
                    write(&writer, &[open_sockets()]).unwrap();
                });
                let mut found = [0];
                read(&reader, &mut found).unwrap();
                assert_eq!(found, [0], "a child has sockets");
            }
        });
        assert_eq!(descriptors(), before);
    });
}

/// Else it would have it as long as the child lives, though its own process died meanwhile.
#[test]
fn no_child_has_a_lock_that_another_thread_takes_at_the_moment() {
    alone("no_child_has_a_lock_that_another_thread_takes_at_the_moment", || {
        let place = Place::new();
        let (unix, name) = (place.transport(), fresh_name());
        let over = AtomicBool::new(false);
        thread::scope(|threads| {
            threads.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    drop(unix.create(&name, &UnixConfig::new()).unwrap());
                    unix.remove(&name).unwrap();
                    fs::write(place.0.join(format!("unix:{name}")), "damaged").unwrap();
                    unix.remove(&name).unwrap();
                }
            });
            let _end = End(&over);
            for _ in 0..300 {
                in_child(|| assert_eq!(locks(), [""; 0]));
            }
        });
    });
}

/// Those that go with a descriptor of this process.
fn locks() -> Vec<String> {
    let about = fs::read_dir("/proc/self/fdinfo").unwrap().flatten();
    let about = about.filter_map(|entry| fs::read_to_string(entry.path()).ok()).collect::<String>();
    about.lines().filter(|line| line.starts_with("lock:")).map(str::to_owned).collect()
}

/// What this process has open, but for what tells of the system: the C library looks at it when a
/// thread has ended.
fn descriptors() -> Vec<PathBuf> {
    let entries = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let targets = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
    targets.filter(|target| !target.starts_with("/proc")).collect()
}

fn open_sockets() -> u8 {
    descriptors().iter().filter(|target| target.to_string_lossy().starts_with("socket:")).count() as u8
}

/// A child that waits for ever is ended after so long, in seconds.
const PATIENCE: u32 = 20;

/// In a child, which `body` keeps from nothing.
fn start_mortal(body: impl FnOnce()) -> Pid {
    start_child(|| {
        alarm::set(PATIENCE);
        body();
    })
}

#[test]
fn a_child_that_is_forked_while_a_thread_opens_the_first_endpoint_opens_its_own() {
    const TRIALS: u32 = 300;
    let test = "a_child_that_is_forked_while_a_thread_opens_the_first_endpoint_opens_its_own";
    alone(test, || {
        let place = Place::new();
        let channel = place.channel();
        let open = || drop(channel.sender().unwrap());
        // Each in a process that has had none yet.
        for trial in 0..TRIALS {
            in_child(|| {
                let together = Barrier::new(2);
                thread::scope(|scope| {
                    scope.spawn(|| {
                        together.wait();
                        open();
                    });
                    together.wait();
                    (0..trial % 30 * 20).for_each(|_| std::hint::spin_loop());
                    await_child(start_mortal(open));
                });
            });
        }
    });
}

/// Ends another thread's work, also where a panic passes.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_child_that_is_forked_while_a_thread_waits_for_a_cancellation_waits_for_its_own() {
    const TRIALS: u32 = 500;
    static STOP: Cancel = Cancel::new();
    let test = "a_child_that_is_forked_while_a_thread_waits_for_a_cancellation_waits_for_its_own";
    alone(test, || {
        let place = Place::new();
        let (channel, elsewhere) = (place.channel(), Place::new());
        let nobodys = elsewhere.channel();
        let is_over = AtomicBool::new(false);
        let mut parents = channel.receiver().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let wait = Wait::timeout(Duration::from_nanos(1)).or_cancel(&STOP);
                    assert!(matches!(parents.advance(wait), Err(RecvError::TimedOut)));
                }
            });
            let _over = Over(&is_over);
            for _ in 0..TRIALS {
                await_child(start_mortal(|| {
                    STOP.cancel();
                    let mut own = nobodys.sender().unwrap();
                    let answer = own.send_wait(b"x", Wait::Forever.or_cancel(&STOP));
                    assert!(matches!(answer, Err(SendError::Cancelled)), "{answer:?}");
                }));
            }
        });
    });
}
