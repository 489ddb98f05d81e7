//! Descriptors that go with messages, and who sent them.

use super::{
    Case, Fixture, ReceiverOf, SenderOf, cases,
    stage::{Stage, assert_empty},
};
use crate::{DescriptorReceiver, DescriptorSender, Message, PeerCredentials, Receiver};
use std::{
    io::{self, Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    process,
    time::Duration,
};

/// Only what never happens takes so long.
const A_LONG_TIME: Duration = Duration::from_secs(60);

pub(super) fn cases<F: Fixture>() -> Vec<Case<F>>
where
    SenderOf<F>: DescriptorSender,
    ReceiverOf<F>: DescriptorReceiver,
{
    cases![
        a_descriptor_goes_with_its_message_and_works,
        descriptors_that_nobody_takes_are_closed,
        one_descriptor_too_many_is_given_back,
    ]
}

pub(super) fn credentials_cases<F: Fixture>() -> Vec<Case<F>>
where
    ReceiverOf<F>: PeerCredentials,
{
    cases![a_message_tells_who_sent_it]
}

fn a_descriptor_goes_with_its_message_and_works<F: Fixture>(stage: &Stage<F>)
where
    SenderOf<F>: DescriptorSender,
    ReceiverOf<F>: DescriptorReceiver,
{
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    let (mut near, far) = UnixStream::pair().expect("two sockets");
    stage.send(&mut tx, b"without");
    tx.attach(far.into()).expect("room for one");
    stage.send(&mut tx, b"with");
    stage.send(&mut tx, b"without again");
    for (text, count) in [(&b"without"[..], 0), (b"with", 1), (b"without again", 0)] {
        let mut message = rx.receive(stage.patiently()).expect("receive");
        assert_eq!(&*message, text);
        let taken = ReceiverOf::<F>::take_descriptors(&mut message);
        assert_eq!(taken.len(), count);
        assert!(ReceiverOf::<F>::take_descriptors(&mut message).is_empty(), "taken twice");
        for descriptor in taken {
            UnixStream::from(descriptor).write_all(b"through it").expect("it works");
        }
    }
    let mut heard = String::new();
    near.read_to_string(&mut heard).expect("every copy is closed");
    assert_eq!(heard, "through it");
    assert_empty(&mut rx);
}

fn descriptors_that_nobody_takes_are_closed<F: Fixture>(stage: &Stage<F>)
where
    SenderOf<F>: DescriptorSender,
    ReceiverOf<F>: DescriptorReceiver,
{
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    let (mut near, far) = UnixStream::pair().expect("two sockets");
    tx.attach(far.into()).expect("room for one");
    stage.send(&mut tx, b"with");
    rx.receive(stage.patiently()).expect("receive").keep();
    near.set_nonblocking(true).expect("a mode");
    let open = near.read(&mut [0]).expect_err("a kept message keeps its descriptor");
    assert_eq!(open.kind(), io::ErrorKind::WouldBlock);
    drop(rx.receive(stage.patiently()).expect("again"));
    // On a thread apart, perhaps: who closes it may be held up.
    near.set_nonblocking(false).expect("a mode");
    near.set_read_timeout(Some(A_LONG_TIME)).expect("a time");
    assert_eq!(near.read(&mut [0]).expect("the other end is closed"), 0);
}

fn one_descriptor_too_many_is_given_back<F: Fixture>(stage: &Stage<F>)
where
    SenderOf<F>: DescriptorSender,
    ReceiverOf<F>: DescriptorReceiver,
{
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    let (near, _far) = UnixStream::pair().expect("two sockets");
    let copy = || OwnedFd::from(near.try_clone().expect("a descriptor"));
    let most = SenderOf::<F>::MAX_DESCRIPTORS;
    for _ in 0..most {
        tx.attach(copy()).expect("room");
    }
    assert_eq!(tx.attach(copy()).expect_err("one too many").max, most);
    stage.send(&mut tx, b"loaded");
    let mut message = rx.receive(stage.patiently()).expect("receive");
    assert_eq!(ReceiverOf::<F>::take_descriptors(&mut message).len(), most);
}

fn a_message_tells_who_sent_it<F: Fixture>(stage: &Stage<F>)
where
    ReceiverOf<F>: PeerCredentials,
{
    let channel = stage.channel();
    let (mut tx, mut rx) = channel.ends();
    stage.send(&mut tx, b"who am I");
    let message = rx.receive(stage.patiently()).expect("receive");
    assert_eq!(ReceiverOf::<F>::credentials_of(&message).pid, process::id());
}
