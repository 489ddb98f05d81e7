//! What names stand for System V queues, and what becomes of them when their makers are
//! killed, their queues removed by others, or their keys taken.
#![cfg(target_os = "linux")]

mod common;

use common::{NOBODY, OrdinaryUser, alone, alone_in_namespaces, fresh_name, in_child, killed_after, skip};
use ipc_mq::{
    Channel, ChannelError, ChannelName, Peek, PeekError, Receiver, RecvError, SendError, Sender, Sysv,
    SysvConfig, Transport,
};
use nix::{
    errno::Errno,
    libc,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::{Uid, chown, geteuid, setresuid},
};
use rstest::rstest;
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    ptr, thread,
};

/// A directory of names that goes with its test, for a process of its own.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        let path = std::env::temp_dir().join(fresh_name().as_str());
        fs::create_dir(&path).unwrap();
        // SAFETY: this process has one test and nobody else who reads its environment.
        unsafe { std::env::set_var("IPC_DIR", &path) };
        Self(path)
    }

    /// One that belongs to an ordinary user.
    fn of_ordinary_user() -> Self {
        let place = Self::new();
        let owner = if geteuid().is_root() { NOBODY } else { geteuid().as_raw() };
        chown(&place.0, Some(Uid::from_raw(owner)), None).unwrap();
        place
    }

    fn entries(&self) -> usize {
        fs::read_dir(self.0.join(".mq")).map_or(0, Iterator::count)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Room that isn't the kernel's choice, so that a queue takes more than one step to make.
fn small() -> SysvConfig {
    SysvConfig::new().depth(2).max_message_len(64)
}

/// `msgget` as any program may call it.
fn make_as_others(key: u32, mode: libc::c_int) -> i32 {
    let flags = libc::IPC_CREAT | libc::IPC_EXCL | mode;
    // SAFETY: integers only.
    Errno::result(unsafe { libc::msgget(key as libc::key_t, flags) }).unwrap()
}

/// Whether this process has an IPC namespace of its own from now on.
fn is_apart() -> bool {
    let apart = unshare(CloneFlags::CLONE_NEWIPC).is_ok();
    if !apart {
        skip("it takes an IPC namespace of one's own");
    }
    apart
}

/// Before and after each system call that it makes. A queue is found whole or not at all, the next maker gets
/// what it asks for, and nothing is left in the end.
#[rstest]
#[case::of_a_queue_with_settings_of_its_own("settings", small())]
#[case::of_a_queue_with_the_kernels("defaults", SysvConfig::new())]
fn a_maker_that_is_killed_leaves_nothing_half_made(#[case] case: &str, #[case] config: SysvConfig) {
    let test = match case {
        "settings" => "case_1_of_a_queue_with_settings_of_its_own",
        _ => "case_2_of_a_queue_with_the_kernels",
    };
    alone(&format!("a_maker_that_is_killed_leaves_nothing_half_made::{test}"), || {
        if !is_apart() {
            return;
        }
        let (place, sysv) = (Place::new(), Sysv::new());
        let mut was_there = 0;
        let name = fresh_name();
        let kills = (0..).take_while(|&steps| {
            let killed = killed_after(steps, || drop(sysv.create(&name, &config).unwrap()));
            match sysv.open(&name) {
                Ok(channel) => {
                    was_there += 1;
                    assert_eq!(sysv.list().unwrap(), std::slice::from_ref(&name), "step {steps}");
                    config_fits(&sysv, &name, &config, steps);
                    drop(channel);
                }
                Err(ChannelError::NotFound) => assert_eq!(sysv.list().unwrap(), [], "step {steps}"),
                Err(error) => panic!("step {steps}: {error}"),
            }
            match steps / 2 % 2 {
                0 => drop(sysv.open_or_create(&name, &config).unwrap()),
                _ => match sysv.create(&name, &config) {
                    Ok(_) | Err(ChannelError::AlreadyExists) => {}
                    Err(error) => panic!("step {steps}: {error}"),
                },
            }
            config_fits(&sysv, &name, &config, steps);
            sysv.remove(&name).unwrap();
            assert_eq!((place.entries(), sysv.all_queues().unwrap().len()), (0, 0), "step {steps}");
            killed
        });
        let kills = kills.count();
        assert!(kills >= 16 && was_there >= 2, "{kills} kills, {was_there} times the queue was there");
    });
}

/// The queue takes what it is to take.
fn config_fits(sysv: &Sysv, name: &ChannelName, config: &SysvConfig, steps: usize) {
    let channel = sysv.open_or_create(name, config).unwrap_or_else(|error| panic!("step {steps}: {error}"));
    let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
    tx.try_send(b"through").unwrap();
    assert_eq!(&*rx.try_recv().unwrap(), b"through");
}

/// What a killed maker leaves is taken away by who removes its name, too.
#[test]
fn a_half_made_queue_is_removed_with_its_name() {
    alone("a_half_made_queue_is_removed_with_its_name", || {
        if !is_apart() {
            return;
        }
        let (place, sysv, name) = (Place::new(), Sysv::new(), fresh_name());
        let left_behind = (0..).find(|&steps| {
            let killed = killed_after(steps, || drop(sysv.create(&name, &small()).unwrap()));
            assert!(killed, "it was never half made");
            let queues = sysv.all_queues().unwrap();
            let half_made = sysv.open(&name).is_err() && queues.len() == 1;
            let called = queues.first().and_then(|queue| queue.name.as_ref());
            assert_eq!(called.is_some(), queues.len() == 1 && !half_made, "step {steps}");
            match sysv.remove(&name) {
                Ok(()) => assert!(!half_made),
                Err(ChannelError::NotFound) => {}
                Err(error) => panic!("{error}"),
            }
            assert_eq!((place.entries(), sysv.all_queues().unwrap().len()), (0, 0), "step {steps}");
            half_made
        });
        assert!(left_behind.is_some());
    });
}

/// The channel that this queue, which there is, is listed under.
fn called(sysv: &Sysv, id: i32) -> Option<ChannelName> {
    let queues = sysv.all_queues().unwrap();
    queues.into_iter().find(|queue| queue.id == id).expect("it is there").name
}

/// Nor is it one that may not even be looked at.
#[test]
fn a_strangers_private_queue_under_a_key_of_ours_is_not_taken_for_ours() {
    if !geteuid().is_root() {
        return skip("it takes root to be somebody else");
    }
    alone("a_strangers_private_queue_under_a_key_of_ours_is_not_taken_for_ours", || {
        let (_place, name) = (Place::of_ordinary_user(), fresh_name());
        for mode in [0o000, 0o600, 0o622] {
            let ordinary = OrdinaryUser::new();
            let sysv = Sysv::new();
            let ours = sysv.create(&name, &small()).unwrap();
            sysv.remove_queue(ours.id()).unwrap();
            drop(ordinary);
            let theirs = make_as_others(ours.key(), mode);
            let ordinary = OrdinaryUser::new();
            assert!(matches!(sysv.open(&name), Err(ChannelError::NotFound)), "mode {mode:o}");
            assert!(matches!(sysv.stat(&name), Err(ChannelError::NotFound)));
            assert_eq!(sysv.list().unwrap(), []);
            assert_eq!(called(&sysv, theirs), None);
            let again = sysv.open_or_create(&name, &small()).unwrap();
            assert_ne!((again.key(), again.id()), (ours.key(), theirs));
            assert_eq!((called(&sysv, theirs), called(&sysv, again.id())), (None, Some(name.clone())));
            sysv.remove(&name).unwrap();
            assert_eq!(called(&sysv, theirs), None, "it is theirs");
            drop(ordinary);
            // SAFETY: this command takes no argument.
            unsafe { libc::msgctl(theirs, libc::IPC_RMID, ptr::null_mut()) };
        }
    });
}

/// In a user namespace that has a number for nobody, whoever has the key later looks the same.
#[test]
fn a_queue_of_whom_cant_be_told_is_given_no_name() {
    if !geteuid().is_root() {
        return skip("it takes root to be two users");
    }
    alone("a_queue_of_whom_cant_be_told_is_given_no_name", || {
        if !is_apart() {
            return;
        }
        const KEY: u32 = 0x0012_3456;
        make_as_others(KEY, 0o666);
        let (place, somebody) = (Place::new(), Uid::from_raw(100_000 + std::process::id()));
        in_child(|| {
            setresuid(somebody, somebody, somebody).unwrap();
            if unshare(CloneFlags::CLONE_NEWUSER).is_err() {
                return skip("it takes a user namespace of one's own");
            }
            let answer = Sysv::new().adopt(&fresh_name(), KEY);
            let Err(ChannelError::NotPermitted(text)) = answer else { panic!("{answer:?}") };
            assert!(text.contains("whoever has its key later"), "{text}");
            assert!(text.contains("no number in this user namespace"), "{text}");
        });
        Sysv::new().adopt(&fresh_name(), KEY).unwrap();
        assert_eq!(place.entries(), 1);
    });
}

#[test]
fn who_may_only_send_to_a_queue_finds_it() {
    alone("who_may_only_send_to_a_queue_finds_it", || {
        let _place = Place::of_ordinary_user();
        let (_ordinary, sysv, name) = (OrdinaryUser::new(), Sysv::new(), fresh_name());
        sysv.create(&name, &small().mode(0o200)).unwrap();
        let channel = sysv.open_or_create(&name, &small().mode(0o200)).unwrap();
        channel.sender().unwrap().try_send(b"in").unwrap();
        assert_eq!(sysv.stat(&name).unwrap().queued_messages, Some(1));
        let refused = channel.receiver().unwrap().try_recv().map(drop).unwrap_err().to_string();
        assert!(refused.contains("Permission denied"), "{refused}");
        sysv.remove(&name).unwrap();
    });
}

#[test]
fn a_limit_that_was_lowered_is_not_taken_for_a_queue_that_is_gone() {
    alone("a_limit_that_was_lowered_is_not_taken_for_a_queue_that_is_gone", || {
        if !is_apart() {
            return;
        }
        let (_place, sysv, name) = (Place::new(), Sysv::new(), fresh_name());
        let channel = sysv.create(&name, &small()).unwrap();
        let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
        tx.try_send(&[1; 64]).unwrap();
        fs::write("/proc/sys/kernel/msgmax", "63").unwrap();
        let error = tx.try_send(&[2; 64]).unwrap_err().to_string();
        assert!(error.contains("kernel.msgmax, which was lowered to 63"), "{error}");
        assert!(error.contains("sysctl kernel.msgmax=64"), "{error}");
        tx.try_send(&[3; 63]).unwrap();
        let mut copy = Vec::new();
        match rx.peek(0, &mut copy) {
            Err(PeekError::Unsupported(_)) => {}
            answer => {
                let error = answer.unwrap_err().to_string();
                assert!(error.contains("kernel.msgmax, which was lowered to 63"), "{error}");
                assert!(error.contains("sysctl kernel.msgmax=64"), "{error}");
                assert!(rx.peek(1, &mut copy).unwrap());
                assert_eq!(copy, [3; 63]);
                assert!(!rx.peek(2, &mut copy).unwrap());
            }
        }
        // What was sent before is received as ever.
        assert_eq!(&*rx.try_recv().unwrap(), &[1; 64]);
        assert_eq!(&*rx.try_recv().unwrap(), &[3; 63]);
        sysv.remove(&name).unwrap();
        assert!(matches!(tx.try_send(&[4; 64]), Err(SendError::Closed)));
        let gone = rx.peek(0, &mut copy);
        assert!(matches!(gone, Err(PeekError::Closed | PeekError::Unsupported(_))), "{gone:?}");
    });
}

/// However the steps of one fall between those of others.
#[test]
fn racing_creators_and_removers_leave_nothing_and_see_no_error() {
    alone("racing_creators_and_removers_leave_nothing_and_see_no_error", || {
        if !is_apart() {
            return;
        }
        let (place, sysv, name) = (Place::new(), Sysv::new(), fresh_name());
        // A namespace is a thread's; those that are started later have it too.
        thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| {
                    for _ in 0..50 {
                        sysv.open_or_create(&name, &small()).unwrap();
                        match sysv.remove(&name) {
                            Ok(()) | Err(ChannelError::NotFound) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                });
            }
        });
        assert!(matches!(sysv.open(&name), Err(ChannelError::NotFound)));
        assert_eq!((place.entries(), sysv.all_queues().unwrap()), (0, vec![]));
    });
}

