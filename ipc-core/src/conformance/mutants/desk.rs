//! A service in one process, without a slip or with one: calls on a list, under one lock.

use super::{faulty::Fault, until};
use crate::{CallError, Client, RecvError, Request, SendError, Server, Unready, Wait};
use std::{
    cell::{Cell, OnceCell},
    collections::BTreeMap,
    fmt,
    ops::Deref,
    sync::{Arc, Condvar, Mutex, MutexGuard},
};

/// What is done wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Slip {
    None,
    /// A wait for this goes wrong in this way.
    Waits(Awaited, Fault),
    CancelledComesFirst,
    // Answering.
    LosesEmptyAnswers,
    AnswersInOrder,
    OverwritesAnswers,
    LosesHundredth,
    GivesAgain,
    LosesUnserved,
    DeclinesUnheard,
    DeclinedStays,
    CutsTooLong,
    TooLongTakesAPlace,
    TooLongLeavesOpen,
    AdvanceDeclines,
    AdvanceSwaps,
    ServerTakesAlong,
    ServerGivesBack,
    LendsNothing,
    LendsNoResponse,
    LendsToEverybody,
    OneCallerWakes,
    // Giving up.
    TimeoutEndsTakenCall,
    CancelEndsCall,
    RefusedIsRequested,
    CollectLeavesCall,
    AbandonedIsServed,
    AbandonedIsHeard,
    LateAnswerMeetsNext,
    AbandonedAnswerStays,
    LateAnswerStays,
    LateDeclineStays,
    ClientLeavesCalls,
    DroppedTicketStays,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Awaited {
    Room,
    Answer,
    Request,
}

pub(super) struct Desk {
    slip: Slip,
    depth: usize,
    max_message_len: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    calls: BTreeMap<u64, Call>,
    /// Calls, clients that ever were, and servers that there are.
    made: u64,
    clients: u64,
    servers: u64,
    /// How many answers there were, and the newest.
    answers: u64,
    newest_answer: Vec<u8>,
}

struct Call {
    client: u64,
    stage: Stage,
    bytes: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    /// No server gets it.
    Lost,
    Requested,
    Taken,
    Answered,
    Declined,
    Abandoned,
}

impl Desk {
    pub(super) fn new(slip: Slip, depth: usize, max_message_len: usize) -> Arc<Self> {
        let (state, changed) = Default::default();
        Arc::new(Self { slip, depth, max_message_len, state, changed })
    }

    pub(super) fn client(self: &Arc<Self>) -> DeskClient {
        let mut state = self.state();
        state.clients += 1;
        DeskClient { desk: Arc::clone(self), id: state.clients }
    }

