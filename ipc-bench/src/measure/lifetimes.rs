//! What channels cost from their making to their last message, for ever more messages: where what one
//! saves in messages has made up for what its set-up took, that is seen here, not calculated.

use super::{
    experiment::{Extent, Pace, measure_together},
    plan::Contender,
    run::Run,
    survey::{Step, Survey},
    table::Table,
};
use crate::{
    machine::Machine,
    record::{Life, Row},
    rig::team::Rig,
    spec::{Job, LaneSpec, Shape, TransportId, Waiting},
    stats::{median, quartiles},
    trouble::Trouble,
};
use std::cell::RefCell;

/// How many messages a channel carries in its life.
const MESSAGES: [u64; 7] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000];

/// Those whose lives can be compared: each has one sender and one receiver.
const TRANSPORTS: [TransportId; 5] =
    [TransportId::Mq, TransportId::Sysv, TransportId::Unix, TransportId::ShmSpsc, TransportId::ShmMpmc];

/// What is to be measured.
#[derive(Debug)]
pub(crate) struct Lifetimes {
    transports: Vec<TransportId>,
    pace: Pace,
    /// How many messages there are at most, and how long a life may take at most: longer ones are left
    /// out.
    most: u64,
    longest_ns: f64,
    /// How long the last life of each took, and with how many messages.
    last: RefCell<Vec<(TransportId, u64, f64)>>,
}

impl Lifetimes {
    /// Its part of a run of everything.
    pub(crate) fn of(extent: Extent) -> Self {
        let (most, longest_ns) = match extent {
            Extent::Smoke => (100, 20e6),
            Extent::Quick => (1_000_000, 0.15e9),
            Extent::Full => (1_000_000, 2e9),
        };
        let transports = TRANSPORTS.into();
        Self { transports, pace: extent.pace(), most, longest_ns, last: RefCell::default() }
    }

    /// Of those that are among these.
    pub(crate) fn only(self, named: &[TransportId]) -> Self {
        let transports = self.transports.iter().copied().filter(|one| named.contains(one)).collect();
        Self { transports, ..self }
    }

    /// Those whose lives aren't expected to be too long, by the one before.
    fn short_enough(&self, messages: u64) -> Vec<TransportId> {
        let last = self.last.borrow();
        let expected_ns = |transport| {
            let its = last.iter().rev().find(|(other, ..)| *other == transport);
            its.map_or(0.0, |&(_, before, ns)| ns * (messages / before) as f64)
        };
        let is_short = |transport: &TransportId| expected_ns(*transport) <= self.longest_ns;
        self.transports.iter().copied().filter(is_short).collect()
    }

    /// All of them in the same rounds.
    fn measure(&self, messages: u64, rig: &mut Rig, machine: &Machine) -> Result<Vec<Row>, Trouble> {
        let transports = self.short_enough(messages);
        if transports.is_empty() {
            return Ok(Vec::new());
        }
        let contender = |&transport| {
            let jobs = [Job::Live { messages }; 2];
            let Contender { lane, jobs } = Contender::new(transport, Waiting::Block, jobs);
            Contender { lane: LaneSpec { shape: Shape::Lives, ..lane }, jobs }
        };
        let all = [Contender::floor()].into_iter().chain(transports.iter().map(contender)).collect();
        // They are alike: none is the subject of the others.
        let pace = Pace { opponent_ns: self.pace.subject_ns, ..self.pace };
        let series = measure_together(rig, all, pace, machine)?;
        let rows = transports.iter().enumerate().map(|(index, &transport)| {
            let times_ns = || series.rounds.iter().map(|round| Run::each_ns(&round.measured[index]));
            let total_ns = median(times_ns()).unwrap_or(f64::NAN);
            self.last.borrow_mut().push((transport, messages, total_ns));
            Row {
                experiment: "setup".into(),
                transport: transport.name().into(),
                wait: Some(Waiting::Block.name().into()),
                message_len_bytes: 8,
                operation: Some("whole life".into()),
                p50_ns: Some(total_ns),
                floor_ns: median(series.rounds.iter().map(|round| round.floor_ns)),
                clock_ns: Some(machine.clock_cost_ns()),
                senders: 1,
                receivers: 1,
                batch: 1,
                rounds: series.rounds.len(),
                repeats: series.repeats,
                life: Some(Life { messages, quartiles_ns: quartiles(times_ns()) }),
                ..Row::default()
            }
        });
        Ok(rows.collect())
    }
}

