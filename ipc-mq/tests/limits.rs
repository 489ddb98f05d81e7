//! Whoever reaches a limit of the kernel is told which, its value and what raises it.

mod common;

use common::{OrdinaryUser, Removed, TestQueue, alone, small};
use ipc_mq::{Channel, ChannelError, Mq, MqConfig, Transport};
use nix::{
    sched::{CloneFlags, unshare},
    sys::resource::{Resource, getrlimit, setrlimit},
    unistd::{Uid, geteuid, setresuid},
};
use rstest::rstest;
use std::fs;

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
            return;
        }
        let nobody_else = Uid::from_raw(3_000_000_000 + std::process::id());
        setresuid(nobody_else, nobody_else, nobody_else).unwrap();
        set_soft_limit(Resource::RLIMIT_MSGQUEUE, 895);
        assert!(limit_of(&small()).contains("needs 896 bytes"));
        set_soft_limit(Resource::RLIMIT_MSGQUEUE, 896);
        TestQueue::small();
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
            assert!(text.contains("RLIMIT_NOFILE"), "{text}");
        }
    });
}

/// In an IPC namespace of one's own, since the limit is everybody's.
#[test]
fn too_many_queues_are_refused_by_name() {
    alone("too_many_queues_are_refused_by_name", || {
        if unshare(CloneFlags::CLONE_NEWIPC).is_err() {
            return;
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
            return;
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