#[test]
fn a_queue_more_than_there_can_be_is_refused_and_leaves_no_name() {
    alone("a_queue_more_than_there_can_be_is_refused_and_leaves_no_name", || {
        if !is_apart() {
            return;
        }
        let (place, sysv, name) = (Place::new(), Sysv::new(), fresh_name());
        fs::write("/proc/sys/kernel/msgmni", "1").unwrap();
        sysv.create(&name, &small()).unwrap();
        for config in [small(), SysvConfig::new()] {
            let Err(ChannelError::Limit(text)) = sysv.create(&fresh_name(), &config) else {
                panic!("it was made")
            };
            let expected = "the system has its kernel.msgmni queues, which is 1: remove some (`ipc ls --all` shows \
                            them) or raise it with `sysctl kernel.msgmni=2` (see `ipc doctor`)";
            assert_eq!(text, expected);
            assert_eq!((place.entries(), sysv.list().unwrap()), (1, vec![name.clone()]));
        }
        sysv.remove(&name).unwrap();
        sysv.create(&fresh_name(), &small()).unwrap();
    });
}

#[test]
fn the_key_that_stands_for_no_queue_is_refused() {
    alone("the_key_that_stands_for_no_queue_is_refused", || {
        if !is_apart() {
            return;
        }
        let (place, sysv) = (Place::new(), Sysv::new());
        let refused = sysv.adopt(&fresh_name(), 0);
        assert!(matches!(refused, Err(ChannelError::InvalidConfig(_))), "{refused:?}");
        assert_eq!((place.entries(), sysv.all_queues().unwrap()), (0, vec![]));
    });
}

