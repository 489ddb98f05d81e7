//! Services between real processes: a caller is told when its server is killed, a client
//! that is killed or gives up costs nobody anything, and no answer meets another call.

mod common;

use common::{Arena, Child, PATIENCE, eventually, fork_child, name, say, serve, told, within, write_at};
use ipc_shm::{
    CallError, Cancel, ChannelError, Client, Kind, RecvError, Request, Role, Rpc, RpcChannel, RpcClient,
    SendError, Server, Shm, ShmConfig, Wait, Waiting, WhenFull,
};
use nix::sys::signal::Signal;
use rstest::rstest;
use std::{
    collections::VecDeque,
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    thread,
    time::{Duration, Instant},
};

#[test]
fn this_binary_is_its_own_child() {
    serve(|role, arguments| {
        let service = Rpc::at(&arguments[0]).open(&name("x")).unwrap();
        match role {
            "echo" => {
                let mut server = service.server().unwrap();
                say("serving");
                loop {
                    let request = server.next(Wait::Forever).unwrap();
                    let answer = [b"re: ", &*request].concat();
                    request.respond(&answer).unwrap();
                }
            }
            "take" => {
                let mut server = service.server().unwrap();
                let request = server.next(Wait::Forever).unwrap();
                say(std::str::from_utf8(&request).unwrap());
                if told() {
                    let is_there = request.respond(b"late").unwrap();
                    say(if is_there { "answered" } else { "discarded" });
                }
                told();
            }
            "take four" => {
                let mut servers = [(); 4].map(|()| service.server().unwrap());
                say("serving");
                let _held = servers.each_mut().map(|server| server.next(Wait::timeout(PATIENCE)).unwrap());
                say("taken");
                told();
            }
            "request" => {
                let mut client = service.client().unwrap();
                let tickets: Vec<_> =
                    (0..3).map(|_| client.submit(b"a question", Wait::Never).unwrap()).collect();
                say("requested");
                told();
                drop(tickets);
            }
            "call many" => {
                let mut client = service.client().unwrap();
                let who = &arguments[1];
                for number in 0..arguments[2].parse().unwrap() {
                    let question = format!("{who} {number}");
                    let answer = client.call(question.as_bytes(), Wait::timeout(PATIENCE)).unwrap();
                    assert_eq!(*answer, *format!("re: {question}").as_bytes());
                }
            }
            "call for ever" => {
                let mut client = service.client().unwrap();
                say("calling");
                for number in 0_u64.. {
                    let question = number.to_string();
                    match client.call(question.as_bytes(), Wait::timeout(PATIENCE)) {
                        Ok(answer) => assert_eq!(*answer, *format!("re: {question}").as_bytes()),
                        Err(CallError::ServerDied) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            }
            other => panic!("no such child: {other}"),
        }
    });
}

fn path(arena: &Arena) -> &str {
    arena.path().to_str().unwrap()
}

fn service(arena: &Arena, config: &ShmConfig) -> RpcChannel {
    Rpc::at(arena.path()).create(&name("x"), config).unwrap()
}

fn small() -> ShmConfig {
    ShmConfig::new().depth(4).max_message_len(64)
}

fn patiently() -> Wait<'static> {
    Wait::timeout(PATIENCE)
}

fn under_way(arena: &Arena) -> u64 {
    Rpc::at(arena.path()).stat(&name("x")).unwrap().queued_messages.unwrap()
}

/// Answers each request with what it says, until there was none for a while.
fn echo(server: &mut ipc_shm::RpcServer, idle: Duration) {
    while let Ok(request) = server.next(Wait::timeout(idle)) {
        let answer = [b"re: ", &*request].concat();
        request.respond(&answer).unwrap();
    }
}

#[rstest]
#[case::few_slots(2)]
#[case::many_slots(64)]
fn many_clients_and_servers_get_each_answer_to_its_question(
    #[case] depth: u64,
    #[values(1, 3)] servers: usize,
) {
    let arena = Arena::new();
    let _service = service(&arena, &small().depth(depth));
    let mut servers: Vec<_> = (0..servers).map(|_| Child::spawn("echo", &[path(&arena)])).collect();
    servers.iter_mut().for_each(|server| server.says("serving"));
    let clients: Vec<_> =
        (0..4).map(|who| Child::spawn("call many", &[path(&arena), &who.to_string(), "500"])).collect();
    clients.into_iter().for_each(Child::ends_well);
    let info = Rpc::at(arena.path()).stat(&name("x")).unwrap();
    assert_eq!((info.queued_messages, info.sent_messages), (Some(0), Some(2000)));
}

#[test]
fn several_calls_of_a_client_are_under_way_at_once_and_collected_in_any_order() {
    let arena = Arena::new();
    let service = service(&arena, &small());
    let (mut client, mut server) = (service.client().unwrap(), service.server().unwrap());
    let mut tickets: Vec<_> = (0..4_u8).map(|n| client.submit(&[n], Wait::Never).unwrap()).collect();
    assert!(matches!(client.submit(b"", Wait::Never), Err(CallError::WouldBlock)), "every place is taken");
    assert!(matches!(client.advance(&tickets[0], Wait::Never), Err(CallError::WouldBlock)));
    for _ in 0..4 {
        let request = server.next(Wait::Never).unwrap();
        let doubled = [2 * request[0]];
        assert!(request.respond(&doubled).unwrap());
    }
    for n in [2, 0, 1, 0] {
        let n = n.min(tickets.len() - 1);
        let ticket = tickets.remove(n);
        let answer = client.collect(ticket, Wait::Never).unwrap();
        assert_eq!(answer.len(), 1);
        assert_eq!(answer[0] % 2, 0);
    }
    assert_eq!(under_way(&arena), 0);
}

#[test]
fn messages_of_every_length_are_answered_also_in_place() {
    let arena = Arena::new();
    let service = service(&arena, &small());
    let (mut client, mut server) = (service.client().unwrap(), service.server().unwrap());
    assert_eq!((client.max_message_len(), server.max_message_len()), (64, 64));
    for len in [0, 1, 7, 8, 63, 64] {
        let ticket = client.submit(&vec![7; len], Wait::Never).unwrap();
        let request = server.next(Wait::Never).unwrap();
        assert_eq!(*request, *vec![7; len]);
        request.respond_in_place(64, |bytes| bytes[len..].fill(9)).unwrap();
        let answer = client.collect(ticket, Wait::Never).unwrap();
        assert_eq!((&answer[..len], &answer[len..]), (&*vec![7; len], &*vec![9; 64 - len]));
    }
    assert!(matches!(client.call(&[0; 65], Wait::Never), Err(CallError::TooLong { len: 65, max: 64 })));
    let ticket = client.submit(b"", Wait::Never).unwrap();
    let refused = server.next(Wait::Never).unwrap().respond(&[0; 65]);
    assert!(matches!(refused, Err(SendError::TooLong { len: 65, max: 64 })));
    assert!(matches!(client.collect(ticket, Wait::Never), Err(CallError::Declined)));
}

#[test]
fn a_dropped_ticket_gives_its_call_up_though_its_client_does_nothing_more() {
    let arena = Arena::new();
    let service = service(&arena, &small());
    let (mut client, mut other) = (service.client().unwrap(), service.client().unwrap());
    (0..64).for_each(|_| drop(client.submit(b"x", Wait::Never).unwrap()));
    let tickets: Vec<_> = (0..4).map(|_| client.submit(b"x", Wait::Never).unwrap()).collect();
    assert!(matches!(other.submit(b"x", Wait::Never), Err(CallError::WouldBlock)), "every place is taken");
    drop(tickets);
    let tickets: Vec<_> = (0..4).map(|_| other.submit(b"x", patiently()).unwrap()).collect();
    drop(tickets);
    assert_eq!(under_way(&arena), 0);
}

#[test]
fn a_ticket_ends_no_call_of_others_when_its_client_is_gone_or_the_parent() {
    let arena = Arena::new();
    let service = service(&arena, &small());
    let mut client = service.client().unwrap();
    let mut ticket = Some(client.submit(b"x", Wait::Never).unwrap());
    fork_child(|| drop(ticket.take())).ends_well();
    assert_eq!(under_way(&arena), 1, "the parent's");
    drop(client);
    assert_eq!(under_way(&arena), 0, "the client is gone, and the ticket is not");
    // The same place, in every sense.
    let mut successor = service.client().unwrap();
    let tickets: Vec<_> = (0..4).map(|_| successor.submit(b"y", Wait::Never).unwrap()).collect();
    drop(ticket);
    assert_eq!(under_way(&arena), 4);
    drop(tickets);
}

/// How long a caller may wait for the news that its server is dead: 250 ms, and a busy machine.
const AT_THE_LATEST: Duration = Duration::from_secs(2);

#[rstest]
fn the_callers_of_a_killed_server_are_told(
    #[values(Waiting::Spin, Waiting::Adaptive, Waiting::Block)] waiting: Waiting,
) {
    const CALLERS: usize = 2;
    let arena = Arena::new();
    let service = service(&arena, &small());
    for _ in 0..3 {
        // Its servers, one for each call.
        let mut victim = Child::spawn("take four", &[path(&arena)]);
        victim.says("serving");
        let callers = [(); CALLERS].map(|()| {
            let mut client = service.client().unwrap();
            client.set_waiting(waiting);
            let tickets = [(); 2].map(|()| client.submit(b"doomed", Wait::Never).unwrap());
            thread::spawn(move || {
                let answers = tickets.map(|ticket| client.collect(ticket, Wait::Forever).map(drop));
                (answers, Instant::now())
            })
        });
        victim.says("taken");
        victim.kill();
        let killed = Instant::now();
        for caller in callers {
            let (answers, told) = within(PATIENCE, move || caller.join().unwrap());
            assert!(answers.iter().all(|answer| matches!(answer, Err(CallError::ServerDied))), "{answers:?}");
            let taken = told.saturating_duration_since(killed);
            assert!(taken < AT_THE_LATEST, "told after {taken:?}");
        }
        assert_eq!(under_way(&arena), 0);
    }
}

#[rstest]
#[case::of_two(2, 0)]
#[case::of_two_the_other(2, 1)]
#[case::of_four(4, 0)]
fn who_asks_after_its_calls_in_turn_is_told_of_the_one_whose_server_was_killed(
    #[case] calls: usize,
    #[case] victim: usize,
    #[values(None, Some(Duration::from_micros(1300)))] each: Option<Duration>,
) {
    let arena = Arena::new();
    let mut client = service(&arena, &small()).client().unwrap();
    client.set_waiting(Waiting::Spin);
    let (mut servers, tickets): (Vec<_>, Vec<_>) = (0..calls)
        .map(|call| {
            let mut server = Child::spawn("take", &[path(&arena)]);
            let ticket = client.submit(call.to_string().as_bytes(), Wait::Never).unwrap();
            server.says(&call.to_string());
            (server, ticket)
        })
        .unzip();
    servers[victim].kill();
    let mut is_told = |ticket| {
        let answer = client.advance(ticket, each.map_or(Wait::Never, Wait::timeout));
        assert!(matches!(answer, Err(CallError::ServerDied | CallError::WouldBlock | CallError::TimedOut)));
        matches!(answer, Err(CallError::ServerDied))
    };
    let mut told = None;
    eventually("it is told", || {
        told = tickets.iter().position(&mut is_told);
        told.is_some()
    });
    assert_eq!(told, Some(victim));
}

#[test]
fn who_asks_after_a_call_and_tries_to_make_another_finds_the_room_that_the_dead_had() {
    let arena = Arena::new();
    let mut client = service(&arena, &small()).client().unwrap();
    let mut server = Child::spawn("take", &[path(&arena)]);
    let ticket = client.submit(b"mine", Wait::Never).unwrap();
    server.says("mine");
    let mut victim = Child::spawn("request", &[path(&arena)]);
    victim.says("requested");
    assert!(matches!(client.submit(b"another", Wait::Never), Err(CallError::WouldBlock)));
    assert!(matches!(client.advance(&ticket, Wait::Never), Err(CallError::WouldBlock)));
    victim.kill();
    eventually("there is room", || {
        let is_made = client.submit(b"another", Wait::Never).is_ok();
        assert!(matches!(client.advance(&ticket, Wait::Never), Err(CallError::WouldBlock)));
        is_made
    });
}

#[test]
fn who_seldom_tries_finds_the_room_that_the_dead_had_at_the_next_try() {
    let arena = Arena::new();
    let service = service(&arena, &small().when_full(WhenFull::Fail).depth(3));
    let mut client = service.client().unwrap();
    let mut victim = Child::spawn("request", &[path(&arena)]);
    victim.says("requested");
    victim.kill();
    let mut is_made = || {
        thread::sleep(Duration::from_millis(20));
        client.submit(b"another", Wait::Forever).is_ok()
    };
    assert!((0..10).any(|_| is_made()));
}

#[test]
fn a_request_that_no_server_has_taken_waits_for_the_next_one() {
    let arena = Arena::new();
    let service = service(&arena, &small());
    let mut client = service.client().unwrap();
    let first = client.submit(b"first", Wait::Never).unwrap();
    let mut victim = Child::spawn("take", &[path(&arena)]);
    victim.says("first");
    let second = client.submit(b"second", Wait::Never).unwrap();
    victim.kill();
    let mut server = Child::spawn("echo", &[path(&arena)]);
    server.says("serving");
    assert_eq!(&*client.collect(second, patiently()).unwrap(), b"re: second");
    assert!(matches!(client.collect(first, patiently()), Err(CallError::ServerDied)), "not asked twice");
    assert_eq!(&*client.call(b"third", patiently()).unwrap(), b"re: third");
}

#[test]
fn a_killed_client_leaves_its_places_and_its_server_goes_on() {
    let arena = Arena::new();
    let service = service(&arena, &small().depth(3));
    let mut server = service.server().unwrap();
    for _ in 0..3 {
        let mut victim = Child::spawn("request", &[path(&arena)]);
        victim.says("requested");
        let request = server.next(patiently()).unwrap();
        victim.kill();
        // Another client finds room: all but the place that the server still has.
        let mut client = service.client().unwrap();
        let tickets =
            [client.submit(b"mine", patiently()).unwrap(), client.submit(b"mine", patiently()).unwrap()];
        assert!(!request.respond(b"for nobody").unwrap(), "discarded");
        thread::scope(|scope| {
            scope.spawn(|| echo(&mut server, Duration::from_millis(300)));
            for ticket in tickets {
                assert_eq!(&*client.collect(ticket, patiently()).unwrap(), b"re: mine");
            }
        });
        drop(client);
        assert_eq!(under_way(&arena), 0);
    }
}

#[test]
fn a_call_that_is_given_up_leaks_nothing_and_its_answer_meets_no_other_call() {
    let arena = Arena::new();
    let service = service(&arena, &small().depth(1));
    let (mut client, mut server) = (service.client().unwrap(), service.server().unwrap());
    for _ in 0..20 {
        let soon = || Wait::timeout(Duration::from_millis(1));
        assert!(matches!(client.call(b"unheard", soon()), Err(CallError::TimedOut)));
        assert_eq!(under_way(&arena), 0, "withdrawn");
        let ticket = client.submit(b"too slow", Wait::Never).unwrap();
        let request = server.next(Wait::Never).unwrap();
        assert!(matches!(client.collect(ticket, soon()), Err(CallError::TimedOut)));
        assert_eq!(*request, *b"too slow", "still the server's");
        assert!(matches!(client.submit(b"", Wait::Never), Err(CallError::WouldBlock)));
        assert!(!request.respond(b"an old answer").unwrap());
        let ticket = client.submit(b"new", Wait::Never).unwrap();
        assert!(matches!(client.advance(&ticket, Wait::Never), Err(CallError::WouldBlock)), "no old answer");
        server.next(Wait::Never).unwrap().respond(b"a new answer").unwrap();
        assert_eq!(&*client.collect(ticket, Wait::Never).unwrap(), b"a new answer");
        let ticket = client.submit(b"unwanted", Wait::Never).unwrap();
        server.next(Wait::Never).unwrap().respond(b"unread").unwrap();
        client.abandon(ticket);
        assert_eq!(under_way(&arena), 0);
    }
}

#[test]
fn a_stopped_server_is_not_taken_for_dead() {
    let arena = Arena::new();
    let service = service(&arena, &small());
    let mut client = service.client().unwrap();
    let mut server = Child::spawn("take", &[path(&arena)]);
    let ticket = client.submit(b"take your time", Wait::Never).unwrap();
    server.says("take your time");
    server.stop();
    // Far longer than it takes to notice a death.
    let waited = client.advance(&ticket, Wait::timeout(Duration::from_millis(300)));
    assert!(matches!(waited, Err(CallError::TimedOut)), "{waited:?}");
    server.signal(Signal::SIGCONT);
    server.tell();
    server.says("answered");
    assert_eq!(&*client.collect(ticket, patiently()).unwrap(), b"late");
}

#[test]
fn a_request_that_is_dropped_is_declined_and_one_that_is_forgotten_is_held() {
    let arena = Arena::new();
    let service = service(&arena, &small());
    let (mut client, mut server) = (service.client().unwrap(), service.server().unwrap());
    let ticket = client.submit(b"no", Wait::Never).unwrap();
    drop(server.next(Wait::Never).unwrap());
    assert!(matches!(client.advance(&ticket, Wait::Never), Err(CallError::Declined)));
    client.abandon(ticket);
    let ticket = client.submit(b"again", Wait::Never).unwrap();
    std::mem::forget(server.next(Wait::Never).unwrap());
    assert_eq!(*server.next(Wait::Never).unwrap(), *b"again");
    assert!(matches!(client.collect(ticket, Wait::Never), Err(CallError::Declined)));
    let ticket = client.submit(b"bye", Wait::Never).unwrap();
    std::mem::forget(server.next(Wait::Never).unwrap());
    drop(server);
    assert!(matches!(client.collect(ticket, Wait::Never), Err(CallError::Declined)), "it left in good order");
    assert!(matches!(service.server().unwrap().next(Wait::Never), Err(RecvError::WouldBlock)));
}

/// A server goes round the places for calls, so nobody's waits for more than one of each
/// other place's, however fast that is filled again.
#[test]
fn requests_are_served_in_turn_whoever_makes_most() {
    const DEPTH: u64 = 8;
    let arena = Arena::new();
    let service = service(&arena, &small().depth(DEPTH));
    let (mut greedy, mut polite) = (service.client().unwrap(), service.client().unwrap());
    let mut server = service.server().unwrap();
    let mut more = VecDeque::new();
    let mut most_before = 0;
    for round in 0..100 {
        // All places but one are the greedy one's, which one of them changes.
        while more.len() < DEPTH as usize - 1 {
            more.push_back(greedy.submit(b"more", Wait::Never).unwrap());
        }
        let ticket = polite.submit(b"please", Wait::Never).unwrap();
        let mut before = 0;
        loop {
            let request = server.next(Wait::Never).unwrap();
            let is_polite = *request == *b"please";
            request.respond(b"").unwrap();
            if is_polite {
                break;
            }
            before += 1;
            assert!(before < DEPTH, "round {round}: {before} were served before");
            // What was answered is asked again at once.
            let answered = more.iter().position(|ticket| greedy.advance(ticket, Wait::Never).is_ok());
            let answered = more.remove(answered.expect("one is answered")).unwrap();
            greedy.collect(answered, Wait::Never).unwrap();
            more.push_back(greedy.submit(b"more", Wait::Never).unwrap());
        }
        most_before = most_before.max(before);
        polite.collect(ticket, Wait::Never).unwrap();
        if round % 2 == 1 {
            // Elsewhere the next time: the greedy one takes the place that was given back.
            let moved = greedy.submit(b"more", Wait::Never).unwrap();
            greedy.abandon(more.remove(round % more.len()).unwrap());
            more.push_back(moved);
        }
    }
    assert_eq!(most_before, DEPTH - 1, "there was always another one's turn before");
}

#[test]
fn waits_for_room_and_for_answers_end_as_they_were_told_to() {
    static CANCEL: Cancel = Cancel::new();
    let arena = Arena::new();
    let service = service(&arena, &small().depth(1));
    let mut client = service.client().unwrap();
    let ticket = client.submit(b"", Wait::Never).unwrap();
    let soon = || Wait::timeout(Duration::from_millis(5));
    assert!(matches!(client.submit(b"", soon()), Err(CallError::TimedOut)));
    assert!(matches!(client.advance(&ticket, soon()), Err(CallError::TimedOut)));
    let waiter = thread::spawn(move || client.advance(&ticket, Wait::Forever.or_cancel(&CANCEL)));
    CANCEL.cancel();
    assert!(matches!(within(PATIENCE, move || waiter.join().unwrap()), Err(CallError::Cancelled)));
    let mut server = service.server().unwrap();
    assert!(matches!(server.next(soon()).map(drop), Err(RecvError::TimedOut)), "the client is gone");
}

#[test]
fn where_a_full_channel_fails_nobody_waits_for_room() {
    let arena = Arena::new();
    let service = service(&arena, &small().depth(1).when_full(WhenFull::Fail));
    let mut client = service.client().unwrap();
    let ticket = client.submit(b"", Wait::Forever).unwrap();
    assert!(matches!(client.submit(b"", Wait::Forever), Err(CallError::WouldBlock)));
    client.abandon(ticket);
}

#[rstest]
fn who_waits_is_woken(#[values(1, 4)] depth: u64) {
    let arena = Arena::new();
    let service = service(&arena, &small().depth(depth));
    let mut server = service.server().unwrap();
    server.set_waiting(Waiting::Block);
    thread::scope(|scope| {
        scope.spawn(|| echo(&mut server, Duration::from_secs(1)));
        for _ in 0..3 {
            scope.spawn(|| {
                let mut client = service.client().unwrap();
                client.set_waiting(Waiting::Block);
                for number in 0..100_u64 {
                    let question = number.to_string();
                    let answer = client.call(question.as_bytes(), patiently()).unwrap();
                    assert_eq!(*answer, *format!("re: {question}").as_bytes());
                }
            });
        }
    });
}

#[test]
fn clients_and_servers_are_killed_at_random_and_the_others_go_on() {
    let arena = Arena::new();
    let service = service(&arena, &small().depth(3));
    let mut dice = common::Dice::new(7);
    let spawn = |role: &str| {
        let mut child = Child::spawn(role, &[path(&arena)]);
        child.says(if role == "echo" { "serving" } else { "calling" });
        child
    };
    let mut servers = [spawn("echo"), spawn("echo")];
    let mut clients = [spawn("call for ever"), spawn("call for ever")];
    let mut witness = service.client().unwrap();
    for _ in 0..30 {
        let victims =
            if dice.below(2) == 0 { (&mut servers, "echo") } else { (&mut clients, "call for ever") };
        let victim = &mut victims.0[dice.below(2) as usize];
        victim.kill();
        *victim = spawn(victims.1);
        let answer = call_until_answered(&mut witness, b"alive?");
        assert_eq!(answer, b"re: alive?");
    }
    servers.iter_mut().chain(&mut clients).for_each(Child::kill);
    // Whoever comes next puts in order what they left.
    drop(service.client().unwrap());
    assert_eq!(under_way(&arena), 0);
}

fn call_until_answered(client: &mut RpcClient, question: &[u8]) -> Vec<u8> {
    loop {
        match client.call(question, patiently()).map(|answer| answer.to_vec()) {
            Ok(answer) => return answer,
            Err(CallError::ServerDied) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[rstest]
#[case::no_slot(ShmConfig::new().depth(0), "give 1 to 4096")]
#[case::too_many_slots(ShmConfig::new().depth(4097), "give 1 to 4096")]
#[case::alone(ShmConfig::new().participants(1), "at least 2")]
#[case::capacity(ShmConfig::new().capacity_bytes(1 << 20), "capacity")]
#[case::policy(ShmConfig::new().when_full(WhenFull::DropOldest), "wait or fail")]
#[case::another_kind(ShmConfig::new().kind(Kind::Spsc), "kind rpc")]
fn settings_that_make_no_sense_are_refused(#[case] config: ShmConfig, #[case] says: &str) {
    let arena = Arena::new();
    match Rpc::at(arena.path()).create(&name("x"), &config) {
        Err(ChannelError::InvalidConfig(text)) => assert!(text.contains(says), "{text}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(arena.entries(), [""; 0]);
}

#[test]
fn a_service_is_known_by_its_kind_and_has_no_senders() {
    use ipc_shm::{Channel, Transport};
    let arena = Arena::new();
    let rpc = Rpc::at(arena.path());
    let service = rpc.create(&name("x"), &ShmConfig::new().transient()).unwrap();
    let (_client, _server) = (service.client().unwrap(), service.server().unwrap());
    let info = rpc.stat(&name("x")).unwrap();
    assert_eq!((info.kind, info.depth, info.max_message_len_bytes), ("rpc", Some(64), Some(8192)));
    let roles: Vec<_> = info.participants.iter().map(|one| (one.role, one.alive)).collect();
    assert_eq!(roles, [(Role::Client, true), (Role::Server, true)]);
    assert!(matches!(ipc_shm::Mpmc::at(arena.path()).open(&name("x")), Err(ChannelError::Mismatch { .. })));
    let any = Shm::at(arena.path()).open(&name("x")).unwrap();
    for refused in [any.sender().map(drop), any.receiver().map(drop)] {
        let text = refused.unwrap_err().to_string();
        assert!(text.contains("clients and servers") && text.contains("`Rpc`"), "{text}");
    }
    assert!(matches!(rpc.remove(&name("x")), Err(ChannelError::Busy { .. })));
    drop((any, service, _client, _server));
    assert_eq!(arena.entries(), [""; 0], "transient");
}

#[test]
fn a_forked_child_is_told_that_the_endpoints_are_its_parents() {
    let arena = Arena::new();
    let service = service(&arena, &small());
    let (mut client, mut server) = (service.client().unwrap(), service.server().unwrap());
    let ticket = client.submit(b"parent's", Wait::Never).unwrap();
    fork_child(|| {
        assert!(matches!(client.submit(b"", Wait::Never), Err(CallError::Forked)));
        assert!(matches!(client.advance(&ticket, Wait::Never), Err(CallError::Forked)));
        assert!(matches!(server.next(Wait::Never).map(drop), Err(RecvError::Forked)));
    })
    .ends_well();
    server.next(Wait::Never).unwrap().respond(b"too").unwrap();
    assert_eq!(&*client.collect(ticket, Wait::Never).unwrap(), b"too");
}

/// Every word of the slots and of the entries' states, in turn, as anything.
#[test]
fn the_calls_of_a_place_are_counted_from_0_again_after_its_last_number() {
    let arena = Arena::new();
    let service = service(&arena, &small().depth(1));
    let (mut client, mut server) = (service.client().unwrap(), service.server().unwrap());
    let last = (1_u64 << 35) - 1;
    let length = fs::metadata(arena.file("x")).unwrap().len();
    write_at(&arena.file("x"), length - 4096, &(last << 29).to_ne_bytes());
    let sent = || Rpc::at(arena.path()).stat(&name("x")).unwrap().sent_messages;
    assert_eq!(sent(), Some(last));
    let ticket = client.submit(b"the last one", Wait::Never).unwrap();
    echo(&mut server, Duration::ZERO);
    assert_eq!(&*client.collect(ticket, patiently()).unwrap(), b"re: the last one");
    assert_eq!(sent(), Some(0));
}

#[test]
fn wrong_words_are_reported_or_read_as_something_never_worse() {
    let arena = Arena::new();
    let service = service(&arena, &ShmConfig::new().depth(2).max_message_len(48).participants(4));
    let mut client = service.client().unwrap();
    let _never_collected = client.submit(b"a question", Wait::Never).unwrap();
    let image = fs::read(arena.file("x")).unwrap();
    let file = OpenOptions::new().write(true).open(arena.file("x")).unwrap();
    let data = image.len() as u64 - 4096;
    let states = (0..4).map(|entry| 2 * 4096 + entry * 256 + 32);
    let mut corrupt = 0;
    for place in states.chain((data..data + 2 * 64).step_by(8)) {
        let old = u64::from_ne_bytes(image[place as usize..][..8].try_into().unwrap());
        let stages = (0..8).map(|stage| old & !7 | stage);
        let others =
            [0, 1, u64::MAX, old ^ 1 << 63, old ^ 9 << 16, old ^ 9 << 3, old + 1, old.wrapping_sub(1)];
        for new in stages.chain(others) {
            file.write_all_at(&new.to_ne_bytes(), place).unwrap();
            let server = service.server().map(|mut server| {
                let served = server.next(Wait::timeout(Duration::ZERO)).and_then(|request| {
                    assert!(request.len() <= 48);
                    request.respond(b"an answer").map_err(|_| RecvError::WouldBlock)
                });
                corrupt += u64::from(matches!(served, Err(RecvError::Corrupt(_))));
            });
            corrupt += u64::from(matches!(server, Err(ChannelError::Corrupt(_))));
            let called = service.client().map(|mut client| {
                let called = client.call(b"another", Wait::timeout(Duration::ZERO)).map(drop);
                assert!(!matches!(called, Err(CallError::Closed | CallError::Os(_))), "{called:?}");
            });
            assert!(matches!(called, Ok(()) | Err(ChannelError::Corrupt(_))), "{called:?}");
            let rest = &image[2 * 4096..];
            file.write_all_at(rest, 2 * 4096).unwrap();
        }
    }
    assert!(corrupt > 0, "{corrupt}");
    eventually("it still works", || {
        let mut server = service.server().unwrap();
        server.next(Wait::Never).is_ok_and(|request| request.respond(b"").is_ok())
    });
}
