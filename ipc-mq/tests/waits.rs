//! Waits: as long as asked, no longer, no shorter, whatever happens meanwhile.

mod common;

use common::{
    DEPTH, MAX_LEN, TestQueue, alone, fresh_name, in_child,
    signals::{under_signals, wait_for_signals},
    skip, spawn_watched, wait_until_asleep_in,
};
use ipc_mq::{
    Batch, BatchReceiver, Cancel, Channel, Loan, MqReceiver, MqSender, Receiver, RecvError, Rejected,
    SendError, Sender, Sysv, SysvConfig, Transport, Wait,
};
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, unshare},
};
use rstest::rstest;
use std::{
    fs,
    os::fd::AsFd,
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

/// The calls in which an endpoint sleeps.
const SLEEPS: &[libc::c_long] = &[libc::SYS_ppoll, libc::SYS_mq_timedreceive, libc::SYS_mq_timedsend];

const SHORT: Duration = Duration::from_millis(60);
/// Longer than any machine is late.
const LONG: Duration = Duration::from_secs(60);

#[test]
fn an_empty_queue_times_out_on_time() {
    let (_tx, mut rx) = TestQueue::small().pair();
    let start = Instant::now();
    assert!(matches!(rx.recv_timeout(SHORT), Err(RecvError::TimedOut)));
    assert!((SHORT..LONG).contains(&start.elapsed()), "{:?}", start.elapsed());
}

#[test]
fn a_full_queue_times_out_on_time_and_gives_the_loan_back() {
    let (mut tx, _rx) = full_queue();
    let start = Instant::now();
    let mut loan = tx.loan(1, Wait::Never).unwrap();
    loan[0] = 42;
    let Rejected { loan, error } = loan.commit(Wait::timeout(SHORT)).unwrap_err();
    assert!(matches!(error, SendError::TimedOut));
    assert!((SHORT..LONG).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert_eq!(&*loan, [42]);
}

#[test]
fn a_deadline_in_the_past_still_tries_once() {
    let past = || Wait::Until(Instant::now().checked_sub(Duration::from_millis(1)).unwrap());
    let (mut tx, mut rx) = TestQueue::small().pair();
    assert!(matches!(rx.advance(past()), Err(RecvError::TimedOut)));
    while tx.send_wait(b"fits", past()).is_ok() {}
    assert!(matches!(tx.send_wait(b"full", past()), Err(SendError::TimedOut)));
    assert_eq!(&*rx.receive(past()).unwrap(), b"fits");
}

#[rstest]
#[case::centuries(Wait::Until(Instant::now() + Duration::from_secs(300 * 365 * 86_400)))]
#[case::beyond_the_clock(Wait::timeout(Duration::MAX))]
#[case::beyond_the_kernel(Wait::Until(Instant::now() + Duration::from_secs(1 << 60)))]
fn a_deadline_in_centuries_waits_and_is_met(#[case] wait: Wait<'static>) {
    let (mut tx, mut rx) = TestQueue::small().pair();
    let (id, receiver) = spawn_watched(move || rx.receive(wait).map(|message| message.to_vec()));
    wait_until_asleep_in(id, SLEEPS);
    tx.send(b"at last").unwrap();
    assert_eq!(receiver.join().unwrap().unwrap(), b"at last");
}

#[rstest]
#[case::forever(|| Wait::Forever)]
#[case::timeout(|| Wait::timeout(LONG))]
fn a_sleeping_receiver_wakes_for_a_message(#[case] wait: fn() -> Wait<'static>) {
    let (mut tx, mut rx) = TestQueue::small().pair();
    let (id, receiver) = spawn_watched(move || rx.receive(wait()).map(|message| message.to_vec()));
    wait_until_asleep_in(id, SLEEPS);
    tx.send(b"wake up").unwrap();
    assert_eq!(receiver.join().unwrap().unwrap(), b"wake up");
}

#[rstest]
#[case::forever(|| Wait::Forever)]
#[case::timeout(|| Wait::timeout(LONG))]
fn a_sleeping_sender_wakes_for_room(#[case] wait: fn() -> Wait<'static>) {
    let (mut tx, mut rx) = full_queue();
    let (id, sender) = spawn_watched(move || tx.send_wait(b"patient", wait()));
    wait_until_asleep_in(id, SLEEPS);
    drop(rx.recv().unwrap());
    sender.join().unwrap().unwrap();
    assert_eq!(drain(&mut rx).last().unwrap(), b"patient");
}

#[test]
fn cancelling_wakes_a_sleeping_receiver_and_loses_nothing() {
    static CANCEL: Cancel = Cancel::new();
    let (mut tx, mut rx) = TestQueue::small().pair();
    let (id, receiver) = spawn_watched(move || {
        let answer = rx.advance(Wait::Forever.or_cancel(&CANCEL));
        (rx, answer)
    });
    wait_until_asleep_in(id, SLEEPS);
    CANCEL.cancel();
    let (mut rx, answer) = receiver.join().unwrap();
    assert!(matches!(answer, Err(RecvError::Cancelled)));
    tx.send(b"later").unwrap();
    assert_eq!(&*rx.try_recv().unwrap(), b"later");
}

#[test]
fn cancelling_wakes_a_sleeping_sender_and_gives_the_loan_back() {
    static CANCEL: Cancel = Cancel::new();
    let (mut tx, mut rx) = full_queue();
    let (id, sender) = spawn_watched(move || {
        let mut loan = tx.loan(4, Wait::Never).unwrap();
        loan.copy_from_slice(b"back");
        let Rejected { loan, error } = loan.commit(Wait::timeout(LONG).or_cancel(&CANCEL)).unwrap_err();
        (loan.to_vec(), error)
    });
    wait_until_asleep_in(id, SLEEPS);
    CANCEL.cancel();
    let (loan, error) = sender.join().unwrap();
    assert!(matches!(error, SendError::Cancelled));
    assert_eq!(loan, b"back");
    assert!(drain(&mut rx).iter().all(|message| message != b"back"));
}

#[test]
fn a_cancelled_wait_takes_what_is_there_before_it_gives_up() {
    let cancel = Cancel::new();
    cancel.cancel();
    let (mut tx, mut rx) = TestQueue::small().pair();
    let wait = Wait::Forever.or_cancel(&cancel);
    tx.send_wait(b"there", wait).unwrap();
    assert_eq!(&*rx.receive(wait).unwrap(), b"there");
    assert!(matches!(rx.advance(wait), Err(RecvError::Cancelled)));
}

#[test]
fn an_endpoint_waits_again_after_it_was_cancelled() {
    let (mut tx, mut rx) = TestQueue::small().pair();
    for _ in 0..100 {
        let cancel = Cancel::new();
        thread::scope(|scope| {
            scope.spawn(|| cancel.cancel());
            let answer = rx.advance(Wait::Forever.or_cancel(&cancel));
            assert!(matches!(answer, Err(RecvError::Cancelled)));
        });
        // An echo of the cancellation must not end another wait.
        let unrelated = Cancel::new();
        let answer = rx.advance(Wait::timeout(Duration::from_millis(1)).or_cancel(&unrelated));
        assert!(matches!(answer, Err(RecvError::TimedOut)));
    }
    tx.send(b"still there").unwrap();
    assert_eq!(&*rx.recv().unwrap(), b"still there");
}

#[test]
fn a_cancellable_wait_keeps_its_deadline() {
    let cancel = Cancel::new();
    let (_tx, mut rx) = TestQueue::small().pair();
    let start = Instant::now();
    let answer = rx.advance(Wait::timeout(SHORT).or_cancel(&cancel));
    assert!(matches!(answer, Err(RecvError::TimedOut)));
    assert!((SHORT..LONG).contains(&start.elapsed()), "{:?}", start.elapsed());
}

#[test]
fn a_signal_storm_neither_shortens_nor_prolongs_a_wait() {
    alone("a_signal_storm_neither_shortens_nor_prolongs_a_wait", || {
        let (_tx, mut rx) = TestQueue::small().pair();
        let (mut full_tx, _full_rx) = full_queue();
        let cancel = Cancel::new();
        let signals = under_signals(move || {
            let start = Instant::now();
            assert!(matches!(rx.recv_timeout(SHORT), Err(RecvError::TimedOut)));
            assert!((SHORT..LONG).contains(&start.elapsed()), "{:?}", start.elapsed());

            let start = Instant::now();
            let wait = Wait::timeout(SHORT).or_cancel(&cancel);
            assert!(matches!(full_tx.send_wait(b"no", wait), Err(SendError::TimedOut)));
            assert!((SHORT..LONG).contains(&start.elapsed()), "{:?}", start.elapsed());
        });
        assert!(signals > 10, "only {signals} signals in the storm");
    });
}

#[test]
fn a_signal_storm_doesnt_end_a_wait_without_a_deadline() {
    alone("a_signal_storm_doesnt_end_a_wait_without_a_deadline", || {
        let (mut tx, mut rx) = TestQueue::small().pair();
        let (mut full_tx, mut full_rx) = full_queue();
        let peer = thread::spawn(move || {
            wait_for_signals(50);
            tx.send(b"through the storm").unwrap();
            wait_for_signals(50);
            drop(full_rx.recv().unwrap());
            full_rx
        });
        under_signals(move || {
            assert_eq!(&*rx.recv().unwrap(), b"through the storm");
            full_tx.send(b"this way too").unwrap();
        });
        assert_eq!(drain(&mut peer.join().unwrap()).last().unwrap(), b"this way too");
    });
}

/// A try hands the kernel a deadline at the epoch. No step of the wall clock gets before
/// it, so a try can't block whatever the clock says; nothing else here reads that clock.
#[test]
fn a_try_answers_at_once_on_an_empty_and_on_a_full_queue() {
    const TRIES: u32 = 10_000;
    let (_empty_tx, mut rx) = TestQueue::small().pair();
    let (mut tx, _full_rx) = full_queue();
    let start = Instant::now();
    for _ in 0..TRIES {
        assert!(matches!(rx.try_recv(), Err(RecvError::WouldBlock)));
        assert!(matches!(tx.try_send(b"no"), Err(SendError::WouldBlock)));
    }
    assert!(start.elapsed() < LONG, "{:?}", start.elapsed());
}

#[test]
fn a_descriptor_that_someone_made_non_blocking_still_waits() {
    let (mut tx, mut rx) = TestQueue::small().pair();
    for descriptor in [tx.as_fd(), rx.as_fd()] {
        fcntl(descriptor, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    }
    assert!(matches!(rx.try_recv(), Err(RecvError::WouldBlock)));
    let (id, receiver) = spawn_watched(move || {
        rx.recv().map(|message| message.to_vec()).unwrap();
        rx
    });
    wait_until_asleep_in(id, SLEEPS);
    tx.send(b"wake up").unwrap();
    let mut rx = receiver.join().unwrap();

    fill(&mut tx);
    let (id, sender) = spawn_watched(move || tx.send(b"patient"));
    wait_until_asleep_in(id, SLEEPS);
    drop(rx.recv().unwrap());
    sender.join().unwrap().unwrap();
}

#[test]
fn the_descriptors_tell_poll_when_there_is_a_message_and_when_there_is_room() {
    let (mut tx, rx) = TestQueue::small().pair();
    assert_eq!((ready(&tx, PollFlags::POLLOUT), ready(&rx, PollFlags::POLLIN)), (true, false));
    fill(&mut tx);
    assert_eq!((ready(&tx, PollFlags::POLLOUT), ready(&rx, PollFlags::POLLIN)), (false, true));
}

#[test]
fn a_batch_waits_for_its_first_message_only() {
    let (mut tx, mut rx) = TestQueue::small().pair();
    assert!(matches!(rx.advance_batch(9, Wait::timeout(SHORT)), Err(RecvError::TimedOut)));
    let (id, receiver) = spawn_watched(move || rx.advance_batch(9, Wait::Forever));
    wait_until_asleep_in(id, SLEEPS);
    tx.send(b"one is enough").unwrap();
    assert!(receiver.join().unwrap().unwrap() >= 1);
}

/// The kernel takes a waiting sender's message in as soon as there is room: of those there may be no
/// end.
#[test]
fn a_batch_takes_no_more_than_a_full_queue_though_senders_wait() {
    let queue = TestQueue::small();
    let (mut tx, mut rx) = queue.pair();
    fill(&mut tx);
    let waiting = [(); 2].map(|()| {
        let mut tx = queue.channel.sender().unwrap();
        let (id, sender) = spawn_watched(move || tx.send(b"late"));
        wait_until_asleep_in(id, SLEEPS);
        sender
    });
    assert_eq!(rx.advance_batch(usize::MAX, Wait::Never).unwrap(), DEPTH);
    waiting.into_iter().for_each(|sender| sender.join().unwrap().unwrap());
    // What is held already isn't taken.
    assert_eq!(rx.advance_batch(usize::MAX, Wait::Never).unwrap(), DEPTH + 2);
    rx.held_batch().release_all();
    assert!(rx.try_recv().is_err());
}

/// A process and the child that it forks into a PID namespace have the same number, as have a process
/// and a grandchild that got it after its parent's end.
#[test]
fn a_child_with_its_parents_pid_waits_by_means_of_its_own() {
    alone("a_child_with_its_parents_pid_waits_by_means_of_its_own", || {
        let (posix, sysv, name) = (TestQueue::small(), Sysv::new(), fresh_name());
        if unshare(CloneFlags::CLONE_NEWPID).is_err() {
            return skip("it takes a PID namespace of one's own");
        }
        let mut sysv_rx = sysv.create(&name, &SysvConfig::new()).unwrap().receiver().unwrap();
        let mut rx = posix.channel.receiver().unwrap();
        let mut times_out = || {
            assert_eq!(std::process::id(), 1);
            let (cancel, start) = (Cancel::new(), Instant::now());
            let wait = || Wait::timeout(SHORT).or_cancel(&cancel);
            assert!(matches!(sysv_rx.advance(wait()), Err(RecvError::TimedOut)));
            assert!(matches!(rx.advance(wait()), Err(RecvError::TimedOut)));
            assert!((2 * SHORT..LONG).contains(&start.elapsed()), "{:?}", start.elapsed());
            bells()
        };
        in_child(|| {
            let ours = times_out();
            assert_eq!((ours.len(), times_out()), (1, ours.clone()));
            unshare(CloneFlags::CLONE_NEWPID).unwrap();
            // What rings for the parent doesn't ring for the child, nor is silenced by it.
            in_child(|| {
                let theirs = times_out();
                assert_ne!(theirs, ours);
                assert_eq!((theirs.len(), times_out()), (1, theirs));
            });
            assert_eq!(times_out(), ours);
        });
        sysv.remove(&name).unwrap();
    });
}

/// The kernel's numbers of the eventfds that this process has open.
fn bells() -> Vec<String> {
    let descriptors = fs::read_dir("/proc/self/fdinfo").unwrap();
    // The directory's own descriptor is closed by then.
    let paths: Vec<_> = descriptors.map(|entry| entry.unwrap().path()).collect();
    let texts: Vec<String> = paths.iter().filter_map(|path| fs::read_to_string(path).ok()).collect();
    let ids = texts.iter().flat_map(|text| text.lines()).filter(|line| line.starts_with("eventfd-id:"));
    ids.map(str::to_owned).collect()
}

/// Every way of waiting at once, the queue mostly full or empty, and cancellations raining:
/// what was acknowledged is received once, in order per sender.
#[test]
fn nothing_is_lost_doubled_or_swapped_among_impatient_peers() {
    const SENDERS: usize = 3;
    const RECEIVERS: usize = 3;
    const EACH: usize = 3_000;
    let queue = TestQueue::small();
    let received = AtomicUsize::new(0);
    let (log, logged) = mpsc::channel();
    thread::scope(|scope| {
        for sender in 0..SENDERS {
            let mut tx = queue.channel.sender().unwrap();
            scope.spawn(move || {
                for number in 0..EACH {
                    let message = [sender.to_ne_bytes(), number.to_ne_bytes()].concat();
                    impatiently(number, |wait| match tx.send_wait(&message, wait) {
                        Ok(()) => Some(()),
                        Err(SendError::WouldBlock | SendError::TimedOut | SendError::Cancelled) => None,
                        Err(error) => panic!("{error}"),
                    });
                }
            });
        }
        for receiver in 0..RECEIVERS {
            let (mut rx, log, received) = (queue.channel.receiver().unwrap(), log.clone(), &received);
            scope.spawn(move || {
                let mut attempt = receiver;
                while received.load(Ordering::Relaxed) < SENDERS * EACH {
                    attempt += 1;
                    let wait = Wait::timeout(Duration::from_micros(attempt as u64 % 300));
                    let cancel = Cancel::new();
                    if attempt % 3 == 0 {
                        cancel.cancel();
                    }
                    match rx.receive(if attempt % 2 == 0 { wait.or_cancel(&cancel) } else { wait }) {
                        Ok(message) => {
                            let (sender, number) = message.split_at(size_of::<usize>());
                            let number = usize::from_ne_bytes(number.try_into().unwrap());
                            log.send((receiver, usize::from_ne_bytes(sender.try_into().unwrap()), number))
                                .unwrap();
                            received.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(RecvError::TimedOut | RecvError::Cancelled) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
    });
    drop(log);

    let mut seen = vec![[false; EACH]; SENDERS];
    let mut last = [[None; SENDERS]; RECEIVERS];
    for (receiver, sender, number) in logged {
        assert!(!seen[sender][number], "message {number} of sender {sender} came twice");
        assert!(last[receiver][sender] < Some(number), "sender {sender} was received out of order");
        seen[sender][number] = true;
        last[receiver][sender] = Some(number);
    }
    assert!(seen.iter().flatten().all(|&seen| seen), "a message was lost");
}

/// Tries with one kind of wait after the other until there is an answer.
fn impatiently(start: usize, mut attempt: impl FnMut(Wait<'_>) -> Option<()>) {
    for kind in start.. {
        let cancel = Cancel::new();
        let wait = match kind % 4 {
            0 => Wait::Never,
            1 => Wait::timeout(Duration::from_micros(kind as u64 % 200)),
            2 => {
                cancel.cancel();
                Wait::Forever.or_cancel(&cancel)
            }
            _ => Wait::Forever,
        };
        if attempt(wait).is_some() {
            return;
        }
    }
}

fn full_queue() -> (MqSender, MqReceiver) {
    let (mut tx, rx) = TestQueue::small().pair();
    fill(&mut tx);
    (tx, rx)
}

fn fill(tx: &mut MqSender) {
    while tx.try_send(&[0; MAX_LEN]).is_ok() {}
}

fn drain(rx: &mut MqReceiver) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| rx.try_recv().ok().map(|message| message.to_vec())).collect()
}

fn ready(endpoint: &impl AsFd, events: PollFlags) -> bool {
    let mut descriptors = [PollFd::new(endpoint.as_fd(), events)];
    poll(&mut descriptors, PollTimeout::ZERO).unwrap() == 1
}
