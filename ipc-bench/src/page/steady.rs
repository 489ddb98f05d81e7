//! Which ratios may be quoted.

use super::{grid, paragraph};
use crate::record::{Row, Steady};

/// All that hold, with what they are of.
fn all(rows: &[Row]) -> Vec<(&Row, Steady)> {
    rows.iter().flat_map(|row| row.steady().into_iter().map(move |steady| (row, steady))).collect()
}

/// What they are and why others aren't, as a table.
pub(super) fn section(rows: &[Row]) -> String {
    let all = all(rows);
    if all.is_empty() {
        return String::new();
    }
    let floors = rows.iter().filter_map(|row| row.floor_ns);
    let (low, high) = floors.fold((f64::INFINITY, 0.0_f64), |(low, high), ns| (low.min(ns), high.max(ns)));
    let mut text = String::from("<h2>What may be quoted</h2>\n");
    text += &paragraph(
        "These ratios are claimed to be stable: a run at another time should find them within a tenth, and \
         `ipc-bench compare` says of each claim of two runs whether the other one found it. They compare like with \
         like, with the bare system calls or with copies of the same bytes; the middle half of their rounds lies \
         within a twentieth of the median, and none of the rounds is in doubt.",
    );
    text += &paragraph(&format!(
        "Of others that isn’t claimed. What is compared with the cache line’s round trip or with a bare wake-up \
         depends on which processors take part and what they do besides; how long it takes to make and open a channel \
         in shared memory, on the state of the system’s memory. The cache line itself took {low:.0} to \
         {high:.0} ns in this run, and the ratios to it are of that.",
    ));
    let lines = all.into_iter().map(|(row, Steady { over, ratio, quartiles: [low, high] })| {
        let spread = format!("{low:.2}–{high:.2}");
        vec![Some(row.label()), Some(over.into()), Some(format!("{ratio:.2}")), Some(spread)]
    });
    text + &grid(&["measurement", "over", "ratio", "spread"], lines)
}

/// How many there are, for the terminal.
pub(super) fn summary(rows: &[Row]) -> String {
    match all(rows).len() {
        0 => String::new(),
        count => format!(
            "{count} ratios, to the bare calls and to copies, are claimed to be stable: see the page\n"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::{section, summary};
    use crate::record::Row;

    #[test]
    fn what_holds_is_listed_beside_what_the_floor_did() {
        let row = Row {
            experiment: "latency".into(),
            transport: "mq".into(),
            rounds: 7,
            floor_ns: Some(140.4),
            raw_ratio: Some(1.02),
            raw_quartiles: Some([1.0, 1.05]),
            ..Row::default()
        };
        let rows = [row.clone(), Row { raw_ratio: None, floor_ns: Some(95.0), ..row }];
        let text = section(&rows);
        assert!(text.contains("took 95 to 140 ns in this run"), "{text}");
        assert!(
            text.contains("<td>the bare calls</td><td>1.02</td><td>1.00–1.05</td>")
                && text.matches("<tr>").count() == 2,
            "{text}"
        );
        assert!(summary(&rows).starts_with("1 ratios"));
        assert_eq!((section(&rows[1..]), summary(&rows[1..])), (String::new(), String::new()));
    }
}
