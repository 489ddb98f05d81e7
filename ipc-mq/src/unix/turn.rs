//! Whose messages a receiver takes, and when it looks at the other senders.
//!
//! To ask the kernel which of many sockets has something is a system call more for each message.
//! So one sender is read on as long as it has messages, for a turn of 64; then the others are
//! looked at, and whoever of them has something gets its turn. A sender with messages thus waits
//! for at most 64 of each other one, and one that has nothing costs the others a look in 64.

/// After so many messages of one sender the others are looked at.
pub(crate) const TURN: u32 = 64;

/// Of messages that come one at a time, after each so-manieth it is tried whether another one
/// stands right behind.
const PROBE: u32 = 4;

/// The turn of one sender.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(crate) sender: usize,
    /// How many messages more it may have.
    left: u32,
    /// How many came without another sender's in between.
    in_a_row: u32,
    /// The kernel has just said that it has something.
    is_ready: bool,
    /// Its messages come one right behind the other, so far or the last time.
    streams: bool,
    /// Since its last message it was tried in vain.
    found_empty: bool,
    /// How many came since it was last waited for or found to have nothing.
    burst: u32,
}

impl Turn {
    /// That of a sender which has something.
    pub(crate) fn new(sender: usize) -> Self {
        Self { sender, left: TURN, in_a_row: 0, is_ready: true, streams: false, found_empty: false, burst: 0 }
    }

    /// Nobody else had anything: another turn.
    pub(crate) fn go_on(&mut self) {
        (self.left, self.is_ready) = (TURN, true);
    }

    /// It had a message.
    pub(crate) fn took_one(&mut self) {
        self.left = self.left.saturating_sub(1);
        self.in_a_row = self.in_a_row.wrapping_add(1);
        self.burst = self.burst.saturating_add(1);
        self.streams |= !self.is_ready;
        (self.is_ready, self.found_empty) = (false, false);
    }

    /// It has nothing now, so a look at the others follows.
    pub(crate) fn found_nothing(&mut self) {
        self.streams = self.burst > 1;
        (self.left, self.is_ready, self.found_empty, self.burst) = (TURN, false, true, 0);
    }

    /// Whether the others are to be looked at before it has more.
    pub(crate) fn is_over(&self) -> bool {
        self.left == 0
    }

    /// Whether it probably has more, and it is worth a try before it is asked who has something.
    pub(crate) fn probably_goes_on(&self) -> bool {
        self.is_ready || self.streams || self.in_a_row % PROBE == 0 && !self.found_empty
    }

    /// Whether it has been alone for long.
    pub(crate) fn is_alone(&self) -> bool {
        self.in_a_row >= TURN
    }
}

#[cfg(test)]
mod tests {
    use super::{TURN, Turn};

    #[test]
    fn a_turn_is_over_after_so_many_messages_and_goes_on_if_nobody_else_has_any() {
        let mut turn = Turn::new(7);
        for _ in 0..TURN {
            assert!(!turn.is_over());
            turn.took_one();
        }
        assert!(turn.is_over() && turn.is_alone());
        turn.go_on();
        assert!(!turn.is_over() && turn.sender == 7);
    }

    #[test]
    fn who_streams_is_read_on_and_who_does_not_is_waited_for() {
        let mut turn = Turn::new(0);
        assert!(turn.probably_goes_on(), "it was said to have something");
        turn.took_one();
        assert!(!turn.probably_goes_on());
        turn.took_one();
        assert!(turn.probably_goes_on(), "it had one that nobody had said");
        turn.found_nothing();
        assert!(turn.probably_goes_on(), "the next ones may come together as well");
        turn.took_one();
        turn.found_nothing();
        assert!(!turn.probably_goes_on(), "this one came alone");
    }

    #[test]
    fn that_somebody_begins_to_stream_is_found_out() {
        let mut turn = Turn::new(0);
        let mut asked = 0;
        for _ in 0..TURN {
            if !turn.probably_goes_on() {
                asked += 1;
                turn.go_on();
            }
            turn.took_one();
        }
        assert!(asked < 10, "{asked}");
    }
}
