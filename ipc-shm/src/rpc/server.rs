//! The answering end: API → ring → bell.

use super::{Party, servers_asleep};
use crate::{
    refusal,
    ring::{
        Corrupt,
        memory::Words,
        rpc::{Answer, Answerer, Geometry, Taken},
        troubled,
    },
    segment::Attachment,
    wait::{Awaited, Bed, Waiter, Waiting, are_many},
};
use ipc_core::{ChannelError, OsError, Pollable, RecvError, Request, SendError, Server, Wait};
use std::{ops::Deref, os::fd::BorrowedFd, ptr::NonNull, slice};

/// An answering end of a service in shared memory.
///
/// There may be others; each request is taken by one of them, in turn over the clients' calls.
/// One request at a time: who wants to work on several has several servers. The caller of a
/// request that this one holds when its process ends, in whatever way, is told
/// [`ServerDied`](ipc_core::CallError::ServerDied).
#[derive(Debug)]
pub struct RpcServer {
    ring: Answerer<Words>,
    taken: Option<Taken>,
    party: Party,
    waiter: Waiter,
    /// Last: the ring's reference to the memory must be gone before the place is.
    attachment: Attachment,
}

impl RpcServer {
    pub(super) fn new(attachment: Attachment) -> Result<Self, ChannelError> {
        let geometry = Geometry::of(attachment.layout(), &attachment.header().geometry);
        let mut party = Party::new(&attachment);
        party.arrive(&attachment, &attachment.words(), &geometry)?;
        Ok(Self {
            ring: Answerer::attach(attachment.words(), geometry, attachment.id())?,
            taken: None,
            party,
            waiter: Waiter::new(&attachment, Bed::Shared(servers_asleep(&attachment))),
            attachment,
        })
    }

    /// Sets how this endpoint waits for requests; [`Waiting::Adaptive`] at first.
    pub fn set_waiting(&mut self, waiting: Waiting) {
        self.waiter.waiting = waiting;
    }

    /// The way of [`advance`](Server::advance) when there is nothing yet.
    #[inline(never)]
    fn wait_for_request(&mut self, wait: Wait<'_>) -> Result<Taken, RecvError> {
        let mut next = Next { ring: &mut self.ring, party: &mut self.party, attachment: &self.attachment };
        match next.poll()? {
            Some(taken) => Ok(taken),
            None => self.waiter.until(&self.attachment, wait, next),
        }
    }

    /// Gives an answer to what is held, if anything is.
    #[inline]
    fn answer(&mut self, answer: Answer) -> Result<bool, Corrupt> {
        let Some(taken) = self.taken.take() else { return Ok(false) };
        let is_there = self.ring.answer(&taken, answer)?;
        if is_there {
            self.party.wake(&self.attachment, self.ring.memory(), taken.client());
        } else {
            self.party.callers.ring(self.ring.memory());
        }
        Ok(is_there)
    }

    fn space(&self, taken: &Taken, len: usize) -> NonNull<u8> {
        self.ring.memory().bytes(self.ring.geometry().payload(taken.index), len)
    }
}

/// The next request, awaited.
struct Next<'a> {
    ring: &'a mut Answerer<Words>,
    party: &'a mut Party,
    attachment: &'a Attachment,
}

impl Awaited for Next<'_> {
    type Answer = Taken;
    type Error = RecvError;

    #[inline]
    fn poll(&mut self) -> Result<Option<Taken>, RecvError> {
        Ok(self.ring.try_take()?)
    }

    /// Every slot is looked at.
    #[inline]
    fn takes_long(&self) -> bool {
        are_many(self.ring.geometry().depth)
    }

    fn look_around(&mut self) -> Result<(), RecvError> {
        self.party.look_around(self.attachment, self.ring.memory(), self.ring.geometry()).or_else(troubled)
    }
}

/// The same, held once it is there.
struct Taking<'a> {
    next: Next<'a>,
    taken: &'a mut Option<Taken>,
}

impl Awaited for Taking<'_> {
    type Answer = ();
    type Error = RecvError;

    fn poll(&mut self) -> Result<Option<()>, RecvError> {
        *self.taken = self.next.poll()?;
        Ok(self.taken.map(drop))
    }

    fn look_around(&mut self) -> Result<(), RecvError> {
        self.next.look_around()
    }
}