impl Survey for Lifetimes {
    fn name(&self) -> &'static str {
        "setup"
    }

    fn heading(&self) -> String {
        "setup: whole lives of channels: made, opened at both ends, so many messages of 8 bytes one way"
            .into()
    }

    fn steps(&self) -> Vec<Step<'_>> {
        let step = |messages| Step {
            label: format!("whole lives, {messages} messages"),
            sides: [1, 1],
            measure: Box::new(move |rig: &mut Rig, machine: &Machine| self.measure(messages, rig, machine)),
        };
        let all = MESSAGES.into_iter().filter(|&messages| messages <= self.most);
        if self.transports.is_empty() { Vec::new() } else { all.map(step).collect() }
    }

    fn left_out(&self) -> Vec<String> {
        Vec::new()
    }

    fn text(&self, rows: &[Row]) -> String {
        let lives = || rows.iter().filter_map(|row| Some((row, row.life.as_ref()?.messages)));
        let counts: Vec<u64> =
            MESSAGES.into_iter().filter(|&count| lives().any(|(_, its)| its == count)).collect();
        if counts.is_empty() {
            return String::new();
        }
        let mut table = Table::new();
        table.column("messages", counts.iter().map(|count| Some(count.to_string())));
        for transport in &self.transports {
            let name = transport.traits().name;
            let of = |count: u64| {
                let row = lives().find(|(row, its)| row.transport == name && *its == count)?.0;
                Some(format!("{:.1}", row.p50_ns? / 1e3))
            };
            table.column(name, counts.iter().map(|&count| of(count)));
        }
        let mut text = format!("\nwait: block\n{}\n{LEGEND}", table.text());
        if lives().count() < self.steps().len() * self.transports.len() {
            text += &format!(
                "left out  lives that would have taken longer than {:.2} s\n",
                self.longest_ns / 1e9
            );
        }
        text
    }
}

const LEGEND: &str = "\
us        from before the channel is made to after its last message was received, the median of the
          rounds; shared memory with 1 MiB of room, the others with their defaults
";

#[cfg(test)]
mod tests {
    use super::{Extent, Life, Lifetimes, MESSAGES, Row, Survey, TransportId};

    #[test]
    fn lives_that_would_take_too_long_are_left_out_and_said_to_be() {
        let lives = Lifetimes { longest_ns: 1e6, ..Lifetimes::of(Extent::Full) }.only(&[
            TransportId::Mq,
            TransportId::ShmSpsc,
            TransportId::RawMq,
        ]);
        assert_eq!(lives.steps().len(), MESSAGES.len());
        assert_eq!(lives.short_enough(1), [TransportId::Mq, TransportId::ShmSpsc]);
        lives.last.borrow_mut().extend([
            (TransportId::Mq, 10, 9e5),
            (TransportId::Mq, 100, 2e5),
            (TransportId::ShmSpsc, 100, 1e5),
        ]);
        assert_eq!(lives.short_enough(1_000), [TransportId::ShmSpsc]);
        assert!(lives.short_enough(10_000).is_empty());
        let row = |transport: TransportId, messages, ns| Row {
            transport: transport.name().into(),
            p50_ns: Some(ns),
            life: Some(Life { messages, quartiles_ns: None }),
            ..Row::default()
        };
        let rows = [
            row(TransportId::Mq, 100, 2e5),
            row(TransportId::ShmSpsc, 100, 1e5),
            row(TransportId::ShmSpsc, 1_000, 7e5),
        ];
        let text = lives.text(&rows);
        for line in ["\n100      200.0    100.0\n", "\n1000         -    700.0\n"] {
            assert!(text.contains(line), "no {line} in {text}");
        }
        assert!(text.contains("longer than 0.00 s"), "{text}");
        let lives = Lifetimes { most: 100, ..lives };
        let of = |transport| [1, 10, 100].map(|messages| row(transport, messages, 1e5));
        let all = [of(TransportId::Mq), of(TransportId::ShmSpsc)].concat();
        assert!(!lives.text(&all).contains("longer than"), "{}", lives.text(&all));
        assert!(lives.only(&[TransportId::RawMq]).steps().is_empty());
    }
}
