//! Waiting for answers, for room and for requests: as long as asked, and the call goes on.

use super::{ServiceFixture, ServiceStage, Services, assert_answers, assert_idle, assert_told, shown};
use crate::{
    CallError, Cancel, Client, RecvError, Server, Wait,
    conformance::{
        Case, cases,
        payload::Stamp,
        stage::{BRIEF, LEN},
        waits::{MOMENTS, assert_prompt, brief_wait, cancelled_after, farthest_instant},
    },
};
use std::{
    thread,
    time::{Duration, Instant},
};

pub(in super::super) fn cases<F: ServiceFixture>() -> Vec<Case<Services<F>>> {
    cases![
        a_wait_for_an_answer_ends_in_time_and_the_call_goes_on,
        cancelling_wakes_a_caller_and_the_call_goes_on,
        an_answer_that_is_there_needs_no_waiting,
        a_waiting_caller_gets_its_answer,
        every_waiting_caller_gets_its_answer,
        the_longest_waits_for_an_answer_do_not_overflow,
        without_room_a_call_is_refused_in_time_and_nothing_requested,
        cancelling_wakes_a_client_that_waits_for_room,
        a_waiting_client_goes_on_when_there_is_room,
        the_longest_waits_for_room_do_not_overflow,
        a_wait_for_a_request_ends_in_time,
        cancelling_wakes_a_waiting_server,
        a_request_that_is_there_needs_no_waiting,
        a_waiting_server_gets_a_request,
        the_longest_waits_for_a_request_do_not_overflow,
    ]
}

fn a_wait_for_an_answer_ends_in_time_and_the_call_goes_on<F: ServiceFixture>(stage: &ServiceStage<F>) {
    let service = stage.service();
    let (mut client, mut server) = service.ends();
    let stamp = Stamp::new(0, 0);
    let ticket = stage.submit(&mut client, stamp);
    for taken in [false, true] {
        if taken {
            stage.take(&mut server);
        }
        for _ in 0..3 {
            assert_told!(client.advance(&ticket, Wait::Never), CallError::WouldBlock);
            let waited = brief_wait(stage, || client.advance(&ticket, Wait::timeout(BRIEF)));
            assert_told!(waited, CallError::TimedOut);
        }
    }
    assert!(stage.respond(&mut server), "the caller is taken for gone");
    stage.collect(&mut client, ticket, stamp);
}

fn cancelling_wakes_a_caller_and_the_call_goes_on<F: ServiceFixture>(stage: &ServiceStage<F>) {
    let service = stage.service();
    let (mut client, mut server) = service.ends();
    let stamp = Stamp::new(0, 0);
    let mut ticket = stage.submit(&mut client, stamp);
    for taken in [false, true] {
        if taken {
            stage.take(&mut server);
        }
        for moment in MOMENTS {
            let cancel = Cancel::new();
            let wait = stage.patiently().or_cancel(&cancel);
            let waited;
            (waited, ticket) =
                cancelled_after(stage, moment, &cancel, || (client.advance(&ticket, wait), ticket));
            assert_told!(waited, CallError::Cancelled);
            // And one that was cancelled before it began.
            let start = Instant::now();
            let waited = client.advance(&ticket, Wait::Forever.or_cancel(&cancel));
            assert_told!(waited, CallError::Cancelled);
            assert_prompt(stage, start);
        }
    }
    assert!(stage.respond(&mut server), "the caller is taken for gone");
    stage.collect(&mut client, ticket, stamp);
}

fn an_answer_that_is_there_needs_no_waiting<F: ServiceFixture>(stage: &ServiceStage<F>) {
    let service = stage.service();
    let (mut client, mut server) = service.ends();
    let cancel = Cancel::new();
    for (sequence, wait) in (0..).zip(waits_that_are_over(&cancel)) {
        let stamp = Stamp::new(0, sequence);
        let ticket = stage.submit(&mut client, stamp);
        stage.serve_one(&mut server);
        for _ in 0..2 {
            client.advance(&ticket, wait).expect("the answer is there");
        }
        assert_answers(&client.response(ticket), stamp);
    }
}

fn a_waiting_caller_gets_its_answer<F: ServiceFixture>(stage: &ServiceStage<F>) {
    let service = stage.service();
    let (mut client, mut server) = service.ends();
    for (sequence, moment) in (0..).zip(MOMENTS) {
        thread::scope(|threads| {
            let caller = threads.spawn(|| stage.call(&mut client, Stamp::new(0, sequence)));
            stage.take(&mut server);
            thread::sleep(moment);
            let answered = Instant::now();
            assert!(stage.respond(&mut server), "the caller waits");
            caller.join().expect("an answer");
            assert_prompt(stage, answered);
        });
    }
}

