//! Each system call of an operation fails, one at a time: that is an error which names it, or
//! doesn't matter; nothing is leaked, and the next try works.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod common;

use common::{
    alone,
    faults::{fail, known, mark},
    fresh_name, skip,
};
use ipc_core::Wait;
use ipc_mq::{
    Cancel, Channel, ChannelError, ChannelName, Mq, MqConfig, OsError, Receiver, RecvError, SendError,
    Sender, Sysv, SysvConfig, Transport, Unix, UnixConfig,
};
use nix::{
    errno::Errno,
    libc::c_long,
    sched::{CloneFlags, unshare},
    unistd::pipe,
};
use std::{
    fs::{self, File},
    io::{Read, Write},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// What fails a call: memory, descriptors or permission are missing, or a signal comes.
const FAULTS: [Errno; 4] = [Errno::ENOMEM, Errno::EMFILE, Errno::EACCES, Errno::EINTR];

/// Long enough for a message that is there.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long somebody waits in vain.
const IN_VAIN: Duration = Duration::from_millis(5);

/// What an operation answers: the failed call's name if the error has it, or its words.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    Well,
    Failed {
        call: String,
        text: String,
    },
    Explained(String),
    /// Something else, which isn't true.
    Untrue(String),
}

impl Answer {
    fn to_text(&self) -> String {
        match self {
            Self::Well => "well".into(),
            Self::Failed { call, text } => format!("failed\n{call}\n{text}"),
            Self::Explained(text) => format!("explained\n{text}"),
            Self::Untrue(text) => format!("untrue\n{text}"),
        }
    }

    fn of_text(text: &str) -> Self {
        let mut parts = text.splitn(2, '\n');
        let (kind, rest) = (parts.next().unwrap(), parts.next().unwrap_or_default().to_owned());
        match kind {
            "well" => Self::Well,
            "failed" => {
                let (call, text) = rest.split_once('\n').unwrap();
                Self::Failed { call: call.into(), text: text.into() }
            }
            "explained" => Self::Explained(rest),
            _ => Self::Untrue(rest),
        }
    }
}

impl From<OsError> for Answer {
    fn from(error: OsError) -> Self {
        Self::Failed { call: error.call.into(), text: error.to_string() }
    }
}

impl From<ChannelError> for Answer {
    fn from(error: ChannelError) -> Self {
        match error {
            ChannelError::Os(error) => error.into(),
            ChannelError::Limit(text)
            | ChannelError::NotPermitted(text)
            | ChannelError::Unsupported(text) => Self::Explained(text),
            other => Self::Untrue(other.to_string()),
        }
    }
}

impl From<SendError> for Answer {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Os(error) => error.into(),
            other => Self::Untrue(other.to_string()),
        }
    }
}

impl From<RecvError> for Answer {
    fn from(error: RecvError) -> Self {
        match error {
            RecvError::Os(error) => error.into(),
            other => Self::Untrue(other.to_string()),
        }
    }
}

type Act = Result<(), Answer>;

/// What was made is dropped, which takes system calls too.
fn done<T, E: Into<Answer>>(result: Result<T, E>) -> Act {
    result.map(drop).map_err(Into::into)
}

/// What is there to be leaked, in an IPC namespace and a directory of the test's own.
struct World {
    directory: PathBuf,
    failed: usize,
    didnt_matter: usize,
    wrong: Vec<String>,
}

impl World {
    /// For a process of its own. `None` where there are no namespaces to be had.
    fn new() -> Option<Self> {
        if unshare(CloneFlags::CLONE_NEWIPC).is_err() {
            skip("it takes an IPC namespace of one's own");
            return None;
        }
        let directory = std::env::temp_dir().join(fresh_name().as_str());
        fs::create_dir(&directory).unwrap();
        // SAFETY: this process has one test and nobody else who reads its environment.
        unsafe { std::env::set_var("IPC_DIR", &directory) };
        Some(Self { directory, failed: 0, didnt_matter: 0, wrong: Vec::new() })
    }

