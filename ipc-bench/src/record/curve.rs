//! How many operations a second there are left when each hop takes longer, and the law that says so.
//!
//! With `W` operations under way at a time, each of which takes `L`, no more than `W / L` are done in
//! a second (J. D. C. Little, *A Proof for the Queuing Formula: L = λW*, 1961), nor more than the peak
//! that the ends reach without delay: `min(peak, W / L)`.

use super::Row;
use crate::stats::median;

/// The measurements of `tolerance` that differ by their delay only.
#[derive(Debug, PartialEq)]
pub(crate) struct Curve<'a> {
    pub(crate) transport: &'a str,
    /// How many are under way at a time; `None` of updates under a lock.
    pub(crate) in_flight: Option<u64>,
    /// Nanoseconds a hop, and operations a second.
    pub(crate) points: Vec<(u64, f64)>,
    /// `None` if it takes other measurements to tell.
    pub(crate) law: Option<Law>,
}

/// `min(peak, W / L)`, where `L` is what an operation takes without delay, and some delays.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Law {
    pub(crate) peak_per_second: f64,
    /// What one at a time takes without delay.
    pub(crate) alone_ns: f64,
    in_flight: f64,
    /// How many delays an operation takes.
    pub(crate) delays: f64,
}

/// The rows' curves, in their order.
pub(crate) fn curves<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Vec<Curve<'a>> {
    let mut curves: Vec<Curve> = Vec::new();
    for row in rows {
        let (Some(delay_ns), Some(rate)) = (row.delay_ns, row.operations_per_second) else { continue };
        let (transport, in_flight) = (&*row.transport, row.in_flight);
        let its = |curve: &&mut Curve| (curve.transport, curve.in_flight) == (transport, in_flight);
        match curves.iter_mut().find(its) {
            Some(curve) => curve.points.push((delay_ns, rate)),
            None => {
                curves.push(Curve { transport, in_flight, points: vec![(delay_ns, rate)], law: None });
            }
        }
    }
    let laws: Vec<_> = curves.iter().map(|curve| curve.fitted(&curves)).collect();
    curves.iter_mut().zip(laws).for_each(|(curve, law)| curve.law = law);
    curves
}

impl Curve<'_> {
    pub(crate) fn name(&self) -> String {
        match self.in_flight {
            Some(in_flight) => format!("{}, {in_flight} in flight", self.transport),
            None => format!("{}, updates", self.transport),
        }
    }

    /// What was measured with this delay.
    pub(crate) fn at(&self, delay_ns: u64) -> Option<f64> {
        self.points.iter().find(|point| point.0 == delay_ns).map(|point| point.1)
    }

    /// The law that fits best. What one at a time takes is known by the curve of those.
    fn fitted(&self, all: &[Self]) -> Option<Law> {
        let is_alone =
            |curve: &&Self| curve.transport == self.transport && curve.in_flight.is_none_or(|one| one == 1);
        let alone_ns = 1e9 / all.iter().find(is_alone)?.at(0)?;
        let (peak_per_second, in_flight) = (self.at(0)?, self.in_flight.unwrap_or(1) as f64);
        // Where the delays rule.
        let ruled =
            self.points.iter().filter(|&&(delay_ns, rate)| delay_ns > 0 && rate < peak_per_second / 2.0);
        let delays =
            median(ruled.map(|&(delay_ns, rate)| (in_flight * 1e9 / rate - alone_ns) / delay_ns as f64))?;
        Some(Law { peak_per_second, alone_ns, in_flight, delays })
    }

    /// By what factor the measurements differ from the law at most.
    pub(crate) fn off(&self) -> Option<f64> {
        let law = self.law?;
        let factor = |&(delay_ns, rate): &(u64, f64)| {
            let fitted = law.at(delay_ns as f64);
            (rate / fitted).max(fitted / rate)
        };
        self.points.iter().map(factor).reduce(f64::max)
    }
}

impl Law {
    /// Operations a second with this delay.
    pub(crate) fn at(&self, delay_ns: f64) -> f64 {
        self.peak_per_second.min(self.in_flight * 1e9 / (self.alone_ns + self.delays * delay_ns))
    }

    /// With which delay half of the peak is left.
    pub(crate) fn half_ns(&self) -> f64 {
        (2.0 * self.in_flight * 1e9 / self.peak_per_second - self.alone_ns) / self.delays
    }
}

#[cfg(test)]
mod tests {
    use super::{Curve, curves};
    use crate::record::Row;
    use rstest::rstest;

    const DELAYS_NS: [u64; 5] = [0, 1_000, 10_000, 1_000_000, 10_000_000];

    /// One hop takes 100 ns without delay, and the ends do no more than 10 M/s.
    fn requests(in_flight: u64) -> Vec<Row> {
        let rate = |delay_ns: u64| (in_flight as f64 * 1e9 / (200 + 2 * delay_ns) as f64).min(1e7);
        let row = |delay_ns| Row {
            transport: "mq".into(),
            in_flight: Some(in_flight),
            delay_ns: Some(delay_ns),
            operations_per_second: Some(rate(delay_ns)),
            ..Row::default()
        };
        DELAYS_NS.map(row).into()
    }

    fn near(figure: f64, expected: f64) -> bool {
        (figure / expected - 1.0).abs() < 0.01
    }

    #[rstest]
    // Without delay it does 5 M/s, so half as many with 100 ns more.
    #[case::one_at_a_time(1, 5e6, 100.0)]
    // 10 M/s at most, 5 M/s when a round trip takes 51.2 us.
    #[case::many(256, 1e7, 25_500.0)]
    fn the_law_is_found_in_what_follows_it(#[case] in_flight: u64, #[case] peak: f64, #[case] half_ns: f64) {
        let rows = [requests(1), requests(in_flight)].concat();
        let curves = curves(&rows);
        let curve = curves.iter().find(|curve| curve.in_flight == Some(in_flight)).unwrap();
        let law = curve.law.unwrap();
        assert!(near(law.peak_per_second, peak) && near(law.alone_ns, 200.0), "{law:?}");
        assert!(near(law.delays, 2.0) && near(law.half_ns(), half_ns), "{law:?} {}", law.half_ns());
        assert!(near(curve.off().unwrap(), 1.0), "{curve:?}");
    }

    #[test]
    fn what_breaks_the_law_is_off() {
        let mut rows = requests(1);
        rows[2].operations_per_second = rows[2].operations_per_second.map(|rate| rate / 3.0);
        assert!(near(curves(&rows)[0].off().unwrap(), 3.0));
    }

    #[rstest]
    #[case::without_delay(&requests(1)[1..])]
    #[case::with_delay(&requests(1)[..1])]
    #[case::one_at_a_time(&requests(256))]
    fn there_is_no_law_without_the_measurements_that_tell_it(#[case] rows: &[Row]) {
        let curves = curves(rows);
        assert!(matches!(curves[..], [Curve { law: None, .. }]), "{curves:?}");
        assert_eq!(curves[0].off(), None);
    }
}
