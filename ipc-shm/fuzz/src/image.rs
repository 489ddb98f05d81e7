//! A channel whose file is changed behind the back of those who use it: any byte to
//! anything, before they open it and while they have it open.
//!
//! The input is a script: which kind of channel, then steps, of which some change bytes of
//! the file and the others are calls. Whatever the calls answer is right, as long as it is
//! an answer: an error that the documentation names, or a message. A panic, a signal or a
//! hang is a finding. Shared by the fuzzer and by a test that plays scripts of its own.

use ipc_shm::{
    Batch, BatchReceiver, Channel, ChannelName, EndMark, Kind, Lifetime, Loan, Message, Receiver, RecvError,
    SendError, Sender, Shm, ShmChannel, ShmConfig, ShmReceiver, ShmSender, Transport, Wait, WhenFull,
};
use std::{
    fs,
    fs::File,
    hint::black_box,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

/// A directory for the images, removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("ipc-shm-images-{}-{number}", process::id()));
        fs::create_dir(&path).expect("a fresh directory");
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

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

    fn below(&mut self, bound: usize) -> usize {
        (usize::from(self.byte()) << 8 | usize::from(self.byte())) % bound
    }

    fn word(&mut self) -> u64 {
        u64::from_ne_bytes(std::array::from_fn(|_| self.byte()))
    }
}

/// Steps of a script that are played: more would only be slower.
const MOST_STEPS: usize = 64;
/// Longer scripts say nothing more.
const PAGE: usize = 4096;

/// Plays a script.
pub(crate) fn play(script: &[u8], directory: &Directory) {
    let mut script = Script(script);
    let shm = Shm::at(&directory.0);
    let name = ChannelName::new("x").expect("a name");
    let path = directory.0.join("x");
    let _ = fs::remove_file(&path);
    let config = config(&mut script);
    let channel = shm.create(&name, &config).expect("a sound channel can be made");
    let file = File::options().read(true).write(true).open(&path).expect("it is there");
    let mut stage = Stage {
        shm,
        name,
        config,
        file,
        channels: vec![channel],
        senders: Vec::new(),
        receivers: Vec::new(),
    };
    for _ in 0..MOST_STEPS {
        if script.is_over() {
            break;
        }
        stage.step(&mut script);
    }
    drop(stage);
    let _ = fs::remove_file(&path);
}

fn config(script: &mut Script<'_>) -> ShmConfig {
    let choice = script.byte();
    let kind = Kind::ALL[usize::from(choice) % Kind::ALL.len()];
    let config = ShmConfig::new().kind(kind);
    let config = match kind {
        Kind::Spsc => config.capacity_bytes(PAGE as u64),
        _ => config.participants(4),
    };
    let config = match kind {
        Kind::Mpmc => config.depth(3).max_message_len(100).max_deliveries(2),
        Kind::Broadcast => config.publishers(2).capacity_bytes(PAGE as u64),
        Kind::Latest => config.depth(2).max_message_len(100),
        _ => config,
    };
    let config = if choice & 0x40 == 0 { config } else { config.lifetime(Lifetime::Transient) };
    match (kind, choice & 0x80) {
        (Kind::Mpmc, 0x80) => config.when_full(WhenFull::DropOldest),
        (Kind::Broadcast, 0x80) => config.when_full(WhenFull::Wait),
        _ => config,
    }
}

/// The channel, who has it open, and its file.
struct Stage {
    shm: Shm,
    name: ChannelName,
    config: ShmConfig,
    file: File,
    channels: Vec<ShmChannel>,
    senders: Vec<ShmSender>,
    receivers: Vec<ShmReceiver>,
}

impl Stage {
    fn step(&mut self, script: &mut Script<'_>) {
        match script.byte() % 20 {
            0..=5 => self.change(script),
            6 => self.open(),
            7 => self.attach_sender(),
            8 => self.attach_receiver(),
            9 | 10 => self.send(script),
            11 => self.send_in_part(script),
            12 | 13 => self.receive(),
            14 => self.receive_batch(script),
            15 => self.keep(),
            16 => drop(black_box(self.shm.stat(&self.name))),
            17 => drop(black_box(self.shm.gc())),
            18 => self.leave(script),
            _ => self.wait_briefly(),
        }
    }

