//! Who is who, by the numbers that the kernel shows: `user_namespaces(7)`.
//!
//! Each user namespace has numbers of its own, and whoever has none there is shown as user 65534: a
//! process without a number of its own can't tell what is its own from others'. So there that number
//! is nobody's. Where each user of the system has one it is a user's like any other.

use std::fs;

/// How the kernel shows who has no number, unless `kernel.overflowuid` was changed.
const NUMBERLESS: u32 = 65_534;

/// Whether the user that one number is shown for is the one of the other.
#[inline]
pub(crate) fn is_same(found: u32, who: u32) -> bool {
    found == who && is_somebody(who)
}

/// Whether this is one user's number. It asks the kernel only where it may be anybody's.
#[inline]
pub(crate) fn is_somebody(uid: u32) -> bool {
    uid != NUMBERLESS || has_each_a_number()
}

/// What there is to say, behind a refusal, of two that are shown alike.
pub(crate) fn likeness(found: u32, who: u32) -> &'static str {
    if found == who {
        "; so is anybody shown who has no number in this user namespace: \
         give those users some, see user_namespaces(7), and mount /proc"
    } else {
        ""
    }
}

/// Where it isn't known, they have not.
#[cold]
fn has_each_a_number() -> bool {
    fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| is_complete(&map))
}

/// Lines of a first number here, the first one outside, and how many follow one another. Whoever has
/// one outside only has none here, and so on: all are in it only if it is all there can be.
fn is_complete(map: &str) -> bool {
    let count_of = |line: &str| line.split_whitespace().nth(2)?.parse::<u64>().ok();
    map.lines().filter_map(count_of).sum::<u64>() >= u64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::{is_complete, is_same};

    #[test]
    fn each_user_has_a_number_only_where_all_numbers_are_given() {
        assert!(is_complete("         0          0 4294967295\n"));
        assert!(is_complete("0 0 65534\n65534 65534 4294901761\n"));
        assert!(!is_complete("0 100000 65536\n"));
        assert!(!is_complete("0 1000 1\n65534 65534 1\n"));
        assert!(!is_complete("") && !is_complete("nonsense 1\n"));
    }

    #[test]
    fn who_has_a_number_is_told_by_it() {
        assert!(is_same(0, 0) && is_same(1000, 1000) && !is_same(0, 1000) && !is_same(65_534, 1000));
    }
}
