//! A sealed channel whose peer is hostile: what it says and hands over when it comes, and what
//! it writes to its own memory, before each call and, in another thread, during it.
//!
//! The input is a script: how the peer greets, then steps, of which some change its memory and
//! the others are calls of the end under test. Whatever the calls answer is right, as long as
//! it is an answer. A panic, a signal, a hang or memory beyond what was to be accepted is a
//! finding. Shared by the fuzzer and by a test that plays scripts of its own.

use super::libc;
use ipc_shm::{
    EndMark, Loan, Message, Receiver, Sender, Sequenced, Wait, Waiting,
    sealed::{
        Link, Listener, Peers, SealedConfig, SealedPublisher, SealedReader, SealedReceiver, SealedSender,
        SealedSubscriber, SealedWriter,
    },
};
use std::{
    fs::File,
    hint::black_box,
    io, mem,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    path::{Path, PathBuf},
    process, ptr,
    sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    thread,
    time::Duration,
};

const PAGE: usize = 4096;
const RING: usize = PAGE;
const MOST_STEPS: usize = 96;

/// The script's bytes, one after the other; zeros when they are used up.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((&byte, rest)) => {
                self.0 = rest;
                byte
            }
            None => 0,
        }
    }

    fn word(&mut self) -> u64 {
        u64::from_ne_bytes(std::array::from_fn(|_| self.byte()))
    }

    fn below(&mut self, bound: usize) -> usize {
        (usize::from(self.byte()) << 8 | usize::from(self.byte())) % bound
    }
}

/// Where a script meets its peer.
fn listener() -> (Listener, PathBuf) {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("ipc-shm-fuzz-{}-{number}", process::id()));
    (Listener::bind(&path, Peers::ourselves()).expect("nobody else has our number"), path)
}

/// The peer's memory, as it has it mapped.
struct Memory {
    base: *mut u8,
    len: usize,
    file: OwnedFd,
}

// SAFETY: it is reached by atomics only.
unsafe impl Sync for Memory {}

impl Memory {
    fn new(len: usize, seals: i32) -> Self {
        // SAFETY: takes a name and a number.
        let number =
            unsafe { libc::memfd_create(c"fuzz".as_ptr(), libc::MFD_ALLOW_SEALING | libc::MFD_CLOEXEC) };
        assert!(number >= 0, "{}", io::Error::last_os_error());
        // SAFETY: made just now.
        let file = unsafe { OwnedFd::from_raw_fd(number) };
        // SAFETY: takes numbers.
        assert_eq!(unsafe { libc::posix_fallocate(number, 0, len as i64) }, 0);
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh mapping that replaces nothing.
        let base = unsafe { libc::mmap(ptr::null_mut(), len, access, libc::MAP_SHARED, number, 0) };
        assert_ne!(base, libc::MAP_FAILED);
        // SAFETY: takes numbers.
        unsafe { libc::fcntl(number, libc::F_ADD_SEALS, seals) };
        Self { base: base.cast(), len, file }
    }

    fn put(&self, at: usize, byte: u8) {
        // SAFETY: within the mapping; the end under test uses atomics, too.
        unsafe { &*self.base.wrapping_add(at % self.len).cast::<AtomicU8>() }.store(byte, Ordering::Relaxed);
    }

    fn put_word(&self, at: usize, word: u64) {
        let word_at = self.base.wrapping_add((at % self.len) & !7).cast::<AtomicU64>();
        // SAFETY: within the mapping's pages, aligned; the end under test uses atomics, too.
        unsafe { &*word_at }.store(word, Ordering::Relaxed);
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and nobody has a reference.
        unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}

fn connect(path: &Path) -> OwnedFd {
    // SAFETY: takes numbers.
    let number = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0) };
    // SAFETY: made just now.
    let socket = unsafe { OwnedFd::from_raw_fd(number) };
    // SAFETY: zeros are an address.
    let mut address: libc::sockaddr_un = unsafe { mem::zeroed() };
    address.sun_family = libc::AF_UNIX as u16;
    for (to, &from) in address.sun_path.iter_mut().zip(path.as_os_str().as_encoded_bytes()) {
        *to = from as libc::c_char;
    }
    let len = size_of::<libc::sockaddr_un>() as u32;
    loop {
        // SAFETY: an address of this length.
        if unsafe { libc::connect(number, ptr::from_ref(&address).cast(), len) } == 0 {
            return socket;
        }
        // The fuzzer's clock interrupts who waits to be heard; nothing is connected then.
        let error = io::Error::last_os_error();
        assert_eq!(error.kind(), io::ErrorKind::Interrupted, "{error}");
    }
}

