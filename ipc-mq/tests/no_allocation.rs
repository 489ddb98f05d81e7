//! Once under way, sending and receiving allocate nothing: a counting allocator says so.

mod common;

use common::{DEPTH, MAX_LEN, TestQueue};
use ipc_mq::{Batch, BatchReceiver, Cancel, Loan, MqReceiver, MqSender, Receiver, Sender, Wait};
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
    let (mut tx, mut rx) = TestQueue::small().pair();
    let cancel = Cancel::new();
    one_of_each(&mut tx, &mut rx, &cancel);
    let before = ALLOCATIONS.get();
    for _ in 0..1000 {
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
fn one_of_each(tx: &mut MqSender, rx: &mut MqReceiver, cancel: &Cancel) {
    tx.send(&[1; MAX_LEN]).unwrap();
    drop(rx.recv().unwrap());

    tx.loan(MAX_LEN, Wait::Never).unwrap().commit(Wait::timeout(Duration::from_secs(9))).unwrap();
    drop(rx.recv_timeout(Duration::from_secs(9)).unwrap());
    assert!(rx.recv_timeout(Duration::from_micros(10)).is_err());
    assert!(rx.advance(Wait::timeout(Duration::from_micros(10)).or_cancel(cancel)).is_err());

    for _ in 0..DEPTH {
        tx.try_send(&[2; MAX_LEN]).unwrap();
    }
    assert!(tx.try_send(&[3; MAX_LEN]).is_err());
    assert_eq!(rx.advance_batch(DEPTH, Wait::Forever).unwrap(), DEPTH);
    rx.held_batch().release_all();
}
