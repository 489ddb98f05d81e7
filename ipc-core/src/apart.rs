//! Closing what a peer gave, `close(2)`.
//!
//! To close a file is to ask its file system, which may be a peer's own program that never
//! answers; a socket may wait for as long as its peer has set (`SO_LINGER`, `socket(7)`). That is
//! no wait of ours, but of a thread that does nothing else.

use std::{
    mem,
    os::fd::OwnedFd,
    process,
    sync::{
        Mutex, MutexGuard, TryLockError,
        atomic::{AtomicU32, Ordering},
        mpsc::{self, SyncSender, TrySendError},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// How many descriptors may wait for being closed.
const MOST_UNCLOSED: usize = 1024;

/// How long the thread waits for another one before it ends.
const IDLE: Duration = Duration::from_millis(10);

/// The thread that closes, as the process knows it that started it.
struct Closer {
    pid: u32,
    hand_over: SyncSender<OwnedFd>,
    thread: JoinHandle<()>,
}

impl Closer {
    fn start() -> Option<Self> {
        let (hand_over, handed_over) = mpsc::sync_channel::<OwnedFd>(MOST_UNCLOSED);
        let close_all = move || while handed_over.recv_timeout(IDLE).map(drop).is_ok() {};
        let started = thread::Builder::new().name("ipc-closer".into()).spawn(close_all);
        started.ok().map(|thread| Self { pid: process::id(), hand_over, thread })
    }
}

/// This process's, locked; none in a forked child that has it locked for ever, by a thread that
/// isn't there.
fn closer() -> Option<MutexGuard<'static, Option<Closer>>> {
    static CLOSER: Mutex<Option<Closer>> = Mutex::new(None);
    /// The process that locked it last.
    static LOCKED_BY: AtomicU32 = AtomicU32::new(0);
    /// Until whoever has just locked it has written that down.
    const TRIES: u32 = 1000;
    let mut tries = 0;
    loop {
        match CLOSER.try_lock() {
            Ok(closer) => {
                LOCKED_BY.store(process::id(), Ordering::Relaxed);
                return Some(closer);
            }
            Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => {}
        }
        if LOCKED_BY.load(Ordering::Relaxed) != process::id() {
            tries += 1;
            if tries > TRIES {
                return None;
            }
        }
        thread::yield_now();
    }
}

/// Closes, on a thread apart, a descriptor that a peer gave and that may stand for anything. What
/// the thread can't take, since it is held up with 1,024 others, stays open: there is nobody who
/// could wait for it.
pub fn close_apart(descriptor: OwnedFd) {
    let Some(mut closer) = closer() else { return mem::forget(descriptor) };
    // A forked child has the parent's, and no such thread.
    if closer.as_ref().is_some_and(|closer| closer.pid != process::id()) {
        mem::forget(closer.take());
    }
    let mut unclosed = descriptor;
    // Again if it has just ended.
    for _ in 0..2 {
        let running = closer.take().filter(|closer| !closer.thread.is_finished());
        *closer = running.or_else(Closer::start);
        let Some(Closer { hand_over, .. }) = &*closer else { break };
        unclosed = match hand_over.try_send(unclosed) {
            Ok(()) => return,
            Err(TrySendError::Full(descriptor)) => {
                unclosed = descriptor;
                break;
            }
            Err(TrySendError::Disconnected(descriptor)) => descriptor,
        };
        *closer = None;
    }
    mem::forget(unclosed);
}

#[cfg(test)]
mod tests {
    use super::close_apart;
    use std::{io::Read, os::unix::net::UnixStream, sync::mpsc, thread, time::Duration};

    #[test]
    fn what_is_closed_apart_is_closed() {
        for _ in 0..100 {
            let (ours, mut other_end) = UnixStream::pair().unwrap();
            other_end.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            close_apart(ours.into());
            assert_eq!(other_end.read(&mut [0]).unwrap(), 0);
        }
    }

    #[test]
    fn what_threads_close_at_once_is_closed_and_nobody_held_up() {
        let (done, all_done) = mpsc::channel();
        for _ in 0..8 {
            let done = done.clone();
            thread::spawn(move || {
                for _ in 0..50 {
                    let (ours, mut other_end) = UnixStream::pair().unwrap();
                    other_end.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                    close_apart(ours.into());
                    done.send(other_end.read(&mut [0]).unwrap()).unwrap();
                }
            });
        }
        drop(done);
        assert_eq!(all_done.iter().collect::<Vec<_>>(), [0; 8 * 50]);
    }
}
