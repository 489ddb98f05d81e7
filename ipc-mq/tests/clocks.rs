//! A step of the wall clock neither shortens nor prolongs a wait, since no wait goes by it: each
//! system call that could is looked at. Who only reads a clock needs no call, but can't sleep by it.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod common;

use common::{
    alone,
    faults::{Call, trace},
    fresh_name, skip,
    sockets::Place,
};
use ipc_mq::{
    Cancel, Channel, ChannelName, Mq, MqConfig, Receiver, RecvError, SendError, Sender, Sysv, SysvConfig,
    Transport, UnixConfig, Wait,
};
use nix::{
    libc,
    sched::{CloneFlags, unshare},
    sys::ptrace,
    unistd::Pid,
};
use std::{
    fs, thread,
    time::{Duration, Instant},
};

const BRIEF: Duration = Duration::from_millis(150);

/// The waits of a process: what they slept by, and what was wrong with it.
#[derive(Default)]
struct Sleeps {
    timers: u32,
    intervals: u32,
    /// Calls whose deadline has always passed.
    epochs: u32,
    wrong: Vec<String>,
}

impl Sleeps {
    fn of(body: impl FnOnce()) -> Self {
        let mut sleeps = Self::default();
        trace(body, |pid, call| sleeps.look(pid, call));
        sleeps
    }

    fn look(&mut self, pid: Pid, Call { number, arguments }: Call) {
        let [first, second, _, _, fifth] = arguments;
        match number {
            libc::SYS_timer_create | libc::SYS_timerfd_create => {
                self.timers += 1;
                self.expect(first == libc::CLOCK_MONOTONIC as u64, number, first);
            }
            libc::SYS_clock_nanosleep | libc::SYS_clock_gettime => {
                self.expect(first == libc::CLOCK_MONOTONIC as u64, number, first);
            }
            libc::SYS_mq_timedsend | libc::SYS_mq_timedreceive if fifth != 0 => {
                self.epochs += 1;
                let [seconds, nanoseconds] =
                    [0, 8].map(|at| ptrace::read(pid, (fifth + at) as ptrace::AddressType));
                self.expect((seconds, nanoseconds) == (Ok(0), Ok(0)), number, fifth);
            }
            libc::SYS_ppoll | libc::SYS_poll | libc::SYS_epoll_wait | libc::SYS_epoll_pwait => {
                self.intervals += 1
            }
            libc::SYS_futex => self.expect(second & libc::FUTEX_CLOCK_REALTIME as u64 == 0, number, second),
            libc::SYS_setitimer | libc::SYS_alarm | libc::SYS_gettimeofday | libc::SYS_time => {
                self.expect(false, number, first);
            }
            _ => {}
        }
    }

    fn expect(&mut self, is_right: bool, number: libc::c_long, argument: u64) {
        if !is_right {
            self.wrong.push(format!("system call {number} with {argument:#x}"));
        }
    }
}

/// Each kind of wait: in vain, and for what is there.
fn wait_in_each_way<T: Transport>(transport: &T, name: &ChannelName, config: &T::Config) {
    let channel = transport.create(name, config).unwrap();
    if !T::CAPABILITIES.stores {
        let mut tx = channel.sender().unwrap();
        in_vain(|wait| match tx.send_wait(b"to nobody", wait) {
            Err(SendError::WouldBlock | SendError::TimedOut | SendError::Cancelled) => {}
            answer => panic!("{answer:?}"),
        });
    }
    let (mut rx, mut tx) = (channel.receiver().unwrap(), channel.sender().unwrap());
    for round in 0..2 {
        in_vain(|wait| match rx.advance(wait) {
            Err(RecvError::WouldBlock | RecvError::TimedOut | RecvError::Cancelled) => {}
            answer => panic!("round {round}: {answer:?}"),
        });
        for wait in [Wait::Forever, Wait::timeout(Duration::from_secs(60)), Wait::Never] {
            tx.send_wait(b"there", wait).unwrap();
            assert_eq!(&*rx.receive(wait).unwrap(), b"there");
        }
    }
    while tx.try_send(b"fills").is_ok() {}
    in_vain(|wait| match tx.send_wait(b"late", wait) {
        Err(SendError::WouldBlock | SendError::TimedOut | SendError::Cancelled) => {}
        answer => panic!("{answer:?}"),
    });
    drop((rx, tx));
    transport.remove(name).unwrap();
}

fn in_vain(mut wait: impl FnMut(Wait<'_>)) {
    let (cancel, past) = (Cancel::new(), Instant::now().checked_sub(BRIEF).unwrap());
    for one in [Wait::Never, Wait::timeout(BRIEF), Wait::Until(past), Wait::timeout(BRIEF).or_cancel(&cancel)]
    {
        wait(one);
    }
    thread::scope(|threads| {
        threads.spawn(|| {
            thread::sleep(BRIEF);
            cancel.cancel();
        });
        wait(Wait::Forever.or_cancel(&cancel));
    });
}

#[test]
fn a_wait_on_a_posix_queue_goes_by_intervals_or_by_a_deadline_at_the_epoch() {
    alone("a_wait_on_a_posix_queue_goes_by_intervals_or_by_a_deadline_at_the_epoch", || {
        let config = MqConfig::new().depth(2).max_message_len(64);
        let sleeps = Sleeps::of(|| wait_in_each_way(&Mq::new(), &fresh_name(), &config));
        assert_eq!(sleeps.wrong, [""; 0]);
        assert!(sleeps.epochs > 10 && sleeps.intervals >= 6 && sleeps.timers == 0);
    });
}

#[test]
fn a_wait_on_a_system_v_queue_goes_by_the_monotonic_clock() {
    alone("a_wait_on_a_system_v_queue_goes_by_the_monotonic_clock", || {
        let config = SysvConfig::new().depth(2).max_message_len(64);
        let sleeps = Sleeps::of(|| wait_in_each_way(&Sysv::new(), &fresh_name(), &config));
        assert_eq!(sleeps.wrong, [""; 0]);
        assert_eq!((sleeps.timers, sleeps.epochs), (1, 0));
    });
}

#[test]
fn a_wait_over_a_socket_goes_by_intervals_and_the_monotonic_clock() {
    alone("a_wait_over_a_socket_goes_by_intervals_and_the_monotonic_clock", || {
        let config = UnixConfig::new();
        let place = Place::new();
        let name = common::sockets::name();
        let sleeps = Sleeps::of(|| wait_in_each_way(&place.transport(), &name, &config));
        assert_eq!(sleeps.wrong, [""; 0]);
        assert!(sleeps.intervals >= 9 && sleeps.timers == 0, "{}", sleeps.intervals);

        // Where there is no place at the door.
        if unshare(CloneFlags::CLONE_NEWNET).is_err() {
            return skip("it takes a network namespace of one's own");
        }
        fs::write("/proc/sys/net/core/somaxconn", "0").unwrap();
        let sleeps = Sleeps::of(|| {
            let channel = place.transport().create(&name, &config).unwrap();
            let _rx = channel.receiver().unwrap();
            let (mut first, mut second) = (channel.sender().unwrap(), channel.sender().unwrap());
            first.try_send(b"at the door").unwrap();
            assert!(matches!(second.send_timeout(b"late", 5 * BRIEF), Err(SendError::TimedOut)));
        });
        assert_eq!(sleeps.wrong, [""; 0]);
        assert!(sleeps.timers >= 1);
    });
}
