//! System V queues: names, types, waits that end, other programs, and what goes wrong.
#![cfg(target_os = "linux")]

mod common;

use common::{
    OrdinaryUser, alone, await_child, fresh_name, in_child, skip, start_child, wait_until_process_sleeps_in,
};
use ipc_mq::{
    Batch, BatchReceiver, ByPriority, Cancel, Channel, ChannelError, ChannelName, Peek, PeekError,
    PrioritySender, Receiver, RecvError, Selection, SelectiveReceiver, SendError, Sender, Sysv, SysvChannel,
    SysvConfig, Transport, TypeSender, Wait,
};
use nix::{
    errno::Errno,
    libc,
    sys::{
        pthread::{pthread_kill, pthread_self},
        signal::Signal,
    },
    unistd::geteuid,
};
use std::{
    fs, ptr, thread,
    time::{Duration, Instant},
};

const MAX_LEN: usize = 128;
const BRIEF: Duration = Duration::from_millis(40);
/// Longer than any machine is late.
const LONG: Duration = Duration::from_secs(10);

/// A queue that goes with its test.
struct Queue {
    name: ChannelName,
    channel: SysvChannel<ipc_mq::ByAge>,
}

impl Queue {
    fn new() -> Self {
        Self::with(&SysvConfig::new().depth(4).max_message_len(MAX_LEN))
    }

    fn with(config: &SysvConfig) -> Self {
        let name = fresh_name();
        Self { channel: Sysv::new().create(&name, config).unwrap(), name }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let _ = Sysv::new().remove(&self.name);
    }
}

/// `msgsnd` as any program may call it.
fn send_as_others(queue: i32, message_type: libc::c_long, bytes: &[u8]) {
    let typed = [&message_type.to_ne_bytes()[..], bytes].concat();
    // SAFETY: the type, and as many bytes as it says behind it.
    let answer = unsafe { libc::msgsnd(queue, typed.as_ptr().cast(), bytes.len(), 0) };
    Errno::result(answer).unwrap();
}

#[test]
fn who_waits_in_a_queue_that_is_removed_is_told() {
    for with_deadline in [false, true] {
        let queue = Queue::new();
        let wait = if with_deadline { Wait::timeout(Duration::from_secs(60)) } else { Wait::Forever };
        let receiver = start_child(|| {
            let error = queue.channel.receiver().unwrap().advance(wait).unwrap_err();
            assert!(matches!(error, RecvError::Closed), "{error:?}");
        });
        wait_until_process_sleeps_in(receiver, &[libc::SYS_msgrcv]);
        let mut tx = queue.channel.sender().unwrap();
        Sysv::new().remove(&queue.name).unwrap();
        await_child(receiver);
        assert!(matches!(tx.send(b"x"), Err(SendError::Closed)));
        assert!(matches!(Sysv::new().open(&queue.name), Err(ChannelError::NotFound)));
    }
}

#[test]
fn who_waits_for_room_in_a_queue_that_is_removed_is_told() {
    for with_deadline in [false, true] {
        let queue = Queue::new();
        let wait = if with_deadline { Wait::timeout(Duration::from_secs(60)) } else { Wait::Forever };
        let mut tx = queue.channel.sender().unwrap();
        while tx.try_send(&[1; MAX_LEN]).is_ok() {}
        let sender = start_child(|| {
            let error = tx.send_wait(&[2; MAX_LEN], wait).unwrap_err();
            assert!(matches!(error, SendError::Closed), "{error:?}");
        });
        wait_until_process_sleeps_in(sender, &[libc::SYS_msgsnd]);
        Sysv::new().remove(&queue.name).unwrap();
        await_child(sender);
    }
}

