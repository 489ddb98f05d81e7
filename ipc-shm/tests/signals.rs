//! Waits in a storm of signals, EINTR again and again: they last as long as they were told to,
//! whatever is waited for.

mod common;

use common::{
    Arena,
    kinds::{Ends, make},
};
use ipc_shm::{
    CallError, Client, Kind, RecvError, SendError, Sender, ShmConfig, ShmSender, Wait, Waiting, WhenFull,
};
use nix::{
    libc,
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
};
use rstest::rstest;
use std::{
    panic::{self, AssertUnwindSafe},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

extern "C" fn ignore(_: libc::c_int) {}

#[rstest]
fn a_storm_of_signals_neither_cuts_a_wait_short_nor_prolongs_it(
    #[values(Kind::Spsc, Kind::Mpmc, Kind::Broadcast, Kind::Latest, Kind::Rpc)] kind: Kind,
    #[values(Waiting::Spin, Waiting::Adaptive, Waiting::Block)] waiting: Waiting,
) {
    let arena = Arena::new();
    let config = ShmConfig::new().kind(kind);
    let config = match kind {
        Kind::Latest => config,
        Kind::Rpc => config.depth(1),
        // Where it is full, senders wait.
        _ => config.capacity_bytes(4096).when_full(WhenFull::Wait),
    };
    make(arena.path(), &config).unwrap();
    let mut ends = Ends::open(arena.path()).unwrap();
    ends.set_waiting(waiting);
    let action = SigAction::new(SigHandler::Handler(ignore), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing, and nobody else here uses the signal.
    unsafe { sigaction(Signal::SIGUSR1, &action) }.unwrap();
    // SAFETY: asks for our own id.
    let waiter = unsafe { libc::pthread_self() };
    let (over, signals) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                // SAFETY: the waiting thread outlives the scope.
                unsafe { libc::pthread_kill(waiter, libc::SIGUSR1) };
                signals.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_micros(200));
            }
        });
        // Said when all is over, so that the storm has an end also if it wasn't as it should be.
        let answers = panic::catch_unwind(AssertUnwindSafe(|| waits_of(&mut ends, &signals)));
        over.store(true, Ordering::Relaxed);
        for (what, is_timed_out, taken) in answers.unwrap() {
            assert!(is_timed_out, "{what}");
            assert!(taken >= TIMEOUT && taken < TIMEOUT + Duration::from_secs(1), "{what}: {taken:?}");
        }
    });
}

const TIMEOUT: Duration = Duration::from_millis(300);

/// So many signals make a storm.
const STORM: u64 = 100;

/// All that can be waited for in vain: whether it timed out, and when. Each again until its waits
/// have had a whole storm, however seldom a busy machine lets the one who makes it run.
fn waits_of(ends: &mut Ends, signals: &AtomicU64) -> Vec<(&'static str, bool, Duration)> {
    let mut answers = Vec::new();
    let mut note = |what, wait: &mut dyn FnMut(Wait<'_>) -> bool| {
        let before = signals.load(Ordering::Relaxed);
        let has_ended = (0..100).any(|_| {
            let started = Instant::now();
            let is_timed_out = wait(Wait::timeout(TIMEOUT));
            answers.push((what, is_timed_out, started.elapsed()));
            signals.load(Ordering::Relaxed) - before >= STORM
        });
        assert!(has_ended, "{what}: no storm in 100 waits");
    };
    note("something to receive", &mut |wait| matches!(ends.await_nothing(wait), RecvError::TimedOut));
    match ends {
        Ends::Queue(ShmSender::Latest(_), _) => {}
        Ends::Queue(tx, _) => {
            while tx.try_send(&[0; 64]).is_ok() {}
            note("room", &mut |wait| matches!(tx.send_wait(&[0; 64], wait), Err(SendError::TimedOut)));
        }
        Ends::Service(client, _) => {
            let answered = |answer| matches!(answer, Err(CallError::TimedOut));
            note("an answer", &mut |wait| answered(client.call(b"", wait).map(drop)));
            let ticket = client.submit(b"", Wait::Never).unwrap();
            note("room", &mut |wait| answered(client.submit(b"", wait).map(drop)));
            client.abandon(ticket);
        }
    }
    answers
}
