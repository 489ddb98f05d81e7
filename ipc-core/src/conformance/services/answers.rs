//! Each call has its own answer, or is told why not.

use super::{
    ServiceFixture, ServiceStage, Services, TicketOf, assert_answers, assert_idle, assert_told, shown,
};
use crate::{
    CallError, Client, RecvError, Request, SendError, Server, Wait,
    conformance::{
        Case, cases,
        harness::panics,
        order::interesting_lengths,
        payload::{Stamp, scribble},
        processes::SetOnDrop,
        stage::{BRIEF, DEPTH, LEN, Shown},
        waits::{MOMENTS, assert_prompt},
    },
};
use std::{
    mem,
    panic::AssertUnwindSafe,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Instant,
};

pub(in super::super) fn cases<F: ServiceFixture>() -> Vec<Case<Services<F>>> {
    cases![
        a_call_has_its_own_answer_whatever_the_length,
        calls_under_way_are_collected_in_any_order,
        an_answer_in_hand_stays_while_others_come,
        clients_and_servers_on_threads_meet_no_other_answer,
        every_request_comes_to_one_server,
        requests_wait_until_somebody_serves,
        a_dropped_request_is_declined_and_its_caller_told,
        too_long_a_request_is_refused_and_nothing_requested,
        too_long_a_response_declines,
        a_held_request_stays_the_servers_until_it_is_answered,
        a_server_that_goes_with_a_request_in_hand_tells_its_caller,
        held_without_a_request_panics,
        a_response_that_is_not_there_panics,
        a_ticket_of_another_client_panics,
    ]
}

fn a_call_has_its_own_answer_whatever_the_length<F: ServiceFixture>(stage: &ServiceStage<F>) {
    let service = stage.service();
    let (mut client, mut server) = service.ends();
    let max = client.max_message_len();
    assert!(max >= LEN, "asked for messages of {LEN} bytes, the longest has {max}");
    assert_eq!(server.max_message_len(), max, "the server's longest message, and the client's");
    let lengths = interesting_lengths(max);
    // Short questions with long answers, and the other way round.
    for (&asked, &answered) in lengths.iter().zip(lengths.iter().rev()) {
        let (mut question, mut answer) = (vec![0; asked], vec![0; answered]);
        scribble(asked as u64, &mut question);
        scribble(!asked as u64, &mut answer);
        let ticket = client.submit(&question, stage.patiently()).expect("submit");
        let request = server.next(stage.patiently()).expect("a request");
        assert!(*request == *question, "asked {}, not {}", Shown(&request), Shown(&question));
        assert!(request.respond(&answer).expect("respond"), "the caller is there");
        let response = client.collect(ticket, stage.patiently()).expect("an answer");
        assert!(*response == *answer, "answered {}, not {}", Shown(&response), Shown(&answer));
    }
    assert_idle(&mut server);
}

fn calls_under_way_are_collected_in_any_order<F: ServiceFixture>(stage: &ServiceStage<F>) {
    let service = stage.service();
    let mut client = service.client();
    let mut servers: Vec<F::Server> = (0..DEPTH).map(|_| service.server()).collect();
    for (round, order) in (0..).zip([[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1], [1, 3, 0, 2]]) {
        let stamps: Vec<Stamp> = (0..DEPTH as u64).map(|sequence| Stamp::new(round, sequence)).collect();
        let mut tickets: Vec<Option<TicketOf<F>>> =
            stamps.iter().map(|&stamp| Some(stage.submit(&mut client, stamp))).collect();
        for server in &mut servers {
            stage.take(server);
        }
        // Another order of answering, whichever it is.
        for server in servers.iter_mut().rev() {
            assert!(stage.respond(server), "the caller is there");
        }
        for place in order {
            let ticket = tickets[place].take().expect("each is collected once");
            stage.collect(&mut client, ticket, stamps[place]);
        }
    }
}

fn an_answer_in_hand_stays_while_others_come<F: ServiceFixture>(stage: &ServiceStage<F>) {
    let service = stage.service();
    let (mut client, mut server) = service.ends();
    let mut other = service.client();
    let first = Stamp::new(0, 0);
    let ticket = stage.submit(&mut client, first);
    stage.serve_one(&mut server);
    let response = client.collect(ticket, stage.patiently()).expect("an answer");
    // All that others can do meanwhile.
    for sequence in 0..3 * DEPTH as u64 {
        let stamp = Stamp::new(1, sequence);
        let ticket = stage.submit(&mut other, stamp);
        stage.serve_one(&mut server);
        stage.collect(&mut other, ticket, stamp);
        assert_answers(&response, first);
    }
}

