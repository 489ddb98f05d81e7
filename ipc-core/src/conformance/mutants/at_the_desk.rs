//! The suite of services on trial: each in-process case fails on a service with one slip.

use super::{
    super::{ServiceFixture, ServiceSuite, harness},
    desk::{Awaited, Desk, DeskClient, DeskServer, Slip},
    faulty::Fault,
    passed_of,
};
use crate::{ChannelError, ChannelName};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
    thread,
    time::Duration,
};

/// Each slip, and cases that fail for it.
const CAUGHT_AT_THE_DESK: &[(Slip, &[&str])] = &[
    (Slip::LosesEmptyAnswers, &["a_call_has_its_own_answer_whatever_the_length"]),
    (Slip::AnswersInOrder, &["calls_under_way_are_collected_in_any_order"]),
    (Slip::OverwritesAnswers, &["an_answer_in_hand_stays_while_others_come"]),
    (Slip::LosesHundredth, &["clients_and_servers_on_threads_meet_no_other_answer"]),
    (Slip::GivesAgain, &["every_request_comes_to_one_server"]),
    (Slip::LosesUnserved, &["requests_wait_until_somebody_serves"]),
    (Slip::DeclinesUnheard, &["a_dropped_request_is_declined_and_its_caller_told"]),
    (Slip::DeclinedStays, &["a_dropped_request_is_declined_and_its_caller_told"]),
    (Slip::CutsTooLong, &["too_long_a_request_is_refused_and_nothing_requested"]),
    (Slip::TooLongTakesAPlace, &["too_long_a_request_is_refused_and_nothing_requested"]),
    (Slip::TooLongLeavesOpen, &["too_long_a_response_declines"]),
    (Slip::AdvanceDeclines, &["a_held_request_stays_the_servers_until_it_is_answered"]),
    (Slip::AdvanceSwaps, &["a_held_request_stays_the_servers_until_it_is_answered"]),
    (Slip::ServerGivesBack, &["a_server_that_goes_with_a_request_in_hand_tells_its_caller"]),
    (Slip::ServerTakesAlong, &["a_server_that_goes_with_a_request_in_hand_tells_its_caller"]),
    (Slip::LendsNothing, &["held_without_a_request_panics"]),
    (Slip::LendsNoResponse, &["a_response_that_is_not_there_panics"]),
    (Slip::LendsToEverybody, &["a_ticket_of_another_client_panics"]),
    (
        Slip::Waits(Awaited::Answer, Fault::TimesOutEarly),
        &["a_wait_for_an_answer_ends_in_time_and_the_call_goes_on", "a_call_that_gives_up_is_over"],
    ),
    (
        Slip::Waits(Awaited::Answer, Fault::TimesOutLate),
        &["a_wait_for_an_answer_ends_in_time_and_the_call_goes_on", "a_call_that_gives_up_is_over"],
    ),
    (Slip::TimeoutEndsTakenCall, &["a_wait_for_an_answer_ends_in_time_and_the_call_goes_on"]),
    (Slip::Waits(Awaited::Answer, Fault::IgnoresCancel), &["cancelling_wakes_a_caller_and_the_call_goes_on"]),
    (Slip::CancelEndsCall, &["cancelling_wakes_a_caller_and_the_call_goes_on"]),
    (Slip::Waits(Awaited::Answer, Fault::GivesUpFirst), &["an_answer_that_is_there_needs_no_waiting"]),
    (
        Slip::CancelledComesFirst,
        &["an_answer_that_is_there_needs_no_waiting", "a_request_that_is_there_needs_no_waiting"],
    ),
    (Slip::Waits(Awaited::Answer, Fault::SleepsThrough), &["a_waiting_caller_gets_its_answer"]),
    (Slip::OneCallerWakes, &["every_waiting_caller_gets_its_answer"]),
    (
        Slip::Waits(Awaited::Answer, Fault::OverflowsWait),
        &["the_longest_waits_for_an_answer_do_not_overflow"],
    ),
    (
        Slip::Waits(Awaited::Room, Fault::TimesOutEarly),
        &["without_room_a_call_is_refused_in_time_and_nothing_requested"],
    ),
    (
        Slip::Waits(Awaited::Room, Fault::TimesOutLate),
        &["without_room_a_call_is_refused_in_time_and_nothing_requested"],
    ),
    (Slip::RefusedIsRequested, &["without_room_a_call_is_refused_in_time_and_nothing_requested"]),
    (Slip::Waits(Awaited::Room, Fault::IgnoresCancel), &["cancelling_wakes_a_client_that_waits_for_room"]),
    (Slip::Waits(Awaited::Room, Fault::SleepsThrough), &["a_waiting_client_goes_on_when_there_is_room"]),
    (Slip::Waits(Awaited::Room, Fault::OverflowsWait), &["the_longest_waits_for_room_do_not_overflow"]),
    (Slip::Waits(Awaited::Request, Fault::TimesOutEarly), &["a_wait_for_a_request_ends_in_time"]),
    (Slip::Waits(Awaited::Request, Fault::TimesOutLate), &["a_wait_for_a_request_ends_in_time"]),
    (Slip::Waits(Awaited::Request, Fault::NeverWaitsABit), &["a_wait_for_a_request_ends_in_time"]),
    (Slip::Waits(Awaited::Request, Fault::IgnoresCancel), &["cancelling_wakes_a_waiting_server"]),
    (Slip::Waits(Awaited::Request, Fault::GivesUpFirst), &["a_request_that_is_there_needs_no_waiting"]),
    (Slip::Waits(Awaited::Request, Fault::SleepsThrough), &["a_waiting_server_gets_a_request"]),
    (
        Slip::Waits(Awaited::Request, Fault::OverflowsWait),
        &["the_longest_waits_for_a_request_do_not_overflow"],
    ),
    (Slip::CollectLeavesCall, &["a_collect_that_gives_up_ends_its_call", "a_call_that_gives_up_is_over"]),
    (Slip::AbandonedIsServed, &["an_abandoned_request_that_nobody_took_is_withdrawn"]),
    (Slip::AbandonedIsHeard, &["an_abandoned_request_that_was_taken_has_nobody_to_answer"]),
    (Slip::LateAnswerMeetsNext, &["a_late_answer_meets_no_later_call"]),
    (Slip::AbandonedAnswerStays, &["abandoned_calls_cost_no_place"]),
    (
        Slip::LateAnswerStays,
        &["an_abandoned_request_that_was_taken_has_nobody_to_answer", "abandoned_calls_cost_no_place"],
    ),
    (Slip::LateDeclineStays, &["declining_what_was_abandoned_frees_its_place"]),
    (Slip::ClientLeavesCalls, &["what_a_dropped_client_has_under_way_is_given_up"]),
    (Slip::DroppedTicketStays, &["dropped_tickets_give_their_calls_up"]),
];