#[rstest]
#[case::a_file(|path: &Path| fs::write(path, "ipc-sysv 1").unwrap())]
#[case::a_link_elsewhere(|path: &Path| symlink("/etc/passwd", path).unwrap())]
#[case::another_version(|path: &Path| symlink("ipc-sysv 2, key 5, creator-uid 0, max-message-len-bytes 9", path).unwrap())]
#[case::no_key(|path: &Path| symlink("ipc-sysv 1, key 0, creator-uid 0, max-message-len-bytes 9", path).unwrap())]
#[case::no_length(|path: &Path| symlink("ipc-sysv 1, key 5, creator-uid 0, max-message-len-bytes 0", path).unwrap())]
fn a_damaged_name_is_said_to_be_and_can_be_removed(#[case] damage: fn(&Path)) {
    let (sysv, name) = (Sysv::new(), fresh_name());
    let queue = sysv.create(&name, &small()).unwrap();
    let path = sysv.stat(&name).unwrap().path.unwrap();
    sysv.remove_queue(queue.id()).unwrap();
    fs::remove_file(&path).unwrap();
    damage(&path);
    for answer in [sysv.open(&name), sysv.create(&name, &small()), sysv.open_or_create(&name, &small())] {
        let Err(ChannelError::Corrupt(text)) = answer else { panic!("{answer:?}") };
        assert!(text.contains(path.to_str().unwrap()) && text.contains("remove it"), "{text}");
    }
    sysv.remove(&name).unwrap();
    assert!(!path.is_symlink() && !path.exists());
    assert!(matches!(sysv.remove(&name), Err(ChannelError::NotFound)));
}

