//! Once under way, sending and receiving allocate nothing: a counting allocator says so.

mod common;

use common::{DEPTH, MAX_LEN, TestQueue, fresh_name};
use ipc_mq::{
    Batch, BatchReceiver, Cancel, Channel, Loan, Sender, Sysv, SysvConfig, Transport, Unix, UnixConfig, Wait,
};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    time::Duration,
};

struct Counting;

thread_local! {
    /// Of this thread, since the test harness has others.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: all is left to the system's allocator; counting in a const-initialised thread
// local without a destructor allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as our own caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: as our own caller promised.
        unsafe { System.dealloc(start, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn no_memory_is_allocated_per_message() {
    let (tx, rx) = TestQueue::small().pair();
    assert_none_is_allocated(tx, rx);
}

#[test]
fn no_memory_is_allocated_per_message_on_a_system_v_queue() {
    let name = fresh_name();
    let config = SysvConfig::new().depth(DEPTH).max_message_len(MAX_LEN);
    let channel = Sysv::new().create(&name, &config).unwrap();
    let (tx, rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
    assert_none_is_allocated(tx, rx);
    Sysv::new().remove(&name).unwrap();
}

#[test]
fn no_memory_is_allocated_per_message_over_a_socket() {
    let name = fresh_name();
    let channel = Unix::new().create(&name, &UnixConfig::new().max_message_len(MAX_LEN)).unwrap();
    let (tx, rx) = (channel.sender().unwrap(), channel.receiver().unwrap());
    assert_none_is_allocated(tx, rx);
    Unix::new().remove(&name).unwrap();
}

fn assert_none_is_allocated(mut tx: impl Sender, mut rx: impl BatchReceiver) {
    let cancel = Cancel::new();
    one_of_each(&mut tx, &mut rx, &cancel);
    let before = ALLOCATIONS.get();
    for _ in 0..200 {
        one_of_each(&mut tx, &mut rx, &cancel);
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
}

#[test]
fn the_counter_counts() {
    let before = ALLOCATIONS.get();
    drop(std::hint::black_box(Box::new(1)));
    assert!(ALLOCATIONS.get() > before);
}

/// Every way to send and to receive, with every way to wait.
fn one_of_each(tx: &mut impl Sender, rx: &mut impl BatchReceiver, cancel: &Cancel) {
    tx.send(&[1; MAX_LEN]).unwrap();
    drop(rx.recv().unwrap());

    tx.loan(MAX_LEN, Wait::Never)
        .unwrap()
        .commit(Wait::timeout(Duration::from_secs(9)))
        .map_err(|rejected| rejected.error)
        .unwrap();
    drop(rx.recv_timeout(Duration::from_secs(9)).unwrap());
    assert!(rx.recv_timeout(Duration::from_micros(10)).is_err());
    assert!(rx.advance(Wait::timeout(Duration::from_micros(10)).or_cancel(cancel)).is_err());

    // As many as fit: a socket takes more than a queue.
    let mut sent = 0_usize;
    while tx.try_send(&[2; MAX_LEN]).is_ok() {
        sent += 1;
    }
    for _ in 0..sent.div_ceil(DEPTH) {
        assert!(rx.advance_batch(DEPTH, Wait::Forever).unwrap() <= DEPTH);
        rx.held_batch().release_all();
    }
    assert!(rx.try_recv().is_err());
}
