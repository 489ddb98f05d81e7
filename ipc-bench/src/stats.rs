//! The few statistics that the rig decides by.

use hdrhistogram::Histogram;

/// How far the floor may move during a round before the round is measured again.
pub(crate) const FLOOR_MAY_MOVE: f64 = 0.25;

/// The median; `None` of nothing. Of an even number, the mean of the two in the middle.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// The lower and the upper quartile: medians of the halves, without the middle one of an odd
/// number. `None` of fewer than two.
pub(crate) fn quartiles(values: impl IntoIterator<Item = f64>) -> Option<[f64; 2]> {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    let (low, high) = (&sorted[..half], &sorted[sorted.len() - half..]);
    Some([median(low.iter().copied())?, median(high.iter().copied())?])
}

/// The median of durations that a clock of this step measured, with their counts, in
/// ascending order.
///
/// A clock that moves on every 10 ns calls a floor of 133 ns 130 or 140, and ratios to it
/// jump by as much. But how often it says which tells where between them the floor is: so
/// each duration counts as spread evenly over one step around its value. `None` of nothing.
pub(crate) fn median_ns(durations_ns: &[(u64, u64)], step_ns: f64) -> Option<f64> {
    let all: u64 = durations_ns.iter().map(|(_, count)| count).sum();
    let (first, last) = (durations_ns.first()?.0 as f64, durations_ns.last()?.0 as f64);
    let below = |limit_ns: f64| -> f64 {
        let part = |value_ns: u64| ((limit_ns - value_ns as f64) / step_ns + 0.5).clamp(0.0, 1.0);
        durations_ns.iter().map(|&(value_ns, count)| part(value_ns) * count as f64).sum()
    };
    let (mut low, mut high) = (first - step_ns, last + step_ns);
    // Far beyond what a double can tell apart for durations of an hour.
    for _ in 0..100 {
        let middle = f64::midpoint(low, high);
        if below(middle) * 2.0 < all as f64 { low = middle } else { high = middle }
    }
    Some(f64::midpoint(low, high))
}

/// The step of a clock, in nanoseconds, from the times between successive readings; 1 if it
/// can't be told from them.
///
/// The times are whole steps, each rounded to whole nanoseconds: neighbouring values are the
/// same number of steps, and the smallest distance between such groups is one step.
pub(crate) fn clock_step_ns(between_ns: &[u64]) -> f64 {
    let mut sorted = between_ns.to_vec();
    sorted.sort_unstable();
    let groups = sorted.chunk_by(|a, b| b - a <= 1);
    // Rare ones are interruptions, and may be anything.
    let common = groups.filter(|group| group.len() * 1000 >= sorted.len());
    let means: Vec<f64> = common.map(|group| group.iter().sum::<u64>() as f64 / group.len() as f64).collect();
    let steps = means.windows(2).map(|pair| pair[1] - pair[0]);
    steps.reduce(f64::min).unwrap_or(1.0).max(1.0)
}

/// An empty histogram: nanoseconds, exact below 2,048 and to 0.1 % above.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new(3).expect("3 digits are within what histograms can do")
}

/// What a histogram holds, in ascending order: values and their counts.
pub(crate) fn recorded(histogram: &Histogram<u64>) -> Vec<(u64, u64)> {
    histogram.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value())).collect()
}

/// Whether the floor moved too much between two probes for what lies between to count.
pub(crate) fn floor_moved(before: f64, after: f64) -> bool {
    let (low, high) = (before.min(after), before.max(after));
    high > low * (1.0 + FLOOR_MAY_MOVE)
}

/// Which ones are far from the others: by more than `FAR` times what values differ from the median
/// by, of which the median, and by more than a factor of `MANIFOLD`. Symmetrical, so that leaving
/// them out favours nobody. (F. R. Hampel, *The Influence Curve and Its Role in Robust Estimation*,
/// 1974.)
pub(crate) fn out_of_line(values: &[f64]) -> Vec<bool> {
    const FAR: f64 = 5.0;
    const MANIFOLD: f64 = 2.0;
    let middle = median(values.iter().copied()).unwrap_or(f64::NAN);
    let deviation = median(values.iter().map(|value| (value - middle).abs())).unwrap_or(f64::NAN);
    let is_far = |&value: &f64| {
        (value - middle).abs() > FAR * deviation && (value / middle).max(middle / value) > MANIFOLD
    };
    values.iter().map(is_far).collect()
}

/// How many iterations last `target_ns`, if `iterations` took `took_ns`; between 1 and
/// `most`.
pub(crate) fn iterations_for(target_ns: u64, iterations: u64, took_ns: u64, most: u64) -> u64 {
    let wanted = u128::from(target_ns) * u128::from(iterations) / u128::from(took_ns.max(1));
    u64::try_from(wanted).unwrap_or(most).clamp(1, most)
}

