//! Whether a panic has begun: a message in hand then is not to be taken for done with.

use std::thread;

/// Since when this thread may have begun to panic. For those who implement
/// [`Message`](crate::Message): made when a message is lent, and asked when it is dropped.
///
/// As the guards of [`std::sync::Mutex`] do, it tells a panic that began meanwhile from one
/// that was there before: what is lent while a panic unwinds, by a `Drop` that receives what
/// is left, is released, or that `Drop` would get the same message for ever.
///
/// Either step costs one relaxed load as long as no thread panics.
///
/// ```
/// use ipc_core::Unwinding;
///
/// struct Lent<'a> {
///     is_held: &'a mut bool,
///     unwinding: Unwinding,
/// }
///
/// impl Drop for Lent<'_> {
///     fn drop(&mut self) {
///         *self.is_held = self.unwinding.has_begun();
///     }
/// }
///
/// let mut is_held = true;
/// drop(Lent { is_held: &mut is_held, unwinding: Unwinding::watch() });
/// assert!(!is_held);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Unwinding {
    was_there: bool,
}

impl Unwinding {
    /// Watches from now on.
    #[inline]
    #[must_use]
    pub fn watch() -> Self {
        Self { was_there: thread::panicking() }
    }

    /// Whether this thread panics, and didn't when it began to be watched.
    #[inline]
    #[must_use]
    pub fn has_begun(self) -> bool {
        thread::panicking() && !self.was_there
    }
}
