//! The page of a run: one file with everything in it, no script, readable on paper and on a
//! phone, light and dark. What it says in words follows from the figures beside it.
//!
//! `verdicts` draws the conclusions, `steady` says which ratios hold, `plots` makes the pictures (of
//! load in `load`), this file puts them together.

mod costs;
mod idle;
mod load;
mod plots;
mod scale;
mod set_up;
mod steady;
mod verdicts;

use crate::{
    record::{Repeats, Row, Run},
    trouble::{code, print},
};
use plots::Plot;
use std::{fs, path::Path, process::ExitCode};
use verdicts::Verdict;

const COLOURS: &str = include_str!("colours.css");
const STYLE: &str = include_str!("style.css");

/// Makes `out/index.html` of the run in a file, and of each picture a file beside it, and says on
/// the terminal what it comes to.
pub(crate) fn make(run: &Path, out: &Path) -> ExitCode {
    match try_make(run, out) {
        Ok(summary) => code(print(summary.trim_end()).map(|()| ExitCode::SUCCESS)),
        Err(what) => {
            eprintln!("ipc-bench: {what}");
            ExitCode::FAILURE
        }
    }
}

fn try_make(path: &Path, out: &Path) -> Result<String, String> {
    let run = Run::read(path)?;
    let verdicts = verdicts::of(&run.rows);
    let pictures = pictures(&run.rows)?;
    let page = html(&run, &verdicts, &pictures)?;
    let file = out.join("index.html");
    let cant = |file: &Path, error| {
        format!("{} can't be written: {error}; give another folder with --out", file.display())
    };
    fs::create_dir_all(out).and_then(|()| fs::write(&file, page)).map_err(|error| cant(&file, error))?;
    for picture in &pictures {
        let file = out.join(picture.file());
        fs::write(&file, picture.alone(COLOURS)).map_err(|error| cant(&file, error))?;
    }
    Ok(summary(&run, &verdicts, &file))
}

/// All for which there are figures.
fn pictures(rows: &[Row]) -> Result<Vec<Plot>, String> {
    let mut pictures = plots::of(rows)?;
    pictures.extend(costs::crossover(rows)?);
    pictures.extend(load::plots(rows)?);
    Ok(pictures)
}

/// For the terminal.
fn summary(run: &Run, verdicts: &[Verdict], file: &Path) -> String {
    let mut text = String::new();
    for verdict in verdicts {
        text.push_str(&format!("{}\n    {}\n", verdict.claim, verdict.says));
        verdict.figures.iter().for_each(|figure| text.push_str(&format!("    - {figure}\n")));
    }
    text += &steady::summary(&run.rows);
    for caution in cautions(run) {
        text.push_str(&format!("CAUTION {caution}\n"));
    }
    text + &format!("page: {}\n", file.display())
}

/// What the reader has to know before believing anything.
fn cautions(run: &Run) -> Vec<String> {
    let mut cautions: Vec<String> = run.warnings().iter().map(|warning| sentence(warning)).collect();
    if !run.is_complete {
        cautions.push("The run was interrupted: this is what was measured until then.".into());
    }
    cautions.extend(run.failures.iter().map(|one| format!("Failed: {}: {}", one.what, one.why)));
    let repeats: Repeats = run.rows.iter().map(|row| row.repeats).sum();
    if repeats.unsettled > 0 {
        let rounds: usize = run.rows.iter().map(|row| row.rounds).sum();
        cautions.push(format!(
            "{} of {rounds} rounds count although they are in doubt: there were no more to spare. The method says \
             when that is.",
            repeats.unsettled
        ));
    }
    cautions
}

/// With a capital letter and a full stop.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().into_iter().flat_map(char::to_uppercase);
    let stop = if text.ends_with('.') { "" } else { "." };
    first.chain(letters).collect::<String>() + stop
}

