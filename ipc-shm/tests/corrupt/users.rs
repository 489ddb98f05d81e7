//! Those who use a channel that may be spoiled, in every way there is, and what they may be
//! told: a message, that they have to wait, or what is wrong.

use ipc_shm::{
    Batch, BatchReceiver, CallError, Channel, ChannelError, ChannelInfo, Client, EndMark, Loan, Message,
    Pollable, Receiver, RecvError, Request, RpcChannel, RpcClient, RpcServer, RpcTicket, SendError, Sender,
    Server, ShmChannel, ShmReceiver, ShmSender, Wait, Waiting,
};
use std::{hint::black_box, time::Duration};

/// Whether anything was found to be wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) is_corrupt: bool,
}

impl Found {
    const SOUND: Self = Self { is_corrupt: false };
    const CORRUPT: Self = Self { is_corrupt: true };

    pub(crate) fn and(self, other: Self) -> Self {
        Self { is_corrupt: self.is_corrupt || other.is_corrupt }
    }
}

/// A channel that is open: with senders and receivers, or with clients and servers.
pub(crate) enum Opened {
    Queue(ShmChannel),
    Service(RpcChannel),
}

/// The two ends of a channel, as far as they could be attached.
pub(crate) struct Users {
    _channel: Opened,
    ends: Ends,
    found: Found,
}

#[expect(clippy::large_enum_variant, reason = "there is one at a time")]
enum Ends {
    Queue(Option<ShmSender>, Option<ShmReceiver>),
    Service(Option<(RpcClient, Vec<RpcTicket>)>, Option<RpcServer>),
}

impl Users {
    /// Each end alone: the one that is corrupt mustn't hide the other one.
    pub(crate) fn attach(channel: Opened) -> Self {
        let mut found = Found::SOUND;
        let ends = match &channel {
            Opened::Queue(queue) => {
                let receiver = attached(queue.receiver(), &mut found);
                Ends::Queue(attached(queue.sender(), &mut found), receiver)
            }
            Opened::Service(service) => {
                let client = attached(service.client(), &mut found);
                let server = attached(service.server(), &mut found);
                Ends::Service(client.map(|client| (client, Vec::new())), server)
            }
        };
        Self { _channel: channel, ends, found }
    }

    /// Holds what there is, and room for more.
    pub(crate) fn hold(&mut self) {
        let found = match &mut self.ends {
            Ends::Queue(tx, rx) => {
                let tx = tx.as_mut().map(|tx| {
                    let first = sent(tx.try_send(b"to be held")).0;
                    first.and(sent(tx.reserve(40, Wait::Never)).0)
                });
                let rx = rx.as_mut().map(|rx| received(rx.advance_batch(2, Wait::Never)).0);
                [tx, rx]
            }
            Ends::Service(client, server) => {
                let client = client.as_mut().map(|(client, tickets)| submit_two(client, tickets));
                let server = server.as_mut().map(|server| received(server.advance(Wait::Never)).0);
                [client, server]
            }
        };
        self.found = found.into_iter().flatten().fold(self.found, Found::and);
    }

    /// Asks for a descriptor to poll. The kernel takes milliseconds to close it.
    pub(crate) fn poll(&mut self) {
        if let Ends::Queue(_, Some(rx)) = &mut self.ends {
            self.found = self.found.and(received(rx.arm()).0);
        }
    }

    /// Uses both in every way there is; room that was made may be found.
    pub(crate) fn use_both(mut self) -> Found {
        for _ in 0..2 {
            let found = match &mut self.ends {
                Ends::Queue(tx, rx) => [tx.as_mut().map(send_some), rx.as_mut().map(receive_some)],
                Ends::Service(client, server) => {
                    let before = client.as_mut().map(|(client, tickets)| submit_two(client, tickets));
                    let served = server.as_mut().map(serve_some);
                    let after = client.as_mut().map(|(client, tickets)| collect_all(client, tickets));
                    [before.map(|before| after.map_or(before, |after| before.and(after))), served]
                }
            };
            self.found = found.into_iter().flatten().fold(self.found, Found::and);
        }
        self.found
    }
}

fn attached<T>(answer: Result<T, ChannelError>, found: &mut Found) -> Option<T> {
    match answer {
        Ok(endpoint) => Some(endpoint),
        // What was opened may be of another instance now, or made for fewer participants.
        Err(ChannelError::Corrupt(_) | ChannelError::NotFound | ChannelError::Limit(_)) => {
            *found = Found::CORRUPT;
            None
        }
        Err(error) => panic!("{error:?}"),
    }
}

pub(crate) fn opened(answer: Result<Opened, ChannelError>) -> Option<Opened> {
    match answer {
        Ok(channel) => Some(channel),
        // A lifetime may have turned into the other one, of a channel that seems empty.
        Err(ChannelError::Corrupt(_) | ChannelError::NotFound) => None,
        Err(error) => panic!("open: {error:?}"),
    }
}

pub(crate) fn look(answer: Result<ChannelInfo, ChannelError>) -> Found {
    match answer {
        Ok(info) => {
            black_box(info);
            Found::SOUND
        }
        Err(ChannelError::Corrupt(_) | ChannelError::NotFound) => Found::CORRUPT,
        Err(error) => panic!("stat: {error:?}"),
    }
}

