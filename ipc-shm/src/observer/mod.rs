//! Looking on: endpoints for reading only, by type, by the descriptor, and by the mapping.
//!
//! They have no method that writes; the descriptor is opened for reading, so a file that one
//! may only read is enough (another user's, mode 0640); and their pages are mapped for reading,
//! so that whatever strays there faults in its own process instead of changing what others see.
//! That is possible where nobody waits for who receives: lossy broadcasts, and newest values.
//!
//! What is lent is the observer's own copy, which nobody changes. So those who subscribe to a
//! peer that they don't trust ([`sealed`](crate::sealed)) are observers too, from another
//! [`Outlook`].

mod broadcast;
mod latest;

pub use broadcast::{BroadcastObserver, ObservedBatch, ObservedMessage};
pub use latest::LatestObserver;

use crate::{
    ring::memory::Words,
    segment::Onlooker,
    wait::{Awaited, Waiting, slow, stay_awake},
};
use ipc_core::{RecvError, Wait};
use std::time::Instant;

/// Where one looks on from, and how one waits there: at a named channel, or a sealed one.
pub trait Outlook {
    /// Whether this process is the one that made it, and not a fork of it.
    fn is_ours(&self) -> bool;

    fn set_waiting(&mut self, waiting: Waiting);

    /// Waits until what is awaited is there, `wait` is over, or nothing will come any more. The
    /// caller has polled once.
    fn until<A>(&mut self, wait: Wait<'_>, awaited: A) -> Result<A::Answer, RecvError>
    where
        A: Awaited<Error = RecvError>;
}

/// At a named channel: a place that nobody knows of.
#[derive(Debug)]
pub struct Window {
    pub(crate) words: Words,
    /// The flag of those who are woken when something changes.
    flag: usize,
    pub(crate) waiting: Waiting,
    /// When it was looked last whether the channel is still there, in a wait.
    looked: Option<Instant>,
    /// Last: the words must be gone before the presence is.
    onlooker: Onlooker,
}

impl Window {
    pub(crate) fn new(onlooker: Onlooker, flag: usize) -> Self {
        Self {
            words: onlooker.words(),
            flag,
            waiting: Waiting::default(),
            looked: Some(Instant::now()),
            onlooker,
        }
    }

    #[inline]
    pub(crate) fn is_ours(&self) -> bool {
        self.onlooker.is_ours()
    }

    /// Waits until what is awaited is there or `wait` is over. The caller has polled once.
    pub(crate) fn until<A: Awaited>(
        &mut self,
        wait: Wait<'_>,
        mut awaited: A,
    ) -> Result<A::Answer, A::Error> {
        let is_there = || self.onlooker.is_named();
        match stay_awake(self.waiting, wait, is_there, &mut self.looked, &mut awaited)? {
            Some(answer) => Ok(answer),
            None => slow::until(&self.words, self.flag, wait, is_there, &mut self.looked, awaited),
        }
    }
}

impl Outlook for Window {
    #[inline]
    fn is_ours(&self) -> bool {
        self.is_ours()
    }

    fn set_waiting(&mut self, waiting: Waiting) {
        self.waiting = waiting;
    }

    fn until<A>(&mut self, wait: Wait<'_>, awaited: A) -> Result<A::Answer, RecvError>
    where
        A: Awaited<Error = RecvError>,
    {
        Self::until(self, wait, awaited)
    }
}