/// Sends bytes with descriptors; whether somebody is there to receive them is no matter.
fn send(socket: &OwnedFd, bytes: &[u8], descriptors: &[RawFd]) {
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let len = size_of_val(descriptors) as u32;
    // SAFETY: computes a length.
    let mut control = vec![0_u64; unsafe { libc::CMSG_SPACE(len) } as usize / 8 + 1];
    // SAFETY: zeros are a message.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    if !descriptors.is_empty() {
        message.msg_control = control.as_mut_ptr().cast();
        // SAFETY: computes a length.
        message.msg_controllen = unsafe { libc::CMSG_SPACE(len) } as _;
        // SAFETY: zeros are a header.
        let mut head: libc::cmsghdr = unsafe { mem::zeroed() };
        head.cmsg_level = libc::SOL_SOCKET;
        head.cmsg_type = libc::SCM_RIGHTS;
        // SAFETY: computes a length.
        head.cmsg_len = unsafe { libc::CMSG_LEN(len) } as _;
        // SAFETY: finds the place in the buffer, which has room for a header.
        let header = unsafe { libc::CMSG_FIRSTHDR(&message) };
        // SAFETY: that place.
        unsafe { header.write(head) };
        // SAFETY: the place behind the header.
        let data = unsafe { libc::CMSG_DATA(header) };
        // SAFETY: the buffer has room for the descriptors there.
        unsafe { ptr::copy_nonoverlapping(descriptors.as_ptr(), data.cast(), descriptors.len()) };
    }
    // SAFETY: a message whose parts live until the call returns.
    unsafe { libc::sendmsg(socket.as_raw_fd(), &message, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) };
}

/// What the end under test does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Receives,
    Sends,
    Subscribes,
    Reads,
    /// To a hostile guest.
    Publishes,
    Writes,
}

impl Role {
    fn of(choice: u8) -> Self {
        match choice % 16 {
            0..=3 => Self::Receives,
            4 | 5 => Self::Sends,
            6..=9 => Self::Subscribes,
            10..=13 => Self::Reads,
            14 => Self::Publishes,
            _ => Self::Writes,
        }
    }

    /// The number of what the peer does.
    fn of_peer(self) -> u32 {
        match self {
            Self::Receives => 1,
            Self::Sends => 2,
            Self::Subscribes => 3,
            Self::Publishes => 4,
            Self::Reads => 5,
            Self::Writes => 6,
        }
    }

    /// Whether the peer has the messages.
    fn is_given(self) -> bool {
        matches!(self, Self::Receives | Self::Subscribes | Self::Reads)
    }
}

/// The longest value of an honest writer.
const LONGEST: usize = 1000;

/// The greeting of an honest peer, or what the script makes of it.
fn greeting(script: &mut Script<'_>, part: u32, capacity: u64) -> Vec<u8> {
    let mut bytes = b"ipc-seal".to_vec();
    for word in [0x0102_0304, 1, part, 1] {
        bytes.extend(u32::to_ne_bytes(word));
    }
    let longest = if part == 5 { LONGEST as u64 } else { 0 };
    for word in [PAGE as u64, capacity, longest, 0, 0] {
        bytes.extend(word.to_ne_bytes());
    }
    match script.byte() % 16 {
        0 => {
            let at = script.below(bytes.len());
            bytes[at] = script.byte();
        }
        1 => bytes.truncate(script.below(65)),
        2 => bytes.extend([script.byte(); 40]),
        3 => {
            let at = 32 + 8 * script.below(4);
            bytes[at..at + 8].copy_from_slice(&script.word().to_ne_bytes());
        }
        // As if the ring had gone on for a while.
        4 => bytes[48..56].copy_from_slice(&(8 * script.below(RING) as u64).to_ne_bytes()),
        _ => {}
    }
    bytes
}

const SEALS: i32 = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_FUTURE_WRITE;

/// Memory as it has to be, or otherwise.
fn memory(script: &mut Script<'_>, len: usize) -> Memory {
    match script.byte() % 24 {
        0 => Memory::new(len, i32::from(script.byte())),
        1 => Memory::new(1 + script.below(4 * PAGE), SEALS),
        _ => Memory::new(len, SEALS),
    }
}

