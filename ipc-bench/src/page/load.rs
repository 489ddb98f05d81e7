//! What comes of load: latency against rate.

use super::plots::{Plot, Series, lines};
use crate::record::Row;
use std::collections::BTreeMap;

/// The ways of waiting that are in one picture, and what that is called.
const WAITS: [(&[&str], &[&str], &str); 3] = [
    (&["adaptive"], &["block"], "each waiting as it does by itself"),
    (&["block"], &["block"], "all blocking"),
    (&["spin"], &["spin"], "all spinning"),
];

/// The pictures for which there are figures.
pub(super) fn plots(rows: &[Row]) -> Result<Vec<Plot>, String> {
    let mut plots = Vec::new();
    for (in_memory, in_the_kernel, how) in WAITS {
        let is_shared = |row: &Row| row.transport.starts_with("shm:");
        let is_waited_for = |row: &&Row| {
            let waits = if is_shared(row) { in_memory } else { in_the_kernel };
            row.load.is_some() && row.wait.as_deref().is_some_and(|wait| waits.contains(&wait))
        };
        // What is in another picture as well is no reason for this one.
        if !rows.iter().any(|row| is_shared(row) && is_waited_for(&row)) {
            continue;
        }
        let its = || rows.iter().filter(is_waited_for);
        plots.extend(lines(
            &format!("Latency under load, the median, {how}"),
            "Messages one way at a fixed rate, each timed from when it was due; to the right what came, up to \
             where the channel is saturated. Both axes are logarithmic.",
            ["messages per second", "latency, ns"],
            &curves(its(), |row| row.p50_ns),
            &Series::new(),
        )?);
        plots.extend(lines(
            &format!("Latency under load, what 99 % stay below, {how}"),
            "The same, the slowest of a hundred.",
            ["messages per second", "latency, ns"],
            &curves(its(), |row| row.p99_ns.map(|ns| ns as f64)),
            &Series::new(),
        )?);
    }
    Ok(plots)
}

/// By transport, a figure for each rate, in the order of those that were asked for.
fn curves<'a>(
    rows: impl Iterator<Item = &'a Row>,
    figure: impl Fn(&Row) -> Option<f64>,
) -> BTreeMap<String, Vec<(f64, f64)>> {
    let mut rows: Vec<(u64, &Row)> = rows
        .filter(|row| row.message_len_bytes == 8)
        .filter_map(|row| Some((row.load.as_ref()?.asked_per_second, row)))
        .collect();
    rows.sort_by_key(|(asked, _)| *asked);
    let mut curves: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for (_, row) in rows {
        if let (Some(rate), Some(figure)) = (row.messages_per_second, figure(row)) {
            curves.entry(row.transport.to_string()).or_default().push((rate, figure.max(1.0)));
        }
    }
    curves
}

#[cfg(test)]
mod tests {
    use super::{curves, plots};
    use crate::record::{Load, Row};

    fn row(transport: &'static str, wait: &'static str, asked_per_second: u64, came: f64) -> Row {
        Row {
            experiment: "load".into(),
            transport: transport.into(),
            wait: Some(wait.into()),
            message_len_bytes: 8,
            p50_ns: Some(500.0),
            p99_ns: Some(900),
            messages_per_second: Some(came),
            load: Some(Load { asked_per_second, is_saturated: false, messages: 1000 }),
            ..Row::default()
        }
    }

    #[test]
    fn a_curve_goes_by_what_was_asked_for_even_where_less_came_of_more() {
        let rows = [row("mq", "block", 3_000_000, 0.8e6), row("mq", "block", 1_000_000, 0.9e6)];
        assert_eq!(curves(rows.iter(), |row| row.p50_ns)["mq"], [(0.9e6, 500.0), (0.8e6, 500.0)]);
    }

    #[test]
    fn pictures_are_of_those_that_wait_alike() {
        let by_itself = [row("mq", "block", 1000, 1e3), row("shm:spsc", "adaptive", 1000, 1e3)];
        let titles = |rows: &[Row]| -> Vec<String> {
            plots(rows).unwrap().into_iter().map(|plot| plot.title).collect()
        };
        assert_eq!(titles(&by_itself).len(), 2);
        assert!(titles(&by_itself)[0].ends_with("each waiting as it does by itself"));
        assert!(plots(&by_itself).unwrap()[0].svg.contains("shm:spsc"));
        let blocking = [&by_itself[..], &[row("shm:spsc", "block", 1000, 1e3)]].concat();
        assert_eq!(titles(&blocking).len(), 4);
        assert!(titles(&[]).is_empty());
    }
}
