//! Queues: made, found, described, removed.

mod common;

use common::{
    DEPTH, MAX_LEN, NOBODY, OrdinaryUser, Removed, TestQueue, alone, fresh_name, in_child, skip, small,
};
use ipc_mq::{
    Channel, ChannelError, ChannelName, Mq, MqConfig, Notify, NotifyError, PrioritySender, Receiver,
    RecvError, Sender, Transport, Wait,
};
use nix::{
    libc,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::stat::{Mode, umask},
    unistd::{Uid, geteuid, seteuid, setresuid},
};
use rstest::rstest;
use std::{
    fs,
    os::fd::{AsFd, AsRawFd},
    thread,
};

#[test]
fn a_created_queue_is_described_as_it_was_asked_for() {
    let queue = TestQueue::with(&small().mode(0o640));
    queue.channel.sender().unwrap().send(b"waits").unwrap();
    let info = Mq::new().stat(&queue.name.0).unwrap();
    assert_eq!(info.kind, "posix-queue");
    assert_eq!(info.depth, Some(DEPTH as u64));
    assert_eq!(info.max_message_len_bytes, Some(MAX_LEN as u64));
    assert_eq!(info.capacity_bytes, Some((DEPTH * MAX_LEN) as u64));
    assert_eq!(info.queued_messages, Some(1));
    assert_eq!(info.mode, Some(0o640));
    assert_eq!(info.uid, Some(geteuid().as_raw()));
    assert_eq!(info.participants, []);
    assert_eq!((queue.channel.depth(), queue.channel.max_message_len()), (DEPTH, MAX_LEN));
    assert_eq!(queue.channel.name(), &queue.name.0);
}

#[rstest]
#[case::both(MqConfig::new(), None, None)]
#[case::only_the_depth(MqConfig::new().depth(2), Some(2), None)]
#[case::only_the_length(MqConfig::new().max_message_len(64), None, Some(64))]
fn what_is_left_out_is_the_kernels_default(
    #[case] config: MqConfig,
    #[case] depth: Option<usize>,
    #[case] max_message_len: Option<usize>,
) {
    let queue = TestQueue::with(&config);
    let kernel = |name| {
        let text = fs::read_to_string(format!("/proc/sys/fs/mqueue/{name}")).unwrap();
        text.trim().parse::<usize>().unwrap()
    };
    let default_depth = kernel("msg_default").min(kernel("msg_max"));
    let default_len = kernel("msgsize_default").min(kernel("msgsize_max"));
    assert_eq!(queue.channel.depth(), depth.unwrap_or(default_depth));
    assert_eq!(queue.channel.max_message_len(), max_message_len.unwrap_or(default_len));
    assert_eq!(Mq::new().stat(&queue.name.0).unwrap().mode, Some(0o600));
}

#[test]
fn a_second_create_finds_the_first() {
    let queue = TestQueue::small();
    let again = Mq::new().create(&queue.name.0, &small());
    assert!(matches!(again, Err(ChannelError::AlreadyExists)), "{again:?}");
}

#[test]
fn a_missing_queue_is_not_found() {
    let name = fresh_name();
    assert!(matches!(Mq::new().open(&name), Err(ChannelError::NotFound)));
    assert!(matches!(Mq::new().stat(&name), Err(ChannelError::NotFound)));
    assert!(matches!(Mq::new().remove(&name), Err(ChannelError::NotFound)));
}

#[rstest]
#[case::depth(MqConfig::new().depth(3), "depth", "3", "4")]
#[case::length(MqConfig::new().max_message_len(64), "max_message_len", "64", "128")]
#[case::mode(MqConfig::new().mode(0o666), "mode", "0666", "0600")]
fn opening_with_other_settings_names_the_difference(
    #[case] config: MqConfig,
    #[case] expected: &str,
    #[case] expected_asked: &str,
    #[case] expected_found: &str,
) {
    let queue = TestQueue::small();
    let answer = Mq::new().open_or_create(&queue.name.0, &config);
    let Err(ChannelError::Mismatch { setting, asked, found }) = answer else { panic!("{answer:?}") };
    assert_eq!((setting, &*asked, &*found), (expected, expected_asked, expected_found));
}

#[test]
fn opening_asks_for_nothing_that_was_left_out() {
    let queue = TestQueue::with(&small().mode(0o620));
    let opened = Mq::new().open_or_create(&queue.name.0, &MqConfig::new()).unwrap();
    assert_eq!((opened.depth(), opened.max_message_len()), (DEPTH, MAX_LEN));
    Mq::new().open_or_create(&queue.name.0, &small().mode(0o620)).unwrap();
}

