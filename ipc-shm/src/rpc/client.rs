//! The calling end: API → ring → bell.

use super::{Party, callers_asleep};
use crate::{
    kind::WhenFull,
    ring::{
        memory::Words,
        rpc::{self, Call, Caller, Geometry, Progress},
        troubled,
    },
    segment::Attachment,
    sys::fork,
    wait::{Awaited, Bed, Bell, Waiter, Waiting, are_many},
};
use ipc_core::{CallError, ChannelError, Client, Wait};
use parking_lot::Mutex;
use std::{cell::Cell, ops::Deref, ptr::NonNull, slice, sync::Arc};

/// A calling end of a service in shared memory.
///
/// There may be others, and each may have several calls under way. A call waits for a server
/// as long as it was told to, whether one is there or not. When the server that has taken its
/// request dies, in whatever way, it is told within 250 ms; as a rule, within 10. What this
/// client has under way when it is dropped, or when its process ends, is given up.
#[derive(Debug)]
pub struct RpcClient {
    ring: Caller<Words>,
    max_message_len: usize,
    when_full: WhenFull,
    /// What our tickets have of us.
    calls: Arc<Calls>,
    party: Party,
    for_room: Waiter,
    for_response: Waiter,
    /// Last: the ring's reference to the memory must be gone before the place is.
    attachment: Attachment,
}

impl RpcClient {
    pub(super) fn new(attachment: Attachment) -> Result<Self, ChannelError> {
        let settings = attachment.header().geometry;
        let geometry = Geometry::of(attachment.layout(), &settings);
        let mut party = Party::new(&attachment);
        party.arrive(&attachment, &attachment.words(), &geometry)?;
        Ok(Self {
            ring: Caller::attach(attachment.words(), geometry, attachment.id())?,
            max_message_len: geometry.max_message_len,
            when_full: settings.when_full,
            calls: Arc::new(Calls::new(&attachment, geometry, party.callers.clone())),
            party,
            for_room: Waiter::new(&attachment, Bed::Shared(callers_asleep(&attachment))),
            for_response: Waiter::new(&attachment, Bed::Own(attachment.entry().bed())),
            attachment,
        })
    }

    /// Sets how this endpoint waits for room and responses; [`Waiting::Adaptive`] at first.
    pub fn set_waiting(&mut self, waiting: Waiting) {
        self.for_room.waiting = waiting;
        self.for_response.waiting = waiting;
    }

    #[inline]
    fn check_ours(&self) -> Result<(), CallError> {
        if self.attachment.is_ours() { Ok(()) } else { Err(CallError::Forked) }
    }

    fn check_ticket(&self, ticket: &RpcTicket) {
        assert!(Arc::ptr_eq(&ticket.calls, &self.calls), "a ticket of another client");
    }

    #[cold]
    #[inline(never)]
    fn wait_for_room(&mut self, wait: Wait<'_>) -> Result<Call, CallError> {
        let wait = self.when_full.limit(wait);
        let room = Room { ring: &mut self.ring, party: &mut self.party, attachment: &self.attachment };
        self.for_room.until(&self.attachment, wait, room)
    }

    #[inline(never)]
    fn wait_for_response(&mut self, call: Call, wait: Wait<'_>) -> Result<Outcome, CallError> {
        let mut response = Response {
            ring: &self.ring,
            party: &mut self.party,
            attachment: &self.attachment,
            call,
            server: None,
            is_only: Arc::strong_count(&self.calls) == 1 + 1,
            looks: 0,
        };
        match response.poll()? {
            Some(outcome) => Ok(outcome),
            None => self.for_response.until(&self.attachment, wait, response),
        }
    }

    /// Is done with a call. What isn't ours any more can't be given back; who meets it next
    /// says so.
    fn finish(&mut self, call: &Call) {
        if let Ok(true) = self.ring.finish(call) {
            self.party.callers.ring(self.ring.memory());
        }
    }
}

