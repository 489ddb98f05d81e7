//! The suite on trial: each in-process case fails on a transport that does wrong what the
//! case is about.
//!
//! The transport is the reference one behind a wrapper with one planted fault, or one of the
//! other kinds. `CAUGHT` and `CAUGHT_ON_AIR` say which cases must notice which fault; every
//! case is there at least once.

mod air;
mod at_the_desk;
#[cfg(unix)]
mod by_name;
mod desk;
mod faulty;
#[cfg(unix)]
mod letters;

use super::{Case, Fixture, Suite, Surroundings, harness};
use crate::{
    Capabilities, Unready, Wait,
    local::{Local, LocalConfig},
};
use air::{Air, AirConfig, Flaw, Kind};
use faulty::{Fault, Faulty};
use rstest::rstest;
use std::{
    collections::BTreeSet,
    fmt::Debug,
    sync::{Arc, Condvar, Mutex},
    thread,
    time::{Duration, Instant},
};

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
        Fault::TimesOutLate,
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
    (Fault::RefusalKeepsReservation, &["after_a_refused_reservation_nothing_is_reserved"]),
    (Fault::AbortForgetsReservation, &["a_dropped_loan_leaves_its_reservation"]),
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
        Fault::PanicReleases,
        &[
            "a_message_in_hand_at_a_panic_is_lent_again",
            "what_a_panic_takes_along_is_delivered_to_the_next",
            "each_receiver_that_panics_counts",
        ],
    ),
    (Fault::PanicKeepsAll, &["what_is_received_while_a_panic_unwinds_is_released"]),
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
    (Fault::OpensAnothersSender, &["an_end_is_opened_by_the_channels_name"]),
    (Fault::OpensAnothersReceiver, &["an_end_is_opened_by_the_channels_name"]),
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
            #[cfg(unix)]
            "an_end_mark_makes_an_armed_descriptor_readable",
            "a_batch_ends_before_an_end_mark",
            "end_marks_fill_a_channel_without_losing_messages",
        ],
    ),
    (Fault::SendsBatchOneByOne, &["a_sent_batch_appears_whole", "a_sent_batch_wakes_a_waiting_receiver"]),
    (
        Fault::SendsBatchBackwards,
        &[
            "a_sent_batch_arrives_in_order",
            "batches_and_single_messages_keep_order",
            "a_sent_batch_wakes_a_waiting_receiver",
            "sent_batches_of_all_sizes_keep_order",
            "batches_of_several_senders_keep_the_order_of_each",
        ],
    ),
    (
        Fault::SendsBatchWithoutLast,
        &["a_sent_batch_arrives_in_order", "sent_batches_of_all_sizes_keep_order"],
    ),
    (Fault::SendsBatchWaitingForEach, &["a_batch_beyond_the_room_is_sent_in_part_and_its_rest_goes_on"]),
    (Fault::SendsBatchWithoutWaiting, &["a_batch_waits_for_room_for_its_first_message"]),
    (
        Fault::SendsBatchLessTooLong,
        &["a_message_too_long_ends_the_batch_before_it", "a_batch_that_begins_too_long_is_refused"],
    ),
    (Fault::RefusesBatchForLater, &["a_message_too_long_ends_the_batch_before_it"]),
    (Fault::EmptyBatchIsEmptyMessage, &["an_empty_batch_sends_nothing_and_waits_for_nothing"]),
    (Fault::BatchKeepsReservation, &["a_sent_batch_gives_up_the_reservation"]),
    (
        Fault::NumbersByThrees,
        &[
            "numbers_begin_at_0_and_grow_by_one",
            "numbers_skip_at_most_what_was_given_up",
            "waiting_messages_are_numbered_in_order",
        ],
    ),
    (
        Fault::NumbersPerReceiver,
        &[
            "a_new_receiver_goes_on_with_the_numbers",
            "each_number_comes_to_one_of_several_receivers",
            "what_is_delivered_again_has_its_number_again",
        ],
    ),
    (Fault::NumbersSkipPerSender, &["a_new_sender_goes_on_with_the_numbers"]),
    (Fault::NumbersCountLoans, &["a_kept_message_keeps_its_number"]),
    (
        Fault::AttemptsStayZero,
        &["each_receiver_that_goes_away_counts", "what_was_held_and_never_lent_counts"],
    ),
    (Fault::AttemptsCountLoans, &["a_first_delivery_has_none_before_it"]),
    (
        Fault::AttemptsForEverybody,
        &["what_was_not_held_does_not_count", "a_released_message_leaves_no_count_behind"],
    ),
    #[cfg(unix)]
    (
        Fault::NeverReadable,
        &[
            "a_message_makes_an_armed_descriptor_readable",
            "a_waiting_poll_is_woken",
            "no_wake_up_is_lost_in_a_race",
            "a_poll_that_timed_out_leaves_nothing_broken",
            "several_channels_are_polled_together",
            "epoll_waits_for_several_channels_and_other_things",
            "one_of_several_armed_receivers_gets_the_message",
            "a_removed_channel_does_not_hang_a_poller",
            "an_end_mark_makes_an_armed_descriptor_readable",
        ],
    ),
    #[cfg(unix)]
    (Fault::AlwaysReadable, &["a_quiet_descriptor_lets_its_poller_sleep"]),
    #[cfg(unix)]
    (
        Fault::ArmingSaysNo,
        &["arming_tells_what_is_there_already", "a_message_between_a_look_and_arming_is_told"],
    ),
    #[cfg(unix)]
    (Fault::ArmingSaysYes, &["a_message_makes_an_armed_descriptor_readable"]),
    #[cfg(unix)]
    (Fault::ArmingLooksTooEarly, &["no_wake_up_is_lost_in_a_race"]),
    #[cfg(unix)]
    (Fault::ArmedIsDeaf, &["a_poll_that_timed_out_leaves_nothing_broken"]),
    #[cfg(unix)]
    (Fault::ManyDescriptors, &["the_descriptor_stays_the_same"]),
];

