//! Whoever reaches a limit of the kernel is told which, its value and what raises it.

mod common;

use common::{
    OrdinaryUser, Removed, TestQueue, alone, alone_in_namespaces, fresh_name, in_child, skip, small,
    sockets::Place,
};
use ipc_mq::{
    Cancel, Channel, ChannelError, DescriptorSender, Mq, MqConfig, Receiver, SendError, Sender, Sysv,
    SysvConfig, Transport, Unix, UnixConfig, Wait,
};
use nix::{
    sched::{CloneFlags, unshare},
    sys::resource::{Resource, getrlimit, setrlimit},
    unistd::{Uid, geteuid, setresuid},
};
use rstest::rstest;
use std::{fs, io::ErrorKind, os::fd::AsRawFd, time::Duration};

/// The text of the limit that making such a queue meets.
fn limit_of(config: &MqConfig) -> String {
    let name = Removed::fresh();
    match Mq::new().create(&name.0, config) {
        Err(ChannelError::Limit(text)) => text,
        answer => panic!("{answer:?}"),
    }
}

fn kernel(name: &str) -> usize {
    fs::read_to_string(format!("/proc/sys/fs/mqueue/{name}")).unwrap().trim().parse().unwrap()
}

#[test]
fn an_ordinary_user_is_told_msg_max() {
    alone("an_ordinary_user_is_told_msg_max", || {
        let _ordinary = OrdinaryUser::new();
        let max = kernel("msg_max");
        let expected = format!(
            "depth {0} exceeds fs.mqueue.msg_max, which is {max}: \
             raise it with `sysctl fs.mqueue.msg_max={0}` or ask for less (see `ipc doctor`)",
            max + 1
        );
        assert_eq!(limit_of(&MqConfig::new().depth(max + 1).max_message_len(8)), expected);
    });
}

#[test]
fn an_ordinary_user_is_told_msgsize_max() {
    alone("an_ordinary_user_is_told_msgsize_max", || {
        let _ordinary = OrdinaryUser::new();
        let max = kernel("msgsize_max");
        let expected = format!(
            "maximum message length {0} exceeds fs.mqueue.msgsize_max, which is {max}: \
             raise it with `sysctl fs.mqueue.msgsize_max={0}` or ask for less (see `ipc doctor`)",
            max + 1
        );
        assert_eq!(limit_of(&MqConfig::new().depth(1).max_message_len(max + 1)), expected);
    });
}

#[test]
fn who_exceeds_two_limits_is_told_both() {
    alone("who_exceeds_two_limits_is_told_both", || {
        let _ordinary = OrdinaryUser::new();
        let text = limit_of(
            &MqConfig::new().depth(kernel("msg_max") + 1).max_message_len(kernel("msgsize_max") + 1),
        );
        assert!(text.contains("msg_max") && text.contains("msgsize_max"), "{text}");
    });
}

#[rstest]
#[case::depth(MqConfig::new().depth(65_537).max_message_len(1), "depth 65537 exceeds 65536")]
#[case::depth_beyond_counting(MqConfig::new().depth(usize::MAX).max_message_len(1), "exceeds 65536")]
#[case::length(MqConfig::new().depth(1).max_message_len(16_777_217), "length 16777217 exceeds 16777216")]
fn nobody_exceeds_the_hard_maxima(#[case] config: MqConfig, #[case] expected: &str) {
    let text = limit_of(&config);
    assert!(text.contains(expected), "{text}");
}