#[test]
fn a_wait_ends_on_time_under_a_storm_of_signals_and_loses_nothing() {
    extern "C" fn ignore(_: libc::c_int) {}
    // SAFETY: the handler does nothing.
    unsafe { nix::sys::signal::signal(Signal::SIGUSR1, nix::sys::signal::SigHandler::Handler(ignore)) }
        .unwrap();
    let queue = Queue::new();
    let (mut tx, mut rx) = (queue.channel.sender().unwrap(), queue.channel.receiver().unwrap());
    let victim = pthread_self();
    let over = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|threads| {
        threads.spawn(|| {
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                pthread_kill(victim, Signal::SIGUSR1).unwrap();
                thread::sleep(Duration::from_micros(200));
            }
        });
        for _ in 0..3 {
            let start = Instant::now();
            assert!(matches!(rx.advance(Wait::timeout(BRIEF)), Err(RecvError::TimedOut)));
            assert!((BRIEF..LONG).contains(&start.elapsed()), "{:?}", start.elapsed());
        }
        while tx.try_send(&[1; MAX_LEN]).is_ok() {}
        let start = Instant::now();
        assert!(matches!(tx.send_timeout(&[2; MAX_LEN], BRIEF), Err(SendError::TimedOut)));
        assert!((BRIEF..LONG).contains(&start.elapsed()), "{:?}", start.elapsed());
        over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    for _ in 0..4 {
        assert_eq!(&*rx.try_recv().unwrap(), &[1; MAX_LEN]);
    }
    assert!(rx.try_recv().is_err());
}

/// Deadlines so short that they fall between any two instructions of the wait: the message is
/// received by this call or by the next one, once.
#[test]
fn a_message_that_comes_at_the_deadline_is_not_lost() {
    let queue = Queue::new();
    let mut tx = queue.channel.sender().unwrap();
    let mut rx = queue.channel.receiver().unwrap();
    const COUNT: u32 = 3000;
    thread::scope(|threads| {
        threads.spawn(move || {
            for number in 0..COUNT {
                while tx
                    .send_timeout(&number.to_ne_bytes(), Duration::from_micros(u64::from(number) % 97))
                    .is_err()
                {}
            }
        });
        let mut next = 0_u32;
        while next < COUNT {
            let wait = Wait::timeout(Duration::from_micros(u64::from(next) % 89));
            match rx.receive(wait) {
                Ok(message) => {
                    assert_eq!(*message, next.to_ne_bytes());
                    next += 1;
                }
                Err(RecvError::TimedOut) => {}
                Err(error) => panic!("{error}"),
            }
        }
    });
}

#[test]
fn a_wait_on_a_thread_that_blocks_all_signals_ends_too() {
    let queue = Queue::new();
    thread::scope(|threads| {
        threads.spawn(|| {
            let all = nix::sys::signal::SigSet::all();
            all.thread_block().unwrap();
            let mut rx = queue.channel.receiver().unwrap();
            assert!(matches!(rx.advance(Wait::timeout(BRIEF)), Err(RecvError::TimedOut)));
            let cancel = Cancel::new();
            thread::scope(|threads| {
                threads.spawn(|| {
                    thread::sleep(BRIEF);
                    cancel.cancel();
                });
                assert!(matches!(rx.advance(Wait::Forever.or_cancel(&cancel)), Err(RecvError::Cancelled)));
            });
            let mask = nix::sys::signal::SigSet::thread_get_mask().unwrap();
            // SAFETY: asks a set.
            let blocked = unsafe { libc::sigismember(mask.as_ref(), Sysv::signal()) };
            assert_eq!(blocked, 1, "the mask is as it was");
        });
    });
}

