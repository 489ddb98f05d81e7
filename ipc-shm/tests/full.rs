//! A full file system: an error with the figures when a channel is made, and never a
//! SIGBUS when one is used.

mod common;

use common::{Arena, Child, end_after, fork, name, say, serve};
use ipc_shm::{Channel, ChannelError, Loan, Receiver, Sender, ShmConfig, Spsc, Transport, Wait};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::{getegid, geteuid},
};
use std::{fs, io::Write, path::Path};

/// What a test does on a file system of 1 MiB that nobody else sees.
fn on_a_small_file_system(role: &str) {
    let arena = Arena::new();
    let mut child = Child::spawn(role, &[arena.path().to_str().unwrap()]);
    match child.line().as_str() {
        "done" => child.ends_well(),
        "skipped" => println!("skipped: the kernel permits no mount of our own here"),
        other => panic!("{other}"),
    }
    assert!(arena.entries().is_empty(), "the mount was the child's own");
}

#[test]
fn this_binary_is_its_own_child() {
    serve(|role, arguments| {
        let directory = Path::new(&arguments[0]);
        // A user namespace takes a process of one thread.
        let Some(child) = fork() else {
            end_after(|| {
                if !mount_a_mebibyte(directory) {
                    return say("skipped");
                }
                let shm = Spsc::at(directory);
                match role {
                    "create too much" => create_too_much(&shm, directory),
                    "fill what is left" => fill_what_is_left(&shm, directory),
                    "create until it is full" => create_until_it_is_full(&shm, directory),
                    other => panic!("no such child: {other}"),
                }
                say("done");
            })
        };
        child.ends_well();
    });
}

/// Mounts a tmpfs of 1 MiB in namespaces of our own; false where the kernel forbids it.
fn mount_a_mebibyte(directory: &Path) -> bool {
    let (uid, gid) = (geteuid(), getegid());
    let flags = match uid.is_root() {
        true => CloneFlags::CLONE_NEWNS,
        false => CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUSER,
    };
    if unshare(flags).is_err() {
        return false;
    }
    if !uid.is_root() {
        let mapped = fs::write("/proc/self/setgroups", "deny")
            .and_then(|()| fs::write("/proc/self/uid_map", format!("{uid} {uid} 1")))
            .and_then(|()| fs::write("/proc/self/gid_map", format!("{gid} {gid} 1")));
        if mapped.is_err() {
            return false;
        }
    }
    // Nothing of it spreads to where we came from.
    let private = mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>);
    private.is_ok()
        && mount(Some("tmpfs"), directory, Some("tmpfs"), MsFlags::empty(), Some("size=1m")).is_ok()
}

fn free_bytes(directory: &Path) -> u64 {
    let found = nix::sys::statvfs::statvfs(directory).unwrap();
    found.blocks_free() * found.fragment_size()
}

#[test]
fn a_channel_that_does_not_fit_is_refused_with_the_figures_and_leaves_nothing() {
    on_a_small_file_system("create too much");
}

fn create_too_much(shm: &Spsc, directory: &Path) {
    let before = free_bytes(directory);
    for capacity in [1 << 20, 2 << 20, 1 << 30, ShmConfig::MAX_CAPACITY_BYTES] {
        let config = ShmConfig::new().capacity_bytes(capacity);
        for answer in [shm.create(&name("x"), &config), shm.open_or_create(&name("x"), &config)] {
            let error = answer.unwrap_err();
            assert!(matches!(error, ChannelError::Limit(_)), "{error:?}");
            let text = error.to_string();
            let needed = (capacity + 3 * 4096).to_string();
            for part in [&needed, &before.to_string(), directory.to_str().unwrap(), "capacity"] {
                assert!(text.contains(part), "{text} (expected: {part})");
            }
        }
        assert_eq!(fs::read_dir(directory).unwrap().count(), 0);
        assert_eq!(free_bytes(directory), before, "nothing is kept of what didn't fit");
    }
    // The mode with the most room that there is.
    drop(shm.create(&name("x"), &ShmConfig::new().capacity_bytes(before - 3 * 4096)).unwrap());
}

#[test]
fn a_channel_that_fits_is_usable_to_the_last_byte_on_a_full_file_system() {
    on_a_small_file_system("fill what is left");
}

fn fill_what_is_left(shm: &Spsc, directory: &Path) {
    let channel = shm.create(&name("x"), &ShmConfig::new().capacity_bytes(512 << 10)).unwrap();
    let mut rest = fs::File::create(directory.join("rest")).unwrap();
    while rest.write(&[1; 4096]).is_ok_and(|written| written > 0) {}
    assert_eq!(free_bytes(directory), 0);
    let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
    let max = tx.max_message_len();
    // Every page of the ring, and every one as the mirror of another.
    for round in 0..5_usize {
        let mut loan = tx.loan(max - 8 * round, Wait::Never).unwrap();
        loan.fill(round as u8 + 1);
        loan.commit(Wait::Never).unwrap();
        let message = rx.try_recv().unwrap();
        assert!(message.len() == max - 8 * round && message.iter().all(|&byte| byte == round as u8 + 1));
    }
}

#[test]
fn the_channel_that_no_longer_fits_leaves_the_others_as_they_were() {
    on_a_small_file_system("create until it is full");
}

fn create_until_it_is_full(shm: &Spsc, directory: &Path) {
    let config = ShmConfig::new().capacity_bytes(64 << 10);
    let mut channels = Vec::new();
    let error = loop {
        match shm.create(&name(&format!("x{}", channels.len())), &config) {
            Ok(channel) => channels.push(channel),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ChannelError::Limit(_)), "{error:?}");
    assert_eq!(channels.len(), (1 << 20) / ((64 << 10) + 3 * 4096));
    assert_eq!(fs::read_dir(directory).unwrap().count(), channels.len());
    for channel in &channels {
        let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
        tx.try_send(&vec![7; tx.max_message_len()]).unwrap();
        assert!(rx.try_recv().unwrap().iter().all(|&byte| byte == 7));
    }
    // Room is made by removing one, as the error says.
    drop(channels);
    shm.remove(&name("x0")).unwrap();
    drop(shm.create(&name("again"), &config).unwrap());
}
