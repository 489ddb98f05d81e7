//! What processors fetch from each other's caches, by the counters that they have for it: see
//! perf_event_open(2).
//!
//! No kernel has one name for it, so the event is known here by the maker and the model, as
//! `perf list` knows it. A virtual machine often has no counters at all.

use crate::trouble::Fallible;
use nix::{errno::Errno, libc};
use std::{
    fs::{self, File},
    io::Read,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

/// What a processor counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Event {
    name: &'static str,
    kind: u32,
    config: u64,
}

/// The numbers of perf_event_open(2), from linux/perf_event.h.
const RAW: u32 = 4;
const FOR_THIS_THREAD: libc::pid_t = 0;
const ON_ANY_PROCESSOR: libc::c_int = -1;
const WITHOUT_GROUP: libc::c_int = -1;
const CLOSE_ON_EXEC: libc::c_ulong = 1 << 3;
const DISABLED: u64 = 1 << 0;
const EXCLUDE_KERNEL: u64 = 1 << 5;
const EXCLUDE_HYPERVISOR: u64 = 1 << 6;
const ENABLE: libc::c_ulong = 0x2400;
const DISABLE: libc::c_ulong = 0x2401;

/// Loads that found a line modified in another core's cache, or were forwarded from there.
const INTEL: Event = Event { name: "MEM_LOAD_L3_HIT_RETIRED.XSNP_HITM", kind: RAW, config: 0x04d2 };

/// Cores from Skylake on, which have that event; Intel's small cores don't.
const INTEL_MODELS: [u32; 18] = [
    0x4e, 0x55, 0x5e, 0x6a, 0x6c, 0x7d, 0x7e, 0x8c, 0x8d, 0x8e, 0x8f, 0x9e, 0xa5, 0xa6, 0xa7, 0xad, 0xae,
    0xcf,
];

/// Lines that came from the third level or another core's cache, near or far: there is no
/// closer event, so what came back from the third level after an eviction is among them.
const AMD: Event = Event { name: "ls_dmnd_fills_from_sys (other caches)", kind: RAW, config: 0x1643 };

/// From Zen 3 on.
const AMD_FAMILIES: [u32; 2] = [0x19, 0x1a];

impl Event {
    /// That of the processor that `/proc/cpuinfo` describes.
    fn of(cpuinfo: &str) -> Option<Self> {
        let field = |name: &str| {
            let of_name = |line: &'_ str| {
                line.split_once(':')
                    .filter(|(key, _)| key.trim() == name)
                    .map(|(_, value)| value.trim().to_owned())
            };
            cpuinfo.lines().find_map(of_name)
        };
        let number = |name| field(name)?.parse::<u32>().ok();
        match field("vendor_id")?.as_str() {
            "GenuineIntel" if number("cpu family") == Some(6) => {
                INTEL_MODELS.contains(&number("model")?).then_some(INTEL)
            }
            "AuthenticAMD" => AMD_FAMILIES.contains(&number("cpu family")?).then_some(AMD),
            _ => None,
        }
    }
}

/// Counts what the thread that made it does.
#[derive(Debug)]
pub(crate) struct Counter {
    file: File,
}

impl Counter {
    /// What this machine's processors fetch from each other, or why that can't be counted.
    pub(crate) fn here() -> Result<Self, String> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let Some(event) = Event::of(&cpuinfo) else {
            return Err("no event of this processor is known for it".into());
        };
        Self::open(event).map_err(|error| why_not(event, error))
    }

    fn open(event: Event) -> Result<Self, Errno> {
        let attributes = Attributes {
            kind: event.kind,
            size_bytes: size_of::<Attributes>() as u32,
            config: event.config,
            flags: DISABLED | EXCLUDE_KERNEL | EXCLUDE_HYPERVISOR,
            ..Attributes::default()
        };
        // SAFETY: the kernel reads `size_bytes` of the attributes, which are ours, and nothing else.
        let opened = unsafe {
            libc::syscall(
                libc::SYS_perf_event_open,
                &raw const attributes,
                FOR_THIS_THREAD,
                ON_ANY_PROCESSOR,
                WITHOUT_GROUP,
                CLOSE_ON_EXEC,
            )
        };
        let descriptor = Errno::result(opened)? as libc::c_int;
        // SAFETY: it was opened just now, and nobody else has it.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        Ok(Self { file: descriptor.into() })
    }

    /// From here on it counts.
    pub(crate) fn start(&self) -> Fallible<()> {
        self.tell(ENABLE)
    }

    /// Until here. What it has counted, ever.
    pub(crate) fn stop(&mut self) -> Fallible<u64> {
        self.tell(DISABLE)?;
        let mut count = [0; 8];
        self.file.read_exact(&mut count)?;
        Ok(u64::from_ne_bytes(count))
    }

    fn tell(&self, request: libc::c_ulong) -> Fallible<()> {
        // SAFETY: these requests take no memory of ours.
        Errno::result(unsafe { libc::ioctl(self.file.as_raw_fd(), request as _, 0) })?;
        Ok(())
    }
}

