//! Scenarios in which everything goes well: both start orders, many messages, large ones,
//! streams.

use super::{Verdict, lines, rig::Rig};

/// P1 sends and is gone before P2 starts.
pub(super) fn sender_first(rig: &Rig) -> Verdict {
    let kept = rig.create("kept", &[])?;
    rig.run(&["send", &kept, "first", "second"])?.expect(0)?;
    rig.run_with(&["send", &kept], b"third")?.expect(0)?;
    rig.run(&["recv", &kept, "--count", "3"])?.expect(0)?.expect_output(b"first\nsecond\nthird\n")?;
    rig.run(&["recv", &kept, "--drain"])?.expect(0)?.expect_output(b"")?;

    let passing = rig.address("passing");
    let create = rig.create_if_missing();
    rig.run(&[&["send", &passing, "stays"], &create[..]].concat())?.expect(0)?;
    let received = rig.run(&[&["recv", &passing, "--count", "1"], &create[..]].concat())?;
    received.expect(0)?.expect_output(b"stays\n")?;
    transient_is_gone(rig, &passing)
}

/// P2 waits before P1 starts.
pub(super) fn receiver_first(rig: &Rig) -> Verdict {
    let kept = rig.create("kept", &[])?;
    exchange(rig, &kept, &[])?;
    let passing = rig.address("passing");
    exchange(rig, &passing, &rig.create_if_missing())?;
    transient_is_gone(rig, &passing)
}

fn exchange(rig: &Rig, address: &str, options: &[&str]) -> Verdict {
    let receiver = rig.start(&[&["recv", address, "--count", "3"], options].concat())?;
    rig.wait_for_receiver(address)?;
    rig.run(&[&["send", address, "first", "second", "third"], options].concat())?.expect(0)?;
    receiver.end()?.expect(0)?.expect_output(b"first\nsecond\nthird\n")?;
    Ok(())
}

/// What `--create` made in shared memory vanishes when the last one leaves it empty.
fn transient_is_gone(rig: &Rig, address: &str) -> Verdict {
    match (rig.backend.is_shm(), rig.stat(address)?) {
        (true, Some(stat)) => Err(format!("a transient channel stayed: {stat}")),
        _ => Ok(()),
    }
}

/// Order and completeness, with an empty line now and then.
pub(super) fn many_messages(rig: &Rig) -> Verdict {
    const COUNT: u64 = 20_000;
    let address = rig.create("many", &[])?;
    let texts =
        (1..=COUNT).map(|number| if number % 100 == 0 { String::new() } else { lines::line(1, number) });
    let input: Vec<u8> = texts.flat_map(|text| (text + "\n").into_bytes()).collect();
    let receiver = rig.start(&["recv", &address, "--count", &COUNT.to_string()])?;
    rig.run_with(&["send", &address], &input)?.expect(0)?;
    receiver.end()?.expect(0)?.expect_output(&input)?;
    Ok(())
}

/// Up to the longest message, whole; one byte more is refused and what came before is sent.
pub(super) fn large_messages(rig: &Rig) -> Verdict {
    const ROUNDS: usize = 4;
    let address = rig.create("large", &[])?;
    let max = rig.backend.max_message_len();
    let stated = rig.stat(&address)?.map(|stat| stat["max_message_len_bytes"].clone());
    if stated.as_ref().and_then(serde_json::Value::as_u64) != Some(max as u64) {
        return Err(format!("ipc stat says max_message_len_bytes {stated:?} instead of {max}"));
    }
    let records: Vec<Vec<u8>> = [max, 0, 1, max - 1, max / 2]
        .repeat(ROUNDS)
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
    let refused = rig.run_with(
        &["send", &address, "--framing", "prefixed"],
        &prefixed(&[small.clone(), too_long, small.clone()]),
    )?;
    let refused = refused.expect(1)?;
    if !refused.stderr.contains("record 2") {
        return Err(refused.because("the message doesn't name record 2"));
    }
    rig.run(&["recv", &address, "--drain", "--framing", "raw"])?.expect(0)?.expect_output(&small)?;
    Ok(())
}

/// Bytes that are no messages of their own, to the end mark.
pub(super) fn bytes_in_chunks(rig: &Rig) -> Verdict {
    const LEN_BYTES: usize = 8 << 20;
    let address = rig.address("bytes");
    let input = noise(LEN_BYTES, 3);
    let create = rig.create_if_missing();
    let receive = ["recv", &address, "--until-end", "--framing", "raw"];
    let receiver = rig.start(&[&receive, &create[..]].concat())?;
    let send = ["send", &address, "--framing", "chunks", "--end"];
    rig.run_with(&[&send, &create[..]].concat(), &input)?.expect(0)?;
    receiver.end()?.expect(0)?.expect_output(&input)?;
    transient_is_gone(rig, &address)
}

pub(super) fn prefixed(records: &[Vec<u8>]) -> Vec<u8> {
    records.iter().flat_map(|record| [&(record.len() as u32).to_le_bytes()[..], record].concat()).collect()
}

/// Bytes without a pattern, the same for the same seed (Marsaglia's xorshift).
pub(super) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(|_| next()).collect()
}

#[cfg(test)]
mod tests {
    use super::{noise, prefixed};

    #[test]
    fn records_have_their_length_before_them() {
        assert_eq!(prefixed(&[vec![], b"ab".to_vec()]), b"\0\0\0\0\x02\0\0\0ab");
    }

    #[test]
    fn noise_is_the_same_for_the_same_seed_only() {
        assert_eq!(noise(100, 1), noise(100, 1));
        assert_ne!(noise(100, 1), noise(100, 2));
    }
}
