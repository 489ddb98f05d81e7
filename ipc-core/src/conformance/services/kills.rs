//! Clients and servers that are killed (SIGKILL): who waits for them is told, nobody else
//! notices, and nothing stays taken up.

use super::{
    ServiceFixture, ServiceStage, Services, answers::serve_until, assert_answers, assert_idle, assert_told,
    shown,
};
use crate::{
    CallError, Client,
    conformance::{
        Case, cases,
        payload::Stamp,
        processes::{KILLS, SetOnDrop, at_some_point},
        stage::{BRIEF, LEN},
        waits::assert_prompt,
    },
};
use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

pub(in super::super) fn cases<F: ServiceFixture>() -> Vec<Case<Services<F>>> {
    cases![
        each_caller_of_a_killed_server_is_told,
        what_a_killed_server_had_not_taken_is_served_by_the_next,
        callers_of_servers_killed_in_mid_stream_are_answered_or_told,
        a_client_killed_while_it_waits_costs_no_place,
        a_client_killed_between_submit_and_collect_costs_no_place,
        clients_killed_in_mid_stream_cost_no_place,
    ]
}

fn each_caller_of_a_killed_server_is_told<F: ServiceFixture>(stage: &ServiceStage<F>) {
    let service = stage.service();
    let mut clients = [service.client(), service.client()];
    let mut unhurried = service.client();
    let places = stage.free_places(&mut unhurried);
    let ticket = stage.submit(&mut unhurried, Stamp::new(2, 0));
    thread::scope(|threads| {
        let callers: Vec<_> = (0..)
            .zip(&mut clients)
            .map(|(round, client)| {
                let request = Stamp::new(round, 0).message(LEN);
                threads.spawn(move || shown(client.call(&request, stage.patiently())))
            })
            .collect();
        let mut holder = stage.start("hold requests", &[&service.name, &3]);
        holder.expect_line("ready");
        // Whose requests were taken wait now, but for one.
        thread::sleep(BRIEF);
        holder.kill();
        let killed = Instant::now();
        for caller in callers {
            assert_told!(caller.join().expect("no panic"), CallError::ServerDied);
        }
        assert_prompt(stage, killed);
    });
    let answer = shown(unhurried.collect(ticket, stage.patiently()));
    assert_told!(answer, CallError::ServerDied);
    // Whether it acted on them isn't known, so nobody else is asked.
    assert_idle(&mut service.server());
    assert_eq!(stage.free_places(&mut unhurried), places, "places before, and after the kill");
}

fn what_a_killed_server_had_not_taken_is_served_by_the_next<F: ServiceFixture>(stage: &ServiceStage<F>) {
    let service = stage.service();
    let mut client = service.client();
    let [first, second, third] = [0, 1, 2].map(|sequence| Stamp::new(0, sequence));
    let one = stage.submit(&mut client, first);
    let mut holder = stage.start("hold requests", &[&service.name, &1]);
    holder.expect_line("ready");
    let (two, three) = (stage.submit(&mut client, second), stage.submit(&mut client, third));
    holder.kill();
    let mut server = service.server();
    let mut served = [stage.serve_one(&mut server), stage.serve_one(&mut server)];
    served.sort_unstable();
    assert_eq!(served, [second, third]);
    assert_idle(&mut server);
    stage.collect(&mut client, three, third);
    stage.collect(&mut client, two, second);
    assert_told!(shown(client.collect(one, stage.patiently())), CallError::ServerDied);
}

/// So long that most kills meet a server with a request in hand.
const WORK: Duration = Duration::from_millis(1);

fn callers_of_servers_killed_in_mid_stream_are_answered_or_told<F: ServiceFixture>(stage: &ServiceStage<F>) {
    let service = stage.service();
    let enough = AtomicBool::new(false);
    thread::scope(|threads| {
        let callers: Vec<_> = (0..2)
            .map(|round| {
                let (mut client, enough) = (service.client(), &enough);
                threads.spawn(move || {
                    let stamps = (0..).map(|sequence| Stamp::new(round, sequence));
                    for stamp in stamps.take_while(|_| !enough.load(Ordering::Relaxed)) {
                        match client.call(&stamp.message_up_to(LEN), stage.patiently()) {
                            Ok(response) => assert_answers(&response, stamp),
                            Err(CallError::ServerDied) => {}
                            Err(error) => panic!("{stamp:?}: {error}"),
                        }
                    }
                })
            })
            .collect();
        // Ends the callers also if something else fails.
        let stop = SetOnDrop(&enough);
        for _ in 0..KILLS {
            let server = stage.start_server(&service.name, WORK);
            thread::sleep(at_some_point());
            server.kill();
        }
        // Whatever is under way is answered before the callers end.
        let _server = stage.start_server(&service.name, WORK);
        drop(stop);
        callers.into_iter().for_each(|caller| caller.join().expect("answered or told"));
    });
    stage.assert_no_place_is_lost(&mut service.client());
}

fn a_client_killed_while_it_waits_costs_no_place<F: ServiceFixture>(stage: &ServiceStage<F>) {
    assert_killed_clients_cost_no_place(stage, true);
}

fn a_client_killed_between_submit_and_collect_costs_no_place<F: ServiceFixture>(stage: &ServiceStage<F>) {
    assert_killed_clients_cost_no_place(stage, false);
}

/// A client is killed while nothing, one request or all of them are taken.
#[track_caller]
fn assert_killed_clients_cost_no_place<F: ServiceFixture>(stage: &ServiceStage<F>, waiting: bool) {
    let service = stage.service();
    for taken in [0, 1, super::DEPTH] {
        let mut caller = stage.start("have calls under way", &[&service.name, &u8::from(waiting)]);
        caller.expect_line("ready");
        let mut servers: Vec<F::Server> = (0..taken).map(|_| service.server()).collect();
        for server in &mut servers {
            stage.take(server);
        }
        if waiting {
            thread::sleep(BRIEF);
        }
        caller.kill();
        for server in &mut servers {
            // That nobody is there any more may be noticed later.
            stage.respond(server);
        }
        let mut client = service.client();
        stage.assert_no_place_is_lost(&mut client);
        drop(client);
        assert_idle(&mut service.server());
    }
}

fn clients_killed_in_mid_stream_cost_no_place<F: ServiceFixture>(stage: &ServiceStage<F>) {
    let service = stage.service();
    let mut server = service.server();
    let enough = AtomicBool::new(false);
    thread::scope(|threads| {
        threads.spawn(|| serve_until(stage, &mut server, &enough));
        let _stop = SetOnDrop(&enough);
        for round in 0..KILLS {
            let mut caller = stage.start("call until killed", &[&service.name, &round]);
            caller.line();
            thread::sleep(at_some_point());
            caller.kill();
        }
        stage.call(&mut service.client(), Stamp::new(KILLS, 0));
    });
    stage.assert_no_place_is_lost(&mut service.client());
}