/// The timer's signal is for the thread that waits, so those who take signals otherwise get none.
#[test]
fn a_wait_ends_where_others_wait_for_the_signal() {
    use nix::sys::signal::SigSet;
    alone("a_wait_ends_where_others_wait_for_the_signal", || {
        let queue = Queue::new();
        SigSet::all().thread_block().unwrap();
        let signal = Sysv::signal();
        // SAFETY: a set of the kernel's is integers.
        let mut theirs: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: the set is a local.
        assert_eq!(unsafe { libc::sigaddset(&mut theirs, signal) }, 0);
        // SAFETY: makes a descriptor, of a set that is a local.
        let signalfd = unsafe { libc::signalfd(-1, &theirs, libc::SFD_CLOEXEC) };
        assert!(signalfd >= 0);
        let taken = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
        for by_descriptor in [false, true] {
            let taken = std::sync::Arc::clone(&taken);
            // Inherits the mask; ends with the process.
            thread::spawn(move || {
                let (mut found, mut bytes) = (0, [0_u8; 128]);
                loop {
                    if by_descriptor {
                        // SAFETY: writes to a local of this length.
                        unsafe { libc::read(signalfd, bytes.as_mut_ptr().cast(), bytes.len()) };
                    } else {
                        // SAFETY: reads and writes locals.
                        unsafe { libc::sigwait(&theirs, &mut found) };
                    }
                    taken.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                }
            });
        }
        let (mut tx, mut rx) = (queue.channel.sender().unwrap(), queue.channel.receiver().unwrap());
        for _ in 0..20 {
            let timeout = Duration::from_millis(3);
            assert!(matches!(rx.advance(Wait::timeout(timeout)), Err(RecvError::TimedOut)));
            tx.send(b"still whole").unwrap();
            assert_eq!(&*rx.recv_timeout(Duration::from_secs(60)).unwrap(), b"still whole");
        }
        assert_eq!(taken.load(std::sync::atomic::Ordering::Relaxed), 0, "it was taken from the wait");
    });
}

#[test]
fn a_program_with_other_uses_for_the_signal_is_told() {
    alone("a_program_with_other_uses_for_the_signal_is_told", || {
        extern "C" fn theirs(_: libc::c_int) {}
        let queue = Queue::new();
        let mut rx = queue.channel.receiver().unwrap();
        // SAFETY: the handler does nothing.
        unsafe { libc::signal(Sysv::signal(), theirs as *const () as libc::sighandler_t) };
        let error = rx.advance(Wait::timeout(BRIEF)).unwrap_err();
        assert!(error.to_string().contains("SIGRTMAX-3"), "{error}");
        assert!(matches!(rx.try_recv(), Err(RecvError::WouldBlock)), "without a deadline all is as ever");
    });
}

/// It may be meant for somebody who waits for it otherwise, so it doesn't vanish in silence.
#[test]
fn a_wait_that_takes_the_signal_of_somebody_else_says_so() {
    alone("a_wait_that_takes_the_signal_of_somebody_else_says_so", || {
        let queue = Queue::new();
        let (mut tx, mut rx) = (queue.channel.sender().unwrap(), queue.channel.receiver().unwrap());
        let (signal, us) = (Sysv::signal(), pthread_self());
        let patience = Duration::from_secs(60);
        let expect = |answer: Result<(), RecvError>| match answer {
            Err(RecvError::Os(error)) => assert!(error.to_string().contains("SIGRTMAX-3"), "{error}"),
            other => panic!("{other:?}"),
        };
        nix::sys::signal::SigSet::all().thread_block().unwrap();
        // Pending before, and then one that comes meanwhile; to the thread, and to the process.
        // SAFETY: integers only; the signal is blocked here.
        assert_eq!(unsafe { libc::raise(signal) }, 0);
        let start = Instant::now();
        expect(rx.advance(Wait::timeout(patience)));
        for to_process in [false, true] {
            assert!(matches!(rx.advance(Wait::timeout(BRIEF)), Err(RecvError::TimedOut)), "said once");
            let thread = nix::unistd::gettid();
            thread::scope(|threads| {
                threads.spawn(move || {
                    common::wait_until_asleep_in(thread, &[libc::SYS_msgrcv]);
                    let answer = if to_process {
                        // SAFETY: integers only.
                        unsafe { libc::kill(nix::unistd::getpid().as_raw(), signal) }
                    } else {
                        // SAFETY: the thread is there: it waits for this one.
                        unsafe { libc::pthread_kill(us, signal) }
                    };
                    assert_eq!(answer, 0);
                });
                if !to_process {
                    expect(rx.advance(Wait::timeout(patience)));
                } else {
                    // Whichever thread gets it, that is said before long.
                    let mut waits = (0..1000).map(|_| rx.advance(Wait::timeout(Duration::from_millis(20))));
                    expect(waits.find(|answer| !matches!(answer, Err(RecvError::TimedOut))).unwrap());
                }
            });
        }
        assert!(start.elapsed() < patience);
        tx.send(b"still whole").unwrap();
        assert_eq!(&*rx.recv_timeout(patience).unwrap(), b"still whole");
    });
}

