//! Scenes at services: requesting, answering, giving up, waiting, coming and going, and
//! repairing what the dead left.
//!
//! Who has an answer has its own and whole; the caller of a dead server is told, and the next
//! server answers what was not taken; a dead client's places are free again; whoever dies
//! putting things in order leaves no more than there was to do.

use crate::{
    common::{PATIENCE, end_after, eventually, fork, layout, name, read_word, write_at},
    scenario::Scenario,
    stage::{Act, Stage, until_asleep},
};
use ipc_shm::{
    CallError, Client, Kind, RecvError, Request, Rpc, RpcChannel, RpcClient, RpcServer, RpcTicket, Server,
    ShmConfig, Transport, Wait, Waiting,
};
use nix::sys::signal::{Signal, kill};
use std::{mem, time::Duration};

/// Notes of victims, and of those who wait for them.
const DONE: usize = 0;
const ANSWERED: usize = 1;
const BEREAVED: usize = 2;

/// A wait that is over soon.
const BRIEFLY: Duration = Duration::from_millis(1);

const DEPTH: u64 = 3;
/// Room for calls at every stage, within the first page.
const DEEP: u64 = 8;
const LONGEST: usize = 64;
const PARTICIPANTS: u32 = 8;

/// Where the flags are of servers that wait for requests, of clients that wait for room, and
/// of the first participant, who waits for an answer.
const SERVERS_ASLEEP: u64 = layout::PAGE + 128;
const CALLERS_ASLEEP: u64 = layout::PAGE + 256;
const FIRST_ASLEEP: u64 = 2 * layout::PAGE + 192;

/// Where the slots are, and how far from each other.
const DATA: u64 = 3 * layout::PAGE;
const STRIDE: u64 = 192;

/// How far a call has come, by its slot's word.
const CLAIMED: u64 = 1;
const REQUESTED: u64 = 2;
const TAKEN: u64 = 3;

pub(crate) fn scenarios() -> Vec<Scenario> {
    let scene = |name: &str, scene: fn(&Stage)| Scenario::new(Kind::Rpc.as_str(), name, scene);
    let mut all = vec![
        scene("client, requests", request).short(),
        scene("client, reads the answer", collect).short(),
        scene("client, withdraws a request", withdraw).short(),
        scene("client, gives up what a server has", abandon),
        scene("client, gives up an answer", give_up_an_answer).short(),
        scene("client, waits for an answer in vain", wait_for_an_answer).varying(),
        scene("client, waits for an answer and is woken", wait_for_an_answer_and_be_woken).varying(),
        scene("client, of a dead server", be_bereaved).varying(),
        scene("client, waits for room in vain", wait_for_room).varying(),
        scene("client, waits for room and is woken", wait_for_room_and_be_woken).varying(),
        scene("client, finds the dead in the way", bury).varying(),
        scene("client, comes", |stage| come(stage, Role::Client)),
        scene("client, goes", |stage| go(stage, Role::Client)),
        scene("server, answers", answer).short(),
        scene("server, declines", decline).short(),
        scene("server, answers what was given up", answer_in_vain).short(),
        scene("server, wakes a client", wake_a_client).varying(),
        scene("server, wakes a client that is dead", wake_a_dead_client),
        scene("server, of a damaged request", take_what_is_damaged),
        scene("server, waits in vain", wait_for_a_request).varying(),
        scene("server, waits and is woken", wait_for_a_request_and_be_woken).varying(),
        scene("server, comes", |stage| come(stage, Role::Server)),
        scene("server, goes", |stage| go(stage, Role::Server)),
        scene("repairer, of all there can be", |stage| repair_everything(stage, Role::Client)),
        scene("repairer, of all there can be, a server", |stage| repair_everything(stage, Role::Server)),
        scene("onlooker", look),
    ];
    for point in (0..FIRST_DEATHS).filter(|_| Stage::can_lack()) {
        for (who, act) in [("client", call as fn(&mut Both) -> Act), ("server", serve)] {
            let name = format!("repairer, after a {who} that died at point {point}");
            let scene = move |stage: &Stage| repair(stage, point, act);
            let after = Scenario::new(Kind::Rpc.as_str(), name, scene);
            all.push(after.variation(point == FIRST_DEATHS / 2));
        }
    }
    all
}

