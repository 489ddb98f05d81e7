//! `ipc-bench load`: latency against rate. Messages come at a fixed rate, whether or not those
//! before have arrived, and each is timed one way from when it was due; then at a higher rate,
//! until the channel doesn't keep up at two in a row.

mod plan;

pub(crate) use plan::{Asked, Load};

use super::{
    figures::SHARES,
    plan::Contender,
    report::micros,
    rounds::{Course, interleave},
    survey::{Step, Survey},
    table::Table,
};
use crate::{
    machine::Machine,
    record::{self, Row, per_second, size},
    rig::team::{Rig, Team},
    spec::{Job, LaneSpec, Outcome, Waiting},
    stats::{histogram, median, median_ns, recorded},
    trouble::Trouble,
};
use hdrhistogram::Histogram;
use plan::Pace;

/// How much of a rate has to come in one round at least.
const KEEPS_UP: f64 = 0.95;

/// How many messages the slowest of a thousand can be told of.
const ENOUGH_FOR_P999: u64 = 1000;

/// The most messages of a run: their times are 32 MiB then.
const MOST_MESSAGES: u64 = 4 << 20;
const FEWEST_MESSAGES: u64 = 16;

impl Survey for Load {
    fn name(&self) -> &'static str {
        "load"
    }

    fn heading(&self) -> String {
        "load: messages at fixed rates, each timed one way, from when it was due to when it was read".into()
    }

    fn steps(&self) -> Vec<Step<'_>> {
        let step = |lane: LaneSpec| Step {
            label: format!("{}, {} bytes, {}", lane.transport, lane.message_len_bytes, lane.waiting.name()),
            sides: [1, 1],
            measure: Box::new(move |rig, machine| self.curve(&lane, rig, machine)),
        };
        self.lanes().into_iter().filter_map(Result::ok).map(step).collect()
    }

    fn left_out(&self) -> Vec<String> {
        self.lanes().into_iter().filter_map(Result::err).collect()
    }

    fn text(&self, rows: &[Row]) -> String {
        let mut text = String::new();
        for waiting in Waiting::ALL {
            let its: Vec<&Row> =
                rows.iter().filter(|row| row.wait.as_deref() == Some(waiting.name())).collect();
            if !its.is_empty() {
                text += &format!("\nwait: {}\n{}", waiting.name(), table(&its));
            }
        }
        text + "\nasked      messages per second that were due\n\
                came       messages per second that were received, the median of the rounds\n\
                saturated  less than 95 % of what was asked for came in every round\n\
                p99.9      of a thousand messages or more\n"
    }
}

fn table(rows: &[&Row]) -> String {
    let mut table = Table::new();
    let load = |row: &Row| row.load.clone();
    table.column("transport", rows.iter().map(|row| Some(row.transport.to_string())));
    table.column("bytes", rows.iter().map(|row| Some(size(row.message_len_bytes))));
    table.column("asked", rows.iter().map(|row| load(row).map(|load| per_second(load.asked_per_second))));
    table.column("came", rows.iter().map(|row| row.messages_per_second.map(came)));
    table.column("p50 us", rows.iter().map(|row| micros(row.p50_ns, 2)));
    let of = |ns: Option<u64>| micros(ns.map(|ns| ns as f64), 1);
    table.column("p99 us", rows.iter().map(|row| of(row.p99_ns)));
    table.column("p99.9 us", rows.iter().map(|row| of(row.p999_ns)));
    table.column("max us", rows.iter().map(|row| of(row.max_ns)));
    let saturated = |row: &&Row| {
        load(row).map(|load| if load.is_saturated { "saturated" } else { "" }).map(str::to_owned)
    };
    table.column("", rows.iter().map(saturated));
    table.text()
}

/// Four digits at most: no rate is known better.
fn came(rate: f64) -> String {
    match rate {
        _ if rate >= 1e6 => format!("{:.2}M", rate / 1e6),
        _ if rate >= 1e3 => format!("{:.1}K", rate / 1e3),
        _ => format!("{rate:.0}"),
    }
}

