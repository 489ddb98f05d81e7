//! `tolerance`: what is left of how many a second when each hop takes longer.

use super::{
    plan::{Block, Contender},
    table::{Table, decimals},
};
use crate::{
    cli::Asked,
    jobs::transports::holds,
    record::{Curve, Row, curves},
    spec::{Delivery, Experiment, Job, LaneSpec, Layer, Payload, Touch, Traits, TransportId, Waiting},
};

/// Why a transport has no part in it.
pub(super) fn elsewhere(traits: &Traits) -> Option<String> {
    let name = traits.name;
    let is_stream = traits.streams && !traits.copies_only && traits.delivery != Delivery::All { lossy: true };
    (!is_stream && !traits.locks)
        .then(|| format!("{name} doesn't keep all of several messages that are under way at a time"))
}

/// For each number of requests under way, all delays; for a value under a lock, all delays. Who
/// waits polls, so that the delay is all that there is to wait for. The layer that delays is there
/// without delay, too, so that what it takes itself is no difference between the points of a curve.
pub(super) fn add_blocks(
    asked: &Asked,
    transport: TransportId,
    blocks: &mut Vec<Block>,
    left_out: &mut Vec<String>,
) {
    let mut add = |jobs| {
        for &hop_ns in &asked.delays_ns {
            let Contender { lane, jobs } = Contender::new(transport, Waiting::Spin, jobs);
            let subject = Contender { lane: LaneSpec { layer: Layer::Delay { hop_ns }, ..lane }, jobs };
            blocks.push(Block::new(Experiment::Tolerance, subject));
        }
    };
    if transport.traits().locks {
        return add([Job::Update; 2]);
    }
    let held = holds(transport, Payload { len_bytes: MESSAGE_LEN_BYTES, touch: Touch::All });
    for &in_flight in &asked.in_flight {
        if in_flight > held as u64 {
            left_out
                .push(format!("{transport} with {in_flight} in flight: its channels hold {held} messages"));
        } else {
            add([Job::Request { in_flight }, Job::Reply { in_flight }]);
        }
    }
}

/// That of all [`Contender`]s at first.
const MESSAGE_LEN_BYTES: usize = 8;

/// What the law says that there should be of a row.
pub(super) fn lawful_per_second(row: &Row, all: &[Curve]) -> Option<f64> {
    let its = |curve: &&Curve| curve.transport == row.transport && curve.in_flight == row.in_flight;
    Some(all.iter().find(its)?.law?.at(row.delay_ns? as f64))
}

/// The law of each curve, a line each.
pub(super) fn laws(rows: &[Row]) -> String {
    let curves = curves(rows);
    let known = || curves.iter().filter_map(|curve| Some((curve, curve.law?, curve.off()?)));
    if known().next().is_none() {
        return String::new();
    }
    let mut table = Table::new();
    table.column("law", known().map(|(curve, ..)| Some(curve.transport.to_owned())));
    table.column("W", known().map(|(curve, ..)| Some(curve.in_flight.unwrap_or(1).to_string())));
    table.column("peak", known().map(|(_, law, _)| decimals(Some(law.peak_per_second), 0)));
    table.column("alone us", known().map(|(_, law, _)| decimals(Some(law.alone_ns / 1e3), 2)));
    table.column("delays", known().map(|(_, law, _)| decimals(Some(law.delays), 2)));
    table.column("half us", known().map(|(_, law, _)| decimals(Some(law.half_ns() / 1e3), 1)));
    table.column("off %", known().map(|(.., off)| decimals(Some((off - 1.0) * 100.0), 0)));
    format!("\n{}\n{LAW}", table.text())
}

const LAW: &str = "\
law       min(peak, W / L) a second, with W under way at a time and L = alone + delays x a hop's
peak      what there is without delay; alone: one at a time without delay
half us   the delay with which half of the peak is left
off %     by how much what was measured differs from the law at most
";

#[cfg(test)]
mod tests {
    use super::laws;
    use crate::record::Row;

    #[test]
    fn the_law_fits_100_columns_and_is_not_there_without_measurements() {
        let row = |delay_ns: u64| Row {
            transport: "shm:broadcast-reliable".into(),
            in_flight: Some(1),
            delay_ns: Some(delay_ns),
            operations_per_second: Some(1e17 / (200 + 2 * delay_ns) as f64),
            ..Row::default()
        };
        let text = laws(&[0, 1_000_000_000].map(row));
        assert!(text.contains("shm:broadcast-reliable"));
        text.lines().for_each(|line| assert!(line.chars().count() <= 100, "{line}"));
        assert_eq!(laws(&[row(0)]), "");
    }
}
