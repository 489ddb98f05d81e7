//! The scenarios where there is a connection and nothing is stored: a sender waits for a
//! receiver, is told at once when it dies, and what was under way then is gone.

use super::{
    Verdict,
    child::{Ended, Running},
    delivery::{noise, prefixed},
    lines::{self, Feed},
    refusals::{self, refuse},
    restarts::{RESTARTS, lines_before_death, reaches},
    rig::Rig,
};
use std::collections::BTreeMap;

const FAILURE: i32 = 1;
const TIMED_OUT: i32 = 4;
const BUSY: i32 = 6;

/// P1 waits for P2.
pub(super) fn sender_first(rig: &Rig) -> Verdict {
    let address = rig.create("waited-for", &[])?;
    let sender = rig.start(&["send", &address, "first", "second"])?;
    rig.run(&["recv", &address, "--count", "2"])?.expect(0)?.expect_output(b"first\nsecond\n")?;
    sender.end()?.expect(0)?;
    // It was taken by nobody else.
    rig.run(&["recv", &address, "--drain"])?.expect(0)?.expect_output(b"")?;
    Ok(())
}

/// Short ones in packets, long ones sealed; one byte more is refused and what came before is
/// sent.
pub(super) fn large_messages(rig: &Rig) -> Verdict {
    let address = rig.create("large", &[])?;
    let max = rig.backend.max_message_len();
    let records: Vec<Vec<u8>> = [max, 0, 1, max - 1, 65_520, 65_521, max / 2]
        .iter()
        .zip(1..)
        .map(|(&len, seed)| noise(len, seed))
        .collect();
    let input = prefixed(&records);
    let count = records.len().to_string();
    let receiver = rig.start(&["recv", &address, "--count", &count, "--framing", "prefixed"])?;
    rig.run_with(&["send", &address, "--framing", "prefixed"], &input)?.expect(0)?;
    receiver.end()?.expect(0)?.expect_output(&input)?;

    let (small, too_long) = (noise(5, 1), noise(max + 1, 2));
    let receiver = rig.start(&["recv", &address, "--count", "1", "--framing", "raw"])?;
    let input = prefixed(&[small.clone(), too_long, small.clone()]);
    let refused = rig.run_with(&["send", &address, "--framing", "prefixed"], &input)?.expect(FAILURE)?;
    if !refused.stderr.contains("record 2") {
        return Err(refused.because("the message doesn't name record 2"));
    }
    receiver.end()?.expect(0)?.expect_output(&small)?;
    Ok(())
}

/// Without a receiver there is no room at all; with one, a sender waits for it.
pub(super) fn full_queue(rig: &Rig) -> Verdict {
    const COUNT: u64 = 5_000;
    let address = rig.create("full", &rig.backend.small())?;
    for timeout in ["0", "50ms"] {
        rig.run(&["send", &address, "--timeout", timeout, "to nobody"])?.expect(TIMED_OUT)?;
        rig.run(&["recv", &address, "--timeout", timeout])?.expect(TIMED_OUT)?.expect_output(b"")?;
    }
    let mut sender = rig.start(&["send", &address])?;
    let input = lines::lines(2, COUNT);
    sender.feed(input.clone())?;
    rig.run(&["recv", &address, "--count", &COUNT.to_string()])?.expect(0)?.expect_output(&input)?;
    sender.end()?.expect(0)?;
    Ok(())
}

/// Senders are killed in the middle of a stream: what each had sent is there, in its order,
/// without a gap and whole; what a sender sent that wasn't killed is all there.
pub(super) fn killed_senders(rig: &Rig) -> Verdict {
    let address = rig.create("restarted", &rig.backend.small())?;
    // Nobody comes for so long only when all is received.
    let mut receiver = rig.start(&["recv", &address, "--timeout", "2s"])?;
    let mut unkilled = Vec::new();
    for run in 1..=RESTARTS {
        let count = lines_before_death(run);
        if run % 3 == 0 {
            rig.run_with(&["send", &address], &lines::lines(run, count))?.expect(0)?;
            unkilled.push(run);
            continue;
        }
        let mut sender = rig.start(&["send", &address])?;
        let feed = Feed::start(sender.stdin()?, run);
        receiver.wait_for(&format!("line {count} of run {run}"), reaches(run, count))?;
        sender.kill()?.expect_killed()?;
        feed.finish()?;
    }
    let received = receiver.end()?.expect(TIMED_OUT)?;
    check_each(&received.stdout, &unkilled).map_err(|problem| received.because(&problem))
}