/// What the tickets of a client have of it, as long as it is there: they give up their calls
/// themselves, since the client may not be used again for long.
#[derive(Debug)]
struct Calls {
    /// The memory, until the client leaves. Used under the lock only, so that no ticket keeps
    /// the client's place.
    words: Mutex<Option<Words>>,
    geometry: Geometry,
    /// Of the clients that wait for room.
    callers: Bell,
    generation: u32,
}

impl Calls {
    fn new(attachment: &Attachment, geometry: Geometry, callers: Bell) -> Self {
        let words = Mutex::new(Some(attachment.words()));
        Self { words, geometry, callers, generation: fork::generation() }
    }

    /// Is done with a call. What isn't ours any more can't be given back; who meets it next
    /// says so.
    fn finish(&self, call: &Call) {
        // In a forked child it is the parent's, and the lock may be one of its other threads'.
        if self.generation != fork::generation() {
            return;
        }
        if let Some(words) = &*self.words.lock() {
            if let Ok(true) = rpc::finish(words, &self.geometry, call) {
                self.callers.ring(words);
            }
        }
    }

    /// The client leaves: it gives back what is under way.
    fn end(&self) {
        *self.words.lock() = None;
    }
}

/// A call that is under way. Dropping it gives the call up, as `abandon` does.
#[derive(Debug)]
#[must_use = "without it there is no response, and the call is given up"]
pub struct RpcTicket {
    calls: Arc<Calls>,
    call: Call,
    found: Cell<Found>,
}

/// What `advance` has found of a call.
#[derive(Clone, Copy, Debug)]
enum Found {
    Nothing,
    /// The response, and its length: loaded once and checked.
    Response {
        len: usize,
    },
    /// The call is over, or its response's.
    End,
}

impl Drop for RpcTicket {
    #[inline]
    fn drop(&mut self) {
        if !matches!(self.found.get(), Found::End) {
            self.calls.finish(&self.call);
        }
    }
}

/// Room for a call, awaited. Whoever has it may be dead.
struct Room<'a> {
    ring: &'a mut Caller<Words>,
    party: &'a mut Party,
    attachment: &'a Attachment,
}

impl Awaited for Room<'_> {
    type Answer = Call;
    type Error = CallError;

    fn poll(&mut self) -> Result<Option<Call>, CallError> {
        Ok(self.ring.try_claim()?)
    }

    fn is_obstructed(&self) -> bool {
        true
    }

    /// Every slot is looked at.
    fn takes_long(&self) -> bool {
        are_many(self.ring.geometry().depth)
    }

    fn look_around(&mut self) -> Result<(), CallError> {
        self.party.look_around(self.attachment, self.ring.memory(), self.ring.geometry()).or_else(troubled)
    }
}

/// How a call ended.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    Answered { len: usize },
    Declined,
    Died,
}

impl Outcome {
    fn of(progress: Progress) -> Option<Self> {
        match progress {
            Progress::Offered | Progress::Taken { .. } => None,
            Progress::Answered { len } => Some(Self::Answered { len }),
            Progress::Declined => Some(Self::Declined),
            Progress::Died => Some(Self::Died),
        }
    }
}

/// The response to a call, awaited.
struct Response<'a> {
    ring: &'a Caller<Words>,
    party: &'a mut Party,
    attachment: &'a Attachment,
    call: Call,
    /// Who had taken the request at the last look, and may be dead.
    server: Option<u32>,
    /// Whether its client has no other one.
    is_only: bool,
    looks: u32,
}

impl Response<'_> {
    /// A request that is about to be taken is looked at this often as if it were: whoever
    /// takes it doesn't wake us for that.
    const EARLY_LOOKS: u32 = 20;
}

impl Awaited for Response<'_> {
    type Answer = Outcome;
    type Error = CallError;

    #[inline]
    fn poll(&mut self) -> Result<Option<Outcome>, CallError> {
        let progress = self.ring.look(&self.call)?;
        self.server = if let Progress::Taken { server } = progress { Some(server) } else { None };
        Ok(Outcome::of(progress))
    }

    fn is_obstructed(&self) -> bool {
        self.server.is_some() || self.looks < Self::EARLY_LOOKS
    }

    fn look_around(&mut self) -> Result<(), CallError> {
        let (words, geometry) = (self.ring.memory(), self.ring.geometry());
        self.looks += 1;
        match self.server {
            Some(server) if self.is_only => self.party.look_at(self.attachment, words, geometry, [server]),
            // Those of our other calls, too: who waits for each in turn, or tries, may be with the same
            // one whenever it is time to look.
            Some(_) => self.party.look_at(self.attachment, words, geometry, self.ring.servers()),
            None => self.party.look_around(self.attachment, words, geometry),
        }
        .or_else(troubled)
    }
}

