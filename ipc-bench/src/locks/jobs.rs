//! What the two processes do.

use super::pthread::RobustMutex;
use crate::{stats, trouble::Fallible};
use ipc_core::{Channel as _, ChannelName, Transport as _};
use ipc_shm::{
    Latest, LatestReader, ShmConfig,
    protect::Guarded,
    sync::{LockError, Mutex, RwLock, Shared, SharedReader, State},
};
use nix::unistd::getppid;
use serde::{Deserialize, Serialize};
use std::{
    convert::Infallible,
    error::Error,
    hint::black_box,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// Something to be done over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) enum Job {
    /// `parking_lot::Mutex`, by one.
    ParkingLot,
    /// Our mutex, by one.
    Mutex,
    /// A robust `pthread` mutex, by one.
    Pthread,
    /// Our mutex, by both.
    MutexContended,
    /// A robust `pthread` mutex, by both.
    PthreadContended,
    /// Our mutex, by both, each wait timed.
    MutexWaits,
    /// A robust `pthread` mutex, by both, each wait timed.
    PthreadWaits,
    /// Our read lock, by one.
    Read,
    /// Our read lock, by both.
    ReadTogether,
    /// A plain load of 8 bytes.
    Load,
    /// A read of a shared value of 8 bytes, unchanged, by the read-only mapping.
    SharedRead,
    /// A write window of a guarded endpoint, opened and closed, with nothing done within.
    Window,
    /// The system call that does least, twice, as a window takes two.
    TwoCalls,
}

impl Job {
    pub(crate) const ALL: &'static [Self] = &[
        Self::ParkingLot,
        Self::Mutex,
        Self::Pthread,
        Self::MutexContended,
        Self::PthreadContended,
        Self::MutexWaits,
        Self::PthreadWaits,
        Self::Read,
        Self::ReadTogether,
        Self::Load,
        Self::SharedRead,
        Self::Window,
        Self::TwoCalls,
    ];

    /// Whether both processes do it at once.
    pub(crate) fn is_shared(self) -> bool {
        use Job::{MutexContended, MutexWaits, PthreadContended, PthreadWaits, ReadTogether};
        matches!(self, MutexContended | PthreadContended | MutexWaits | PthreadWaits | ReadTogether)
    }
}

/// What came of it in one process.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Outcome {
    pub(crate) operations: u64,
    pub(crate) took_ns: u64,
    /// Of what is timed one by one: how long the slowest of a hundred took.
    pub(crate) wait_p99_ns: u64,
}

/// Everything, open.
pub(crate) struct Bench {
    parking_lot: parking_lot::Mutex<u64>,
    pthread: RobustMutex,
    mutex: Mutex<u64>,
    rwlock: RwLock<u64>,
    reader: SharedReader<u64>,
    _shared: Shared<u64>,
    plain: Box<AtomicU64>,
    guarded: Guarded<LatestReader>,
}

/// Operations between two looks at the clock.
const BURST: u64 = 64;

impl Bench {
    pub(crate) fn open(directory: &Path) -> Fallible<Self> {
        let state = State::at(directory);
        let shared = state.open_or_create("shared", || 1)?;
        Ok(Self {
            parking_lot: parking_lot::Mutex::new(0),
            pthread: RobustMutex::open(directory)?,
            mutex: state.open_or_create("mutex", || 0)?,
            rwlock: state.open_or_create("rwlock", || 0)?,
            reader: state.reader("shared")?,
            _shared: shared,
            plain: Box::new(AtomicU64::new(1)),
            guarded: guarded(directory)?,
        })
    }

    pub(crate) fn run(&mut self, job: Job, slice_ms: u64) -> Fallible<Outcome> {
        let slice = Duration::from_millis(slice_ms);
        let Self { parking_lot, pthread, mutex, rwlock, reader, plain, guarded, .. } = self;
        match job {
            Job::ParkingLot => repeat(slice, || {
                *black_box(&*parking_lot).lock() += 1;
                Ok::<_, Infallible>(())
            }),
            Job::Mutex | Job::MutexContended => repeat(slice, || {
                *black_box(&*mutex).lock()? += 1;
                Ok::<_, LockError>(())
            }),
            Job::Pthread | Job::PthreadContended => repeat(slice, || black_box(&*pthread).add()),
            Job::MutexWaits => timed(slice, || {
                *mutex.lock()? += 1;
                Ok(())
            }),
            Job::PthreadWaits => timed(slice, || Ok(pthread.add()?)),
            Job::Read | Job::ReadTogether => repeat(slice, || {
                black_box(*black_box(&*rwlock).read()?);
                Ok::<_, LockError>(())
            }),
            Job::Load => repeat(slice, || {
                black_box(black_box(&*plain).load(Ordering::Relaxed));
                Ok::<_, Infallible>(())
            }),
            Job::SharedRead => repeat(slice, || {
                black_box(*black_box(&mut *reader).read()?);
                Ok::<_, LockError>(())
            }),
            Job::Window => repeat(slice, || {
                guarded.with_write(|endpoint| {
                    black_box(endpoint);
                })
            }),
            Job::TwoCalls => repeat(slice, || {
                black_box((getppid(), getppid()));
                Ok::<_, Infallible>(())
            }),
        }
    }
}

/// An endpoint of a channel of the default size, which each process has for itself.
fn guarded(directory: &Path) -> Fallible<Guarded<LatestReader>> {
    let name = ChannelName::new(&format!("window-{}", std::process::id()))?;
    let channel = Latest::at(directory).create(&name, &ShmConfig::new())?;
    Ok(Guarded::new(channel.receiver()?)?)
}

/// Does it for as long as that.
#[inline]
fn repeat<E: Into<Box<dyn Error + Send + Sync>>>(
    slice: Duration,
    mut operation: impl FnMut() -> Result<(), E>,
) -> Fallible<Outcome> {
    let begin = Instant::now();
    let mut operations = 0;
    loop {
        for _ in 0..BURST {
            operation().map_err(Into::into)?;
        }
        operations += BURST;
        let took = begin.elapsed();
        if took >= slice {
            return Ok(Outcome { operations, took_ns: took.as_nanos() as u64, wait_p99_ns: 0 });
        }
    }
}

/// The same, each of them timed.
fn timed(slice: Duration, mut operation: impl FnMut() -> Fallible<()>) -> Fallible<Outcome> {
    let begin = Instant::now();
    let mut waits = stats::histogram();
    let mut last = begin;
    while last - begin < slice {
        operation()?;
        let now = Instant::now();
        waits.saturating_record((now - last).as_nanos() as u64);
        last = now;
    }
    Ok(Outcome {
        operations: waits.len(),
        took_ns: (last - begin).as_nanos() as u64,
        wait_p99_ns: waits.value_at_quantile(0.99),
    })
}
