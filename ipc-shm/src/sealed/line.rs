//! An end's connection to the other one: the socket, which hangs up when the peer is gone,
//! and the words by which they wake each other.

use super::{
    greeting::FAREWELL,
    post::{Post, SharedPost, Sleeper, Waker},
};
use crate::{
    observer::Outlook,
    sys::socket::{self, Socket, Standing},
    wait::{Awaited, DOUBTFUL_SLEEP, SLEEP, Waiting, overdue, stay_awake, time_left},
};
use ipc_core::{RecvError, SendError, Unready, Wait};
use std::{
    cell::Cell,
    time::{Duration, Instant},
};

/// How long a sleep may last that can be cancelled: nobody of this process can wake it.
const CANCELLABLE_SLEEP: Duration = Duration::from_millis(10);
/// How often an end that doesn't wait looks whether the peer is there.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How the peer went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gone {
    InGoodOrder,
    Died,
    /// It says what no correct peer says.
    Babbling,
}

/// An end's connection to the other one.
#[derive(Debug)]
pub struct Line {
    socket: Socket,
    post: SharedPost,
    waker: Waker,
    sleeper: Sleeper,
    pub(super) waiting: Waiting,
    looked: Cell<Instant>,
}

impl Line {
    pub(super) fn new(socket: Socket, post: SharedPost) -> Self {
        Self {
            socket,
            post,
            waker: Waker::default(),
            sleeper: Sleeper::default(),
            waiting: Waiting::default(),
            looked: Cell::new(Instant::now()),
        }
    }

    /// Whether this process is the one that made it, and not a fork of it.
    #[inline]
    pub(super) fn is_ours(&self) -> bool {
        self.socket.is_ours()
    }

    /// To be called after each change of the ring that the peer may wait for.
    #[inline]
    pub(super) fn wake(&self) {
        self.waker.wake(&self.post);
    }

    /// How the peer went, if it did.
    pub(super) fn gone(&self) -> Option<Gone> {
        match socket::look(&self.socket) {
            Standing::Connected => None,
            Standing::Says(FAREWELL) => Some(Gone::InGoodOrder),
            Standing::Says(_) => Some(Gone::Babbling),
            Standing::HungUp => Some(Gone::Died),
        }
    }

    /// The same for those who don't wait: a look every now and then.
    pub(super) fn gone_lately(&self) -> Option<Gone> {
        if self.looked.get().elapsed() < LOOK_EVERY {
            return None;
        }
        self.looked.set(Instant::now());
        self.gone()
    }

    /// Waits until what is awaited is there, `wait` is over, or the peer is gone. The caller
    /// has polled once.
    pub(super) fn until<A>(&mut self, wait: Wait<'_>, mut awaited: A) -> Result<A::Answer, A::Error>
    where
        A: Awaited,
        A::Error: From<Gone>,
    {
        // Said as it is, once it is known that nothing more is there.
        let gone = Cell::new(None);
        let is_there = || {
            gone.set(self.gone());
            gone.get().is_none()
        };
        // For who waits briefly, below.
        let mut looked = Some(Instant::now());
        let answer = match stay_awake(self.waiting, wait, is_there, &mut looked, &mut awaited) {
            Ok(None) => None,
            answer => Some(answer.map(|answer| answer.expect("matched above"))),
        };
        let answer = match answer {
            Some(answer) => answer,
            None => self.sleep(wait, &mut awaited, &gone),
        };
        if answer.is_ok() {
            return answer;
        }
        if let Some(gone) = gone.get() {
            return Err(gone.into());
        }
        // Who waits briefly again and again, or never, is told as well. What the peer left before it
        // went is there now.
        match self.gone_lately() {
            Some(gone) => awaited.poll()?.ok_or(gone.into()),
            None => answer,
        }
    }

    fn sleep<A: Awaited>(
        &mut self,
        wait: Wait<'_>,
        awaited: &mut A,
        gone: &Cell<Option<Gone>>,
    ) -> Result<A::Answer, A::Error> {
        let mut looked = Instant::now();
        loop {
            let (seen, is_heard) = self.sleeper.announce(&self.post);
            let answer = awaited.poll();
            if !matches!(answer, Ok(None)) {
                self.post.announce(0);
                return answer.map(|answer| answer.expect("matched above"));
            }
            if let Some(unready) = overdue(wait) {
                self.post.announce(0);
                return Err(unready.into());
            }
            // By the clock: a peer may wake us as often as it likes.
            if looked.elapsed() >= SLEEP {
                looked = Instant::now();
                gone.set(self.gone());
                if gone.get().is_some() {
                    return awaited.poll()?.ok_or(Unready::Closed.into());
                }
            }
            let bound = match (is_heard, wait.cancel()) {
                (false, _) => DOUBTFUL_SLEEP,
                (true, Some(_)) => CANCELLABLE_SLEEP,
                (true, None) => SLEEP,
            };
            self.post.sleep(seen, time_left(wait).map_or(bound, |left| left.min(bound)));
        }
    }
}

/// Of those who only look on, and answer nothing.
impl Outlook for Line {
    #[inline]
    fn is_ours(&self) -> bool {
        self.socket.is_ours()
    }

    fn set_waiting(&mut self, waiting: Waiting) {
        self.waiting = waiting;
    }

    fn until<A>(&mut self, wait: Wait<'_>, awaited: A) -> Result<A::Answer, RecvError>
    where
        A: Awaited<Error = RecvError>,
    {
        Line::until(self, wait, awaited)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.is_ours() {
            // Who doesn't hear it takes us for dead, and goes on in the same way.
            let _ = socket::send(&self.socket, &[FAREWELL], None);
            // So that one who sleeps learns of it now.
            self.post.ring();
        }
    }
}

const BABBLES: &str = "the peer sends on the socket, which no correct one does";

impl From<Gone> for RecvError {
    fn from(gone: Gone) -> Self {
        match gone {
            Gone::InGoodOrder => Self::Closed,
            Gone::Died => Self::PeerDied,
            Gone::Babbling => Self::Corrupt(BABBLES.into()),
        }
    }
}

impl From<Gone> for SendError {
    fn from(gone: Gone) -> Self {
        match gone {
            Gone::InGoodOrder => Self::Closed,
            Gone::Died => Self::PeerDied,
            Gone::Babbling => Self::Corrupt(BABBLES.into()),
        }
    }
}