fn clients_and_servers_on_threads_meet_no_other_answer<F: ServiceFixture>(stage: &ServiceStage<F>) {
    const EACH: u64 = 300;
    let service = stage.service();
    let clients = [service.client(), service.client(), service.client()];
    let servers = [service.server(), service.server()];
    let enough = AtomicBool::new(false);
    thread::scope(|threads| {
        for mut server in servers {
            let enough = &enough;
            threads.spawn(move || serve_until(stage, &mut server, enough));
        }
        // Ends the servers also if a client fails.
        let _stop = SetOnDrop(&enough);
        let callers: Vec<_> = (0..)
            .zip(clients)
            .map(|(round, client)| threads.spawn(move || call_two_by_two(stage, client, round, EACH)))
            .collect();
        callers.into_iter().for_each(|caller| caller.join().expect("each call had its own answer"));
    });
}

/// Serves whoever calls until there is enough.
pub(super) fn serve_until<F: ServiceFixture>(
    stage: &ServiceStage<F>,
    server: &mut F::Server,
    enough: &AtomicBool,
) {
    while !enough.load(Ordering::Relaxed) {
        match server.advance(Wait::timeout(BRIEF)) {
            // Whether the caller is still there is for others to check.
            Ok(()) => drop(stage.respond(server)),
            Err(RecvError::TimedOut) => {}
            Err(error) => panic!("the server was told: {error}"),
        }
    }
}

