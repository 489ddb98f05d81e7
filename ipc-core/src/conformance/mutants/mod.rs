//! The suite on trial: each in-process case fails on a transport that does wrong what the
//! case is about.
//!
//! The transport is the reference one behind a wrapper with one planted fault. `CAUGHT` says
//! which cases must notice which fault; every case is there at least once.

mod faulty;

use super::{Fixture, Suite, harness};
use crate::local::{Local, LocalConfig};
use faulty::{Fault, Faulty};
use std::{collections::BTreeSet, sync::Arc, thread, time::Duration};

/// Each fault, and cases that fail for it.
const CAUGHT: &[(Fault, &[&str])] = &[
    (Fault::HoldsBack, &["delivers_in_order", "a_new_receiver_goes_on_where_the_old_one_stopped"]),
    (
        Fault::DropsSeventh,
        &[
            "many_rounds_of_uneven_fill_keep_order_and_content",
            "endpoints_work_on_threads_of_their_own",
            "several_senders_keep_the_order_of_each",
            "several_receivers_share_without_loss_or_duplicates",
            "full_channel_refuses_without_losing_messages",
            "full_channel_takes_again_after_a_release",
        ],
    ),
    (Fault::SwallowsEmpty, &["an_empty_message_is_a_message", "without_a_reservation_the_loan_is_empty"]),
    (
        Fault::CutsLast,
        &["every_length_arrives_whole", "large_messages_arrive_whole", "what_is_written_into_a_loan_arrives"],
    ),
    (
        Fault::CutsTooLong,
        &["one_byte_too_long_is_refused_and_nothing_is_lost", "a_length_beyond_all_memory_is_refused"],
    ),
    (Fault::HalfDepth, &["the_promised_room_is_there", "full_channel_refuses_without_losing_messages"]),
    (Fault::AppendsInto, &["recv_into_replaces_what_the_buffer_held"]),
    (Fault::NeverWaitsABit, &["an_empty_channel_would_block", "an_empty_channel_gives_no_batch"]),
    (
        Fault::TimesOutEarly,
        &[
            "recv_timeout_ends_on_an_empty_channel_and_not_early",
            "send_timeout_ends_on_a_full_channel_and_not_early",
            "a_wait_that_was_not_cancelled_is_a_wait_like_others",
        ],
    ),
    (
        Fault::GivesUpFirst,
        &[
            "a_timeout_of_zero_still_delivers_what_is_there",
            "a_deadline_in_the_past_still_delivers_what_is_there",
        ],
    ),
    (
        Fault::OverflowsWait,
        &["the_longest_timeout_does_not_overflow", "the_farthest_deadline_does_not_overflow"],
    ),
    (
        Fault::SleepsThrough,
        &["a_waiting_receiver_gets_what_is_sent", "a_waiting_sender_goes_on_when_there_is_room"],
    ),
    (
        Fault::IgnoresCancel,
        &[
            "cancelling_wakes_a_waiting_receiver",
            "cancelling_wakes_a_waiting_sender",
            "a_cancelled_wait_on_an_empty_channel_ends_at_once",
            "a_cancelled_wait_on_a_full_channel_sends_nothing",
            "one_cancel_ends_two_waits_at_once",
        ],
    ),
    (Fault::CancelledDrops, &["a_cancelled_wait_loses_no_message"]),
    (Fault::AlwaysCancelled, &["a_wait_that_was_not_cancelled_is_a_wait_like_others"]),
    (
        Fault::SendsAborted,
        &[
            "an_aborted_loan_sends_nothing",
            "aborted_and_replaced_loans_use_up_no_room",
            "stat_counts_what_is_queued",
        ],
    ),
    (Fault::IgnoresTruncate, &["a_truncated_loan_sends_its_beginning"]),
    (Fault::TruncateClears, &["a_loan_truncated_to_more_than_it_has_stays_as_it_is"]),
    (Fault::KeepsFirstReservation, &["a_second_reservation_replaces_the_first"]),
    (Fault::ReservesByItself, &["without_a_reservation_the_loan_is_empty"]),
    (Fault::ReservationStays, &["a_committed_reservation_is_used_up"]),
    (Fault::SendsOnDrop, &["a_sender_dropped_with_a_reservation_sends_nothing"]),
    (Fault::RejectsByWiping, &["a_rejected_loan_can_be_committed_later"]),
    (
        Fault::ForgetsKeep,
        &[
            "a_kept_message_is_lent_again",
            "a_kept_message_begins_the_next_batch",
            "a_batch_in_hand_is_lent_one_by_one_too",
            "what_a_dropped_receiver_held_is_delivered_to_the_next",
        ],
    ),
    (Fault::NeverReleases, &["dropping_a_message_releases_it"]),
    (
        Fault::AdvanceReleases,
        &["a_forgotten_message_stays_held", "advance_with_a_message_in_hand_returns_at_once"],
    ),
    (Fault::LendsNothing, &["held_without_a_message_panics"]),
    (
        Fault::BatchIgnoresLimit,
        &["a_batch_takes_what_is_there_up_to_its_limit", "a_batch_of_one_is_one_message"],
    ),
    (Fault::BatchReleasesOnDrop, &["a_batch_is_held_until_it_is_released"]),
    (
        Fault::BatchReleasesAll,
        &["a_batch_released_in_part_keeps_the_rest", "batches_of_all_sizes_keep_order"],
    ),
    (Fault::BatchMayBeEmpty, &["a_batch_of_at_most_none_is_one_message"]),
    (Fault::BatchTakesTwo, &["a_released_batch_makes_room"]),
    (Fault::CreateReplaces, &["creating_twice_is_refused_and_harms_nothing"]),
    (Fault::OpenMakes, &["what_is_missing_is_not_found"]),
    (Fault::RemoveDoesNothing, &["a_removed_channel_is_gone_and_a_new_one_is_empty"]),
    (Fault::RacersReplace, &["open_or_create_makes_one_channel_for_all_who_race"]),
    (Fault::IgnoresSettings, &["open_or_create_refuses_other_settings"]),
    (Fault::ListForgets, &["the_list_names_what_exists"]),
    (Fault::StatIsOff, &["stat_counts_what_is_queued"]),
    (Fault::ReceiverComesSecond, &["a_receiver_may_come_first"]),
    (Fault::OneForAll, &["names_tell_channels_apart"]),
    (
        Fault::SenderTakesAlong,
        &[
            "messages_outlive_their_sender",
            "messages_outlive_every_endpoint",
            "an_end_mark_outlives_its_sender",
        ],
    ),
    (Fault::ReceiverTakesAlong, &["a_new_receiver_goes_on_where_the_old_one_stopped"]),
    (
        Fault::LosesHeld,
        &[
            "what_a_dropped_receiver_held_is_delivered_to_the_next",
            "a_batch_of_a_dropped_receiver_is_delivered_to_the_next",
        ],
    ),
    (
        Fault::EndIsEmpty,
        &[
            "an_end_mark_arrives_in_order_and_once",
            "an_end_mark_is_not_an_empty_message",
            "an_end_mark_wakes_a_waiting_receiver",
            "a_batch_ends_before_an_end_mark",
            "end_marks_fill_a_channel_without_losing_messages",
        ],
    ),
];

