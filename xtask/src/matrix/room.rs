//! Scenarios about a channel without room, or without messages.

use super::{Verdict, lines, rig::Rig};

/// A full queue refuses, on time, and nothing that it took before is lost.
pub(super) fn full_queue(rig: &Rig) -> Verdict {
    let address = rig.create("full", &rig.backend.small())?;
    one_by_one(rig, &address)?;
    as_lines(rig, &address)?;
    waits_for_room(rig, &address)?;
    rig.run(&["recv", &address, "--timeout", "0"])?.expect(4)?.expect_output(b"")?;
    rig.run(&["recv", &address, "--timeout", "50ms"])?.expect(4)?.expect_output(b"")?;
    Ok(())
}

/// What was acknowledged one by one is exactly what is received.
fn one_by_one(rig: &Rig, address: &str) -> Verdict {
    let filling = "x".repeat(8000);
    let mut sent = Vec::new();
    loop {
        let message = format!("{} {filling}", sent.len());
        let ended = rig.run(&["send", address, "--timeout", "0", &message])?;
        if ended.code != Some(0) {
            ended.expect(4)?;
            break;
        }
        sent.extend((message + "\n").into_bytes());
    }
    if sent.is_empty() {
        return Err("an empty channel was full for the first message".into());
    }
    rig.run(&["recv", address, "--drain"])?.expect(0)?.expect_output(&sent)?;
    Ok(())
}

/// Of a stream that is refused midway, everything before is received.
fn as_lines(rig: &Rig, address: &str) -> Verdict {
    const COUNT: u64 = 5_000;
    rig.run_with(&["send", address, "--timeout", "100ms"], &lines::lines(1, COUNT))?.expect(4)?;
    let received = rig.run(&["recv", address, "--drain"])?.expect(0)?;
    let count = lines::split(&received.stdout).0.len() as u64;
    if count == 0 || count >= COUNT {
        return Err(received.because(&format!("{count} lines of {COUNT} fitted")));
    }
    received.expect_output(&lines::lines(1, count))?;
    Ok(())
}

/// A sender without a time-out waits until there is room.
fn waits_for_room(rig: &Rig, address: &str) -> Verdict {
    const COUNT: u64 = 5_000;
    let mut sender = rig.start(&["send", address])?;
    let input = lines::lines(2, COUNT);
    sender.feed(input.clone())?;
    rig.wait_for_stat(address, "a message", |stat| stat["queued_messages"].as_u64() > Some(0))?;
    let count = COUNT.to_string();
    rig.run(&["recv", address, "--count", &count])?.expect(0)?.expect_output(&input)?;
    sender.end()?.expect(0)?;
    Ok(())
}