    /// Lets `act` fail at each of its system calls, in a process of its own that `prepare`d it
    /// there. It is tried again where it failed, and must go well then; `check` looks at what it
    /// has done, and what it made is gone afterwards.
    fn fail<P>(
        &mut self,
        what: &str,
        name: &ChannelName,
        prepare: impl Fn() -> P,
        act: impl Fn(&mut P) -> Act,
        check: impl Fn(P),
    ) {
        for errno in FAULTS {
            for nth in 0.. {
                let before = look(&self.directory, name);
                let (reader, writer) = pipe().unwrap();
                let failed = fail(nth, errno, || {
                    let descriptors = descriptors(&self.directory);
                    let mut prepared = prepare();
                    let there = look(&self.directory, name);
                    mark();
                    let answer = act(&mut prepared);
                    mark();
                    if answer.is_err() {
                        let left = look(&self.directory, name);
                        let is_new = |thing: &&String| !there.contains(thing);
                        assert_eq!(left.iter().find(is_new), None, "is left by what failed: {what}");
                        assert_eq!(act(&mut prepared), Ok(()), "the next try of: {what}");
                    }
                    check(prepared);
                    // Some are closed on a thread apart.
                    let start = Instant::now();
                    while self::descriptors(&self.directory) != descriptors && start.elapsed() < PATIENCE {
                        thread::yield_now();
                    }
                    assert_eq!(self::descriptors(&self.directory), descriptors, "after {what}");
                    let answer = answer.err().unwrap_or(Answer::Well).to_text();
                    File::from(writer.try_clone().unwrap()).write_all(answer.as_bytes()).unwrap();
                });
                drop(writer);
                let mut answer = String::new();
                File::from(reader).read_to_string(&mut answer).unwrap();
                let answer = Answer::of_text(&answer);
                let fault = failed.call.map(|call| format!("{} answers {errno:?}", known(call).names[0]));
                let mut wrong = |what_is: &str| {
                    self.wrong.push(format!("{what}, {fault:?}, {answer:?}: {what_is}"));
                };
                if !failed.well {
                    wrong("panicked, or hung");
                }
                let after = look(&self.directory, name);
                if after != before {
                    wrong(&format!("has left things behind: {before:?} {after:?}"));
                }
                let Some(call) = failed.call else {
                    if answer != Answer::Well {
                        wrong("no call failed");
                    }
                    break;
                };
                if !is_right(call, errno, &answer) {
                    wrong("isn't what has happened");
                }
                self.failed += 1;
                self.didnt_matter += usize::from(answer == Answer::Well);
            }
        }
    }

