//! Closing what a peer gave, `close(2)`.
//!
//! To close a file is to ask its file system, which may be a peer's own program that never
//! answers; a socket may wait for as long as its peer has set (`SO_LINGER`, `socket(7)`). That is
//! no wait of ours, but of threads that do nothing else. Whoever of them goes to close something
//! leaves another one behind for what comes next, so that one descriptor doesn't hold up the
//! others, for whose end honest peers may be waiting.

use crate::fork;
use std::{
    collections::VecDeque,
    mem,
    os::fd::OwnedFd,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

/// How many threads there may be: a peer may make each of them wait for ever.
const MOST_THREADS: usize = 32;

/// What a thread needs that only closes, in bytes.
const STACK_LEN_BYTES: usize = 64 << 10;

/// How long a thread waits for another descriptor before it ends.
const IDLE: Duration = Duration::from_millis(10);

/// What is to be closed, and who does it.
#[derive(Debug)]
struct Closers {
    unclosed: VecDeque<OwnedFd>,
    threads: usize,
    /// Of the threads, those that will take the next descriptor, or are about to end: all that
    /// aren't closing one.
    free: usize,
}

impl Closers {
    const fn none() -> Self {
        Self { unclosed: VecDeque::new(), threads: 0, free: 0 }
    }
}

/// Those of one process. A forked child has those of its parent, without the threads, and it may
/// be for ever that one of them has it locked; so it doesn't touch them.
#[derive(Debug)]
struct Pool {
    /// Whose it is: by its [`generation`](fork::generation), which no ancestor has, other than a
    /// pid; from 1, as 0 is nobody.
    process: AtomicU32,
    closers: Mutex<Closers>,
    /// Told after each descriptor that was handed over.
    handed_over: Condvar,
}

/// Room for those of a few ancestors that can't be had, each by a fork at the wrong moment.
static POOLS: [Pool; 8] = [const { Pool::nobodys() }; 8];

impl Pool {
    const fn nobodys() -> Self {
        let closers = Mutex::new(Closers::none());
        Self { process: AtomicU32::new(0), closers, handed_over: Condvar::new() }
    }

    /// This process's.
    fn ours() -> Option<&'static Self> {
        let process = fork::generation().wrapping_add(1);
        // Acquire: pairs with the Release in `take_over`.
        let is_ours = |pool: &&Self| pool.process.load(Ordering::Acquire) == process;
        POOLS.iter().find(is_ours).or_else(|| POOLS.iter().find(|pool| pool.take_over(process)))
    }

    /// Makes it this process's, if nobody has it locked.
    fn take_over(&self, process: u32) -> bool {
        let Ok(mut closers) = self.closers.try_lock() else { return false };
        // Unless another thread has just done so.
        if self.process.load(Ordering::Relaxed) != process {
            // This process may have closed what its parent had there, by its number, and made
            // something else of it.
            mem::forget(mem::replace(&mut *closers, Closers::none()));
            // Release: pairs with the Acquire in `ours`.
            self.process.store(process, Ordering::Release);
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, Closers> {
        self.closers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sees to it that somebody takes what is there, unless there are too many threads already,
    /// or the system has no more; then whoever is free next takes it.
    fn have_one_free(&'static self, closers: &mut Closers) {
        if closers.unclosed.is_empty() || closers.free > 0 || closers.threads >= MOST_THREADS {
            return;
        }
        let thread = thread::Builder::new().name("ipc-closer".into()).stack_size(STACK_LEN_BYTES);
        if thread.spawn(|| self.close_all()).is_ok() {
            closers.threads += 1;
            closers.free += 1;
        }
    }

    /// What each thread does, which was counted as a free one.
    fn close_all(&'static self) {
        let mut closers = self.lock();
        loop {
            if let Some(descriptor) = closers.unclosed.pop_front() {
                closers.free -= 1;
                self.have_one_free(&mut closers);
                drop(closers);
                drop(descriptor);
                closers = self.lock();
                closers.free += 1;
                continue;
            }
            let waited = self.handed_over.wait_timeout(closers, IDLE);
            let (locked, waited) = waited.unwrap_or_else(PoisonError::into_inner);
            closers = locked;
            if waited.timed_out() && closers.unclosed.is_empty() {
                closers.free -= 1;
                closers.threads -= 1;
                return;
            }
        }
    }
}

/// Closes, on a thread apart, a descriptor that a peer gave and that may stand for anything. One
/// that can't be closed holds up no other one, until 32 are that can't: then what comes later
/// stays open until one of them is closed.
pub fn close_apart(descriptor: OwnedFd) {
    let Some(pool) = Pool::ours() else { return mem::forget(descriptor) };
    let mut closers = pool.lock();
    closers.unclosed.push_back(descriptor);
    pool.have_one_free(&mut closers);
    drop(closers);
    pool.handed_over.notify_one();
}

#[cfg(test)]
mod tests {
    use super::close_apart;
    use nix::{
        libc,
        sys::{
            resource::{Resource, getrlimit, setrlimit},
            socket::{setsockopt, sockopt},
        },
    };
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
        os::{fd::OwnedFd, unix::net::UnixStream},
        sync::mpsc,
        thread,
        time::Duration,
    };

    /// More than there are threads that close.
    const TOO_MANY: usize = 40;

    fn pair() -> (UnixStream, UnixStream) {
        let (ours, other_end) = UnixStream::pair().unwrap();
        other_end.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        (ours, other_end)
    }

    /// A stream whose close waits for as long as its other end, which is kept, reads nothing.
    fn lingering() -> (OwnedFd, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        setsockopt(&listener, sockopt::RcvBuf, &4096).unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (never_reads, _) = listener.accept().unwrap();
        setsockopt(&stream, sockopt::SndBuf, &4096).unwrap();
        stream.set_nonblocking(true).unwrap();
        while (&stream).write(&[0; 4096]).is_ok() {}
        stream.set_nonblocking(false).unwrap();
        setsockopt(&stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 3600 }).unwrap();
        (stream.into(), never_reads)
    }

    #[test]
    fn what_is_closed_apart_is_closed() {
        for _ in 0..100 {
            let (ours, mut other_end) = pair();
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
                    let (ours, mut other_end) = pair();
                    close_apart(ours.into());
                    done.send(other_end.read(&mut [0]).unwrap()).unwrap();
                }
            });
        }
        drop(done);
        assert_eq!(all_done.iter().collect::<Vec<_>>(), [0; 8 * 50]);
    }

    #[test]
    fn what_can_not_be_closed_holds_up_nothing_else() {
        for _ in 0..4 {
            let (stuck, _never_reads) = lingering();
            let (before, mut before_it) = pair();
            let (behind, mut behind_it) = pair();
            [before.into(), stuck, behind.into()].into_iter().for_each(close_apart);
            assert_eq!(before_it.read(&mut [0]).unwrap(), 0);
            assert_eq!(behind_it.read(&mut [0]).unwrap(), 0);
        }
    }

    #[test]
    fn what_was_held_up_is_closed_when_that_is_over() {
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
        let (stuck, never_read): (Vec<_>, Vec<_>) = (0..TOO_MANY).map(|_| lingering()).unzip();
        stuck.into_iter().for_each(close_apart);
        let (ours, mut other_end) = pair();
        for _ in 0..1100 {
            close_apart(ours.try_clone().unwrap().into());
        }
        close_apart(ours.into());
        drop(never_read);
        assert_eq!(other_end.read(&mut [0]).unwrap(), 0);
    }
}
