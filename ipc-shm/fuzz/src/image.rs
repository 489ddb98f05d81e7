//! A channel whose file is changed behind the back of those who use it: any byte to
//! anything, before they open it and while they have it open.
//!
//! The input is a script: which kind of channel, then steps, of which some change bytes of
//! the file and the others are calls. Whatever the calls answer is right, as long as it is
//! an answer: an error that the documentation names, or a message. A panic, a signal or a
//! hang is a finding. Shared by the fuzzer and by a test that plays scripts of its own.

use ipc_shm::{
    Batch, BatchReceiver, BatchSender, CallError, Channel, ChannelName, Client, EndMark, Kind, Lifetime,
    Loan, Message, Pollable, Receiver, RecvError, Request, Rpc, RpcClient, RpcServer, RpcTicket, SendError,
    Sender, Server, Shm, ShmChannel, ShmConfig, ShmReceiver, ShmSender, Transport, Wait, WhenFull,
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
    let (kind, config) = config(&mut script);
    let channel = shm.create(&name, &config).expect("a sound channel can be made");
    let file = File::options().read(true).write(true).open(&path).expect("it is there");
    let mut stage = Stage {
        shm,
        rpc: (kind == Kind::Rpc).then(|| Rpc::at(&directory.0)),
        name,
        config,
        file,
        fresh: fs::read(&path).expect("it is there"),
        whole: Vec::new(),
        channels: vec![channel],
        senders: Vec::new(),
        receivers: Vec::new(),
        clients: Vec::new(),
        servers: Vec::new(),
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

fn config(script: &mut Script<'_>) -> (Kind, ShmConfig) {
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
        Kind::Rpc => config.depth(3).max_message_len(100),
        _ => config,
    };
    let config = if choice & 0x40 == 0 { config } else { config.lifetime(Lifetime::Transient) };
    let config = match (kind, choice & 0x80) {
        (Kind::Mpmc, 0x80) => config.when_full(WhenFull::DropOldest),
        (Kind::Broadcast, 0x80) => config.when_full(WhenFull::Wait),
        _ => config,
    };
    (kind, config)
}

/// The channel, who has it open, and its file.
struct Stage {
    shm: Shm,
    /// If it is a service.
    rpc: Option<Rpc>,
    name: ChannelName,
    config: ShmConfig,
    file: File,
    /// The file's bytes when it was made, and at an earlier step.
    fresh: Vec<u8>,
    whole: Vec<u8>,
    channels: Vec<ShmChannel>,
    senders: Vec<ShmSender>,
    receivers: Vec<ShmReceiver>,
    clients: Vec<(RpcClient, Vec<RpcTicket>)>,
    servers: Vec<RpcServer>,
}

impl Stage {
    fn step(&mut self, script: &mut Script<'_>) {
        match script.byte() % 25 {
            0..=5 => self.change(script),
            6 => self.open(),
            7..=15 | 20..=22 if self.rpc.is_some() => self.use_service(script),
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
            19 => self.wait_briefly(),
            20 => self.send_batch(script),
            // Seldom: the kernel takes milliseconds to close what is polled.
            21 if script.byte() % 16 == 0 => self.poll(),
            21 => self.receive(),
            22 => self.read_newest(),
            23 => self.be_killed(script),
            _ => self.remember_or_restore(script),
        }
    }

    /// Changes a word of the file, in one of the ways in which programs and disks err.
    fn change(&mut self, script: &mut Script<'_>) {
        let how = script.byte();
        let at = match how & 0x80 {
            0 => self.written_place(script),
            _ => self.place(script),
        };
        let old = self.word(at);
        let new = match how % 16 {
            0 => 0,
            1 => u64::MAX,
            2 => old ^ 1 << script.below(64),
            3 => old.wrapping_add(1),
            4 => old.wrapping_sub(1),
            5 => old & !0xff | u64::from(script.byte()),
            6 => old.wrapping_add(u64::from(script.byte()) << script.below(64)),
            // A position beside this one; one before the first.
            7 => old.wrapping_add(8 * u64::from(script.byte())),
            8 => old.wrapping_sub(8 * u64::from(script.byte())),
            9 => (8 * u64::from(script.byte())).wrapping_neg(),
            // A record's word: length, flags.
            10 => (script.below(PAGE + 64) as u64) << 8 | u64::from(script.byte() & 7),
            // A slot's word: turn, owner, attempts.
            11 => {
                let (turn, owner) = (u64::from(script.byte()), u64::from(script.byte() & 7));
                turn << 24 | owner << 8 | u64::from(script.byte() & 3)
            }
            // What stands elsewhere.
            12 => {
                let elsewhere = self.written_place(script);
                self.word(elsewhere)
            }
            _ => script.word(),
        };
        self.file.write_all_at(&new.to_ne_bytes(), at).expect("the file can be written");
    }

    /// A place in the file. Most words that matter are at the beginning of a page.
    fn place(&self, script: &mut Script<'_>) -> u64 {
        let pages = self.file.metadata().map_or(1, |metadata| (metadata.len() as usize / PAGE).max(1));
        let within = if script.byte() % 2 == 0 { 8 * script.below(64) } else { script.below(PAGE - 8) };
        (script.below(pages) * PAGE + within) as u64
    }

    /// A word that was written since the channel was made. Of a payload, which is all the
    /// same, the first one.
    fn written_place(&self, script: &mut Script<'_>) -> u64 {
        let now = self.bytes();
        let words = now.chunks_exact(8).zip(self.fresh.chunks_exact(8)).enumerate();
        let mut last = &[][..];
        let written: Vec<usize> = words
            .filter(|(_, (now, fresh))| now != fresh && std::mem::replace(&mut last, now) != *now)
            .map(|(word, _)| word)
            .collect();
        match written.len() {
            0 => self.place(script),
            several => 8 * written[script.below(several)] as u64,
        }
    }

    fn word(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        let _ = self.file.read_exact_at(&mut bytes, at);
        u64::from_ne_bytes(bytes)
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.file.metadata().map_or(0, |metadata| metadata.len() as usize)];
        let _ = self.file.read_exact_at(&mut bytes, 0);
        bytes
    }

    /// All, or one of each, are gone without having put anything in order.
    fn be_killed(&mut self, script: &mut Script<'_>) {
        let left = self.bytes();
        if script.byte() % 2 == 0 {
            self.senders.clear();
            self.receivers.clear();
            self.clients.clear();
            self.servers.clear();
        } else {
            self.senders.pop();
            self.receivers.pop();
            self.clients.pop();
            self.servers.pop();
        }
        self.file.write_all_at(&left, 0).expect("the file can be written");
    }

    /// Pages, or all of them, are older than the others.
    fn remember_or_restore(&mut self, script: &mut Script<'_>) {
        if self.whole.is_empty() {
            self.whole = self.bytes();
            return;
        }
        let page = script.below(self.whole.len() / PAGE + 1);
        let part = match page * PAGE {
            at if at < self.whole.len() => at..at + PAGE,
            _ => 0..self.whole.len(),
        };
        let at = part.start as u64;
        self.file.write_all_at(&self.whole[part], at).expect("the file can be written");
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

    fn send_batch(&mut self, script: &mut Script<'_>) {
        let messages = vec![[9; 12]; 1 + script.below(6)];
        for sender in &mut self.senders {
            expected_of_a_sender(match sender {
                ShmSender::Spsc(sender) => sender.send_batch(&messages, Wait::Never),
                ShmSender::Mpmc(sender) => sender.send_batch(&messages, Wait::Never),
                ShmSender::Broadcast(sender) => sender.send_batch(&messages, Wait::Never),
                other => other.send_wait(&messages[0], Wait::Never).map(|()| 1),
            });
        }
    }

    fn poll(&mut self) {
        for receiver in &mut self.receivers {
            black_box(receiver.descriptor().expect("descriptors are to be had"));
            expected_of_a_receiver(receiver.arm());
        }
    }

    fn read_newest(&mut self) {
        for receiver in &mut self.receivers {
            let ShmReceiver::Latest(reader) = receiver else { continue };
            if let Some(message) = expected_of_a_receiver(reader.read()).flatten() {
                read(&message);
            }
        }
    }

    fn use_service(&mut self, script: &mut Script<'_>) {
        match script.byte() % 8 {
            0 if self.clients.len() < 2 => {
                let service = self.rpc.as_ref().and_then(|rpc| rpc.open(&self.name).ok());
                let client = service.and_then(|service| service.client().ok());
                self.clients.extend(client.map(|client| (client, Vec::new())));
            }
            1 if self.servers.len() < 2 => {
                let service = self.rpc.as_ref().and_then(|rpc| rpc.open(&self.name).ok());
                self.servers.extend(service.and_then(|service| service.server().ok()));
            }
            0..=3 => self.submit(script),
            4 | 5 => self.collect(script),
            _ => self.answer(script),
        }
    }

    fn submit(&mut self, script: &mut Script<'_>) {
        let request = vec![1; script.below(101)];
        for (client, tickets) in &mut self.clients {
            tickets.extend(expected_of_a_client(client.submit(&request, Wait::Never)));
        }
    }

    fn collect(&mut self, script: &mut Script<'_>) {
        let how = script.byte();
        for (client, tickets) in &mut self.clients {
            let Some(ticket) = tickets.pop() else { continue };
            match how % 4 {
                0 => client.abandon(ticket),
                1 => {
                    let answered = expected_of_a_client(client.advance(&ticket, Wait::Never)).is_some();
                    // What was found is there, whatever happens to the file.
                    self.file.write_all_at(&[how; 256], 3 * PAGE as u64).expect("the file can be written");
                    if answered {
                        read(&client.response(ticket));
                    }
                }
                _ => {
                    if let Some(response) = expected_of_a_client(client.collect(ticket, Wait::Never)) {
                        read(&response);
                    }
                }
            }
        }
    }

    fn answer(&mut self, script: &mut Script<'_>) {
        let how = script.byte();
        for server in &mut self.servers {
            let Some(request) = expected_of_a_receiver(server.next(Wait::Never)) else { continue };
            read(&request);
            match how % 4 {
                0 => {}
                1 => std::mem::forget(request),
                2 => drop(expected_of_a_sender(request.respond(&[how; 30]))),
                _ => drop(expected_of_a_sender(request.respond_in_place(9, |space| space.fill(how)))),
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
            0 => drop((self.senders.pop(), self.clients.pop())),
            1 => drop((self.receivers.pop(), self.servers.pop())),
            2 => drop(self.channels.pop()),
            _ => drop(self.shm.remove(&self.name)),
        }
    }

    /// A wait that has to end, whatever the flags and generations say.
    fn wait_briefly(&mut self) {
        let wait = || Wait::timeout(Duration::from_micros(20));
        for receiver in &mut self.receivers {
            if let Some(message) = expected_of_a_receiver(receiver.receive(wait())) {
                read(&message);
            }
        }
        for sender in &mut self.senders {
            expected_of_a_sender(sender.send_wait(b"waited", wait()));
        }
        for (client, _) in &mut self.clients {
            expected_of_a_client(client.call(b"waited", wait()).map(drop));
        }
        for server in &mut self.servers {
            expected_of_a_receiver(server.advance(wait()));
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

fn expected_of_a_client<T>(answer: Result<T, CallError>) -> Option<T> {
    match answer {
        Ok(done) => Some(done),
        Err(
            CallError::WouldBlock
            | CallError::TimedOut
            | CallError::TooLong { .. }
            | CallError::Declined
            | CallError::ServerDied
            | CallError::Closed
            | CallError::Corrupt(_),
        ) => None,
        Err(error) => panic!("{error:?}"),
    }
}
