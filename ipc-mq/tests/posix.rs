//! What POSIX.1 says about message queues, sentence by sentence (paraphrased), and that it
//! holds through this crate. Where Linux adds something, mq_overview(7) says so.
#![cfg(target_os = "linux")]

mod common;

use common::{
    DEPTH, MAX_LEN, Removed, TestQueue, await_child, in_child, small, sockets::open_descriptors, start_child,
    wait_until_process_sleeps_in,
};
use ipc_mq::{
    Channel, ChannelError, Mq, MqConfig, Notify, NotifyError, PriorityReceiver, PrioritySender, Receiver,
    RecvError, SendError, Sender, Transport, Wait,
};
use nix::{
    errno::Errno,
    libc,
    sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask},
    unistd::Pid,
};
use rstest::rstest;
use std::{
    fs,
    time::{Duration, Instant},
};

const BRIEF: Duration = Duration::from_millis(30);
/// Longer than any machine is late.
const LONG: Duration = Duration::from_secs(10);

/// mq_send: a message with a larger priority is inserted before those with a smaller one, and
/// after those with the same.
#[test]
fn a_message_is_inserted_before_those_of_lower_and_after_those_of_equal_priority() {
    let (mut tx, mut rx) = TestQueue::small().pair();
    for (priority, text) in [(1, "b"), (2, "a"), (1, "c"), (0, "d")] {
        tx.set_priority(priority).unwrap();
        tx.send(text.as_bytes()).unwrap();
    }
    for (text, priority) in [("a", 2), ("b", 1), ("c", 1), ("d", 0)] {
        let message = rx.try_recv().unwrap();
        assert_eq!((&*message, ipc_mq::MqReceiver::priority_of(&message)), (text.as_bytes(), priority));
    }
}

/// mq_send: the priority shall be less than MQ_PRIO_MAX.
#[test]
fn a_priority_of_mq_prio_max_is_refused() {
    let (mut tx, _rx) = TestQueue::small().pair();
    tx.set_priority(32_767).unwrap();
    assert_eq!(tx.set_priority(32_768).unwrap_err().max, 32_767);
}

/// mq_send: fails with EMSGSIZE if the message is longer than the queue's message size.
#[test]
fn a_message_longer_than_the_message_size_is_refused() {
    let (mut tx, mut rx) = TestQueue::small().pair();
    tx.send(&[1; MAX_LEN]).unwrap();
    let refused = tx.send(&[1; MAX_LEN + 1]);
    assert!(matches!(refused, Err(SendError::TooLong { len, max: MAX_LEN }) if len == MAX_LEN + 1));
    assert_eq!(rx.try_recv().unwrap().len(), MAX_LEN);
    assert!(matches!(rx.try_recv(), Err(RecvError::WouldBlock)));
}

/// mq_receive: fails with EMSGSIZE if the buffer is smaller than the message size; so a
/// receiver's buffer is that of the queue, whoever made it.
#[test]
fn a_queue_of_another_size_made_by_others_is_received_from() {
    let name = Removed::fresh();
    let attributes = nix::mqueue::MqAttr::new(0, 3, 777, 0);
    let flags = nix::mqueue::MQ_OFlag::O_CREAT | nix::mqueue::MQ_OFlag::O_RDWR;
    let mode = nix::sys::stat::Mode::from_bits_truncate(0o600);
    let queue = nix::mqueue::mq_open(name.path().as_str(), flags, mode, Some(&attributes)).unwrap();
    nix::mqueue::mq_send(&queue, &[7; 777], 5).unwrap();
    let mut rx = Mq::new().open(&name.0).unwrap().receiver().unwrap();
    assert_eq!(rx.try_recv().unwrap().len(), 777);
    // And what asks for other sizes is told what there is.
    let other = Mq::new().open_or_create(&name.0, &small());
    assert!(matches!(other, Err(ChannelError::Mismatch { .. })), "{other:?}");
}

/// mq_send, mq_receive: with O_NONBLOCK a full or empty queue is EAGAIN, and nothing is queued
/// or removed.
#[test]
fn without_waiting_a_full_queue_and_an_empty_one_answer_at_once() {
    let (mut tx, mut rx) = TestQueue::small().pair();
    assert!(matches!(rx.try_recv(), Err(RecvError::WouldBlock)));
    for _ in 0..DEPTH {
        tx.try_send(b"x").unwrap();
    }
    assert!(matches!(tx.try_send(b"y"), Err(SendError::WouldBlock)));
    for _ in 0..DEPTH {
        assert_eq!(&*rx.try_recv().unwrap(), b"x");
    }
}