/// Two calls under way at a time, the later one collected first.
pub(super) fn call_two_by_two<F: ServiceFixture>(
    stage: &ServiceStage<F>,
    mut client: F::Client,
    round: u32,
    count: u64,
) {
    for sequence in (0..count).step_by(2) {
        let (first, second) = (Stamp::new(round, sequence), Stamp::new(round, sequence + 1));
        let one = stage.submit(&mut client, first);
        // Where others have all the places, each with one call under way, waiting for a second
        // one could be for ever.
        match client.submit(&second.message_up_to(LEN), Wait::Never) {
            Ok(two) => {
                stage.collect(&mut client, two, second);
                stage.collect(&mut client, one, first);
            }
            Err(CallError::WouldBlock) => {
                stage.collect(&mut client, one, first);
                stage.call(&mut client, second);
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn every_request_comes_to_one_server<F: ServiceFixture>(stage: &ServiceStage<F>) {
    let service = stage.service();
    let mut client = service.client();
    let (mut one, mut other) = (service.server(), service.server());
    for sequence in 0..3 {
        let stamp = Stamp::new(0, sequence);
        let ticket = stage.submit(&mut client, stamp);
        assert_eq!(stage.take(&mut one), stamp);
        assert_idle(&mut other);
        assert!(stage.respond(&mut one), "the caller is there");
        assert_idle(&mut other);
        assert_idle(&mut one);
        stage.collect(&mut client, ticket, stamp);
        mem::swap(&mut one, &mut other);
    }
}

fn requests_wait_until_somebody_serves<F: ServiceFixture>(stage: &ServiceStage<F>) {
    let service = stage.service();
    let mut client = service.client();
    let stamps = (0..DEPTH as u64).map(|sequence| Stamp::new(0, sequence));
    let tickets: Vec<_> = stamps.map(|stamp| (stage.submit(&mut client, stamp), stamp)).collect();
    let waited = client.advance(&tickets[0].0, Wait::timeout(BRIEF));
    assert_told!(waited, CallError::TimedOut);
    let mut server = service.server();
    for _ in 0..DEPTH {
        stage.serve_one(&mut server);
    }
    for (ticket, stamp) in tickets {
        stage.collect(&mut client, ticket, stamp);
    }
}

fn a_dropped_request_is_declined_and_its_caller_told<F: ServiceFixture>(stage: &ServiceStage<F>) {
    let service = stage.service();
    let (mut client, mut server) = service.ends();
    let places = stage.free_places(&mut client);
    let ticket = stage.submit(&mut client, Stamp::new(0, 0));
    drop(server.next(stage.patiently()).expect("a request"));
    assert_told!(client.advance(&ticket, Wait::Never), CallError::Declined);
    drop(ticket);
    for moment in MOMENTS {
        thread::scope(|threads| {
            let caller = threads.spawn(|| shown(client.call(b"no", stage.patiently())));
            server.advance(stage.patiently()).expect("a request");
            thread::sleep(moment);
            let dropped = Instant::now();
            drop(server.held());
            assert_told!(caller.join().expect("no panic"), CallError::Declined);
            assert_prompt(stage, dropped);
        });
    }
    assert_idle(&mut server);
    assert_eq!(stage.free_places(&mut client), places, "a declined call is over");
}

fn too_long_a_request_is_refused_and_nothing_requested<F: ServiceFixture>(stage: &ServiceStage<F>) {
    let service = stage.service();
    let (mut client, mut server) = service.ends();
    let places = stage.free_places(&mut client);
    let longest = client.max_message_len();
    // Waiting wouldn't help, so there is no waiting.
    for wait in [Wait::Never, stage.patiently(), Wait::Forever] {
        match client.submit(&vec![7; longest + 1], wait) {
            Err(CallError::TooLong { len, max }) => assert_eq!((len, max), (longest + 1, longest)),
            other => panic!("{} bytes where {longest} is the longest: {other:?}", longest + 1),
        }
    }
    let answer = shown(client.call(&vec![7; longest + 1], Wait::Forever));
    assert_told!(answer, CallError::TooLong { .. });
    assert!(matches!(server.advance(Wait::Never), Err(RecvError::WouldBlock)), "a refused request came");
    assert_eq!(stage.free_places(&mut client), places, "a refused request takes up no place");
}

fn too_long_a_response_declines<F: ServiceFixture>(stage: &ServiceStage<F>) {
    let service = stage.service();
    let (mut client, mut server) = service.ends();
    let longest = server.max_message_len();
    let ticket = stage.submit(&mut client, Stamp::new(0, 0));
    let request = server.next(stage.patiently()).expect("a request");
    match request.respond(&vec![7; longest + 1]) {
        Err(SendError::TooLong { len, max }) => assert_eq!((len, max), (longest + 1, longest)),
        other => panic!("{} bytes where {longest} is the longest: {other:?}", longest + 1),
    }
    assert_told!(shown(client.collect(ticket, Wait::Never)), CallError::Declined);
    assert_idle(&mut server);
}

fn a_held_request_stays_the_servers_until_it_is_answered<F: ServiceFixture>(stage: &ServiceStage<F>) {
    let service = stage.service();
    let (mut client, mut server) = service.ends();
    let mut other = service.server();
    let (first, second) = (Stamp::new(0, 0), Stamp::new(0, 1));
    let ticket = stage.submit(&mut client, first);
    assert_eq!(stage.take(&mut server), first);
    let later = stage.submit(&mut client, second);
    for _ in 0..3 {
        // It may not take another one, nor wait.
        server.advance(Wait::Never).expect("it holds a request");
        assert_eq!(stage.take(&mut server), first);
    }
    assert_eq!(stage.take(&mut other), second);
    assert!(stage.respond(&mut server) && stage.respond(&mut other), "the caller is there");
    stage.collect(&mut client, ticket, first);
    stage.collect(&mut client, later, second);
    assert_idle(&mut server);
}

/// Whether it is told `Declined` or `ServerDied` is the service's choice.
fn a_server_that_goes_with_a_request_in_hand_tells_its_caller<F: ServiceFixture>(stage: &ServiceStage<F>) {
    let service = stage.service();
    let (mut client, mut server) = service.ends();
    let ticket = stage.submit(&mut client, Stamp::new(0, 0));
    stage.take(&mut server);
    drop(server);
    let answer = shown(client.collect(ticket, stage.patiently()));
    assert_told!(answer, CallError::Declined | CallError::ServerDied);
    // Somebody may have acted on it, so nobody else is asked.
    assert_idle(&mut service.server());
}

fn held_without_a_request_panics<F: ServiceFixture>(stage: &ServiceStage<F>) {
    let service = stage.service();
    let (mut client, mut server) = service.ends();
    assert!(panics(AssertUnwindSafe(|| drop(server.held()))), "nothing was requested, and it is lent");
    let ticket = stage.submit(&mut client, Stamp::new(0, 0));
    stage.serve_one(&mut server);
    assert!(panics(AssertUnwindSafe(|| drop(server.held()))), "it was answered, and it is lent again");
    stage.collect(&mut client, ticket, Stamp::new(0, 0));
}

fn a_response_that_is_not_there_panics<F: ServiceFixture>(stage: &ServiceStage<F>) {
    for taken in [false, true] {
        let service = stage.service();
        let (mut client, mut server) = service.ends();
        let ticket = stage.submit(&mut client, Stamp::new(0, 0));
        if taken {
            stage.take(&mut server);
        }
        assert_told!(client.advance(&ticket, Wait::Never), CallError::WouldBlock);
        let panicked = panics(AssertUnwindSafe(|| drop(client.response(ticket))));
        assert!(panicked, "nobody answered, and there is a response");
    }
}

fn a_ticket_of_another_client_panics<F: ServiceFixture>(stage: &ServiceStage<F>) {
    let service = stage.service();
    let (mut client, mut server) = service.ends();
    let mut other = service.client();
    let (ours, theirs) = (Stamp::new(0, 0), Stamp::new(1, 0));
    let ticket = stage.submit(&mut client, ours);
    let kept = stage.submit(&mut other, theirs);
    stage.serve_one(&mut server);
    stage.serve_one(&mut server);
    client.advance(&ticket, stage.patiently()).expect("an answer");
    other.advance(&kept, stage.patiently()).expect("an answer");
    let panicked = panics(AssertUnwindSafe(|| drop(other.response(ticket))));
    assert!(panicked, "a client lent another one's response");
    stage.collect(&mut other, kept, theirs);
}