#[rstest]
#[case(MqConfig::new().depth(0), "depth of 0")]
#[case(MqConfig::new().max_message_len(0), "length of 0")]
#[case(MqConfig::new().mode(0o1600), "mode 1600")]
fn settings_that_no_queue_can_have_are_refused(#[case] config: MqConfig, #[case] expected: &str) {
    let name = Removed::fresh();
    for answer in [Mq::new().create(&name.0, &config), Mq::new().open_or_create(&name.0, &config)] {
        let Err(ChannelError::InvalidConfig(text)) = answer else { panic!("{answer:?}") };
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn racing_creators_and_removers_never_see_an_error() {
    let name = Removed::fresh();
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..300 {
                    Mq::new().open_or_create(&name.0, &small()).unwrap();
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..300 {
                let answer = Mq::new().remove(&name.0);
                assert!(matches!(answer, Ok(()) | Err(ChannelError::NotFound)), "{answer:?}");
            }
        });
    });
}

#[test]
fn of_racing_creators_exactly_one_wins() {
    let name = Removed::fresh();
    let winners: usize = thread::scope(|scope| {
        let racers: Vec<_> =
            (0..8).map(|_| scope.spawn(|| Mq::new().create(&name.0, &small()).is_ok())).collect();
        racers.into_iter().map(|racer| usize::from(racer.join().unwrap())).sum()
    });
    assert_eq!(winners, 1);
}

#[test]
fn a_removed_queue_serves_those_who_have_it_and_the_name_is_free() {
    let queue = TestQueue::small();
    let (mut tx, mut rx) = queue.pair();
    Mq::new().remove(&queue.name.0).unwrap();
    let _other = Mq::new().create(&queue.name.0, &MqConfig::new().depth(1).max_message_len(8)).unwrap();

    tx.send(&[7; MAX_LEN]).unwrap();
    assert_eq!(&*rx.recv().unwrap(), &[7; MAX_LEN]);
    assert!(matches!(queue.channel.receiver().unwrap().try_recv(), Err(RecvError::WouldBlock)));
}

#[test]
fn endpoints_are_those_of_the_queue_that_their_channel_found() {
    let queue = TestQueue::small();
    Mq::new().remove(&queue.name.0).unwrap();
    let successor = Mq::new().create(&queue.name.0, &small().max_message_len(2 * MAX_LEN)).unwrap();

    let (mut tx, mut rx) = queue.pair();
    assert_eq!(tx.max_message_len(), MAX_LEN);
    tx.send(&[1; MAX_LEN]).unwrap();
    assert!(matches!(successor.receiver().unwrap().try_recv(), Err(RecvError::WouldBlock)));
    assert_eq!(rx.recv().unwrap().len(), MAX_LEN);
}

/// One epoll takes all endpoints of a channel.
#[test]
fn no_two_endpoints_have_the_same_descriptor() {
    let queue = TestQueue::small();
    let ((one, other), again) = (queue.pair(), queue.channel.clone().sender().unwrap());
    let descriptors = [one.as_fd(), other.as_fd(), again.as_fd()].map(|fd| fd.as_raw_fd());
    assert!(descriptors[0] != descriptors[1] && descriptors[1] != descriptors[2], "{descriptors:?}");
    assert_ne!(descriptors[0], descriptors[2]);
}

#[test]
fn messages_stay_when_nobody_has_the_queue_open() {
    let queue = TestQueue::small();
    queue.channel.sender().unwrap().send(b"stored").unwrap();
    assert_eq!(&*queue.channel.receiver().unwrap().try_recv().unwrap(), b"stored");
}

#[test]
fn the_shortest_way_makes_a_missing_queue() {
    let name = Removed::fresh();
    ipc_mq::sender(name.0.as_str()).unwrap().send(b"hello").unwrap();
    assert_eq!(&*ipc_mq::receiver(name.0.as_str()).unwrap().recv().unwrap(), b"hello");
}

#[test]
fn the_shortest_way_refuses_a_bad_name() {
    assert!(matches!(ipc_mq::sender("a/b"), Err(ChannelError::InvalidName(_))));
    assert!(matches!(ipc_mq::receiver(""), Err(ChannelError::InvalidName(_))));
}