fn html(run: &Run, verdicts: &[Verdict], pictures: &[Plot]) -> Result<String, String> {
    let mut body = String::from("<h1>What interprocess communication costs</h1>\n");
    body += &paragraph(
        "Two models: message passing, where the kernel keeps a queue, and shared memory, where \
         processes map the same pages. Measured on one machine, by ratios within the same moment.",
    );
    let cautions = cautions(run);
    if !cautions.is_empty() {
        body += "<h2>What makes these figures doubtful</h2>\n";
        body += &list("caution", &cautions);
    }
    body += "<h2>Verdicts</h2>\n";
    for verdict in verdicts {
        body += &format!(
            "<section><h3>{}</h3>\n<p class=\"verdict\">{}</p>\n",
            escape(&verdict.claim),
            prose(&verdict.says)
        );
        body += &list("figures", &verdict.figures);
        body += "</section>\n";
    }
    body += &steady::section(&run.rows);
    for Plot { title, explains, svg } in pictures {
        body += &format!(
            "<figure><figcaption><h2>{}</h2>{}</figcaption>\n{svg}</figure>\n",
            escape(title),
            escape(explains)
        );
    }
    body += &costs::split(&run.rows);
    body += &costs::safety(&run.rows);
    body += &scale::section(&run.rows);
    body += &idle::section(&run.rows);
    body += "<h2>All measurements</h2>\n";
    body += &table(&run.rows);
    if !run.head.left_out.is_empty() {
        body += "<h2>What was left out</h2>\n";
        body += &list("method", &run.head.left_out);
    }
    body += "<h2>The method</h2>\n";
    body += &list("method", &METHOD.map(str::to_owned));
    body += "<h2>The machine</h2>\n";
    body += &list("machine", &run.head.machine);
    body += &paragraph(&format!(
        "Version {}, {} run, {}.",
        run.head.version,
        run.head.extent,
        date(run.head.started_unix_s)
    ));
    body += "<details><summary>Raw data, a JSON object a line</summary><pre>";
    for row in &run.rows {
        let line = serde_json::to_string(row).map_err(|error| error.to_string())?;
        body += &(escape(&line) + "\n");
    }
    body += "</pre></details>\n";
    Ok(format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>What interprocess communication costs</title>\n<style>\n{COLOURS}{STYLE}</style>\n</head>\n\
         <body>\n{body}</body>\n</html>\n"
    ))
}

const METHOD: [&str; 8] = [
    "Two processes, each pinned to a processor of its own, take part in each measurement; nothing else of the benchmark runs meanwhile.",
    "Every block stands between two probes of the physical floor, a bare cache line going back and forth between the same processors. A round is in doubt, and is measured again as long as there are some to spare, if the floor moved by more than a quarter during it, if a process that polls was without its processor for more than a twentieth of the time, or if something took more than twice or less than half as long as the median of the rounds, and five times as far from it as half of them are, both by itself and by its ratio to the floor: a stall can last for a whole round and be over when the floor is probed.",
    "The probe polls without a pause: that is the fewest instructions, and what every ratio here is to. What is measured beside it pauses after each look, and some processors hand a line over sooner to who does. So the same probe with that pause is among the round trips, as floor:cache-line-paused: where its ratio is below 1, that much below the floor is possible, and ratios to the floor are to be divided by it to be to the least that the hardware does.",
    "Ratios are taken within a round, where both sides had the machine in the same state; the median of the rounds counts, and its quartiles are the spread. So are those of the verdicts on round trips and on set-up: shm:spsc takes part in the rounds of each channel of the kernel's, and whole lives of channels are in rounds together. What is of different moments says so; what is left under a delay is of different moments, too, but there the delay is what takes the time.",
    "Payloads are written and read, and each message is checked; a message that is missing or out of order ends the measurement.",
    "A round trip takes two channels, one there and one back: a channel has one direction in either model.",
    "Under load, messages are sent by a schedule that waits for nobody, and each is timed from when it was due: a stall counts for all that it holds up.",
    "How a process waits is compared with its like only: who polls with who polls, who sleeps with who sleeps.",
];

/// Each measurement in a line.
fn table(rows: &[Row]) -> String {
    let lines = rows.iter().map(|row| {
        let ratio = row.judged().map(|(ratio, _)| format!("{ratio:.2}"));
        let spread = row.ratio_quartiles.map(|[low, high]| format!("{low:.2}–{high:.2}"));
        vec![
            Some(row.label()),
            row.p50_ns.map(time),
            row.p99_ns.map(|ns| time(ns as f64)),
            row.messages_per_second.map(|per_second| came(per_second, row.lost_share)),
            ratio,
            spread,
            row.floor_ns.map(time),
        ]
    });
    grid(&["measurement", "p50", "p99", "messages/s", "ratio", "spread", "floor"], lines)
}

