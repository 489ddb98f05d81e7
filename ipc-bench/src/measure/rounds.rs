//! Rounds: what is measured stands between two probes of the floor, again and again.
//!
//! Floor, subject, floor, subject, …, floor: the probe after one round is the one before
//! the next. A round during which the floor moved says nothing, so it is measured again, as
//! long as there are spare rounds; after that it counts, and the report says so.

use crate::stats::floor_moved;

/// What is measured, step by step.
pub(crate) trait Course {
    /// What a round yields besides the floor.
    type Measured;
    /// What ends it early.
    type Error;

    /// Probes the floor: nanoseconds.
    fn floor_ns(&mut self) -> Result<f64, Self::Error>;

    /// Measures what stands between two probes.
    fn measure(&mut self) -> Result<Self::Measured, Self::Error>;
}

/// A round that counts.
#[derive(Debug, PartialEq)]
pub(crate) struct Round<T> {
    /// The mean of the floor before and after.
    pub(crate) floor_ns: f64,
    pub(crate) measured: T,
}

/// All rounds of a block.
#[derive(Debug, PartialEq)]
pub(crate) struct Series<T> {
    pub(crate) rounds: Vec<Round<T>>,
    /// How many rounds didn't count, since the floor moved.
    pub(crate) remeasured: usize,
    /// How many count although the floor moved: there were no more spare ones.
    pub(crate) unsettled: usize,
}

/// Measures `rounds` that count, repeating at most `spare` of them.
pub(crate) fn interleave<C: Course>(
    course: &mut C,
    rounds: usize,
    spare: usize,
) -> Result<Series<C::Measured>, C::Error> {
    let mut series = Series { rounds: Vec::with_capacity(rounds), remeasured: 0, unsettled: 0 };
    let mut before_ns = course.floor_ns()?;
    while series.rounds.len() < rounds {
        let measured = course.measure()?;
        let after_ns = course.floor_ns()?;
        let moved = floor_moved(before_ns, after_ns);
        if moved && series.remeasured < spare {
            series.remeasured += 1;
        } else {
            series.unsettled += usize::from(moved);
            series.rounds.push(Round { floor_ns: f64::midpoint(before_ns, after_ns), measured });
        }
        before_ns = after_ns;
    }
    Ok(series)
}

#[cfg(test)]
mod tests {
    use super::{Course, Round, Series, interleave};
    use std::convert::Infallible;

    /// A floor that follows a script; what is measured is the number of the measurement.
    struct Script<'a> {
        floors_ns: std::slice::Iter<'a, f64>,
        measured: u32,
    }

    impl Course for Script<'_> {
        type Measured = u32;
        type Error = Infallible;

        fn floor_ns(&mut self) -> Result<f64, Infallible> {
            Ok(*self.floors_ns.next().expect("no more probes than rounds and one"))
        }

        fn measure(&mut self) -> Result<u32, Infallible> {
            self.measured += 1;
            Ok(self.measured)
        }
    }

    fn series(floors_ns: &[f64], rounds: usize, spare: usize) -> Series<u32> {
        let mut script = Script { floors_ns: floors_ns.iter(), measured: 0 };
        let Ok(series) = interleave(&mut script, rounds, spare);
        assert_eq!(script.floors_ns.len(), 0, "all probes were used");
        series
    }

    #[test]
    fn each_round_has_the_mean_of_the_floors_around_it() {
        let rounds = vec![Round { floor_ns: 105.0, measured: 1 }, Round { floor_ns: 100.0, measured: 2 }];
        assert_eq!(series(&[100.0, 110.0, 90.0], 2, 5), Series { rounds, remeasured: 0, unsettled: 0 });
    }

    #[test]
    fn a_round_whose_floor_moved_is_measured_again_from_the_new_floor() {
        let rounds = vec![Round { floor_ns: 110.0, measured: 1 }, Round { floor_ns: 390.0, measured: 3 }];
        assert_eq!(
            series(&[110.0, 110.0, 390.0, 390.0], 2, 5),
            Series { rounds, remeasured: 1, unsettled: 0 }
        );
    }

    #[test]
    fn a_floor_that_never_rests_ends_with_rounds_that_are_marked() {
        let floors_ns = [100.0, 200.0, 100.0, 200.0, 100.0];
        let series = series(&floors_ns, 2, 2);
        assert_eq!((series.rounds.len(), series.remeasured, series.unsettled), (2, 2, 2));
    }
}
