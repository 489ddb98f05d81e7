//! The in-process cost of `send` and of `receive`, each backend by itself.
//!
//! One thread sends a batch into an empty channel and then receives it, so nothing waits
//! and nothing crosses processors: what is left is the work of the backend itself, and an
//! eighth of a reading of the clock. Besides, what it takes to open and close a write window,
//! and what copies take that go to a little further on in a page than they come from.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_main};
use ipc_core::{
    Channel, ChannelError, ChannelName, Receiver, Sender, Transport, copy_message,
    local::{Local, LocalConfig},
};
use ipc_mq::{Mq, MqConfig};
use ipc_shm::{Mpmc, ShmConfig, Spsc, protect::Guarded};
use std::{
    hint::black_box,
    process,
    time::{Duration, Instant},
};

/// Messages between two readings of the clock; they fit every channel here.
const BATCH: u64 = 8;

const SIZES_BYTES: [usize; 3] = [8, 64, 1024];

/// What is timed of each batch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Half {
    Send,
    Receive,
}

fn local(criterion: &mut Criterion) {
    backend(criterion, "local", &Local::new(), &LocalConfig::new());
}

fn mq(criterion: &mut Criterion) {
    let config = MqConfig::new().depth(BATCH as usize).max_message_len(1024);
    backend(criterion, "mq", &Mq::new(), &config);
}

fn shm_spsc(criterion: &mut Criterion) {
    backend(criterion, "shm:spsc", &Spsc::new(), &ShmConfig::new().transient());
}

fn shm_mpmc(criterion: &mut Criterion) {
    backend(criterion, "shm:mpmc", &Mpmc::new(), &ShmConfig::new().transient());
}

fn backend<T: Transport>(criterion: &mut Criterion, label: &str, transport: &T, config: &T::Config) {
    for (half, what) in [(Half::Send, "send"), (Half::Receive, "receive")] {
        let mut group = criterion.benchmark_group(format!("{what}/{label}"));
        group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
        for size_bytes in SIZES_BYTES {
            let name = format!("ipc-bench-{}-{what}-{size_bytes}", process::id());
            let name = ChannelName::new(&name).expect("a valid name");
            let channel = transport.create(&name, config).expect("a new channel");
            let mut ends =
                (channel.sender().expect("the only sender"), channel.receiver().expect("the only receiver"));
            group.throughput(Throughput::Elements(1));
            group.bench_function(BenchmarkId::from_parameter(size_bytes), |bencher| {
                bencher.iter_custom(|iterations| timed(&mut ends, half, size_bytes, iterations));
            });
            drop((ends, channel));
            match transport.remove(&name) {
                // Transient channels go with their last user.
                Ok(()) | Err(ChannelError::NotFound) => {}
                Err(error) => panic!("{name} stays behind: {error}"),
            }
        }
        group.finish();
    }
}

/// Entering a write window and leaving it again, with nothing in between.
fn write_window(criterion: &mut Criterion) {
    let name = ChannelName::new(&format!("ipc-bench-{}-window", process::id())).expect("a valid name");
    let channel = Spsc::new().create(&name, &ShmConfig::new().transient()).expect("a new channel");
    let tx = channel.sender().expect("the only sender");
    let mut guarded = Guarded::new(tx).expect("its memory can be protected");
    criterion.bench_function("protect/write window", |bencher| {
        bencher
            .iter(|| guarded.with_write(|tx| black_box(tx.max_message_len())).expect("it opens and closes"));
    });
}

/// From the beginning of a page to the place of a ring's first payload, and to where a plain
/// copy is as fast.
fn copies(criterion: &mut Criterion) {
    const LEN_BYTES: usize = 64 << 10;
    const PAGE_BYTES: usize = 4096;
    let mut memory = vec![0x5a; 2 * (LEN_BYTES + 2 * PAGE_BYTES)];
    let to_page = memory.as_ptr().addr().wrapping_neg() % PAGE_BYTES;
    let (from, to) = memory[to_page..].split_at_mut(LEN_BYTES + PAGE_BYTES);
    let mut group = criterion.benchmark_group("copy");
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    group.throughput(Throughput::Bytes(LEN_BYTES as u64));
    for ahead in [8, 128] {
        let (from, to) = (&from[..LEN_BYTES], &mut to[ahead..ahead + LEN_BYTES]);
        group.bench_function(BenchmarkId::new("memcpy", ahead), |bencher| {
            bencher.iter(|| black_box(&mut *to).copy_from_slice(black_box(from)));
        });
        group.bench_function(BenchmarkId::new("copy_message", ahead), |bencher| {
            bencher.iter(|| copy_message(black_box(to), black_box(from)));
        });
    }
    group.finish();
}

/// How long `iterations` sends, or receives, take.
fn timed<S: Sender, R: Receiver>(
    (tx, rx): &mut (S, R),
    half: Half,
    size_bytes: usize,
    iterations: u64,
) -> Duration {
    let message = vec![0x5a; size_bytes];
    let mut total = Duration::ZERO;
    let mut left = iterations;
    while left > 0 {
        let batch = left.min(BATCH);
        let start = Instant::now();
        for _ in 0..batch {
            tx.try_send(black_box(&message)).expect("room for a batch");
        }
        let sent = Instant::now();
        for _ in 0..batch {
            black_box(&*rx.try_recv().expect("the batch just sent"));
        }
        total += if half == Half::Send { sent - start } else { sent.elapsed() };
        left -= batch;
    }
    total
}

fn benches() {
    let mut criterion = Criterion::default().configure_from_args();
    for backend in [local, mq, shm_spsc, shm_mpmc, write_window, copies] {
        backend(&mut criterion);
    }
}

criterion_main!(benches);
