//! Scenes of those who only look on, who guard their memory, and who don't trust each other.
//!
//! An observer's death is nobody's business, and a guarded endpoint's is like any other's. In
//! a sealed channel, what arrives of a dead sender is what it sent, whole and in order, and
//! then its death; a sender learns that its receiver is dead.

use crate::{
    common::{PATIENCE, eventually, name},
    queues::{drain, finish, open},
    scenario::Scenario,
    stage::Stage,
};
use ipc_shm::{
    Broadcast, Channel, EndMark, Kind, Latest, Receiver, RecvError, SendError, Sender, ShmConfig, Spsc,
    Transport, Wait, Waiting,
    protect::Guarded,
    sealed::{self, Link, LinkError, Listener, Peers, SealedConfig},
};
use nix::unistd::getegid;
use std::{fs, path::PathBuf, thread, time::Duration};

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("observer", "comes, and is given a message", observe),
        Scenario::new("observer", "waits in vain", wait_in_vain).varying(),
        Scenario::new("observer", "of the newest value", observe_the_newest),
        Scenario::new("protected", "creator, of secrets for a group", create_secret),
        Scenario::new("protected", "sender, of secrets", send_secret),
        Scenario::new("protected", "sender, guarded", send_guarded),
        Scenario::new("sealed", "listener, comes", listen),
        Scenario::new("sealed", "listener, comes after a dead one", listen_after_a_dead_one),
        Scenario::new("sealed", "listener, waits in vain", accept_in_vain).varying(),
        Scenario::new("sealed", "sender, that connects", |stage| send(stage, true)).varying(),
        Scenario::new("sealed", "sender, that is connected to", |stage| send(stage, false)).varying(),
        Scenario::new("sealed", "sender, goes", go),
        Scenario::new("sealed", "receiver, that connects", |stage| receive(stage, true)).varying(),
        Scenario::new("sealed", "receiver, that is connected to", |stage| receive(stage, false)).varying(),
        Scenario::new("sealed", "receiver, that polls", poll),
        Scenario::new("sealed", "receiver, of what is no memory", be_given_a_pipe).varying(),
    ]
}

const BRIEFLY: Duration = Duration::from_millis(1);

fn observe(stage: &Stage) {
    let broadcasts = Broadcast::at(stage.arena().path());
    let channel = broadcasts.create(&name("x"), &ShmConfig::new().capacity_bytes(4096)).unwrap();
    let mut tx = channel.sender().unwrap();
    stage.victim(
        || None,
        |rx| {
            *rx = Some(broadcasts.observe(&name("x"))?);
            match rx.as_mut().expect("made above").try_recv() {
                Err(RecvError::WouldBlock) => Ok(()),
                answer => panic!("{answer:?}"),
            }
        },
    );
    let mut rx = channel.receiver().unwrap();
    tx.try_send(b"on we go").unwrap();
    assert_eq!(&*rx.try_recv().unwrap(), b"on we go");
    drop((tx, rx, channel));
    broadcasts.remove(&name("x")).expect("nobody has it open");
}

fn wait_in_vain(stage: &Stage) {
    let broadcasts = Broadcast::at(stage.arena().path());
    let channel = broadcasts.create(&name("x"), &ShmConfig::new().capacity_bytes(4096)).unwrap();
    let mut tx = channel.sender().unwrap();
    stage.victim(
        || {
            let mut rx = broadcasts.observe(&name("x")).unwrap();
            rx.set_waiting(Waiting::Block);
            // More than one ring.
            for _ in 0..200 {
                tx_of(&broadcasts).try_send(&[7; 40]).unwrap();
            }
            rx
        },
        |rx| {
            loop {
                match rx.recv_timeout(BRIEFLY) {
                    Ok(_) | Err(RecvError::Lagged { .. }) => {}
                    Err(RecvError::TimedOut) => return Ok(()),
                    Err(error) => return Err(error.into()),
                }
            }
        },
    );
    tx.try_send(b"on we go").unwrap();
    drop((tx, channel));
    broadcasts.remove(&name("x")).expect("nobody has it open");
}

fn tx_of(broadcasts: &Broadcast) -> ipc_shm::BroadcastPublisher {
    broadcasts.open(&name("x")).unwrap().sender().unwrap()
}

