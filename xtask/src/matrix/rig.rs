//! What a scenario works with: the binary, a backend, a folder and names of its own.

use super::{
    Verdict,
    child::{Ended, Running},
};
use serde_json::Value;
use std::{
    cell::RefCell,
    env, fs,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

/// A backend, and where it differs from the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Backend {
    /// The kernel's POSIX queues.
    Mq,
    /// The kernel's System V queues.
    Sysv,
    /// Sequenced-packet sockets: connections, and nothing is stored.
    Unix,
    /// Shared memory, one sender and one receiver.
    Spsc,
    /// Shared memory, what is made without options.
    Mpmc,
}

impl Backend {
    pub(super) const ALL: [Self; 5] = [Self::Mq, Self::Sysv, Self::Unix, Self::Spsc, Self::Mpmc];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Mq => "mq",
            Self::Sysv => "sysv",
            Self::Unix => "unix",
            Self::Spsc => "shm spsc",
            Self::Mpmc => "shm mpmc",
        }
    }

    pub(super) fn scheme(self) -> &'static str {
        match self {
            Self::Mq => "mq",
            Self::Sysv => "sysv",
            Self::Unix => "unix",
            Self::Spsc | Self::Mpmc => "shm",
        }
    }

    /// Options that make a channel of this backend.
    pub(super) fn making(self) -> &'static [&'static str] {
        match self {
            Self::Mq | Self::Sysv | Self::Mpmc => &[],
            Self::Unix => &["--max-message", "300000"],
            Self::Spsc => &["--kind", "spsc"],
        }
    }

    /// The longest message of a channel made with no other options, in bytes.
    pub(super) fn max_message_len(self) -> usize {
        match self {
            Self::Mq | Self::Sysv | Self::Mpmc => 8192,
            Self::Unix => 300_000,
            Self::Spsc => (1 << 20) - 16,
        }
    }

    /// Whether it is shared memory: there a channel can vanish with its users, and what a
    /// killed receiver held comes again.
    pub(super) fn is_shm(self) -> bool {
        matches!(self, Self::Spsc | Self::Mpmc)
    }

    /// Options for a channel that is soon full.
    pub(super) fn small(self) -> [&'static str; 2] {
        match self {
            Self::Mq => ["--depth", "4"],
            // Two of the longest are all that an ordinary user gets.
            Self::Sysv => ["--depth", "2"],
            Self::Unix => ["--capacity", "16K"],
            Self::Spsc => ["--capacity", "64K"],
            Self::Mpmc => ["--depth", "8"],
        }
    }

    /// The same option with another value.
    pub(super) fn not_so_small(self) -> [&'static str; 2] {
        match self {
            Self::Mq => ["--depth", "5"],
            Self::Sysv => ["--depth", "1"],
            Self::Unix => ["--capacity", "32K"],
            Self::Spsc => ["--capacity", "128K"],
            Self::Mpmc => ["--depth", "9"],
        }
    }
}

pub(super) struct Rig {
    pub(super) backend: Backend,
    pub(super) deadline: Instant,
    ipc: PathBuf,
    folder: PathBuf,
    /// Part of the names of kernel queues, which are the whole system's.
    label: String,
    ignores_interrupts: bool,
    addresses: RefCell<Vec<String>>,
}

impl Rig {
    pub(super) fn new(ipc: &Path, backend: Backend, deadline: Instant) -> Result<Self, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let label = format!("xtask-{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = memory_folder().join(&label);
        make_private(&folder).map_err(|error| format!("{} can't be made: {error}", folder.display()))?;
        let ignores_interrupts = ignores_interrupts();
        let addresses = RefCell::default();
        Ok(Self { backend, deadline, ipc: ipc.into(), folder, label, ignores_interrupts, addresses })
    }

    /// The address of the channel `name`, which [`close`](Self::close) removes.
    pub(super) fn address(&self, name: &str) -> String {
        let address = match self.backend {
            Backend::Mq => format!("mq:{}-{name}", self.label),
            backend => format!("{}:{name}", backend.scheme()),
        };
        let mut addresses = self.addresses.borrow_mut();
        if !addresses.contains(&address) {
            addresses.push(address.clone());
        }
        address
    }

    /// The folder of the channels in shared memory.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Starts `ipc`.
    pub(super) fn start(&self, arguments: &[&str]) -> Result<Running, String> {
        Running::start(&mut self.command(arguments), self.deadline)
    }

    /// Runs `ipc` to its end, without input.
    pub(super) fn run(&self, arguments: &[&str]) -> Result<Ended, String> {
        self.start(arguments)?.end()
    }

