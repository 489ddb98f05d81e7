//! Calls: each answer meets its own question, whoever gives up or dies.

use super::{
    Case, FOREVER, Mortal, Orderings, Words as AnyWords,
    checker::{Checker, Loom},
    dies, every_ordering_is_needed,
};
use crate::ring::{
    memory::Memory,
    rpc::{self, Answer, Answerer, Caller, Geometry, Progress},
};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

type Words = AnyWords<Loom>;

/// Participants 1 to 3, one slot with a payload of one word, and a word for each
/// participant's lock: who is dead has given it up.
const ONE_SLOT: Geometry = Geometry {
    states: 0,
    state_stride: 8,
    participants: 3,
    slots: 48,
    stride: 24,
    depth: 1,
    max_message_len: 8,
};
const WORDS: usize = 6 + 3;
const LOCKS: usize = 24;

const DEAD: u64 = 1;

fn words(orderings: &Orderings) -> Words {
    Words::new([0; WORDS], orderings.clone())
}

fn lock_of(id: u32) -> usize {
    LOCKS + 8 * (id - 1) as usize
}

/// What the kernel does when a process is gone.
fn bury(words: &Words, id: u32) {
    Loom::store(words.word(lock_of(id)), DEAD, Release);
}

/// Puts in order what `id` left, if it is dead. Who else would do the same has to wait for
/// the lock.
fn look_at(memory: &impl Memory, words: &Words, geometry: &Geometry, id: u32) {
    if Loom::load(words.word(lock_of(id)), Acquire) == DEAD {
        rpc::repair(memory, geometry, id, |_| {}).expect("sound");
    }
}

/// What came of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Answered(u64),
    Died,
    GivenUp,
}

/// Makes calls with these questions, and looks for room and for each answer `looks` times
/// before the call is given up.
/// Returns how they ended; one is missing if the client died.
fn call(
    words: &Words,
    geometry: Geometry,
    id: u32,
    questions: &[u64],
    looks: usize,
    servers: &[u32],
    accesses: usize,
) -> (Vec<End>, bool) {
    let memory = Mortal::new(words, accesses);
    let mut ends = Vec::new();
    let died = dies(|| {
        let mut ring = Caller::attach(memory.clone(), geometry, id).expect("sound");
        for &question in questions {
            let mut claimed = None;
            for _ in 0..looks {
                claimed = ring.try_claim().expect("sound");
                if claimed.is_some() {
                    break;
                }
                Loom::yield_now();
            }
            let Some(call) = claimed else {
                ends.push(End::GivenUp);
                continue;
            };
            let payload = geometry.payload(call.index);
            memory.write_payload(payload, question);
            ring.offer(&call, 8).expect("sound");
            let mut end = End::GivenUp;
            for _ in 0..looks {
                match ring.look(&call).expect("sound") {
                    Progress::Answered { len } => {
                        assert_eq!(len, 8);
                        end = End::Answered(memory.read_payload(payload));
                        break;
                    }
                    Progress::Died => {
                        end = End::Died;
                        break;
                    }
                    Progress::Declined => panic!("nobody declines"),
                    Progress::Offered | Progress::Taken { .. } => {
                        servers.iter().for_each(|&server| look_at(&memory, words, &geometry, server));
                        Loom::yield_now();
                    }
                }
            }
            ring.finish(&call).expect("sound");
            ends.push(end);
        }
        rpc::repair(&memory, &geometry, id, |_| {}).expect("sound");
    });
    (ends, died)
}

/// Answers `count` requests with the question and a hundred more, or as many as come in
/// `looks` looks. Returns what was asked, and whether the server died.
fn serve(
    words: &Words,
    geometry: Geometry,
    id: u32,
    count: usize,
    looks: usize,
    accesses: usize,
) -> (Vec<u64>, bool) {
    let memory = Mortal::new(words, accesses);
    let mut asked = Vec::new();
    let died = dies(|| {
        let mut ring = Answerer::attach(memory.clone(), geometry, id).expect("sound");
        for _ in 0..looks {
            if asked.len() == count {
                break;
            }
            let Some(taken) = ring.try_take().expect("sound") else {
                Loom::yield_now();
                continue;
            };
            let payload = geometry.payload(taken.index);
            let question = memory.read_payload(payload);
            asked.push(question);
            memory.write_payload(payload, question + 100);
            ring.answer(&taken, Answer::Message { len: 8 }).expect("sound");
        }
        rpc::repair(&memory, &geometry, id, |_| {}).expect("sound");
    });
    (asked, died)
}