    pub(super) fn server(self: &Arc<Self>) -> DeskServer {
        self.state().servers += 1;
        DeskServer { desk: Arc::clone(self), held: None, request: Vec::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under it")
    }

    fn until<T>(
        &self,
        awaited: Awaited,
        wait: Wait<'_>,
        mut attempt: impl FnMut(&mut State) -> Option<T>,
    ) -> Result<T, Unready> {
        let fault = match self.slip {
            Slip::Waits(what, fault) if what == awaited => fault,
            _ => Fault::None,
        };
        if fault.gives_up(wait) {
            return Err(Unready::TimedOut);
        }
        if self.slip == Slip::CancelledComesFirst && wait.is_cancelled() {
            return Err(Unready::Cancelled);
        }
        if fault == Fault::SleepsThrough {
            // Only a wake-up is lost, not what is there.
            if let Some(answer) = attempt(&mut self.state()) {
                return Ok(answer);
            }
        }
        until(&self.state, &self.changed, fault.distort(wait), |state| Ok(attempt(state)))
    }

    /// How a server's work on a call ends; whether somebody is told.
    fn end(&self, number: u64, stage: Stage, bytes: &[u8]) -> bool {
        let mut state = self.state();
        let state = &mut *state;
        self.changed.notify_all();
        let Some(call) = state.calls.get_mut(&number) else { return false };
        if call.stage == Stage::Abandoned {
            let stays = match stage {
                Stage::Answered => self.slip == Slip::LateAnswerStays,
                _ => self.slip == Slip::LateDeclineStays,
            };
            let client = call.client;
            if !stays {
                state.calls.remove(&number);
            }
            let mut others = state.calls.values_mut();
            let next = others.find(|call| call.client == client && call.stage == Stage::Taken);
            if let (Some(next), Slip::LateAnswerMeetsNext) = (next, self.slip) {
                next.stage = stage;
                next.bytes = bytes.to_vec();
            }
            return self.slip == Slip::AbandonedIsHeard;
        }
        call.stage = stage;
        call.bytes = bytes.to_vec();
        state.answers += 1;
        state.newest_answer = bytes.to_vec();
        true
    }

    fn is_requested(&self) -> bool {
        self.state().calls.values().any(|call| call.stage == Stage::Requested)
    }

    /// A call that its client is done with.
    fn give_up(&self, state: &mut State, number: u64) {
        self.changed.notify_all();
        match state.calls.get_mut(&number) {
            Some(call) if call.stage == Stage::Taken => call.stage = Stage::Abandoned,
            Some(call) if call.stage == Stage::Requested && self.slip == Slip::AbandonedIsServed => {}
            Some(call) if call.stage == Stage::Answered && self.slip == Slip::AbandonedAnswerStays => {}
            _ => drop(state.calls.remove(&number)),
        }
    }
}

pub(super) struct DeskClient {
    desk: Arc<Desk>,
    id: u64,
}

pub(super) struct DeskTicket {
    desk: Arc<Desk>,
    client: u64,
    call: u64,
    is_over: Cell<bool>,
}

impl fmt::Debug for DeskTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "call {} of client {}", self.call, self.client)
    }
}

impl Drop for DeskTicket {
    fn drop(&mut self) {
        if !self.is_over.get() && self.desk.slip != Slip::DroppedTicketStays {
            self.desk.give_up(&mut self.desk.state(), self.call);
        }
    }
}

impl DeskClient {
    fn request(&self, state: &mut State, request: &[u8]) -> u64 {
        let lost = match self.desk.slip {
            Slip::LosesUnserved => state.servers == 0,
            Slip::LosesHundredth => state.made % 100 == 99,
            _ => false,
        };
        let stage = if lost { Stage::Lost } else { Stage::Requested };
        state.made += 1;
        state.calls.insert(state.made, Call { client: self.id, stage, bytes: request.to_vec() });
        self.desk.changed.notify_all();
        state.made
    }
}

impl Client for DeskClient {
    type Ticket = DeskTicket;
    type Response<'a> = DeskResponse<'a>;

    fn max_message_len(&self) -> usize {
        self.desk.max_message_len
    }

    fn submit(&mut self, request: &[u8], wait: Wait<'_>) -> Result<DeskTicket, CallError> {
        let Desk { slip, depth, max_message_len: max, .. } = *self.desk;
        if request.len() > max && slip != Slip::CutsTooLong {
            if slip == Slip::TooLongTakesAPlace {
                let lost = Call { client: self.id, stage: Stage::Lost, bytes: Vec::new() };
                self.desk.state().calls.insert(0, lost);
            }
            return Err(CallError::TooLong { len: request.len(), max });
        }
        let request = &request[..request.len().min(max)];
        let called = self.desk.until(Awaited::Room, wait, |state| {
            (state.calls.len() < depth).then(|| self.request(state, request))
        });
        if called.is_err() && slip == Slip::RefusedIsRequested {
            self.request(&mut self.desk.state(), request);
        }
        let desk = Arc::clone(&self.desk);
        Ok(DeskTicket { desk, client: self.id, call: called?, is_over: Cell::new(false) })
    }