fn observe_the_newest(stage: &Stage) {
    let latests = Latest::at(stage.arena().path());
    let channel = latests.create(&name("x"), &ShmConfig::new().max_message_len(100)).unwrap();
    let mut tx = channel.sender().unwrap();
    tx.send(b"newest").unwrap();
    stage.victim(
        || None,
        |rx| {
            *rx = Some(latests.observe(&name("x"))?);
            let value = rx.as_mut().expect("made above").read()?;
            assert_eq!(value.as_deref(), Some(&b"newest"[..]));
            Ok(())
        },
    );
    drop((tx, channel));
    latests.remove(&name("x")).expect("nobody has it open");
}

fn secret() -> ShmConfig {
    ShmConfig::new()
        .kind(Kind::Spsc)
        .capacity_bytes(4096)
        .group(getegid().as_raw())
        .undumped(true)
        .unswapped(true)
        .prefault(true)
}

fn create_secret(stage: &Stage) {
    let spsc = Spsc::at(stage.arena().path());
    stage.victim(
        || None,
        |channel| {
            *channel = Some(spsc.create(&name("x"), &secret())?);
            Ok(())
        },
    );
    drop(spsc.open_or_create(&name("x"), &secret()).unwrap());
    finish(stage);
}

fn send_secret(stage: &Stage) {
    let spsc = Spsc::at(stage.arena().path());
    let channel = spsc.create(&name("x"), &secret()).unwrap();
    stage.victim(
        || (spsc.open(&name("x")).unwrap(), None),
        |(channel, tx)| {
            *tx = Some(channel.sender()?);
            Ok(())
        },
    );
    drop(channel);
    finish(stage);
}

fn send_guarded(stage: &Stage) {
    let spsc = Spsc::at(stage.arena().path());
    drop(spsc.create(&name("x"), &ShmConfig::new().capacity_bytes(4096)).unwrap());
    stage.victim(
        || None,
        |tx| {
            let mut guarded = Guarded::new(spsc.open(&name("x"))?.sender()?)?;
            guarded.with_write(|tx| {
                stage.note(0);
                tx.try_send(b"guarded")
            })??;
            stage.note(1);
            *tx = Some(guarded);
            Ok(())
        },
    );
    let mut rx = open(stage).receiver().unwrap();
    let found = drain(&mut rx).len() as u64;
    assert!((stage.noted(1)..=stage.noted(0)).contains(&found), "{found} found");
    drop(rx);
    finish(stage);
}

fn socket(stage: &Stage) -> PathBuf {
    stage.arena().file("s")
}

fn soon() -> Wait<'static> {
    Wait::timeout(PATIENCE)
}

fn small() -> SealedConfig {
    SealedConfig::new().capacity_bytes(4096)
}

fn listen(stage: &Stage) {
    stage.victim(
        || (),
        |()| {
            // And stops.
            drop(Listener::bind(socket(stage), Peers::ourselves())?);
            Ok(())
        },
    );
    drop(Listener::bind(socket(stage), Peers::ourselves()).expect("whoever was there is dead"));
}

fn listen_after_a_dead_one(stage: &Stage) {
    stage.dies_at(
        usize::MAX,
        || (),
        |()| {
            std::mem::forget(Listener::bind(socket(stage), Peers::ourselves())?);
            Ok(())
        },
    );
    listen(stage);
}

fn accept_in_vain(stage: &Stage) {
    stage.victim(
        || Listener::bind(socket(stage), Peers::ourselves()).unwrap(),
        |listener| match listener.accept(Wait::timeout(BRIEFLY)) {
            Err(LinkError::TimedOut) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(_) => panic!("nobody came"),
        },
    );
    sweep_socket(stage);
}