/// mq_timedsend, mq_timedreceive: the validity of the time-out isn't checked, nor does the
/// call fail by it, if the operation can be performed at once.
#[test]
fn a_deadline_in_the_past_takes_what_is_there() {
    let (mut tx, mut rx) = TestQueue::small().pair();
    let past = Wait::Until(Instant::now().checked_sub(BRIEF).unwrap());
    tx.send_wait(b"there", past).unwrap();
    assert_eq!(&*rx.receive(past).unwrap(), b"there");
    assert!(matches!(rx.advance(past), Err(RecvError::TimedOut)));
}

/// mq_timedreceive: fails with ETIMEDOUT when the time has passed, no sooner.
#[test]
fn a_wait_times_out_when_its_time_has_passed_and_not_before() {
    let (_tx, mut rx) = TestQueue::small().pair();
    let start = Instant::now();
    assert!(matches!(rx.advance(Wait::timeout(BRIEF)), Err(RecvError::TimedOut)));
    assert!((BRIEF..LONG).contains(&start.elapsed()), "{:?}", start.elapsed());
}

/// mq_open: O_EXCL and O_CREAT together fail if the queue exists; opening one that doesn't
/// exist fails with ENOENT.
#[test]
fn creating_exclusively_and_opening_fail_as_they_should() {
    let queue = TestQueue::small();
    assert!(matches!(Mq::new().create(&queue.name.0, &small()), Err(ChannelError::AlreadyExists)));
    assert!(matches!(Mq::new().open(&Removed::fresh().0), Err(ChannelError::NotFound)));
}

/// mq_unlink: the name goes at once; those who have the queue open go on with it, and one made
/// under the name again is another one.
#[test]
fn an_unlinked_queue_lives_on_for_those_who_have_it() {
    let queue = TestQueue::small();
    let (mut tx, mut rx) = queue.pair();
    tx.send(b"before").unwrap();
    Mq::new().remove(&queue.name.0).unwrap();
    assert!(matches!(Mq::new().open(&queue.name.0), Err(ChannelError::NotFound)));
    let successor = Mq::new().create(&queue.name.0, &small()).unwrap();
    tx.send(b"after").unwrap();
    assert_eq!(&*rx.try_recv().unwrap(), b"before");
    assert_eq!(&*rx.try_recv().unwrap(), b"after");
    assert!(matches!(successor.receiver().unwrap().try_recv(), Err(RecvError::WouldBlock)));
}

/// mq_unlink: nobody who waits is told. It waits on, through a successor that is sent to under the
/// same name, until somebody who has the queue too sends, or makes room.
#[rstest]
#[case::for_ever(Wait::Forever)]
#[case::by_a_deadline(Wait::timeout(60 * LONG))]
fn who_waits_in_an_unlinked_queue_waits_on_without_notice(#[case] wait: Wait<'static>) {
    let sleeps = &[libc::SYS_mq_timedreceive, libc::SYS_mq_timedsend, libc::SYS_ppoll];
    let (empty, full) = (TestQueue::small(), TestQueue::small());
    let ((mut tx, mut rx), (mut full_tx, mut full_rx)) = (empty.pair(), full.pair());
    while full_tx.try_send(b"fills").is_ok() {}
    let receiver = start_child(|| assert_eq!(&*rx.receive(wait).unwrap(), b"to the old one"));
    let sender = start_child(|| full_tx.send_wait(b"at last", wait).unwrap());
    for (queue, waiter) in [(&empty, receiver), (&full, sender)] {
        wait_until_process_sleeps_in(waiter, sleeps);
        let counts_as_asleep = sleep_count(waiter);
        Mq::new().remove(&queue.name.0).unwrap();
        let successor = Mq::new().create(&queue.name.0, &small()).unwrap();
        successor.sender().unwrap().send(b"to the new one").unwrap();
        drop(successor.receiver().unwrap().recv().unwrap());
        wait_until_process_sleeps_in(waiter, sleeps);
        assert_eq!(sleep_count(waiter), counts_as_asleep, "it was woken");
    }
    tx.send(b"to the old one").unwrap();
    await_child(receiver);
    drop(full_rx.recv().unwrap());
    await_child(sender);
}

