//! `ipc demo protect`: processes that spoil a channel, without protection and with it.
//!
//! Each is a real process, this program again, and what becomes of it and of the channel is
//! looked at from outside.

use super::scenery::Ink;
use crate::{
    commands::print,
    exit::{Ending, Exit, Failure},
    interrupt::Interrupt,
};
use ipc_core::{Channel as _, ChannelName, Receiver as _, Sender as _, Transport as _, Wait};
use ipc_shm::{
    Broadcast, ShmConfig, Spsc,
    protect::{Guarded, stray_store},
    sealed::{Listener, Peers, SealedConfig},
    sync::{LockError, Mutex, Shared, State},
};
use nix::{
    cmsg_space,
    sys::{
        memfd::{MFdFlags, memfd_create},
        signal::Signal,
        socket::{
            AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
            connect, recvmsg, sendmsg, socket,
        },
    },
};
use std::{
    error::Error,
    fs::{self, File},
    io::{BufRead as _, BufReader, IoSlice, IoSliceMut, Write as _},
    os::{
        fd::{AsRawFd as _, RawFd},
        unix::{
            fs::{DirBuilderExt as _, FileExt as _},
            process::ExitStatusExt as _,
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

type Act<T> = Result<T, Box<dyn Error>>;

/// Nothing here takes so long.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a stray store stores, and where that is in a channel's file.
const STRAY: u8 = 0xa5;
const STRAY_AT: u64 = 4095;
/// Where a ring's first record is in a channel of one sender, and what a forger writes there.
const FIRST_RECORD: u64 = 3 * 4096;
const FORGED: &[u8] = b"nobody sent this";

pub(crate) fn run(role: Option<&[String]>) -> Result<Ending, Failure> {
    let failed = |error: Box<dyn Error>| Failure::new(Exit::Failure, "demo", error);
    match role {
        Some([role, directory]) => play(role, Path::new(directory)).map_err(failed)?,
        Some(_) => unreachable!("the command line takes two"),
        None => {
            let interrupt = Interrupt::new().map_err(|error| Failure::io("demo", &error))?;
            interrupt.on_signals().map_err(|error| Failure::io("demo", &error))?;
            if let Err(error) = direct(&interrupt) {
                return interrupt.ending().ok_or_else(|| failed(error));
            }
        }
    }
    Ok(Ending::Done)
}

/// A directory for the channels, removed with all that is in it.
struct Place(PathBuf);

impl Place {
    fn new() -> std::io::Result<Self> {
        let path = std::env::temp_dir().join(format!("ipc-demo-{}", std::process::id()));
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    fn channel(&self) -> PathBuf {
        self.0.join("x")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn name() -> ChannelName {
    ChannelName::new("x").expect("a valid name")
}

fn direct(interrupt: &Interrupt) -> Act<()> {
    let (ink, place) = (Ink::for_stdout(), Place::new()?);
    let heading = |text: &str| print(&format!("{}\n", ink.heading(text))).map(drop).map_err(text_of);
    let line = |protection: &str, outcome: String| {
        if interrupt.cause().is_some() {
            return Err("interrupted".into());
        }
        let protection = ink.actor(format_args!("{protection:<30}"));
        print(&format!("  {protection} {outcome}\n")).map(drop).map_err(text_of)
    };

    heading("A reader stores to the channel's memory by mistake")?;
    line("without: a subscriber", stray(&place, "subscriber")?)?;
    line("with: an observer", stray(&place, "observer")?)?;

    heading("A stray pointer of a sender's own program")?;
    line("without: a sender", stray(&place, "sender")?)?;
    line("with: a guarded one", stray(&place, "guarded sender")?)?;

    heading("A peer truncates the channel")?;
    line("without: a named channel", spoil(&place, |file| file.set_len(0))?)?;
    line("with: a sealed one", attack(&place, "truncator")?)?;

    heading("A peer corrupts the channel")?;
    line("without: a named channel", spoil(&place, forge)?)?;
    line("with: a sealed one", attack(&place, "forger")?)?;

    heading("The holder of a lock dies")?;
    line("without: a plain flag", abandon_flag(&place)?)?;
    line("with: a mutex", abandon_mutex(&place)?)?;
    Ok(())
}

fn text_of(failure: Failure) -> Box<dyn Error> {
    failure.text().into()
}

/// A process of the scene.
fn start(place: &Place, role: &str) -> std::io::Result<Child> {
    Command::new(std::env::current_exe()?)
        .args(["demo", "protect", "--as", role])
        .arg(&place.0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
}

/// What a process says, and how it ends.
fn end(child: Child) -> Act<(String, Option<Signal>)> {
    let output = child.wait_with_output()?;
    let signal = output.status.signal().map(Signal::try_from).transpose()?;
    Ok((String::from_utf8(output.stdout)?.trim().to_owned(), signal))
}

/// What becomes of one who stores where it shouldn't, and of the channel.
fn stray(place: &Place, role: &str) -> Act<String> {
    let broadcasts = Broadcast::at(&place.0);
    let channel = broadcasts.create(&name(), &ShmConfig::new())?;
    let (_, signal) = end(start(place, role)?)?;
    let mut byte = [0];
    File::open(place.channel())?.read_exact_at(&mut byte, STRAY_AT)?;
    drop(channel);
    broadcasts.remove(&name())?;
    Ok(match (signal, byte[0]) {
        (None, STRAY) => "all see the byte that it stored".into(),
        (Some(signal), 0) => format!("{signal} ends it, not a byte changed"),
        other => return Err(format!("an end that isn't known: {other:?}").into()),
    })
}

/// What becomes of a receiver whose channel is spoiled by somebody who may write to the file.
fn spoil(place: &Place, how: impl FnOnce(&File) -> std::io::Result<()>) -> Act<String> {
    let spsc = Spsc::at(&place.0);
    let channel = spsc.create(&name(), &ShmConfig::new())?;
    let mut child = start(place, "receiver")?;
    let mut ready = String::new();
    BufReader::new(child.stdout.as_mut().ok_or("it has no output")?).read_line(&mut ready)?;
    how(&File::options().write(true).open(place.channel())?)?;
    child.stdin.take().ok_or("it has no input")?.write_all(b"\n")?;
    let (said, signal) = end(child)?;
    drop(channel);
    fs::remove_file(place.channel())?;
    Ok(match signal {
        Some(signal) => format!("{signal} ends the receiver"),
        None => format!("the receiver {said}"),
    })
}

/// A message as if somebody had sent it.
fn forge(file: &File) -> std::io::Result<()> {
    file.write_all_at(FORGED, FIRST_RECORD + 8)?;
    file.write_all_at(&((FORGED.len() as u64) << 8 | 1).to_ne_bytes(), FIRST_RECORD)
}

/// What becomes of a hostile receiver's attempt at what a sender gave it.
fn attack(place: &Place, role: &str) -> Act<String> {
    let listener = Listener::bind(place.0.join("socket"), Peers::ourselves())?;
    let child = start(place, role)?;
    let soon = || Wait::timeout(PATIENCE);
    let mut tx = listener.accept(soon())?.sender(&SealedConfig::new(), soon())?;
    tx.send_wait(b"as it was sent", soon())?;
    let (said, signal) = end(child)?;
    match signal {
        None => Ok(format!("{said}, the sender goes on")),
        Some(signal) => Err(format!("{signal} ended the attacker").into()),
    }
}

/// How long one looks for a flag to be lowered that never will be.
const LOOK: Duration = Duration::from_millis(200);

/// What becomes of one who waits for a flag in shared memory, when who raised it is dead.
fn abandon_flag(place: &Place) -> Act<String> {
    let state = State::at(&place.0);
    let mut flag = state.create::<Shared<u64>>("flag", || 0)?;
    die_with_it(place, "flag holder")?;
    let begin = Instant::now();
    let is_raised = loop {
        let is_raised = *flag.read()? != 0;
        if !is_raised || begin.elapsed() >= LOOK {
            break is_raised;
        }
        std::thread::yield_now();
    };
    drop(flag);
    state.remove("flag")?;
    match is_raised {
        true => Ok(format!("still raised after {} ms: a waiter hangs", LOOK.as_millis())),
        false => Err("somebody has lowered the flag".into()),
    }
}

/// What becomes of one who waits for a mutex, when who has it is dead.
fn abandon_mutex(place: &Place) -> Act<String> {
    let state = State::at(&place.0);
    let mutex = state.create::<Mutex<u64>>("mutex", || 0)?;
    die_with_it(place, "mutex holder")?;
    match mutex.lock_timeout(PATIENCE) {
        Err(LockError::OwnerDied) => {}
        Err(error) => return Err(error.into()),
        Ok(_) => return Err("it was taken over in silence".into()),
    }
    *mutex.lock_or_repair(|value| *value = 0)? += 1;
    drop(mutex);
    state.remove("mutex")?;
    Ok("the next one is told of it, and repairs".into())
}

/// Has a process take something, and kills it when it has it.
fn die_with_it(place: &Place, role: &str) -> Act<()> {
    let mut child = start(place, role)?;
    let mut ready = String::new();
    BufReader::new(child.stdout.as_mut().ok_or("it has no output")?).read_line(&mut ready)?;
    child.kill()?;
    child.wait()?;
    match ready.trim() {
        "ready" => Ok(()),
        said => Err(format!("the {role} ended: {said}").into()),
    }
}

/// Takes a lock, and is killed with it.
fn hold(directory: &Path, role: &str) -> Act<()> {
    let state = State::at(directory);
    if role == "flag holder" {
        state.open::<Shared<u64>>("flag")?.update(|flag| *flag = 1)?;
        return say_and_wait();
    }
    let mutex = state.open::<Mutex<u64>>("mutex")?;
    let mut value = mutex.lock()?;
    *value += 1;
    say_and_wait()
}

fn say_and_wait() -> Act<()> {
    say("ready")?;
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}

/// Plays a part.
fn play(role: &str, directory: &Path) -> Act<()> {
    let broadcast = || Broadcast::at(directory).open(&name());
    match role {
        "subscriber" => stray_store(&broadcast()?.receiver()?, STRAY),
        "observer" => stray_store(&Broadcast::at(directory).observe(&name())?, STRAY),
        "sender" => stray_store(&broadcast()?.sender()?, STRAY),
        "guarded sender" => stray_store(&Guarded::new(broadcast()?.sender()?)?, STRAY),
        "receiver" => receive(directory)?,
        "flag holder" | "mutex holder" => hold(directory, role)?,
        "truncator" => say(&answer(take_memory(directory)?.set_len(0)))?,
        "forger" => say(&answer(forge(&take_memory(directory)?)))?,
        other => return Err(format!("there is no such part: {other}").into()),
    }
    Ok(())
}

fn receive(directory: &Path) -> Act<()> {
    let mut rx = Spsc::at(directory).open(&name())?.receiver()?;
    say("ready")?;
    std::io::stdin().read_line(&mut String::new())?;
    let outcome = match rx.try_recv() {
        Ok(message) => format!("is given \"{}\"", String::from_utf8_lossy(&message)),
        Err(error) => format!("is told: {error}"),
    };
    say(&outcome)
}

fn say(text: &str) -> Act<()> {
    print(&format!("{text}\n")).map(drop).map_err(text_of)
}

fn answer(attempt: std::io::Result<()>) -> String {
    match attempt {
        Ok(()) => "it works".into(),
        Err(error) => {
            format!("refused ({:?})", nix::errno::Errno::from_raw(error.raw_os_error().unwrap_or(0)))
        }
    }
}

/// Does as a receiver does that is honest so far, and opens what it is given for writing.
fn take_memory(directory: &Path) -> Act<File> {
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    connect(socket.as_raw_fd(), &UnixAddr::new(&directory.join("socket"))?)?;
    let (mut greeting, mut space) = ([0; 64], cmsg_space!([RawFd; 1]));
    let mut parts = [IoSliceMut::new(&mut greeting)];
    let message = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty())?;
    let given = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::ScmRights(numbers) => numbers.first().copied(),
        _ => None,
    });
    let len = message.bytes;
    let given = given.ok_or("it was given nothing")?;
    // The answer: the same greeting, of one who receives, with a page that is sealed alike.
    greeting[16..20].copy_from_slice(&2_u32.to_ne_bytes());
    greeting[32..40].fill(0);
    let page = memfd_create(c"page", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let page = File::from(page);
    page.write_all_at(&[0; 4096], 0)?;
    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    const FUTURE_WRITE: i32 = 0x10;
    let seals = SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
    fcntl(&page, FcntlArg::F_ADD_SEALS(seals | SealFlag::from_bits_retain(FUTURE_WRITE)))?;
    let rights = [page.as_raw_fd()];
    let parts = [IoSlice::new(&greeting[..len])];
    sendmsg::<UnixAddr>(
        socket.as_raw_fd(),
        &parts,
        &[ControlMessage::ScmRights(&rights)],
        MsgFlags::empty(),
        None,
    )?;
    Ok(File::options().read(true).write(true).open(format!("/proc/self/fd/{given}"))?)
}