/// More than requesting and giving up, or taking and answering, takes.
const FIRST_DEATHS: usize = 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Client,
    Server,
}

fn create(stage: &Stage) {
    create_of(stage, DEPTH);
}

fn create_of(stage: &Stage, depth: u64) {
    let config = ShmConfig::new().depth(depth).max_message_len(LONGEST as u64).participants(PARTICIPANTS);
    drop(Rpc::at(stage.arena().path()).create(&name("x"), &config).expect("it can be made"));
}

fn open(stage: &Stage) -> RpcChannel {
    Rpc::at(stage.arena().path()).open(&name("x")).expect("it is there")
}

fn client(stage: &Stage) -> RpcClient {
    let mut client = open(stage).client().expect("there is a place");
    client.set_waiting(Waiting::Block);
    client
}

fn server(stage: &Stage) -> RpcServer {
    let mut server = open(stage).server().expect("there is a place");
    server.set_waiting(Waiting::Block);
    server
}

/// Nobody else answers like this.
fn answer_to(question: &[u8]) -> Vec<u8> {
    [b"re: ", question].concat()
}

/// Answers all requests that are there.
fn serve_all(server: &mut RpcServer) {
    loop {
        match server.next(Wait::Never) {
            Ok(request) => {
                let answer = answer_to(&request);
                request.respond(&answer).expect("it fits");
            }
            Err(RecvError::WouldBlock) => return,
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// The calls that are at this stage, by the slots' own words.
fn at_stage(stage: &Stage, wanted: u64) -> usize {
    let file = stage.arena().file("x");
    (0..DEPTH).filter(|slot| read_word(&file, DATA + slot * STRIDE) & 7 == wanted).count()
}

fn under_way(stage: &Stage) -> u64 {
    stage.shm().stat(&name("x")).expect("it is there").queued_messages.expect("it is counted")
}

/// A client with a call under way, of which it isn't the victim.
struct Caller {
    client: RpcClient,
    ticket: Option<RpcTicket>,
    question: &'static [u8],
    /// Where its call's word is.
    slot: u64,
}

impl Caller {
    fn new(stage: &Stage, question: &'static [u8]) -> Self {
        let file = stage.arena().file("x");
        let words = || (0..DEEP).map(|slot| DATA + slot * STRIDE).map(|at| (at, read_word(&file, at)));
        let mut client = client(stage);
        let before: Vec<_> = words().collect();
        let ticket = client.submit(question, Wait::Never).expect("there is room");
        let changed = words().zip(before).find(|(now, before)| now != before);
        let slot = changed.expect("a request is somewhere").0.0;
        Self { client, ticket: Some(ticket), question, slot }
    }

    /// How its call ends: with an answer to its own question, or without one.
    fn end(&mut self, wait: Wait<'_>) -> Result<(), CallError> {
        let ticket = self.ticket.take().expect("it hasn't ended");
        let answer = self.client.collect(ticket, wait)?;
        assert_eq!(*answer, *answer_to(self.question), "its own, and whole");
        Ok(())
    }

    fn stage(&self, stage: &Stage) -> u64 {
        read_word(&stage.arena().file("x"), self.slot) & 7
    }
}

/// How calls ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ends {
    answered: usize,
    declined: usize,
    bereaved: usize,
}

impl Ends {
    fn count(&mut self, end: Result<(), CallError>) {
        match end {
            Ok(()) => self.answered += 1,
            Err(CallError::Declined) => self.declined += 1,
            Err(CallError::ServerDied) => self.bereaved += 1,
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// All calls end as they should, whatever has become of the victim that was to serve one of
/// them: the callers of the dead are told, and find that out by themselves; what nobody took
/// is answered by the next server.
fn conclude(stage: &Stage, callers: &mut [Caller]) -> Ends {
    let mut ends = Ends::default();
    let mut waiting = Vec::new();
    for caller in callers {
        match caller.stage(stage) {
            REQUESTED => waiting.push(caller),
            TAKEN => {
                let end = caller.end(Wait::timeout(PATIENCE));
                assert!(matches!(end, Err(CallError::ServerDied)), "nobody serves: {end:?}");
                ends.count(end);
            }
            _ => ends.count(caller.end(Wait::Never)),
        }
    }
    assert!(waiting.iter().all(|caller| caller.stage(stage) == REQUESTED), "what wasn't taken waits");
    serve_all(&mut server(stage));
    waiting.into_iter().for_each(|caller| ends.count(caller.end(Wait::Never)));
    ends
}

/// All is well with the service: nothing is under way, there are places for everybody, each
/// slot can be used, and each call has its own answer. Then it is removed.
fn finish(stage: &Stage, callers: Vec<Caller>) {
    drop(callers);
    // Whoever comes puts in order what there is.
    let mut clients = vec![client(stage)];
    assert_eq!(under_way(stage), 0, "every place is free");
    clients.extend((0..2).map(|_| client(stage)));
    let mut servers: Vec<_> = (3..PARTICIPANTS).map(|_| server(stage)).collect();
    for (round, client) in clients.iter_mut().enumerate() {
        let depth = stage.shm().stat(&name("x")).unwrap().depth.unwrap();
        let questions: Vec<_> = (0..depth).map(|number| vec![number as u8; LONGEST - 4 - round]).collect();
        let tickets: Vec<_> =
            questions.iter().map(|question| client.submit(question, Wait::Never).unwrap()).collect();
        assert!(matches!(client.submit(b"", Wait::Never), Err(CallError::WouldBlock)), "no more than that");
        serve_all(&mut servers[round]);
        for (ticket, question) in tickets.into_iter().zip(&questions) {
            assert_eq!(*client.collect(ticket, Wait::Never).unwrap(), *answer_to(question));
        }
    }
    drop((clients, servers));
    assert_eq!(under_way(stage), 0);
    stage.shm().remove(&name("x")).expect("nobody has it open");
}

const QUESTION: &[u8] = b"the victim's";

/// Somebody who requested something.
fn requester(stage: &Stage) -> (RpcClient, Option<RpcTicket>) {
    let mut client = client(stage);
    let ticket = client.submit(QUESTION, Wait::Never).expect("there is room");
    (client, Some(ticket))
}

/// The server that was there all the time sees the whole request or none.
fn request(stage: &Stage) {
    create(stage);
    let mut server = server(stage);
    stage.victim(|| client(stage), |client| Ok(client.submit(QUESTION, Wait::Never).map(mem::forget)?));
    match server.next(Wait::Never) {
        Ok(request) => {
            assert_eq!(*request, *QUESTION);
            request.respond(b"for nobody").unwrap();
        }
        Err(RecvError::WouldBlock) => {}
        Err(error) => panic!("{error:?}"),
    }
    drop(server);
    finish(stage, vec![]);
}

fn collect(stage: &Stage) {
    create(stage);
    let come = || {
        let requester = requester(stage);
        serve_all(&mut server(stage));
        requester
    };
    stage.victim(come, |(client, ticket)| {
        if let Some(ticket) = ticket.take() {
            assert_eq!(*client.collect(ticket, Wait::Never)?, *answer_to(QUESTION));
        }
        Ok(())
    });
    finish(stage, vec![]);
}

fn give_up(stage: &Stage, (client, ticket): &mut (RpcClient, Option<RpcTicket>)) -> Act {
    if let Some(ticket) = ticket.take() {
        client.abandon(ticket);
    }
    stage.note(DONE);
    Ok(())
}

/// A request that was withdrawn isn't served.
fn withdraw(stage: &Stage) {
    create(stage);
    let mut server = server(stage);
    stage.victim(|| requester(stage), |requester| give_up(stage, requester));
    let request = server.next(Wait::Never).map(|request| request.to_vec());
    match request {
        Ok(request) => assert!(request == QUESTION && stage.noted(DONE) == 0),
        Err(RecvError::WouldBlock) => {}
        Err(error) => panic!("{error:?}"),
    }
    drop(server);
    finish(stage, vec![]);
}

fn give_up_an_answer(stage: &Stage) {
    create(stage);
    let come = || {
        let requester = requester(stage);
        serve_all(&mut server(stage));
        requester
    };
    stage.victim(come, |requester| give_up(stage, requester));
    finish(stage, vec![]);
}

/// What the server has stays its own, and its answer meets nobody.
fn abandon(stage: &Stage) {
    create(stage);
    let mut server = server(stage);
    let wait_until_taken = || {
        let requester = requester(stage);
        eventually("it is taken", || at_stage(stage, TAKEN) == 1);
        requester
    };
    stage.victim_while(
        wait_until_taken,
        |requester| give_up(stage, requester),
        |_| {
            let taken = server.next(Wait::timeout(PATIENCE)).expect("there is a request");
            assert_eq!(*taken, *QUESTION);
            mem::forget(taken);
        },
    );
    let mut callers: Vec<_> = [&b"one"[..], b"two"].map(|question| Caller::new(stage, question)).into();
    let request = server.held();
    assert_eq!(*request, *QUESTION, "still the server's");
    assert!(!request.respond(b"for nobody").unwrap(), "its client is dead");
    serve_all(&mut server);
    for caller in &mut callers {
        caller.end(Wait::Never).expect("it was served");
    }
    drop(server);
    finish(stage, callers);
}

fn wait_for_an_answer(stage: &Stage) {
    create(stage);
    stage.victim(
        || requester(stage),
        |(client, ticket)| match client.advance(ticket.as_ref().expect("kept"), Wait::timeout(BRIEFLY)) {
            Err(CallError::TimedOut) => Ok(()),
            other => Ok(other?),
        },
    );
    finish(stage, vec![]);
}

fn wait_for_an_answer_and_be_woken(stage: &Stage) {
    create(stage);
    let mut server = server(stage);
    stage.victim_while(
        || requester(stage),
        |(client, ticket)| {
            client.advance(ticket.as_ref().expect("kept"), Wait::timeout(PATIENCE))?;
            Ok(())
        },
        |alive| {
            // The server is the first participant.
            until_asleep(stage, FIRST_ASLEEP + 256, alive);
            serve_all(&mut server);
        },
    );
    drop(server);
    finish(stage, vec![]);
}

/// The servers that have taken a request each, and are dead.
fn die_serving(stage: &Stage, servers: usize) {
    let Some(dead) = fork() else {
        end_after(|| {
            for _ in 0..servers {
                let mut server = server(stage);
                mem::forget(server.next(Wait::Never).expect("there is a request"));
                mem::forget(server);
            }
        })
    };
    dead.ends_well();
}

/// Whoever is told first, and is killed telling the others, keeps nothing from them. It looks at
/// all its calls.
fn be_bereaved(stage: &Stage) {
    create_of(stage, DEEP);
    let mut callers = vec![Caller::new(stage, b"one"), Caller::new(stage, b"two")];
    let come = || {
        let (mut client, ticket) = requester(stage);
        let another = client.submit(QUESTION, Wait::Never).expect("there is room");
        die_serving(stage, 4);
        (client, ticket, another)
    };
    stage.victim(come, |(client, ticket, _another)| {
        let told = client.advance(ticket.as_ref().expect("kept"), Wait::timeout(PATIENCE));
        match told {
            Err(CallError::ServerDied) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(()) => panic!("nobody answered"),
        }
    });
    assert_eq!(conclude(stage, &mut callers), Ends { bereaved: 2, ..Ends::default() });
    finish(stage, callers);
}

/// A client whose calls take up all places.
fn fill(stage: &Stage) -> (RpcClient, Vec<RpcTicket>) {
    let mut client = client(stage);
    let tickets = (0..DEPTH).map(|_| client.submit(b"filling", Wait::Never).expect("there is room"));
    let tickets = tickets.collect();
    (client, tickets)
}

fn wait_for_room(stage: &Stage) {
    create(stage);
    let other = fill(stage);
    stage.victim(
        || client(stage),
        |client| match client.submit(QUESTION, Wait::timeout(BRIEFLY)).map(mem::forget) {
            Err(CallError::TimedOut) => Ok(()),
            other => Ok(other?),
        },
    );
    assert_eq!(at_stage(stage, REQUESTED), DEPTH as usize, "nobody else's place was taken");
    drop(other);
    finish(stage, vec![]);
}

fn wait_for_room_and_be_woken(stage: &Stage) {
    create(stage);
    let (mut other, mut tickets) = fill(stage);
    stage.victim_while(
        || client(stage),
        |client| Ok(client.submit(QUESTION, Wait::timeout(PATIENCE)).map(mem::forget)?),
        |alive| {
            until_asleep(stage, CALLERS_ASLEEP, alive);
            other.abandon(tickets.pop().expect("there are some"));
        },
    );
    drop(other);
    finish(stage, vec![]);
}

/// A dead client's places are free for who waits for one.
fn bury(stage: &Stage) {
    create(stage);
    let come = || {
        let client = client(stage);
        let Some(dead) = fork() else { end_after(|| mem::forget(fill(stage))) };
        dead.ends_well();
        client
    };
    stage.victim(come, |client| {
        // With a wait for each, since it may be told of a failure the first time.
        Ok(client.submit(QUESTION, Wait::timeout(PATIENCE)).map(mem::forget)?)
    });
    finish(stage, vec![]);
}

/// An endpoint to come, or to go.
#[derive(Default)]
struct Visitor {
    client: Option<RpcClient>,
    server: Option<RpcServer>,
}

impl Visitor {
    fn take(&mut self, channel: &RpcChannel, role: Role) -> Result<(), ipc_shm::ChannelError> {
        match role {
            Role::Client => self.client = Some(channel.client()?),
            Role::Server => self.server = Some(channel.server()?),
        }
        Ok(())
    }
}

fn come(stage: &Stage, role: Role) {
    create(stage);
    let mut callers = vec![Caller::new(stage, b"one"), Caller::new(stage, b"two")];
    stage.victim(|| (open(stage), Visitor::default()), |(channel, visitor)| Ok(visitor.take(channel, role)?));
    assert_eq!(conclude(stage, &mut callers), Ends { answered: 2, ..Ends::default() });
    finish(stage, callers);
}

/// Who goes gives back what it has: a server declines, and a client gives up.
fn go(stage: &Stage, role: Role) {
    create(stage);
    let mut callers = vec![Caller::new(stage, b"one"), Caller::new(stage, b"two")];
    let come = || {
        let mut visitor = Visitor::default();
        visitor.take(&open(stage), role).unwrap();
        if let Some(server) = &mut visitor.server {
            mem::forget(server.next(Wait::Never).expect("there is a request"));
        }
        if let Some(client) = &mut visitor.client {
            mem::forget(client.submit(QUESTION, Wait::Never).expect("there is room"));
        }
        visitor
    };
    stage.victim(come, |visitor| {
        drop(mem::take(visitor));
        Ok(())
    });
    let ends = conclude(stage, &mut callers);
    let expected = if role == Role::Server { 1 } else { 2 };
    assert_eq!((ends.answered, ends.declined + ends.bereaved), (expected, 2 - expected));
    finish(stage, callers);
}

fn answer(stage: &Stage) {
    create(stage);
    let mut callers = vec![Caller::new(stage, b"one"), Caller::new(stage, b"two")];
    stage.victim(
        || server(stage),
        |server| {
            let request = server.next(Wait::Never)?;
            let answer = answer_to(&request);
            assert!(request.respond(&answer)?, "its client lives");
            stage.note(DONE);
            Ok(())
        },
    );
    let ends = conclude(stage, &mut callers);
    assert!(stage.noted(DONE) == 0 || ends.answered == 2, "what was answered is there");
    assert!(ends.bereaved <= 1 && ends.declined == 0, "{ends:?}");
    finish(stage, callers);
}

fn decline(stage: &Stage) {
    create(stage);
    let mut callers = vec![Caller::new(stage, b"one"), Caller::new(stage, b"two")];
    stage.victim(
        || server(stage),
        |server| {
            drop(server.next(Wait::Never)?);
            stage.note(DONE);
            Ok(())
        },
    );
    let ends = conclude(stage, &mut callers);
    assert!(stage.noted(DONE) == 0 || ends.declined == 1, "what was declined is");
    assert!(ends.bereaved + ends.declined <= 1, "{ends:?}");
    finish(stage, callers);
}

/// The slot is the next call's, and the old answer isn't.
fn answer_in_vain(stage: &Stage) {
    create(stage);
    let come = || {
        let (mut client, ticket) = requester(stage);
        let mut server = server(stage);
        mem::forget(server.next(Wait::Never).expect("there is a request"));
        client.abandon(ticket.expect("just made"));
        server
    };
    stage.victim(come, |server| {
        // A second time there is nothing left to answer.
        if stage.noted(DONE) == 0 {
            assert!(!server.held().respond(b"for nobody")?, "its client is gone");
            stage.note(DONE);
        }
        Ok(())
    });
    let mut callers: Vec<_> = [&b"one"[..], b"two"].map(|question| Caller::new(stage, question)).into();
    assert_eq!(conclude(stage, &mut callers), Ends { answered: 2, ..Ends::default() });
    finish(stage, callers);
}

/// Calls, and sleeps until it is told what has become of it.
fn sleeper(stage: &Stage) -> crate::common::Forked {
    let Some(sleeper) = fork() else {
        end_after(|| match client(stage).call(QUESTION, Wait::timeout(PATIENCE)) {
            Ok(answer) => {
                assert_eq!(*answer, *answer_to(QUESTION));
                stage.note(ANSWERED);
            }
            Err(CallError::ServerDied) => stage.note(BEREAVED),
            Err(error) => panic!("{error:?}"),
        })
    };
    until_asleep(stage, FIRST_ASLEEP, &|| true);
    sleeper
}

fn serve_one(stage: &Stage, server: &mut RpcServer) -> Act {
    let request = server.next(Wait::Never)?;
    let answer = answer_to(&request);
    request.respond(&answer)?;
    stage.note(DONE);
    Ok(())
}

/// The server may die before it answers, or between its answer and its wake-up: the client
/// is told, or sees the answer, all the same.
fn wake_a_client(stage: &Stage) {
    create(stage);
    let sleeper = sleeper(stage);
    stage.victim(|| server(stage), |server| serve_one(stage, server));
    if at_stage(stage, REQUESTED) == 1 {
        // Nobody has taken it.
        serve_all(&mut server(stage));
    }
    sleeper.ends_well();
    let (answered, bereaved) = (stage.noted(ANSWERED), stage.noted(BEREAVED));
    assert_eq!(answered + bereaved, 1);
    assert!(stage.noted(DONE) == 0 || answered == 1, "what was answered has arrived");
    finish(stage, vec![]);
}

fn wake_a_dead_client(stage: &Stage) {
    create(stage);
    let come = || {
        let server = server(stage);
        let Some(dead) = fork() else {
            end_after(|| drop(client(stage).call(QUESTION, Wait::timeout(PATIENCE)).map(drop)))
        };
        // The server is the first participant.
        until_asleep(stage, FIRST_ASLEEP + 256, &|| true);
        kill(dead.0, Signal::SIGKILL).expect("our child");
        dead.ended();
        server
    };
    stage.victim(come, |server| match stage.noted(DONE) {
        0 => serve_one(stage, server),
        _ => Ok(()),
    });
    finish(stage, vec![]);
}

/// Its client is told that it isn't answered.
fn take_what_is_damaged(stage: &Stage) {
    create(stage);
    let mut callers = vec![Caller::new(stage, b"one")];
    let (file, length) = (stage.arena().file("x"), callers[0].slot + 8);
    assert_eq!(read_word(&file, length), 3);
    write_at(&file, length, &u64::MAX.to_ne_bytes());
    stage.victim(
        || server(stage),
        |server| match server.next(Wait::Never).map(drop) {
            Err(RecvError::Corrupt(_)) => {
                stage.note(DONE);
                Ok(())
            }
            Err(error) => Err(error.into()),
            Ok(()) => panic!("it is damaged"),
        },
    );
    // Somebody can make sense of it.
    write_at(&file, length, &3_u64.to_ne_bytes());
    let ends = conclude(stage, &mut callers);
    assert!(stage.noted(DONE) == 0 || ends.declined == 1, "{ends:?}");
    finish(stage, callers);
}

fn wait_for_a_request(stage: &Stage) {
    create(stage);
    stage.victim(
        || server(stage),
        |server| match server.advance(Wait::timeout(BRIEFLY)) {
            Err(RecvError::TimedOut) => Ok(()),
            other => Ok(other?),
        },
    );
    // What it announced misleads nobody.
    let mut callers = vec![Caller::new(stage, b"one")];
    assert_eq!(conclude(stage, &mut callers), Ends { answered: 1, ..Ends::default() });
    finish(stage, callers);
}

/// The one that was woken is killed before it takes the request: the next one has it.
fn wait_for_a_request_and_be_woken(stage: &Stage) {
    create(stage);
    let mut callers = Vec::new();
    stage.victim_while(
        || server(stage),
        |server| {
            server.advance(Wait::timeout(PATIENCE))?;
            stage.note(DONE);
            Ok(())
        },
        |alive| {
            until_asleep(stage, SERVERS_ASLEEP, alive);
            callers.push(Caller::new(stage, b"one"));
        },
    );
    let ends = conclude(stage, &mut callers);
    assert!(stage.noted(DONE) == 0 || ends.answered == 0, "it was taken once");
    finish(stage, callers);
}

fn look(stage: &Stage) {
    create(stage);
    let mut callers = vec![Caller::new(stage, b"one"), Caller::new(stage, b"two")];
    stage.victim(
        || (),
        |()| {
            let info = stage.shm().stat(&name("x"))?;
            // What couldn't be read isn't counted.
            assert!(info.queued_messages.is_some_and(|calls| calls <= 2));
            Ok(())
        },
    );
    assert_eq!(conclude(stage, &mut callers), Ends { answered: 2, ..Ends::default() });
    finish(stage, callers);
}

/// A dead client and dead servers leave calls at every stage, and a caller lives.
fn repair_everything(stage: &Stage, role: Role) {
    create_of(stage, DEEP);
    let mut callers = vec![Caller::new(stage, b"one")];
    let Some(dead) = fork() else { end_after(|| leave_everything(stage)) };
    dead.ends_well();
    assert_eq!(under_way(stage), 7);
    stage.victim(|| (open(stage), Visitor::default()), |(channel, visitor)| Ok(visitor.take(channel, role)?));
    // It finds out by itself, or was told.
    let end = callers[0].end(Wait::timeout(PATIENCE));
    assert!(matches!(end, Err(CallError::ServerDied)), "{end:?}");
    finish(stage, callers);
}

/// For who is about to die: takes the one request that there is, and has calls of its own
/// claimed, taken, given up, answered, declined and requested.
fn leave_everything(stage: &Stage) {
    let mut servers: Vec<_> = (0..4).map(|_| server(stage)).collect();
    let mut take = |server: usize| mem::forget(servers[server].next(Wait::Never).expect("requested"));
    take(0);
    let claimer = Caller::new(stage, QUESTION);
    let file = stage.arena().file("x");
    write_at(&file, claimer.slot, &(read_word(&file, claimer.slot) & !7 | CLAIMED).to_ne_bytes());
    let mut client = client(stage);
    let mut submit = || client.submit(QUESTION, Wait::Never).expect("there is room");
    mem::forget(submit());
    take(1);
    let unwanted = submit();
    take(2);
    mem::forget([submit(), submit()]);
    servers[3].next(Wait::Never).expect("requested").respond(b"an answer").expect("it fits");
    drop(servers[3].next(Wait::Never).expect("requested"));
    mem::forget(submit());
    client.abandon(unwanted);
    // The tickets with them: they are dead, and give nothing up.
    mem::forget((servers, client, claimer));
}

/// A client and a server in one.
struct Both {
    client: RpcClient,
    server: RpcServer,
}

/// Calls, is answered by somebody else in its own process, and calls again.
fn call(both: &mut Both) -> Act {
    let ticket = both.client.submit(QUESTION, Wait::Never)?;
    both.client.abandon(ticket);
    mem::forget(both.client.submit(QUESTION, Wait::Never)?);
    Ok(())
}

/// Takes, answers, and takes again.
fn serve(both: &mut Both) -> Act {
    let request = both.server.next(Wait::Never)?;
    let answer = answer_to(&request);
    request.respond(&answer)?;
    mem::forget(both.server.next(Wait::Never)?);
    Ok(())
}

/// Whatever the first one leaves, and the repairer then.
fn repair(stage: &Stage, point: usize, act: fn(&mut Both) -> Act) {
    create(stage);
    let mut callers = vec![Caller::new(stage, b"one"), Caller::new(stage, b"two")];
    stage.dies_at(point, || Both { client: client(stage), server: server(stage) }, act);
    stage.victim(
        || (open(stage), Visitor::default()),
        |(channel, visitor)| Ok(visitor.take(channel, Role::Server)?),
    );
    let ends = conclude(stage, &mut callers);
    assert_eq!((ends.answered + ends.bereaved, ends.declined), (2, 0));
    finish(stage, callers);
}