/// Each fault of a channel of another kind, and cases that fail for it.
const CAUGHT_ON_AIR: &[(Kind, Flaw, &[&str])] = &[
    (
        Kind::Reliable,
        Flaw::OneGetsAll,
        &[
            "every_receiver_gets_every_message_in_order",
            "a_late_receiver_gets_only_what_comes_after",
            "several_receivers_and_senders_on_threads_of_their_own",
        ],
    ),
    (
        Kind::Reliable,
        Flaw::LateGetsEarlier,
        &["a_late_receiver_gets_only_what_comes_after", "without_receivers_a_sender_never_waits"],
    ),
    (Kind::Lossy, Flaw::LateGetsEarlier, &["a_late_receiver_has_missed_nothing"]),
    (Kind::Reliable, Flaw::WaitsForSomebody, &["without_receivers_a_sender_never_waits"]),
    (
        Kind::Reliable,
        Flaw::SecondSenderIsUnheard,
        &[
            "every_receiver_gets_what_each_of_several_senders_sends",
            "several_receivers_and_senders_on_threads_of_their_own",
            "several_senders_keep_the_order_of_each",
            "what_a_dropped_sender_sent_still_arrives",
        ],
    ),
    (
        Kind::Reliable,
        Flaw::OverwritesSilently,
        &[
            "the_slowest_receiver_makes_the_sender_wait",
            "several_receivers_and_senders_on_threads_of_their_own",
        ],
    ),
    (Kind::Reliable, Flaw::StaysAfterDrop, &["a_dropped_receiver_lets_a_waiting_sender_go_on"]),
    (Kind::Reliable, Flaw::GivesToOthers, &["what_a_dropped_receiver_held_goes_to_nobody_else"]),
    (Kind::Lossy, Flaw::GivesToOthers, &["what_a_dropped_receiver_held_goes_to_nobody_else"]),
    (Kind::Reliable, Flaw::SenderTakesAlong, &["what_a_dropped_sender_sent_still_arrives"]),
    (
        Kind::Lossy,
        Flaw::WaitsWhenFull,
        &["a_full_channel_makes_no_sender_wait", "what_was_missed_and_received_while_racing_adds_up"],
    ),
    (
        Kind::Lossy,
        Flaw::MissesOneMore,
        &[
            "a_slow_receiver_is_told_how_many_it_missed",
            "a_gap_comes_before_a_batch_too",
            "what_was_missed_and_received_while_racing_adds_up",
        ],
    ),
    (Kind::Lossy, Flaw::AllMissTogether, &["a_slow_receiver_misses_alone"]),
    (Kind::Lossy, Flaw::LateMissesEarlier, &["a_late_receiver_has_missed_nothing"]),
    (Kind::Lossy, Flaw::OverwritesHeld, &["a_message_in_hand_is_not_overwritten"]),
    (Kind::Lossy, Flaw::BatchForgetsGap, &["a_gap_comes_before_a_batch_too"]),
    (
        Kind::Lossy,
        Flaw::DropsNewest,
        &["a_full_channel_makes_no_sender_wait", "a_slow_receiver_is_told_how_many_it_missed"],
    ),
    (Kind::Dropping, Flaw::DropsNewest, &["a_full_channel_drops_its_oldest"]),
    (Kind::Dropping, Flaw::WaitsWhenFull, &["a_full_channel_makes_no_sender_wait"]),
    (
        Kind::Newest,
        Flaw::Queues,
        &[
            "a_receiver_gets_the_newest_value_once",
            "every_receiver_gets_the_newest_value",
            "a_batch_is_the_newest_value",
        ],
    ),
    (Kind::Newest, Flaw::OneGetsAll, &["every_receiver_gets_the_newest_value"]),
    (Kind::Newest, Flaw::StepsBack, &["no_older_value_follows_a_newer_one"]),
    (
        Kind::Newest,
        Flaw::SenderTakesAlong,
        &["the_newest_value_outlives_its_sender", "what_is_given_up_leaves_the_newest_value"],
    ),
    (Kind::Newest, Flaw::ForgetsNewest, &["a_late_receiver_gets_the_newest_value"]),
    (Kind::Newest, Flaw::OverwritesHeld, &["a_value_in_hand_stays_while_newer_ones_come"]),
    (Kind::Newest, Flaw::SendsAborted, &["what_is_given_up_leaves_the_newest_value"]),
    (Kind::Newest, Flaw::WaitsWhenFull, &["a_receiver_that_holds_or_is_gone_makes_no_sender_wait"]),
    (
        Kind::Lossy,
        Flaw::NumbersPerReceiver,
        &["all_receivers_see_the_same_numbers", "numbers_skip_exactly_what_was_missed"],
    ),
    (Kind::Newest, Flaw::NumbersPerReceiver, &["values_that_nobody_saw_have_numbers_too"]),
    (Kind::Reliable, Flaw::NumbersShrink, &["the_numbers_of_each_of_several_senders_grow"]),
    #[cfg(unix)]
    (Kind::Reliable, Flaw::RingsOneBell, &["every_armed_receiver_is_told"]),
];

