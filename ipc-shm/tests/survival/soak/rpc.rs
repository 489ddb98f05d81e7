//! Services, in a crowd: each call has its own answer, or its caller is told why not.

use super::{
    Shared,
    check::Account,
    log::{Event, Message, Record},
    worker::{Life, MAX_LEN, Part, Worker, bytes_of, for_a_while, in_a_fork, message_of},
};
use crate::common::Dice;
use ipc_shm::{
    CallError, Client, Kind, RecvError, Request, Rpc, RpcChannel, RpcClient, RpcServer, RpcTicket, Server,
    ShmConfig, Wait,
};
use std::{
    collections::HashMap,
    thread,
    time::{Duration, Instant},
};

/// Whoever waits so long for an answer or the news of a death waits in vain: with a machine
/// that is busy otherwise, and servers that are stopped now and then.
const IN_VAIN: Duration = Duration::from_secs(6);

const PARTICIPANTS: u32 = 16;

pub(super) fn config(dice: &mut Dice) -> ShmConfig {
    ShmConfig::new()
        .kind(Kind::Rpc)
        .depth(1 + dice.below(12))
        .max_message_len(MAX_LEN)
        .participants(PARTICIPANTS)
}

pub(super) fn live(worker: &Worker, shared: &Shared) {
    let mut life = Life::begin(worker, shared);
    match worker.part {
        Part::Sender => {
            while !shared.is_over() {
                call(&mut life);
            }
        }
        // As long as anybody calls.
        _ => {
            while !shared.is_quiet() {
                serve(&mut life);
            }
        }
    }
}

/// After a server's death, somebody is told of it; after a client's, another one calls.
pub(super) fn progress(shared: &Shared, part: Part) -> u64 {
    if part == Part::Sender { shared.sent() } else { shared.told() }
}

fn open(worker: &Worker) -> RpcChannel {
    Rpc::at(&worker.directory).open_or_create(&worker.name, &worker.config).expect("it can be opened or made")
}

/// What is answered to this request.
fn answer_to(question: Message) -> Vec<u8> {
    bytes_of(Message { sender: !question.sender, ..question })
}

fn call(life: &mut Life<'_>) {
    let channel = open(life.worker);
    let Some(mut client) = life.attach(|| channel.client()) else { return };
    client.set_waiting(life.waiting());
    for _ in 0..1 + life.dice.below(2000) {
        if life.shared.is_over() {
            return;
        }
        // Who changes its mind, does so sooner or later.
        let patience = match life.dice.below(10) {
            0 => Duration::from_micros(life.dice.below(2000)),
            _ => IN_VAIN,
        };
        match life.dice.below(100) {
            0 => in_a_fork(|| assert!(matches!(client.submit(&[], Wait::Never), Err(CallError::Forked)))),
            1..20 => call_several(life, &mut client, patience),
            _ => {
                if let Some((question, ticket)) = submit(life, &mut client, patience) {
                    collect(life, &mut client, question, ticket, patience);
                }
            }
        }
        life.breathe();
    }
}

fn submit(life: &mut Life<'_>, client: &mut RpcClient, patience: Duration) -> Option<(Message, RpcTicket)> {
    let question = life.next_message();
    life.note(Event::Meant, question, None);
    match client.submit(&bytes_of(question), Wait::Until(Instant::now() + patience)) {
        Ok(ticket) => {
            life.shared.count_sent(1);
            Some((question, ticket))
        }
        Err(CallError::TimedOut) => {
            give_up(life, question, patience);
            None
        }
        Err(error) => panic!("can't call: {error}"),
    }
}

fn give_up(life: &mut Life<'_>, question: Message, patience: Duration) {
    life.note(if patience == IN_VAIN { Event::Unended } else { Event::Refused }, question, None);
}

/// Collected in another order than they were made in, and some given up.
fn call_several(life: &mut Life<'_>, client: &mut RpcClient, patience: Duration) {
    let mut calls = Vec::new();
    for _ in 0..=life.dice.below(3) {
        // Other clients may have the places that are left, and wait like us.
        calls.extend(submit(life, client, patience.min(Duration::from_millis(1))));
    }
    while !calls.is_empty() {
        let (question, ticket) = calls.swap_remove(life.dice.below(calls.len() as u64) as usize);
        if life.dice.below(10) == 0 {
            client.abandon(ticket);
            life.note(Event::Refused, question, None);
        } else {
            collect(life, client, question, ticket, patience);
        }
    }
}

fn collect(
    life: &mut Life<'_>,
    client: &mut RpcClient,
    question: Message,
    ticket: RpcTicket,
    patience: Duration,
) {
    let event = match client.collect(ticket, Wait::Until(Instant::now() + patience)) {
        Ok(answer) if *answer == *answer_to(question) => Event::Got,
        Ok(_) => Event::Foreign,
        Err(CallError::ServerDied) => Event::Bereaved,
        Err(CallError::Declined) => Event::Declined,
        Err(CallError::TimedOut) => return give_up(life, question, patience),
        Err(error) => panic!("can't be answered: {error}"),
    };
    life.note(event, question, None);
    life.shared.count_received(1);
    if event == Event::Bereaved {
        life.shared.count_told();
    }
}

fn serve(life: &mut Life<'_>) {
    let channel = open(life.worker);
    let Some(mut server) = life.attach(|| channel.server()) else { return };
    server.set_waiting(life.waiting());
    for _ in 0..1 + life.dice.below(2000) {
        if life.shared.is_quiet() {
            return;
        }
        if life.dice.below(100) == 0 {
            in_a_fork(|| assert!(matches!(server.advance(Wait::Never), Err(RecvError::Forked))));
        }
        serve_one(life, &mut server);
    }
}

