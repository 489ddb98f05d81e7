//! Waits of processes that can't ask any more who is alive: no descriptor is left, the rights
//! are given up, or the directory isn't in sight. They end as they were told to, no otherwise.

mod common;

use common::{
    Arena, Child, is_root,
    kinds::{Ends, make},
    name, say, serve, skip, within,
};
use ipc_shm::{
    CallError, Channel, Client, Kind, Mpmc, Receiver, RecvError, SendError, Sender, Server, Shm, ShmConfig,
    Transport, Wait, Waiting, WhenFull,
    sync::{LockError, Mutex, State},
};
use nix::{
    sys::resource::{Resource, setrlimit},
    unistd::{Gid, Uid, chroot, setgid, setgroups, setuid},
};
use rstest::rstest;
use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

/// Longer than the longest sleep, so that there is a look around.
const IDLE: Duration = Duration::from_millis(350);
/// Longer than the longest one while somebody is in the way.
const OBSTRUCTED: Duration = Duration::from_millis(50);
/// More than an endpoint tries in vain before it looks around.
const TRIES: u32 = 2048;
/// Whom every machine has, and who is nobody here.
const NOBODY: u32 = 65534;

#[test]
fn this_binary_is_its_own_child() {
    serve(|role, arguments| {
        let directory = Path::new(&arguments[0]);
        let lose_sight = || match role {
            "without descriptors" => have_no_descriptor_left(),
            "without rights" => give_up_rights(),
            "elsewhere" => go_elsewhere(&arguments[2]),
            other => panic!("no such child: {other}"),
        };
        match arguments[1].as_str() {
            "mutex" => wait_for_a_lock(directory, lose_sight),
            kind => wait_in_a_channel(directory, kind.parse().unwrap(), lose_sight),
        }
        say("no different");
    });
}

fn have_no_descriptor_left() {
    setrlimit(Resource::RLIMIT_NOFILE, 0, 1024).unwrap();
    assert!(fs::File::open("/dev/null").is_err(), "no descriptor is left");
}

fn give_up_rights() {
    setgroups(&[]).unwrap();
    setgid(Gid::from_raw(NOBODY)).unwrap();
    setuid(Uid::from_raw(NOBODY)).unwrap();
}

/// Where no path leads to where it did.
fn go_elsewhere(root: &str) {
    chroot(root).unwrap();
    std::env::set_current_dir("/").unwrap();
}

#[rstest]
fn a_wait_is_no_different(
    #[values("without descriptors", "without rights", "elsewhere")] how: &str,
    #[values("mpmc", "broadcast", "latest", "rpc", "mutex")] what: &str,
) {
    if how != "without descriptors" && !is_root() {
        return skip("only root gives up rights, or takes another root");
    }
    let (arena, root) = (Arena::new(), Arena::new());
    fs::set_permissions(arena.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let path = |arena: &Arena| arena.path().to_str().unwrap().to_owned();
    let mut child = Child::spawn(how, &[&path(&arena), what, &path(&root)]);
    child.says("no different");
    child.ends_well();
}

fn wait_in_a_channel(directory: &Path, kind: Kind, lose_sight: impl FnOnce()) {
    let config = ShmConfig::new().kind(kind);
    let config = match kind {
        Kind::Broadcast => config.capacity_bytes(4096).when_full(WhenFull::Wait),
        Kind::Latest => config.max_message_len(64),
        _ => config.depth(1).max_message_len(64),
    };
    make(directory, &config).unwrap();
    let mut ends = Ends::open(directory).unwrap();
    // In the others' way, without anything.
    let other = (kind == Kind::Mpmc).then(|| Mpmc::at(directory).open(&name("x")).unwrap().sender().unwrap());
    ends.set_waiting(Waiting::Block);
    ends.pass(b"before");
    lose_sight();
    let error = ends.await_nothing(Wait::timeout(IDLE));
    assert!(matches!(error, RecvError::TimedOut), "{error:?}");
    for _ in 0..TRIES {
        let error = ends.await_nothing(Wait::Never);
        assert!(matches!(error, RecvError::WouldBlock), "{error:?}");
    }
    if let Some(mut other) = other {
        let claim = other.loan(8, Wait::Never).unwrap();
        let error = ends.await_nothing(Wait::timeout(OBSTRUCTED));
        assert!(matches!(error, RecvError::TimedOut), "behind a claim: {error:?}");
        drop(claim);
    }
    match ends {
        // It is never full.
        Ends::Queue(..) if kind == Kind::Latest => {}
        Ends::Queue(mut tx, _rx) => {
            while tx.try_send(&[0; 64]).is_ok() {}
            for wait in [OBSTRUCTED, IDLE] {
                let answer = tx.send_timeout(&[0; 64], wait);
                assert!(matches!(answer, Err(SendError::TimedOut)), "{answer:?}");
            }
            for _ in 0..TRIES {
                let answer = tx.try_send(&[0; 64]);
                assert!(matches!(answer, Err(SendError::WouldBlock)), "{answer:?}");
            }
        }
        Ends::Service(mut client, mut server) => {
            let ticket = client.submit(b"", Wait::Never).unwrap();
            let wait_for_both = |client: &mut ipc_shm::RpcClient, wait| {
                let answer = client.submit(b"for room", wait).map(drop);
                let response = client.advance(&ticket, wait);
                (answer.unwrap_err(), response.unwrap_err())
            };
            let errors = wait_for_both(&mut client, Wait::timeout(OBSTRUCTED));
            assert!(matches!(errors, (CallError::TimedOut, CallError::TimedOut)), "{errors:?}");
            // And with the request in somebody's hands.
            server.advance(Wait::Never).unwrap();
            let errors = wait_for_both(&mut client, Wait::timeout(IDLE));
            assert!(matches!(errors, (CallError::TimedOut, CallError::TimedOut)), "{errors:?}");
            for _ in 0..TRIES {
                let errors = wait_for_both(&mut client, Wait::Never);
                assert!(matches!(errors, (CallError::WouldBlock, CallError::WouldBlock)), "{errors:?}");
            }
            client.abandon(ticket);
        }
    }
}

fn wait_for_a_lock(directory: &Path, lose_sight: impl FnOnce()) {
    let state = State::at(directory);
    let one = state.create::<Mutex<u64>>("x", || 0).unwrap();
    let other = state.open::<Mutex<u64>>("x").unwrap();
    let _guard = one.lock().unwrap();
    lose_sight();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for wait in [OBSTRUCTED, IDLE] {
                let error = other.lock_timeout(wait).map(drop).unwrap_err();
                assert!(matches!(error, LockError::TimedOut), "{error:?}");
            }
            for _ in 0..TRIES {
                let error = other.try_lock().map(drop).unwrap_err();
                assert!(matches!(error, LockError::WouldBlock), "{error:?}");
            }
        });
    });
}

#[test]
fn who_waits_where_the_whole_directory_was_removed_is_told_so() {
    let arena = Arena::new();
    let directory = arena.path().join("of channels");
    fs::create_dir(&directory).unwrap();
    make(&directory, &ShmConfig::new().kind(Kind::Mpmc)).unwrap();
    let mut rx = Shm::at(&directory).open(&name("x")).unwrap().receiver().unwrap();
    fs::remove_dir_all(&directory).unwrap();
    let error = within(common::PATIENCE, move || rx.advance(Wait::Forever).unwrap_err());
    assert!(matches!(error, RecvError::Closed), "{error:?}");
}