/// Of what may be lost, both what was sent and how much of it nobody got.
fn came(per_second: f64, lost_share: Option<f64>) -> String {
    let rate = rate(per_second);
    match lost_share {
        Some(lost) => format!("{rate}, {:.0} % lost", lost * 100.0),
        None => rate,
    }
}

/// A table; what isn't known is empty.
fn grid(head: &[&str], lines: impl Iterator<Item = Vec<Option<String>>>) -> String {
    let head: String = head.iter().map(|title| format!("<th>{}</th>", escape(title))).collect();
    let mut text = format!("<div class=\"wide\"><table><thead><tr>{head}</tr></thead><tbody>\n");
    for line in lines {
        text += "<tr>";
        for cell in line {
            text += &format!("<td>{}</td>", escape(cell.as_deref().unwrap_or("")));
        }
        text += "</tr>\n";
    }
    text + "</tbody></table></div>\n"
}

fn paragraph(text: &str) -> String {
    format!("<p>{}</p>\n", prose(text))
}

fn list(class: &str, items: &[String]) -> String {
    if items.is_empty() {
        return String::new();
    }
    let items: String = items.iter().map(|item| format!("<li>{}</li>\n", prose(item))).collect();
    format!("<ul class=\"{class}\">\n{items}</ul>\n")
}

/// Text in HTML, with what stands between backticks as code.
fn prose(text: &str) -> String {
    let mut html = String::new();
    let mut parts = text.split('`');
    while let Some(plain) = parts.next() {
        html += &escape(plain);
        if let Some(code) = parts.next() {
            html += &format!("<code>{}</code>", escape(code));
        }
    }
    html
}

/// Text that is nothing but text in HTML.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// Nanoseconds, in a unit that suits them.
fn time(ns: f64) -> String {
    match ns {
        _ if ns < 1e3 => format!("{ns:.0} ns"),
        _ if ns < 1e6 => format!("{:.1} µs", ns / 1e3),
        _ => format!("{:.1} ms", ns / 1e6),
    }
}

/// Messages a second.
fn rate(per_second: f64) -> String {
    match per_second {
        _ if per_second < 1e3 => format!("{per_second:.0}"),
        _ if per_second < 1e6 => format!("{:.0} k", per_second / 1e3),
        _ => format!("{:.1} M", per_second / 1e6),
    }
}

