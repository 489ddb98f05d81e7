//! What a subscriber waits for, whether it takes part or only looks on.

use crate::{
    ring::{
        broadcast::{Copies, Next, Reader},
        memory::Words,
    },
    wait::Awaited,
};
use ipc_core::RecvError;

/// Whatever comes next, awaited.
#[derive(Debug)]
pub(crate) struct News<'a> {
    ring: &'a mut Reader<Words>,
    copies: &'a mut Copies,
    was_overtaken: bool,
}

impl<'a> News<'a> {
    pub(crate) fn of(ring: &'a mut Reader<Words>, copies: &'a mut Copies) -> Self {
        // By the look before: it isn't known.
        Self { ring, copies, was_overtaken: true }
    }
}

impl Awaited for News<'_> {
    type Answer = Next;
    type Error = RecvError;

    #[inline]
    fn poll(&mut self) -> Result<Option<Next>, RecvError> {
        let next = self.ring.next(self.copies)?;
        self.was_overtaken = next == Next::Overtaken;
        Ok(if matches!(next, Next::Nothing | Next::Overtaken) { None } else { Some(next) })
    }

    /// What is copied may be long, and the publisher decides how often it is in vain.
    fn takes_long(&self) -> bool {
        self.was_overtaken
    }
}