/// Each run is there from its line 1 on without a gap.
fn check_each(output: &[u8], unkilled: &[u64]) -> Verdict {
    let (lines, rest) = lines::split(output);
    if !rest.is_empty() {
        return Err("the last line has no newline".into());
    }
    let mut last: BTreeMap<u64, u64> = BTreeMap::new();
    for (run, number) in lines::parse_all(&lines)? {
        let before = last.insert(run, number).unwrap_or(0);
        if number != before + 1 {
            return Err(format!("line {run}.{number} after line {run}.{before}"));
        }
    }
    for &run in unkilled {
        let (count, sent) = (last.get(&run).copied().unwrap_or(0), lines_before_death(run));
        if count != sent {
            return Err(format!("{count} lines of run {run}, which was acknowledged with {sent}"));
        }
    }
    Ok(())
}

/// A receiver that is killed is noticed by its sender at once; what it printed is whole and
/// without a gap, and its successor serves the next sender.
pub(super) fn killed_receivers(rig: &Rig) -> Verdict {
    ended_receivers(rig, |receiver, _| receiver.kill()?.expect_killed())
}

/// The same for one that is asked to end.
pub(super) fn interrupted_receivers(rig: &Rig) -> Verdict {
    const SIGINT: i32 = 2;
    const SIGTERM: i32 = 15;
    ended_receivers(rig, |receiver, run| {
        let signal = if run % 2 == 0 { SIGINT } else { SIGTERM };
        receiver.signal(signal)?.expect(128 + signal)
    })
}

fn ended_receivers(rig: &Rig, stop: fn(Running, u64) -> Result<Ended, String>) -> Verdict {
    let address = rig.create("restarted", &rig.backend.small())?;
    for run in 1..=RESTARTS {
        let mut receiver = rig.start(&["recv", &address])?;
        let mut sender = rig.start(&["send", &address])?;
        let feed = Feed::start(sender.stdin()?, run);
        receiver.wait_for("enough lines", reaches(run, lines_before_death(run)))?;
        let ended = stop(receiver, run)?;
        let told = sender.end()?.expect(FAILURE)?;
        feed.finish()?;
        if !told.stderr.contains("the peer died") {
            return Err(told.because("the sender isn't told that its peer died"));
        }
        let (whole, _torn) = ended
            .stdout
            .split_at(ended.stdout.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1));
        check_each(whole, &[]).map_err(|problem| ended.because(&problem))?;
    }
    Ok(())
}

/// Each mistake gets its exit code and one line, as everywhere.
pub(super) fn wrong_input(rig: &Rig) -> Verdict {
    refusals::wrong_addresses(rig)?;
    refusals::missing_channels(rig)?;
    refusals::wrong_options(rig)?;
    // One receiver at a time.
    let address = &rig.create("taken", &[])?;
    let mut receiver = rig.start(&["recv", address, "--count", "2"])?;
    rig.run(&["send", address, "there"])?.expect(0)?;
    receiver.wait_for("the message", |output| output == b"there\n")?;
    refuse(rig, &["recv", address], BUSY)?;
    refuse(rig, &["rm", address], BUSY)?;
    rig.run_with(&["send", address], b"\xff\0\r\n")?.expect(0)?;
    receiver.end()?.expect(0)?.expect_output(b"there\n\xff\0\r\n")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{check_each, lines::lines, lines_before_death};

    #[test]
    fn runs_may_mix_but_each_is_without_a_gap() {
        let mixed = [lines(1, 2), lines(2, 1), b"".to_vec()].concat();
        check_each(&mixed, &[]).unwrap();
        assert!(check_each(&[lines(1, 3), lines(1, 1)].concat(), &[]).is_err());
        assert!(check_each(b"torn", &[]).is_err());
    }

    #[test]
    fn an_acknowledged_run_is_complete() {
        check_each(&lines(3, lines_before_death(3)), &[3]).unwrap();
        assert!(check_each(&lines(3, lines_before_death(3) - 1), &[3]).is_err());
    }
}