/// How often a process of one thread went to sleep.
fn sleep_count(process: Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
    count.trim().parse().unwrap()
}

/// mq_close: a process's queues are closed when it ends, and what it sent stays.
#[test]
fn what_a_process_sent_outlives_it() {
    let queue = TestQueue::small();
    let (mut tx, mut rx) = queue.pair();
    in_child(|| tx.send(b"last words").unwrap());
    assert_eq!(&*rx.try_recv().unwrap(), b"last words");
}

/// mq_notify: the process is notified when a message arrives at the empty queue; then the
/// registration is removed, and must be made again.
#[test]
fn a_notification_comes_once_and_is_armed_again() {
    let (mut tx, mut rx) = TestQueue::small().pair();
    in_child(|| {
        let signal = blocked();
        rx.notify(signal).unwrap();
        tx.send(b"one").unwrap();
        assert!(came(signal), "for a message to the empty queue");
        tx.send(b"two").unwrap();
        assert!(!came(signal), "used up, and not for a queue that isn't empty");
        rx.notify(signal).unwrap();
        tx.send(b"three").unwrap();
        assert!(!came(signal), "the queue isn't empty");
        while rx.try_recv().is_ok() {}
        tx.send(b"four").unwrap();
        assert!(came(signal), "still armed");
    });
}

/// mq_notify: at most one process can be registered; a null notification takes its own
/// registration back.
#[test]
fn one_process_at_a_time_is_notified() {
    let queue = TestQueue::small();
    let (mut tx, mut rx) = queue.pair();
    in_child(|| {
        let signal = blocked();
        rx.notify(signal).unwrap();
        rx.notify(signal).unwrap();
        in_child(|| {
            let mut other = queue.channel.receiver().unwrap();
            assert!(matches!(other.notify(signal), Err(NotifyError::Busy)));
            other.forget_notification().unwrap();
            assert!(matches!(other.notify(signal), Err(NotifyError::Busy)), "it is not its own to take back");
        });
        rx.forget_notification().unwrap();
        rx.forget_notification().unwrap();
        tx.send(b"x").unwrap();
        assert!(!came(signal));
    });
}

/// The kernel registers signal 0, of which it sends none.
#[test]
fn what_is_no_signal_is_refused_and_takes_no_notification_back() {
    let (mut tx, mut rx) = TestQueue::small().pair();
    in_child(|| {
        let signal = blocked();
        rx.notify(signal).unwrap();
        for none in [0, -1, i32::MIN, 4711] {
            let refused = rx.notify(none);
            assert!(matches!(refused, Err(NotifyError::NoSuchSignal(given)) if given == none), "{refused:?}");
        }
        tx.send(b"there").unwrap();
        assert!(came(signal), "it was taken back");
    });
}

/// mq_close: a notification of this process goes with the descriptor. Here it goes with the
/// endpoint that asked for it, even if the channel has the queue open, and not before.
#[test]
fn a_notification_goes_with_the_receiver_that_asked_for_it() {
    let queue = TestQueue::small();
    let (mut tx, mut rx) = queue.pair();
    in_child(|| {
        let signal = blocked();
        let (channel, mut other) =
            (Mq::new().open(&queue.name.0).unwrap(), queue.channel.receiver().unwrap());
        let mut asks = channel.receiver().unwrap();
        asks.notify(signal).unwrap();
        in_child(|| assert!(matches!(other.notify(signal), Err(NotifyError::Busy))));
        drop(asks);
        tx.send(b"to nobody who is notified").unwrap();
        assert!(!came(signal));
        drop(rx.try_recv().unwrap());

        let sender = channel.sender().unwrap();
        let mut asks = channel.receiver().unwrap();
        drop(sender);
        asks.notify(signal).unwrap();
        drop(channel);
        tx.send(b"to who is notified").unwrap();
        assert!(came(signal));
    });
}