/// CAP_SYS_RESOURCE lifts the limit, and not every root has it: either the queue works, or
/// the words are true.
#[test]
fn above_msg_max_the_queue_is_made_or_the_limit_is_named() {
    let (name, max) = (Removed::fresh(), kernel("msg_max"));
    match Mq::new().create(&name.0, &MqConfig::new().depth(max + 1).max_message_len(8)) {
        Ok(channel) => {
            assert_eq!(channel.depth(), max + 1);
            channel.receiver().unwrap();
        }
        Err(ChannelError::Limit(text)) => assert!(text.contains("fs.mqueue.msg_max"), "{text}"),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_user_whose_queues_are_full_is_told_the_bytes() {
    alone("a_user_whose_queues_are_full_is_told_the_bytes", || {
        set_soft_limit(Resource::RLIMIT_MSGQUEUE, 0);
        let text = limit_of(&small());
        assert!(text.contains("needs 896 bytes (4 messages of 128 bytes"), "{text}");
        assert!(text.contains("RLIMIT_MSGQUEUE, which is 0 bytes"), "{text}");
        assert!(text.contains("`ulimit -q 896`"), "{text}");
    });
}

/// The figure in the error is the kernel's own: with it the queue fits, with a byte less it
/// doesn't. It takes a user who has no queues yet.
#[test]
fn the_bytes_are_counted_as_the_kernel_counts_them() {
    alone("the_bytes_are_counted_as_the_kernel_counts_them", || {
        if !geteuid().is_root() {
            return skip("it takes root to be a user who has no queues yet");
        }
        let nobody_else = Uid::from_raw(3_000_000_000 + std::process::id());
        setresuid(nobody_else, nobody_else, nobody_else).unwrap();
        set_soft_limit(Resource::RLIMIT_MSGQUEUE, 895);
        assert!(limit_of(&small()).contains("needs 896 bytes"));
        set_soft_limit(Resource::RLIMIT_MSGQUEUE, 896);
        TestQueue::small();
    });
}

/// To run out of it anywhere else would end the process.
#[test]
fn a_reservation_that_there_is_no_memory_for_is_refused() {
    alone("a_reservation_that_there_is_no_memory_for_is_refused", || {
        const LEN: usize = 1 << 40;
        let (place, name) = (Place::new(), fresh_name());
        let channel = place.transport().create(&name, &UnixConfig::new().max_message_len(LEN)).unwrap();
        let (mut tx, mut rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
        set_soft_limit(Resource::RLIMIT_AS, 8 << 30);
        let refused = tx.reserve(LEN, Wait::Never);
        assert!(
            matches!(&refused, Err(SendError::Os(os)) if os.error.kind() == ErrorKind::OutOfMemory),
            "{refused:?}"
        );
        tx.try_send(b"short").unwrap();
        assert_eq!(&*rx.recv().unwrap(), b"short");
    });
}

#[test]
fn a_process_out_of_descriptors_is_told_so() {
    alone("a_process_out_of_descriptors_is_told_so", || {
        let queue = TestQueue::small();
        let _first = queue.channel.receiver().unwrap();
        let limit = getrlimit(Resource::RLIMIT_NOFILE).unwrap().0;
        set_soft_limit(Resource::RLIMIT_NOFILE, 0);
        let name = Removed::fresh();
        let answers = [
            Mq::new().create(&name.0, &small()).map(drop),
            Mq::new().open(&queue.name.0).map(drop),
            queue.channel.sender().map(drop),
        ];
        set_soft_limit(Resource::RLIMIT_NOFILE, limit);
        for answer in answers {
            let Err(ChannelError::Limit(text)) = answer else { panic!("{answer:?}") };
            assert_eq!(text, no_descriptors(0));
        }
    });
}

/// With none left, and with one more each time: whatever lacks its descriptor says so.
#[rstest]
#[case::sockets("sockets", &Unix::new(), &UnixConfig::new())]
#[case::system_v_queues("system_v_queues", &Sysv::new(), &SysvConfig::new())]
fn a_process_out_of_descriptors_is_told_so_wherever_it_takes_one<T: Transport>(
    #[case] case: &str,
    #[case] transport: &T,
    #[case] config: &T::Config,
) {
    let number = if case == "sockets" { 1 } else { 2 };
    let test = "a_process_out_of_descriptors_is_told_so_wherever_it_takes_one";
    alone(&format!("{test}::case_{number}_{case}"), || {
        let (name, other) = (fresh_name(), fresh_name());
        let channel = transport.create(&name, config).unwrap();
        let free = fs::File::open("/dev/null").unwrap().as_raw_fd() as u64;
        let hard = getrlimit(Resource::RLIMIT_NOFILE).unwrap().1;
        let (mut refusals, cancel) = (Vec::new(), Cancel::new());
        let _sends = channel.sender().unwrap();
        for most in free..free + 5 {
            setrlimit(Resource::RLIMIT_NOFILE, most, hard).unwrap();
            let mut waits = channel.sender();
            // Not so short that it is over before a descriptor is taken.
            let wait = || Wait::timeout(Duration::from_millis(200)).or_cancel(&cancel);
            let waited = waits.as_mut().map(|tx| tx.send_wait(b"late", wait()));
            let errors = [
                transport.create(&other, config).map(drop).err().map(|error| error.to_string()),
                transport.open(&name).map(drop).err().map(|error| error.to_string()),
                transport.list().map(drop).err().map(|error| error.to_string()),
                channel.receiver().map(drop).err().map(|error| error.to_string()),
                waited.ok().and_then(Result::err).map(|error| error.to_string()),
            ];
            drop(waits);
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
            let _ = transport.remove(&other);
            let is_one = |text: &String| text.contains("no descriptors left");
            let of_descriptors: Vec<_> = errors.into_iter().flatten().filter(is_one).collect();
            for text in &of_descriptors {
                assert!(text.ends_with(&no_descriptors(most)), "{text}");
            }
            refusals.push(of_descriptors.len());
        }
        transport.remove(&name).unwrap();
        let least: usize = if case == "sockets" { 10 } else { 4 };
        assert!(refusals.iter().sum::<usize>() >= least && refusals[4] == 0, "{refusals:?}");
    });
}

/// In a user namespace, whose limits are its own.
#[rstest]
#[case::instances("instances")]
#[case::watches("watches")]
fn a_user_without_inotify_is_told_the_limit_and_its_value(#[case] what: &str) {
    let number = if what == "instances" { 1 } else { 2 };
    let test = "a_user_without_inotify_is_told_the_limit_and_its_value";
    alone_in_namespaces(&format!("{test}::case_{number}_{what}"), || {
        let place = Place::new();
        let mut tx = place.channel().sender().unwrap();
        fs::write(format!("/proc/sys/user/max_inotify_{what}"), "0").unwrap();
        let value = fs::read_to_string(format!("/proc/sys/fs/inotify/max_user_{what}")).unwrap();
        let text = tx.send(b"to nobody").unwrap_err().to_string();
        let expected = format!(
            "this user has too many inotify {what}, and each sender that waits for a receiver takes one: \
             the limit fs.inotify.max_user_{what} is {}, raise it with `sysctl fs.inotify.max_user_{what}=…`, \
             or start the receiver first (see `ipc doctor`)",
            value.trim()
        );
        assert!(text.ends_with(&expected), "{text}");
    });
}

/// Descriptors that are sent and not received count as well.
#[test]
fn a_user_with_too_many_descriptors_under_way_is_told_the_limit_and_its_value() {
    alone("a_user_with_too_many_descriptors_under_way_is_told_the_limit_and_its_value", || {
        let place = Place::new();
        let channel = place.channel();
        let _rx = channel.receiver().unwrap();
        in_child(|| {
            let mut tx = channel.sender().unwrap();
            tx.send(b"connects").unwrap();
            // One that nobody else is, and whose descriptors nobody else sends; root is bound by no such limit.
            let nobody_else = Uid::from_raw(3_100_000_000 + std::process::id());
            if geteuid().is_root() {
                setresuid(nobody_else, nobody_else, nobody_else).unwrap();
            }
            let most = 40;
            set_soft_limit(Resource::RLIMIT_NOFILE, most);
            let refused = (0..100).find_map(|_| {
                for _ in 0..16 {
                    let _ = tx.attach(fs::File::open("/dev/null").unwrap().into());
                }
                tx.try_send(b"with descriptors").err()
            });
            let text = refused.unwrap().to_string();
            let expected = format!(
                "sendmsg failed: this user has as many descriptors under way as one process may have: \
             the limit RLIMIT_NOFILE is {most}, raise it with `ulimit -n …`, \
             or let the receiver catch up (see `ipc doctor`)"
            );
            assert_eq!(text, expected);
        });
    });
}

fn no_descriptors(most: u64) -> String {
    format!(
        "this process has no descriptors left: the limit RLIMIT_NOFILE is {most}, \
         raise it with `ulimit -n …`, or close some (see `ipc doctor`)"
    )
}

/// A System V queue is waited for by a timer, and a timer's signal counts from the beginning.
#[test]
fn a_user_without_signals_left_is_told_so_when_it_waits() {
    alone("a_user_without_signals_left_is_told_so_when_it_waits", || {
        let name = fresh_name();
        let channel = Sysv::new().create(&name, &SysvConfig::new()).unwrap();
        let mut rx = channel.receiver().unwrap();
        set_soft_limit(Resource::RLIMIT_SIGPENDING, 0);
        let cancel = Cancel::new();
        for wait in [Wait::timeout(Duration::from_secs(60)), Wait::Forever.or_cancel(&cancel)] {
            let text = rx.advance(wait).unwrap_err().to_string();
            let expected = "timer_create failed: this user has as many signals under way as it may, and who waits \
                            with a deadline or a cancellation takes one: the limit RLIMIT_SIGPENDING is 0, \
                            raise it with `ulimit -i …`, or wait without either (see `ipc doctor`)";
            assert_eq!(text, expected);
        }
        // Without a wait that ends by itself it goes on.
        channel.sender().unwrap().send(b"there").unwrap();
        assert_eq!(&*rx.recv().unwrap(), b"there");
        Sysv::new().remove(&name).unwrap();
    });
}

/// In an IPC namespace of one's own, since the limit is everybody's.
#[test]
fn too_many_queues_are_refused_by_name() {
    alone("too_many_queues_are_refused_by_name", || {
        if unshare(CloneFlags::CLONE_NEWIPC).is_err() {
            return skip("it takes an IPC namespace of one's own");
        }
        fs::write("/proc/sys/fs/mqueue/queues_max", "1").unwrap();
        let _ordinary = OrdinaryUser::new();
        let _first = TestQueue::small();
        let text = limit_of(&small());
        assert!(text.contains("queues_max queues, which is 1"), "{text}");
        assert!(text.contains("`sysctl fs.mqueue.queues_max=2`"), "{text}");
    });
}

#[test]
fn defaults_above_a_lowered_maximum_are_cut_to_it() {
    alone("defaults_above_a_lowered_maximum_are_cut_to_it", || {
        if unshare(CloneFlags::CLONE_NEWIPC).is_err() {
            return skip("it takes an IPC namespace of one's own");
        }
        fs::write("/proc/sys/fs/mqueue/msg_max", "3").unwrap();
        let _ordinary = OrdinaryUser::new();
        for config in [MqConfig::new(), MqConfig::new().max_message_len(64)] {
            assert_eq!(TestQueue::with(&config).channel.depth(), 3);
        }
    });
}

fn set_soft_limit(resource: Resource, value: u64) {
    let hard = getrlimit(resource).unwrap().1;
    setrlimit(resource, value, hard).unwrap();
}