    fn advance(&mut self, ticket: &DeskTicket, wait: Wait<'_>) -> Result<(), CallError> {
        let slip = self.desk.slip;
        let progress = |state: &State| state.calls.get(&ticket.call).map(|call| call.stage);
        let outcome = |state: &mut State| {
            progress(state).filter(|stage| matches!(stage, Stage::Answered | Stage::Declined))
        };
        let there = outcome(&mut self.desk.state());
        let wait = match slip {
            Slip::OneCallerWakes if self.id > 1 && there.is_none() => Fault::SleepsThrough.distort(wait),
            _ => wait,
        };
        let stage = self.desk.until(Awaited::Answer, wait, outcome);
        let taken = progress(&self.desk.state()) == Some(Stage::Taken);
        let ends = match stage {
            Ok(stage) => stage == Stage::Declined && slip != Slip::DeclinedStays,
            Err(Unready::TimedOut) => taken && slip == Slip::TimeoutEndsTakenCall,
            Err(Unready::Cancelled) => slip == Slip::CancelEndsCall,
            Err(_) => false,
        };
        ticket.is_over.set(ends || matches!(stage, Ok(Stage::Declined)));
        if ends {
            self.desk.give_up(&mut self.desk.state(), ticket.call);
        }
        if stage? == Stage::Declined { Err(CallError::Declined) } else { Ok(()) }
    }

    fn response(&mut self, ticket: DeskTicket) -> DeskResponse<'_> {
        let slip = self.desk.slip;
        assert!(ticket.client == self.id || slip == Slip::LendsToEverybody, "a ticket of another client");
        let answered = {
            let state = self.desk.state();
            let mut ours = state.calls.iter().filter(|(_, call)| call.client == self.id);
            let number = match slip {
                Slip::AnswersInOrder => ours
                    .find(|(_, call)| call.stage == Stage::Answered)
                    .map_or(ticket.call, |(&number, _)| number),
                _ => ticket.call,
            };
            let call = state.calls.get(&number).filter(|call| call.stage == Stage::Answered);
            call.map(|call| (number, call.bytes.clone(), state.answers))
        };
        let answered = answered.or((slip == Slip::LendsNoResponse).then(|| (ticket.call, Vec::new(), 0)));
        let (call, bytes, answers) = answered.expect("response() without a successful advance()");
        ticket.is_over.set(true);
        DeskResponse { client: self, call, bytes, answers, newest: OnceCell::new() }
    }

    fn abandon(&mut self, ticket: DeskTicket) {
        ticket.is_over.set(true);
        self.desk.give_up(&mut self.desk.state(), ticket.call);
    }

    fn collect(&mut self, ticket: DeskTicket, wait: Wait<'_>) -> Result<DeskResponse<'_>, CallError> {
        if let Err(error) = self.advance(&ticket, wait) {
            match self.desk.slip {
                Slip::CollectLeavesCall => ticket.is_over.set(true),
                _ if ticket.is_over.get() => {}
                _ => self.abandon(ticket),
            }
            return Err(error);
        }
        Ok(self.response(ticket))
    }
}

impl Drop for DeskClient {
    fn drop(&mut self) {
        if self.desk.slip == Slip::ClientLeavesCalls {
            return;
        }
        let mut state = self.desk.state();
        let ours =
            state.calls.iter().filter(|(_, call)| call.client == self.id && call.stage != Stage::Abandoned);
        let ours: Vec<u64> = ours.map(|(&number, _)| number).collect();
        ours.into_iter().for_each(|number| self.desk.give_up(&mut state, number));
    }
}

pub(super) struct DeskResponse<'a> {
    client: &'a mut DeskClient,
    call: u64,
    bytes: Vec<u8>,
    /// How many answers there were when it was lent.
    answers: u64,
    newest: OnceCell<Vec<u8>>,
}

impl Deref for DeskResponse<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let desk = &self.client.desk;
        match desk.slip {
            Slip::OverwritesAnswers if desk.state().answers > self.answers => {
                self.newest.get_or_init(|| desk.state().newest_answer.clone())
            }
            _ => &self.bytes,
        }
    }
}

