//! What comes before the first message: making a channel, and opening one that exists.
//!
//! Each is timed by itself and ends when the channel is there, or when its first message has
//! been sent or received. What is undone afterwards (endpoints, mappings, names) is not part
//! of it, and neither is what a process does once: the first ones of each run aren't timed.
//!
//! `raw:file` makes the system calls that nothing in shared memory can do without, and no
//! others: `open` with `O_TMPFILE`, `posix_fallocate`, `mmap` and `linkat` to make a channel,
//! `open`, `fstat` and `mmap` to open one; its first message is one word.

use super::{
    clock::{Samples, sample_ns},
    footprint,
    lane::AnyLane,
};
use crate::{
    links::{backends::Opens, shared::MappedFile, site::Site},
    spec::{Job, LaneSpec, Memory, Outcome, Payload},
    trouble::Fallible,
};
use ipc_core::{ChannelName, Receiver, Sender, Transport};
use nix::{
    fcntl::{AT_FDCWD, AtFlags, OFlag, open, posix_fallocate},
    sys::stat::{Mode, fstat},
    unistd::linkat,
};
use std::{
    fs::{self, File},
    os::fd::AsRawFd,
    path::PathBuf,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

/// The capacity of the channels that are made and opened.
pub(crate) const CAPACITY_BYTES: u64 = 1 << 20;

/// Ones before the timed ones of each run: fences are registered, caches are cold.
const WARM_UP: u64 = 8;

/// How long one of them takes. What isn't timed is done, and undone, around it.
pub(crate) trait Openable {
    fn create(&mut self) -> Fallible<Duration>;
    fn open_to_send(&mut self, number: u64) -> Fallible<Duration>;
    fn open_to_receive(&mut self, number: u64) -> Fallible<Duration>;

    /// What a channel takes of memory.
    fn footprint(&mut self) -> Fallible<Memory> {
        Err("the bare calls make no channel that could be weighed".into())
    }
}

/// Channels that are made and opened again and again.
pub(crate) struct OpeningLane<O> {
    what: O,
    /// The next message's number.
    next: u64,
    samples: Samples,
}

/// Those of a backend.
pub(crate) type Opening<B> = OpeningLane<Channels<B>>;

/// The system calls beneath them.
pub(crate) type RawFile = OpeningLane<Files>;

impl<O> OpeningLane<O> {
    pub(crate) fn of(what: O) -> Self {
        Self { what, next: 1, samples: Samples::default() }
    }
}

impl<B: Opens> Opening<B> {
    pub(crate) fn new(spec: &LaneSpec, site: &Site) -> Fallible<Self> {
        Ok(Self { what: Channels::new(spec, site)?, next: 1, samples: Samples::default() })
    }
}

impl RawFile {
    pub(crate) fn new(spec: &LaneSpec, site: &Site) -> Fallible<Self> {
        Ok(Self { what: Files::new(spec, site)?, next: 1, samples: Samples::default() })
    }
}

impl<O: Openable> AnyLane for OpeningLane<O> {
    fn run(&mut self, job: Job, count: u64) -> Fallible<Outcome> {
        if job == Job::Weigh {
            let outcome = Outcome::begin()?;
            let memory = Some(self.what.footprint()?);
            return Ok(Outcome { memory, ..outcome.end()? });
        }
        let (what, next) = (&mut self.what, &mut self.next);
        let mut once = || {
            *next += 1;
            match job {
                Job::Create => what.create(),
                Job::OpenToSend => what.open_to_send(*next),
                Job::OpenToReceive => what.open_to_receive(*next),
                other => Err(format!("nobody is there for this job: {other:?}").into()),
            }
        };
        let samples_ns = self.samples.start(count)?;
        for _ in 0..WARM_UP {
            once()?;
        }
        let outcome = Outcome::begin()?;
        for sample in samples_ns {
            *sample = sample_ns(once()?);
        }
        let outcome = outcome.end()?;
        Ok(Outcome { latencies_ns: self.samples.counted()?, ..outcome })
    }
}

/// A directory of segments with one channel in it, kept, that is opened, and room for
/// another one that is made.
pub(crate) struct Channels<B: Opens> {
    transport: B::Transport,
    config: <B::Transport as Transport>::Config,
    opened: ChannelName,
    made: ChannelName,
    payload: Payload,
    message: Vec<u8>,
}

impl<B: Opens> Channels<B> {
    fn new(spec: &LaneSpec, site: &Site) -> Fallible<Self> {
        let (transport, config) = (B::transport(site), B::kept(CAPACITY_BYTES));
        let name = |which| ChannelName::new(&site.channel(spec, which));
        let (opened, made) = (name("opened")?, name("made")?);
        transport.create(&opened, &config)?;
        let message = vec![0; spec.message_len_bytes];
        Ok(Self { transport, config, opened, made, payload: spec.payload(), message })
    }
}

impl<B: Opens> Openable for Channels<B> {
    fn create(&mut self) -> Fallible<Duration> {
        let start = Instant::now();
        let channel = self.transport.create(&self.made, &self.config)?;
        let took = start.elapsed();
        drop(channel);
        self.transport.remove(&self.made)?;
        Ok(took)
    }

    fn open_to_send(&mut self, number: u64) -> Fallible<Duration> {
        self.payload.write(&mut self.message, number);
        let start = Instant::now();
        let mut tx = self.transport.open_sender(&self.opened)?;
        tx.try_send(&self.message)?;
        let took = start.elapsed();
        let mut rx = self.transport.open_receiver(&self.opened)?;
        self.payload.check(&rx.try_recv()?, number)?;
        Ok(took)
    }

    fn open_to_receive(&mut self, number: u64) -> Fallible<Duration> {
        self.payload.write(&mut self.message, number);
        self.transport.open_sender(&self.opened)?.try_send(&self.message)?;
        let start = Instant::now();
        let mut rx = self.transport.open_receiver(&self.opened)?;
        self.payload.check(&rx.try_recv()?, number)?;
        Ok(start.elapsed())
    }

    fn footprint(&mut self) -> Fallible<Memory> {
        footprint::of(&self.transport, &self.config, &self.made)
    }
}

/// A directory with one file in it that is opened, and room for another one that is made.
pub(crate) struct Files {
    directory: PathBuf,
    opened: PathBuf,
    made: PathBuf,
}

impl Files {
    fn new(spec: &LaneSpec, site: &Site) -> Fallible<Self> {
        let path = |which| site.directory.join(site.channel(spec, which));
        let (opened, made) = (path("opened"), path("made"));
        let files = Self { directory: site.directory.clone(), opened, made };
        files.make(&files.opened)?;
        Ok(files)
    }

    fn make(&self, path: &PathBuf) -> Fallible<(File, MappedFile)> {
        let flags = OFlag::O_RDWR | OFlag::O_TMPFILE | OFlag::O_CLOEXEC;
        let file = File::from(open(&self.directory, flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
        posix_fallocate(&file, 0, CAPACITY_BYTES.try_into()?)?;
        let map = MappedFile::new(&file, usize::try_from(CAPACITY_BYTES)?)?;
        let by_descriptor = format!("/proc/self/fd/{}", file.as_raw_fd());
        linkat(AT_FDCWD, by_descriptor.as_str(), AT_FDCWD, path, AtFlags::AT_SYMLINK_FOLLOW)?;
        Ok((file, map))
    }

    fn open(&self) -> Fallible<(File, MappedFile)> {
        let file = File::from(open(&self.opened, OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?);
        let map = MappedFile::new(&file, usize::try_from(fstat(&file)?.st_size)?)?;
        Ok((file, map))
    }
}

impl Openable for Files {
    fn create(&mut self) -> Fallible<Duration> {
        let start = Instant::now();
        let made = self.make(&self.made)?;
        let took = start.elapsed();
        drop(made);
        fs::remove_file(&self.made)?;
        Ok(took)
    }

    fn open_to_send(&mut self, number: u64) -> Fallible<Duration> {
        let start = Instant::now();
        let (_file, map) = self.open()?;
        map.first_word().store(number, Ordering::Relaxed);
        Ok(start.elapsed())
    }

    fn open_to_receive(&mut self, number: u64) -> Fallible<Duration> {
        self.open()?.1.first_word().store(number, Ordering::Relaxed);
        let start = Instant::now();
        let (_file, map) = self.open()?;
        let found = map.first_word().load(Ordering::Relaxed);
        let took = start.elapsed();
        match found == number {
            true => Ok(took),
            false => Err(format!("the file has {found} where {number} was written").into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Opening, RawFile};
    use crate::{
        jobs::lane::AnyLane,
        links::{backends::ShmSpsc, site::Ground},
        spec::{Job, LaneSpec, Shape, TransportId, Waiting},
    };
    use rstest::rstest;
    use std::{fs, slice};

    #[rstest]
    fn what_is_made_is_undone_and_what_is_opened_stays(
        #[values(TransportId::RawFile, TransportId::ShmSpsc)] transport: TransportId,
        #[values(Job::Create, Job::OpenToSend, Job::OpenToReceive)] job: Job,
    ) {
        let spec = LaneSpec { shape: Shape::Solo, ..LaneSpec::sample(transport, Waiting::Adaptive) };
        let site = Ground::new(slice::from_ref(&spec)).unwrap();
        let mut lane: Box<dyn AnyLane> = match transport {
            TransportId::RawFile => Box::new(RawFile::new(&spec, &site).unwrap()),
            _ => Box::new(Opening::<ShmSpsc>::new(&spec, &site).unwrap()),
        };
        for _ in 0..2 {
            let outcome = lane.run(job, 20).unwrap();
            assert_eq!(outcome.latencies_ns.iter().map(|(_, count)| count).sum::<u64>(), 20);
            assert!(outcome.latencies_ns.iter().all(|&(time_ns, _)| time_ns > 0));
        }
        assert_eq!(fs::read_dir(&site.directory).unwrap().count(), 2, "what is opened, and what is held");
        let directory = site.directory.clone();
        drop((lane, site));
        assert!(!directory.exists());
    }
}
