//! Which processes stay on which processors.

use super::read;
use crate::{
    spec::{Member, Side},
    trouble::Fallible,
};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity},
    unistd::Pid,
};
use std::{fmt, thread};

/// The processors that the near and the far processes stay on, taken in turns where there
/// are fewer of them than processes; a near and a far process never share one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placement([Vec<usize>; 2]);

impl Placement {
    /// Of `processors`, the best first, those for so many near and far processes; `None` if
    /// there is only one.
    pub(super) fn new(processors: &[usize], [near, far]: [usize; 2]) -> Option<Self> {
        let used = &processors[..processors.len().min(near + far.max(1))];
        let most = used.len().checked_sub(1).filter(|&most| most > 0)?;
        let for_the_near = (used.len() * near / (near + far.max(1))).clamp(1, most);
        let (near, far) = used.split_at(for_the_near);
        Some(Self([near.into(), far.into()]))
    }

    /// All of them.
    pub(super) fn processors(&self) -> Vec<usize> {
        self.0.concat()
    }

    /// The processor of a process.
    pub(crate) fn of(&self, member: Member) -> usize {
        let its = &self.0[member.side as usize];
        its[member.index % its.len()]
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [near, far] = [Side::Near, Side::Far]
            .map(|side| self.0[side as usize].iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
        write!(f, "near to processor {near}, far to processor {far}")
    }
}

/// Keeps this process on one processor.
pub(crate) fn pin_to(processor: usize) -> Fallible<()> {
    let mut set = CpuSet::new();
    set.set(processor)?;
    sched_setaffinity(Pid::from_raw(0), &set)
        .map_err(|error| format!("could not pin to processor {processor}: {error}").into())
}

/// Those that the process's affinity, and its control group, leave it.
pub(super) fn usable_processors() -> Fallible<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0))?;
    Ok((0..CpuSet::count()).filter(|&processor| set.is_set(processor).unwrap_or(false)).collect())
}

/// Why processes can't be kept on these processors; `None` if they can. It is tried by a thread, so
/// that this process stays where it is.
pub(super) fn cant_pin(processors: &[usize], pin: impl Fn(usize) -> Fallible<()> + Sync) -> Option<String> {
    let tried = |processor: usize| -> Fallible<()> {
        pin(processor)?;
        match sched_getcpu()? {
            here if here == processor => Ok(()),
            here => Err(format!("a thread that is to stay on processor {processor} runs on {here}").into()),
        }
    };
    let all =
        || processors.iter().try_for_each(|&processor| tried(processor)).err().map(|why| why.to_string());
    thread::scope(|scope| scope.spawn(all).join()).unwrap_or(Some("the attempt failed".into()))
}

/// The usable processors, one thread of each core before the other threads of any.
pub(super) fn spread(usable: &[usize], core: impl Fn(usize) -> Option<String>) -> Vec<usize> {
    let (mut firsts, mut others) = (Vec::new(), Vec::new());
    let mut cores = Vec::new();
    for &processor in usable {
        let its_core = core(processor);
        let known = cores.contains(&its_core);
        cores.push(its_core);
        if known { others.push(processor) } else { firsts.push(processor) }
    }
    firsts.extend(others);
    firsts
}

pub(super) fn one_of_each_core_first(usable: &[usize]) -> Vec<usize> {
    spread(usable, |processor| {
        read(&format!("/sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list"))
    })
}

#[cfg(test)]
mod tests {
    use super::{Placement, cant_pin, pin_to, spread, usable_processors};
    use crate::spec::{Member, Side};
    use rstest::rstest;

    #[rstest]
    #[case::separate_cores(&[0, 2], &[0, 2])]
    #[case::threads_of_the_same_core_come_later(&[0, 1, 2, 3], &[0, 2, 1, 3])]
    #[case::better_than_nothing(&[2, 3], &[2, 3])]
    fn cores_come_before_their_other_threads(#[case] usable: &[usize], #[case] expected: &[usize]) {
        let core = |processor: usize| Some((processor / 2).to_string());
        assert_eq!(spread(usable, core), expected);
    }

    #[rstest]
    #[case::one_only(&[3], [1, 1], None)]
    #[case::two(&[0, 2], [1, 1], Some([&[0][..], &[2]]))]
    #[case::more_than_needed(&[0, 2, 1, 3], [1, 1], Some([&[0][..], &[2]]))]
    #[case::one_each(&[0, 1, 2, 3], [1, 3], Some([&[0][..], &[1, 2, 3]]))]
    #[case::shared_by_each_side(&[0, 1], [8, 3], Some([&[0][..], &[1]]))]
    #[case::shared_in_proportion(&[0, 1, 2, 3], [2, 6], Some([&[0][..], &[1, 2, 3]]))]
    #[case::one_side_alone(&[0, 1], [1, 0], Some([&[0][..], &[1]]))]
    fn near_and_far_processes_share_no_processor(
        #[case] processors: &[usize],
        #[case] sides: [usize; 2],
        #[case] expected: Option<[&[usize]; 2]>,
    ) {
        let expected = expected.map(|sides| Placement(sides.map(Into::into)));
        assert_eq!(Placement::new(processors, sides), expected);
    }

    #[test]
    fn processes_take_turns_on_too_few_processors() {
        let placement = Placement::new(&[4, 5, 6], [2, 4]).unwrap();
        let far = (0..4).map(|index| placement.of(Member { side: Side::Far, index }));
        assert_eq!(far.collect::<Vec<_>>(), [5, 6, 5, 6]);
        assert_eq!(placement.to_string(), "near to processor 4, far to processor 5 6");
    }

    #[test]
    fn whether_processes_can_be_pinned_is_tried_elsewhere() {
        let before = usable_processors().unwrap();
        assert_eq!(cant_pin(&before, pin_to), None);
        let refused = |processor| Err(format!("not to {processor}: EPERM").into());
        assert_eq!(cant_pin(&before[..1], refused), Some(format!("not to {}: EPERM", before[0])));
        // Where a call does nothing, as in some sandboxes.
        let nowhere = cant_pin(&[usize::MAX], |_| Ok(())).unwrap();
        assert!(nowhere.contains(&format!("is to stay on processor {} runs on", usize::MAX)), "{nowhere}");
        assert_eq!(usable_processors().unwrap(), before);
    }
}