    /// Changes a word of the file, in one of the ways in which programs and disks err.
    fn change(&mut self, script: &mut Script<'_>) {
        let pages = self.file.metadata().map_or(1, |metadata| (metadata.len() as usize / PAGE).max(1));
        let how = script.byte();
        // Most words that matter are at the beginning of a page.
        let within = if how & 0x80 == 0 { 8 * script.below(64) } else { script.below(PAGE - 8) };
        let at = (script.below(pages) * PAGE + within) as u64;
        let mut bytes = [0; 8];
        let _ = self.file.read_exact_at(&mut bytes, at);
        let old = u64::from_ne_bytes(bytes);
        let new = match how % 8 {
            0 => 0,
            1 => u64::MAX,
            2 => old ^ 1 << script.below(64),
            3 => old.wrapping_add(1),
            4 => old.wrapping_sub(1),
            5 => old & !0xff | u64::from(script.byte()),
            6 => old.wrapping_add(u64::from(script.byte()) << script.below(64)),
            _ => script.word(),
        };
        self.file.write_all_at(&new.to_ne_bytes(), at).expect("the file can be written");
    }

    fn open(&mut self) {
        if self.channels.len() < 2 {
            self.channels.extend(self.shm.open(&self.name).ok());
            self.channels.extend(self.shm.open_or_create(&self.name, &self.config).ok());
        }
    }

    fn attach_sender(&mut self) {
        if let Some(channel) = self.channels.first().filter(|_| self.senders.len() < 2) {
            self.senders.extend(channel.sender().ok());
        }
    }

    fn attach_receiver(&mut self) {
        if let Some(channel) = self.channels.first().filter(|_| self.receivers.len() < 2) {
            self.receivers.extend(channel.receiver().ok());
        }
    }

    fn send(&mut self, script: &mut Script<'_>) {
        let len = [0, 1, 8, 30, 100, 1000, 4080][script.below(7)];
        for sender in &mut self.senders {
            expected_of_a_sender(sender.send_wait(&vec![len as u8; len], Wait::Never));
        }
        if script.byte() % 4 == 0 {
            for sender in &mut self.senders {
                expected_of_a_sender(sender.send_end(Wait::Never));
            }
        }
    }

    /// Lends, and keeps the loan for later, gives it up, or shortens it.
    fn send_in_part(&mut self, script: &mut Script<'_>) {
        let Some(sender) = self.senders.first_mut() else { return };
        expected_of_a_sender(sender.reserve(script.below(200), Wait::Never));
        match script.byte() % 3 {
            0 => {}
            1 => drop(sender.reserved()),
            _ => {
                let mut loan = sender.reserved();
                loan.fill(7);
                loan.truncate(5);
                expected_of_a_sender(loan.commit(Wait::Never).map_err(|rejected| rejected.error));
            }
        }
    }

    fn receive(&mut self) {
        for receiver in &mut self.receivers {
            if let Some(message) = expected_of_a_receiver(receiver.receive(Wait::Never)) {
                read(&message);
            }
        }
    }

    fn receive_batch(&mut self, script: &mut Script<'_>) {
        for receiver in &mut self.receivers {
            if expected_of_a_receiver(receiver.advance_batch(script.below(5), Wait::Never)).is_some() {
                let batch = receiver.held_batch();
                batch.iter().for_each(read);
                batch.release(script.below(4));
            }
        }
    }

    fn keep(&mut self) {
        for receiver in &mut self.receivers {
            if let Some(message) = expected_of_a_receiver(receiver.receive(Wait::Never)) {
                read(&message);
                message.keep();
            }
        }
    }

    fn leave(&mut self, script: &mut Script<'_>) {
        match script.byte() % 4 {
            0 => drop(self.senders.pop()),
            1 => drop(self.receivers.pop()),
            2 => drop(self.channels.pop()),
            _ => drop(self.shm.remove(&self.name)),
        }
    }

    /// A wait that has to end, whatever the flags and generations say.
    fn wait_briefly(&mut self) {
        let wait = || Wait::timeout(Duration::from_micros(200));
        for receiver in &mut self.receivers {
            if let Some(message) = expected_of_a_receiver(receiver.receive(wait())) {
                read(&message);
            }
        }
        for sender in &mut self.senders {
            expected_of_a_sender(sender.send_wait(b"waited", wait()));
        }
    }
}

/// Touches every byte.
fn read(message: &[u8]) {
    black_box(message.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)));
}

fn expected_of_a_sender<T>(answer: Result<T, SendError>) -> Option<T> {
    match answer {
        Ok(done) => Some(done),
        Err(
            SendError::WouldBlock
            | SendError::TimedOut
            | SendError::TooLong { .. }
            | SendError::Closed
            | SendError::Corrupt(_),
        ) => None,
        Err(error) => panic!("{error:?}"),
    }
}

fn expected_of_a_receiver<T>(answer: Result<T, RecvError>) -> Option<T> {
    match answer {
        Ok(done) => Some(done),
        Err(
            RecvError::WouldBlock
            | RecvError::TimedOut
            | RecvError::End
            | RecvError::Lagged { .. }
            | RecvError::Closed
            | RecvError::Corrupt(_),
        ) => None,
        Err(error) => panic!("{error:?}"),
    }
}
