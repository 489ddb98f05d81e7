//! Users of channels of every kind, killed at any moment and replaced, again and again: what
//! they leave is whole, roles are free, and only kept channels stay.

mod common;

use common::{Arena, Dice, Forked, fork_child, kinds::Ends, name};
use ipc_shm::{
    CallError, Channel, ChannelError, ChannelName, Client, Kind, Receiver, RecvError, Request, Rpc,
    RpcChannel, SendError, Sender, Server, Shm, ShmChannel, ShmConfig, Transport, Wait,
};
use nix::{
    libc,
    sys::{
        signal::{Signal, kill},
        wait::WaitStatus,
    },
};
use std::{env, path::Path, thread, time::Duration};

fn config(kind: Kind) -> ShmConfig {
    let config = ShmConfig::new().kind(kind);
    match kind {
        Kind::Spsc => config.capacity_bytes(4096),
        Kind::Broadcast => config.capacity_bytes(4096).publishers(4),
        Kind::Rpc => config.depth(4).max_message_len(256),
        Kind::Latest => config.max_message_len(256),
        _ => config.depth(16).max_message_len(256),
    }
}

/// A message that tells whether it is whole.
fn message(len: u64) -> Vec<u8> {
    vec![len as u8; len as usize]
}

fn assert_whole(message: &[u8]) {
    assert!(message.iter().all(|byte| *byte == message.len() as u8), "{message:?}");
}

/// A few seconds by default; `IPC_SHM_KILLS=100000` kills as many.
fn kills() -> u64 {
    env::var("IPC_SHM_KILLS").map_or(1000, |kills| kills.parse().unwrap())
}

#[test]
fn killed_and_restarted_users_leave_only_kept_channels_behind() {
    let arena = Arena::new();
    let shm = Shm::at(arena.path());
    for kind in Kind::ALL {
        drop(shm.create(&name(&format!("kept-{kind}")), &config(*kind)).unwrap());
    }
    let mut dice = Dice::new(3);
    let mut users: Vec<Forked> = Vec::new();
    for _ in 0..kills() {
        let seed = dice.roll();
        users.push(fork_child(|| use_until_killed(arena.path(), seed)));
        if users.len() == 4 {
            thread::sleep(Duration::from_micros(dice.below(3000)));
            kill_one(users.swap_remove(dice.below(4) as usize));
        }
    }
    users.into_iter().for_each(kill_one);
    for kind in Kind::ALL {
        for lifetime in ["kept", "transient"] {
            let channel = name(&format!("{lifetime}-{kind}"));
            let opened = shm.open_or_create(&channel, &config(*kind).transient()).unwrap();
            if lifetime == "kept" {
                assert!(shm.stat(&channel).unwrap().sent_messages > Some(0), "{kind}: nobody has used it");
            }
            drain(arena.path(), &channel, opened);
        }
    }
    let kept = Kind::ALL.iter().map(|kind| format!("kept-{kind}"));
    let mut kept: Vec<_> = kept.collect();
    kept.sort();
    assert_eq!(arena.entries(), kept);
}

fn kill_one(user: Forked) {
    kill(user.0, Signal::SIGKILL).unwrap();
    assert_eq!(user.ended(), WaitStatus::Signaled(user.0, Signal::SIGKILL, false), "no panic");
}

/// Receives what is left, and uses both ends: they are free.
fn drain(directory: &Path, channel: &ChannelName, opened: ShmChannel) {
    let soon = || Wait::timeout(Duration::from_millis(100));
    if opened.kind() == Kind::Rpc {
        let service = Rpc::at(directory).open(channel).unwrap();
        let mut server = service.server().unwrap();
        while let Ok(request) = server.next(soon()) {
            assert_whole(&request);
        }
        return Ends::Service(service.client().unwrap(), server).pass(b"anew");
    }
    let mut rx = opened.receiver().unwrap();
    loop {
        match rx.receive(soon()) {
            Ok(message) => assert_whole(&message),
            Err(RecvError::TimedOut) => break,
            Err(error) => panic!("{channel}: {error:?}"),
        }
    }
    Ends::Queue(opened.sender().unwrap(), rx).pass(b"anew");
}

fn use_until_killed(directory: &Path, seed: u64) {
    // SAFETY: takes numbers only. With whom started it, if it isn't killed before.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    let mut dice = Dice::new(seed);
    let shm = Shm::at(directory);
    loop {
        let kind = Kind::ALL[dice.below(Kind::ALL.len() as u64) as usize];
        let lifetime = if dice.below(2) == 0 { "kept" } else { "transient" };
        let name = name(&format!("{lifetime}-{kind}"));
        let config = config(kind).transient();
        if kind == Kind::Rpc {
            let service = Rpc::at(directory).open_or_create(&name, &config).unwrap();
            use_service(&service, &mut dice);
        } else {
            let channel = shm.open_or_create(&name, &config).unwrap();
            use_channel(&channel, &mut dice);
        }
        if dice.below(8) == 0 {
            for (_, verdict) in shm.gc().unwrap() {
                assert!(matches!(verdict, Ok(_) | Err(ChannelError::NotFound)), "{verdict:?}");
            }
        }
    }
}

fn use_channel(channel: &ShmChannel, dice: &mut Dice) {
    let rounds = 1 + dice.below(100);
    if dice.below(2) == 0 {
        let mut tx = match channel.sender() {
            Ok(tx) => tx,
            // Another one's.
            Err(ChannelError::Busy { .. }) => return,
            Err(error) => panic!("{error:?}"),
        };
        for _ in 0..rounds {
            match tx.try_send(&message(dice.below(256))) {
                Ok(()) | Err(SendError::WouldBlock) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
    } else {
        let mut rx = match channel.receiver() {
            Ok(rx) => rx,
            Err(ChannelError::Busy { .. }) => return,
            Err(error) => panic!("{error:?}"),
        };
        for _ in 0..rounds {
            match rx.try_recv() {
                Ok(message) => assert_whole(&message),
                Err(RecvError::WouldBlock | RecvError::Lagged { .. }) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
    }
}

fn use_service(service: &RpcChannel, dice: &mut Dice) {
    let rounds = 1 + dice.below(20);
    let soon = || Wait::timeout(Duration::from_micros(500));
    if dice.below(2) == 0 {
        let mut client = service.client().unwrap();
        for _ in 0..rounds {
            let question = message(dice.below(256));
            match client.call(&question, soon()) {
                Ok(answer) => assert_eq!(*answer, *question),
                Err(CallError::TimedOut | CallError::ServerDied | CallError::Declined) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
    } else {
        let mut server = service.server().unwrap();
        for _ in 0..rounds {
            match server.next(soon()) {
                Ok(request) => {
                    assert_whole(&request);
                    let answer = request.to_vec();
                    request.respond(&answer).unwrap();
                }
                Err(RecvError::TimedOut) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
    }
}
