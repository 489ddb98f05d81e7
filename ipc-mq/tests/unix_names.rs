//! The files and sockets of socket channels: how they look, and what becomes of them when their
//! makers are killed, damaged, or in a race.
#![cfg(target_os = "linux")]

mod common;

use common::sockets::{MAX_LEN, Place, name, open_descriptors};
use common::{alone, await_child, killed_after, stopped_after};
use ipc_mq::{Channel, ChannelError, Receiver, Role, SendError, Sender, Transport, Unix, UnixConfig, Wait};
use nix::{
    sys::{
        ptrace,
        stat::{Mode, umask},
    },
    unistd::{pipe, read, write},
};
use std::{
    fs::{self, File},
    os::{fd::AsRawFd, unix::fs::PermissionsExt},
    thread,
};

/// To hold a lock takes no more than to read.
#[test]
fn who_locks_what_it_may_read_holds_up_nobody_for_ever() {
    use nix::libc;
    let place = Place::new();
    let channel = place.channel();
    let lock = |path: &std::path::Path| {
        let file = File::open(path).unwrap();
        // SAFETY: integers only.
        assert_eq!(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_SH) }, 0);
        file
    };
    let ours = format!("process {}", std::process::id());
    let directory = lock(&place.0);
    // Who looks takes no lock.
    assert_eq!(place.transport().list().unwrap(), [name()]);
    place.transport().stat(&name()).unwrap();
    place.transport().open(&name()).unwrap();
    drop(channel.receiver().unwrap());
    let error = place.transport().remove(&name()).unwrap_err();
    assert!(error.to_string().contains("lock on") && error.to_string().contains(&ours), "{error}");
    drop(directory);
    let file = lock(&place.0.join(format!("unix:{}", name())));
    place.transport().stat(&name()).unwrap();
    let error = channel.receiver().unwrap_err();
    assert!(matches!(error, ChannelError::Busy { .. }) && error.to_string().contains(&ours), "{error}");
    drop(file);
    drop(channel.receiver().unwrap());
    place.transport().remove(&name()).unwrap();
}

#[test]
fn a_directory_whose_path_is_too_long_for_a_socket_works_too() {
    let place = Place::new();
    fs::create_dir(&place.0).unwrap();
    fs::set_permissions(&place.0, fs::Permissions::from_mode(0o700)).unwrap();
    let deep = place.0.join("x".repeat(150));
    let channel = Unix::at(&deep).create(&name(), &UnixConfig::new()).unwrap();
    let (mut rx, mut tx) = (channel.receiver().unwrap(), channel.sender().unwrap());
    tx.send(b"far down").unwrap();
    assert_eq!(&*rx.recv().unwrap(), b"far down");
}

#[test]
fn the_mode_is_exact_whatever_the_umask() {
    alone("the_mode_is_exact_whatever_the_umask", || {
        umask(Mode::from_bits_truncate(0o077));
        let place = Place::new();
        let config = UnixConfig::new().mode(0o666);
        let channel = place.transport().create(&name(), &config).unwrap();
        let _rx = channel.receiver().unwrap();
        assert_eq!(place.transport().stat(&name()).unwrap().mode, Some(0o666));
        assert_eq!(fs::metadata(channel.socket_path()).unwrap().permissions().mode() & 0o777, 0o666);
    });
}

#[test]
fn a_damaged_channel_file_is_said_to_be_and_can_be_removed() {
    let place = Place::new();
    place.channel();
    let file = place.0.join("unix:channel");
    for text in [
        "",
        "ipc-unix 2\n",
        "ipc-unix 1\nsocket x\n",
        "\u{0}",
        "ipc-unix 1\nsocket 1\nmax-message-len-bytes 0\nbuffer-bytes 0\nallow-uids 0\n",
        "ipc-unix 1\nsocket 1\nmax-message-len-bytes 1099511627777\nbuffer-bytes 0\nallow-uids 0\n",
        "ipc-unix 1\nsocket 1\nmax-message-len-bytes 18446744073709551615\nbuffer-bytes 0\nallow-uids 0\n",
    ] {
        fs::write(&file, text).unwrap();
        assert!(matches!(place.transport().open(&name()), Err(ChannelError::Corrupt(_))), "{text:?}");
    }
    place.transport().remove(&name()).unwrap();
    assert!(matches!(place.transport().open(&name()), Err(ChannelError::NotFound)));
}

