//! Rounds: what is measured stands between two probes of the floor, again and again.
//!
//! Floor, subject, floor, subject, …, floor: the probe after one round is the one before
//! the next. A round is in doubt, and so is measured again, if
//!
//! - the floor moved during it,
//! - a process that polls wasn't left its processor, or
//! - something took another time than in the other rounds by far, both by itself and by its ratio
//!   to the floor: a stall can last for all of it, and be over when the floor is probed.
//!
//! That goes on as long as there are spare rounds; after that they count, and the report says so.

use crate::{
    record::Repeats,
    stats::{floor_moved, out_of_line},
};

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

    /// Whether a process that polls was without its processor for a part of the time that counts.
    fn was_displaced(&self, _: &Self::Measured) -> bool {
        false
    }

    /// How long things took, in the same order in every round: what should be alike in all of them.
    fn times_ns(&self, _: &Self::Measured) -> Vec<f64> {
        Vec::new()
    }
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
    pub(crate) repeats: Repeats,
}

/// A round, and what it is judged by.
struct Counted<T> {
    round: Round<T>,
    times_ns: Vec<f64>,
    is_in_doubt: bool,
}

/// Measures `rounds` that count, repeating at most `spare` of them.
pub(crate) fn interleave<C: Course>(
    course: &mut C,
    rounds: usize,
    spare: usize,
) -> Result<Series<C::Measured>, C::Error> {
    let mut counted: Vec<Counted<C::Measured>> = Vec::with_capacity(rounds);
    let mut repeats = Repeats::default();
    let mut before_ns = course.floor_ns()?;
    loop {
        while counted.len() < rounds {
            let measured = course.measure()?;
            let after_ns = course.floor_ns()?;
            let was_displaced = course.was_displaced(&measured);
            let is_in_doubt = floor_moved(before_ns, after_ns) || was_displaced;
            repeats.displaced += usize::from(was_displaced);
            if is_in_doubt && repeats.remeasured < spare {
                repeats.remeasured += 1;
            } else {
                let times_ns = course.times_ns(&measured);
                let round = Round { floor_ns: f64::midpoint(before_ns, after_ns), measured };
                counted.push(Counted { round, times_ns, is_in_doubt });
            }
            before_ns = after_ns;
        }
        let strays = strays(&counted);
        let can_go = spare - repeats.remeasured;
        if strays.is_empty() || can_go == 0 {
            repeats.out_of_line += strays.len();
            strays.into_iter().for_each(|index| counted[index].is_in_doubt = true);
            break;
        }
        // From the last one on, so that the others stay where they are.
        for index in strays.into_iter().take(can_go).rev() {
            counted.remove(index);
            repeats.out_of_line += 1;
            repeats.remeasured += 1;
        }
    }
    repeats.unsettled = counted.iter().filter(|one| one.is_in_doubt).count();
    Ok(Series { rounds: counted.into_iter().map(|one| one.round).collect(), repeats })
}

/// Rounds in which something took another time than in the others by far. By itself it may have done
/// so with the floor, and by its ratio because the floor alone did: only both are a doubt.
fn strays<T>(counted: &[Counted<T>]) -> Vec<usize> {
    let things = counted.iter().map(|one| one.times_ns.len()).min().unwrap_or(0);
    let mut is_stray = vec![false; counted.len()];
    for thing in 0..things {
        let times_ns: Vec<f64> = counted.iter().map(|one| one.times_ns[thing]).collect();
        let ratios: Vec<f64> = counted.iter().map(|one| one.times_ns[thing] / one.round.floor_ns).collect();
        let both = out_of_line(&times_ns).into_iter().zip(out_of_line(&ratios));
        is_stray.iter_mut().zip(both).for_each(|(is_stray, (time, ratio))| *is_stray |= time && ratio);
    }
    (0..counted.len()).filter(|&index| is_stray[index]).collect()
}

#[cfg(test)]
mod tests {
    use super::{Course, Round, Series, interleave};
    use crate::record::Repeats;
    use std::convert::Infallible;

