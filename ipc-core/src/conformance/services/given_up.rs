//! Calls that are given up: who didn't take the request never sees it, who did learns that
//! nobody wants the answer, and nothing of it stays behind.

use super::{ServiceFixture, ServiceStage, Services, assert_idle, assert_told, shown};
use crate::{
    CallError, Cancel, Client, Server, Wait,
    conformance::{
        Case, cases,
        payload::Stamp,
        stage::{BRIEF, DEPTH, LEN},
        waits::brief_wait,
    },
};
use std::thread;

pub(in super::super) fn cases<F: ServiceFixture>() -> Vec<Case<Services<F>>> {
    cases![
        a_collect_that_gives_up_ends_its_call,
        a_call_that_gives_up_is_over,
        an_abandoned_request_that_nobody_took_is_withdrawn,
        an_abandoned_request_that_was_taken_has_nobody_to_answer,
        a_late_answer_meets_no_later_call,
        abandoned_calls_cost_no_place,
        declining_what_was_abandoned_frees_its_place,
        what_a_dropped_client_has_under_way_is_given_up,
        dropped_tickets_give_their_calls_up,
    ]
}

fn a_collect_that_gives_up_ends_its_call<F: ServiceFixture>(stage: &ServiceStage<F>) {
    let service = stage.service();
    let (mut client, mut server) = service.ends();
    let places = stage.free_places(&mut client);
    let cancel = Cancel::new();
    cancel.cancel();
    for taken in [false, true] {
        for wait in [Wait::Never, Wait::timeout(BRIEF), Wait::Forever.or_cancel(&cancel)] {
            let ticket = stage.submit(&mut client, Stamp::new(0, 0));
            if taken {
                stage.take(&mut server);
            }
            let waited = shown(client.collect(ticket, wait));
            assert_told!(waited, CallError::WouldBlock | CallError::TimedOut | CallError::Cancelled);
            if taken {
                assert!(!stage.respond(&mut server), "somebody waits for a call that is over");
            }
            assert_idle(&mut server);
        }
    }
    assert_eq!(stage.free_places(&mut client), places, "places before, and after calls given up");
}

fn a_call_that_gives_up_is_over<F: ServiceFixture>(stage: &ServiceStage<F>) {
    let service = stage.service();
    let (mut client, mut server) = service.ends();
    let places = stage.free_places(&mut client);
    let request = Stamp::new(0, 0).message(LEN);
    for _ in 0..3 {
        let waited = brief_wait(stage, || shown(client.call(&request, Wait::timeout(BRIEF))));
        assert_told!(waited, CallError::TimedOut);
        assert_idle(&mut server);
    }
    assert_eq!(stage.free_places(&mut client), places, "places before, and after calls given up");
}

fn an_abandoned_request_that_nobody_took_is_withdrawn<F: ServiceFixture>(stage: &ServiceStage<F>) {
    let service = stage.service();
    let (mut client, mut server) = service.ends();
    let [first, second, third] = [0, 1, 2].map(|sequence| Stamp::new(0, sequence));
    let [one, two, three] = [first, second, third].map(|stamp| stage.submit(&mut client, stamp));
    client.abandon(two);
    let mut served = [stage.serve_one(&mut server), stage.serve_one(&mut server)];
    served.sort_unstable();
    assert_eq!(served, [first, third]);
    assert_idle(&mut server);
    stage.collect(&mut client, three, third);
    stage.collect(&mut client, one, first);
}

fn an_abandoned_request_that_was_taken_has_nobody_to_answer<F: ServiceFixture>(stage: &ServiceStage<F>) {
    let service = stage.service();
    let (mut client, mut server) = service.ends();
    let stamp = Stamp::new(0, 0);
    let ticket = stage.submit(&mut client, stamp);
    assert_eq!(stage.take(&mut server), stamp);
    client.abandon(ticket);
    // Nobody writes where the server reads, whatever else is requested.
    let places = stage.free_places(&mut client);
    assert!(places >= DEPTH - 1, "one place is the server's, {places} are free");
    assert_eq!(stage.take(&mut server), stamp, "what it holds is still the request");
    assert!(!stage.respond(&mut server), "the call was given up, and somebody is said to wait");
    assert!(stage.free_places(&mut client) > places, "answered, and its place isn't free");
}

