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
    /// Who had the slot that would have been next, by the last look; 0 if nobody had.
    in_the_way: u32,
}

impl Party {
    fn new(attachment: &Attachment) -> Self {
        Self {
            receivers: Bell::of(attachment, receivers_asleep(attachment)),
            senders: Bell::of(attachment, senders_asleep(attachment)),
            in_the_way: 0,
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
        let entered = attachment.met_dead().filter(|&id| mpmc::is_entered(words, geometry, id));
        let dead = attachment.bury(entered, |id| repair(words, geometry, id))?;
        self.wake_all_if(dead > 0, words);
        Ok(())
    }

    /// Puts in order what the one in our way left, if it is dead, and what others did whose turn it
    /// is to be asked about; wakes both sides if there were any.
    fn look_around(
        &mut self,
        attachment: &Attachment,
        words: &Words,
        geometry: &Geometry,
    ) -> Result<(), ChannelError> {
        let in_the_way = Some(self.in_the_way).filter(|&owner| owner != 0);
        let entered = |id| mpmc::is_entered(words, geometry, id);
        let dead = attachment.bury_in_turn(in_the_way, entered, |id| repair(words, geometry, id))?;
        self.wake_all_if(dead > 0, words);
        Ok(())
    }

    fn wake_all_if(&self, is_repaired: bool, words: &Words) {
        if is_repaired {
            self.receivers.ring(words);
            self.senders.ring(words);
        }
    }

    /// What one with our id holds or has claimed goes back: our own when we leave, or that of
    /// the one before us.
    fn give_back(&self, attachment: &Attachment, words: &Words, geometry: &Geometry) {
        // What can't be repaired now is found by the next one, whose entry isn't clean.
        self.wake_all_if(mpmc::repair(words, geometry, attachment.id()).is_ok(), words);
    }
}

/// Puts in order what one participant left.
fn repair(words: &Words, geometry: &Geometry, id: u32) -> Result<(), ChannelError> {
    Ok(mpmc::repair(words, geometry, id)?)
}
