//! What the figures say of what everybody says.

use super::{rate, scale::hardware, set_up::set_up, time};
use crate::record::{Curve, Row, are_close, curves, size};

/// A claim, and what comes of it.
#[derive(Debug, PartialEq)]
pub(super) struct Verdict {
    pub(super) claim: String,
    pub(super) says: String,
    /// What it rests on.
    pub(super) figures: Vec<String>,
}

/// The kernel's channels.
const MESSAGE_PASSING: [&str; 3] = ["mq", "sysv", "unix"];
/// Differences below this say nothing.
pub(super) const ALIKE: f64 = 1.10;

/// Of all claims; of those for which nothing was measured, that.
pub(super) fn of(rows: &[Row]) -> Vec<Verdict> {
    vec![faster(rows), set_up(rows), tolerant(rows), hardware(rows), peers(rows)]
}

pub(super) fn not_measured(claim: &str) -> Verdict {
    Verdict { claim: claim.into(), says: "This wasn't measured by this run.".into(), figures: Vec::new() }
}

pub(super) fn is_message_passing(row: &Row) -> bool {
    MESSAGE_PASSING.contains(&&*row.transport)
}

/// The one with the least of a figure.
pub(super) fn least<'a>(
    rows: impl Iterator<Item = &'a Row>,
    figure: impl Fn(&Row) -> Option<f64>,
) -> Option<(&'a Row, f64)> {
    rows.filter_map(|row| figure(row).map(|figure| (row, figure)))
        .min_by(|one, other| one.1.total_cmp(&other.1))
}

/// Both models beside each other.
struct Beside {
    /// How many times as long the kernel's takes.
    ratio: f64,
    wait: String,
    /// Whether both were in the same rounds.
    is_of_one_moment: bool,
    figure: String,
}

/// The fastest of the kernel's channels beside `shm:spsc` in its rounds. Runs that had no such rounds
/// have the fastest of each model, whenever that was.
fn beside<'a>(its: impl Fn() -> Box<dyn Iterator<Item = &'a Row> + 'a>, wait: &str) -> Option<Beside> {
    let passing = || its().filter(|row| is_message_passing(row));
    let len_bytes = its().next()?.message_len_bytes;
    let what = format!("{} bytes there and back, {wait}", size(len_bytes));
    if let Some((row, ratio)) = least(passing(), |row| row.shared_ratio) {
        let spread =
            row.shared_quartiles.map_or(String::new(), |[low, high]| format!(" ({low:.2}–{high:.2})"));
        let took = row.p50_ns.map_or(String::new(), |ns| format!(" {}", time(ns)));
        let figure = format!(
            "{what}: {}{took}, {ratio:.2} times{spread} what shm:spsc took in the same rounds: {}",
            row.transport,
            compared(ratio)
        );
        return Some(Beside { ratio, wait: wait.into(), is_of_one_moment: true, figure });
    }
    let (passing, passing_ns) = least(passing(), |row| row.p50_ns)?;
    let (memory, memory_ns) = least(its().filter(|row| row.transport.starts_with("shm:")), |row| row.p50_ns)?;
    let ratio = passing_ns / memory_ns;
    let figure = format!(
        "{what}: {} {}, {} {}, each in rounds of its own: {}",
        memory.transport,
        time(memory_ns),
        passing.transport,
        time(passing_ns),
        compared(ratio)
    );
    Some(Beside { ratio, wait: wait.into(), is_of_one_moment: false, figure })
}

