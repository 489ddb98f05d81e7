//! The few statistics that the rig decides by.

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

/// Whether the floor moved too much between two probes for what lies between to count.
pub(crate) fn floor_moved(before: f64, after: f64) -> bool {
    let (low, high) = (before.min(after), before.max(after));
    high > low * (1.0 + FLOOR_MAY_MOVE)
}

/// How many iterations last `target_ns`, if `iterations` took `took_ns`; between 1 and
/// `most`.
pub(crate) fn iterations_for(target_ns: u64, iterations: u64, took_ns: u64, most: u64) -> u64 {
    let wanted = u128::from(target_ns) * u128::from(iterations) / u128::from(took_ns.max(1));
    u64::try_from(wanted).unwrap_or(most).clamp(1, most)
}

#[cfg(test)]
mod tests {
    use super::{floor_moved, iterations_for, median};
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
