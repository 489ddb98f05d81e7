//! Bare pipes, blocking: a named one each way, so that two processes that were started apart
//! have them. They have as much room as our rings, as far as the system lets them.

use crate::link::{Fallible, Link, Payload, Spec};
use nix::{
    fcntl::{FcntlArg, fcntl},
    sys::stat::Mode,
    unistd::mkfifo,
};
use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
};

pub(crate) struct Pipes {
    writes: File,
    reads: File,
    payload: Payload,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
}

impl Pipes {
    pub(crate) fn attach(spec: &Spec) -> Fallible<Self> {
        let open = |direction: &str| -> Fallible<File> {
            let path = spec.directory.join(format!("pipe-{direction}"));
            if spec.is_near {
                mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)?;
            }
            // For both, so that opening waits for nobody.
            let pipe = OpenOptions::new().read(true).write(true).open(path)?;
            make_room(&pipe, spec.messages_in_flight() * spec.payload.len_bytes)?;
            Ok(pipe)
        };
        let [out, back] = spec.directions();
        Ok(Self {
            writes: open(out)?,
            reads: open(back)?,
            payload: spec.payload,
            outgoing: vec![0; spec.payload.len_bytes],
            incoming: vec![0; spec.payload.len_bytes],
        })
    }
}

/// Gives a pipe this much room, or as much as a program may have without privileges, by pipe(7); never
/// less than it has. The kernel makes it a power of two.
fn make_room(pipe: &File, wanted_bytes: usize) -> Fallible<()> {
    let most_bytes: usize = fs::read_to_string("/proc/sys/fs/pipe-max-size")?.trim().parse()?;
    let room_bytes = i32::try_from(wanted_bytes.min(most_bytes))?;
    if room_bytes > fcntl(pipe, FcntlArg::F_GETPIPE_SZ)? {
        fcntl(pipe, FcntlArg::F_SETPIPE_SZ(room_bytes))?;
    }
    Ok(())
}

impl Link for Pipes {
    #[inline]
    fn send(&mut self, number: u64) -> Fallible<()> {
        self.payload.write(&mut self.outgoing, number);
        Ok(self.writes.write_all(&self.outgoing)?)
    }

    #[inline]
    fn receive(&mut self, number: u64) -> Fallible<()> {
        self.reads.read_exact(&mut self.incoming)?;
        self.payload.check(&self.incoming, number)
    }
}