#[test]
fn after_a_fork_both_wait_with_deadlines() {
    let queue = Queue::new();
    let mut rx = queue.channel.receiver().unwrap();
    assert!(rx.advance(Wait::timeout(Duration::from_millis(1))).is_err());
    in_child(|| assert!(matches!(rx.advance(Wait::timeout(BRIEF)), Err(RecvError::TimedOut))));
    assert!(matches!(rx.advance(Wait::timeout(BRIEF)), Err(RecvError::TimedOut)));
}

#[test]
fn messages_of_other_programs_are_received_whatever_their_length_and_type() {
    let queue = Queue::new();
    let mut rx = queue.channel.receiver().unwrap();
    // Longer than what our senders keep to.
    send_as_others(queue.channel.id(), libc::c_long::MAX, &[5; 4 * MAX_LEN]);
    let mut copy = Vec::new();
    match rx.peek(0, &mut copy) {
        Ok(found) => assert!(found && copy == [5; 4 * MAX_LEN]),
        Err(PeekError::Unsupported(_)) => skip("this kernel copies no messages"),
        Err(error) => panic!("{error}"),
    }
    let message = rx.try_recv().unwrap();
    assert_eq!((message.len(), message.message_type()), (4 * MAX_LEN, libc::c_long::MAX as u64));
    drop(message);
    // Types beyond those of priorities count as the lowest.
    let by_priority: SysvChannel<ByPriority> = Sysv::by_priority().open(&queue.name).unwrap();
    let mut tx = by_priority.sender().unwrap();
    send_as_others(queue.channel.id(), 1_000_000, b"foreign");
    tx.set_priority(1).unwrap();
    tx.send(b"ours").unwrap();
    let mut rx = by_priority.receiver().unwrap();
    assert_eq!(&*rx.try_recv().unwrap(), b"ours");
    assert_eq!(&*rx.try_recv().unwrap(), b"foreign");
}

#[test]
fn a_batch_has_an_end_though_more_is_there() {
    const MOST: usize = 1024;
    let queue = Queue::with(&SysvConfig::new().depth(2 * MOST).max_message_len(1));
    let (mut tx, mut rx) = (queue.channel.sender().unwrap(), queue.channel.receiver().unwrap());
    (0..MOST + 300).for_each(|_| tx.try_send(b"x").unwrap());
    assert_eq!(rx.advance_batch(usize::MAX, Wait::Never).unwrap(), MOST);
    rx.held_batch().release(MOST - 1);
    assert_eq!(rx.advance_batch(usize::MAX, Wait::Never).unwrap(), 1 + 300);
}

#[test]
fn a_queue_that_another_program_made_gets_a_name() {
    let key = 0x7a11_0000 | (std::process::id() & 0xffff);
    // SAFETY: integers only.
    let id =
        Errno::result(unsafe { libc::msgget(key as libc::key_t, libc::IPC_CREAT | libc::IPC_EXCL | 0o600) })
            .unwrap();
    let name = fresh_name();
    let channel = Sysv::new().adopt(&name, key).unwrap();
    let queue = Queue { name, channel };
    assert_eq!((queue.channel.id(), queue.channel.key()), (id, key));
    assert!(matches!(Sysv::new().adopt(&queue.name, key), Err(ChannelError::AlreadyExists)));
    assert!(matches!(Sysv::new().adopt(&fresh_name(), key ^ 1), Err(ChannelError::NotFound)));
    send_as_others(id, 7, b"from outside");
    let mut rx = queue.channel.receiver().unwrap();
    rx.select(Selection::Only(7)).unwrap();
    assert_eq!(&*rx.try_recv().unwrap(), b"from outside");
}

#[test]
fn a_name_whose_queue_is_gone_is_free() {
    let queue = Queue::new();
    let path = Sysv::new().stat(&queue.name).unwrap().path.unwrap();
    // As `ipcrm` does it.
    Sysv::new().remove_queue(queue.channel.id()).unwrap();
    assert!(matches!(Sysv::new().open(&queue.name), Err(ChannelError::NotFound)));
    assert!(!Sysv::new().list().unwrap().contains(&queue.name));
    assert!(path.is_symlink(), "nobody has cleaned up yet");
    let again = Sysv::new().create(&queue.name, &SysvConfig::new()).unwrap();
    assert_ne!(again.key(), queue.channel.key());
}