#[test]
fn the_longest_name_works() {
    let prefix = fresh_name().to_string();
    let name = Removed(format!("{prefix:x<200}").parse().unwrap());
    Mq::new().create(&name.0, &small()).unwrap();
    assert_eq!(Mq::new().stat(&name.0).unwrap().depth, Some(DEPTH as u64));
}

/// In an IPC namespace of one's own the whole list is known; without the privilege to make
/// one, one's own queues must be in it.
#[test]
fn the_list_is_complete_and_sorted() {
    alone("the_list_is_complete_and_sorted", || {
        let own_namespace = unshare(CloneFlags::CLONE_NEWIPC).is_ok();
        let queues = [TestQueue::small(), TestQueue::small()];
        let foreign_path = format!("/.not a channel name {}", std::process::id());
        let foreign = nix::mqueue::mq_open(
            &*foreign_path,
            nix::mqueue::MQ_OFlag::O_CREAT | nix::mqueue::MQ_OFlag::O_RDONLY,
            Mode::S_IRUSR,
            Some(&nix::mqueue::MqAttr::new(0, 1, 1, 0)),
        );
        let listed = Mq::new().list();
        let _ = nix::mqueue::mq_unlink(&*foreign_path);
        foreign.unwrap();

        match listed {
            Ok(names) if own_namespace => {
                assert_eq!(names, queues.each_ref().map(|queue| queue.name.0.clone()))
            }
            Ok(names) => assert!(queues.iter().all(|queue| names.contains(&queue.name.0))),
            Err(ChannelError::Unsupported(_)) if !own_namespace => {}
            Err(error) => panic!("{error}"),
        }
    });
}

#[test]
fn without_a_mount_or_privileges_the_list_says_what_to_do() {
    alone("without_a_mount_or_privileges_the_list_says_what_to_do", || {
        if privately(hide_mount_point).is_none() {
            return skip("it takes a mount namespace of one's own");
        }
        let _ordinary = OrdinaryUser::new();
        let answer = Mq::new().list();
        let Err(ChannelError::Unsupported(text)) = answer else { panic!("{answer:?}") };
        assert!(text.contains("mount -t mqueue none /dev/mqueue"), "{text}");
    });
}

#[test]
fn where_the_queues_are_mounted_everybody_lists_them_and_sees_their_path() {
    alone("where_the_queues_are_mounted_everybody_lists_them_and_sees_their_path", || {
        if privately(mount_queues).is_none() {
            return skip("it takes a mount namespace of one's own");
        }
        let _ordinary = OrdinaryUser::new();
        let queue = TestQueue::small();
        assert!(Mq::new().list().unwrap().contains(&queue.name.0));
        let path = Mq::new().stat(&queue.name.0).unwrap().path.unwrap();
        assert_eq!(path.to_str(), Some(&*format!("/dev/mqueue/{}", queue.name.0)));
        // To close a queue would take a notification back.
        let mut rx = queue.channel.receiver().unwrap();
        rx.notify(libc::SIGUSR1).unwrap();
        assert!(Mq::new().list().unwrap().contains(&queue.name.0));
        in_child(|| {
            let answer = queue.channel.receiver().unwrap().notify(libc::SIGUSR1);
            assert!(matches!(answer, Err(NotifyError::Busy)), "{answer:?}");
        });
    });
}

#[test]
fn a_path_in_another_namespace_is_not_taken_for_the_queues() {
    alone("a_path_in_another_namespace_is_not_taken_for_the_queues", || {
        if privately(mount_queues).is_none() {
            return skip("it takes a mount namespace of one's own");
        }
        let outside = TestQueue::small();
        assert!(Mq::new().stat(&outside.name.0).unwrap().path.is_some());
        // The other namespace, and what is in it, goes with the thread.
        thread::scope(|scope| {
            scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWIPC).unwrap();
                lists_exactly(&[]);
                Mq::new().create(&outside.name.0, &small()).unwrap();
                assert_eq!(Mq::new().stat(&outside.name.0).unwrap().path, None);
                lists_exactly(&[&outside.name.0]);
                let inside = TestQueue::small();
                lists_exactly(&[&outside.name.0, &inside.name.0]);
                Mq::new().remove(&outside.name.0).unwrap();
                lists_exactly(&[&inside.name.0]);
                // Who can't look elsewhere says so.
                let _ordinary = OrdinaryUser::new();
                let answer = Mq::new().list();
                let Err(ChannelError::Unsupported(text)) = answer else { panic!("{answer:?}") };
                assert!(text.contains("another IPC namespace"), "{text}");
                assert!(text.contains("mount -t mqueue none /dev/mqueue"), "{text}");
            });
        });
    });
}

