//! The closing table: both models side by side, as measured in this run.

use super::scenery::{Ink, title};
use crate::{
    address::Scheme,
    units::{Size, Span},
};
use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

/// What the actors of one model measured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) values: BTreeMap<String, u64>,
}

impl Figures {
    /// The length of the long messages.
    pub(crate) fn large_len(&self) -> u64 {
        self.get("large_len").unwrap_or_default()
    }

    fn get(&self, name: &str) -> Option<u64> {
        self.values.get(name).copied()
    }

    fn span(&self, name: &str) -> Option<String> {
        self.get(name).map(|ns| Span(Duration::from_nanos(ns)).to_string())
    }
}

const LABEL_WIDTH: usize = 40;
const COLUMN_WIDTH: usize = 19;
const NONE: &str = "-";

type Cell = fn(&Figures) -> Option<String>;

/// Waiting and what waits differently are never in one row.
const ROWS: &[(&str, Cell)] = &[
    ("create a channel", |figures| figures.span("create_ns")),
    ("open it from another process", |figures| figures.span("open_ns")),
    ("first message, to nobody yet", |figures| figures.span("send_ns")),
    ("round trip of 8 B, p50, blocking", |figures| figures.span("block_p50_ns")),
    ("round trip of 8 B, p99, blocking", |figures| figures.span("block_p99_ns")),
    ("round trip of 8 B, p50, adaptive", |figures| figures.span("adaptive_p50_ns")),
    ("messages of 8 B one way, blocking", |figures| figures.get("small_messages_per_second").map(rate)),
    ("long messages one way, blocking", |figures| {
        figures.get("large_messages_per_second").map(|rate| throughput(rate * figures.large_len()))
    }),
    ("last words of a killed sender", |figures| {
        figures.get("last_words_delivered").map(|yes| if yes == 1 { "delivered" } else { "lost" }.into())
    }),
    ("message that a killed receiver held", |figures| {
        let name = "held_message_redelivered";
        figures.get(name).map(|yes| if yes == 1 { "delivered again" } else { "lost" }.into())
    }),
];

/// The table of those models that could be shown.
pub(crate) fn render(models: &[(Scheme, Figures)], ink: Ink) -> String {
    let mut text = ink.heading("Side by side, as measured just now between two processes here") + "\n\n";
    // Writing to a string doesn't fail.
    let mut line = |label: &str, cells: &mut dyn Iterator<Item = String>| {
        let cells: String = cells.map(|cell| format!("{cell:>COLUMN_WIDTH$}")).collect();
        let _ = writeln!(text, "{}", format!("  {label:<LABEL_WIDTH$}{cells}").trim_end());
    };
    line("", &mut models.iter().map(|(scheme, _)| title(*scheme).to_lowercase()));
    line("", &mut models.iter().map(|(scheme, _)| format!("{scheme}:")));
    line("", &mut models.iter().map(|_| "─".repeat(COLUMN_WIDTH - 2)));
    for (label, cell) in ROWS {
        line(label, &mut models.iter().map(|(_, figures)| cell(figures).unwrap_or_else(|| NONE.into())));
    }
    if let Some((_, figures)) = models.first() {
        let note = format!(
            "\n  Blocking: who waits sleeps in the kernel, at both ends of both models.\n  \
             Adaptive (the default in shared memory): who waits spins for 50 µs first.\n  \
             Long messages: {} each, written and read.\n",
            Size(figures.large_len())
        );
        text.push_str(&ink.aside(note));
    }
    text
}

fn rate(per_second: u64) -> String {
    match per_second {
        ..10_000 => format!("{per_second} /s"),
        10_000..1_000_000 => format!("{:.0} thousand/s", per_second as f64 / 1e3),
        _ => format!("{:.1} million/s", per_second as f64 / 1e6),
    }
}

fn throughput(bytes_per_second: u64) -> String {
    match bytes_per_second {
        ..1_000_000_000 => format!("{:.0} MB/s", bytes_per_second as f64 / 1e6),
        _ => format!("{:.1} GB/s", bytes_per_second as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::{Figures, render};
    use crate::{address::Scheme, demo::scenery::Ink};

    #[test]
    fn the_table_fits_80_columns_and_says_what_it_could_not_measure() {
        let mut figures = Figures::default();
        figures.values.insert("held_message_redelivered".into(), 1);
        figures.values.insert("create_ns".into(), u64::MAX);
        let text = render(&[(Scheme::Mq, Figures::default()), (Scheme::Shm, figures)], Ink::plain());
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
        assert!(text.contains("delivered again"));
        assert!(text.lines().any(|line| line.contains("p50, adaptive") && line.ends_with('-')), "{text}");
    }
}
