//! What the figures are made of: set-up and messages together, and what of a message is waking,
//! copying, and the rest.

use super::{
    grid,
    plots::{Plot, Series, lines},
    rate, time,
};
use crate::record::Row;
use std::collections::BTreeMap;

/// A channel's way from nothing to the last of some messages of 8 bytes.
struct Course {
    transport: String,
    /// Made, opened at both ends, the first message sent and received.
    set_up_ns: f64,
    message_ns: f64,
}

impl Course {
    fn each_ns(&self, messages: f64) -> f64 {
        (self.set_up_ns + (messages - 1.0) * self.message_ns) / messages
    }

    /// Up to so many messages, and what each takes then.
    fn line(&self, most: f64) -> Vec<(f64, f64)> {
        const STEPS: i32 = 60;
        let messages = (0..=STEPS).map(|step| most.powf(f64::from(step) / f64::from(STEPS)));
        messages.map(|messages| (messages, self.each_ns(messages))).collect()
    }
}

/// By transport, the messages of whole lives that were run, and how long these took.
pub(super) fn lives(rows: &[Row]) -> BTreeMap<&str, BTreeMap<u64, f64>> {
    let mut lives: BTreeMap<&str, BTreeMap<u64, f64>> = BTreeMap::new();
    for row in rows {
        if let (Some(life), Some(ns)) = (&row.life, row.p50_ns) {
            lives.entry(&row.transport).or_default().insert(life.messages, ns);
        }
    }
    lives
}

/// Of all transports of which both was measured. Who sleeps is compared, as all of them can.
fn courses(rows: &[Row]) -> Vec<Course> {
    let first = |transport: &str, operation: &str| {
        let is_meant = |row: &&Row| row.transport == transport && row.operation.as_deref() == Some(operation);
        rows.iter().find(is_meant)?.p50_ns
    };
    let is_stream = |row: &&Row| {
        row.experiment == "throughput"
            && row.message_len_bytes == 8
            && row.wait.as_deref() == Some("block")
            && (row.batch, row.senders, row.receivers) == (1, 1, 1)
            && !row.transport.starts_with("raw:")
    };
    let course = |row: &Row| {
        let transport = row.transport.to_string();
        let parts = ["create", "open+send", "open+receive"].map(|operation| first(&transport, operation));
        let set_up_ns = parts.into_iter().sum::<Option<f64>>()?;
        Some(Course { transport, set_up_ns, message_ns: 1e9 / row.messages_per_second? })
    };
    rows.iter().filter(is_stream).filter_map(course).collect()
}

/// What a message costs after so many of them, set-up included.
pub(super) fn crossover(rows: &[Row]) -> Result<Option<Plot>, String> {
    let run = lives(rows);
    let each = |(&messages, &ns): (&u64, &f64)| (messages as f64, ns / messages as f64);
    let series: Series =
        run.iter().map(|(name, times)| ((*name).to_owned(), times.iter().map(each).collect())).collect();
    let most = |course: &Course| run.get(&*course.transport)?.keys().next_back().map(|&most| most as f64);
    let calculated: Series = courses(rows)
        .iter()
        .filter_map(|course| Some((course.transport.clone(), course.line(most(course)?))))
        .collect();
    lines(
        "What a message costs, set-up included",
        "A channel is made, opened at both ends, and carries so many messages of 8 bytes one way, between ends that \
         sleep: the time of all of it, divided by the messages. Dots: run as a whole. Lines, as a check: put \
         together from what set-up and messages took each for itself. Where one channel's dots fall below \
         another's, what it saves in messages has made up for its set-up. Both axes are logarithmic.",
        ["messages", "time for each, ns"],
        &series,
        &calculated,
    )
}

/// A round trip of 8 bytes and what it is made of, for each hop.
pub(super) fn split(rows: &[Row]) -> String {
    let plain = |transport: &str, wait: &str, is_meant: &dyn Fn(usize) -> bool| {
        rows.iter()
            .filter(|row| row.experiment == "latency" && row.transport == transport)
            .filter(|row| row.wait.as_deref() == Some(wait) && row.touched == Default::default())
            .filter(|row| is_meant(row.message_len_bytes))
            .max_by_key(|row| row.message_len_bytes)
    };
    let mut transports: Vec<&str> = rows.iter().map(|row| &*row.transport).collect();
    transports.sort_unstable();
    transports.dedup();
    let lines: Vec<_> = transports
        .iter()
        .filter_map(|transport| {
            let small = |wait| plain(transport, wait, &|len_bytes| len_bytes == 8)?.p50_ns;
            let (asleep_ns, awake_ns) = (small("block")?, small("spin")?);
            let kib_ns = plain(transport, "spin", &|len_bytes| len_bytes >= 4 << 10).and_then(|row| {
                let kib = (row.message_len_bytes - 8) as f64 / 1024.0;
                Some((row.p50_ns? - awake_ns) / 2.0 / kib)
            });
            Some(vec![
                Some((*transport).to_owned()),
                Some(time(asleep_ns / 2.0)),
                Some(time((asleep_ns - awake_ns).max(0.0) / 2.0)),
                Some(time(awake_ns / 2.0)),
                kib_ns.map(|ns| time(ns.max(0.0))),
            ])
        })
        .collect();
    if lines.is_empty() {
        return String::new();
    }
    let explains = "Half a round trip of 8 bytes between ends that sleep; what of it is waking the other one, by \
                    the difference to ends that poll; and what is left, which is system calls where the kernel \
                    keeps the queue, and a cache line's way where it is shared memory. Then what each further KiB \
                    takes, which is copying.";
    let head = ["transport", "a hop", "of it waking", "the rest", "each KiB more"];
    format!("<h2>What a message is made of</h2>\n<p>{explains}</p>\n{}", grid(&head, lines.into_iter()))
}