/// All slots are free when everybody is gone and what they left is in order.
fn assert_free(words: &Words, geometry: &Geometry) {
    let survey = rpc::survey(words, geometry, &mut []);
    assert_eq!(survey.queued, Some(0), "a slot was leaked");
}

/// Two clients and a server, for one slot.
fn two_clients(orderings: &Orderings, _: usize) -> bool {
    let words = words(orderings);
    let (server, other) = (words.clone(), words.clone());
    let server = Loom::spawn(move || serve(&server, ONE_SLOT, 1, 2, 2, FOREVER));
    let other = Loom::spawn(move || call(&other, ONE_SLOT, 3, &[2], 2, &[], FOREVER));
    let (ends, _) = call(&words, ONE_SLOT, 2, &[1], 2, &[], FOREVER);
    assert!(ends == [End::Answered(101)] || ends == [End::GivenUp], "{ends:?}");
    let (ends, _) = Loom::join(other);
    assert!(ends == [End::Answered(102)] || ends == [End::GivenUp], "{ends:?}");
    Loom::join(server);
    assert_free(&words, &ONE_SLOT);
    false
}

/// One client, two servers: a question is asked once.
fn two_servers(orderings: &Orderings, _: usize) -> bool {
    let words = words(orderings);
    let servers = [1, 3].map(|id| {
        let words = words.clone();
        Loom::spawn(move || serve(&words, ONE_SLOT, id, 1, 2, FOREVER))
    });
    let (ends, _) = call(&words, ONE_SLOT, 2, &[1], 2, &[], FOREVER);
    assert!(ends == [End::Answered(101)] || ends == [End::GivenUp], "{ends:?}");
    let asked: Vec<u64> = servers.into_iter().flat_map(|server| Loom::join(server).0).collect();
    assert!(asked.len() <= 1, "asked twice");
    assert_free(&words, &ONE_SLOT);
    false
}

/// A client that gives up at once calls again: no old answer meets the new call.
fn given_up(orderings: &Orderings, _: usize) -> bool {
    let words = words(orderings);
    let server = words.clone();
    let server = Loom::spawn(move || serve(&server, ONE_SLOT, 1, 2, 3, FOREVER));
    let (ends, _) = call(&words, ONE_SLOT, 2, &[1, 2], 1, &[], FOREVER);
    for (end, question) in ends.into_iter().zip([1, 2]) {
        assert!([End::GivenUp, End::Answered(question + 100)].contains(&end), "{question}: {end:?}");
    }
    Loom::join(server);
    assert_free(&words, &ONE_SLOT);
    false
}

/// The server dies: its caller is told, or was answered; the next call meets the next server.
fn a_server_dies(orderings: &Orderings, accesses: usize) -> bool {
    let words = words(orderings);
    let servers = words.clone();
    let servers = Loom::spawn(move || {
        let (asked, died) = serve(&servers, ONE_SLOT, 1, 1, FOREVER, accesses);
        if died {
            bury(&servers, 1);
        }
        let left = 2 - asked.len();
        (serve(&servers, ONE_SLOT, 3, left, if died { 3 } else { FOREVER }, FOREVER), died)
    });
    let (ends, _) = call(&words, ONE_SLOT, 2, &[1, 2], 12, &[1], FOREVER);
    let (_, died) = Loom::join(servers);
    for (end, question) in ends.into_iter().zip([1, 2]) {
        assert!(end != End::Died || died);
        if let End::Answered(answer) = end {
            assert_eq!(answer, question + 100);
        }
    }
    look_at(&words, &words, &ONE_SLOT, 1);
    assert_free(&words, &ONE_SLOT);
    died
}