/// The kernel's queues are others there, but the directory of names is the same one.
#[test]
fn who_has_another_ipc_namespace_takes_no_name_away() {
    alone("who_has_another_ipc_namespace_takes_no_name_away", || {
        if !is_apart() {
            return;
        }
        let (place, sysv, name) = (Place::new(), Sysv::new(), fresh_name());
        let ours = sysv.create(&name, &small()).unwrap();
        ours.sender().unwrap().try_send(b"precious").unwrap();
        let elsewhere = || {
            unshare(CloneFlags::CLONE_NEWIPC).unwrap();
            assert!(matches!(sysv.open(&name), Err(ChannelError::NotFound)));
            assert!(matches!(sysv.stat(&name), Err(ChannelError::NotFound)));
            assert!(matches!(sysv.remove(&name), Err(ChannelError::NotFound)));
            assert_eq!((sysv.list().unwrap(), sysv.all_queues().unwrap()), (vec![], vec![]));
            let theirs = sysv.open_or_create(&name, &small()).unwrap();
            assert!(matches!(theirs.receiver().unwrap().try_recv(), Err(RecvError::WouldBlock)));
            assert_eq!(sysv.list().unwrap(), std::slice::from_ref(&name));
            sysv.remove(&name).unwrap();
            assert!(matches!(sysv.remove(&name), Err(ChannelError::NotFound)));
        };
        in_child(elsewhere);
        // A namespace is a thread's.
        thread::scope(|threads| threads.spawn(elsewhere).join().unwrap());
        assert_eq!((place.entries(), sysv.list().unwrap()), (1, vec![name.clone()]));
        let found = sysv.open(&name).unwrap();
        assert_eq!((found.key(), found.id()), (ours.key(), ours.id()));
        assert_eq!(&*found.receiver().unwrap().try_recv().unwrap(), b"precious");
        sysv.remove(&name).unwrap();
        assert_eq!(place.entries(), 0);
    });
}

