//! What more processes make of it: tables, and what that says of parallel hardware.

use super::{
    grid, paragraph, rate,
    verdicts::{ALIKE, Verdict, not_measured},
};
use crate::record::{Row, Scale};
use std::collections::BTreeMap;

/// With fewer processors than that, nothing can be said of more.
const ENOUGH: usize = 4;

const CLAIM: &str = "“Message passing makes it easier to build parallel hardware.”";

/// The section, if there are figures.
pub(super) fn section(rows: &[Row]) -> String {
    let scaled: Vec<_> = rows.iter().filter_map(|row| Some((row, row.scale.as_ref()?))).collect();
    if scaled.is_empty() {
        return String::new();
    }
    let mut text = "<h2>More processes</h2>\n".to_owned();
    text += &paragraph(
        "Senders and receivers on one channel, and workers that keep accounts together: in one structure under \
         a lock, or a part for each and orders for another's by queues. What takes turns on fewer processors \
         says nothing of more processors.",
    );
    let lines = scaled.iter().map(|(row, scale)| {
        let over = scale.locked_ratio.map(|ratio| format!("{ratio:.2} × one lock"));
        vec![
            Some(scale.processes.to_string()),
            Some(if scale.are_workers { how(row) } else { crowd(row) }),
            row.messages_per_second.map(rate),
            over.or(row.alone_ratio.map(|ratio| format!("{ratio:.2} × one to one"))),
            scale.transfers_per_order.map(|count| format!("{count:.2}")),
            scale.is_oversubscribed().then(|| format!("take turns on {}", scale.processors)),
        ]
    });
    let head = ["processes", "what they do", "messages or orders/s", "beside", "lines fetched each", ""];
    text + &grid(&head, lines)
}

fn crowd(row: &Row) -> String {
    let wait = row.wait.as_deref().unwrap_or_default();
    format!("{}, {} to {}, {wait}", row.transport, row.senders, row.receivers)
}

fn how(row: &Row) -> String {
    let how = row.operation.as_deref().unwrap_or_default();
    match row.batch {
        0 | 1 => format!("workers: {how}"),
        batch => format!("workers: {how}, batches of {batch}"),
    }
}

/// A design, and what so many workers come to that have a processor each, by their number.
struct Design<'a> {
    how: String,
    by_number: BTreeMap<usize, (f64, &'a Scale)>,
}

impl Design<'_> {
    fn text(&self) -> String {
        let of =
            |(workers, (per_second, _)): (&usize, &(f64, _))| format!("{} by {workers}", rate(*per_second));
        let all: Vec<_> = self.by_number.iter().map(of).collect();
        format!("{}: orders/s {}", self.how, all.join(", "))
    }

    /// How many times as many orders as with one lock, by so many workers.
    fn over_locked(&self, workers: usize) -> Option<f64> {
        self.by_number.get(&workers)?.1.locked_ratio
    }
}

/// Each design for which there are figures, in the order in which they were measured.
fn designs(rows: &[Row]) -> Vec<Design<'_>> {
    let mut designs: Vec<Design<'_>> = Vec::new();
    for row in rows {
        let (Some(scale), Some(per_second)) = (&row.scale, row.messages_per_second) else { continue };
        if !scale.are_workers || scale.is_oversubscribed() {
            continue;
        }
        let how = how(row);
        let index = designs.iter().position(|design| design.how == how).unwrap_or_else(|| {
            designs.push(Design { how, by_number: BTreeMap::new() });
            designs.len() - 1
        });
        designs[index].by_number.insert(scale.processes, (per_second, scale));
    }
    designs
}

/// Whether workers that send messages come to more than those that lock, the more there are.
pub(super) fn hardware(rows: &[Row]) -> Verdict {
    let workers = || rows.iter().filter_map(|row| row.scale.as_ref()).filter(|scale| scale.are_workers);
    let Some(first) = workers().next() else { return not_measured(CLAIM) };
    let designs = designs(rows);
    let mut figures: Vec<String> = designs.iter().map(Design::text).collect();
    for Design { how, by_number } in &designs {
        let mut fetched =
            by_number.iter().filter_map(|(workers, (_, scale))| Some((workers, scale.transfers_per_order?)));
        figures.extend(fetched.next_back().map(|(workers, count)| {
            format!("{how}, {workers} of them: {count:.2} lines fetched from another processor's cache for each order")
        }));
    }
    figures.extend(workers().find_map(|scale| scale.uncounted.as_ref()).map(|why| {
        format!("What processors fetch from each other's caches can't be counted on this machine: {why}.")
    }));
    Verdict { claim: CLAIM.into(), says: says(first.processors, &designs), figures }
}