#[test]
fn somebody_elses_queue_under_a_key_of_ours_is_not_taken_for_ours() {
    if !geteuid().is_root() {
        return skip("it takes root to be somebody else");
    }
    alone("somebody_elses_queue_under_a_key_of_ours_is_not_taken_for_ours", || {
        let queue = Queue::new();
        Sysv::new().remove_queue(queue.channel.id()).unwrap();
        let other = OrdinaryUser::new();
        let flags = libc::IPC_CREAT | libc::IPC_EXCL | 0o666;
        // SAFETY: integers only.
        let id = Errno::result(unsafe { libc::msgget(queue.channel.key() as libc::key_t, flags) }).unwrap();
        drop(other);
        assert!(matches!(Sysv::new().open(&queue.name), Err(ChannelError::NotFound)));
        // SAFETY: this command takes no argument.
        unsafe { libc::msgctl(id, libc::IPC_RMID, ptr::null_mut()) };
    });
}

#[test]
fn a_strangers_queue_is_neither_used_nor_removed() {
    if !geteuid().is_root() {
        return skip("it takes root to be somebody else");
    }
    alone("a_strangers_queue_is_neither_used_nor_removed", || {
        let queue = Queue::new();
        let (mut tx, mut rx) = (queue.channel.sender().unwrap(), queue.channel.receiver().unwrap());
        let other = OrdinaryUser::new();
        for error in [tx.try_send(b"x").unwrap_err().to_string(), rx.try_recv().unwrap_err().to_string()] {
            assert!(error.contains("Permission denied"), "{error}");
        }
        let refused = Sysv::new().remove_queue(queue.channel.id());
        assert!(matches!(refused, Err(ChannelError::NotPermitted(_))), "{refused:?}");
        drop(other);
    });
}

#[test]
fn each_limit_exceeded_by_one_is_named_with_its_value() {
    let limit = |name| -> usize {
        fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap().trim().parse().unwrap()
    };
    let text_of = |config: &SysvConfig| match Sysv::new().create(&fresh_name(), config) {
        Err(ChannelError::Limit(text)) => text,
        other => panic!("{other:?}"),
    };
    let msgmax = limit("msgmax");
    let text = text_of(&SysvConfig::new().max_message_len(msgmax + 1));
    assert!(
        text.contains(&format!("kernel.msgmax, which is {msgmax}")) && text.contains("ipc doctor"),
        "{text}"
    );
    let queue = Queue::with(&SysvConfig::new().max_message_len(msgmax.min(limit("msgmnb"))));
    let mut tx = queue.channel.sender().unwrap();
    let max = tx.max_message_len();
    tx.try_send(&vec![0; max]).unwrap();
    assert!(matches!(tx.try_send(&vec![0; max + 1]), Err(SendError::TooLong { .. })));
    assert!(tx.set_message_type(0).is_err());
    drop(queue);
    alone("each_limit_exceeded_by_one_is_named_with_its_value", || {
        let place = std::env::temp_dir().join(fresh_name().as_str());
        // SAFETY: this process has one test and nobody else who reads its environment.
        unsafe { std::env::set_var("IPC_DIR", &place) };
        fs::create_dir(&place).unwrap();
        nix::unistd::chown(
            &place,
            Some(nix::unistd::Uid::from_raw(if geteuid().is_root() {
                common::NOBODY
            } else {
                geteuid().as_raw()
            })),
            None,
        )
        .unwrap();
        let other = OrdinaryUser::new();
        let msgmnb = limit("msgmnb");
        let text = text_of(&SysvConfig::new().depth(msgmnb + 1).max_message_len(1));
        assert!(
            text.contains(&format!("kernel.msgmnb, which is {msgmnb}")) && text.contains("ipc doctor"),
            "{text}"
        );
        assert!(Sysv::new().list().unwrap().is_empty(), "nothing is left of it");
        drop(other);
        fs::remove_dir_all(place).unwrap();
    });
}