/// `struct perf_event_attr` in its first size, which every kernel takes.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size_bytes: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    breakpoint_type: u32,
    config1: u64,
}

const _: () = assert!(size_of::<Attributes>() == 64);

fn why_not(event: Event, error: Errno) -> String {
    let name = event.name;
    match error {
        Errno::ENOENT | Errno::ENODEV | Errno::EOPNOTSUPP => {
            format!("the processor counts no {name} here: a virtual machine's often doesn't")
        }
        Errno::EACCES | Errno::EPERM => {
            format!("{name} may not be counted: lower kernel.perf_event_paranoid to 2 or less")
        }
        other => format!("{name} can't be counted: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{AMD, Counter, Event, INTEL, why_not};
    use nix::errno::Errno;
    use rstest::rstest;
    use std::hint::black_box;

    /// PERF_TYPE_SOFTWARE, PERF_COUNT_SW_PAGE_FAULTS: what needs no counters of a processor.
    const FAULTS: Event = Event { name: "page-faults", kind: 1, config: 2 };
    /// More than `malloc` ever keeps: see mallopt(3), M_MMAP_THRESHOLD.
    const PAGES: usize = 10_000;

    fn touch(pages: usize) {
        let mut fresh = Vec::<u8>::with_capacity(pages * 4096);
        fresh.resize(pages * 4096, 1);
        black_box(fresh);
    }

    #[test]
    fn what_is_done_between_start_and_stop_is_counted_and_nothing_else() {
        let mut counter = Counter::open(FAULTS).unwrap();
        touch(PAGES);
        assert_eq!(counter.stop().unwrap(), 0);
        counter.start().unwrap();
        touch(PAGES);
        let counted = counter.stop().unwrap();
        assert!(counted >= 1, "{counted}");
        touch(PAGES);
        assert_eq!(counter.stop().unwrap(), counted);
    }

    #[rstest]
    #[case::intel(
        "vendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 85\nmodel name\t: x\n",
        Some(INTEL)
    )]
    #[case::small_core("vendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 190\n", None)]
    #[case::another_family("vendor_id\t: GenuineIntel\ncpu family\t: 15\nmodel\t\t: 85\n", None)]
    #[case::amd("vendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\n", Some(AMD))]
    #[case::older("vendor_id\t: AuthenticAMD\ncpu family\t: 23\nmodel\t\t: 1\n", None)]
    #[case::another("CPU implementer\t: 0x41\n", None)]
    fn events_are_known_by_maker_and_model(#[case] cpuinfo: &str, #[case] expected: Option<Event>) {
        assert_eq!(Event::of(cpuinfo), expected);
    }

    #[test]
    fn why_nothing_is_counted_is_said_with_what_helps() {
        assert!(why_not(INTEL, Errno::ENOENT).contains("virtual machine"));
        assert!(why_not(INTEL, Errno::EACCES).contains("kernel.perf_event_paranoid"));
        assert!(why_not(AMD, Errno::EMFILE).contains("ls_dmnd_fills_from_sys"));
        // Whichever it is here, it is one of both.
        if let Err(why) = Counter::here() {
            assert!(!why.is_empty());
        }
    }
}
