//! Clients and servers in processes of their own, none of which is killed.

use super::{ServiceFixture, ServiceStage, Services, TicketOf, answers::call_two_by_two, assert_told};
use crate::{
    CallError, ChannelName, Client, Server, Wait,
    conformance::{
        Case, cases,
        child::{Child, Cue, Part, say, wait_to_be_killed},
        payload::Stamp,
        stage::{BRIEF, DEPTH, LEN},
    },
};
use std::{thread, time::Duration};

pub(in super::super) fn cases<F: ServiceFixture>() -> Vec<Case<Services<F>>> {
    let mut all =
        cases![clients_and_servers_in_processes_meet_no_other_answer, a_server_may_come_after_its_requests];
    if cfg!(unix) {
        all.extend(cases![a_paused_server_is_never_taken_for_dead, a_paused_client_is_never_taken_for_gone]);
    }
    all
}

pub(super) fn parts<F: ServiceFixture>() -> Vec<Part<Services<F>>> {
    vec![
        Part { name: "serve", play: serve },
        Part { name: "hold requests", play: hold_requests },
        Part { name: "call", play: call },
        Part { name: "call until killed", play: call_until_killed },
        Part { name: "have calls under way", play: have_calls_under_way },
    ]
}

/// Part: answers until it is killed. Arguments: service, time that it spends on each request
/// in µs.
fn serve<F: ServiceFixture>(stage: &ServiceStage<F>, cue: &Cue) {
    let service = stage.open(&cue.name(0));
    let mut server = stage.fixture().0.server(&service).expect("a server");
    say("ready");
    loop {
        server.advance(Wait::Forever).expect("a request");
        thread::sleep(Duration::from_micros(cue.number(1)));
        stage.respond(&mut server);
    }
}

/// Part: takes a request with each of several servers, and reports that; answers them at the
/// word, and reports each that somebody waited for. Arguments: service, number of servers.
fn hold_requests<F: ServiceFixture>(stage: &ServiceStage<F>, cue: &Cue) {
    let service = stage.open(&cue.name(0));
    let mut servers: Vec<F::Server> =
        (0..cue.number(1)).map(|_| stage.fixture().0.server(&service).expect("a server")).collect();
    for server in &mut servers {
        stage.take(server);
    }
    say("ready");
    cue.wait_for_go();
    for server in &mut servers {
        say(if stage.respond(server) { "answered" } else { "discarded" });
    }
}

/// Part: calls. Arguments: service, round, count.
fn call<F: ServiceFixture>(stage: &ServiceStage<F>, cue: &Cue) {
    let service = stage.open(&cue.name(0));
    let client = stage.fixture().0.client(&service).expect("a client");
    call_two_by_two(stage, client, cue.number(1) as u32, cue.number(2));
}

/// Part: calls until it is killed, several calls under way at a time; it reports each that was
/// answered. Arguments: service, round.
fn call_until_killed<F: ServiceFixture>(stage: &ServiceStage<F>, cue: &Cue) {
    let service = stage.open(&cue.name(0));
    let mut client = stage.fixture().0.client(&service).expect("a client");
    for sequence in (0..).step_by(DEPTH) {
        let stamps = (sequence..).take(DEPTH).map(|sequence| Stamp::new(cue.number(1) as u32, sequence));
        let tickets: Vec<_> = stamps.map(|stamp| (stage.submit(&mut client, stamp), stamp)).collect();
        for (ticket, stamp) in tickets {
            stage.collect(&mut client, ticket, stamp);
            say(stamp.sequence);
        }
    }
}

/// Part: has as many calls under way as [`DEPTH`]; then waits for the answer to the first
/// one if it is to (1), reports that, and waits for the end. Arguments: service, whether.
fn have_calls_under_way<F: ServiceFixture>(stage: &ServiceStage<F>, cue: &Cue) {
    let service = stage.open(&cue.name(0));
    let mut client = stage.fixture().0.client(&service).expect("a client");
    let stamps = (0..DEPTH as u64).map(|sequence| Stamp::new(0, sequence));
    let tickets: Vec<TicketOf<F>> = stamps.map(|stamp| stage.submit(&mut client, stamp)).collect();
    say("ready");
    if cue.number(1) == 1 {
        let answered = client.advance(&tickets[0], Wait::Forever);
        say(format_args!("told {answered:?}"));
    }
    wait_to_be_killed()
}

fn clients_and_servers_in_processes_meet_no_other_answer<F: ServiceFixture>(stage: &ServiceStage<F>) {
    let service = stage.service();
    let _servers = [
        stage.start_server(&service.name, Duration::ZERO),
        stage.start_server(&service.name, Duration::ZERO),
    ];
    let start = |round: u32| stage.start("call", &[&service.name, &round, &600]);
    let clients: Vec<Child> = (0..3).map(start).collect();
    call_two_by_two(stage, service.client(), 3, 600);
    clients.into_iter().for_each(|client| drop(client.finish()));
}

fn a_server_may_come_after_its_requests<F: ServiceFixture>(stage: &ServiceStage<F>) {
    let service = stage.service();
    let mut client = service.client();
    let stamps = (0..DEPTH as u64).map(|sequence| Stamp::new(0, sequence));
    let tickets: Vec<_> = stamps.map(|stamp| (stage.submit(&mut client, stamp), stamp)).collect();
    let _server = stage.start_server(&service.name, Duration::ZERO);
    for (ticket, stamp) in tickets {
        stage.collect(&mut client, ticket, stamp);
    }
}

fn a_paused_server_is_never_taken_for_dead<F: ServiceFixture>(stage: &ServiceStage<F>) {
    let service = stage.service();
    let mut client = service.client();
    let stamp = Stamp::new(0, 0);
    let ticket = stage.submit(&mut client, stamp);
    let mut holder = stage.start("hold requests", &[&service.name, &1]);
    holder.expect_line("ready");
    holder.pause();
    for _ in 0..3 {
        // Far longer than it takes to notice a death.
        let waited = client.advance(&ticket, Wait::timeout(20 * BRIEF));
        assert_told!(waited, CallError::TimedOut);
    }
    // Nor by those who only look for room.
    let mut other = service.client();
    stage.free_places(&mut other);
    holder.resume();
    holder.go();
    assert_eq!(holder.finish(), ["answered"]);
    stage.collect(&mut client, ticket, stamp);
}

fn a_paused_client_is_never_taken_for_gone<F: ServiceFixture>(stage: &ServiceStage<F>) {
    let service = stage.service();
    let mut server = service.server();
    let mut caller = stage.start("have calls under way", &[&service.name, &1]);
    caller.expect_line("ready");
    stage.take(&mut server);
    caller.pause();
    // Others that wait in vain look whether it is dead.
    let mut other = service.client();
    stage.fill(&mut other);
    assert_told!(other.submit(&[9; LEN], Wait::timeout(20 * BRIEF)), CallError::TimedOut);
    drop(other);
    for _ in 0..DEPTH {
        // The first one is in hand already.
        stage.serve_one(&mut server);
    }
    caller.resume();
    caller.expect_line("told Ok(())");
}

impl<F: ServiceFixture> ServiceStage<F> {
    /// A child that plays `serve`; it has its server.
    #[track_caller]
    pub(super) fn start_server(&self, service: &ChannelName, work: Duration) -> Child {
        let mut server = self.start("serve", &[service, &work.as_micros()]);
        server.expect_line("ready");
        server
    }
}
