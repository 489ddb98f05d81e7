//! Whether this is a place to measure at all, and what makes the figures doubtful: facts about the
//! system first, then what follows from them, in words that say what to do.

use super::{
    control_groups,
    load::{Load, MUCH_STOLEN},
    placement::{cant_pin, one_of_each_core_first, pin_to, usable_processors},
    read,
};
use crate::trouble::Fallible;
use std::fs;

/// A processor that others use more than this has other things to do.
const BUSY: f64 = 0.10;

/// What the system says about itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Facts {
    /// Processors that there are, and those of them that this process may use, the best first.
    pub(super) online: usize,
    pub(super) usable: Vec<usize>,
    /// Those that its control group may use, as a list for people.
    pub(super) allowed: Option<String>,
    /// Why processes can't be kept on them.
    pub(super) unpinnable: Option<String>,
    /// How many processors' time its control group may take.
    pub(super) quota: Option<f64>,
    /// The frequency governors of the processors that two measuring processes use, where they have one.
    pub(super) governors: Vec<(usize, String)>,
    pub(super) load: Load,
    /// The name of the program that traces this one.
    pub(super) tracer: Option<String>,
    pub(super) is_emulated: bool,
    pub(super) is_debug_build: bool,
}

impl Facts {
    pub(super) fn gather() -> Fallible<Self> {
        let usable = one_of_each_core_first(&usable_processors()?);
        let membership = read("/proc/self/cgroup").unwrap_or_default();
        let governor = |&processor: &usize| {
            let path = format!("/sys/devices/system/cpu/cpu{processor}/cpufreq/scaling_governor");
            Some((processor, read(&path)?))
        };
        Ok(Self {
            online: read("/proc/stat").map_or(usable.len(), |text| online(&text)),
            allowed: control_groups::allowed(&membership, read),
            unpinnable: cant_pin(&usable[..usable.len().min(2)], pin_to),
            quota: control_groups::quota(&membership, read),
            governors: usable.iter().take(2).filter_map(governor).collect(),
            load: Load::observe(),
            tracer: read("/proc/self/status")
                .and_then(|status| tracer(&status))
                .map(|pid| read(&format!("/proc/{pid}/comm")).unwrap_or_else(|| format!("process {pid}"))),
            is_emulated: fs::read_to_string("/proc/self/maps").is_ok_and(|maps| is_under_valgrind(&maps)),
            is_debug_build: cfg!(debug_assertions),
            usable,
        })
    }

    /// Why nothing that is measured here would mean anything.
    pub(super) fn refusals(&self) -> Vec<String> {
        let mut refusals = Vec::new();
        match (self.usable.as_slice(), self.online) {
            ([_, _, ..], _) => {}
            (_, ..2) => refusals.push(
                "there is one processor, and two processes that communicate take turns on it: measure on a \
                 machine with two or more"
                    .into(),
            ),
            (usable, online) => refusals.push(format!(
                "only processor {} of {online} may be used, so that all processes take turns on it: {}",
                usable.first().map_or("none".into(), ToString::to_string),
                self.widen()
            )),
        }
        refusals.extend(self.unpinnable.as_ref().map(|why| {
            format!(
                "processes can't be kept on processors of their own ({why}): measure outside of the sandbox \
                 that forbids sched_setaffinity"
            )
        }));
        refusals.extend(self.quota.filter(|&quota| quota < 2.0).map(|quota| {
            format!(
                "the control group may take the time of {quota:.2} processors, and two processes that poll take \
                 two: they would be stopped again and again; raise cpu.max or cpu.cfs_quota_us (of a \
                 container, --cpus) to 2 or more"
            )
        }));
        refusals.extend(self.tracer.as_ref().map(|tracer| {
            format!("{tracer} traces this program, and each system call stops for it: run it by itself")
        }));
        if self.is_emulated {
            refusals.push(
                "this program runs under valgrind, which emulates the processor: run it by itself".into(),
            );
        }
        refusals
    }

    /// How to be given more than one processor.
    fn widen(&self) -> String {
        match &self.allowed {
            Some(list) if list.contains([',', '-']) => {
                format!(
                    "its affinity is narrower than its control group's ({list}): start it without taskset"
                )
            }
            Some(list) => format!(
                "its control group has {list} only: raise cpuset.cpus (of a container, --cpuset-cpus)"
            ),
            None => "start it without taskset, and in a control group with more".into(),
        }
    }

    /// What makes the figures doubtful.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.is_debug_build {
            warnings.push("this is a debug build, several times as slow: build it with --release".into());
        }
        warnings.extend(self.loaded());
        let stolen = self.load.stolen;
        if stolen > MUCH_STOLEN {
            warnings.push(format!(
                "the hypervisor gave {:.0} % of the processors' time to others while nothing was measured: \
                 measure when its other guests are quiet",
                stolen * 100.0
            ));
        }
        for (processor, governor) in &self.governors {
            if governor != "performance" {
                warnings.push(format!(
                    "processor {processor} changes its frequency (governor `{governor}`): set it with \
                     `cpupower frequency-set -g performance`"
                ));
            }
        }
        warnings
    }

    /// What others do on the processors that are measured on.
    fn loaded(&self) -> Option<String> {
        let Load { busy, runnable, pressure, average, .. } = &self.load;
        let used = self.usable.iter().take(2);
        let busy: Vec<_> = used
            .filter_map(|processor| {
                Some((processor, busy.get(processor).copied().filter(|&share| share > BUSY)?))
            })
            .map(|(processor, share)| format!("{:.0} % of processor {processor}", share * 100.0))
            .collect();
        if busy.is_empty() {
            return None;
        }
        let mut seen = vec![format!("{runnable:.1} of them runnable at a time")];
        seen.extend(
            pressure.map(|share| {
                format!("somebody waiting for a processor in {:.0} % of the time", share * 100.0)
            }),
        );
        seen.extend(average.map(|average| format!("load average {average}")));
        Some(format!(
            "other programs take {} while nothing is measured ({}): stop them, and measure again",
            busy.join(" and "),
            seen.join(", ")
        ))
    }
}