    fn report(&self, scheme: &str) {
        let Self { failed, didnt_matter, .. } = self;
        println!("{scheme}: {failed} system calls failed, {} of them for all to see", failed - didnt_matter);
        assert!(*failed > *didnt_matter && self.wrong.is_empty(), "{:#?}", self.wrong);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The files, the System V queues, and the POSIX queue of this name if there is one.
fn look(directory: &Path, name: &ChannelName) -> Vec<String> {
    let mut all = names_in(&directory.join(".mq"));
    all.sort();
    all.extend(Sysv::new().all_queues().unwrap().iter().map(|queue| format!("System V queue {}", queue.id)));
    if !matches!(Mq::new().open(name), Err(ChannelError::NotFound)) {
        all.push(format!("POSIX queue {name}"));
    }
    all
}

/// Whether the answer is true: the error names the call, or says in words what is missing. An
/// interruption is none.
fn is_right(call: c_long, errno: Errno, answer: &Answer) -> bool {
    let known = known(call);
    match answer {
        Answer::Well => true,
        _ if errno == Errno::EINTR && known.is_interruptible => false,
        Answer::Failed { call, text } => known.names.contains(&&**call) && text.contains(call),
        Answer::Explained(text) => !text.is_empty(),
        Answer::Untrue(_) => false,
    }
}

/// What this process has open, but for what this is read from, and one descriptor of the directory,
/// which the transport keeps.
fn descriptors(directory: &Path) -> Vec<String> {
    let (mut others, mut kept) = (Vec::new(), 0);
    for name in names_in(Path::new("/proc/self/fd")) {
        // Its own is closed by now.
        let Ok(leads_to) = fs::read_link(Path::new("/proc/self/fd").join(&name)) else { continue };
        kept += usize::from(leads_to == directory.join(".mq"));
        if leads_to != directory.join(".mq") || kept > 1 {
            others.push(name);
        }
    }
    others
}

fn names_in(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// What all of them can do.
fn fail_all<T: Transport>(world: &mut World, transport: &T, config: &T::Config, long: &[u8]) {
    let name = &fresh_name();
    let nothing = |()| {};
    let remove = || transport.remove(name).unwrap();
    for (what, config) in [("create", config), ("create by default", &T::Config::default())] {
        let create = |_: &mut ()| done(transport.create(name, config));
        world.fail(what, name, || {}, create, |()| remove());
    }
    let create = || drop(transport.create(name, config).unwrap());
    world.fail("remove", name, || (create(), false), |(_, tried)| removed(transport, name, tried), |_| {});

    // What a receiver leaves, it leaves once.
    drop(transport.create(name, config).unwrap().receiver().unwrap());
    world.fail("open", name, || {}, |()| done(transport.open(name)), nothing);
    world.fail("open or create", name, || {}, |()| done(transport.open_or_create(name, config)), nothing);
    world.fail("stat", name, || {}, |()| done(transport.stat(name)), nothing);
    world.fail("list", name, || {}, |()| done(transport.list()), nothing);
    let open = || transport.open(name).unwrap();
    world.fail(
        "sender",
        name,
        open,
        |channel| done(channel.sender().and_then(|one| Ok((one, channel.sender()?)))),
        drop,
    );
    world.fail("receiver", name, open, |channel| done(channel.receiver()), drop);

    let ends = || {
        let channel = open();
        (channel.receiver().unwrap(), channel.sender().unwrap())
    };
    for (length, message) in [("", &b"message"[..]), (" of a long one", long)] {
        for deadline in ["", " by a deadline"] {
            let wait = || if deadline.is_empty() { Wait::Forever } else { Wait::timeout(PATIENCE) };
            let what = format!("send{length}{deadline}");
            world.fail(
                &what,
                name,
                ends,
                |(_, tx)| done(tx.send_wait(message, wait())),
                |(mut rx, _tx)| {
                    assert_eq!(&*rx.recv().unwrap(), message, "{what}");
                    assert!(matches!(rx.try_recv(), Err(RecvError::WouldBlock)), "{what}: it was sent twice");
                },
            );
            let what = format!("receive{length}{deadline}");
            let sent = || {
                let (rx, mut tx) = ends();
                tx.try_send(message).unwrap();
                (rx, tx)
            };
            world.fail(
                &what,
                name,
                sent,
                |(rx, _)| done(rx.advance(wait())),
                |(mut rx, _tx)| {
                    assert_eq!(&*rx.try_recv().unwrap(), message, "{what}");
                    assert!(matches!(rx.try_recv(), Err(RecvError::WouldBlock)), "{what}: there are two");
                },
            );
        }
    }
    let cancel = Cancel::new();
    let in_vain = || Wait::timeout(IN_VAIN).or_cancel(&cancel);
    let full = || {
        let (rx, mut tx) = ends();
        while tx.try_send(b"message").is_ok() {}
        (rx, tx)
    };
    let send = |(_, tx): &mut (_, <T::Channel as Channel>::Sender)| match tx.send_wait(b"late", in_vain()) {
        Err(SendError::TimedOut) => Ok(()),
        answer => done(answer),
    };
    world.fail("send to a full channel", name, full, send, |(mut rx, _tx)| while rx.try_recv().is_ok() {});
    let receive = |(rx, _): &mut (<T::Channel as Channel>::Receiver, _)| match rx.advance(in_vain()) {
        Err(RecvError::TimedOut) => Ok(()),
        answer => done(answer),
    };
    world.fail("receive from an empty channel", name, ends, receive, drop);
    if !T::CAPABILITIES.stores {
        let alone = || ((), open().sender().unwrap());
        world.fail(
            "send to nobody",
            name,
            alone,
            |(_, tx)| match tx.send_wait(b"late", in_vain()) {
                Err(SendError::TimedOut) => Ok(()),
                answer => done(answer),
            },
            drop,
        );
    }
    remove();
}

/// That it is gone when it was half removed before is no failure.
fn removed<T: Transport>(transport: &T, name: &ChannelName, tried: &mut bool) -> Act {
    match transport.remove(name) {
        Err(ChannelError::NotFound) if *tried => Ok(()),
        answer => {
            *tried = true;
            done(answer)
        }
    }
}

#[test]
fn each_call_on_a_posix_queue_fails() {
    alone("each_call_on_a_posix_queue_fails", || {
        let Some(mut world) = World::new() else { return };
        let config = MqConfig::new().depth(2).max_message_len(64).mode(0o622);
        fail_all(&mut world, &Mq::new(), &config, &[1; 64]);
        world.report("mq");
    });
}

#[test]
fn each_call_on_a_system_v_queue_fails() {
    alone("each_call_on_a_system_v_queue_fails", || {
        let Some(mut world) = World::new() else { return };
        let config = SysvConfig::new().depth(2).max_message_len(64);
        fail_all(&mut world, &Sysv::new(), &config, &[1; 64]);
        world.report("sysv");
    });
}

#[test]
fn each_call_on_a_socket_fails() {
    alone("each_call_on_a_socket_fails", || {
        let Some(mut world) = World::new() else { return };
        let config = UnixConfig::new().buffer_bytes(8192).mode(0o622);
        fail_all(&mut world, &Unix::new(), &config, &[1; 100_000]);
        world.report("unix");
    });
}
