//! What comes before the first message, and how many system calls it takes: each is one that
//! finds a name, sees that nobody else has put it there, or does what was asked for.
#![cfg(target_os = "linux")]

mod common;

use common::{alone, calls_of, calls_of_prepared, fresh_name};
use ipc_mq::{
    Channel, ChannelName, Mq, MqConfig, Receiver, Sender, Sysv, SysvConfig, Transport, Unix, UnixConfig,
};
use nix::unistd::geteuid;
use std::mem::forget;

/// How many calls each of these takes at most.
struct Most {
    to_create: usize,
    to_open_and_send: usize,
    to_open_and_receive: usize,
}

/// In processes of its own, which are traced. What is undone afterwards isn't counted.
fn check<T: Transport>(transport: &T, config: &T::Config, most: Most) {
    let made = Removed { transport, name: fresh_name() };
    let name = &made.name;
    // Once a transport has made or found its directory it has it open.
    let first = Removed { transport, name: fresh_name() };
    transport.create(&first.name, config).unwrap();
    drop(first);
    let create = || forget(transport.create(name, config).unwrap());
    expect_at_most(most.to_create, &calls_of(create));
    let opened = transport.open(name).unwrap();
    let early = (!T::CAPABILITIES.stores).then(|| opened.receiver().unwrap());
    let send = || {
        let channel = transport.open(name).unwrap();
        let mut tx = channel.sender().unwrap();
        tx.try_send(b"8 bytes!").unwrap();
        forget((tx, channel));
    };
    expect_at_most(most.to_open_and_send, &calls_of(send));
    drop(early);
    let receive = || {
        let channel = transport.open(name).unwrap();
        let mut rx = channel.receiver().unwrap();
        if T::CAPABILITIES.stores {
            assert_eq!(&*rx.try_recv().unwrap(), b"8 bytes!");
        }
        forget((rx, channel));
    };
    expect_at_most(most.to_open_and_receive, &calls_of(receive));
}

/// Takes the channel away in the end.
struct Removed<'a, T: Transport> {
    transport: &'a T,
    name: ChannelName,
}

impl<T: Transport> Drop for Removed<'_, T> {
    fn drop(&mut self) {
        let _ = self.transport.remove(&self.name);
    }
}

#[track_caller]
fn expect_at_most(most: usize, calls: &[String]) {
    assert!(calls.len() <= most, "{} instead of {most}: {calls:?}", calls.len());
    assert!(!calls.is_empty(), "nothing was counted");
}

#[test]
fn a_posix_queue() {
    alone("a_posix_queue", || {
        let config = MqConfig::new().depth(2).max_message_len(64);
        // Two ask whose the queue is and who we are; if it is root's, that is enough.
        let whose = if geteuid().is_root() { 1 } else { 2 };
        // How long messages may be is asked when it is to be known: who receives needs room for them.
        let most = || Most { to_create: 2, to_open_and_send: 2 + whose, to_open_and_receive: 3 + whose };
        check(&Mq::new(), &config, most());
        check(&Mq::new(), &MqConfig::new(), most());
    });
}

#[test]
fn a_system_v_queue() {
    alone("a_system_v_queue", || {
        // One of those to create asks for the namespace; to open, what is found says whose it is.
        let most = Most { to_create: 11, to_open_and_send: 6, to_open_and_receive: 6 };
        check(&Sysv::new(), &SysvConfig::new(), most);
    });
}

#[test]
fn a_socket() {
    alone("a_socket", || {
        // One more to create where linking a file without a name takes /proc.
        let most = Most { to_create: 8, to_open_and_send: 10, to_open_and_receive: 15 };
        check(&Unix::new(), &UnixConfig::new(), most);
        let made = Removed { transport: &Unix::new(), name: fresh_name() };
        let sent = || {
            let channel = made.transport.create(&made.name, &UnixConfig::new()).unwrap();
            let (rx, mut tx) = (channel.receiver().unwrap(), channel.sender().unwrap());
            tx.send(b"8 bytes!").unwrap();
            (rx, tx)
        };
        // Lets the sender in, and hears it.
        let hears = calls_of_prepared(sent, |(rx, _)| assert_eq!(&*rx.try_recv().unwrap(), b"8 bytes!"));
        expect_at_most(4, &hears);
    });
}
