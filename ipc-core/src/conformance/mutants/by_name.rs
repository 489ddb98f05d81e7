//! The cases of capabilities that a backend asks for by name, on trial: each fails on letters with
//! one slip.

use super::{
    super::{Case, Fixture, descriptors, harness, peek, selective, subtraits},
    letters::{Attached, Letters, Mark, Slip},
    passed_of,
};
use crate::local::{Local, LocalConfig};
use std::{collections::BTreeSet, sync::Arc, thread, time::Duration};

/// Each slip, and cases that fail for it.
const CAUGHT_BY_NAME: &[(Mark, Slip, &[&str])] = &[
    (Mark::Priority, Slip::ByAgeAlone, &["higher_priorities_overtake_and_equals_stay_in_order"]),
    (Mark::Priority, Slip::EqualsBackwards, &["higher_priorities_overtake_and_equals_stay_in_order"]),
    (Mark::Priority, Slip::TakesAnyPriority, &["the_highest_priority_is_the_highest"]),
    (Mark::Priority, Slip::BeginsUrgently, &["a_new_sender_has_the_lowest_priority"]),
    (
        Mark::Type,
        Slip::SelectsNothing,
        &[
            "a_selection_takes_its_type_and_leaves_the_rest_in_order",
            "all_but_one_type_can_be_received",
            "the_lowest_type_comes_first_if_asked_for",
            "a_receiver_waits_for_its_type_while_others_come",
        ],
    ),
    (Mark::Type, Slip::LosesTheRest, &["a_selection_takes_its_type_and_leaves_the_rest_in_order"]),
    (Mark::Type, Slip::SortsByType, &["everything_comes_by_age_whatever_its_type"]),
    (Mark::Type, Slip::LowestComeByAge, &["the_lowest_type_comes_first_if_asked_for"]),
    (Mark::Type, Slip::TakesTheNearestType, &["a_type_that_is_none_is_refused_and_changes_nothing"]),
    (Mark::Type, Slip::OthersEndTheWait, &["a_receiver_waits_for_its_type_while_others_come"]),
    (Mark::Type, Slip::LookTakes, &["a_look_takes_nothing"]),
    (Mark::Type, Slip::LosesDescriptors, &["a_descriptor_goes_with_its_message_and_works"]),
    (Mark::Type, Slip::KeptLosesDescriptors, &["descriptors_that_nobody_takes_are_closed"]),
    (Mark::Type, Slip::LeaksDescriptors, &["descriptors_that_nobody_takes_are_closed"]),
    (Mark::Type, Slip::TakesAnyNumberOfDescriptors, &["one_descriptor_too_many_is_given_back"]),
    (Mark::Type, Slip::NamesNobody, &["a_message_tells_who_sent_it"]),
];

struct ByLetter {
    local: Local,
    attached: Attached,
    mark: Mark,
    slip: Slip,
    patience: Duration,
}

impl Fixture for ByLetter {
    type Transport = Letters;

    fn transport(&self) -> Letters {
        let attached = Arc::clone(&self.attached);
        Letters { local: self.local.clone(), mark: self.mark, slip: self.slip, attached }
    }

    fn config(&self, depth: usize, max_message_len: usize) -> LocalConfig {
        LocalConfig::new().depth(depth).max_message_len(max_message_len + 16)
    }

    fn patience(&self) -> Duration {
        self.patience
    }
}

fn fixture(mark: Mark, slip: Slip, patience: Duration) -> Arc<ByLetter> {
    Arc::new(ByLetter { local: Local::new(), attached: Arc::default(), mark, slip, patience })
}

fn cases(mark: Mark) -> Vec<Case<ByLetter>> {
    match mark {
        Mark::Priority => subtraits::priority_cases(),
        Mark::Type => {
            [selective::cases(), peek::cases(), descriptors::cases(), descriptors::credentials_cases()]
                .into_iter()
                .flatten()
                .collect()
        }
    }
}

#[test]
fn each_slip_is_caught() {
    let patience = Duration::from_millis(300);
    let passed: Vec<String> = thread::scope(|threads| {
        let trials: Vec<_> = CAUGHT_BY_NAME
            .iter()
            .map(|&(mark, slip, names)| {
                threads.spawn(move || {
                    passed_of(&fixture(mark, slip, patience), &cases(mark), names, &(mark, slip))
                })
            })
            .collect();
        trials.into_iter().flat_map(|trial| trial.join().expect("a verdict")).collect()
    });
    assert!(passed.is_empty(), "passed: {passed:#?}");
}

#[test]
fn each_case_asked_for_by_name_catches_a_slip() {
    let names = |mark| cases(mark).iter().map(|case| case.name).collect::<BTreeSet<_>>();
    for mark in [Mark::Priority, Mark::Type] {
        let caught = CAUGHT_BY_NAME.iter().filter(|(on, ..)| *on == mark).flat_map(|(.., names)| *names);
        assert_eq!(names(mark), caught.copied().collect());
    }
}

#[test]
fn letters_without_a_slip_pass() {
    for mark in [Mark::Priority, Mark::Type] {
        let fixture = fixture(mark, Slip::None, Duration::from_secs(20));
        for case in cases(mark) {
            assert_eq!(harness::verdict(Arc::clone(&fixture), &case), Ok(()), "{}", case.name);
        }
    }
}