/// Plays a script.
pub(crate) fn play(script: &[u8]) {
    let mut script = Script(script);
    let (listener, path) = listener();
    let choice = script.byte();
    let peer = connect(&path);
    let Ok(link) = listener.accept(Wait::timeout(Duration::from_secs(5))) else { return };
    let briefly = Wait::timeout(Duration::from_millis(2));
    let role = Role::of(choice);
    let memory = memory(&mut script, if role.is_given() { PAGE + RING } else { PAGE });
    let said = greeting(&mut script, role.of_peer(), if role.is_given() { RING as u64 } else { 0 });
    let stranger = File::open("/dev/null").expect("there is one");
    let descriptors = match script.byte() % 24 {
        0 => vec![],
        1 => vec![memory.file.as_raw_fd(); 2],
        2 => vec![stranger.as_raw_fd()],
        _ => vec![memory.file.as_raw_fd()],
    };
    // What is there before anybody looks.
    if choice & 0x40 != 0 {
        fill(role, &memory);
    }
    send(&peer, &said, &descriptors);
    let config = SealedConfig::new().capacity_bytes(RING as u64).max_capacity_bytes(RING as u64);
    let mutating = Mutating { is_on: choice & 0x80 != 0, seed: u64::from(choice) << 8 | 1 };
    let mut end = match End::of(role, link, &config, briefly) {
        Some(end) => end,
        None => return,
    };
    mutating.meanwhile(&memory, || end.play(&mut script, &memory, &peer));
}

/// What an honest peer may have in its memory.
fn fill(role: Role, memory: &Memory) {
    match role {
        Role::Subscribes => {
            // A publisher that is entered, and messages of 8 bytes all around its ring.
            for (at, word) in [(512, 1), (640, 1), (768, 24 * 170), (896, RING as u64)] {
                memory.put_word(at, word);
            }
            for number in 0..170 {
                memory.put_word(PAGE + 24 * number, 8 << 8 | 1);
                memory.put_word(PAGE + 24 * number + 8, number as u64);
            }
        }
        Role::Reads => {
            // The second version, in the second of three slots.
            for (at, word) in [(512, 2 << 8 | 1), (PAGE + 1024, 2), (PAGE + 1032, 8 << 8 | 1)] {
                memory.put_word(at, word);
            }
        }
        _ => (0..memory.len).step_by(16).for_each(|at| memory.put_word(at, 8 << 8 | 1)),
    }
}

/// The end under test.
enum End {
    Receiver(SealedReceiver),
    Sender(SealedSender),
    Subscriber(SealedSubscriber),
    Reader(SealedReader),
    Publisher(SealedPublisher),
    Writer(SealedWriter),
}

impl End {
    /// It, if the peer was taken for one.
    fn of(role: Role, link: Link, config: &SealedConfig, wait: Wait<'_>) -> Option<Self> {
        Some(match role {
            Role::Receives => Self::Receiver(link.receiver(config, wait).ok()?),
            Role::Sends => Self::Sender(link.sender(config, wait).ok()?),
            Role::Subscribes => Self::Subscriber(link.subscriber(config, wait).ok()?),
            Role::Reads => Self::Reader(link.reader(config, wait).ok()?),
            Role::Publishes => {
                let mut tx = SealedPublisher::new(config).expect("a publisher needs nobody");
                tx.admit(link.guest(wait).ok()?).ok()?;
                Self::Publisher(tx)
            }
            Role::Writes => {
                let config = config.clone().max_message_len(LONGEST as u64);
                let mut tx = SealedWriter::new(&config).expect("a writer needs nobody");
                tx.admit(link.guest(wait).ok()?).ok()?;
                Self::Writer(tx)
            }
        })
    }

    fn play(&mut self, script: &mut Script<'_>, memory: &Memory, peer: &OwnedFd) {
        match self {
            Self::Receiver(rx) => {
                rx.set_waiting(Waiting::Block);
                receive(script, rx, memory, peer, |_| ());
            }
            Self::Subscriber(rx) => {
                rx.set_waiting(Waiting::Block);
                receive(script, rx, memory, peer, |_| ());
            }
            Self::Reader(rx) => {
                rx.set_waiting(Waiting::Block);
                receive(script, rx, memory, peer, |rx| {
                    if let Ok(Some(value)) = rx.read() {
                        look(&value);
                    }
                });
            }
            Self::Sender(tx) => {
                tx.set_waiting(Waiting::Block);
                transmit(script, tx, memory, peer);
            }
            Self::Publisher(tx) => {
                transmit(script, tx, memory, peer);
                black_box(tx.subscribers());
            }
            Self::Writer(tx) => {
                transmit(script, tx, memory, peer);
                black_box(tx.readers());
            }
        }
    }
}