fn every_waiting_caller_gets_its_answer<F: ServiceFixture>(stage: &ServiceStage<F>) {
    let service = stage.service();
    let mut clients = [service.client(), service.client(), service.client()];
    let mut servers = [service.server(), service.server(), service.server()];
    thread::scope(|threads| {
        let callers: Vec<_> = (0..)
            .zip(&mut clients)
            .map(|(round, client)| threads.spawn(move || stage.call(client, Stamp::new(round, 0))))
            .collect();
        for server in &mut servers {
            stage.take(server);
        }
        thread::sleep(BRIEF);
        // They all wait now, and are answered one right after the other.
        let answered = Instant::now();
        for server in &mut servers {
            assert!(stage.respond(server), "the caller waits");
        }
        callers.into_iter().for_each(|caller| caller.join().expect("an answer"));
        assert_prompt(stage, answered);
    });
}

fn the_longest_waits_for_an_answer_do_not_overflow<F: ServiceFixture>(stage: &ServiceStage<F>) {
    let service = stage.service();
    let (mut client, mut server) = service.ends();
    for wait in longest_waits() {
        let stamp = Stamp::new(0, 0);
        let ticket = stage.submit(&mut client, stamp);
        thread::scope(|threads| {
            let caller = threads.spawn(|| shown(client.collect(ticket, wait)));
            thread::sleep(BRIEF);
            stage.serve_one(&mut server);
            assert_answers(&caller.join().expect("no panic").expect("an answer"), stamp);
        });
    }
}

fn without_room_a_call_is_refused_in_time_and_nothing_requested<F: ServiceFixture>(stage: &ServiceStage<F>) {
    let service = stage.service();
    let (mut client, mut server) = service.ends();
    let tickets = stage.fill(&mut client);
    let mut other = service.client();
    for client in [&mut client, &mut other] {
        assert_told!(client.submit(&[9; LEN], Wait::Never), CallError::WouldBlock);
        let waited = brief_wait(stage, || client.submit(&[9; LEN], Wait::timeout(BRIEF)));
        assert_told!(waited, CallError::TimedOut);
        let waited = brief_wait(stage, || shown(client.call(&[9; LEN], Wait::timeout(BRIEF))));
        assert_told!(waited, CallError::TimedOut);
    }
    for _ in &tickets {
        assert_eq!(stage.serve_one(&mut server).round, 0);
    }
    assert!(matches!(server.advance(Wait::Never), Err(RecvError::WouldBlock)), "a refused request came");
}

fn cancelling_wakes_a_client_that_waits_for_room<F: ServiceFixture>(stage: &ServiceStage<F>) {
    let service = stage.service();
    let (mut client, mut other) = (service.client(), service.client());
    let tickets = stage.fill(&mut client);
    for moment in MOMENTS {
        let cancel = Cancel::new();
        let wait = stage.patiently().or_cancel(&cancel);
        let waited = cancelled_after(stage, moment, &cancel, || other.submit(b"", wait));
        assert_told!(waited, CallError::Cancelled);
    }
    tickets.into_iter().for_each(|ticket| client.abandon(ticket));
    assert_idle(&mut service.server());
}

/// How a place comes free.
enum Freed {
    Collected,
    Withdrawn,
    Answered,
}

fn a_waiting_client_goes_on_when_there_is_room<F: ServiceFixture>(stage: &ServiceStage<F>) {
    let service = stage.service();
    let (mut client, mut server) = service.ends();
    let mut other = service.client();
    for moment in MOMENTS {
        for way in [Freed::Collected, Freed::Withdrawn, Freed::Answered] {
            let mut tickets = stage.fill(&mut client);
            let stamp = stage.take(&mut server);
            let place = stamp.sequence as usize;
            assert!(place < tickets.len(), "{stamp:?} is taken, which isn't under way");
            match way {
                Freed::Collected => assert!(stage.respond(&mut server), "the caller is there"),
                Freed::Withdrawn => {}
                Freed::Answered => client.abandon(tickets.swap_remove(place)),
            }
            let found = thread::scope(|threads| {
                let waiter = threads.spawn(|| other.submit(b"", stage.patiently()));
                thread::sleep(moment);
                let freed = Instant::now();
                match way {
                    Freed::Collected => stage.collect(&mut client, tickets.swap_remove(place), stamp),
                    Freed::Withdrawn => {
                        let untaken = (place + 1) % tickets.len();
                        client.abandon(tickets.swap_remove(untaken));
                    }
                    Freed::Answered => assert!(!stage.respond(&mut server), "the call was given up"),
                }
                let found = waiter.join().expect("no panic").expect("room");
                assert_prompt(stage, freed);
                found
            });
            other.abandon(found);
            // Whatever is left of this round.
            (client, server) = service.ends();
        }
    }
}