impl Client for RpcClient {
    type Ticket = RpcTicket;
    type Response<'a> = RpcResponse<'a>;

    #[inline]
    fn max_message_len(&self) -> usize {
        self.max_message_len
    }

    #[inline]
    fn submit(&mut self, request: &[u8], wait: Wait<'_>) -> Result<RpcTicket, CallError> {
        if request.len() > self.max_message_len {
            return Err(CallError::TooLong { len: request.len(), max: self.max_message_len });
        }
        self.check_ours()?;
        let call = match self.ring.try_claim()? {
            Some(call) => call,
            None => self.wait_for_room(wait)?,
        };
        let space = self.ring.memory().bytes(self.ring.geometry().payload(call.index), request.len());
        // SAFETY: the slot's payload, mapped as long as the client lives and at least
        // `max_message_len` long; ours alone since it was claimed.
        unsafe { space.copy_from_nonoverlapping(NonNull::from(request).cast(), request.len()) };
        self.ring.offer(&call, request.len())?;
        self.party.servers.ring(self.ring.memory());
        Ok(RpcTicket { calls: Arc::clone(&self.calls), call, found: Cell::new(Found::Nothing) })
    }

    #[inline]
    fn advance(&mut self, ticket: &RpcTicket, wait: Wait<'_>) -> Result<(), CallError> {
        self.check_ticket(ticket);
        self.check_ours()?;
        let call = ticket.call;
        let outcome = match Outcome::of(self.ring.look(&call)?) {
            Some(outcome) => outcome,
            None => self.wait_for_response(call, wait)?,
        };
        let error = match outcome {
            Outcome::Answered { len } => {
                ticket.found.set(Found::Response { len });
                return Ok(());
            }
            Outcome::Declined => CallError::Declined,
            Outcome::Died => CallError::ServerDied,
        };
        ticket.found.set(Found::End);
        self.finish(&call);
        Err(error)
    }

    #[inline]
    fn response(&mut self, ticket: RpcTicket) -> RpcResponse<'_> {
        self.check_ticket(&ticket);
        assert!(self.attachment.is_ours(), "response() in a forked child");
        let Found::Response { len } = ticket.found.get() else {
            panic!("response() without a successful advance()")
        };
        // From now on it is the response that ends the call.
        ticket.found.set(Found::End);
        RpcResponse { client: self, call: ticket.call, len }
    }

    fn abandon(&mut self, ticket: RpcTicket) {
        self.check_ticket(&ticket);
        drop(ticket);
    }
}

impl Drop for RpcClient {
    fn drop(&mut self) {
        if self.attachment.is_ours() {
            self.calls.end();
            self.party.give_back(&self.attachment, self.ring.memory(), self.ring.geometry());
        }
    }
}

/// A response lent by an [`RpcClient`], in the channel itself. Dropping it gives its place
/// back.
#[derive(Debug)]
pub struct RpcResponse<'a> {
    client: &'a mut RpcClient,
    call: Call,
    len: usize,
}

impl Deref for RpcResponse<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        let ring = &self.client.ring;
        let bytes = ring.memory().bytes(ring.geometry().payload(self.call.index), self.len);
        // SAFETY: mapped as long as the client lives; given to us by the server and not yet
        // finished, so a conforming peer doesn't write there. Who may write to a named
        // segment's file is trusted to conform.
        unsafe { slice::from_raw_parts(bytes.as_ptr(), self.len) }
    }
}

impl Drop for RpcResponse<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.client.attachment.is_ours() {
            let call = self.call;
            self.client.finish(&call);
        }
    }
}