/// The next link that is made while the victim lives.
fn link(listener: &Listener, alive: &dyn Fn() -> bool) -> Option<Link> {
    loop {
        let is_alive = alive();
        match listener.accept(Wait::timeout(10 * BRIEFLY)) {
            Ok(link) => return Some(link),
            Err(LinkError::TimedOut) if is_alive => {}
            Err(LinkError::TimedOut) => return None,
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// One link after the other, from the other side: each is used as long as its victim lives.
fn links(
    stage: &Stage,
    victim_connects: bool,
    listener: Option<&Listener>,
    alive: &dyn Fn() -> bool,
) -> Vec<Link> {
    match (victim_connects, listener) {
        (true, Some(listener)) => link(listener, alive).into_iter().collect(),
        _ => sealed::connect(socket(stage), &Peers::ourselves(), soon()).into_iter().collect(),
    }
}

/// A link of the victim's, made anew each time.
fn own_link(stage: &Stage, listener: &mut Option<Listener>) -> Result<Link, LinkError> {
    match listener {
        Some(listener) => loop {
            match listener.accept(soon()) {
                // Of an earlier attempt.
                Err(LinkError::HungUp) => {}
                answer => return answer,
            }
        },
        None => sealed::connect(socket(stage), &Peers::ourselves(), soon()),
    }
}

/// The victim sends three messages and an end, to one who sleeps.
fn send(stage: &Stage, victim_connects: bool) {
    let listener =
        victim_connects.then(|| Listener::bind(socket(stage), Peers::ourselves()).expect("nobody is there"));
    stage.victim_while(
        || {
            let own = (!victim_connects).then(|| Listener::bind(socket(stage), Peers::ourselves()).unwrap());
            (own, None)
        },
        |(own, tx)| {
            *tx = None;
            let tx = tx.insert(own_link(stage, own)?.sender(&small(), soon())?);
            tx.set_waiting(Waiting::Block);
            for number in 0..3_u8 {
                tx.send_wait(&[number; 1800], soon())?;
                // It sleeps by then.
                thread::sleep(2 * BRIEFLY);
            }
            tx.send_end(soon())?;
            Ok(())
        },
        |alive| {
            // It may begin anew.
            while alive() {
                for link in links(stage, victim_connects, listener.as_ref(), alive) {
                    receive_in_order(link);
                }
            }
        },
    );
    drop(listener);
    sweep_socket(stage);
}

fn receive_in_order(link: Link) {
    let mut rx = match link.receiver(&small(), soon()) {
        Ok(rx) => rx,
        Err(LinkError::HungUp) => return,
        Err(error) => panic!("{error:?}"),
    };
    rx.set_waiting(Waiting::Block);
    let mut next = 0;
    loop {
        match rx.receive(soon()) {
            Ok(message) => assert_eq!(*message, [next; 1800], "whole, and in order"),
            Err(RecvError::End) => assert_eq!(next, 3, "after all of them"),
            Err(RecvError::PeerDied | RecvError::Closed) => return,
            Err(error) => panic!("{error:?}"),
        }
        next += 1;
        // So that the sender finds no room, and sleeps.
        thread::sleep(3 * BRIEFLY);
    }
}

fn go(stage: &Stage) {
    let listener = Listener::bind(socket(stage), Peers::ourselves()).expect("nobody is there");
    stage.victim_while(
        || own_link(stage, &mut None).and_then(|link| link.sender(&small(), soon())).ok(),
        |tx| {
            drop(tx.take());
            Ok(())
        },
        |alive| {
            let link = link(&listener, alive).expect("it comes before it goes");
            let mut rx = link.receiver(&small(), soon()).expect("it does its part");
            match rx.receive(soon()) {
                Err(RecvError::Closed | RecvError::PeerDied) => {}
                answer => panic!("{answer:?}"),
            }
        },
    );
    drop(listener);
}

/// The victim receives three messages from one who sleeps.
fn receive(stage: &Stage, victim_connects: bool) {
    let listener =
        victim_connects.then(|| Listener::bind(socket(stage), Peers::ourselves()).expect("nobody is there"));
    stage.victim_while(
        || {
            let own = (!victim_connects).then(|| Listener::bind(socket(stage), Peers::ourselves()).unwrap());
            (own, None)
        },
        |(own, rx)| {
            *rx = None;
            let rx = rx.insert(own_link(stage, own)?.receiver(&small(), soon())?);
            rx.set_waiting(Waiting::Block);
            for number in 0..3_u8 {
                assert_eq!(*rx.receive(soon())?, [number; 3000]);
                thread::sleep(2 * BRIEFLY);
            }
            Ok(())
        },
        |alive| {
            while alive() {
                for link in links(stage, victim_connects, listener.as_ref(), alive) {
                    send_three(link, alive);
                }
            }
        },
    );
    drop(listener);
    sweep_socket(stage);
}

fn send_three(link: Link, alive: &dyn Fn() -> bool) {
    let mut tx = match link.sender(&small(), soon()) {
        Ok(tx) => tx,
        Err(LinkError::HungUp) => return,
        Err(error) => panic!("{error:?}"),
    };
    tx.set_waiting(Waiting::Block);
    for number in 0..3 {
        // It sleeps by then.
        thread::sleep(2 * BRIEFLY);
        match tx.send_wait(&[number; 3000], soon()) {
            Ok(()) => {}
            Err(SendError::PeerDied | SendError::Closed) => return,
            Err(error) => panic!("{error:?}"),
        }
    }
    // Until it is done, or begins anew: then it has hung up.
    while alive() {
        match tx.send_timeout(&[9; 4000], 5 * BRIEFLY) {
            Ok(()) | Err(SendError::TimedOut) => {}
            Err(SendError::PeerDied | SendError::Closed) => return,
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// The victim is a receiver that polls for a while, and so looks whether the peer is there.
fn poll(stage: &Stage) {
    let listener = Listener::bind(socket(stage), Peers::ourselves()).expect("nobody is there");
    stage.victim_while(
        || own_link(stage, &mut None).and_then(|link| link.receiver(&small(), soon())).unwrap(),
        |rx| {
            // More than it is between two looks.
            thread::sleep(110 * BRIEFLY);
            assert!(matches!(rx.try_recv(), Err(RecvError::WouldBlock)));
            Ok(())
        },
        |alive| {
            let mut peers = Vec::new();
            while let Some(link) = link(&listener, alive) {
                peers.extend(link.sender(&small(), soon()));
            }
        },
    );
    drop(listener);
}

fn be_given_a_pipe(stage: &Stage) {
    use nix::sys::socket::{
        AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg,
        socket as make,
    };
    use std::{io::IoSlice, os::fd::AsRawFd};
    // What is no memory is closed by a thread: its stack is there for the next one.
    thread::spawn(|| ()).join().expect("it does nothing");
    stage.victim_while(
        || Listener::bind(socket(stage), Peers::ourselves()).unwrap(),
        |listener| {
            let answer = listener.accept(soon())?.receiver(&small(), soon());
            eventually("it is closed", || fs::read_dir("/proc/self/task").expect("/proc").count() == 1);
            match answer {
                Err(LinkError::Refused(_) | LinkError::HungUp) => Ok(()),
                Err(error) => Err(error.into()),
                Ok(_) => panic!("a pipe is no memory"),
            }
        },
        |alive| {
            while alive() {
                let attacker =
                    make(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
                let Ok(address) = UnixAddr::new(&socket(stage)) else { return };
                if connect(attacker.as_raw_fd(), &address).is_err() {
                    thread::sleep(BRIEFLY);
                    continue;
                }
                let (pipe, _writer) = nix::unistd::pipe().unwrap();
                let mut greeting = b"ipc-seal".to_vec();
                for word in [0x0102_0304_u32, 1, 1, 1] {
                    greeting.extend(word.to_ne_bytes());
                }
                for word in [4096_u64, 4096, 0] {
                    greeting.extend(word.to_ne_bytes());
                }
                let rights = [pipe.as_raw_fd()];
                let control = [ControlMessage::ScmRights(&rights)];
                let parts = [IoSlice::new(&greeting)];
                let _ =
                    sendmsg::<UnixAddr>(attacker.as_raw_fd(), &parts, &control, MsgFlags::MSG_NOSIGNAL, None);
                while alive() && is_connected(&attacker) {
                    thread::sleep(BRIEFLY);
                }
            }
        },
    );
    sweep_socket(stage);
}

fn is_connected(socket: &std::os::fd::OwnedFd) -> bool {
    use nix::{
        errno::Errno,
        sys::socket::{MsgFlags, recv},
    };
    use std::os::fd::AsRawFd;
    recv(socket.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT) == Err(Errno::EAGAIN)
}

/// What a dead listener left is replaced, and then goes.
fn sweep_socket(stage: &Stage) {
    drop(Listener::bind(socket(stage), Peers::ourselves()).expect("whoever was there is dead"));
}
