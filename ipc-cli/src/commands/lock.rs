//! `ipc lock`: runs a command that nobody else runs meanwhile, as flock(1) does.

use super::RETRY;
use crate::{
    address::{Address, Scheme},
    args,
    child::Child,
    exit::{Ending, Exit, Failure},
    interrupt::Interrupt,
};
use ipc_core::{ChannelError, Wait};
use ipc_shm::sync::{Lock, LockError, MutexGuard, State};
use std::{
    io,
    os::unix::process::ExitStatusExt,
    time::{Duration, Instant},
};

/// So many can have a lock or wait for it at once, if we make it. Each place costs 256 bytes,
/// whether it is taken or not; who finds none waits for that.
const PLACES: u32 = 512;

pub(crate) fn run(options: &args::Lock) -> Result<Ending, Failure> {
    let address = &options.address;
    if address.scheme != Scheme::Shm {
        return Err(Failure::new(Exit::Usage, address, "only shm: has locks"));
    }
    let of_command = |error| Failure::io(&options.command[0].to_string_lossy(), &error);
    let interrupt = Interrupt::new().map_err(of_command)?;
    interrupt.on_all_signals().map_err(of_command)?;
    let timeout = if options.r#try { Some(Duration::ZERO) } else { options.timeout };
    let wait = interrupt.wait(timeout);
    let opened = open(address, &interrupt, wait)?;
    let Some(mut lock) = opened else { return Ok(interrupt.ending().unwrap_or(Ending::Done)) };
    lock.set_timed(true);
    let guard = match take(&lock, address, options.repair, wait) {
        Ok(guard) => guard,
        Err(LockError::Cancelled) => return Ok(interrupt.ending().unwrap_or(Ending::Done)),
        Err(error) => return Err(failure(address, &lock, &error)),
    };
    let ending = run_command(options, &interrupt).map_err(of_command);
    drop(guard);
    ending
}

/// Opens the lock, or makes it. Where all its places are taken, those who have them will be done
/// before long, so it is tried again. `None` if a cause to end came first.
fn open(address: &Address, interrupt: &Interrupt, wait: Wait<'_>) -> Result<Option<Lock>, Failure> {
    let state = State::new().participants(PLACES);
    let name = address.name.as_str();
    loop {
        let error = match state.open_or_create::<Lock>(name, || ()) {
            Ok(lock) => return Ok(Some(lock)),
            Err(error) => error,
        };
        // The other limits are met by those who make it.
        if !matches!(error, ChannelError::Limit(_)) || state.stat(name).is_err() {
            return Err(Failure::channel(address, &error));
        }
        if interrupt.cause().is_some() {
            return Ok(None);
        }
        if matches!(wait, Wait::Never) || wait.deadline().is_some_and(|until| until <= Instant::now()) {
            let what = format_args!(
                "as many have it or wait for it as it has places; see them with: ipc stat {address}. A \
                 program can make it with more (State::participants)"
            );
            return Err(Failure::new(Exit::TimedOut, address, what));
        }
        interrupt.pause(RETRY).map_err(|error| Failure::new(Exit::Failure, address, error))?;
    }
}

/// Takes the lock. A dead owner is said, and so is what becomes of it.
fn take<'a>(
    lock: &'a Lock,
    address: &Address,
    repair: bool,
    wait: Wait<'_>,
) -> Result<MutexGuard<'a, ()>, LockError> {
    loop {
        match lock.lock_wait(wait) {
            Err(LockError::OwnerDied) if lock.value_bytes() == 0 || repair => {}
            other => return other,
        }
        // Somebody else may be faster.
        if let Some(recovery) = lock.recover()? {
            // First repaired, then said: to say it may take long, or fail.
            let guard = recovery.repaired();
            let what = "its last owner died with it; it goes on as if it had been given back";
            Failure::new(Exit::Failure, address, what).report();
            return Ok(guard);
        }
    }
}

fn failure(address: &Address, lock: &Lock, error: &LockError) -> Failure {
    let bytes = lock.value_bytes();
    match error {
        LockError::WouldBlock | LockError::TimedOut => Failure::new(
            Exit::TimedOut,
            address,
            format_args!("{error}; see who has it with: ipc stat {address}"),
        ),
        LockError::OwnerDied => Failure::new(
            Exit::Corrupt,
            address,
            format_args!(
                "its last owner died with it and may have left its {bytes} bytes half changed: have them \
                 repaired by a program that knows them, or take them as they are with --repair"
            ),
        ),
        LockError::Poisoned | LockError::Corrupt(_) => {
            Failure::new(Exit::Corrupt, address, format_args!("{error}; remove it with: ipc rm {address}"))
        }
        LockError::Closed => Failure::new(Exit::NoSuchChannel, address, error),
        error => Failure::new(Exit::Failure, address, error),
    }
}

/// Runs the command to its end, which is ours.
fn run_command(options: &args::Lock, interrupt: &Interrupt) -> io::Result<Ending> {
    let Some(child) = Child::start(&options.command, interrupt)? else {
        return Ok(interrupt.ending().unwrap_or(Ending::Done));
    };
    let status = child.wait()?;
    Ok(match (status.code(), status.signal()) {
        (Some(code), _) => Ending::Code(code as u8),
        (None, Some(number)) => Ending::Signal(number),
        (None, None) => Ending::Done,
    })
}