/// Round trips of both models, by length and by how they wait.
fn faster(rows: &[Row]) -> Verdict {
    let claim = "“Shared memory is faster on the same machine.”";
    let mut kinds: Vec<(usize, &str)> = rows
        .iter()
        .filter(|row| row.experiment == "latency")
        .filter_map(|row| Some((row.message_len_bytes, row.wait.as_deref()?)))
        .collect();
    kinds.sort_unstable();
    kinds.dedup();
    let all: Vec<Beside> = kinds
        .into_iter()
        .filter_map(|(len_bytes, wait)| {
            let is_alike = move |row: &&Row| {
                row.experiment == "latency"
                    && row.message_len_bytes == len_bytes
                    && row.wait.as_deref() == Some(wait)
                    && row.touched == Default::default()
            };
            beside(|| Box::new(rows.iter().filter(is_alike)), wait)
        })
        .collect();
    let by_ratio = |one: &&Beside, other: &&Beside| one.ratio.total_cmp(&other.ratio);
    let mut says = match (all.iter().min_by(by_ratio), all.iter().max_by(by_ratio)) {
        (Some(least), Some(most)) if least.ratio > ALIKE => {
            let waiting = waiting(rows).filter(|(ratio, ..)| *ratio > most.ratio);
            let more = waiting.map_or(String::new(), |(ratio, awake_ns, asleep_ns)| {
                format!(
                    " What decides more is how one waits: with shared memory itself, {} where both poll and {} where \
                     both sleep, {ratio:.0} times as long, of different moments.",
                    time(awake_ns),
                    time(asleep_ns)
                )
            });
            format!("Yes, in everything measured here: {}.{more}", from_to(least.ratio, most.ratio))
        }
        (Some(least), Some(most)) if most.ratio > ALIKE => format!(
            "Not always: {}, least where both wait by {}, most by {}.",
            from_to(least.ratio, most.ratio),
            least.wait,
            most.wait
        ),
        (Some(least), Some(most)) => format!("No: it was {}.", from_to(least.ratio, most.ratio)),
        _ => "This wasn't measured by this run.".into(),
    };
    if all.iter().any(|one| !one.is_of_one_moment) {
        says += APART;
    }
    Verdict { claim: claim.into(), says, figures: all.into_iter().map(|one| one.figure).collect() }
}

/// What is said of ratios of different moments.
pub(super) const APART: &str = " In this run the two models weren't in the same rounds: the times are of different \
                                moments, in which the machine may have been in different states.";

/// How many times as long the fastest round trip of 8 bytes in shared memory takes if both sleep, and
/// how long either takes.
fn waiting(rows: &[Row]) -> Option<(f64, f64, f64)> {
    let fastest = |wait: &str| {
        let its = rows.iter().filter(|row| {
            row.experiment == "latency"
                && row.transport.starts_with("shm:")
                && row.message_len_bytes == 8
                && row.wait.as_deref() == Some(wait)
                && row.touched == Default::default()
        });
        least(its, |row| row.p50_ns).map(|(_, ns)| ns)
    };
    let (awake_ns, asleep_ns) = (fastest("spin")?, fastest("block")?);
    Some((asleep_ns / awake_ns, awake_ns, asleep_ns))
}

/// From the least to the most, or one of them if they look the same.
fn from_to(low: f64, high: f64) -> String {
    let digits = |ratio: f64| if ratio < 10.0 { format!("{ratio:.2}") } else { format!("{ratio:.0}") };
    match (digits(low), digits(high)) {
        (low, high) if low == high => format!("{low} times as fast"),
        (low, high) => format!("{low} to {high} times as fast"),
    }
}