impl Load {
    /// One rate after the other, up to the second in a row at which it doesn't keep up.
    fn curve(&self, lane: &LaneSpec, rig: &mut Rig, machine: &Machine) -> Result<Vec<Row>, Trouble> {
        let floor = Contender::floor();
        let lanes = [floor.lane.clone(), lane.clone()];
        let tagged =
            lanes.into_iter().enumerate().map(|(tag, lane)| LaneSpec { tag: tag.to_string(), ..lane });
        let team = rig.start(tagged.collect())?;
        let mut running = Running { team, floor, pace: self.pace, step_ns: machine.clock_step_ns(), rate: 0 };
        // Everything is warmed up before it counts.
        running.rate = self.rates.first().copied().unwrap_or(1);
        running.floor_ns()?;
        running.measure()?;
        let mut rows = Vec::new();
        for &rate in &self.rates {
            running.rate = rate;
            let row = running.row(lane, machine.clock_cost_ns())?;
            rows.push(row);
            if is_over(&rows) {
                break;
            }
        }
        Ok(rows)
    }
}

/// Whether the channel is saturated for good: once may be somebody else's doing.
fn is_over(rows: &[Row]) -> bool {
    let is_saturated = |row: &Row| row.load.as_ref().is_some_and(|load| load.is_saturated);
    matches!(rows, [.., last, latest] if is_saturated(last) && is_saturated(latest))
}

/// Whether less came in every round than has to.
fn is_saturated(asked_per_second: u64, came: impl Iterator<Item = f64>) -> bool {
    came.fold(0.0, f64::max) < KEEPS_UP * asked_per_second as f64
}

/// A channel that is being loaded, beside the floor.
struct Running<'a> {
    team: Team<'a>,
    floor: Contender,
    pace: Pace,
    step_ns: f64,
    /// Messages per second.
    rate: u64,
}

/// A run at one rate.
#[derive(Debug)]
struct Run {
    messages_per_second: f64,
    times_ns: Histogram<u64>,
}

impl Run {
    /// From what both processes saw.
    ///
    /// # Errors
    ///
    /// If what was received isn't what was sent.
    fn new(near: &[Outcome], far: &[Outcome], interval_ps: u64) -> Result<Self, Trouble> {
        let ([sender], [receiver]) = (near, far) else {
            return Err(Trouble::Failed("other processes have answered than one and one".into()));
        };
        if (sender.messages, sender.sum) != (receiver.messages, receiver.sum) {
            return Err(Trouble::Failed(format!(
                "{} messages were sent, and {} received, or others than those",
                sender.messages, receiver.messages
            )));
        }
        let mut times_ns = histogram();
        for &(value_ns, count) in &receiver.latencies_ns {
            times_ns.record_n(value_ns, count)?;
        }
        // From when the first one was due to when the last one's interval was over.
        let took_ns = receiver.ended_ns.saturating_sub(sender.started_ns) as f64 + interval_ps as f64 / 1e3;
        Ok(Self { messages_per_second: receiver.messages as f64 * 1e9 / took_ns.max(1.0), times_ns })
    }
}

impl Course for Running<'_> {
    type Measured = Run;
    type Error = Trouble;

    fn floor_ns(&mut self) -> Result<f64, Trouble> {
        let outcomes = self.team.run(0, self.floor.jobs, self.pace.probe)?;
        let times = outcomes.0[0].first().and_then(|near| median_ns(&near.latencies_ns, self.step_ns));
        times.ok_or_else(|| Trouble::Failed("the floor has no time".into()))
    }

    fn measure(&mut self) -> Result<Run, Trouble> {
        let interval_ps = 1_000_000_000_000 / self.rate;
        let count = (self.rate * self.pace.run_ms / 1000).clamp(FEWEST_MESSAGES, MOST_MESSAGES);
        let outcomes = self.team.run(1, [Job::SendOnTime { interval_ps }, Job::Meter], count)?;
        let [near, far] = &outcomes.0;
        Run::new(near, far, interval_ps)
    }
}