fn serve_one(life: &mut Life<'_>, server: &mut RpcServer) {
    let request = match server.next(for_a_while()) {
        Ok(request) => request,
        Err(RecvError::TimedOut) => return,
        Err(error) => panic!("can't serve: {error}"),
    };
    let question = message_of(&request);
    life.note(Event::Taken, question, None);
    if life.dice.below(4) == 0 {
        // Work, in which it may be killed.
        thread::sleep(Duration::from_micros(life.dice.below(500)));
    }
    let event = match life.dice.below(20) {
        0 => {
            drop(request);
            Event::Returned
        }
        _ => match request.respond(&answer_to(question)) {
            Ok(true) => Event::Answered,
            Ok(false) => Event::Unheard,
            Err(error) => panic!("can't answer: {error}"),
        },
    };
    life.note(event, question, None);
}

/// Nothing is under way; there is a place for everybody, and each slot can be used.
pub(super) fn clear_up(pattern: &Worker, _id: u32, _shared: &Shared) {
    let channel = open(pattern);
    let stat = || Rpc::at(&pattern.directory).stat(&pattern.name).expect("it is there");
    let mut clients: Vec<_> =
        (0..PARTICIPANTS - 1).map(|_| channel.client().expect("there is a place")).collect();
    assert_eq!(stat().queued_messages, Some(0), "what the dead left is in order");
    let mut server = channel.server().expect("there is a place");
    let depth = stat().depth.expect("it is known");
    for client in &mut clients {
        let question = |number: u64| Message { sender: 1, number: number as u32 };
        let tickets: Vec<_> = (0..depth)
            .map(|number| {
                client.submit(&bytes_of(question(number)), Wait::Never).expect("every slot is free")
            })
            .collect();
        assert!(matches!(client.submit(&[], Wait::Never), Err(CallError::WouldBlock)));
        for _ in 0..depth {
            let request = server.next(Wait::Never).expect("it was requested");
            let answer = answer_to(message_of(&request));
            request.respond(&answer).expect("it fits");
        }
        for (number, ticket) in (0..).zip(tickets) {
            let answer = client.collect(ticket, Wait::Never).expect("it was answered");
            assert_eq!(*answer, *answer_to(question(number)));
        }
    }
}

/// What became of a call, by its client and by its server.
#[derive(Clone, Copy, Debug, Default)]
struct Call {
    was_meant: bool,
    end: Option<Event>,
    /// How many servers took it.
    taken: usize,
    served: Option<Event>,
}

/// Balances the logs.
pub(super) fn balance(logs: &[Vec<Record>]) -> Account {
    let mut calls: HashMap<Message, Call> = HashMap::new();
    for record in logs.iter().flatten() {
        let call = calls.entry(record.message).or_default();
        match record.event {
            Event::Meant => call.was_meant = true,
            Event::Taken => call.taken += 1,
            Event::Answered | Event::Returned | Event::Unheard => call.served = Some(record.event),
            end => call.end = Some(end),
        }
    }
    let mut account = Account::default();
    for call in calls.values() {
        account.acknowledged += usize::from(call.was_meant);
        account.invented += usize::from(!call.was_meant);
        account.duplicated += call.taken.saturating_sub(1);
        account.invented += usize::from(call.served.is_some() && call.taken == 0);
        match call.end {
            Some(Event::Got) => {
                account.delivered += 1;
                // A server wrote down that it took it, and wasn't told that nobody listened.
                let is_answered = matches!(call.served, Some(Event::Answered) | None);
                account.invented += usize::from(call.taken == 0 || !is_answered);
            }
            Some(Event::Bereaved) => {
                account.told += 1;
                // Who says what became of the call had not died with it.
                account.lost += usize::from(call.served.is_some());
            }
            Some(Event::Declined) => {
                account.declined += 1;
                account.lost += usize::from(!matches!(call.served, Some(Event::Returned) | None));
                account.invented += usize::from(call.taken == 0);
            }
            Some(Event::Refused) => account.given_up += 1,
            Some(Event::Unended) => account.unended += 1,
            Some(_) => account.invented += 1,
            // Its client was killed.
            None => account.unacknowledged += 1,
        }
    }
    account
}

/// Whether what is wrong would be noticed.
pub(super) fn notices_what_is_wrong() -> bool {
    let record =
        |event| Record { event, message: Message { sender: 1, number: 1 }, attempts: None, order: 0 };
    let of = |client: &[Event], server: &[Event]| {
        let log = |events: &[Event]| events.iter().map(|&event| record(event)).collect::<Vec<_>>();
        balance(&[log(&[&[Event::Meant], client].concat()), log(server)])
    };
    use Event::{Answered, Bereaved, Declined, Foreign, Got, Refused, Returned, Taken, Unended, Unheard};
    let fair = [
        of(&[Got], &[Taken, Answered]),
        of(&[Got], &[Taken]),
        of(&[Bereaved], &[Taken]),
        of(&[Bereaved], &[]),
        of(&[Declined], &[Taken, Returned]),
        of(&[Refused], &[Taken, Unheard]),
        of(&[Refused], &[]),
        of(&[], &[Taken, Answered]),
    ];
    fair.iter().all(Account::is_balanced)
        && of(&[Got], &[]).invented > 0
        && of(&[Got], &[Taken, Unheard]).invented > 0
        && of(&[Foreign], &[Taken, Answered]).invented > 0
        && of(&[Bereaved], &[Taken, Answered]).lost > 0
        && of(&[Declined], &[Taken, Answered]).lost > 0
        && of(&[Got], &[Taken, Taken, Answered]).duplicated > 0
        && !of(&[Unended], &[Taken]).is_balanced()
}