/// How many processors `/proc/stat` lists.
fn online(text: &str) -> usize {
    let is_one = |line: &&str| {
        line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    text.lines().filter(is_one).count()
}

/// Who traces it, by `/proc/self/status`.
fn tracer(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("TracerPid:"))?;
    line.trim().parse().ok().filter(|&pid| pid != 0)
}

/// By `/proc/self/maps`: it is there in any program that it runs.
fn is_under_valgrind(maps: &str) -> bool {
    maps.lines().filter_map(|line| line.split_whitespace().nth(5)).any(|path| path.contains("/vgpreload_"))
}

#[cfg(test)]
mod tests {
    use super::{Facts, Load, is_under_valgrind, online, tracer};
    use rstest::rstest;

    /// Where nothing is to be said.
    fn fit() -> Facts {
        let load = Load { busy: [(0, 0.01), (1, 0.02)].into(), ..Load::default() };
        Facts { online: 4, usable: vec![0, 1, 2, 3], allowed: Some("0-3".into()), load, ..Facts::default() }
    }

    #[test]
    fn where_all_is_well_nothing_is_said() {
        let governors = vec![(0, "performance".into()), (1, "performance".into())];
        let facts = Facts { governors, quota: Some(2.0), ..fit() };
        assert_eq!((facts.refusals(), facts.warnings()), (vec![], vec![]));
    }

    #[rstest]
    #[case::one_processor(Facts { online: 1, usable: vec![0], ..fit() }, "measure on a machine with two or more")]
    #[case::affinity(Facts { usable: vec![2], ..fit() }, "only processor 2 of 4 may be used")]
    #[case::by_taskset(Facts { usable: vec![2], ..fit() }, "start it without taskset")]
    #[case::by_its_group(Facts { usable: vec![2], allowed: Some("2".into()), ..fit() }, "raise cpuset.cpus")]
    #[case::by_whatever(Facts { usable: vec![2], allowed: None, ..fit() }, "without taskset, and in a control group")]
    #[case::not_to_be_pinned(Facts { unpinnable: Some("EPERM".into()), ..fit() }, "(EPERM): measure outside of the sandbox")]
    #[case::quota(Facts { quota: Some(1.5), ..fit() }, "the time of 1.50 processors")]
    #[case::traced(Facts { tracer: Some("gdb".into()), ..fit() }, "gdb traces this program")]
    #[case::emulated(Facts { is_emulated: true, ..fit() }, "under valgrind")]
    fn where_figures_would_mean_nothing_that_is_said_with_what_to_do(
        #[case] facts: Facts,
        #[case] says: &str,
    ) {
        let refusals = facts.refusals();
        assert!(matches!(&refusals[..], [one] if one.contains(says)), "{refusals:?}");
        assert_eq!(facts.warnings(), Vec::<String>::new());
    }

    #[rstest]
    #[case::debug(Facts { is_debug_build: true, ..fit() }, "build it with --release")]
    #[case::governor(Facts { governors: vec![(1, "powersave".into())], ..fit() }, "processor 1 changes its frequency (governor `powersave`)")]
    #[case::stolen(Facts { load: Load { stolen: 0.2, ..fit().load }, ..fit() }, "gave 20 % of the processors' time")]
    fn what_makes_figures_doubtful_is_said_with_what_to_do(#[case] facts: Facts, #[case] says: &str) {
        let warnings = facts.warnings();
        assert!(matches!(&warnings[..], [one] if one.contains(says)), "{warnings:?}");
        assert_eq!(facts.refusals(), Vec::<String>::new());
    }

    #[test]
    fn others_count_on_the_processors_that_are_measured_on() {
        let of = |busy: [(usize, f64); 2]| {
            let load = Load {
                busy: busy.into(),
                runnable: 1.5,
                pressure: Some(0.25),
                average: Some(3.5),
                ..Load::default()
            };
            Facts { load, ..fit() }.warnings()
        };
        assert_eq!(of([(0, 0.09), (3, 0.9)]), Vec::<String>::new());
        let expected = "other programs take 35 % of processor 1 while nothing is measured (1.5 of them runnable at a \
                        time, somebody waiting for a processor in 25 % of the time, load average 3.5): stop \
                        them, and measure again";
        assert_eq!(of([(0, 0.1), (1, 0.35)]), [expected]);
    }

    #[test]
    fn facts_are_read_from_what_the_kernel_writes() {
        assert_eq!(online("cpu  1 2\ncpu0 1\ncpu1 2\nintr 3\ncpufreq 4\n"), 2);
        assert_eq!(tracer("Name:\tx\nTracerPid:\t17\n"), Some(17));
        assert_eq!(tracer("TracerPid:\t0\n"), None);
        let maps =
            |path| format!("7f00-7f01 r-xp 00000000 08:01 17   {path}\n7f02-7f03 rw-p 00000000 00:00 0\n");
        assert!(is_under_valgrind(&maps("/usr/libexec/valgrind/vgpreload_core-amd64-linux.so")));
        assert!(!is_under_valgrind(&maps("/usr/lib/libc.so.6")));
        let here = Facts::gather().unwrap();
        assert!(here.online >= here.usable.len() && !here.usable.is_empty(), "{here:?}");
        assert!(!here.is_emulated && here.is_debug_build == cfg!(debug_assertions), "{here:?}");
    }
}