/// What is left when each hop takes longer: of requests and replies, so many under way at a time,
/// and of updates under a lock.
fn tolerant(rows: &[Row]) -> Verdict {
    let claim = "“Message passing is tolerant of higher communication latencies.”";
    let curves = curves(rows);
    let figures: Vec<String> = curves.iter().filter_map(described).collect();
    let longest_ns = curves.iter().flat_map(|curve| &curve.points).map(|point| point.0).max();
    let best = |of: &dyn Fn(&Curve) -> bool| {
        let its = curves.iter().filter(|curve| of(curve));
        its.filter_map(|curve| Some((curve, curve.at(longest_ns?)?)))
            .max_by(|one, other| one.1.total_cmp(&other.1))
    };
    let passes = |curve: &Curve| MESSAGE_PASSING.contains(&curve.transport);
    let (Some(longest_ns @ 1..), Some((many, many_rate)), Some((_, alone_rate)), Some((_, locked_rate))) = (
        longest_ns,
        best(&|curve| passes(curve) && curve.in_flight.is_some()),
        best(&|curve| passes(curve) && curve.in_flight == Some(1)),
        best(&|curve| curve.in_flight.is_none()),
    ) else {
        let too_little = "This run hasn't measured enough of it: it takes requests by message passing, one and \
                          several at a time, and updates under a lock, each with and without delay.";
        let says = if rows.iter().any(|row| row.delay_ns.is_some()) {
            too_little.into()
        } else {
            not_measured(claim).says
        };
        return Verdict { claim: claim.into(), says, figures };
    };
    let compared = format!(
        "with {} more a hop, {} do {} as many a second as updates under a lock",
        time(longest_ns as f64),
        many.name(),
        times(many_rate / locked_rate)
    );
    let memory = best(&|curve| curve.transport.starts_with("shm:") && curve.in_flight == many.in_flight);
    let mut says = match (many_rate / locked_rate > ALIKE, many_rate / alone_rate > ALIKE) {
        (true, true) => format!(
            "Yes, of who doesn't wait for each answer: {compared}. One request at a time: {}.",
            times(alone_rate / locked_rate)
        ),
        (true, false) => format!("Yes: {compared}."),
        (false, _) => format!("No: {compared}."),
    };
    if let Some((memory, memory_rate)) = memory {
        let ratio = memory_rate / many_rate;
        says += &format!(" In shared memory {} do {} as many as those", memory.name(), times(ratio));
        says += match ratio {
            _ if (1.0 / ALIKE..=ALIKE).contains(&ratio) => {
                ": what decides is how many are under way, not what carries them."
            }
            _ => ".",
        };
    }
    Verdict { claim: claim.into(), says, figures }
}

fn times(ratio: f64) -> String {
    match ratio {
        _ if ratio < 10.0 => format!("{ratio:.2} times"),
        _ => format!("{ratio:.0} times"),
    }
}

/// A curve in a line.
fn described(curve: &Curve) -> Option<String> {
    let (law, off) = (curve.law?, curve.off()?);
    let (last_ns, last_rate) = curve.points.iter().max_by_key(|point| point.0)?;
    let each = match curve.in_flight {
        Some(_) => "a request and its reply, by a channel each, take",
        None => "an update takes",
    };
    Some(format!(
        "{}: {}/s without delay, half of that with {} more a hop, {}/s with {}; {each} {:.2} delays; min(peak, W / L) \
         is off by at most {:.0} %",
        curve.name(),
        rate(law.peak_per_second),
        time(law.half_ns()),
        rate(*last_rate),
        time(*last_ns as f64),
        law.delays,
        (off - 1.0) * 100.0
    ))
}

/// Ours beside what people use instead, on the same work in the same rounds.
fn peers(rows: &[Row]) -> Verdict {
    let claim = "Beside what people use instead";
    let measured: Vec<(&Row, f64)> =
        rows.iter().filter(|row| row.is_rival()).filter_map(|row| Some((row, row.ours_ratio?))).collect();
    let (Some(low), Some(high)) = (
        measured.iter().map(|&(_, ratio)| ratio).reduce(f64::min),
        measured.iter().map(|&(_, ratio)| ratio).reduce(f64::max),
    ) else {
        return Verdict {
            says: "This wasn't measured by this run: `ipc-bench peers` does.".into(),
            ..not_measured(claim)
        };
    };
    let figures = measured
        .iter()
        .map(|(row, ratio)| {
            let ours = row.ours.as_deref().unwrap_or("ours");
            format!("{}: {ours} is {ratio:.2} times as fast", row.label())
        })
        .collect();
    let those = |is_meant: &dyn Fn(f64) -> bool| -> Vec<String> {
        measured.iter().filter(|(_, ratio)| is_meant(*ratio)).map(|(row, _)| row.label()).collect()
    };
    let (winners, alike) = (those(&|ratio| ratio < 1.0 / ALIKE), those(&|ratio| are_close(ratio, 1.0)));
    let mut says = match winners.as_slice() {
        [] => format!("Ours is {low:.2} to {high:.1} times as fast as each of them."),
        some => format!("From {low:.2} to {high:.1} times as fast: it loses in {}.", some.join("; ")),
    };
    if !alike.is_empty() {
        says += &format!(" Both are alike, within a tenth, in {}.", alike.join("; "));
    }
    Verdict { claim: claim.into(), says, figures }
}