/// The server dies, and a third one puts its slot in order: the next request is written
/// after the dead one's answer.
fn somebody_else_repairs(orderings: &Orderings, accesses: usize) -> bool {
    let words = words(orderings);
    let (server, repairer) = (words.clone(), words.clone());
    let server = Loom::spawn(move || {
        let (_, died) = serve(&server, ONE_SLOT, 1, 1, 2, accesses);
        bury(&server, 1);
        died
    });
    let repairer = Loom::spawn(move || look_at(&repairer, &repairer, &ONE_SLOT, 1));
    let (ends, _) = call(&words, ONE_SLOT, 2, &[1, 2], 2, &[], FOREVER);
    for (end, question) in ends.into_iter().zip([1, 2]) {
        assert!(!matches!(end, End::Answered(answer) if answer != question + 100), "{question}: {end:?}");
    }
    let died = Loom::join(server);
    Loom::join(repairer);
    look_at(&words, &words, &ONE_SLOT, 1);
    assert_free(&words, &ONE_SLOT);
    died
}

/// A client dies: its slot is free for another one, once its server is done with it.
fn a_client_dies(orderings: &Orderings, accesses: usize) -> bool {
    let words = words(orderings);
    let server = words.clone();
    let server = Loom::spawn(move || serve(&server, ONE_SLOT, 1, 2, 4, FOREVER));
    let (_, died) = call(&words, ONE_SLOT, 2, &[1], 2, &[], accesses);
    if died {
        bury(&words, 2);
    }
    look_at(&words, &words, &ONE_SLOT, 2);
    let (ends, _) = if Loom::load(words.word(ONE_SLOT.slots), Relaxed) & 7 == 0 {
        call(&words, ONE_SLOT, 3, &[2], 2, &[], FOREVER)
    } else {
        (Vec::new(), false)
    };
    for end in ends {
        assert!([End::GivenUp, End::Answered(102)].contains(&end), "{end:?}");
    }
    Loom::join(server);
    assert_free(&words, &ONE_SLOT);
    died
}

/// Client and server are both dead, and a repairer of the one meets a repairer of the other,
/// who dies as well.
fn a_repairer_dies(orderings: &Orderings, accesses: usize) -> bool {
    let words = words(orderings);
    // As they left it: a request that was taken.
    let ring = Caller::attach(words.clone(), ONE_SLOT, 2);
    let mut ring = ring.expect("sound");
    let call = ring.try_claim().expect("sound").expect("free");
    words.write_payload(ONE_SLOT.payload(call.index), 1);
    ring.offer(&call, 8).expect("sound");
    let mut server = Answerer::attach(words.clone(), ONE_SLOT, 1).expect("sound");
    assert!(server.try_take().expect("sound").is_some());
    [1, 2].into_iter().for_each(|id| bury(&words, id));
    let other = words.clone();
    let other = Loom::spawn(move || {
        let memory = Mortal::new(&other, accesses);
        let died = dies(|| look_at(&memory, &other, &ONE_SLOT, 1));
        // Its successor.
        look_at(&other, &other, &ONE_SLOT, 1);
        died
    });
    look_at(&words, &words, &ONE_SLOT, 2);
    let died = Loom::join(other);
    assert_free(&words, &ONE_SLOT);
    died
}

const CASES: [Case; 7] = [
    Case { name: "two clients", preemptions: [1, 2], run: two_clients },
    Case { name: "two servers", preemptions: [1, 2], run: two_servers },
    Case { name: "calls that are given up", preemptions: [2, 3], run: given_up },
    Case { name: "a server dies", preemptions: [1, 2], run: a_server_dies },
    Case { name: "somebody else repairs", preemptions: [1, 2], run: somebody_else_repairs },
    Case { name: "a client dies", preemptions: [1, 2], run: a_client_dies },
    Case { name: "a repairer dies", preemptions: [2, 3], run: a_repairer_dies },
];

#[rstest::rstest]
fn calls_end_with_their_own_answer_or_none(#[values(0, 1, 2, 3, 4, 5, 6)] case: usize) {
    CASES[case].check("rpc");
}

#[test]
fn every_ordering_of_rpc_is_needed() {
    every_ordering_is_needed("rpc", &[("ring/rpc.rs", include_str!("../rpc.rs"))], &CASES);
}