impl Server for RpcServer {
    type Request<'a> = RpcRequest<'a>;

    #[inline]
    fn max_message_len(&self) -> usize {
        self.ring.geometry().max_message_len
    }

    #[inline]
    fn advance(&mut self, wait: Wait<'_>) -> Result<(), RecvError> {
        if !self.attachment.is_ours() {
            return Err(RecvError::Forked);
        }
        if self.taken.is_none() {
            self.taken = match self.ring.try_take()? {
                Some(taken) => Some(taken),
                None => Some(self.wait_for_request(wait)?),
            };
        }
        Ok(())
    }

    #[inline]
    fn held(&mut self) -> RpcRequest<'_> {
        assert!(self.attachment.is_ours(), "held() in a forked child");
        let taken = self.taken.expect("held() without a successful advance()");
        RpcRequest { server: self, taken }
    }
}

impl Pollable for RpcServer {
    fn descriptor(&mut self) -> Result<BorrowedFd<'_>, OsError> {
        self.waiter.descriptor(&self.attachment)
    }

    /// A request that is found is taken, and held for the next [`advance`](Server::advance).
    fn arm(&mut self) -> Result<bool, RecvError> {
        if !self.attachment.is_ours() {
            return Err(RecvError::Forked);
        }
        if self.taken.is_some() {
            return Ok(true);
        }
        let next = Next { ring: &mut self.ring, party: &mut self.party, attachment: &self.attachment };
        self.waiter.arm(&self.attachment, Taking { next, taken: &mut self.taken })
    }
}

impl Drop for RpcServer {
    fn drop(&mut self) {
        if self.attachment.is_ours() {
            // Left behind by `mem::forget`.
            let _ = self.answer(Answer::Declined);
            self.party.give_back(&self.attachment, self.ring.memory(), self.ring.geometry());
        }
    }
}

/// A request lent by an [`RpcServer`], in the channel itself.
#[derive(Debug)]
pub struct RpcRequest<'a> {
    server: &'a mut RpcServer,
    taken: Taken,
}

impl RpcRequest<'_> {
    /// Answers with `len` bytes that `fill` writes in place, in the channel itself. What it
    /// finds there begins with the request.
    ///
    /// # Errors
    ///
    /// As [`respond`](Request::respond).
    pub fn respond_in_place(self, len: usize, fill: impl FnOnce(&mut [u8])) -> Result<bool, SendError> {
        self.check(len)?;
        let space = self.server.space(&self.taken, len);
        // SAFETY: the slot's payload, mapped as long as the server lives and at least
        // `max_message_len` long; ours alone from the taking of the request to its answer,
        // and borrowed by nobody else, since `self` is here.
        fill(unsafe { slice::from_raw_parts_mut(space.as_ptr(), len) });
        Ok(self.server.answer(Answer::Message { len })?)
    }

    #[inline]
    fn check(&self, len: usize) -> Result<(), SendError> {
        refusal::check(len, self.server.max_message_len(), self.server.attachment.is_ours())
    }
}

impl Request for RpcRequest<'_> {
    #[inline]
    fn respond(self, response: &[u8]) -> Result<bool, SendError> {
        self.check(response.len())?;
        let space = self.server.space(&self.taken, response.len());
        // SAFETY: as in `respond_in_place`; `response` can't be borrowed from `self`, which
        // is here by value.
        unsafe { space.copy_from_nonoverlapping(NonNull::from(response).cast(), response.len()) };
        Ok(self.server.answer(Answer::Message { len: response.len() })?)
    }
}

impl Deref for RpcRequest<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        let bytes = self.server.space(&self.taken, self.taken.len);
        // SAFETY: mapped as long as the server lives; offered by a client, taken by us and not
        // yet answered, so a conforming peer doesn't write there, even if it gives the call
        // up. Who may write to a named segment's file is trusted to conform.
        unsafe { slice::from_raw_parts(bytes.as_ptr(), self.taken.len) }
    }
}

impl Drop for RpcRequest<'_> {
    #[inline]
    fn drop(&mut self) {
        // Nothing is taken any more after an answer.
        if self.server.taken.is_some() && self.server.attachment.is_ours() {
            // A word that isn't ours any more can't be answered; who meets it next says so.
            let _ = self.server.answer(Answer::Declined);
        }
    }
}