    /// Runs `ipc` to its end with this input.
    pub(super) fn run_with(&self, arguments: &[&str], input: &[u8]) -> Result<Ended, String> {
        let mut running = self.start(arguments)?;
        running.feed(input.to_vec())?;
        running.end()
    }

    /// Makes a channel and returns its address.
    pub(super) fn create(&self, name: &str, options: &[&str]) -> Result<String, String> {
        let address = self.address(name);
        self.run(&[&["create", &address], self.backend.making(), options].concat())?.expect(0)?;
        Ok(address)
    }

    /// Options that make the channel if it is missing.
    pub(super) fn create_if_missing(&self) -> Vec<&'static str> {
        [&["--create"], self.backend.making()].concat()
    }

    /// What `ipc stat --json` says; `None` if there is no such channel.
    pub(super) fn stat(&self, address: &str) -> Result<Option<Value>, String> {
        let ended = self.run(&["stat", "--json", address])?;
        if ended.code == Some(3) {
            return Ok(None);
        }
        let ended = ended.expect(0)?;
        serde_json::from_slice(&ended.stdout)
            .map(Some)
            .map_err(|error| ended.because(&format!("no JSON: {error}")))
    }

    /// Waits until what `ipc stat` says satisfies the condition.
    pub(super) fn wait_for_stat(&self, address: &str, what: &str, condition: fn(&Value) -> bool) -> Verdict {
        loop {
            let stat = self.stat(address)?;
            if stat.as_ref().is_some_and(condition) {
                return Ok(());
            }
            if Instant::now() > self.deadline {
                return Err(format!("waited in vain for {what}; ipc stat says: {stat:?}"));
            }
        }
    }

    /// Waits until a receiver is there, as far as the backend shows it.
    pub(super) fn wait_for_receiver(&self, address: &str) -> Verdict {
        let condition: fn(&Value) -> bool = match self.backend {
            // A sender waits for one, or doesn't care.
            Backend::Mq | Backend::Sysv | Backend::Unix => |_| true,
            Backend::Spsc | Backend::Mpmc => |stat| roles(stat).any(|role| role == "receiver"),
        };
        self.wait_for_stat(address, "a receiver", condition)
    }

    /// Removes the channels; whatever is there afterwards is a failure.
    pub(super) fn close(&self) -> Verdict {
        let removed = self.remove_channels();
        let left = files(&self.folder).map_err(|error| error.to_string())?;
        removed?;
        match left.is_empty() {
            true => Ok(()),
            false => Err(format!("left in the folder of channels: {}", left.join(", "))),
        }
    }

    fn remove_channels(&self) -> Verdict {
        for address in self.addresses.borrow().iter() {
            if self.stat(address)?.is_some() {
                self.run(&["rm", address])?.expect(0)?;
                self.run(&["stat", address])?.expect(3)?;
            }
        }
        Ok(())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = match self.ignores_interrupts {
            true => Command::new("env"),
            false => Command::new(&self.ipc),
        };
        if self.ignores_interrupts {
            command.arg("--default-signal=INT").arg(&self.ipc);
        }
        command.args(arguments).env("IPC_DIR", &self.folder);
        command
    }
}

/// Whether SIGINT is ignored here, as in what a script has started in the background: those whom
/// we start would inherit that, and `ipc` would keep it.
fn ignores_interrupts() -> bool {
    const SIGINT_BIT: u64 = 1 << 1;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    ignored.is_some_and(|bits| bits & SIGINT_BIT != 0)
}

impl Drop for Rig {
    /// After a failure, as much as possible is cleaned.
    fn drop(&mut self) {
        const PATIENCE: Duration = Duration::from_secs(5);
        for address in self.addresses.borrow().iter() {
            let rm = Running::start(&mut self.command(&["rm", address]), Instant::now() + PATIENCE);
            let _ = rm.and_then(Running::end);
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The files in a folder and in those beneath it. Folders are no channels.
fn files(folder: &Path) -> std::io::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        match path.is_dir() {
            true => found.extend(files(&path)?),
            false => found.push(path.display().to_string()),
        }
    }
    Ok(found)
}

/// The roles of the living participants.
pub(super) fn roles(stat: &Value) -> impl Iterator<Item = &str> {
    let participants = stat["participants"].as_array().into_iter().flatten();
    participants
        .filter(|participant| participant["alive"] == true)
        .filter_map(|participant| participant["role"].as_str())
}

/// Where channels in shared memory usually are.
fn memory_folder() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() { memory } else { env::temp_dir() }
}

fn make_private(folder: &Path) -> std::io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}