/// Not even if what the name stands for elsewhere looks the same.
#[rstest]
#[case::made("made", false)]
#[case::adopted("adopted", true)]
fn a_name_of_another_ipc_namespace_leads_to_no_queue(#[case] case: &str, #[case] adopted: bool) {
    let number = 1 + u32::from(adopted);
    let test = format!("a_name_of_another_ipc_namespace_leads_to_no_queue::case_{number}_{case}");
    alone(&test, || {
        if !is_apart() {
            return;
        }
        // One that we could have drawn ourselves.
        const KEY: u32 = 0x0012_3456;
        let (_place, sysv, name) = (Place::new(), Sysv::new(), fresh_name());
        if adopted {
            make_as_others(KEY, 0o600);
            sysv.adopt(&name, KEY).unwrap();
        } else {
            sysv.create(&name, &small()).unwrap();
        }
        let ours = sysv.open(&name).unwrap();
        thread::scope(|threads| {
            threads.spawn(|| {
                unshare(CloneFlags::CLONE_NEWIPC).unwrap();
                if adopted {
                    make_as_others(KEY, 0o600);
                }
                assert!(matches!(sysv.open(&name), Err(ChannelError::NotFound)));
                let theirs = sysv.open_or_create(&name, &small()).unwrap();
                assert_ne!(theirs.key(), ours.key());
                assert_eq!(sysv.open(&name).unwrap().key(), theirs.key());
            });
        });
        // What another thread was told is of no use here.
        assert_eq!(sysv.open(&name).unwrap().key(), ours.key());
        sysv.remove(&name).unwrap();
    });
}

#[test]
fn where_the_namespace_cant_be_told_it_is_said_what_to_do() {
    alone_in_namespaces("where_the_namespace_cant_be_told_it_is_said_what_to_do", || {
        if !is_apart() {
            return;
        }
        let (place, sysv, name) = (Place::new(), Sysv::new(), fresh_name());
        mount(Some("none"), "/proc", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        let answers = [
            sysv.create(&name, &small()).map(drop),
            sysv.open(&name).map(drop),
            sysv.remove(&name),
            sysv.list().map(drop),
        ];
        for answer in answers {
            let Err(ChannelError::Unsupported(text)) = answer else { panic!("{answer:?}") };
            assert!(text.contains("mount -t proc proc /proc"), "{text}");
        }
        assert_eq!(place.entries(), 0);
        // As a kernel shows it that has no such namespaces.
        fs::create_dir_all("/proc/thread-self/ns").unwrap();
        sysv.create(&name, &small()).unwrap();
        sysv.open(&name).unwrap();
        sysv.remove(&name).unwrap();
        assert_eq!(place.entries(), 0);
    });
}