/// What has safety, beside what does the same without.
pub(super) fn safety(rows: &[Row]) -> String {
    let lines: Vec<_> = rows
        .iter()
        .filter_map(|row| {
            let pair = row.safety.as_ref()?;
            let figure = |ns: Option<f64>, per_second: Option<f64>| {
                ns.map(time).or_else(|| per_second.map(|one| format!("{}/s", rate(one))))
            };
            Some(vec![
                Some(pair.buys.clone()),
                Some(format!("{}, {}", row.transport, row.operation.as_deref().unwrap_or_default())),
                figure(row.p50_ns, row.messages_per_second),
                Some(pair.without.clone()),
                figure(pair.without_ns, pair.without_per_second),
                Some(format!("{:.2}", pair.times)),
            ])
        })
        .collect();
    if lines.is_empty() {
        return String::new();
    }
    let explains = "No check can be turned off, so beside each thing stands the next simpler one that lacks them, \
                    with 8 bytes and ends that poll, in the same rounds. The last column is the time that it takes \
                    over the time without.";
    let head = ["what it buys", "with", "takes", "without", "takes", "times"];
    format!("<h2>What safety costs</h2>\n<p>{explains}</p>\n{}", grid(&head, lines.into_iter()))
}

#[cfg(test)]
mod tests {
    use super::{courses, crossover, safety, split};
    use crate::record::{Life, Row, Safety};

    fn operation(transport: &'static str, operation: &'static str, ns: f64) -> Row {
        let transport = transport.into();
        Row { transport, operation: Some(operation.into()), p50_ns: Some(ns), ..Row::default() }
    }

    fn channel(transport: &'static str, set_up_ns: f64, message_ns: f64) -> [Row; 4] {
        let stream = Row {
            experiment: "throughput".into(),
            transport: transport.into(),
            wait: Some("block".into()),
            message_len_bytes: 8,
            messages_per_second: Some(1e9 / message_ns),
            batch: 1,
            senders: 1,
            receivers: 1,
            ..Row::default()
        };
        let third = |name| operation(transport, name, set_up_ns / 3.0);
        [third("create"), third("open+send"), third("open+receive"), stream]
    }

    #[test]
    fn what_was_saved_makes_up_for_set_up() {
        let rows = [channel("mq", 30_000.0, 1_000.0), channel("shm:spsc", 300_000.0, 100.0)].concat();
        let [mq, spsc] = &courses(&rows)[..] else { panic!("two channels") };
        assert!(mq.each_ns(1.0) < spsc.each_ns(1.0) && mq.each_ns(1e4) > spsc.each_ns(1e4));
        assert_eq!(mq.each_ns(1.0), 30_000.0);
        assert!(crossover(&rows).unwrap().is_none(), "nothing is drawn that wasn't run");
        let life = |transport: &'static str, messages, ns| Row {
            transport: transport.into(),
            p50_ns: Some(ns),
            life: Some(Life { messages, quartiles_ns: None }),
            ..Row::default()
        };
        let run = [life("mq", 1, 30e3), life("mq", 100, 130e3), life("unix", 1, 90e3)];
        let plot = crossover(&[&rows[..], &run].concat()).unwrap().unwrap();
        assert_eq!(plot.svg.matches("<circle").count(), 3);
        let line = mq.line(100.0);
        assert_eq!((line[0], line.len()), ((1.0, 30_000.0), 61));
        assert!((line[60].0 - 100.0).abs() < 1e-9, "{line:?}");
        assert!(courses(&rows[1..]).len() == 1, "nothing is made up where nothing was measured");
    }

    #[test]
    fn what_safety_costs_stands_beside_what_it_buys() {
        let pair = Safety {
            buys: "trust".into(),
            without: "shm:spsc".into(),
            without_per_second: Some(2e6),
            times: 1.5,
            ..Safety::default()
        };
        let transport = "shm:sealed".into();
        let row = Row { transport, messages_per_second: Some(3e6), safety: Some(pair), ..Row::default() };
        let table = safety(&[row]);
        assert!(table.contains("<td>trust</td>") && table.contains("<td>3.0 M/s</td>"), "{table}");
        assert!(table.contains("<td>2.0 M/s</td>") && table.contains("<td>1.50</td>"), "{table}");
        assert!(safety(&[Row::default()]).is_empty());
    }

    #[test]
    fn a_hop_is_waking_and_the_rest() {
        let trip = |wait: &'static str, message_len_bytes, ns| Row {
            experiment: "latency".into(),
            transport: "mq".into(),
            wait: Some(wait.into()),
            message_len_bytes,
            p50_ns: Some(ns),
            ..Row::default()
        };
        let rows = [trip("block", 8, 40_000.0), trip("spin", 8, 2_000.0), trip("spin", 8 << 10, 4_046.0)];
        let table = split(&rows);
        for cell in ["20.0 µs", "19.0 µs", "1.0 µs", "128 ns"] {
            assert!(table.contains(&format!("<td>{cell}</td>")), "{cell}: {table}");
        }
        assert!(split(&rows[1..]).is_empty());
    }
}