    /// A floor that follows a script; what is measured is the number of the measurement, and how
    /// long it took follows a script, too, as far as that goes.
    #[derive(Default)]
    struct Script<'a> {
        floors_ns: std::slice::Iter<'a, f64>,
        times_ns: &'a [f64],
        displaced: &'a [usize],
        measured: usize,
    }

    impl Course for Script<'_> {
        type Measured = usize;
        type Error = Infallible;

        fn floor_ns(&mut self) -> Result<f64, Infallible> {
            Ok(*self.floors_ns.next().expect("no more probes than rounds and one"))
        }

        fn measure(&mut self) -> Result<usize, Infallible> {
            self.measured += 1;
            Ok(self.measured)
        }

        fn was_displaced(&self, measured: &usize) -> bool {
            self.displaced.contains(measured)
        }

        fn times_ns(&self, &measured: &usize) -> Vec<f64> {
            // Another thing that always takes the same.
            self.times_ns.get(measured - 1).map_or(Vec::new(), |&time_ns| vec![7.0, time_ns])
        }
    }

    fn series_of(mut script: Script, rounds: usize, spare: usize) -> Series<usize> {
        let Ok(series) = interleave(&mut script, rounds, spare);
        assert_eq!(script.floors_ns.len(), 0, "all probes were used");
        series
    }

    fn series(floors_ns: &[f64], rounds: usize, spare: usize) -> Series<usize> {
        series_of(Script { floors_ns: floors_ns.iter(), ..Script::default() }, rounds, spare)
    }

    fn numbers(series: &Series<usize>) -> Vec<usize> {
        series.rounds.iter().map(|round| round.measured).collect()
    }

    #[test]
    fn each_round_has_the_mean_of_the_floors_around_it() {
        let rounds = vec![Round { floor_ns: 105.0, measured: 1 }, Round { floor_ns: 100.0, measured: 2 }];
        assert_eq!(series(&[100.0, 110.0, 90.0], 2, 5), Series { rounds, repeats: Repeats::default() });
    }

    #[test]
    fn a_round_whose_floor_moved_is_measured_again_from_the_new_floor() {
        let rounds = vec![Round { floor_ns: 110.0, measured: 1 }, Round { floor_ns: 390.0, measured: 3 }];
        let repeats = Repeats { remeasured: 1, ..Repeats::default() };
        assert_eq!(series(&[110.0, 110.0, 390.0, 390.0], 2, 5), Series { rounds, repeats });
    }

    #[test]
    fn a_floor_that_never_rests_ends_with_rounds_that_are_marked() {
        let floors_ns = [100.0, 200.0, 100.0, 200.0, 100.0];
        let series = series(&floors_ns, 2, 2);
        let expected = Repeats { remeasured: 2, unsettled: 2, ..Repeats::default() };
        assert_eq!((series.rounds.len(), series.repeats), (2, expected));
    }

    /// The third block takes thirty times as long as the others, and the floor around it is as always.
    const STALLED_NS: [f64; 6] = [2_500.0, 2_600.0, 73_000.0, 2_450.0, 2_500.0, 2_550.0];

    #[test]
    fn a_stall_that_lasts_a_whole_block_is_noticed_and_measured_again() {
        let of = |floors_ns: &[f64], spare| {
            series_of(
                Script { floors_ns: floors_ns.iter(), times_ns: &STALLED_NS, ..Script::default() },
                5,
                spare,
            )
        };
        let series = of(&[110.0; 7], 3);
        assert_eq!(numbers(&series), [1, 2, 4, 5, 6]);
        assert_eq!(series.repeats, Repeats { remeasured: 1, out_of_line: 1, ..Repeats::default() });
        let series = of(&[110.0; 6], 0);
        assert_eq!(numbers(&series), [1, 2, 3, 4, 5]);
        assert_eq!(series.repeats, Repeats { unsettled: 1, out_of_line: 1, ..Repeats::default() });
    }

    #[test]
    fn what_takes_longer_with_the_floor_is_no_stall() {
        let floors_ns = [110.0, 110.0, 390.0, 390.0, 110.0, 110.0];
        let times_ns = [220.0, 999.0, 780.0, 999.0, 220.0];
        let script = Script { floors_ns: floors_ns.iter(), times_ns: &times_ns, ..Script::default() };
        let series = series_of(script, 3, 2);
        assert_eq!(numbers(&series), [1, 3, 5]);
        assert_eq!(series.repeats, Repeats { remeasured: 2, ..Repeats::default() });
    }

    #[test]
    fn a_stall_that_stays_is_repeated_no_more_than_there_are_rounds_to_spare() {
        let times_ns = [100.0, 100.0, 100.0, 900.0, 900.0, 900.0, 900.0];
        let floors_ns = [50.0; 7];
        let script = Script { floors_ns: floors_ns.iter(), times_ns: &times_ns, ..Script::default() };
        let series = series_of(script, 4, 2);
        assert_eq!(numbers(&series), [1, 2, 3, 6]);
        let expected = Repeats { remeasured: 2, unsettled: 1, out_of_line: 3, displaced: 0 };
        assert_eq!(series.repeats, expected);
    }

    #[test]
    fn a_round_in_which_a_process_lost_its_processor_is_measured_again() {
        let of = |floors_ns: &[f64], spare| {
            series_of(
                Script { floors_ns: floors_ns.iter(), displaced: &[2, 3], ..Script::default() },
                2,
                spare,
            )
        };
        let series = of(&[100.0; 5], 2);
        assert_eq!(numbers(&series), [1, 4]);
        assert_eq!(series.repeats, Repeats { remeasured: 2, displaced: 2, ..Repeats::default() });
        let series = of(&[100.0; 4], 1);
        assert_eq!(numbers(&series), [1, 3]);
        let expected = Repeats { remeasured: 1, unsettled: 1, displaced: 2, out_of_line: 0 };
        assert_eq!(series.repeats, expected);
    }
}