/// An endpoint whose notification is used up takes nobody else's back when it goes.
#[rstest]
#[case::where_the_first_one_goes(false)]
#[case::where_the_second_one_goes(true)]
fn a_notification_stays_when_who_asked_before_goes(#[case] swapped: bool) {
    let queue = TestQueue::small();
    let (mut tx, mut rx) = queue.pair();
    in_child(|| {
        let signal = blocked();
        let channel = Mq::new().open(&queue.name.0).unwrap();
        let (mut before, mut now) = (channel.receiver().unwrap(), channel.receiver().unwrap());
        if swapped {
            std::mem::swap(&mut before, &mut now);
        }
        before.notify(signal).unwrap();
        tx.send(b"one").unwrap();
        assert!(came(signal));
        drop(rx.try_recv().unwrap());
        now.notify(signal).unwrap();
        drop(before);
        tx.send(b"two").unwrap();
        assert!(came(signal), "it was taken back");
    });
}

/// mq_close takes the notification of the process back, whichever descriptor of the queue it
/// closes; so those of a channel stay open while one of its endpoints is to be notified.
#[test]
fn endpoints_that_come_and_go_take_no_notification_of_their_channel_back() {
    let queue = TestQueue::small();
    let (mut tx, mut rx) = queue.pair();
    in_child(|| {
        let (signal, none_open) = (blocked(), open_descriptors());
        let channel = Mq::new().open(&queue.name.0).unwrap();
        let mut asks = channel.receiver().unwrap();
        let earlier = channel.sender().unwrap();
        asks.notify(signal).unwrap();
        let open = open_descriptors();
        drop(earlier);
        for _ in 0..20 {
            drop(channel.receiver().unwrap());
            drop((channel.sender().unwrap(), channel.clone()));
        }
        assert_eq!(open_descriptors(), open, "they are used again");
        tx.send(b"there").unwrap();
        assert!(came(signal), "it was taken back");
        drop(rx.try_recv().unwrap());

        asks.notify(signal).unwrap();
        drop(channel.sender().unwrap());
        asks.forget_notification().unwrap();
        assert_eq!(open_descriptors(), none_open + 1, "there is nothing to be spared");
        asks.notify(signal).unwrap();
        drop((channel.sender().unwrap(), asks));
        assert_eq!(open_descriptors(), none_open + 1);
        tx.send(b"to nobody who is notified").unwrap();
        assert!(!came(signal));
        drop(channel);
        assert_eq!(open_descriptors(), none_open);
    });
}

/// mq_notify: a thread that waits in mq_receive gets the message, and no notification is sent;
/// the registration stays. Who waits otherwise waits until the queue isn't empty, as anybody's may be.
#[rstest]
#[case::for_ever(Wait::Forever, false)]
#[case::by_a_deadline(Wait::timeout(60 * LONG), true)]
fn who_waits_for_ever_comes_before_who_is_notified(#[case] wait: Wait<'static>, #[case] notifies: bool) {
    let queue = TestQueue::small();
    let (mut tx, mut rx) = queue.pair();
    in_child(|| {
        let signal = blocked();
        rx.notify(signal).unwrap();
        let mut other = queue.channel.receiver().unwrap();
        let waiter = start_child(|| assert_eq!(&*other.receive(wait).unwrap(), b"for who waits"));
        wait_until_process_sleeps_in(waiter, &[libc::SYS_mq_timedreceive, libc::SYS_ppoll]);
        tx.send(b"for who waits").unwrap();
        await_child(waiter);
        assert_eq!(came(signal), notifies);
        tx.send(b"for who is notified").unwrap();
        assert_eq!(came(signal), !notifies, "once");
    });
}

/// mq_setattr, mq_getattr: depth and message size are those of the creation.
#[test]
fn the_attributes_are_those_of_the_creation() {
    let queue = TestQueue::with(&MqConfig::new().depth(3).max_message_len(99));
    let info = Mq::new().stat(&queue.name.0).unwrap();
    assert_eq!((info.depth, info.max_message_len_bytes, info.queued_messages), (Some(3), Some(99), Some(0)));
}

/// A signal that is blocked in this process, which has one thread, so that it can be asked for.
fn blocked() -> libc::c_int {
    let mut set = SigSet::empty();
    set.add(Signal::SIGUSR1);
    pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&set), None).unwrap();
    Signal::SIGUSR1 as libc::c_int
}

/// Whether the signal is pending; takes it.
fn came(signal: libc::c_int) -> bool {
    let mut set = SigSet::empty();
    set.add(Signal::try_from(signal).unwrap());
    let none = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the set and the time live through the call; nothing is written.
    let answer = unsafe { libc::sigtimedwait(set.as_ref(), std::ptr::null_mut(), &none) };
    Errno::result(answer).is_ok()
}