const KINDS: [Kind; 4] = [Kind::Reliable, Kind::Lossy, Kind::Dropping, Kind::Newest];

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

struct OnAir {
    air: Air,
    patience: Duration,
}

impl Fixture for OnAir {
    type Transport = Air;

    fn transport(&self) -> Air {
        self.air.clone()
    }

    fn config(&self, depth: usize, max_message_len: usize) -> AirConfig {
        AirConfig { depth, max_message_len }
    }

    fn capabilities(&self) -> Capabilities {
        self.air.kind.promises()
    }

    fn patience(&self) -> Duration {
        self.patience
    }
}

/// Waits until `attempt` answers, whatever it answers.
fn until<S, T>(
    state: &Mutex<S>,
    changed: &Condvar,
    wait: Wait<'_>,
    mut attempt: impl FnMut(&mut S) -> Result<Option<T>, Unready>,
) -> Result<T, Unready> {
    let mut state = state.lock().expect("no panic under it");
    loop {
        if let Some(answer) = attempt(&mut state)? {
            return Ok(answer);
        }
        match wait {
            Wait::Never => return Err(Unready::WouldBlock),
            _ if wait.is_cancelled() => return Err(Unready::Cancelled),
            _ if wait.deadline().is_some_and(|until| until <= Instant::now()) => {
                return Err(Unready::TimedOut);
            }
            // A cancellation rings no bell here, so that it is looked for.
            _ => state = changed.wait_timeout(state, Duration::from_millis(1)).expect("no panic").0,
        }
    }
}