impl Drop for DeskResponse<'_> {
    fn drop(&mut self) {
        let desk = &self.client.desk;
        desk.state().calls.remove(&self.call);
        desk.changed.notify_all();
    }
}

pub(super) struct DeskServer {
    desk: Arc<Desk>,
    held: Option<u64>,
    request: Vec<u8>,
}

impl DeskServer {
    /// Leaves what it holds to the next one, unless it was abandoned.
    fn give_back(&mut self) {
        let Some(number) = self.held else { return };
        let mut state = self.desk.state();
        match state.calls.get_mut(&number) {
            Some(call) if call.stage == Stage::Taken => {
                call.stage = Stage::Requested;
                self.held = None;
            }
            _ => {
                drop(state);
                drop(self.held());
            }
        }
    }
}

impl Server for DeskServer {
    type Request<'a> = DeskRequest<'a>;

    fn max_message_len(&self) -> usize {
        self.desk.max_message_len
    }

    fn advance(&mut self, wait: Wait<'_>) -> Result<(), RecvError> {
        let slip = self.desk.slip;
        if self.held.is_some() {
            match slip {
                Slip::AdvanceDeclines => drop(self.held()),
                Slip::AdvanceSwaps if self.desk.is_requested() => self.give_back(),
                _ => return Ok(()),
            }
        }
        let (number, request) = self.desk.until(Awaited::Request, wait, |state| {
            let alone = state.calls.len() == 1;
            let takes = |call: &Call| match slip {
                // Who looks is another server: this one holds nothing.
                Slip::GivesAgain if alone => matches!(call.stage, Stage::Requested | Stage::Taken),
                _ => call.stage == Stage::Requested,
            };
            let mut requested = state.calls.iter_mut().filter(|(_, call)| takes(call));
            let (&number, call) = match slip {
                Slip::AdvanceSwaps => requested.next_back()?,
                _ => requested.next()?,
            };
            call.stage = Stage::Taken;
            Some((number, call.bytes.clone()))
        })?;
        (self.held, self.request) = (Some(number), request);
        Ok(())
    }

    fn held(&mut self) -> DeskRequest<'_> {
        assert!(
            self.held.is_some() || self.desk.slip == Slip::LendsNothing,
            "held() without a successful advance()"
        );
        DeskRequest { server: self }
    }
}

impl Drop for DeskServer {
    fn drop(&mut self) {
        match self.desk.slip {
            Slip::ServerTakesAlong => {}
            Slip::ServerGivesBack => self.give_back(),
            _ if self.held.is_some() => drop(self.held()),
            _ => {}
        }
        self.desk.state().servers -= 1;
    }
}

pub(super) struct DeskRequest<'a> {
    server: &'a mut DeskServer,
}

impl Request for DeskRequest<'_> {
    fn respond(self, response: &[u8]) -> Result<bool, SendError> {
        let Desk { slip, max_message_len: max, .. } = *self.server.desk;
        let held = self.server.held;
        if response.len() > max {
            if slip == Slip::TooLongLeavesOpen {
                self.server.held = None;
            }
            return Err(SendError::TooLong { len: response.len(), max });
        }
        self.server.held = None;
        let lost = slip == Slip::LosesEmptyAnswers && response.is_empty();
        let stage = if lost { Stage::Declined } else { Stage::Answered };
        Ok(held.is_some_and(|number| self.server.desk.end(number, stage, response)))
    }
}

impl Deref for DeskRequest<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.server.request
    }
}

impl Drop for DeskRequest<'_> {
    fn drop(&mut self) {
        let Some(number) = self.server.held.take() else { return };
        let unheard = self.server.desk.slip == Slip::DeclinesUnheard;
        self.server.desk.end(number, if unheard { Stage::Lost } else { Stage::Declined }, &[]);
    }
}
