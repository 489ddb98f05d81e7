//! Scenarios in which one side dies again and again while the other goes on.

use super::{
    Verdict,
    child::Ended,
    lines::{self, Feed},
    rig::Rig,
};
use std::io::Write;

/// How often the killed side starts again.
pub(super) const RESTARTS: u64 = 20;

/// Lines after which it dies, a different number each time.
pub(super) fn lines_before_death(run: u64) -> u64 {
    50 + run * 37 % 400
}

/// Senders are killed in the middle of a stream: what each had sent is there, in order,
/// without a gap and whole; what a sender sent that wasn't killed is all there.
pub(super) fn killed_senders(rig: &Rig) -> Verdict {
    killed_while_it_waits(rig)?;
    let address = rig.create("restarted", &rig.backend.small())?;
    let mut receiver = rig.start(&["recv", &address, "--until-end"])?;
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
    rig.run(&["send", &address, "--end", &lines::line(RESTARTS + 1, 1)])?.expect(0)?;
    let received = receiver.end()?.expect(0)?;
    check_runs(&received.stdout, &unkilled).map_err(|problem| received.because(&problem))
}

/// What a sender had sent before it waited for more input outlives it.
fn killed_while_it_waits(rig: &Rig) -> Verdict {
    const COUNT: u64 = 4;
    let address = rig.create("waiting", &rig.backend.small())?;
    let mut sender = rig.start(&["send", &address])?;
    let mut stdin = sender.stdin()?;
    stdin.write_all(&lines::lines(1, COUNT)).map_err(|error| error.to_string())?;
    rig.wait_for_stat(&address, "4 messages", |stat| stat["queued_messages"] == COUNT)?;
    sender.kill()?.expect_killed()?;
    rig.run(&["recv", &address, "--drain"])?.expect(0)?.expect_output(&lines::lines(1, COUNT))?;
    Ok(())
}

/// Whether a line of this run with at least this number has been printed; remembers how far
/// it has looked.
pub(super) fn reaches(run: u64, number: u64) -> impl FnMut(&[u8]) -> bool {
    let mut checked = 0;
    move |output| {
        let (lines, rest) = lines::split(&output[checked..]);
        let found =
            lines.iter().filter_map(|line| lines::parse(line)).any(|line| line.0 == run && line.1 >= number);
        checked = output.len() - rest.len();
        found
    }
}

/// Runs come one after the other, each from its line 1 on without a gap.
fn check_runs(output: &[u8], unkilled: &[u64]) -> Verdict {
    let (lines, rest) = lines::split(output);
    if !rest.is_empty() {
        return Err("the last line has no newline".into());
    }
    let received = lines::parse_all(&lines)?;
    let mut last = (0, 0);
    for &(run, number) in &received {
        let follows = (run == last.0 && number == last.1 + 1) || (run > last.0 && number == 1);
        if !follows {
            return Err(format!("line {run}.{number} after line {}.{}", last.0, last.1));
        }
        last = (run, number);
    }
    for &run in unkilled {
        let (count, sent) =
            (received.iter().filter(|line| line.0 == run).count() as u64, lines_before_death(run));
        if count != sent {
            return Err(format!("{count} lines of run {run}, which was acknowledged with {sent}"));
        }
    }
    Ok(())
}

/// Receivers are killed in the middle of a stream: their outputs together are complete. The
/// kernel doesn't redeliver, so on its queues each kill may lose the message in hand.
pub(super) fn killed_receivers(rig: &Rig) -> Verdict {
    let loss_per_death = if rig.backend.is_shm() { 0 } else { 1 };
    let ends = Ends { loss_per_death, may_repeat: true };
    restarted_receivers(rig, ends, |receiver, _| receiver.kill()?.expect_killed())
}

/// Receivers that are asked to end finish what they are writing: nothing is lost on any
/// backend, nor received twice.
pub(super) fn interrupted_receivers(rig: &Rig) -> Verdict {
    const SIGINT: i32 = 2;
    const SIGTERM: i32 = 15;
    restarted_receivers(rig, Ends { loss_per_death: 0, may_repeat: false }, |receiver, run| {
        let signal = if run % 2 == 0 { SIGINT } else { SIGTERM };
        receiver.signal(signal)?.expect(128 + signal)
    })
}

/// What the end of a receiver may cost.
#[derive(Clone, Copy)]
struct Ends {
    loss_per_death: u64,
    /// Whether the next one may receive again what was printed.
    may_repeat: bool,
}

type Stop = fn(super::child::Running, u64) -> Result<Ended, String>;

fn restarted_receivers(rig: &Rig, ends: Ends, stop: Stop) -> Verdict {
    let address = rig.create("restarted", &rig.backend.small())?;
    let mut sender = rig.start(&["send", &address, "--end"])?;
    let feed = Feed::start(sender.stdin()?, 1);
    let mut outputs = Vec::new();
    for run in 1..=RESTARTS {
        let mut receiver = rig.start(&["recv", &address, "--until-end"])?;
        let mut count = 0;
        let enough = |output: &[u8]| {
            count = count.max(output.iter().filter(|&&byte| byte == b'\n').count() as u64);
            count >= lines_before_death(run)
        };
        receiver.wait_for(&format!("enough lines in run {run}"), enough)?;
        outputs.push(stop(receiver, run)?);
    }
    // The last one reads on meanwhile, else the feed would wait for room for ever.
    let receiver = rig.start(&["recv", &address, "--until-end"])?;
    let sent = feed.finish()?;
    sender.end()?.expect(0)?;
    outputs.push(receiver.end()?.expect(0)?);
    let printed: Vec<&[u8]> = outputs.iter().map(|output| &output.stdout[..]).collect();
    check_outputs(&printed, sent, ends)
}