struct AtTheDesk {
    desks: Mutex<BTreeMap<ChannelName, Arc<Desk>>>,
    slip: Slip,
    patience: Duration,
}

impl AtTheDesk {
    fn desks(&self) -> MutexGuard<'_, BTreeMap<ChannelName, Arc<Desk>>> {
        self.desks.lock().expect("no panic under it")
    }
}

impl ServiceFixture for AtTheDesk {
    type Service = Arc<Desk>;
    type Client = DeskClient;
    type Server = DeskServer;

    fn create(
        &self,
        name: &ChannelName,
        depth: usize,
        max_message_len: usize,
    ) -> Result<Arc<Desk>, ChannelError> {
        let desk = Desk::new(self.slip, depth, max_message_len);
        self.desks().insert(name.clone(), Arc::clone(&desk));
        Ok(desk)
    }

    fn open(&self, name: &ChannelName) -> Result<Arc<Desk>, ChannelError> {
        self.desks().get(name).cloned().ok_or(ChannelError::NotFound)
    }

    fn remove(&self, name: &ChannelName) -> Result<(), ChannelError> {
        self.desks().remove(name).map(drop).ok_or(ChannelError::NotFound)
    }

    fn client(&self, desk: &Arc<Desk>) -> Result<DeskClient, ChannelError> {
        Ok(desk.client())
    }

    fn server(&self, desk: &Arc<Desk>) -> Result<DeskServer, ChannelError> {
        Ok(desk.server())
    }

    fn cross_process(&self) -> bool {
        false
    }

    fn patience(&self) -> Duration {
        self.patience
    }
}

fn suite(slip: Slip, patience: Duration) -> ServiceSuite<AtTheDesk> {
    ServiceSuite::new(AtTheDesk { desks: Mutex::default(), slip, patience })
}

#[test]
fn each_slip_at_the_desk_is_caught() {
    let patience = Duration::from_millis(300);
    let passed: Vec<String> = thread::scope(|threads| {
        let on_trial = |&(slip, names)| {
            threads.spawn(move || {
                let suite = suite(slip, patience);
                passed_of(&suite.services, &suite.cases, names, &slip)
            })
        };
        let trials: Vec<_> = CAUGHT_AT_THE_DESK.iter().map(on_trial).collect();
        trials.into_iter().flat_map(|trial| trial.join().expect("a verdict")).collect()
    });
    assert!(passed.is_empty(), "passed: {passed:#?}");
}

#[test]
fn each_case_of_services_catches_a_slip() {
    let suite = suite(Slip::None, Duration::ZERO);
    let names: BTreeSet<&str> = suite.cases.iter().map(|case| case.name).collect();
    let caught = CAUGHT_AT_THE_DESK.iter().flat_map(|(_, names)| *names);
    assert_eq!(names, caught.copied().collect());
}

#[test]
fn a_desk_without_a_slip_passes() {
    let suite = suite(Slip::None, Duration::from_secs(20));
    for case in &suite.cases {
        assert_eq!(harness::verdict(Arc::clone(&suite.services), case), Ok(()), "{}", case.name);
    }
}
