//! What the control groups of this process leave it of the processors: see cgroups(7), the kernel's
//! `admin-guide/cgroup-v2.rst` on `cpu.max`, and `scheduler/sched-bwc.rst` on `cpu.cfs_quota_us`.

/// Where the second version is mounted, alone or beside the first one.
const UNIFIED: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// How many processors' time it may take, by the strictest group that it is in; `None` if that isn't
/// limited. `membership` is `/proc/self/cgroup`.
pub(super) fn quota(membership: &str, read: impl Fn(&str) -> Option<String>) -> Option<f64> {
    let of_first = |folder: &str| {
        let quota_us: f64 = read(&format!("{folder}/cpu.cfs_quota_us"))?.parse().ok()?;
        let period_us: f64 = read(&format!("{folder}/cpu.cfs_period_us"))?.parse().ok()?;
        // -1 is no limit.
        (quota_us > 0.0 && period_us > 0.0).then(|| quota_us / period_us)
    };
    let of_second = |folder: &str| {
        let limit = read(&format!("{folder}/cpu.max"))?;
        let (quota_us, period_us) = limit.split_once(' ')?;
        // `max` is no number, and no limit.
        Some(quota_us.parse::<f64>().ok()? / period_us.parse::<f64>().ok()?)
    };
    let first = folders(membership, "cpu").into_iter().filter_map(|folder| of_first(&folder));
    let second = folders(membership, "").into_iter().filter_map(|folder| of_second(&folder));
    first.chain(second).reduce(f64::min)
}

/// The processors that its group may use, as the kernel lists them; `None` where there is no such
/// group.
pub(super) fn allowed(membership: &str, read: impl Fn(&str) -> Option<String>) -> Option<String> {
    let first = folders(membership, "cpuset").into_iter();
    let second = folders(membership, "").into_iter();
    let list = first
        .map(|folder| format!("{folder}/cpuset.effective_cpus"))
        .chain(second.map(|folder| format!("{folder}/cpuset.cpus.effective")))
        .find_map(|path| read(&path));
    list.filter(|list| !list.is_empty())
}

/// The folders of its group under a controller of the first version, or under the second one (an
/// empty name), the innermost first. A container may see its group as the root, so that is tried, too.
fn folders(membership: &str, controller: &str) -> Vec<String> {
    let mut folders = Vec::new();
    for line in membership.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        if !controllers.split(',').any(|one| one == controller) {
            continue;
        }
        let mounts: Vec<String> = match controller {
            "" => UNIFIED.map(str::to_owned).into(),
            _ => [controllers, controller].map(|name| format!("/sys/fs/cgroup/{name}")).into(),
        };
        for mount in mounts {
            let mut path = path.trim_end_matches('/');
            loop {
                folders.push(format!("{mount}{path}"));
                match path.rfind('/') {
                    Some(end) => path = &path[..end],
                    None => break,
                }
            }
        }
    }
    folders
}

#[cfg(test)]
mod tests {
    use super::{allowed, quota};
    use rstest::rstest;

    const SECOND: &str = "0::/user.slice/job\n";
    const FIRST: &str = "4:cpu,cpuacct:/docker/17\n3:cpuset:/docker/17\n0::/\n";

    fn files<'a>(all: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        |path| all.iter().find(|(name, _)| *name == path).map(|(_, text)| (*text).to_owned())
    }

    #[rstest]
    #[case::unlimited(SECOND, &[("/sys/fs/cgroup/user.slice/job/cpu.max", "max 100000")], None)]
    #[case::its_own(SECOND, &[("/sys/fs/cgroup/user.slice/job/cpu.max", "150000 100000")], Some(1.5))]
    #[case::of_a_group_above(
        SECOND,
        &[("/sys/fs/cgroup/user.slice/job/cpu.max", "150000 100000"), ("/sys/fs/cgroup/user.slice/cpu.max", "50000 100000")],
        Some(0.5)
    )]
    #[case::beside_the_first(SECOND, &[("/sys/fs/cgroup/unified/user.slice/job/cpu.max", "100000 100000")], Some(1.0))]
    #[case::of_the_first(
        FIRST,
        &[("/sys/fs/cgroup/cpu,cpuacct/docker/17/cpu.cfs_quota_us", "120000"),
          ("/sys/fs/cgroup/cpu,cpuacct/docker/17/cpu.cfs_period_us", "100000")],
        Some(1.2)
    )]
    #[case::seen_as_the_root(
        FIRST,
        &[("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "300000"), ("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000")],
        Some(3.0)
    )]
    #[case::unlimited_by_the_first(
        FIRST,
        &[("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1"), ("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000")],
        None
    )]
    #[case::broken("what", &[("/sys/fs/cgroup/cpu.max", "1 1")], None)]
    fn the_strictest_quota_counts(
        #[case] membership: &str,
        #[case] all: &[(&str, &str)],
        #[case] expected: Option<f64>,
    ) {
        assert_eq!(quota(membership, files(all)), expected);
    }

    #[test]
    fn what_a_group_may_use_is_what_the_kernel_lists() {
        let second = [("/sys/fs/cgroup/user.slice/job/cpuset.cpus.effective", "0-1")];
        assert_eq!(allowed(SECOND, files(&second)).as_deref(), Some("0-1"));
        let first = [("/sys/fs/cgroup/cpuset/docker/17/cpuset.effective_cpus", "3")];
        assert_eq!(allowed(FIRST, files(&first)).as_deref(), Some("3"));
        assert_eq!(allowed(FIRST, files(&[])), None);
    }
}