fn says(processors: usize, designs: &[Design<'_>]) -> String {
    if processors < ENOUGH {
        return format!(
            "This can't be tested on this machine: it has {processors} {}, and fewer than {ENOUGH} show nothing \
             of what more would make of it.",
            if processors == 1 { "processor" } else { "processors" }
        );
    }
    // One worker alone has nobody to send to: two are the fewest that tell anything.
    let compared = |design: &Design<'_>| -> Option<(f64, f64, usize)> {
        let most = *design.by_number.keys().next_back()?;
        Some((design.over_locked(most)?, design.over_locked(2)?, most))
    };
    let best = designs.iter().filter_map(compared).filter(|(_, _, most)| *most > 2);
    let Some((ratio, of_two, most)) = best.max_by(|one, other| one.0.total_cmp(&other.0)) else {
        return "This run hasn't measured it with two workers and with more.".into();
    };
    let verdict = match ratio {
        _ if ratio < 1.0 / ALIKE => "That speaks against it, as far as software can tell",
        _ if ratio < ALIKE => "That speaks neither for nor against it",
        _ if ratio < of_two / ALIKE => "That speaks for it, but less so the more there are",
        _ => "That speaks for it, as far as software can tell",
    };
    format!(
        "{verdict}: {most} workers, a processor each, do {ratio:.2} times as many orders if each has a part and \
         gets orders by queues as if all share one structure under a lock; two do {of_two:.2} times as many."
    )
}

#[cfg(test)]
mod tests {
    use super::{hardware, section};
    use crate::record::{Row, Scale};

    fn worker(over_locked: Option<f64>, processes: usize, processors: usize, rate: f64) -> Row {
        let is_locked = over_locked.is_none();
        Row {
            experiment: "scale".into(),
            transport: if is_locked { "sync:mutex" } else { "shm:spsc" }.into(),
            operation: Some(if is_locked { "one structure, locked" } else { "own parts, queues" }.into()),
            batch: 1,
            messages_per_second: Some(rate),
            scale: Some(Scale {
                are_workers: true,
                locked_ratio: over_locked,
                ..Scale::of(processes, processors)
            }),
            ..Row::default()
        }
    }

    /// How many times as many orders two and four do by queues.
    fn of(processors: usize, two: f64, four: f64) -> Vec<Row> {
        let both = |workers, over_locked| {
            [
                worker(None, workers, processors, 2e6),
                worker(Some(over_locked), workers, processors, 2e6 * over_locked),
            ]
        };
        // The last ones are more than there are processors.
        [both(1, 9.0), both(2, two), both(4, four), both(99, 0.01)].concat()
    }

    #[test]
    fn on_few_processors_it_cant_be_tested_whatever_the_figures_are() {
        let verdict = hardware(&of(2, 3.0, 4.0));
        assert!(
            verdict.says.starts_with("This can't be tested on this machine: it has 2 processors"),
            "{verdict:?}"
        );
        assert!(hardware(&of(1, 3.0, 4.0)).says.contains("it has 1 processor,"));
        let without = hardware(&[]);
        assert!(without.says.contains("wasn't measured") && without.figures.is_empty());
    }

    #[test]
    fn what_comes_to_more_by_more_workers_decides() {
        let says = |two, four| hardware(&of(4, two, four)).says;
        assert!(says(2.0, 3.0).starts_with("That speaks for it, as far"), "{}", says(2.0, 3.0));
        assert!(says(2.0, 3.0).contains("4 workers, a processor each, do 3.00 times as many"));
        assert!(says(2.0, 3.0).ends_with("two do 2.00 times as many."));
        assert!(says(3.0, 2.0).starts_with("That speaks for it, but less so"));
        assert!(says(3.0, 1.0).starts_with("That speaks neither"));
        assert!(says(3.0, 0.5).starts_with("That speaks against it"));
        let verdict = hardware(&of(4, 2.0, 3.0));
        let expected = [
            "workers: one structure, locked: orders/s 2.0 M by 1, 2.0 M by 2, 2.0 M by 4",
            "workers: own parts, queues: orders/s 18.0 M by 1, 4.0 M by 2, 6.0 M by 4",
        ];
        assert_eq!(verdict.figures, expected);
        assert!(crate::page::verdicts::of(&of(4, 2.0, 3.0)).contains(&verdict), "it is among the verdicts");
        let two_only = hardware(&of(4, 2.0, 3.0)[..4]);
        assert!(two_only.says.contains("hasn't measured it with two workers and with more"), "{two_only:?}");
    }

    #[test]
    fn what_was_fetched_is_said_or_why_it_isnt_known() {
        let mut rows = of(4, 2.0, 3.0);
        rows[3].scale.as_mut().unwrap().transfers_per_order = Some(0.75);
        rows[5].scale.as_mut().unwrap().transfers_per_order = Some(1.25);
        rows[0].scale.as_mut().unwrap().uncounted = Some("no such event".into());
        let figures = hardware(&rows).figures;
        assert!(figures[2].contains("own parts, queues, 4 of them: 1.25 lines fetched"), "{figures:?}");
        assert!(figures[3].ends_with("can't be counted on this machine: no such event."), "{figures:?}");
    }

    #[test]
    fn processes_that_take_turns_are_marked() {
        let crowd = Row {
            transport: "mq".into(),
            wait: Some("block".into()),
            senders: 2,
            receivers: 1,
            alone_ratio: Some(0.5),
            messages_per_second: Some(1e6),
            scale: Some(Scale::of(3, 2)),
            ..Row::default()
        };
        let page = section(&[crowd, worker(Some(2.0), 2, 2, 3e6)]);
        let expected = "<td>3</td><td>mq, 2 to 1, block</td><td>1.0 M</td><td>0.50 × one to one</td><td></td><td>take turns on 2</td>";
        assert!(page.contains(expected), "{page}");
        let expected =
            "<td>workers: own parts, queues</td><td>3.0 M</td><td>2.00 × one lock</td><td></td><td></td>";
        assert!(page.contains(expected), "{page}");
        assert_eq!(section(&[]), "");
    }
}
