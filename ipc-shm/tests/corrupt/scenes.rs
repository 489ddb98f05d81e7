//! Channels of every kind, as they are when a byte of them goes wrong: in the states that
//! use, death and repair leave behind, and with those in front who have them open.

use crate::{
    common::{fork_child, name},
    users::{self, Opened},
};
use ipc_shm::{
    BatchReceiver, Channel, ChannelError, Client, EndMark, Kind, Receiver, RecvError, Request, Rpc,
    RpcChannel, SendError, Sender, Server, Shm, ShmChannel, ShmConfig, Transport, Wait, WhenFull,
};
use nix::sys::{
    signal::{Signal, raise},
    wait::WaitStatus,
};
use std::{
    fs::{self, File},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
};

/// What is in the channel, and who was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// As it was made.
    Fresh,
    /// Messages of several lengths and an end mark.
    Waiting,
    /// The same, after many that were received.
    GoneRound,
    /// No room is left, or the oldest are being dropped.
    Full,
    /// Whoever held messages and had claimed room was killed.
    LeftByTheDead,
    /// That was put in order.
    Repaired,
}

impl State {
    pub(crate) const ALL: [Self; 6] =
        [Self::Fresh, Self::Waiting, Self::GoneRound, Self::Full, Self::LeftByTheDead, Self::Repaired];

    /// Brings a fresh service there. What its clients want goes with them, unless they die.
    fn reach_by_calls(self, rpc: &Rpc, service: &RpcChannel) {
        match self {
            Self::Fresh => {}
            Self::GoneRound => make_calls(service),
            Self::Waiting => be_killed_in_calls(rpc, 2),
            Self::Full => be_killed_in_calls(rpc, 4),
            Self::LeftByTheDead => {
                make_calls(service);
                be_killed_in_calls(rpc, 3);
            }
            Self::Repaired => {
                Self::LeftByTheDead.reach_by_calls(rpc, service);
                drop((service.client().unwrap(), service.server().unwrap()));
            }
        }
    }

