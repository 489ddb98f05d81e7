//! What `fork(2)` must not break: [`ipc_core::fork`], of which this makes sure that it runs.
//!
//! An open file description that holds a lock is opened, locked, mapped with `MADV_DONTFORK` and
//! closed within a [`Window`]; what a child inherits afterwards is neither descriptor nor
//! mapping. What can't do without its descriptor (a socket, whose hang-up says that we are gone)
//! keeps it [`Private`]. No thread that forks waits while something is closed that a peer has a say
//! in: that happens outside, and what a child that is made meanwhile has of it keeps nobody waiting.

pub(crate) use ipc_core::fork::{assert_no_window, generation};

use ipc_core::fork;
use nix::libc;
use std::os::fd::{AsRawFd, OwnedFd};

/// While it lives, no other thread forks: [`ipc_core::fork::Window`].
#[must_use]
pub(crate) struct Window(fork::Window);

impl Window {
    /// Opens one, when no thread forks or waits to.
    pub(crate) fn open() -> Self {
        see_to_forks();
        Self(fork::Window::open())
    }

    /// Closes it while something is done that may take long.
    pub(crate) fn pause<T>(&mut self, meanwhile: impl FnOnce() -> T) -> T {
        self.0.pause(meanwhile)
    }

    /// Keeps a descriptor that was made within this window from forked children.
    pub(crate) fn keep(&self, descriptor: OwnedFd) -> Private {
        let number = descriptor.as_raw_fd();
        fork::Private::new(descriptor, number, &self.0)
    }
}

/// A descriptor that no forked child has.
pub(crate) type Private = fork::Private<OwnedFd>;

/// Has forks noticed from now on.
fn see_to_forks() {
    fork::notice(|| {
        // SAFETY: the handlers are functions of this program, made to run there and more than once.
        let failed = unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) };
        assert_eq!(failed, 0, "pthread_atfork: out of memory");
    });
}

extern "C" fn before() {
    fork::before();
}

extern "C" fn in_parent() {
    fork::in_parent();
}

extern "C" fn in_child() {
    fork::in_child(|number| {
        // SAFETY: the copy of a descriptor that its owner, of another generation, won't use.
        unsafe { libc::close(number) };
    });
}

#[cfg(test)]
mod tests {
    use super::{Window, generation};
    use crate::{Channel, ChannelName, Receiver, RecvError, ShmConfig, Spsc, Transport};
    use nix::libc;
    use std::{
        env, fs, process,
        sync::{
            Barrier, Mutex,
            atomic::{AtomicBool, AtomicU32, Ordering},
            mpsc,
        },
        thread,
        time::Duration,
    };

    const PATIENCE: Duration = Duration::from_secs(20);
    /// Who forks waits for open windows, and new ones for who forks.
    static ONE_BY_ONE: Mutex<()> = Mutex::new(());

    /// Comes and goes, and waits for long enough to look whether its peer is dead.
    fn use_a_channel() {
        let directory = env::temp_dir().join(format!("ipc-shm-window-{}", process::id()));
        fs::create_dir(&directory).unwrap();
        let (shm, name) = (Spsc::at(&directory), ChannelName::new("x").unwrap());
        let channel = shm.create(&name, &ShmConfig::new()).unwrap();
        let (sender, mut receiver) = (channel.sender().unwrap(), channel.receiver().unwrap());
        let answer = receiver.recv_timeout(Duration::from_millis(300)).map(drop);
        assert!(matches!(answer, Err(RecvError::TimedOut)), "{answer:?}");
        drop((sender, receiver, channel));
        shm.remove(&name).unwrap();
        fs::remove_dir(&directory).unwrap();
    }

    #[test]
    fn a_window_keeps_no_other_thread_from_what_it_does() {
        let _alone = ONE_BY_ONE.lock();
        thread::scope(|scope| {
            let (opened, is_open) = mpsc::channel();
            let (close, told) = mpsc::channel::<()>();
            scope.spawn(move || {
                let _window = Window::open();
                opened.send(()).unwrap();
                let _ = told.recv();
            });
            is_open.recv().unwrap();
            let (done, is_done) = mpsc::channel();
            scope.spawn(move || {
                use_a_channel();
                done.send(()).unwrap();
            });
            let answer = is_done.recv_timeout(PATIENCE);
            drop(close);
            answer.expect("it is kept waiting by another thread's window");
        });
    }

    #[test]
    fn a_fork_gets_its_turn_among_windows_and_falls_into_none() {
        const WINDOWS: u32 = 2000;
        const FORKS: usize = 20;
        static OPEN: AtomicU32 = AtomicU32::new(0);
        let _alone = ONE_BY_ONE.lock();
        // The first one sees to it that forks are noticed.
        drop(Window::open());
        let together = Barrier::new(3);
        let is_over = AtomicBool::new(false);
        let mut seen = Vec::new();
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    together.wait();
                    while !is_over.load(Ordering::Relaxed) {
                        let _window = Window::open();
                        OPEN.fetch_add(1, Ordering::SeqCst);
                        thread::yield_now();
                        OPEN.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
            together.wait();
            for _ in 0..FORKS {
                let before = generation();
                // SAFETY: the child makes no call but to end itself, and touches its own numbers.
                let child = unsafe { libc::fork() };
                if child == 0 {
                    let is_well = OPEN.load(Ordering::SeqCst) == 0 && generation() == before + 1;
                    // Nobody else's windows keep it from its own.
                    (0..WINDOWS).for_each(|_| drop(Window::open()));
                    // SAFETY: ends the child.
                    unsafe { libc::_exit(i32::from(!is_well)) };
                }
                let mut status = 0;
                // SAFETY: our own child, if there is one, and a place for its status.
                let ended = if child > 0 { unsafe { libc::waitpid(child, &raw mut status, 0) } } else { 0 };
                seen.push((child > 0 && ended == child, status, generation() - before));
            }
            is_over.store(true, Ordering::Relaxed);
        });
        assert_eq!(seen, [(true, 0, 0); FORKS], "a window was open, or the child's own don't open");
    }
}