fn suite(fault: Fault, patience: Duration) -> Suite<WithFault> {
    let suite = Suite::new(WithFault { local: Local::new(), fault, patience });
    let suite = suite.end_mark().batch_sender().sequenced().redelivered();
    #[cfg(unix)]
    let suite = suite.pollable().pollable_end_mark();
    suite
}

fn suite_on_air(kind: Kind, flaw: Flaw, patience: Duration) -> Suite<OnAir> {
    let suite = Suite::new(OnAir { air: Air { kind, flaw, channels: Arc::default() }, patience });
    let suite = suite.end_mark().batch_sender().sequenced();
    #[cfg(unix)]
    let suite = suite.pollable().pollable_end_mark();
    suite
}

/// Those of `names` that the transport passes.
fn passed<F: Fixture>(suite: &Suite<F>, names: &[&str], fault: &impl Debug) -> Vec<String> {
    passed_of(&suite.fixture, &suite.cases, names, fault)
}

fn passed_of<F: Surroundings>(
    fixture: &Arc<F>,
    cases: &[Case<F>],
    names: &[&str],
    fault: &impl Debug,
) -> Vec<String> {
    let named = cases.iter().filter(|case| names.contains(&case.name));
    let passed = named.filter(|case| harness::verdict(Arc::clone(fixture), case).is_ok());
    passed.map(|case| format!("{} in spite of {fault:?}", case.name)).collect()
}

fn assert_all_pass<F: Fixture>(suite: &Suite<F>) {
    for case in &suite.cases {
        assert_eq!(harness::verdict(Arc::clone(&suite.fixture), case), Ok(()), "{}", case.name);
    }
}

fn names<F: Fixture>(suite: &Suite<F>) -> Vec<&'static str> {
    suite.cases.iter().map(|case| case.name).collect()
}

#[test]
fn each_planted_fault_is_caught() {
    // Most of the time is spent waiting for what doesn't come.
    let patience = Duration::from_millis(300);
    let passed: Vec<String> = thread::scope(|threads| {
        let on_trial =
            |&(fault, names)| threads.spawn(move || passed(&suite(fault, patience), names, &fault));
        let mut trials: Vec<_> = CAUGHT.iter().map(on_trial).collect();
        trials.extend(CAUGHT_ON_AIR.iter().map(|&(kind, flaw, names)| {
            threads.spawn(move || passed(&suite_on_air(kind, flaw, patience), names, &(kind, flaw)))
        }));
        trials.into_iter().flat_map(|trial| trial.join().expect("a verdict")).collect()
    });
    assert!(passed.is_empty(), "passed: {passed:#?}");
}

#[test]
fn each_case_catches_a_planted_fault() {
    let mut cases = BTreeSet::from_iter(names(&suite(Fault::None, Duration::ZERO)));
    for kind in KINDS {
        let suite = suite_on_air(kind, Flaw::None, Duration::ZERO);
        let names_there = names(&suite);
        for (_, flaw, names) in CAUGHT_ON_AIR.iter().filter(|(on, ..)| *on == kind) {
            let missing = names.iter().find(|name| !names_there.contains(name));
            assert!(missing.is_none(), "{missing:?} is no case for {kind:?}, nor catches {flaw:?}");
        }
        cases.extend(names_there);
    }
    let caught = CAUGHT.iter().flat_map(|(_, names)| *names);
    let caught = caught.chain(CAUGHT_ON_AIR.iter().flat_map(|(.., names)| *names)).copied();
    assert_eq!(cases, caught.collect());
}

#[test]
fn without_a_fault_every_case_passes() {
    assert_all_pass(&suite(Fault::None, Duration::from_secs(20)));
}

#[rstest]
#[case::reliable(Kind::Reliable)]
#[case::lossy(Kind::Lossy)]
#[case::dropping(Kind::Dropping)]
#[case::newest(Kind::Newest)]
fn channels_of_every_kind_pass_without_a_fault(#[case] kind: Kind) {
    assert_all_pass(&suite_on_air(kind, Flaw::None, Duration::from_secs(20)));
}
