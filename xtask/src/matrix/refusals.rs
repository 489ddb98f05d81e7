//! The scenario of wrong input: each mistake gets its exit code and one line that says what
//! is wrong, and nothing else happens.

use super::{
    Verdict,
    child::Ended,
    damage,
    rig::{Backend, Rig},
};

const FAILURE: i32 = 1;
const USAGE: i32 = 2;
const NO_SUCH_CHANNEL: i32 = 3;
const EXISTS_ALREADY: i32 = 5;
const BUSY: i32 = 6;

pub(super) fn wrong_input(rig: &Rig) -> Verdict {
    wrong_addresses(rig)?;
    missing_channels(rig)?;
    wrong_options(rig)?;
    existing_channels(rig)?;
    too_long_messages(rig)?;
    odd_bytes(rig)?;
    match rig.backend {
        Backend::Mq | Backend::Sysv | Backend::Unix => empty_messages_before_the_end(rig),
        Backend::Spsc => taken_roles(rig).and_then(|()| damage::damaged_segments(rig)),
        Backend::Mpmc => other_kinds(rig).and_then(|()| damage::damaged_segments(rig)),
    }
}

/// Runs `ipc`, which must refuse.
pub(super) fn refuse(rig: &Rig, arguments: &[&str], code: i32) -> Result<Ended, String> {
    refused(rig.run(arguments)?, code)
}

/// One line on standard error, nothing on standard output.
pub(super) fn refused(ended: Ended, code: i32) -> Result<Ended, String> {
    let ended = ended.expect(code)?.expect_output(b"")?;
    let one_line = ended.stderr.ends_with('\n') && ended.stderr.lines().count() == 1;
    match one_line && ended.stderr.starts_with("ipc: ") {
        true => Ok(ended),
        false => Err(ended.because("the error isn't one line that begins with `ipc: `")),
    }
}

pub(super) fn wrong_addresses(rig: &Rig) -> Verdict {
    let scheme = rig.backend.scheme();
    let long = "x".repeat(201);
    let names = ["", "a/b", "/a", "..", ".a", "-a", "a b", "é", "a\n", &long];
    let addresses = names.iter().map(|name| format!("{scheme}:{name}"));
    let others = ["orders", "tcp:orders", ":orders", ""].map(String::from);
    for address in addresses.chain(others) {
        for arguments in
            [&["create", &address][..], &["send", &address, "x"], &["recv", &address], &["rm", &address]]
        {
            refuse(rig, arguments, USAGE)?;
        }
    }
    Ok(())
}

pub(super) fn missing_channels(rig: &Rig) -> Verdict {
    let address = &rig.address("missing");
    for arguments in [&["send", address, "x"][..], &["recv", address], &["stat", address], &["rm", address]] {
        let ended = refuse(rig, arguments, NO_SUCH_CHANNEL)?;
        if !ended.stderr.contains(address.as_str()) {
            return Err(ended.because("the error doesn't name the channel"));
        }
    }
    Ok(())
}

/// Options of the other scheme, values that are none.
pub(super) fn wrong_options(rig: &Rig) -> Verdict {
    let address = &rig.address("options");
    let foreign: &[&[&str]] = match rig.backend {
        Backend::Mq | Backend::Sysv => &[&["--capacity", "64K"], &["--kind", "spsc"]],
        Backend::Unix => &[&["--depth", "4"], &["--kind", "spsc"]],
        Backend::Spsc => &[&["--kind", "spsc", "--depth", "4"], &["--kind", "spsc", "--max-message", "100"]],
        Backend::Mpmc => &[&["--publishers", "2"], &["--kind", "no-such"], &["--when-full", "no-such"]],
    };
    let invalid: &[&[&str]] =
        &[&["--mode", "9"], &["--depth", "many"], &["--capacity", "-1"], &["--no-such-option"]];
    for options in [foreign, invalid].concat() {
        refuse(rig, &[&["create", address], options].concat(), USAGE)?;
        refuse(rig, &[&["send", address, "--create"], options].concat(), USAGE)?;
    }
    refuse(rig, &["recv", address, "--timeout", "soon"], USAGE)?;
    refuse(rig, &["send", address, "--framing", "no-such"], USAGE)?;
    match rig.stat(address)? {
        None => prioritised(rig),
        Some(stat) => Err(format!("a refused command made a channel: {stat}")),
    }
}

