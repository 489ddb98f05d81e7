//! Any number of senders and receivers: endpoints over the work queue (`ring::mpmc`).

mod receiver;
mod sender;

pub use receiver::{MpmcBatch, MpmcMessage, MpmcReceiver};
pub use sender::{MpmcLoan, MpmcSender};

use crate::{
    ring::{
        memory::Words,
        mpmc::{self, Geometry},
    },
    segment::Attachment,
    wait::Bell,
};
use ipc_core::ChannelError;

/// Where the two flags are in the page of shared words: behind the generation, on lines of
/// their own.
fn receivers_asleep(attachment: &Attachment) -> usize {
    attachment.layout().shared() + 128
}

fn senders_asleep(attachment: &Attachment) -> usize {
    attachment.layout().shared() + 256
}

/// How often an endpoint tries again at once when others were faster, before it looks at its
/// deadline.
const CONTENDED_TRIES: u32 = 64;

/// What an endpoint needs besides its ring: the bells of both sides, and what puts in order
/// what the dead left.
#[derive(Debug)]
struct Party {
    receivers: Bell,
    senders: Bell,
    /// Fruitless tries since we last looked for the dead.
    tries: u32,
}

impl Party {
    /// A look costs some 10 µs; endpoints that only ever try take one now and then.
    const TRIES: u32 = 1024;

    fn new(attachment: &Attachment) -> Self {
        Self {
            receivers: Bell::of(attachment, receivers_asleep(attachment)),
            senders: Bell::of(attachment, senders_asleep(attachment)),
            tries: 0,
        }
    }

    /// To be called by an endpoint that comes, before it enters: what the last one with its
    /// id left is put in order, and what others left whom it meets dead.
    fn arrive(
        &mut self,
        attachment: &Attachment,
        words: &Words,
        geometry: &Geometry,
    ) -> Result<(), ChannelError> {
        if mpmc::is_entered(words, geometry, attachment.id()) {
            self.give_back(attachment, words, geometry);
        }
        if attachment.met_dead() { self.look_around(attachment, words, geometry) } else { Ok(()) }
    }

    /// Puts in order what the dead left, and wakes both sides if there were any.
    fn look_around(
        &mut self,
        attachment: &Attachment,
        words: &Words,
        geometry: &Geometry,
    ) -> Result<(), ChannelError> {
        self.tries = 0;
        let entered = geometry.ids().filter(|&id| mpmc::is_entered(words, geometry, id));
        let dead =
            attachment.bury(entered, |id| Ok::<_, ChannelError>(mpmc::repair(words, geometry, id)?))?;
        if dead > 0 {
            self.receivers.ring(words);
            self.senders.ring(words);
        }
        Ok(())
    }

    /// To be called when nothing was to be done: whether it is time to look around.
    #[inline]
    fn is_time_to_look(&mut self) -> bool {
        self.tries += 1;
        self.tries >= Self::TRIES
    }

    /// What one with our id holds or has claimed goes back: our own when we leave, or that of
    /// the one before us.
    fn give_back(&self, attachment: &Attachment, words: &Words, geometry: &Geometry) {
        // What can't be repaired now is found by the next one, whose entry isn't clean.
        if mpmc::repair(words, geometry, attachment.id()).is_ok() {
            self.receivers.ring(words);
            self.senders.ring(words);
        }
    }
}