fn compared(ratio: f64) -> String {
    match ratio {
        _ if ratio > ALIKE => format!("shared memory is {ratio:.1} times as fast"),
        _ if ratio < 1.0 / ALIKE => format!("message passing is {:.1} times as fast", 1.0 / ratio),
        _ => "the same".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::{APART, compared, faster, of, peers, tolerant};
    use crate::record::Row;

    fn latency(transport: &'static str, wait: &'static str, p50_ns: f64) -> Row {
        Row {
            experiment: "latency".into(),
            transport: transport.into(),
            wait: Some(wait.into()),
            message_len_bytes: 8,
            p50_ns: Some(p50_ns),
            ..Row::default()
        }
    }

    #[test]
    fn the_fastest_of_each_model_are_compared_where_they_wait_alike() {
        let rows = [
            latency("mq", "block", 50_000.0),
            latency("unix", "block", 40_000.0),
            latency("shm:spsc", "block", 20_000.0),
            latency("shm:mpmc", "block", 25_000.0),
            latency("shm:spsc", "spin", 150.0),
        ];
        let verdict = faster(&rows);
        assert_eq!(verdict.figures.len(), 1, "nothing of the kernel's spins here");
        assert!(verdict.figures[0].ends_with(
            "shm:spsc 20.0 µs, unix 40.0 µs, each in rounds of its own: shared memory is 2.0 times as fast"
        ));
        let expected = "Yes, in everything measured here: 2.00 times as fast. What decides more is how one waits: with \
                        shared memory itself, 150 ns where both poll and 20.0 µs where both sleep, 133 times as \
                        long, of different moments.";
        assert_eq!(verdict.says, format!("{expected}{APART}"));
        let both = [&rows[..], &[latency("mq", "spin", 45_000.0)]].concat();
        let expected = "Yes, in everything measured here: 2.00 to 300 times as fast.";
        assert_eq!(faster(&both).says, format!("{expected}{APART}"));
        let alike = [&both[..], &[latency("mq", "block", 20_000.0)]].concat();
        let expected = "Not always: 1.00 to 300 times as fast, least where both wait by block, most by spin.";
        assert_eq!(faster(&alike).says, format!("{expected}{APART}"));
    }

    #[test]
    fn where_both_models_were_in_the_same_rounds_their_ratio_there_counts() {
        let beside = |transport, p50_ns, ratio| Row {
            shared_ratio: Some(ratio),
            shared_quartiles: Some([ratio - 0.1, ratio + 0.1]),
            ..latency(transport, "block", p50_ns)
        };
        // By its time unix is faster, but the machine was so, too.
        let rows = [
            beside("mq", 50_000.0, 1.5),
            beside("unix", 40_000.0, 2.5),
            latency("shm:spsc", "block", 50_000.0),
        ];
        let verdict = faster(&rows);
        let figure = "8 bytes there and back, block: mq 50.0 µs, 1.50 times (1.40–1.60) what shm:spsc took in the same \
                      rounds: shared memory is 1.5 times as fast";
        assert_eq!(verdict.figures, [figure]);
        assert_eq!(verdict.says, "Yes, in everything measured here: 1.50 times as fast.");
    }

    #[test]
    fn figures_that_contradict_a_claim_are_said_as_they_are() {
        let rows = [latency("mq", "block", 20_000.0), latency("shm:spsc", "block", 40_000.0)];
        assert!(faster(&rows).says.starts_with("No"));
        assert_eq!(compared(0.5), "message passing is 2.0 times as fast");
        assert_eq!(compared(1.05), "the same");
    }

    /// Without delay an operation takes 1 us; two delays more with one.
    fn delayed(transport: &'static str, in_flight: Option<u64>) -> [Row; 3] {
        [0, 10_000, 1_000_000].map(|delay_ns| Row {
            transport: transport.into(),
            in_flight,
            delay_ns: Some(delay_ns),
            operations_per_second: Some(in_flight.unwrap_or(1) as f64 * 1e9 / (1_000 + 2 * delay_ns) as f64),
            ..Row::default()
        })
    }

    #[test]
    fn how_many_are_under_way_decides_what_is_left() {
        let (alone, locked) = (delayed("sysv", Some(1)), delayed("shm:mutex", None));
        let (many, memory) = (delayed("sysv", Some(16)), delayed("shm:spsc", Some(16)));
        let verdict = tolerant(&[&alone[..], &many, &locked, &memory].concat());
        let says = "Yes, of who doesn't wait for each answer: with 1.0 ms more a hop, sysv, 16 in flight do 16 times \
                    as many a second as updates under a lock. One request at a time: 1.00 times. In shared \
                    memory shm:spsc, 16 in flight do 1.00 times as many as those: what decides is how many are under \
                    way, not what carries them.";
        assert_eq!(verdict.says, says);
        // The memory's law takes its round trips one at a time.
        assert_eq!(verdict.figures.len(), 3);
        assert!(verdict.figures[0].contains("take 2.00 delays"), "{}", verdict.figures[0]);
        let verdict = tolerant(&[&alone[..], &locked].concat());
        assert!(verdict.says.starts_with("No: with 1.0 ms more a hop, sysv, 1 in flight do 1.00 times"));
        for lacking in [&many[..], &[&alone[..], &many].concat(), &[&many[..], &locked].concat()] {
            assert!(tolerant(lacking).says.contains("hasn't measured enough"), "{}", tolerant(lacking).says);
        }
    }

    #[test]
    fn a_peer_that_is_faster_is_named() {
        let peer = |transport, ours_ratio| Row {
            ours_ratio: Some(ours_ratio),
            ours: Some("shm:spsc".into()),
            ..latency(transport, "spin", 100.0)
        };
        let verdict = peers(&[peer("peer:a", 2.0), peer("in-process:b", 0.5)]);
        assert_eq!(verdict.says, "Ours is 2.00 to 2.0 times as fast as each of them.");
        let verdict = peers(&[peer("peer:a", 2.0), peer("peer:b", 0.5)]);
        assert!(verdict.says.contains("it loses in latency peer:b, 8 bytes, spin"), "{}", verdict.says);
        assert_eq!(verdict.figures.len(), 2);
        let verdict = peers(&[peer("peer:a", 2.0), peer("peer:b", 0.95)]);
        assert!(!verdict.says.contains("loses"), "{}", verdict.says);
        assert!(verdict.says.ends_with("alike, within a tenth, in latency peer:b, 8 bytes, spin."));
    }

    #[test]
    fn what_was_not_measured_is_said() {
        let verdicts = of(&[]);
        assert!(verdicts.iter().all(|verdict| verdict.says.contains("wasn't measured")));
        let claims: std::collections::BTreeSet<_> = verdicts.iter().map(|verdict| &verdict.claim).collect();
        assert_eq!(claims.len(), verdicts.len(), "each claim is judged once");
    }
}
