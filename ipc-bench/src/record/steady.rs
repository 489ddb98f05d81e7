//! Ratios that hold: those of like to like.
//!
//! How long a cache line takes from one processor to another depends on which two these are,
//! and how long it takes to wake up on what else they do. So a ratio to either is one of the
//! state that the machine was in. Sending by the bare calls, and copying the same bytes, are
//! made of the same work as what is compared with them, and change along with it. Of a ratio to
//! one of these a run claims that it holds, if its rounds agreed.

use super::Row;

/// How far from each other the quartiles of the rounds may be, and the ratios of two runs.
pub(crate) const CLOSE: f64 = 0.10;

/// Quartiles of fewer say little.
const ROUNDS: usize = 5;

/// A ratio of which its run claims that it holds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Steady {
    /// What it is over.
    pub(crate) over: &'static str,
    pub(crate) ratio: f64,
    pub(crate) quartiles: [f64; 2],
}

impl Row {
    /// Its ratios that hold.
    pub(crate) fn steady(&self) -> Vec<Steady> {
        let alike = [
            ("the bare calls", self.raw_ratio, self.raw_quartiles),
            ("two copies", self.memcpy_ratio, self.memcpy_quartiles),
        ];
        let known = alike.into_iter().filter_map(|(over, ratio, quartiles)| {
            Some(Steady { over, ratio: ratio?, quartiles: quartiles? })
        });
        known.filter(|it| self.rounds >= ROUNDS && are_close(it.quartiles[0], it.quartiles[1])).collect()
    }
}

/// Whether the larger one is at most a tenth more.
pub(crate) fn are_close(one: f64, other: f64) -> bool {
    one.max(other) <= one.min(other) * (1.0 + CLOSE)
}

#[cfg(test)]
mod tests {
    use super::{Steady, are_close};
    use crate::record::Row;
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
        assert_eq!(Row { rounds: 4, ..row.clone() }.steady(), []);
        assert_eq!(Row { raw_quartiles: None, ..row }.steady(), []);
    }
}
