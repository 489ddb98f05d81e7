//! Bare pipes, blocking: a named one each way, so that two processes that were started apart
//! have them.

use crate::link::{Fallible, Link, Payload, Spec};
use nix::{sys::stat::Mode, unistd::mkfifo};
use std::{
    fs::{File, OpenOptions},
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
            Ok(OpenOptions::new().read(true).write(true).open(path)?)
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
