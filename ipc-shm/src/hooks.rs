//! Points where a test can end this process, or make a system call fail.
//!
//! There is one before and one after each access to a word of shared memory and each system
//! call. Only the feature `crash-points` compiles them in; it is for the tests of this crate,
//! which decide what happens at a point ([`observe`]). A point is known by the place in the
//! sources that made the access or the call, so that the sources say how many there are.
//!
//! There are none around calls that neither change anything nor can fail (who am I, what
//! time is it, sleep), and none around `close(2)`: to be killed is to have closed.

#[cfg(feature = "crash-points")]
pub use compiled_in::{Moment, Observer, Point, blindfold_tries, observe};
#[cfg(feature = "crash-points")]
pub(crate) use compiled_in::{access, after, are_tries_blindfolded, before};
#[cfg(not(feature = "crash-points"))]
pub(crate) use left_out::{access, after, are_tries_blindfolded, before};

#[cfg(feature = "crash-points")]
mod compiled_in {
    use std::{
        panic::Location,
        sync::{
            OnceLock,
            atomic::{AtomicBool, Ordering},
        },
    };

    /// On which side of an access or a call.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub enum Moment {
        /// Nothing is done yet.
        Before,
        /// It is done.
        After,
    }

    /// A point that this process has come to.
    #[derive(Clone, Copy, Debug)]
    pub struct Point {
        /// Where in the sources.
        pub site: &'static Location<'static>,
        /// The access or the system call.
        pub what: &'static str,
        /// Before or after it.
        pub moment: Moment,
    }

    /// What happens at a point. Before a system call, an error number makes that call fail
    /// instead of being made.
    pub type Observer = fn(&Point) -> Option<i32>;

    static OBSERVER: OnceLock<Observer> = OnceLock::new();

    /// Has this process, and what it forks, tell `observer` of every point from now on.
    ///
    /// # Panics
    ///
    /// If there is one already.
    pub fn observe(observer: Observer) {
        assert!(OBSERVER.set(observer).is_ok(), "points are observed already");
    }

    static BLINDFOLDED: AtomicBool = AtomicBool::new(false);

    /// Has nobody of this process, and of what it forks, look for the dead who only tries: it goes by
    /// the clock, and whoever counts points needs them to be the same each time.
    pub fn blindfold_tries() {
        BLINDFOLDED.store(true, Ordering::Relaxed);
    }

    pub(crate) fn are_tries_blindfolded() -> bool {
        BLINDFOLDED.load(Ordering::Relaxed)
    }

    #[inline]
    #[track_caller]
    fn pass(what: &'static str, moment: Moment) -> Option<i32> {
        let observer = OBSERVER.get()?;
        observer(&Point { site: Location::caller(), what, moment })
    }

    /// Before a system call; the error number that it is to fail with.
    #[inline]
    #[track_caller]
    pub(crate) fn before(call: &'static str) -> Option<i32> {
        pass(call, Moment::Before)
    }

    /// After a system call.
    #[inline]
    #[track_caller]
    pub(crate) fn after(call: &'static str) {
        pass(call, Moment::After);
    }

    /// An access to a word of shared memory.
    #[inline]
    #[track_caller]
    pub(crate) fn access<T>(what: &'static str, make: impl FnOnce() -> T) -> T {
        pass(what, Moment::Before);
        let answer = make();
        pass(what, Moment::After);
        answer
    }
}

#[cfg(not(feature = "crash-points"))]
mod left_out {
    #[inline(always)]
    pub(crate) fn before(_call: &'static str) -> Option<i32> {
        None
    }

    #[inline(always)]
    pub(crate) fn after(_call: &'static str) {}

    #[inline(always)]
    pub(crate) fn are_tries_blindfolded() -> bool {
        false
    }

    #[inline(always)]
    pub(crate) fn access<T>(_what: &'static str, make: impl FnOnce() -> T) -> T {
        make()
    }
}
