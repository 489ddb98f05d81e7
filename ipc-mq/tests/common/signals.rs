//! A storm of signals. They belong to the process, so such a test runs alone.

use nix::{
    libc,
    sys::{
        pthread::{pthread_kill, pthread_self},
        signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
    },
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

static SIGNALS: AtomicUsize = AtomicUsize::new(0);

/// Runs `body` in a thread that gets a signal, whose handler restarts nothing, again and
/// again. Returns how many there were.
pub(crate) fn under_signals(body: impl FnOnce() + Send + 'static) -> usize {
    extern "C" fn count(_: libc::c_int) {
        SIGNALS.fetch_add(1, Ordering::Relaxed);
    }
    let action = SigAction::new(SigHandler::Handler(count), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing but a relaxed addition.
    unsafe { sigaction(Signal::SIGUSR1, &action) }.unwrap();

    let done = Arc::new(AtomicBool::new(false));
    let (send_thread, thread) = mpsc::channel();
    let (leave, may_leave) = mpsc::channel::<()>();
    let victim = thread::spawn({
        let done = Arc::clone(&done);
        move || {
            send_thread.send(pthread_self()).unwrap();
            body();
            done.store(true, Ordering::Release);
            // A thread that is gone must not be sent a signal.
            let _ = may_leave.recv();
        }
    });
    let target = thread.recv().unwrap();
    while !done.load(Ordering::Acquire) && !victim.is_finished() {
        pthread_kill(target, Signal::SIGUSR1).unwrap();
        // The pace of the storm: the victim has to get to sleep in between.
        thread::sleep(Duration::from_micros(200));
    }
    drop(leave);
    victim.join().unwrap();
    SIGNALS.load(Ordering::Relaxed)
}

/// Waits until so many more signals were handled.
pub(crate) fn wait_for_signals(count: usize) {
    let enough = SIGNALS.load(Ordering::Relaxed) + count;
    while SIGNALS.load(Ordering::Relaxed) < enough {
        thread::yield_now();
    }
}
