//! Who is who, by the numbers that the kernel shows, for backends: `user_namespaces(7)`.
//!
//! Each user namespace has numbers of its own, and whoever has none there is shown as user 65534: a
//! process without a number of its own can't tell what is its own from others'. So there that number
//! is nobody's. Where it is given to somebody, as in most containers, it is that user's; who is shown so
//! beside it, having none, can't be told from it.

use std::fs;

/// How the kernel shows who has no number, unless `kernel.overflowuid` was changed.
const NUMBERLESS: u32 = 65_534;

/// Whether the user that one number is shown for is the one of the other.
#[inline]
pub fn is_same(found: u32, who: u32) -> bool {
    found == who && is_somebody(who)
}

/// Whether this is one user's number. It asks the kernel only where it may be anybody's.
#[inline]
pub fn is_somebody(uid: u32) -> bool {
    uid != NUMBERLESS || is_given()
}

/// What there is to say, behind a refusal, of two that are shown alike.
pub fn likeness(found: u32, who: u32) -> &'static str {
    if found == who {
        "; so is anybody shown who has no number in this user namespace, and it isn't given to a user: \
         give us one, see user_namespaces(7), and mount /proc"
    } else {
        ""
    }
}

/// Whether a user has that number here. Where it isn't known, none has.
#[cold]
fn is_given() -> bool {
    fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| gives(&map, NUMBERLESS))
}

/// Lines of a first number here, the first one outside, and how many follow one another.
fn gives(map: &str, uid: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(|number| number.parse::<u64>());
        let (Some(Ok(first)), Some(Ok(_)), Some(Ok(count))) =
            (numbers.next(), numbers.next(), numbers.next())
        else {
            return false;
        };
        u64::from(uid).checked_sub(first).is_some_and(|above| above < count)
    })
}

#[cfg(test)]
mod tests {
    use super::{NUMBERLESS, gives, is_same};
    use rstest::rstest;

    #[rstest]
    #[case::all("         0          0 4294967295\n", true)]
    #[case::those_of_a_container("0 100000 65536\n", true)]
    #[case::by_itself("0 1000 1\n65534 65534 1\n", true)]
    #[case::all_below("0 0 65534\n", false)]
    #[case::all_above("65535 65535 4294901760\n", false)]
    #[case::root("0 1000 1\n", false)]
    #[case::none("", false)]
    #[case::nonsense("0 1\n0 x 65536\n", false)]
    fn a_number_is_a_users_where_it_is_given(#[case] map: &str, #[case] is_given: bool) {
        assert_eq!(gives(map, NUMBERLESS), is_given);
    }

    #[test]
    fn who_has_a_number_is_told_by_it() {
        assert!(is_same(0, 0) && is_same(1000, 1000) && !is_same(0, 1000) && !is_same(65_534, 1000));
    }
}