pub(crate) fn sent<T>(answer: Result<T, SendError>) -> (Found, Option<T>) {
    match answer {
        Ok(done) => (Found::SOUND, Some(done)),
        // The longest message may be a shorter one now.
        Err(SendError::WouldBlock | SendError::TimedOut | SendError::TooLong { .. }) => (Found::SOUND, None),
        Err(SendError::Corrupt(_)) => (Found::CORRUPT, None),
        Err(error) => panic!("{error:?}"),
    }
}

pub(crate) fn received<T>(answer: Result<T, RecvError>) -> (Found, Option<T>) {
    match answer {
        Ok(done) => (Found::SOUND, Some(done)),
        Err(RecvError::WouldBlock | RecvError::TimedOut | RecvError::End | RecvError::Lagged { .. }) => {
            (Found::SOUND, None)
        }
        Err(RecvError::Corrupt(_)) => (Found::CORRUPT, None),
        Err(error) => panic!("{error:?}"),
    }
}

fn send_some(tx: &mut ShmSender) -> Found {
    let mut found = Found::SOUND;
    let longest = tx.max_message_len();
    for len in [0, 1, 8, 100, 3000, longest].map(|len| len.min(longest)) {
        let (what, loan) = sent(tx.loan(len, Wait::Never));
        found = found.and(what);
        let Some(mut loan) = loan else { continue };
        assert_eq!(loan.len(), len);
        loan.fill(3);
        match len {
            1 => drop(loan),
            100 => {
                loan.truncate(50);
                found = found.and(commit(loan));
            }
            _ => found = found.and(commit(loan)),
        }
    }
    found = found.and(sent(tx.send_end(Wait::Never)).0);
    tx.set_waiting(Waiting::Block);
    found.and(sent(tx.send_timeout(b"x", Duration::ZERO)).0)
}

fn commit(loan: impl Loan) -> Found {
    sent(loan.commit(Wait::Never).map_err(|rejected| rejected.error)).0
}

pub(crate) fn called<T>(answer: Result<T, CallError>) -> (Found, Option<T>) {
    match answer {
        Ok(done) => (Found::SOUND, Some(done)),
        Err(
            CallError::WouldBlock
            | CallError::TimedOut
            | CallError::TooLong { .. }
            | CallError::Declined
            | CallError::ServerDied,
        ) => (Found::SOUND, None),
        Err(CallError::Corrupt(_)) => (Found::CORRUPT, None),
        Err(error) => panic!("{error:?}"),
    }
}

fn submit_two(client: &mut RpcClient, tickets: &mut Vec<RpcTicket>) -> Found {
    let longest = vec![8; client.max_message_len()];
    [&longest[..], b"a request"].into_iter().fold(Found::SOUND, |all, request| {
        let (found, ticket) = called(client.submit(request, Wait::Never));
        tickets.extend(ticket);
        all.and(found)
    })
}

/// One is collected in steps, one at once, and the others are given up.
fn collect_all(client: &mut RpcClient, tickets: &mut Vec<RpcTicket>) -> Found {
    let mut all = Found::SOUND;
    for (number, ticket) in tickets.drain(..).enumerate() {
        match number {
            0 => {
                let (found, answered) = called(client.advance(&ticket, Wait::Never));
                all = all.and(found);
                if answered.is_some() {
                    touch(&client.response(ticket));
                }
            }
            1 => {
                let (found, response) = called(client.collect(ticket, Wait::Never));
                all = all.and(found);
                if let Some(response) = response {
                    touch(&response);
                }
            }
            _ => client.abandon(ticket),
        }
    }
    client.set_waiting(Waiting::Block);
    all.and(called(client.call(b"x", Wait::timeout(Duration::ZERO)).map(drop)).0)
}

/// Answers, answers in place, declines.
fn serve_some(server: &mut RpcServer) -> Found {
    let mut all = Found::SOUND;
    let longest = server.max_message_len();
    for number in 0..9 {
        let (found, request) = received(server.next(Wait::Never));
        all = all.and(found);
        let Some(request) = request else { break };
        touch(&request);
        let (found, _) = match number % 3 {
            0 => sent(request.respond(&vec![6; longest])),
            1 => sent(request.respond_in_place(5, |space| space.fill(7))),
            _ => continue,
        };
        all = all.and(found);
    }
    server.set_waiting(Waiting::Block);
    all.and(received(server.advance(Wait::timeout(Duration::ZERO))).0)
}

/// Every byte that is lent can be read.
pub(crate) fn touch(message: &[u8]) {
    black_box(message.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)));
}

/// More messages than a small channel can hold.
const MANY: usize = 600;

fn receive_some(rx: &mut ShmReceiver) -> Found {
    let mut found = {
        let (found, message) = received(rx.try_recv());
        if let Some(message) = message {
            touch(&message);
            message.keep();
        }
        found
    };
    for max in [1, 3, MANY] {
        let (what, held) = received(rx.advance_batch(max, Wait::Never));
        found = found.and(what);
        if let Some(held) = held {
            let batch = rx.held_batch();
            assert!(batch.len() == held && held <= max.max(3), "{held} of at most {max}");
            batch.iter().for_each(touch);
            batch.release(2);
        }
    }
    for _ in 0..MANY {
        match rx.try_recv() {
            Ok(message) => touch(&message),
            Err(RecvError::End | RecvError::Lagged { .. }) => {}
            other => {
                found = found.and(received(other).0);
                break;
            }
        }
    }
    rx.set_waiting(Waiting::Block);
    found.and(received(rx.recv_timeout(Duration::ZERO).map(drop)).0)
}
