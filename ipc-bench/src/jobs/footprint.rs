//! What a channel takes of memory, as far as the system says it.

use crate::{spec::Memory, trouble::Fallible};
use ipc_core::{Channel, ChannelName, Transport};
use std::{fs, os::unix::fs::MetadataExt};

/// The unit of `st_blocks`: see stat(3type).
const BLOCK_BYTES: u64 = 512;

/// Makes a channel, opens it, and removes it again.
pub(super) fn of<T: Transport>(transport: &T, config: &T::Config, name: &ChannelName) -> Fallible<Memory> {
    // Once without looking: code and tables that a process has once are no channel's.
    weigh(transport, config, name)?;
    weigh(transport, config, name)
}

fn weigh<T: Transport>(transport: &T, config: &T::Config, name: &ChannelName) -> Fallible<Memory> {
    drop(transport.create(name, config)?);
    let info = transport.stat(name)?;
    let file = info.path.and_then(|path| fs::metadata(path).ok()).filter(fs::Metadata::is_file);
    let channel = transport.open(name)?;
    let before = resident_bytes()?;
    let receiver = channel.receiver()?;
    let receiving = resident_bytes()?;
    let sender = channel.sender()?;
    let sending = resident_bytes()?;
    drop((sender, receiver, channel));
    transport.remove(name)?;
    Ok(Memory {
        room_bytes: info.capacity_bytes,
        file_bytes: file.map(|file| file.blocks() * BLOCK_BYTES).filter(|&bytes| bytes > 0),
        receiver_bytes: receiving.saturating_sub(before),
        sender_bytes: sending.saturating_sub(receiving),
    })
}

/// What of this process is in memory, exactly: `/proc/self/smaps_rollup` counts pages, where
/// `VmRSS` lags behind. See proc_pid_smaps(5).
fn resident_bytes() -> Fallible<u64> {
    let text = fs::read_to_string("/proc/self/smaps_rollup")?;
    Ok(1024 * resident_kb(&text).ok_or("the kernel doesn't say what is resident")?)
}

fn resident_kb(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{of, resident_bytes, resident_kb};
    use crate::links::site::Ground;
    use ipc_core::{ChannelName, Transport};
    use ipc_shm::{ShmConfig, Spsc};

    #[test]
    fn what_is_touched_is_resident() {
        let before = resident_bytes().unwrap();
        let touched = std::hint::black_box(vec![1u8; 8 << 20]);
        let grown = resident_bytes().unwrap().saturating_sub(before);
        // Other tests come and go.
        assert!(grown > 4 << 20, "{grown}");
        drop(touched);
        assert_eq!(resident_kb("Pss: 5 kB\nRss:      1764 kB\n"), Some(1764));
        assert_eq!(resident_kb("Pss: 5 kB\n"), None);
    }

    #[test]
    fn a_segment_takes_its_room_and_more_and_nothing_of_it_stays() {
        let site = Ground::new(&[]).unwrap();
        let (transport, name) = (Spsc::at(&site.directory), ChannelName::new("weighed").unwrap());
        let memory = of(&transport, &ShmConfig::new().capacity_bytes(256 << 10), &name).unwrap();
        assert_eq!(memory.room_bytes, Some(256 << 10));
        let file_bytes = memory.file_bytes.unwrap();
        assert!((256 << 10..512 << 10).contains(&file_bytes), "{file_bytes}");
        assert!(transport.list().unwrap().is_empty());
    }
}