/// A peer that goes on changing its memory while the end under test is used.
struct Mutating {
    is_on: bool,
    seed: u64,
}

impl Mutating {
    fn meanwhile(&self, memory: &Memory, body: impl FnOnce()) {
        if !self.is_on {
            return body();
        }
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let peer = scope.spawn(|| {
                let mut state = self.seed;
                while !stop.load(Ordering::Relaxed) {
                    // xorshift64: Marsaglia, "Xorshift RNGs".
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    let word = match state >> 60 {
                        0..8 => (((state >> 20) & 0x1fff) << 8) | 1 | ((state >> 40) & 2),
                        8..12 => 0,
                        _ => state,
                    };
                    memory.put_word((state >> 4) as usize, word);
                }
            });
            body();
            stop.store(true, Ordering::Relaxed);
            peer.join().expect("it only stores");
        });
    }
}

/// The words of a peer that the end under test may look at.
const WORDS: [usize; 10] = [168, 256, 384, 512, 640, 768, 896, 1024, 1032, 1080];

/// Changes the peer's memory as the script says.
fn change(script: &mut Script<'_>, memory: &Memory, peer: &OwnedFd) {
    match script.byte() % 8 {
        0 => memory.put(script.below(memory.len), script.byte()),
        1 => memory.put_word(script.below(memory.len), script.word()),
        // A record, or nearly.
        2 | 3 => {
            let at = PAGE + script.below(RING) / 8 * 8;
            memory.put_word(at, (script.below(RING + 64) as u64) << 8 | u64::from(script.byte() % 4));
        }
        // The words that the other end looks at.
        4 => memory.put_word(WORDS[script.below(WORDS.len())], script.word()),
        5 => memory.put_word(WORDS[script.below(WORDS.len())], script.below(2 * RING) as u64),
        6 => send(peer, &[script.byte()], &[]),
        _ => (0..RING).step_by(16).for_each(|at| memory.put_word(PAGE + at, 8 << 8 | 1)),
    }
}

fn look(bytes: &[u8]) {
    let before: u64 = bytes.iter().map(|&byte| u64::from(byte)).sum();
    let after: u64 = bytes.iter().map(|&byte| u64::from(byte)).sum();
    assert_eq!(before, after, "bytes that are lent changed");
    assert!(bytes.len() <= RING - 16, "longer than it can be");
}

fn receive<R: Receiver + Sequenced>(
    script: &mut Script<'_>,
    rx: &mut R,
    memory: &Memory,
    peer: &OwnedFd,
    look_otherwise: impl Fn(&mut R),
) {
    for _ in 0..MOST_STEPS {
        if script.is_over() {
            break;
        }
        match script.byte() % 8 {
            0..=3 => change(script, memory, peer),
            4 => {
                if let Ok(message) = rx.recv_timeout(Duration::from_micros(50)) {
                    look(&message);
                }
            }
            5 => {
                if let Ok(message) = rx.try_recv() {
                    look(&message);
                    black_box(R::sequence_of(&message));
                    message.keep();
                }
            }
            6 => look_otherwise(rx),
            _ => {
                if let Ok(message) = rx.try_recv() {
                    look(&message);
                }
            }
        }
    }
}

fn transmit<S: Sender + EndMark>(script: &mut Script<'_>, tx: &mut S, memory: &Memory, peer: &OwnedFd) {
    let briefly = || Wait::timeout(Duration::from_micros(50));
    for _ in 0..MOST_STEPS {
        if script.is_over() {
            break;
        }
        let len = script.below(RING + 16);
        match script.byte() % 8 {
            0..=3 => change(script, memory, peer),
            4 => drop(tx.send_wait(&vec![7; len], briefly())),
            5 => {
                if let Ok(mut loan) = tx.loan(len, briefly()) {
                    loan.fill(9);
                    // The peer can't write there.
                    assert!(loan.iter().all(|&byte| byte == 9), "what was lent changed");
                    loan.truncate(len / 2);
                    let _ = loan.send();
                }
            }
            6 => drop(tx.send_end(briefly())),
            _ => drop(tx.try_send(&vec![7; len])),
        }
    }
}