/// In a user namespace that has a number for nobody, they all have the same.
#[test]
fn a_strangers_queue_is_refused_where_all_users_look_alike() {
    if !geteuid().is_root() {
        return skip("it takes root to be two users");
    }
    alone("a_strangers_queue_is_refused_where_all_users_look_alike", || {
        let somebody = Uid::from_raw(100_000 + std::process::id());
        let other = Uid::from_raw(somebody.as_raw() + 1);
        umask(Mode::empty());
        seteuid(somebody).unwrap();
        let queue = TestQueue::with(&small().mode(0o666));
        seteuid(Uid::from_raw(0)).unwrap();
        in_child(|| {
            setresuid(other, other, other).unwrap();
            if unshare(CloneFlags::CLONE_NEWUSER).is_err() {
                return skip("it takes a user namespace of one's own");
            }
            assert_eq!(
                (geteuid().as_raw(), Mq::new().stat(&queue.name.0).unwrap().uid),
                (NOBODY, Some(NOBODY))
            );
            for answer in [Mq::new().open(&queue.name.0), Mq::new().open_or_create(&queue.name.0, &small())] {
                let Err(ChannelError::NotPermitted(text)) = answer else { panic!("{answer:?}") };
                assert!(text.contains("no number in this user namespace"), "{text}");
            }
            Mq::new().trusting([NOBODY]).open(&queue.name.0).unwrap();
        });
        // Where everybody has a number, that one is a user's like any other.
        seteuid(Uid::from_raw(NOBODY)).unwrap();
        let nobodys = TestQueue::small();
        Mq::new().open(&nobodys.name.0).unwrap();
        // Who may remove both.
        seteuid(Uid::from_raw(0)).unwrap();
    });
}

/// These are all queues that there are, or it can't be said which there are.
#[track_caller]
fn lists_exactly(names: &[&ChannelName]) {
    match Mq::new().list() {
        Ok(listed) => assert_eq!(listed.iter().collect::<Vec<_>>(), names),
        Err(ChannelError::Unsupported(_)) => {}
        Err(error) => panic!("{error}"),
    }
}

/// Changes the mounts of this thread alone; `None` where that isn't permitted.
fn privately(change: impl FnOnce()) -> Option<()> {
    unshare(CloneFlags::CLONE_NEWNS).ok()?;
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).unwrap();
    change();
    Some(())
}

/// Nothing is mounted on `/dev/mqueue`, since there is no such directory.
fn hide_mount_point() {
    mount(Some("none"), "/dev", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
}

fn mount_queues() {
    hide_mount_point();
    fs::create_dir("/dev/mqueue").unwrap();
    mount(Some("none"), "/dev/mqueue", Some("mqueue"), MsFlags::empty(), None::<&str>).unwrap();
}

#[test]
fn the_mode_is_exact_whatever_the_umask() {
    alone("the_mode_is_exact_whatever_the_umask", || {
        for mask in [0o000, 0o022, 0o077, 0o777] {
            umask(Mode::from_bits_truncate(mask));
            for mode in [0o600, 0o666, 0o622, 0o000] {
                let queue = TestQueue::with(&small().mode(mode));
                // To look at it takes a permission that mode 0 doesn't give an ordinary user.
                if mode != 0 || geteuid().is_root() {
                    let info = Mq::new().stat(&queue.name.0).unwrap();
                    assert_eq!(info.mode, Some(mode), "umask {mask:o}");
                }
            }
        }
    });
}

#[test]
fn racing_openers_agree_on_the_mode_under_a_narrow_umask() {
    alone("racing_openers_agree_on_the_mode_under_a_narrow_umask", || {
        umask(Mode::from_bits_truncate(0o077));
        for _ in 0..100 {
            let name = Removed::fresh();
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| Mq::new().open_or_create(&name.0, &small().mode(0o666)).unwrap());
                }
            });
        }
    });
}

#[test]
fn who_may_only_send_can_send_and_nothing_else() {
    alone("who_may_only_send_can_send_and_nothing_else", || {
        let _ordinary = OrdinaryUser::new();
        let queue = TestQueue::with(&small().mode(0o200));
        queue.channel.sender().unwrap().send(b"in").unwrap();
        let refused = queue.channel.receiver();
        assert!(matches!(refused, Err(ChannelError::NotPermitted(_))), "{refused:?}");
        Mq::new().open(&queue.name.0).unwrap();
        assert_eq!(Mq::new().stat(&queue.name.0).unwrap().queued_messages, Some(1));
    });
}