/// Each output is in order without a gap and not torn; each begins where those before it
/// ended, or earlier if that may be; the last one ends with the last line.
fn check_outputs(outputs: &[&[u8]], sent: u64, ends: Ends) -> Verdict {
    let Ends { loss_per_death, may_repeat } = ends;
    let mut seen = 0;
    for (output, run) in outputs.iter().zip(1..) {
        let numbers = check_output(output).map_err(|problem| format!("receiver {run}: {problem}"))?;
        let first = numbers.first().copied().unwrap_or(sent + 1);
        let lost = first.saturating_sub(seen + 1);
        if lost > if run == 1 { 0 } else { loss_per_death } {
            return Err(format!(
                "{lost} lines are lost: receiver {run} begins with {first} after {seen} was seen"
            ));
        }
        if first <= seen && !may_repeat {
            return Err(format!("receiver {run} begins with {first} again after {seen} was seen"));
        }
        seen = numbers.last().map_or(seen, |&last| last.max(seen));
    }
    let lost = sent.saturating_sub(seen);
    match lost <= loss_per_death && seen <= sent {
        true => Ok(()),
        false => Err(format!("{sent} lines were sent and {seen} is the last one received")),
    }
}

fn check_output(output: &[u8]) -> Result<Vec<u64>, String> {
    let (lines, rest) = lines::split(output);
    let numbers: Vec<u64> = lines::parse_all(&lines)?.into_iter().map(|(_, number)| number).collect();
    if let Some(pair) = numbers.windows(2).find(|pair| pair[1] != pair[0] + 1) {
        return Err(format!("line {} after line {}", pair[1], pair[0]));
    }
    // What it was writing when it died is the beginning of the next line.
    let next = numbers.last().map(|last| lines::line(1, last + 1));
    match next.is_none_or(|next| next.as_bytes().starts_with(rest)) {
        true => Ok(numbers),
        false => Err(format!("ends with a torn line: {}", String::from_utf8_lossy(rest).escape_debug())),
    }
}

#[cfg(test)]
mod tests {
    use super::{Ends, check_outputs, check_runs, lines_before_death, reaches};
    use crate::matrix::lines::{line, lines};

    fn output(numbers: impl IntoIterator<Item = u64>) -> Vec<u8> {
        numbers.into_iter().flat_map(|number| (line(1, number) + "\n").into_bytes()).collect()
    }

    const fn losing(loss_per_death: u64) -> Ends {
        Ends { loss_per_death, may_repeat: true }
    }

    #[test]
    fn outputs_are_complete_together() {
        let outputs = [output(1..=5), output(4..=9)];
        check_outputs(&outputs.each_ref().map(|output| &output[..]), 9, losing(0)).unwrap();
        assert!(check_outputs(&[&outputs[1]], 9, losing(1)).is_err());
    }

    #[test]
    fn who_was_asked_to_end_has_nothing_received_again() {
        let asked = Ends { loss_per_death: 0, may_repeat: false };
        let outputs = [output(1..=5), output(6..=9), output(9..=9)];
        let outputs = outputs.each_ref().map(|output| &output[..]);
        check_outputs(&outputs[..2], 9, asked).unwrap();
        assert!(check_outputs(&outputs, 9, asked).is_err());
    }

    #[test]
    fn each_death_may_lose_so_many_lines() {
        let outputs = [output(1..=5), output(7..=9), output(11..=12)];
        let outputs = outputs.each_ref().map(|output| &output[..]);
        check_outputs(&outputs, 12, losing(1)).unwrap();
        assert!(check_outputs(&outputs, 12, losing(0)).is_err());
        assert!(check_outputs(&[outputs[0], outputs[2]], 12, losing(1)).is_err());
    }

    #[test]
    fn a_gap_within_an_output_is_a_loss_whatever_may_be_lost() {
        assert!(check_outputs(&[&output([1, 2, 4])], 4, losing(5)).is_err());
    }

    #[test]
    fn what_was_never_sent_is_noticed() {
        assert!(check_outputs(&[&output(1..=5)], 4, losing(5)).is_err());
    }

    #[test]
    fn only_the_beginning_of_the_next_line_may_follow_the_last() {
        let with_rest = |rest: &str| [output(1..=3), rest.into()].concat();
        check_outputs(&[&with_rest(&line(1, 4)[..7])], 3, losing(0)).unwrap();
        assert!(check_outputs(&[&with_rest(&line(1, 5)[..7])], 3, losing(0)).is_err());
    }

    #[test]
    fn runs_follow_each_other_without_gaps() {
        check_runs(&[lines(1, 3), lines(2, 1), lines(5, 4)].concat(), &[]).unwrap();
        assert!(check_runs(&[lines(2, 1), lines(1, 3)].concat(), &[]).is_err());
        assert!(check_runs(&output([1, 3]), &[]).is_err());
    }

    #[test]
    fn an_acknowledged_run_is_complete() {
        check_runs(&lines(3, lines_before_death(3)), &[3]).unwrap();
        assert!(check_runs(&lines(3, lines_before_death(3) - 1), &[3]).is_err());
    }

    #[test]
    fn a_line_is_found_as_soon_as_it_is_whole() {
        let output = output(1..=3);
        let mut reached = reaches(1, 3);
        assert!(!reached(&output[..output.len() - 1]));
        assert!(reached(&output));
    }
}
