//! `shm:sealed`: two channels between processes that don't trust each other, one there and one
//! back, each made by a connection of its own.
//!
//! Processes attach one after the other, and to come together takes both at once. So the near
//! one listens, the far one connects, and the rest is done before the first message.

use super::{
    backends::{records_bytes, shm_waiting},
    ends::{ReceivingEnd, SendingEnd},
    link::{EndsLink, Link},
    site::{DIRECTIONS, Site},
};
use crate::{
    spec::{LaneSpec, Side, Waiting},
    trouble::Fallible,
};
use ipc_core::Wait;
use ipc_shm::sealed::{self, Listener, Peers, SealedConfig, SealedReceiver, SealedSender};
use std::{ops::Range, time::Duration};

/// How long the other process may take to do its part.
const PATIENCE: Duration = Duration::from_secs(10);

/// A process's part before the first message.
pub(crate) enum Unmet {
    Near([Listener; 2]),
    Far([sealed::Link; 2]),
}

impl Unmet {
    /// Listens, or connects to who does.
    pub(crate) fn attach(spec: &LaneSpec, side: Side, site: &Site) -> Fallible<Self> {
        let path = |direction| site.directory.join(format!("{}-{direction}", spec.tag));
        let [there, back] = DIRECTIONS.map(path);
        Ok(match side {
            Side::Near => Self::Near([
                Listener::bind(there, Peers::ourselves())?,
                Listener::bind(back, Peers::ourselves())?,
            ]),
            Side::Far => {
                let connect = |path| sealed::connect(path, &Peers::ourselves(), Wait::timeout(PATIENCE));
                Self::Far([connect(there)?, connect(back)?])
            }
        })
    }

    fn meet(self, capacity_bytes: u64, waiting: Waiting) -> Fallible<(SealedSender, SealedReceiver)> {
        let soon = || Wait::timeout(PATIENCE);
        let config = SealedConfig::new().capacity_bytes(capacity_bytes).max_capacity_bytes(u64::MAX);
        let (mut tx, mut rx) = match self {
            Self::Near([there, back]) => (
                there.accept(soon())?.sender(&config, soon())?,
                back.accept(soon())?.receiver(&config, soon())?,
            ),
            Self::Far([there, back]) => {
                let rx = there.receiver(&config, soon())?;
                (back.sender(&config, soon())?, rx)
            }
        };
        tx.set_waiting(shm_waiting(waiting));
        rx.set_waiting(shm_waiting(waiting));
        Ok((tx, rx))
    }
}

/// The two ends that a process has, from its first message on.
pub(crate) struct Sealed<S, R> {
    unmet: Option<Unmet>,
    met: Option<EndsLink<S, R>>,
    sending: fn(SealedSender, &LaneSpec) -> S,
    receiving: fn(SealedReceiver, &LaneSpec) -> R,
    spec: LaneSpec,
}

impl<S, R> Sealed<S, R> {
    /// Ends that are used in a certain way.
    pub(crate) fn new(
        unmet: Unmet,
        spec: &LaneSpec,
        sending: fn(SealedSender, &LaneSpec) -> S,
        receiving: fn(SealedReceiver, &LaneSpec) -> R,
    ) -> Self {
        Self { unmet: Some(unmet), met: None, sending, receiving, spec: spec.clone() }
    }

    #[inline]
    fn met(&mut self) -> Fallible<&mut EndsLink<S, R>> {
        if self.met.is_none() {
            self.meet()?;
        }
        Ok(self.met.as_mut().expect("met above"))
    }

    #[cold]
    fn meet(&mut self) -> Fallible<()> {
        let unmet = self.unmet.take().ok_or("the two processes didn't come together")?;
        let (tx, rx) = unmet.meet(records_bytes(&self.spec), self.spec.waiting)?;
        let (tx, rx) = ((self.sending)(tx, &self.spec), (self.receiving)(rx, &self.spec));
        self.met = Some(EndsLink { tx, rx, payload: self.spec.payload() });
        Ok(())
    }
}

impl<S: SendingEnd, R: ReceivingEnd> Link for Sealed<S, R> {
    #[inline]
    fn send(&mut self, number: u64) -> Fallible<()> {
        self.met()?.send(number)
    }

    #[inline]
    fn receive(&mut self, number: u64) -> Fallible<()> {
        self.met()?.receive(number)
    }

    #[inline]
    fn send_all(&mut self, numbers: Range<u64>) -> Fallible<()> {
        self.met()?.send_all(numbers)
    }

    #[inline]
    fn receive_some(&mut self, numbers: Range<u64>) -> Fallible<u64> {
        self.met()?.receive_some(numbers)
    }
}