#[cfg(test)]
mod tests {
    use super::{clock_step_ns, floor_moved, iterations_for, median, median_ns, out_of_line, quartiles};
    use rstest::rstest;

    #[rstest]
    #[case::none(&[], None)]
    #[case::one(&[3.0], Some(3.0))]
    #[case::odd(&[9.0, 1.0, 2.0], Some(2.0))]
    #[case::even(&[4.0, 1.0, 2.0, 100.0], Some(3.0))]
    fn median_is_the_middle(#[case] values: &[f64], #[case] expected: Option<f64>) {
        assert_eq!(median(values.iter().copied()), expected);
    }

    #[rstest]
    #[case::too_few(&[1.0], None)]
    #[case::two(&[3.0, 1.0], Some([1.0, 3.0]))]
    #[case::odd(&[5.0, 1.0, 9.0], Some([1.0, 9.0]))]
    #[case::seven(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], Some([2.0, 6.0]))]
    fn quartiles_are_the_medians_of_the_halves(#[case] values: &[f64], #[case] expected: Option<[f64; 2]>) {
        assert_eq!(quartiles(values.iter().copied()), expected);
    }

    #[rstest]
    #[case::one_value(&[(130, 5)], 130.0)]
    #[case::two_thirds_of_the_way(&[(130, 100), (140, 200)], 137.5)]
    #[case::outliers_dont_matter(&[(130, 100), (140, 100), (9_000, 2)], 135.1)]
    fn medians_lie_between_the_steps_of_the_clock(
        #[case] durations_ns: &[(u64, u64)],
        #[case] expected: f64,
    ) {
        let median = median_ns(durations_ns, 10.0).unwrap();
        assert!((median - expected).abs() < 0.1, "{median}");
    }

    #[test]
    fn a_fine_clock_changes_no_median() {
        assert!((median_ns(&[(130, 1), (131, 3), (140, 2)], 1.0).unwrap() - 131.166).abs() < 0.01);
        assert_eq!(median_ns(&[], 1.0), None);
    }

    #[rstest]
    #[case::ten(&[20, 20, 21, 30, 31, 30, 50, 10], 10.0)]
    #[case::coarse(&[0, 0, 0, 256, 0, 0, 256], 256.0)]
    #[case::fine(&[20, 21, 22, 23, 24], 1.0)]
    #[case::cant_be_told(&[20, 20, 20], 1.0)]
    fn the_step_of_a_clock_is_seen_between_readings(#[case] between_ns: &[u64], #[case] step_ns: f64) {
        assert!((clock_step_ns(between_ns) - step_ns).abs() < 0.7, "{}", clock_step_ns(between_ns));
    }

    #[rstest]
    #[case::still(110.0, 110.0, false)]
    #[case::a_quarter_up_counts(100.0, 125.0, false)]
    #[case::more_than_a_quarter_up(100.0, 126.0, true)]
    #[case::down_to_the_near_state(390.0, 110.0, true)]
    fn a_round_is_measured_again_if_the_floor_moved(
        #[case] before: f64,
        #[case] after: f64,
        #[case] again: bool,
    ) {
        assert_eq!(floor_moved(before, after), again);
    }

    #[rstest]
    #[case::a_stall(&[2.5, 2.6, 73.0, 2.4, 2.5], &[2])]
    #[case::too_fast_to_be_true(&[2.5, 2.6, 0.1, 2.4, 2.5], &[2])]
    #[case::none_of_one(&[2.5], &[])]
    #[case::two_say_nothing_of_each_other(&[1.0, 30.0], &[])]
    #[case::one_of_three(&[1.0, 1.0, 3.0], &[2])]
    #[case::less_than_twice(&[1.0, 1.0, 1.0, 1.9], &[])]
    #[case::all_over_the_place(&[1.0, 2.0, 4.0, 8.0, 3.0], &[])]
    #[case::two_states(&[1.0, 3.0, 1.1, 3.1, 1.0, 3.0], &[])]
    #[case::no_figure(&[f64::NAN, 1.0, 1.0], &[])]
    fn far_from_the_others_is_by_their_spread_and_by_a_factor(#[case] values: &[f64], #[case] far: &[usize]) {
        let found = out_of_line(values);
        assert_eq!((0..values.len()).filter(|&index| found[index]).collect::<Vec<_>>(), far);
    }

    #[rstest]
    #[case::scales(1_000_000, 10, 1_000, 10_000)]
    #[case::at_least_one(10, 1, 1_000_000, 1)]
    #[case::bounded(u64::MAX, u64::MAX, 1, 1 << 20)]
    #[case::instantaneous(1_000, 1, 0, 1_000)]
    fn iterations_follow_the_last_speed(
        #[case] target_ns: u64,
        #[case] iterations: u64,
        #[case] took_ns: u64,
        #[case] expected: u64,
    ) {
        assert_eq!(iterations_for(target_ns, iterations, took_ns, 1 << 20), expected);
    }
}