/// The day, by the calendar of ISO 8601: H. Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms", `civil_from_days`.
fn date(unix_s: u64) -> String {
    let days = (unix_s / 86_400) as i64 + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::{COLOURS, date, escape, html, pictures, prose, rate, summary, time, verdicts};
    use crate::record::{Failure, Row, Run};
    use rstest::rstest;
    use std::path::Path;

    fn latency(transport: &'static str, wait: &'static str, p50_ns: f64) -> Row {
        Row {
            experiment: "latency".into(),
            transport: transport.into(),
            wait: Some(wait.into()),
            message_len_bytes: 8,
            p50_ns: Some(p50_ns),
            floor_ns: Some(100.0),
            floor_ratio: Some(p50_ns / 100.0),
            distribution: vec![(0.5, p50_ns as u64), (0.99, 3 * p50_ns as u64)],
            ..Row::default()
        }
    }

    fn run() -> Run {
        let rows = vec![latency("mq", "block", 45_000.0), latency("shm:spsc", "block", 40_000.0)];
        Run { rows, is_complete: true, ..Run::default() }
    }

    #[test]
    fn a_page_is_whole_without_anything_else_and_has_no_script() {
        let run = run();
        let page = html(&run, &verdicts::of(&run.rows), &pictures(&run.rows).unwrap()).unwrap();
        assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n"));
        assert!(page.contains("<svg") && page.contains("&quot;transport&quot;:&quot;mq&quot;"));
        for foreign in ["<script", "http://", "https://", "src=", "@import"] {
            let found = page.replace("http://www.w3.org/", "").contains(foreign);
            assert!(!found, "{foreign}");
        }
    }

    #[test]
    fn a_picture_alone_has_its_colours_for_day_and_night() {
        let pictures = pictures(&run().rows).unwrap();
        let bars = pictures.iter().find(|picture| picture.title.contains("by length, block")).unwrap();
        assert_eq!(bars.file(), "round-trips-by-length-block.svg");
        let svg = bars.alone(COLOURS);
        assert!(svg.starts_with("<svg") && svg.contains("prefers-color-scheme: dark"), "{svg}");
        for used in ["--paper", "--ink", "--c0"] {
            assert!(svg.contains(&format!("{used}:")) && svg.contains(&format!("var({used})")), "{used}");
        }
    }

    #[test]
    fn what_went_wrong_is_said_and_nothing_of_it_is_markup() {
        let what = "<b>mq</b> & \"co\"".to_owned();
        let failures = vec![Failure { what, why: "died".into() }];
        let run = Run { failures, is_complete: false, ..run() };
        let page = html(&run, &[], &[]).unwrap();
        assert!(page.contains("Failed: &lt;b&gt;mq&lt;/b&gt; &amp; &quot;co&quot;: died"));
        assert!(page.contains("was interrupted"));
        assert!(summary(&run, &[], Path::new("x")).contains("CAUTION Failed: <b>mq</b>"));
        assert_eq!(escape("a<b"), "a&lt;b");
    }

    #[test]
    fn what_is_to_be_typed_is_code() {
        assert_eq!(prose("run `a --b` & `c`"), "run <code>a --b</code> &amp; <code>c</code>");
    }

    #[test]
    fn what_makes_figures_doubtful_stands_first_with_how_many_it_is_of() {
        let doubtful = |row: &Row| Row { warnings: vec!["8 share 2".into()], ..row.clone() };
        let mut run = run();
        run.head.warnings.push("one processor".into());
        run.rows = run.rows.iter().map(doubtful).collect();
        run.rows[1].stolen_share = Some(0.123);
        let page = html(&run, &[], &[]).unwrap();
        assert!(page.contains("<li>One processor.</li>\n<li>Of 2 measurements: 8 share 2.</li>"), "{page}");
        assert!(
            page.contains("gave up to 12 % of the processors' time to others while 1 of 2 measurements"),
            "{page}"
        );
        assert!(page.find("One processor") < page.find("<h2>Verdicts"));
        let summary = summary(&run, &[], Path::new("x"));
        assert!(
            summary.contains("CAUTION One processor.\nCAUTION Of 2 measurements: 8 share 2.\n"),
            "{summary}"
        );
    }

    #[test]
    fn what_was_left_out_is_listed() {
        let mut run = run();
        assert!(!html(&run, &[], &[]).unwrap().contains("left out"));
        run.head.left_out = vec!["latency: mq with 64K bytes: too long".into()];
        let page = html(&run, &[], &[]).unwrap();
        assert!(
            page.contains("<h2>What was left out</h2>\n<ul class=\"method\">\n<li>latency: mq with"),
            "{page}"
        );
    }

    #[test]
    fn what_was_published_and_lost_is_no_message_that_came() {
        let lossy = Row {
            experiment: "throughput".into(),
            transport: "shm:broadcast".into(),
            messages_per_second: Some(50.7e6),
            lost_share: Some(0.9604),
            ..Row::default()
        };
        let run = Run { rows: vec![lossy], ..run() };
        let page = html(&run, &[], &[]).unwrap();
        assert!(page.contains("<td>50.7 M, 96 % lost</td>"), "{page}");
    }

    #[test]
    fn a_run_of_nothing_is_a_page_as_well() {
        let page = html(&Run::default(), &verdicts::of(&[]), &[]).unwrap();
        assert!(page.contains("wasn&#39;t measured") || page.contains("wasn't measured"), "{page}");
    }

    #[rstest]
    #[case(0, "1970-01-01")]
    #[case(951_782_400, "2000-02-29")]
    #[case(1_795_737_600, "2026-11-27")]
    fn dates_are_of_the_calendar(#[case] unix_s: u64, #[case] expected: &str) {
        assert_eq!(date(unix_s), expected);
    }

    #[test]
    fn figures_have_units_that_suit_them() {
        assert_eq!([time(144.2), time(44_600.0), time(2.5e6)], ["144 ns", "44.6 µs", "2.5 ms"]);
        assert_eq!([rate(10.0), rate(430_000.0), rate(65.2e6)], ["10", "430 k", "65.2 M"]);
    }
}
