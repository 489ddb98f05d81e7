//! `ipc lock`: runs a command that nobody else runs meanwhile, as flock(1) does.

use crate::{
    address::{Address, Scheme},
    args,
    child::Child,
    exit::{Ending, Exit, Failure},
    interrupt::Interrupt,
};
use ipc_shm::sync::{Lock, LockError, MutexGuard, State};
use std::{io, os::unix::process::ExitStatusExt, time::Duration};

pub(crate) fn run(options: &args::Lock) -> Result<Ending, Failure> {
    let address = &options.address;
    if address.scheme != Scheme::Shm {
        return Err(Failure::new(Exit::Usage, address, "only shm: has locks"));
    }
    let of_command = |error| Failure::io(&options.command[0].to_string_lossy(), &error);
    let interrupt = Interrupt::new().map_err(of_command)?;
    interrupt.on_all_signals().map_err(of_command)?;
    let mut lock = State::new()
        .open_or_create::<Lock>(address.name.as_str(), || ())
        .map_err(|error| Failure::channel(address, &error))?;
    lock.set_timed(true);
    let timeout = if options.r#try { Some(Duration::ZERO) } else { options.timeout };
    let guard = match take(&lock, address, options.repair, &interrupt, timeout) {
        Ok(guard) => guard,
        Err(LockError::Cancelled) => return Ok(interrupt.ending().unwrap_or(Ending::Done)),
        Err(error) => return Err(failure(address, &lock, &error)),
    };
    let ending = run_command(options, &interrupt).map_err(of_command);
    drop(guard);
    ending
}

/// Takes the lock. A dead owner is said, and so is what becomes of it.
fn take<'a>(
    lock: &'a Lock,
    address: &Address,
    repair: bool,
    interrupt: &Interrupt,
    timeout: Option<Duration>,
) -> Result<MutexGuard<'a, ()>, LockError> {
    loop {
        match lock.lock_wait(interrupt.wait(timeout)) {
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