impl Running<'_> {
    fn row(&mut self, lane: &LaneSpec, clock_ns: f64) -> Result<Row, Trouble> {
        let (rounds, spare) = (self.pace.rounds, self.pace.spare_rounds);
        let series = interleave(self, rounds, spare)?;
        let mut all_ns = histogram();
        for round in &series.rounds {
            all_ns.add(&round.measured.times_ns).expect("a histogram that grows takes any other");
        }
        let rates = || series.rounds.iter().map(|round| round.measured.messages_per_second);
        let came = median(rates());
        let load = record::Load {
            asked_per_second: self.rate,
            is_saturated: is_saturated(self.rate, rates()),
            messages: all_ns.len(),
        };
        Ok(Row {
            experiment: "load".into(),
            transport: lane.transport.name().into(),
            wait: Some(lane.waiting.name().into()),
            message_len_bytes: lane.message_len_bytes,
            p50_ns: median_ns(&recorded(&all_ns), self.step_ns),
            p99_ns: Some(all_ns.value_at_quantile(0.99)),
            p999_ns: (all_ns.len() >= ENOUGH_FOR_P999).then(|| all_ns.value_at_quantile(0.999)),
            max_ns: Some(all_ns.max()),
            floor_ns: median(series.rounds.iter().map(|round| round.floor_ns)),
            messages_per_second: came,
            bytes_per_second: came.map(|rate| rate * lane.message_len_bytes as f64),
            senders: 1,
            receivers: 1,
            batch: 1,
            clock_ns: Some(clock_ns),
            rounds: series.rounds.len(),
            repeats: series.repeats,
            distribution: SHARES.map(|share| (share, all_ns.value_at_quantile(share))).into(),
            load: Some(load),
            ..Row::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Load, Run, came, is_over, is_saturated};
    use crate::{
        measure::{experiment::Extent, survey::Survey},
        record::{self, Row},
        spec::Outcome,
    };

    fn outcomes(received: u64) -> [Vec<Outcome>; 2] {
        let sender = Outcome { started_ns: 1_000, messages: 100, sum: 7, ..Outcome::default() };
        let latencies_ns = vec![(50, received)];
        let receiver =
            Outcome { ended_ns: 200_900, messages: received, sum: 7, latencies_ns, ..Outcome::default() };
        [vec![sender], vec![receiver]]
    }

    #[test]
    fn what_came_is_counted_until_the_last_interval_is_over() {
        let [near, far] = outcomes(100);
        // 199,900 ns from when the first was due to when the last was read, and an interval.
        let run = Run::new(&near, &far, 2_000_000).unwrap();
        assert!((run.messages_per_second - 100.0 * 1e9 / 201_900.0).abs() < 1e-6);
        assert_eq!((run.times_ns.len(), run.times_ns.max()), (100, 50));
    }

    #[test]
    fn a_message_that_is_lost_is_no_figure() {
        let [near, far] = outcomes(99);
        let error = format!("{:?}", Run::new(&near, &far, 2_000_000).unwrap_err());
        assert!(error.contains("100 messages were sent, and 99 received"), "{error}");
    }

    #[test]
    fn one_round_that_keeps_up_is_enough_and_a_rate_alone_is_not() {
        assert!(!is_saturated(1000, [10.0, 951.0, 20.0].into_iter()));
        assert!(is_saturated(1000, [940.0, 949.0].into_iter()));
        let rows = |saturated: &[bool]| -> Vec<Row> {
            let load = |&is_saturated| record::Load { asked_per_second: 1000, is_saturated, messages: 40 };
            saturated.iter().map(|one| Row { load: Some(load(one)), ..Row::default() }).collect()
        };
        assert!(is_over(&rows(&[false, true, true])));
        assert!(!is_over(&rows(&[true, false, true])) && !is_over(&rows(&[true])));
    }

    #[test]
    fn the_table_marks_what_is_saturated_and_fits_100_columns() {
        let row = |is_saturated| Row {
            transport: "shm:broadcast-reliable".into(),
            wait: Some("adaptive".into()),
            message_len_bytes: 64 << 10,
            p50_ns: Some(999_999_999.0),
            p99_ns: Some(999_999_999),
            p999_ns: Some(999_999_999),
            max_ns: Some(9_999_999_999),
            messages_per_second: Some(123.456e6),
            load: Some(record::Load { asked_per_second: 200_000_000, is_saturated, messages: 4 << 20 }),
            ..Row::default()
        };
        let text = Load::of(Extent::Smoke).text(&[row(false), row(true)]);
        assert_eq!(text.matches(" saturated\n").count(), 1, "one of both rows: {text}");
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        assert_eq!([came(950.4), came(95_040.0), came(9.504e6)], ["950", "95.0K", "9.50M"]);
    }
}