    /// Brings a fresh channel there.
    fn reach(self, shm: &Shm, channel: &ShmChannel) {
        match self {
            Self::Fresh => {}
            Self::Waiting => fill(channel),
            Self::GoneRound => {
                go_round(channel);
                fill(channel);
            }
            Self::Full => {
                go_round(channel);
                let mut tx = channel.sender().unwrap();
                let len = tx.max_message_len().min(500);
                for _ in 0..40 {
                    match tx.try_send(&vec![5; len]) {
                        Ok(()) => {}
                        Err(SendError::WouldBlock) => break,
                        Err(error) => panic!("{error:?}"),
                    }
                }
            }
            Self::LeftByTheDead => {
                go_round(channel);
                be_killed_in_there(shm);
            }
            Self::Repaired => {
                Self::LeftByTheDead.reach(shm, channel);
                // Whoever comes puts it in order; what one of them receives first, it keeps.
                let (_tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
                match rx.advance(Wait::Never) {
                    Ok(()) | Err(RecvError::WouldBlock) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
        }
    }
}

/// So many messages that every ring has begun again.
fn go_round(channel: &ShmChannel) {
    let (mut rx, mut tx) = (channel.receiver().unwrap(), channel.sender().unwrap());
    let len = tx.max_message_len().min(1000);
    for _ in 0..30 {
        tx.try_send(&vec![1; len]).unwrap();
        rx.try_recv().unwrap();
    }
}

/// One of them may lie over a ring's end.
fn fill(channel: &ShmChannel) {
    let mut tx = channel.sender().unwrap();
    let longest = tx.max_message_len();
    tx.try_send(b"a message").unwrap();
    tx.try_send(&vec![2; longest.min(700)]).unwrap();
    tx.try_send(b"").unwrap();
    tx.send_end(Wait::Never).unwrap();
    tx.try_send(b"the last").unwrap();
}

/// A process that uses the channel and is killed while it holds all that can be held.
fn be_killed_in_there(shm: &Shm) {
    killed(|| {
        let channel = shm.open(&name(NAME)).unwrap();
        let (mut rx, mut tx) = (channel.receiver().unwrap(), channel.sender().unwrap());
        for number in 0..4 {
            tx.try_send(&[number; 20]).unwrap();
        }
        rx.advance_batch(2, Wait::Never).unwrap();
        tx.reserve(30, Wait::Never).unwrap();
        raise(Signal::SIGKILL).unwrap();
    });
}

fn make_calls(service: &RpcChannel) {
    let (mut client, mut server) = (service.client().unwrap(), service.server().unwrap());
    for _ in 0..6 {
        let ticket = client.submit(b"a request", Wait::Never).unwrap();
        server.next(Wait::Never).unwrap().respond(b"an answer").unwrap();
        assert_eq!(*client.collect(ticket, Wait::Never).unwrap(), *b"an answer");
    }
}

/// A process that is client and server, and is killed when it has made so many requests,
/// answered the first one and taken the next.
fn be_killed_in_calls(rpc: &Rpc, requests: u8) {
    killed(|| {
        let service = rpc.open(&name(NAME)).unwrap();
        let (mut client, mut server) = (service.client().unwrap(), service.server().unwrap());
        let tickets: Vec<_> =
            (0..requests).map(|number| client.submit(&[number; 20], Wait::Never).unwrap()).collect();
        server.next(Wait::Never).unwrap().respond(b"an answer").unwrap();
        server.advance(Wait::Never).unwrap();
        raise(Signal::SIGKILL).unwrap();
        drop(tickets);
    });
}

fn killed(body: impl FnOnce()) {
    let child = fork_child(body);
    let pid = child.0;
    assert_eq!(child.ended(), WaitStatus::Signaled(pid, Signal::SIGKILL, false));
}

/// When the damage is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// Before they attach.
    Before,
    /// While they are attached.
    Attached,
    /// While they hold messages, and room for one.
    Holding,
}

impl When {
    pub(crate) const ALL: [Self; 3] = [Self::Before, Self::Attached, Self::Holding];
}

const NAME: &str = "x";

/// The ways to make a small channel of a kind that make a difference, by their names.
///
/// A new kind has one without a line here: as it is made by default, but small.
pub(crate) fn variants(kind: Kind) -> Vec<(String, ShmConfig)> {
    let small = ShmConfig::new().kind(kind);
    let small = match kind {
        Kind::Spsc => small.capacity_bytes(4096),
        Kind::Mpmc => small.participants(4).depth(5).max_message_len(100).max_deliveries(3),
        Kind::Broadcast => small.participants(4).publishers(2).capacity_bytes(4096),
        Kind::Latest => small.participants(4).depth(3).max_message_len(200),
        Kind::Rpc => small.participants(4).depth(4).max_message_len(100),
        _ => smallest(small.participants(6)),
    };
    let policies = match kind {
        Kind::Spsc | Kind::Rpc => &[WhenFull::Wait][..],
        Kind::Mpmc | Kind::Broadcast => &[WhenFull::Wait, WhenFull::DropOldest],
        _ => WhenFull::ALL,
    };
    let mut variants: Vec<_> = policies
        .iter()
        .map(|&policy| (format!("{kind}, {policy}"), small.clone().when_full(policy)))
        .filter(|(_, config)| is_possible(config))
        .collect();
    if variants.is_empty() {
        variants.push((kind.to_string(), small));
    }
    variants
}

/// The smallest one of a kind whose settings aren't known here.
fn smallest(config: ShmConfig) -> ShmConfig {
    let ways = [
        config.clone().capacity_bytes(4096).publishers(2),
        config.clone().depth(4).max_message_len(200),
        config.clone().capacity_bytes(4096),
    ];
    ways.into_iter().find(is_possible).unwrap_or(config)
}

fn is_possible(config: &ShmConfig) -> bool {
    let arena = crate::common::Arena::new();
    match Shm::at(arena.path()).create(&name(NAME), config) {
        Ok(_) => true,
        Err(ChannelError::InvalidConfig(_)) => false,
        Err(error) => panic!("{error:?}"),
    }
}

/// A channel that is made as it was in some state, spoiled, and used, again and again.
pub(crate) struct Stage {
    shm: Shm,
    rpc: Rpc,
    path: PathBuf,
    file: File,
    config: ShmConfig,
}

impl Stage {
    pub(crate) fn new(directory: &Path, config: &ShmConfig) -> Self {
        let shm = Shm::at(directory);
        let path = directory.join(NAME);
        drop(shm.create(&name(NAME), config).unwrap());
        let file = File::options().read(true).write(true).open(&path).unwrap();
        Self { shm, rpc: Rpc::at(directory), path, file, config: config.clone() }
    }

    /// The channel's bytes in this state.
    pub(crate) fn image(&mut self, state: State) -> Vec<u8> {
        self.shm.remove(&name(NAME)).unwrap();
        let channel = self.shm.create(&name(NAME), &self.config).unwrap();
        match channel.kind() {
            Kind::Rpc => state.reach_by_calls(&self.rpc, &self.rpc.open(&name(NAME)).unwrap()),
            _ => state.reach(&self.shm, &channel),
        }
        drop(channel);
        self.file = File::options().read(true).write(true).open(&self.path).unwrap();
        fs::read(&self.path).unwrap()
    }

    /// Makes the channel what it was.
    pub(crate) fn restore(&mut self, image: &[u8]) {
        // A lifetime that turned into the other one may have ended.
        let is_there = fs::metadata(&self.path)
            .is_ok_and(|found| self.file.metadata().is_ok_and(|open| found.ino() == open.ino()));
        if !is_there {
            let options = File::options().read(true).write(true).create(true).truncate(false).clone();
            self.file = options.open(&self.path).unwrap();
        }
        self.file.write_all_at(image, 0).unwrap();
    }

    /// Changes bytes of it, behind everybody's back.
    pub(crate) fn spoil(&self, place: u64, bytes: &[u8]) {
        self.file.write_all_at(bytes, place).unwrap();
    }

    pub(crate) fn open(&self) -> Result<Opened, ChannelError> {
        match self.shm.open(&name(NAME))? {
            service if service.kind() == Kind::Rpc => self.rpc.open(&name(NAME)).map(Opened::Service),
            queue => Ok(Opened::Queue(queue)),
        }
    }

    pub(crate) fn look(&self) -> users::Found {
        users::look(self.shm.stat(&name(NAME)))
    }
}