/// Priorities are the kernel queues' alone.
fn prioritised(rig: &Rig) -> Verdict {
    let address = &rig.create("prioritised", &[])?;
    let send = ["send", address, "--priority", "3", "urgent"];
    match rig.backend {
        Backend::Mq => {
            rig.run(&["send", address, "usual"])?.expect(0)?;
            rig.run(&send)?.expect(0)?;
            rig.run(&["recv", address, "--drain"])?.expect(0)?.expect_output(b"urgent\nusual\n")?;
        }
        Backend::Sysv => {
            rig.run(&["send", address, "--priority", "0", "usual"])?.expect(0)?;
            rig.run(&send)?.expect(0)?;
            let received = rig.run(&["recv", address, "--priority", "--drain"])?;
            received.expect(0)?.expect_output(b"urgent\nusual\n")?;
        }
        Backend::Unix => drop(refuse(rig, &send, USAGE)?),
        Backend::Spsc | Backend::Mpmc => {
            refuse(rig, &send, USAGE)?;
            rig.run(&["recv", address, "--drain"])?.expect(0)?.expect_output(b"")?;
        }
    }
    Ok(())
}

fn existing_channels(rig: &Rig) -> Verdict {
    let address = &rig.create("existing", &rig.backend.small())?;
    let other = rig.backend.not_so_small();
    refuse(rig, &["create", address], EXISTS_ALREADY)?;
    refuse(rig, &[&["send", address, "--create", "x"], &other[..]].concat(), EXISTS_ALREADY)?;
    refuse(rig, &[&["recv", address, "--create"], &other[..]].concat(), EXISTS_ALREADY)?;
    rig.run(&[&["send", address, "--create", "x"], &rig.backend.small()[..]].concat())?.expect(0)?;
    rig.run(&["recv", address, "--drain"])?.expect(0)?.expect_output(b"x\n")?;
    Ok(())
}

/// What came before is sent, what comes after isn't, and the line is named.
fn too_long_messages(rig: &Rig) -> Verdict {
    let address = &rig.create("too-long", &[])?;
    let longest = "x".repeat(rig.backend.max_message_len());
    let input = format!("before\n{longest}\n{longest}y\nafter\n");
    let mut sender = rig.start(&["send", address])?;
    sender.feed(input.into_bytes())?;
    let expected = format!("before\n{longest}\n");
    rig.run(&["recv", address, "--count", "2"])?.expect(0)?.expect_output(expected.as_bytes())?;
    let ended = refused(sender.end()?, FAILURE)?;
    if !ended.stderr.contains("line 3") {
        return Err(ended.because("the error doesn't name line 3"));
    }
    rig.run(&["recv", address, "--drain"])?.expect(0)?.expect_output(b"")?;
    Ok(())
}

/// Bytes are bytes: invalid UTF-8, NUL, a carriage return, no final newline.
fn odd_bytes(rig: &Rig) -> Verdict {
    let address = &rig.create("odd", &[])?;
    rig.run_with(&["send", address], b"\xff\xfe\n\0\n\r\n\n\xc3")?.expect(0)?;
    rig.run(&["recv", address, "--drain"])?.expect(0)?.expect_output(b"\xff\xfe\n\0\n\r\n\n\xc3\n")?;
    Ok(())
}

/// On a kernel queue the empty message is the end mark, so it can't be one of the input's.
fn empty_messages_before_the_end(rig: &Rig) -> Verdict {
    let address = &rig.create("ending", &[])?;
    refused(rig.run_with(&["send", address, "--end"], b"before\n\nafter\n")?, USAGE)?;
    rig.run(&["recv", address, "--drain"])?.expect(0)?.expect_output(b"before\n")?;
    Ok(())
}

/// A channel is of the kind that it was made with.
fn other_kinds(rig: &Rig) -> Verdict {
    let address = &rig.create("kinds", &[])?;
    let ended = refuse(rig, &["recv", address, "--create", "--kind", "spsc"], EXISTS_ALREADY)?;
    match ended.stderr.contains("spsc") && ended.stderr.contains("mpmc") {
        true => Ok(()),
        false => Err(ended.because("the error doesn't name both kinds")),
    }
}

/// A ring has one sender and one receiver at a time.
fn taken_roles(rig: &Rig) -> Verdict {
    let address = &rig.create("taken", &[])?;
    let receiver = rig.start(&["recv", address, "--count", "1"])?;
    rig.wait_for_receiver(address)?;
    refuse(rig, &["recv", address], BUSY)?;
    let sender = rig.start(&["send", address])?;
    rig.wait_for_stat(address, "a sender", |stat| super::rig::roles(stat).any(|role| role == "sender"))?;
    refuse(rig, &["send", address, "x"], BUSY)?;
    sender.end()?.expect(0)?;
    rig.run(&["send", address, "y"])?.expect(0)?;
    receiver.end()?.expect(0)?.expect_output(b"y\n")?;
    Ok(())
}