fn the_longest_waits_for_room_do_not_overflow<F: ServiceFixture>(stage: &ServiceStage<F>) {
    let service = stage.service();
    let (mut client, mut other) = (service.client(), service.client());
    for wait in longest_waits() {
        let mut tickets = stage.fill(&mut client);
        let found = thread::scope(|threads| {
            let waiter = threads.spawn(|| other.submit(b"", wait));
            thread::sleep(BRIEF);
            client.abandon(tickets.pop().expect("a call"));
            waiter.join().expect("no panic").expect("room")
        });
        other.abandon(found);
        tickets.into_iter().for_each(|ticket| client.abandon(ticket));
    }
}

fn a_wait_for_a_request_ends_in_time<F: ServiceFixture>(stage: &ServiceStage<F>) {
    let service = stage.service();
    let (mut client, mut server) = service.ends();
    for _ in 0..3 {
        assert_idle(&mut server);
        let waited = brief_wait(stage, || server.advance(Wait::timeout(BRIEF)));
        assert_told!(waited, RecvError::TimedOut);
    }
    let ticket = stage.submit(&mut client, Stamp::new(0, 0));
    stage.serve_one(&mut server);
    stage.collect(&mut client, ticket, Stamp::new(0, 0));
}

fn cancelling_wakes_a_waiting_server<F: ServiceFixture>(stage: &ServiceStage<F>) {
    let service = stage.service();
    let (mut client, mut server) = service.ends();
    for moment in MOMENTS {
        let cancel = Cancel::new();
        let wait = stage.patiently().or_cancel(&cancel);
        let waited = cancelled_after(stage, moment, &cancel, || server.advance(wait));
        assert_told!(waited, RecvError::Cancelled);
        let start = Instant::now();
        let waited = server.advance(Wait::Forever.or_cancel(&cancel));
        assert_told!(waited, RecvError::Cancelled);
        assert_prompt(stage, start);
    }
    let ticket = stage.submit(&mut client, Stamp::new(0, 0));
    stage.serve_one(&mut server);
    stage.collect(&mut client, ticket, Stamp::new(0, 0));
}

fn a_request_that_is_there_needs_no_waiting<F: ServiceFixture>(stage: &ServiceStage<F>) {
    let service = stage.service();
    let (mut client, mut server) = service.ends();
    let cancel = Cancel::new();
    for (sequence, wait) in (0..).zip(waits_that_are_over(&cancel)) {
        let stamp = Stamp::new(0, sequence);
        let ticket = client.submit(&stamp.message(LEN), wait).expect("there is room");
        server.advance(wait).expect("the request is there");
        stage.serve_one(&mut server);
        stage.collect(&mut client, ticket, stamp);
    }
}

fn a_waiting_server_gets_a_request<F: ServiceFixture>(stage: &ServiceStage<F>) {
    let service = stage.service();
    let (mut client, mut server) = service.ends();
    for (sequence, moment) in (0..).zip(MOMENTS) {
        let stamp = Stamp::new(0, sequence);
        let ticket = thread::scope(|threads| {
            let waiter = threads.spawn(|| stage.take(&mut server));
            thread::sleep(moment);
            let requested = Instant::now();
            let ticket = stage.submit(&mut client, stamp);
            assert_eq!(waiter.join().expect("a request"), stamp);
            assert_prompt(stage, requested);
            ticket
        });
        assert!(stage.respond(&mut server), "the caller is there");
        stage.collect(&mut client, ticket, stamp);
    }
}

fn the_longest_waits_for_a_request_do_not_overflow<F: ServiceFixture>(stage: &ServiceStage<F>) {
    let service = stage.service();
    let (mut client, mut server) = service.ends();
    for wait in longest_waits() {
        let ticket = thread::scope(|threads| {
            let waiter = threads.spawn(|| server.advance(wait));
            thread::sleep(BRIEF);
            let ticket = stage.submit(&mut client, Stamp::new(0, 0));
            waiter.join().expect("no panic").expect("a request");
            ticket
        });
        stage.serve_one(&mut server);
        stage.collect(&mut client, ticket, Stamp::new(0, 0));
    }
}

/// Waits that end at once, where there is anything to wait for.
fn waits_that_are_over(cancel: &Cancel) -> [Wait<'_>; 4] {
    cancel.cancel();
    let now = Instant::now();
    let past = now.checked_sub(Duration::from_secs(1)).unwrap_or(now);
    [Wait::Never, Wait::timeout(Duration::ZERO), Wait::Until(past), Wait::Forever.or_cancel(cancel)]
}

fn longest_waits() -> [Wait<'static>; 2] {
    [Wait::timeout(Duration::MAX), Wait::Until(farthest_instant())]
}