struct WithFault {
    local: Local,
    fault: Fault,
    patience: Duration,
}

impl Fixture for WithFault {
    type Transport = Faulty;

    fn transport(&self) -> Faulty {
        Faulty { local: self.local.clone(), fault: self.fault }
    }

    fn config(&self, depth: usize, max_message_len: usize) -> LocalConfig {
        let depth = if self.fault == Fault::HalfDepth { depth / 2 } else { depth };
        LocalConfig::new().depth(depth).max_message_len(max_message_len)
    }

    fn patience(&self) -> Duration {
        self.patience
    }
}

fn suite(fault: Fault, patience: Duration) -> Suite<WithFault> {
    Suite::new(WithFault { local: Local::new(), fault, patience }).end_mark()
}

/// Those of `names` that the transport with this fault passes.
fn passed(fault: Fault, names: &[&str], patience: Duration) -> Vec<String> {
    let suite = suite(fault, patience);
    let named = suite.cases.iter().filter(|case| names.contains(&case.name));
    let passed = named.filter(|case| harness::verdict(Arc::clone(&suite.fixture), case).is_ok());
    passed.map(|case| format!("{} in spite of {fault:?}", case.name)).collect()
}

#[test]
fn each_planted_fault_is_caught() {
    // Most of the time is spent waiting for what doesn't come.
    let patience = Duration::from_millis(300);
    let passed: Vec<String> = thread::scope(|threads| {
        let on_trial = |&(fault, names)| threads.spawn(move || passed(fault, names, patience));
        let trials: Vec<_> = CAUGHT.iter().map(on_trial).collect();
        trials.into_iter().flat_map(|trial| trial.join().expect("a verdict")).collect()
    });
    assert!(passed.is_empty(), "passed: {passed:#?}");
}

#[test]
fn each_case_catches_a_planted_fault() {
    let suite = suite(Fault::None, Duration::ZERO);
    let cases: BTreeSet<&str> = suite.cases.iter().map(|case| case.name).collect();
    let caught = CAUGHT.iter().flat_map(|(_, names)| *names).copied().collect();
    assert_eq!(cases, caught);
}

#[test]
fn without_a_fault_every_case_passes() {
    let suite = suite(Fault::None, Duration::from_secs(20));
    for case in &suite.cases {
        assert_eq!(harness::verdict(Arc::clone(&suite.fixture), case), Ok(()), "{}", case.name);
    }
}