#[test]
fn a_channel_whose_file_was_damaged_is_not_removed_while_somebody_receives() {
    let place = Place::new();
    let channel = place.channel();
    let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
    fs::write(place.0.join("unix:channel"), "damaged").unwrap();
    let answer = place.transport().remove(&name());
    assert!(matches!(answer, Err(ChannelError::Busy { role: Role::Receiver, .. })), "{answer:?}");
    tx.send(b"still here").unwrap();
    assert_eq!(&*rx.recv().unwrap(), b"still here");
    drop(rx);
    place.transport().remove(&name()).unwrap();
}

/// A sender's arithmetic and memory are to be equal to it.
#[test]
fn a_longest_message_beyond_all_bounds_is_refused() {
    const TIB: u64 = 1 << 40;
    let (place, longest) = (Place::new(), usize::try_from(TIB).unwrap());
    for len in [longest + 1, usize::MAX] {
        let config = UnixConfig::new().max_message_len(len);
        let transport = place.transport();
        for made in [transport.create(&name(), &config), transport.open_or_create(&name(), &config)] {
            let refused = made.map(drop);
            assert!(
                matches!(&refused, Err(ChannelError::InvalidConfig(what)) if what.contains("1 TiB")),
                "{refused:?}"
            );
        }
    }
    let channel = place.transport().create(&name(), &UnixConfig::new().max_message_len(longest)).unwrap();
    let mut tx = channel.sender().unwrap();
    assert_eq!(channel.max_message_len(), longest);
    for len in [longest + 1, usize::MAX - 8] {
        assert!(matches!(tx.reserve(len, Wait::Never), Err(SendError::TooLong { .. })));
    }
}

#[test]
fn a_directory_that_others_can_write_to_is_refused() {
    let place = Place::new();
    place.channel();
    fs::set_permissions(&place.0, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(place.transport().open(&name()), Err(ChannelError::NotPermitted(_))));
}

fn files(place: &Place) -> Vec<String> {
    let entries = fs::read_dir(&place.0).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_str().unwrap().to_owned()).collect()
}

/// Before and after each system call that it makes.
#[test]
fn a_maker_that_is_killed_leaves_a_whole_channel_or_none() {
    alone("a_maker_that_is_killed_leaves_a_whole_channel_or_none", || {
        let place = Place::new();
        let unix = place.transport();
        let mut was_there = 0;
        let kills = (0..).take_while(|&steps| {
            let killed = killed_after(steps, || drop(place.channel()));
            match unix.open(&name()) {
                Ok(channel) => {
                    was_there += 1;
                    assert_eq!(channel.max_message_len(), MAX_LEN, "step {steps}");
                }
                Err(ChannelError::NotFound) => drop(place.channel()),
                Err(error) => panic!("step {steps}: {error}"),
            }
            assert_eq!(files(&place), ["unix:channel"], "step {steps}");
            unix.remove(&name()).unwrap();
            killed
        });
        let kills = kills.count();
        assert!(kills >= 12 && was_there >= 2, "{kills} kills, {was_there} times the channel was there");
    });
}

/// In a process of its own, where no other test's child has our sockets too.
#[test]
fn a_receiver_that_is_killed_while_it_comes_is_replaced_and_leaves_nothing() {
    alone("a_receiver_that_is_killed_while_it_comes_is_replaced_and_leaves_nothing", || {
        let place = Place::new();
        let channel = place.channel();
        let kills = (0..).take_while(|&steps| {
            let killed = killed_after(steps, || drop(channel.receiver().unwrap()));
            // A sender may find that nobody listens; never one who won't.
            let mut tx = channel.sender().unwrap();
            assert!(matches!(tx.try_send(b"early"), Err(SendError::WouldBlock)), "step {steps}");
            let mut rx = channel.receiver().unwrap();
            tx.send(b"through").unwrap();
            assert_eq!(&*rx.recv().unwrap(), b"through");
            killed
        });
        assert!(kills.count() >= 16);
        place.transport().remove(&name()).unwrap();
        assert_eq!(files(&place), [""; 0]);
    });
}

