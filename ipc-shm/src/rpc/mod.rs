//! Request and response: endpoints over `ring::rpc`, and the namespace that makes them.

mod client;
mod namespace;
mod server;

pub use client::{RpcClient, RpcResponse, RpcTicket};
pub use namespace::{Rpc, RpcChannel};
pub use server::{RpcRequest, RpcServer};

use crate::{
    ring::{
        memory::Words,
        rpc::{self, Geometry},
    },
    segment::Attachment,
    wait::Bell,
};
use ipc_core::ChannelError;

/// Where the flags of the servers, and of the clients that wait for room, are in the page of
/// shared words: on lines of their own. Clients that wait for a response each have a flag in
/// their own entry.
fn servers_asleep(attachment: &Attachment) -> usize {
    attachment.layout().shared() + 128
}

fn callers_asleep(attachment: &Attachment) -> usize {
    attachment.layout().shared() + 256
}

/// What an endpoint needs besides its ring: the bells, and what puts in order what the dead
/// left.
#[derive(Debug)]
struct Party {
    servers: Bell,
    /// Of the clients that wait for room.
    callers: Bell,
}

impl Party {
    fn new(attachment: &Attachment) -> Self {
        Self {
            servers: Bell::of(attachment, servers_asleep(attachment)),
            callers: Bell::of(attachment, callers_asleep(attachment)),
        }
    }

    /// Wakes a client that waits for a response.
    #[inline]
    fn wake(&self, attachment: &Attachment, words: &Words, client: u32) {
        self.callers.ring_at(words, attachment.layout().entry(client).bed());
    }

    /// Puts in order what one participant left, and wakes its callers.
    fn repair(
        &self,
        attachment: &Attachment,
        words: &Words,
        geometry: &Geometry,
        id: u32,
    ) -> Result<(), ChannelError> {
        Ok(rpc::repair(words, geometry, id, |client| self.wake(attachment, words, client))?)
    }

    /// To be called by an endpoint that comes, before it enters: what the last one with its
    /// id left is put in order, and what others left whom it meets dead.
    fn arrive(
        &mut self,
        attachment: &Attachment,
        words: &Words,
        geometry: &Geometry,
    ) -> Result<(), ChannelError> {
        if rpc::is_entered(words, geometry, attachment.id()) {
            self.give_back(attachment, words, geometry);
        }
        self.look_at(attachment, words, geometry, attachment.met_dead())
    }

    /// Puts in order what those of the dead left whose turn it is to be asked about, and wakes
    /// whoever waits for that.
    fn look_around(
        &mut self,
        attachment: &Attachment,
        words: &Words,
        geometry: &Geometry,
    ) -> Result<(), ChannelError> {
        let entered = |id| rpc::is_entered(words, geometry, id);
        let repair = |id| self.repair(attachment, words, geometry, id);
        let dead = attachment.bury_in_turn(None, entered, repair)?;
        self.wake_callers_if(dead > 0, words);
        Ok(())
    }

    /// The same for these participants.
    fn look_at(
        &mut self,
        attachment: &Attachment,
        words: &Words,
        geometry: &Geometry,
        ids: impl IntoIterator<Item = u32>,
    ) -> Result<(), ChannelError> {
        let entered = ids.into_iter().filter(|&id| rpc::is_entered(words, geometry, id));
        let dead = attachment.bury(entered, |id| self.repair(attachment, words, geometry, id))?;
        self.wake_callers_if(dead > 0, words);
        Ok(())
    }

    fn wake_callers_if(&self, is_repaired: bool, words: &Words) {
        if is_repaired {
            self.callers.ring(words);
        }
    }

    /// What one with our id has goes back: our own when we leave, or that of the one before us.
    fn give_back(&self, attachment: &Attachment, words: &Words, geometry: &Geometry) {
        // What can't be repaired now is found by the next one, whose entry isn't clean.
        let repaired = self.repair(attachment, words, geometry, attachment.id());
        self.wake_callers_if(repaired.is_ok(), words);
    }
}
