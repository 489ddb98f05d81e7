//! The cross-backend matrix: every scenario with the real `ipc` binary over every backend,
//! each in a folder and with names of its own, and never longer than its time limit.

mod child;
mod connected;
mod damage;
mod delivery;
mod lines;
mod refusals;
mod restarts;
mod rig;
mod room;

use crate::report::{self, Outcome};
use rig::{Backend, Rig};
use std::{
    path::Path,
    time::{Duration, Instant},
};

/// What a scenario found out: nothing, or why it failed.
type Verdict = Result<(), String>;

struct Scenario {
    name: &'static str,
    run: fn(&Rig) -> Verdict,
    /// The same where there is a connection and nothing is stored.
    connected: fn(&Rig) -> Verdict,
}

const SCENARIOS: [Scenario; 10] = [
    Scenario { name: "P1 before P2", run: delivery::sender_first, connected: connected::sender_first },
    Scenario { name: "P2 before P1", run: delivery::receiver_first, connected: delivery::receiver_first },
    Scenario { name: "many messages", run: delivery::many_messages, connected: delivery::many_messages },
    Scenario { name: "large messages", run: delivery::large_messages, connected: connected::large_messages },
    Scenario {
        name: "a stream of bytes",
        run: delivery::bytes_in_chunks,
        connected: delivery::bytes_in_chunks,
    },
    Scenario { name: "full queue", run: room::full_queue, connected: connected::full_queue },
    Scenario { name: "killed sender", run: restarts::killed_senders, connected: connected::killed_senders },
    Scenario {
        name: "killed receiver",
        run: restarts::killed_receivers,
        connected: connected::killed_receivers,
    },
    Scenario {
        name: "interrupted receiver",
        run: restarts::interrupted_receivers,
        connected: connected::interrupted_receivers,
    },
    Scenario { name: "wrong input", run: refusals::wrong_input, connected: connected::wrong_input },
];

/// For one scenario over one backend.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// How one scenario went over one backend.
struct Cell {
    verdict: Verdict,
    took: Duration,
}

/// Runs everything with this `ipc` binary.
pub(crate) fn run(ipc: &Path) -> Outcome {
    let rows: Vec<(&str, Vec<Cell>)> =
        SCENARIOS.iter().map(|scenario| (scenario.name, cells(ipc, scenario))).collect();
    let all = rows.iter().flat_map(|(_, cells)| cells);
    let failed = all.clone().filter(|cell| cell.verdict.is_err()).count() as u32;
    let passed = all.count() as u32 - failed;
    let note = format!("{} backends × {} scenarios", Backend::ALL.len(), SCENARIOS.len());
    Outcome { passed, failed, note, details: table(&rows) + &failures(&rows), ..Outcome::default() }
}

fn cells(ipc: &Path, scenario: &Scenario) -> Vec<Cell> {
    Backend::ALL.iter().map(|&backend| cell(ipc, backend, scenario)).collect()
}

fn cell(ipc: &Path, backend: Backend, scenario: &Scenario) -> Cell {
    let start = Instant::now();
    let verdict = Rig::new(ipc, backend, start + TIME_LIMIT).and_then(|rig| {
        let run = if backend == Backend::Unix { scenario.connected } else { scenario.run };
        let verdict = run(&rig);
        verdict.and(rig.close())
    });
    Cell { verdict, took: start.elapsed() }
}

fn table(rows: &[(&str, Vec<Cell>)]) -> String {
    let backends = Backend::ALL.iter().map(|backend| backend.name().to_string());
    let header = std::iter::once(String::new()).chain(backends).collect();
    let rows = rows.iter().map(|(name, cells)| {
        let cells = cells.iter().map(|cell| {
            let word = if cell.verdict.is_ok() { "ok" } else { "FAIL" };
            format!("{word:<4} {:>7}", report::seconds(cell.took))
        });
        std::iter::once((*name).to_string()).chain(cells).collect()
    });
    report::table(&std::iter::once(header).chain(rows).collect::<Vec<_>>())
}

fn failures(rows: &[(&str, Vec<Cell>)]) -> String {
    let cells =
        rows.iter().flat_map(|(name, cells)| cells.iter().zip(Backend::ALL).map(move |cell| (name, cell)));
    let failed =
        cells.filter_map(|(name, (cell, backend))| Some((name, backend, cell.verdict.as_ref().err()?)));
    let texts =
        failed.map(|(name, backend, why)| format!("\n{name}, {}:\n{}\n", backend.name(), indented(why)));
    texts.collect()
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::{Cell, failures, table};
    use std::time::Duration;

    fn rows() -> Vec<(&'static str, Vec<Cell>)> {
        let cell = |verdict| Cell { verdict, took: Duration::from_millis(1250) };
        let failed = cell(Err("lost:\n3 lines".into()));
        vec![("one", vec![cell(Ok(())), cell(Ok(())), cell(Ok(())), failed, cell(Ok(()))])]
    }

    #[test]
    fn the_table_has_a_column_for_each_backend() {
        assert_eq!(
            table(&rows()),
            "     mq            sysv          unix          shm spsc      shm mpmc\n\
             one  ok     1.2 s  ok     1.2 s  ok     1.2 s  FAIL   1.2 s  ok     1.2 s\n"
        );
    }

    #[test]
    fn failures_are_told_with_their_place() {
        assert_eq!(failures(&rows()), "\none, shm spsc:\n    lost:\n    3 lines\n");
    }
}
