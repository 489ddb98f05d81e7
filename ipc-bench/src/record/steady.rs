//! Ratios that hold: those of like to like.
//!
//! How long a cache line takes from one processor to another depends on which two these are,
//! and how long it takes to wake up on what else they do. So a ratio to either is one of the
//! state that the machine was in. Sending by the bare calls, and copying the same bytes, are
//! made of the same work as what is compared with them, and change along with it. Of a ratio to
//! one of these a run claims that it holds, if its rounds agreed and none of them is in doubt.
//!
//! It claims nothing of `open`: a channel in shared memory is made and opened by mapping pages and
//! touching them besides what the bare calls do, and what that takes depends on the state of the
//! system's memory.

use super::Row;

/// How far from each other the ratios of two runs may be.
pub(crate) const CLOSE: f64 = 0.10;

/// How far from the median the quartiles of the rounds may be: half of that, so that a median that
/// is where one of them was is still close.
const WITHIN: f64 = CLOSE / 2.0;

/// Quartiles of fewer say little.
const ROUNDS: usize = 5;

/// A ratio of like to like.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Steady {
    /// What it is over.
    pub(crate) over: &'static str,
    pub(crate) ratio: f64,
    pub(crate) quartiles: [f64; 2],
}

impl Row {
    /// Its ratios of like to like, whether or not they hold.
    pub(crate) fn alike(&self) -> Vec<Steady> {
        let alike = [
            ("the bare calls", self.raw_ratio, self.raw_quartiles),
            ("two copies", self.memcpy_ratio, self.memcpy_quartiles),
        ];
        let known = alike.into_iter().filter_map(|(over, ratio, quartiles)| {
            Some(Steady { over, ratio: ratio?, quartiles: quartiles? })
        });
        known.collect()
    }

    /// Those of which it is claimed that they hold.
    pub(crate) fn steady(&self) -> Vec<Steady> {
        let rounds_count = self.rounds >= ROUNDS && self.repeats.unsettled == 0;
        if self.experiment == "open" || !rounds_count {
            return Vec::new();
        }
        self.alike().into_iter().filter(Steady::has_close_rounds).collect()
    }
}

impl Steady {
    fn has_close_rounds(&self) -> bool {
        let [low, high] = self.quartiles;
        low >= self.ratio * (1.0 - WITHIN) && high <= self.ratio * (1.0 + WITHIN)
    }
}

/// Whether the larger one is at most a tenth more.
pub(crate) fn are_close(one: f64, other: f64) -> bool {
    one.max(other) <= one.min(other) * (1.0 + CLOSE)
}

#[cfg(test)]
mod tests {
    use super::{Steady, are_close};
    use crate::record::{Repeats, Row};
    use rstest::rstest;

    #[rstest]
    #[case::the_same(2.0, 2.0, true)]
    #[case::a_tenth_more(1.0, 1.099, true)]
    #[case::more_than_that(1.0, 1.101, false)]
    #[case::the_other_way_round(1.101, 1.0, false)]
    fn close_is_within_a_tenth(#[case] one: f64, #[case] other: f64, #[case] expected: bool) {
        assert_eq!(are_close(one, other), expected);
    }

    #[test]
    fn it_takes_likes_and_rounds_that_agree() {
        let row = Row {
            rounds: 5,
            floor_ratio: Some(1.0),
            ratio_quartiles: Some([1.0, 1.0]),
            raw_ratio: Some(1.02),
            raw_quartiles: Some([1.0, 1.05]),
            memcpy_ratio: Some(0.9),
            memcpy_quartiles: Some([0.8, 0.95]),
            ..Row::default()
        };
        let expected = Steady { over: "the bare calls", ratio: 1.02, quartiles: [1.0, 1.05] };
        assert_eq!(row.steady(), [expected]);
        let in_doubt = Repeats { unsettled: 1, ..Repeats::default() };
        let others = [
            Row { rounds: 4, ..row.clone() },
            Row { raw_quartiles: None, ..row.clone() },
            // Each of them is further from the median than a twentieth, if not from the other one.
            Row { raw_quartiles: Some([0.96, 1.03]), ..row.clone() },
            Row { raw_quartiles: Some([1.01, 1.08]), ..row.clone() },
            // There the subject does more than what is beside it.
            Row { experiment: "open".into(), ..row.clone() },
            Row { repeats: in_doubt, ..row },
        ];
        others.iter().for_each(|other| assert_eq!(other.steady(), [], "{other:?}"));
    }
}
