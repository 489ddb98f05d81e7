//! Looking at messages leaves them where they are.

use super::{
    Case, Fixture, ReceiverOf, cases,
    payload::Stamp,
    stage::{LEN, Stage, assert_empty},
};
use crate::{Peek, PeekError};

pub(super) fn cases<F: Fixture>() -> Vec<Case<F>>
where
    ReceiverOf<F>: Peek,
{
    cases![a_look_takes_nothing]
}

fn a_look_takes_nothing<F: Fixture>(stage: &Stage<F>)
where
    ReceiverOf<F>: Peek,
{
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    let mut buffer = b"what was there".to_vec();
    match rx.peek(0, &mut buffer) {
        Ok(found) => assert!(!found, "there is nothing to look at"),
        Err(PeekError::Unsupported(why)) => {
            println!("not tested: {why}");
            return;
        }
        Err(error) => panic!("{error}"),
    }
    for sequence in 0..3 {
        stage.send(&mut tx, &Stamp::new(0, sequence).message_up_to(LEN));
    }
    for _ in 0..2 {
        for index in [2, 0, 1] {
            assert!(rx.peek(index, &mut buffer).expect("a look"), "message {index}");
            assert_eq!(buffer, Stamp::new(0, index as u64).message_up_to(LEN));
        }
        assert!(!rx.peek(3, &mut buffer).expect("a look"), "there is no fourth");
    }
    stage.drain(&mut rx, 0..3);
    assert_empty(&mut rx);
}