fn a_late_answer_meets_no_later_call<F: ServiceFixture>(stage: &ServiceStage<F>) {
    let service = stage.service();
    let (mut client, mut server) = service.ends();
    let mut other = service.server();
    for sequence in (0..3 * DEPTH as u64).step_by(2) {
        let (early, late) = (Stamp::new(0, sequence), Stamp::new(0, sequence + 1));
        let ticket = stage.submit(&mut client, early);
        stage.take(&mut server);
        client.abandon(ticket);
        let ticket = stage.submit(&mut client, late);
        assert_eq!(stage.take(&mut other), late);
        assert!(!stage.respond(&mut server), "the call was given up");
        let waited = client.advance(&ticket, Wait::Never);
        assert_told!(waited, CallError::WouldBlock);
        assert!(stage.respond(&mut other), "the caller is there");
        stage.collect(&mut client, ticket, late);
    }
}

fn abandoned_calls_cost_no_place<F: ServiceFixture>(stage: &ServiceStage<F>) {
    let service = stage.service();
    let (mut client, mut server) = service.ends();
    let places = stage.free_places(&mut client);
    for sequence in 0..3 * places as u64 {
        let [untaken, taken, answered] = [0, 1, 2].map(|round| Stamp::new(round, sequence));
        let ticket = stage.submit(&mut client, answered);
        stage.serve_one(&mut server);
        client.abandon(ticket);
        let ticket = stage.submit(&mut client, taken);
        stage.take(&mut server);
        client.abandon(ticket);
        stage.respond(&mut server);
        let ticket = stage.submit(&mut client, untaken);
        client.abandon(ticket);
    }
    assert_eq!(stage.free_places(&mut client), places, "places before, and after calls given up");
}

fn declining_what_was_abandoned_frees_its_place<F: ServiceFixture>(stage: &ServiceStage<F>) {
    let service = stage.service();
    let (mut client, mut server) = service.ends();
    let places = stage.free_places(&mut client);
    for server_goes in [false, true] {
        let ticket = stage.submit(&mut client, Stamp::new(0, 0));
        stage.take(&mut server);
        client.abandon(ticket);
        match server_goes {
            false => drop(server.held()),
            true => server = service.server(),
        }
        assert_eq!(stage.free_places(&mut client), places, "places before, and after");
        assert_idle(&mut server);
    }
}

fn what_a_dropped_client_has_under_way_is_given_up<F: ServiceFixture>(stage: &ServiceStage<F>) {
    let service = stage.service();
    let mut server = service.server();
    let mut successor = service.client();
    let places = stage.free_places(&mut successor);
    for forgotten in [false, true] {
        let mut client = service.client();
        let mut tickets = vec![stage.submit(&mut client, Stamp::new(0, 0))];
        stage.serve_one(&mut server);
        tickets.push(stage.submit(&mut client, Stamp::new(0, 1)));
        stage.take(&mut server);
        tickets.push(stage.submit(&mut client, Stamp::new(0, 2)));
        if forgotten {
            // It doesn't end the calls; only the client's end does.
            tickets.drain(..).for_each(std::mem::forget);
            assert_eq!(
                stage.free_places(&mut successor),
                places - 3,
                "places while three calls are under way"
            );
        }
        drop(client);
        // The others come too late, and end nobody else's calls.
        let later = stage.submit(&mut successor, Stamp::new(1, 0));
        drop(tickets);
        assert_told!(successor.advance(&later, Wait::Never), CallError::WouldBlock);
        successor.abandon(later);
        assert!(!stage.respond(&mut server), "the client is gone, and said to wait");
        assert_idle(&mut server);
        assert_eq!(
            stage.free_places(&mut successor),
            places,
            "places before a client came, and after it went"
        );
    }
}

/// Also when their client is not used again.
fn dropped_tickets_give_their_calls_up<F: ServiceFixture>(stage: &ServiceStage<F>) {
    let service = stage.service();
    let (mut client, mut server) = service.ends();
    let mut other = service.client();
    let places = stage.free_places(&mut other);
    drop(stage.fill(&mut client));
    assert_idle(&mut server);
    assert_eq!(stage.free_places(&mut other), places, "places before, and after tickets were dropped");
    for _ in 0..3 * places {
        let answered = stage.submit(&mut client, Stamp::new(0, 0));
        stage.serve_one(&mut server);
        client.advance(&answered, stage.patiently()).expect("an answer");
        drop(answered);
        drop(stage.submit(&mut client, Stamp::new(0, 1)));
        let taken = stage.submit(&mut client, Stamp::new(0, 2));
        stage.take(&mut server);
        drop(taken);
        assert!(!stage.respond(&mut server), "the call was given up, and somebody is said to wait");
    }
    // While somebody waits for the room.
    let tickets = stage.fill(&mut client);
    thread::scope(|threads| {
        let waiter = threads.spawn(|| other.submit(b"", stage.patiently()).map(drop));
        thread::sleep(BRIEF);
        drop(tickets);
        assert!(matches!(waiter.join(), Ok(Ok(()))), "there is room");
    });
    assert_eq!(stage.free_places(&mut other), places, "places before, and after");
}
