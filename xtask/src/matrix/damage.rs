//! Segments that are damaged, and things in their place that are none: every command says so
//! and ends, the channel can be removed, and its name used again.

use super::{Verdict, refusals::refuse, rig::Rig};
use std::{
    fs,
    io::{self, Write},
    path::Path,
};

const CORRUPT: i32 = 8;

/// Makes something of the file of a channel.
type Damage = fn(&Path) -> io::Result<()>;

const DAMAGES: [(&str, Damage); 6] = [
    ("empty", |path| fs::write(path, "")),
    ("one byte", |path| fs::write(path, "x")),
    ("truncated", |path| fs::File::options().write(true).open(path)?.set_len(5000)),
    ("text", |path| fs::write(path, "no segment at all\n".repeat(10_000))),
    ("zeros", |path| fs::write(path, vec![0; 1 << 17])),
    ("another magic", |path| overwrite(path, b"\xff\xff\xff\xff")),
];

pub(super) fn damaged_segments(rig: &Rig) -> Verdict {
    DAMAGES.iter().try_for_each(|(what, damage)| {
        let name = what.replace(' ', "-");
        damaged_segment(rig, &name, *damage)
            .map_err(|problem| format!("{what} instead of a segment: {problem}"))
    })?;
    strangers(rig)
}

fn damaged_segment(rig: &Rig, name: &str, damage: Damage) -> Verdict {
    let address = &rig.create(name, &[])?;
    rig.run(&["send", address, "before"])?.expect(0)?;
    damage(&rig.folder().join(name)).map_err(|error| error.to_string())?;
    for arguments in [&["send", address, "x"][..], &["recv", address, "--timeout", "0"], &["stat", address]] {
        refuse(rig, arguments, CORRUPT)?;
    }
    rig.run(&["ls"])?.expect(0)?;
    rig.run(&["rm", address])?.expect(0)?;
    rig.run(&["send", address, "--create", "after"])?.expect(0)?;
    rig.run(&["recv", address, "--drain"])?.expect(0)?.expect_output(b"after\n")?;
    Ok(())
}

fn overwrite(path: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::File::options().write(true).open(path)?.write_all(bytes)
}

/// A folder, a link or a fifo in place of the file: nothing waits for it or follows it, and
/// nothing removes it.
fn strangers(rig: &Rig) -> Verdict {
    let target = rig.create("target", &[])?;
    for (what, make) in STRANGERS {
        let path = rig.folder().join(what);
        make(&path, &rig.folder().join("target"))
            .map_err(|error| format!("{what} can't be made: {error}"))?;
        let address = format!("shm:{what}");
        for arguments in
            [&["send", &address, "x"][..], &["recv", &address, "--timeout", "0"], &["stat", &address]]
        {
            refuse(rig, arguments, CORRUPT)
                .map_err(|problem| format!("{what} instead of a segment: {problem}"))?;
        }
        fs::remove_file(&path).or_else(|_| fs::remove_dir(&path)).map_err(|error| error.to_string())?;
    }
    rig.run(&["recv", &target, "--drain"])?.expect(0)?.expect_output(b"")?;
    Ok(())
}

/// Makes something at the first path; the second one is a channel's.
type Make = fn(&Path, &Path) -> io::Result<()>;

#[cfg(unix)]
const STRANGERS: [(&str, Make); 3] = [
    ("folder", |path, _| fs::create_dir(path)),
    ("link", |path, target| std::os::unix::fs::symlink(target, path)),
    ("fifo", |path, _| Ok(nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU)?)),
];

#[cfg(not(unix))]
const STRANGERS: [(&str, Make); 1] = [("folder", |path, _| fs::create_dir(path))];