#[test]
fn who_may_only_receive_can_receive_and_nothing_else() {
    alone("who_may_only_receive_can_receive_and_nothing_else", || {
        let _ordinary = OrdinaryUser::new();
        let queue = TestQueue::with(&small().mode(0o400));
        let answer = queue.channel.receiver().unwrap().advance(Wait::Never);
        assert!(matches!(answer, Err(RecvError::WouldBlock)));
        let refused = queue.channel.sender();
        assert!(matches!(refused, Err(ChannelError::NotPermitted(_))), "{refused:?}");
        Mq::new().open(&queue.name.0).unwrap();
        assert_eq!(Mq::new().stat(&queue.name.0).unwrap().mode, Some(0o400));
    });
}

#[test]
fn a_strangers_queue_is_neither_opened_nor_removed() {
    alone("a_strangers_queue_is_neither_opened_nor_removed", || {
        let queue = TestQueue::small();
        if !geteuid().is_root() {
            return skip("it takes root to be somebody else");
        }
        let _ordinary = OrdinaryUser::new();
        let refusals = [
            Mq::new().open(&queue.name.0).map(drop),
            Mq::new().open_or_create(&queue.name.0, &small()).map(drop),
            Mq::new().stat(&queue.name.0).map(drop),
            Mq::new().remove(&queue.name.0),
        ];
        for refusal in refusals {
            assert!(matches!(refusal, Err(ChannelError::NotPermitted(_))), "{refusal:?}");
        }
    });
}

/// Whoever was first to take the name could hear, or say, whatever is meant for another.
#[test]
fn another_users_queue_is_refused_by_name_unless_that_user_is_trusted() {
    alone("another_users_queue_is_refused_by_name_unless_that_user_is_trusted", || {
        if !geteuid().is_root() {
            return skip("it takes root to be somebody else");
        }
        let be = |uid| {
            seteuid(Uid::from_raw(0)).unwrap();
            seteuid(Uid::from_raw(uid)).unwrap();
        };
        let (roots, us) = (TestQueue::with(&small().mode(0o666)), 100_000 + std::process::id());
        be(NOBODY);
        let theirs = TestQueue::with(&small().mode(0o666));
        let name = &theirs.name.0;
        be(us);
        let refusals = [
            Mq::new().open(name).map(drop),
            Mq::new().open_or_create(name, &small()).map(drop),
            Mq::new().trusting([us, 0]).open(name).map(drop),
            ipc_mq::sender(name.as_str()).map(drop),
        ];
        for refusal in refusals {
            let Err(ChannelError::NotPermitted(text)) = refusal else { panic!("{refusal:?}") };
            assert!(text.contains(&format!("belongs to user {NOBODY}, we are user {us}")), "{text}");
        }
        assert_eq!(Mq::new().stat(name).unwrap().uid, Some(NOBODY), "to look at it is to trust nobody");
        let trusting = Mq::new().trusting([NOBODY]);
        trusting.open(name).unwrap().sender().unwrap().send(b"trusted").unwrap();
        trusting.open_or_create(name, &small()).unwrap();
        // Root could do what it likes anyway.
        Mq::new().open(&roots.name.0).unwrap();
        assert_eq!(&*theirs.channel.receiver().unwrap().try_recv().unwrap(), b"trusted");
        be(0);
    });
}

#[test]
fn a_refusal_says_whose_the_queue_is_where_that_can_be_seen() {
    alone("a_refusal_says_whose_the_queue_is_where_that_can_be_seen", || {
        if privately(mount_queues).is_none() {
            return skip("it takes a mount namespace of one's own");
        }
        let queue = TestQueue::small();
        let _ordinary = OrdinaryUser::new();
        let refusal = Mq::new().remove(&queue.name.0).unwrap_err().to_string();
        assert!(refusal.contains("belongs to user 0 and has mode 0600"), "{refusal}");
    });
}

#[test]
fn the_capabilities_are_what_a_kernel_queue_can_do() {
    let capabilities = Mq::CAPABILITIES;
    assert!(capabilities.stores && capabilities.cross_process);
    assert!(!capabilities.redelivers && !capabilities.zero_copy && !capabilities.exclusive);
    assert_eq!(Mq::SCHEME, "mq");
    assert_eq!(<ipc_mq::MqSender as PrioritySender>::MAX_PRIORITY, 32_767);
}
