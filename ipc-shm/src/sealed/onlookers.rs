//! Those who look on at a peer that they don't trust: subscribers, and readers of a newest
//! value. What they do with its memory is what observers of named channels do, who only read
//! as well; here it is checked first that the memory can't go away, and the peer's hang-up says
//! that it is gone.

use super::{
    LinkError, SealedConfig,
    greeting::{Greeting, Part},
    line::Line,
    link::{Link, acceptable, post},
    memory::{self, Single, Unshared},
};
use crate::{
    latest::LatestMessage,
    observer::{BroadcastObserver, LatestObserver, ObservedMessage},
    ring::{broadcast, latest},
    sys::{fence, ident},
};
use ipc_core::Wait;

/// A subscribing end of a sealed broadcast.
///
/// It sees every message that is sent from its admission on, in order; where it was too slow,
/// [`RecvError::Lagged`](ipc_core::RecvError::Lagged) says exactly how many it missed, if the
/// publisher is honest. Whatever the publisher does, a message is some bytes that don't change
/// any more: a copy of this process's own.
pub type SealedSubscriber = BroadcastObserver<Line>;

/// A message lent by a [`SealedSubscriber`]: its own copy, which no peer can change.
pub type SealedBulletin<'a> = ObservedMessage<'a, Line>;

/// A reading end of a sealed newest value. What it lends is its own copy, which no peer can
/// change; it is whole if the writer is honest.
pub type SealedReader = LatestObserver<Line>;

/// A value lent by a [`SealedReader`]: its own copy.
pub type SealedValue<'a> = LatestMessage<'a>;

impl Link {
    /// Makes this a subscribing end: the peer publishes.
    ///
    /// # Errors
    ///
    /// [`LinkError::Refused`] if the peer does what no correct one does, or has a capacity that
    /// is larger than [`SealedConfig::max_capacity_bytes`]; the others.
    ///
    /// # Blocking
    ///
    /// Waits for the peer to admit it, as long as `wait` says.
    pub fn subscriber(self, config: &SealedConfig, wait: Wait<'_>) -> Result<SealedSubscriber, LinkError> {
        let (line, theirs, memory) = self.look_on(Part::Subscribes, config, wait)?;
        let start = (theirs.position, theirs.number);
        let ring = broadcast::Reader::observe_from(memory.words().clone(), memory.broadcast(), start)
            .map_err(|corrupt| LinkError::Refused(corrupt.0))?;
        Ok(BroadcastObserver::at(ring, line))
    }

    /// Makes this a reading end: the peer writes a newest value.
    ///
    /// # Errors
    ///
    /// [`LinkError::Refused`] if the peer does what no correct one does, or has more memory
    /// than [`SealedConfig::max_capacity_bytes`]; the others.
    ///
    /// # Blocking
    ///
    /// Waits for the peer to admit it, as long as `wait` says.
    pub fn reader(self, config: &SealedConfig, wait: Wait<'_>) -> Result<SealedReader, LinkError> {
        let (line, theirs, memory) = self.look_on(Part::Reads, config, wait)?;
        if memory::depth(theirs.capacity, theirs.longest) == 0 {
            return Err(LinkError::Refused(format!(
                "its longest value has {} bytes, for which its {} have no room",
                theirs.longest, theirs.capacity
            )));
        }
        let ring = latest::Reader::attach(memory.words().clone(), memory.latest(theirs.longest));
        Ok(LatestObserver::at(ring, line))
    }

    /// Hands over our page of words, and is given the peer's memory.
    fn look_on(
        self,
        part: Part,
        config: &SealedConfig,
        wait: Wait<'_>,
    ) -> Result<(Line, Greeting, Single), LinkError> {
        let page = ident::page_size_bytes()?;
        let ours = Greeting::new(part, fence::register(), page);
        let room = Unshared::new(part, page, 0)?;
        self.hand_over(&ours, &room)?;
        let own = room.single(part);
        let (theirs, file) = self.be_given(&[part.other()], page, wait)?;
        let capacity = acceptable(theirs.capacity, page, config.max_capacity())?;
        let file = memory::check(theirs.part, page, capacity, file)?;
        let room = Unshared::new(part, page, capacity)?;
        room.place_theirs(&file)?;
        let memory = room.single(part.other());
        let post = post(ours, &own.post, theirs, &memory.post);
        Ok((Line::new(self.into_socket(), post), theirs, memory))
    }
}