/// Who receives has the channel; who comes too late is told, and leaves nothing.
#[test]
fn a_channel_that_is_removed_while_a_receiver_comes_is_received_from_or_gone() {
    alone("a_channel_that_is_removed_while_a_receiver_comes_is_received_from_or_gone", || {
        let place = Place::new();
        let (mut refusals, mut too_late) = (0, 0);
        for steps in 0.. {
            let channel = place.channel();
            let (hear, tell) = pipe().unwrap();
            let comes = || match channel.receiver() {
                Ok(rx) => drop(rx),
                Err(ChannelError::NotFound) => drop(write(&tell, b"late").unwrap()),
                Err(error) => panic!("step {steps}: {error}"),
            };
            let Some(receiver) = stopped_after(steps, comes) else { break };
            match place.transport().remove(&name()) {
                Ok(()) => {}
                Err(ChannelError::Busy { .. }) => refusals += 1,
                Err(error) => panic!("step {steps}: {error}"),
            }
            ptrace::detach(receiver, None).unwrap();
            await_child(receiver);
            drop(tell);
            too_late += usize::from(read(&hear, &mut [0; 4]).unwrap() > 0);
            match place.transport().remove(&name()) {
                Ok(()) | Err(ChannelError::NotFound) => {}
                Err(error) => panic!("step {steps}: {error}"),
            }
            assert_eq!(files(&place), [""; 0], "step {steps}");
        }
        assert!(refusals >= 8 && too_late >= 4, "{refusals} refused, {too_late} too late");
    });
}

/// Its file may even get the number of the old one's in the file system.
#[test]
fn a_channel_that_was_removed_and_made_anew_is_another_one() {
    let place = Place::new();
    for _ in 0..20 {
        let old = place.channel();
        let opened = place.transport().open(&name()).unwrap();
        let mut tx = opened.sender().unwrap();
        place.transport().remove(&name()).unwrap();
        let _new = place.channel();
        for channel in [&old, &opened] {
            let refused = channel.receiver().map(drop);
            assert!(matches!(refused, Err(ChannelError::NotFound)), "{refused:?}");
        }
        assert!(matches!(tx.try_send(b"to the old one"), Err(SendError::Closed)));
        place.transport().remove(&name()).unwrap();
    }
    assert_eq!(files(&place), [""; 0]);
}

#[test]
fn racing_creators_and_removers_leave_nothing_and_see_no_error() {
    let place = Place::new();
    let unix = place.transport();
    let config = UnixConfig::new().max_message_len(MAX_LEN);
    thread::scope(|threads| {
        for _ in 0..4 {
            threads.spawn(|| {
                for _ in 0..50 {
                    let channel = unix.open_or_create(&name(), &config).unwrap();
                    match channel.receiver() {
                        Ok(_) | Err(ChannelError::NotFound | ChannelError::Busy { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                    match unix.remove(&name()) {
                        Ok(()) | Err(ChannelError::NotFound | ChannelError::Busy { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
    });
    let _ = unix.remove(&name());
    assert_eq!(files(&place), [""; 0]);
}

/// In a process of its own, where nobody else opens descriptors.
#[test]
fn a_channel_has_two_descriptors_open() {
    alone("a_channel_has_two_descriptors_open", || {
        let place = Place::new();
        let before = open_descriptors();
        let made = place.channel();
        assert_eq!(open_descriptors(), before + 2);
        let _opened = place.transport().open(&name()).unwrap();
        assert_eq!(open_descriptors(), before + 4);
        let _tx = made.sender().unwrap();
        assert_eq!(open_descriptors(), before + 4, "it connects when it sends");
    });
}
