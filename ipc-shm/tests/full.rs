//! A full file system: an error with the figures when a channel is made, and never a
//! SIGBUS when one is used.

mod common;

use common::{
    Arena, Child, end_after, fork,
    kinds::{Ends, make, named, sized},
    name, say, serve,
};
use ipc_shm::{ChannelError, Kind, Shm, ShmConfig, Transport};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::{getegid, geteuid},
};
use rstest::rstest;
use std::{fs, io::Write, path::Path};

/// What a test does on a file system of 1 MiB that nobody else sees.
fn on_a_small_file_system(role: &str, kind: Kind) {
    let arena = Arena::new();
    let mut child = Child::spawn(role, &[arena.path().to_str().unwrap(), kind.as_str()]);
    match child.line().as_str() {
        "done" => child.ends_well(),
        "skipped" => common::skip("the kernel permits no mount of our own here"),
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
                let kind = named(&arguments[1]);
                match role {
                    "create too much" => create_too_much(kind, directory),
                    "fill what is left" => fill_what_is_left(kind, directory),
                    "create until it is full" => create_until_it_is_full(kind, directory),
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

#[rstest]
fn a_channel_that_does_not_fit_is_refused_with_the_figures_and_leaves_nothing(
    #[values(Kind::Spsc, Kind::Mpmc, Kind::Broadcast, Kind::Latest, Kind::Rpc)] kind: Kind,
) {
    on_a_small_file_system("create too much", kind);
}

fn create_too_much(kind: Kind, directory: &Path) {
    let before = free_bytes(directory);
    let shm = Shm::at(directory);
    for capacity in [1 << 20, 2 << 20, 1 << 30, ShmConfig::MAX_CAPACITY_BYTES] {
        let config = sized(kind, capacity);
        for answer in [shm.create(&name("x"), &config), shm.open_or_create(&name("x"), &config)] {
            let error = answer.unwrap_err();
            assert!(matches!(error, ChannelError::Limit(_)), "{error:?}");
            let text = error.to_string();
            for part in [&before.to_string(), directory.to_str().unwrap(), "capacity"] {
                assert!(text.contains(part), "{text} (expected: {part})");
            }
            let needed: u64 = text.split(' ').find_map(|word| word.parse().ok()).unwrap();
            assert!(needed > before && needed < capacity + (64 << 10), "{text}");
            if kind == Kind::Spsc {
                assert_eq!(needed, capacity + 3 * 4096);
            }
        }
        assert_eq!(fs::read_dir(directory).unwrap().count(), 0);
        assert_eq!(free_bytes(directory), before, "nothing is kept of what didn't fit");
    }
    if kind == Kind::Spsc {
        // The one with the most room that there is.
        make(directory, &sized(kind, before - 3 * 4096)).unwrap();
    }
}

#[rstest]
fn a_channel_that_fits_is_usable_to_the_last_byte_on_a_full_file_system(
    #[values(Kind::Spsc, Kind::Mpmc, Kind::Broadcast, Kind::Latest, Kind::Rpc)] kind: Kind,
) {
    on_a_small_file_system("fill what is left", kind);
}

fn fill_what_is_left(kind: Kind, directory: &Path) {
    make(directory, &sized(kind, 512 << 10)).unwrap();
    let mut rest = fs::File::create(directory.join("rest")).unwrap();
    while rest.write(&[1; 4096]).is_ok_and(|written| written > 0) {}
    assert_eq!(free_bytes(directory), 0);
    let mut ends = Ends::open(directory).unwrap();
    let max = ends.max_message_len();
    // Every page of it: each slot more than once, or of a ring every one as the mirror of another.
    for round in 0..200_usize {
        ends.pass(&vec![round as u8 + 1; max - 8 * (round % 8)]);
    }
}

#[rstest]
fn the_channel_that_no_longer_fits_leaves_the_others_as_they_were(
    #[values(Kind::Spsc, Kind::Mpmc, Kind::Broadcast, Kind::Latest, Kind::Rpc)] kind: Kind,
) {
    on_a_small_file_system("create until it is full", kind);
}

fn create_until_it_is_full(kind: Kind, directory: &Path) {
    let shm = Shm::at(directory);
    let config = sized(kind, 64 << 10);
    let mut count = 0;
    let error = loop {
        match shm.create(&name(&format!("x{count}")), &config) {
            Ok(_) => count += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ChannelError::Limit(_)), "{error:?}");
    let one = fs::metadata(directory.join("x0")).unwrap().len();
    assert_eq!(count, (1 << 20) / one);
    assert_eq!(fs::read_dir(directory).unwrap().count() as u64, count);
    for number in 0..count {
        fs::rename(directory.join(format!("x{number}")), directory.join("x")).unwrap();
        let mut ends = Ends::open(directory).unwrap();
        let message = vec![7; ends.max_message_len()];
        ends.pass(&message);
    }
    // Room is made by removing one, as the error says.
    shm.remove(&name("x")).unwrap();
    make(directory, &config).unwrap();
}
