//! A thread that changes words of a channel all the time, while messages pass.

use crate::{
    common::{Dice, PATIENCE, say},
    scenes::{Stage, State},
    users::{Opened, called, opened, received, sent, touch},
};
use ipc_shm::{
    Batch, BatchReceiver, Channel, ChannelError, Client, RecvError, Request, RpcClient, RpcServer, Sender,
    Server, ShmConfig, ShmReceiver, ShmSender, Wait,
};
use std::{
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

/// What happened.
#[derive(Debug, Default)]
struct Figures {
    changed: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    corrupt: AtomicU64,
}

impl Figures {
    fn all(&self) -> [u64; 4] {
        [&self.changed, &self.sent, &self.received, &self.corrupt]
            .map(|figure| figure.load(Ordering::Relaxed))
    }
}

fn count(figure: &AtomicU64, by: u64) {
    figure.fetch_add(by, Ordering::Relaxed);
}

/// Traffic until it has come to this many changes, and messages in proportion, with a thread
/// that knows nothing of Rust's rules: it writes to the file. Says the figures.
pub(crate) fn keep_changing(directory: &Path, config: &ShmConfig, changes: u64) {
    let mut stage = Stage::new(directory, config);
    let image = stage.image(State::GoneRound);
    let fresh = stage.image(State::Fresh);
    stage.restore(&image);
    let over = AtomicBool::new(false);
    let figures = Figures::default();
    thread::scope(|scope| {
        let threads = [
            scope.spawn(|| change(&stage, [&image, &fresh], &figures, &over)),
            scope.spawn(|| keep_sending(&stage, &figures, &over)),
            scope.spawn(|| keep_receiving(&stage, &figures, &over)),
            scope.spawn(|| keep_looking(&stage, &over)),
        ];
        let enough = [changes, changes / 100, changes / 100, 1];
        let mut last = Instant::now();
        let is_enough = || figures.all().iter().zip(enough).all(|(figure, enough)| *figure >= enough);
        while !is_enough() && threads.iter().all(|thread| !thread.is_finished()) {
            thread::sleep(Duration::from_millis(5));
            if last.elapsed() > PATIENCE / 10 {
                last = Instant::now();
                say(&format!("at {:?}", figures.all()));
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    say(&format!("done {}", figures.all().map(|figure| figure.to_string()).join(" ")));
}

/// Everything but the first page, which is read once by whoever opens the channel: what a
/// wrong byte does there, it does without a thread.
const FIRST: u64 = 4096;

fn change(stage: &Stage, images: [&[u8]; 2], figures: &Figures, over: &AtomicBool) {
    let mut dice = Dice::new(5);
    let words = (images[0].len() as u64 - FIRST) / 8;
    // What was ever written is what is looked at.
    let used: Vec<u64> = (0..words)
        .map(|word| FIRST + 8 * word)
        .filter(|&at| images.iter().any(|image| word_at(image, at) != 0))
        .collect();
    while !over.load(Ordering::Relaxed) {
        for _ in 0..1 + dice.below(6) {
            let place = match dice.below(3) {
                0 => FIRST + 8 * dice.below(words),
                _ => used[dice.below(used.len() as u64) as usize],
            };
            let old = word_at(images[0], place);
            let value = match dice.below(6) {
                0 => dice.roll(),
                1 => dice.below(4096) << 8 | 1,
                2 => dice.below(1 << 20) * 8,
                3 => old ^ 1 << dice.below(64),
                4 => old.wrapping_add(dice.below(256) << dice.below(57)),
                _ => 0,
            };
            stage.spoil(place, &value.to_ne_bytes());
            count(&figures.changed, 1);
        }
        if dice.below(3) == 0 {
            // As it was, one time or another: or nobody could attach any more.
            let image = images[dice.below(2) as usize];
            stage.spoil(FIRST, &image[FIRST as usize..]);
        }
        thread::sleep(Duration::from_micros(dice.below(200)));
    }
}

fn word_at(image: &[u8], at: u64) -> u64 {
    image[at as usize..][..8].try_into().map_or(0, u64::from_ne_bytes)
}

/// What sends: for a time, and whether it found anything to be corrupt.
enum Sending {
    Sender(ShmSender),
    Client(RpcClient),
}

/// What receives.
#[expect(clippy::large_enum_variant, reason = "there is one at a time")]
enum Receiving {
    Receiver(ShmReceiver),
    Server(RpcServer),
}

fn attach<T>(
    stage: &Stage,
    figures: &Figures,
    attach: impl FnOnce(&Opened) -> Result<T, ChannelError>,
) -> Option<T> {
    match attach(&opened(stage.open())?) {
        Ok(endpoint) => Some(endpoint),
        Err(ChannelError::Corrupt(_)) => {
            count(&figures.corrupt, 1);
            None
        }
        Err(error) => panic!("{error:?}"),
    }
}

fn briefly(dice: &mut Dice) -> Wait<'static> {
    Wait::timeout(Duration::from_micros(dice.below(300)))
}

fn keep_sending(stage: &Stage, figures: &Figures, over: &AtomicBool) {
    let mut dice = Dice::new(6);
    while !over.load(Ordering::Relaxed) {
        let sending = attach(stage, figures, |channel| match channel {
            Opened::Queue(queue) => queue.sender().map(Sending::Sender),
            Opened::Service(service) => service.client().map(Sending::Client),
        });
        let Some(mut sending) = sending else { continue };
        for _ in 0..100 {
            let wait = briefly(&mut dice);
            let (found, done) = match &mut sending {
                Sending::Sender(tx) => {
                    let longest = tx.max_message_len().min(300) as u64;
                    sent(tx.send_wait(&vec![4; dice.below(longest) as usize], wait))
                }
                Sending::Client(client) => {
                    called(client.call(b"a request", wait).map(|answer| touch(&answer)))
                }
            };
            count(&figures.sent, u64::from(done.is_some()));
            if found.is_corrupt {
                count(&figures.corrupt, 1);
                break;
            }
        }
    }
}

fn keep_receiving(stage: &Stage, figures: &Figures, over: &AtomicBool) {
    let mut dice = Dice::new(7);
    while !over.load(Ordering::Relaxed) {
        let receiving = attach(stage, figures, |channel| match channel {
            Opened::Queue(queue) => queue.receiver().map(Receiving::Receiver),
            Opened::Service(service) => service.server().map(Receiving::Server),
        });
        let Some(mut receiving) = receiving else { continue };
        for _ in 0..100 {
            let received = match &mut receiving {
                Receiving::Receiver(rx) => receive(rx, &mut dice),
                Receiving::Server(server) => answer(server, &mut dice),
            };
            match received {
                Ok(messages) => count(&figures.received, messages),
                Err(RecvError::Corrupt(_)) => {
                    count(&figures.corrupt, 1);
                    break;
                }
                other => drop(self::received(other)),
            }
        }
    }
}

fn receive(rx: &mut ShmReceiver, dice: &mut Dice) -> Result<u64, RecvError> {
    // As many as can be had at once, now and then.
    let most = if dice.below(4) == 0 { usize::MAX } else { 5 };
    rx.advance_batch(most, briefly(dice))?;
    let batch = rx.held_batch();
    batch.iter().for_each(touch);
    let messages = batch.len() as u64;
    batch.release_all();
    Ok(messages)
}

fn answer(server: &mut RpcServer, dice: &mut Dice) -> Result<u64, RecvError> {
    let request = server.next(briefly(dice))?;
    touch(&request);
    match sent(request.respond(b"an answer")).0.is_corrupt {
        true => Err(RecvError::Corrupt("the call isn't ours any more".into())),
        false => Ok(1),
    }
}

fn keep_looking(stage: &Stage, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        stage.look();
        thread::sleep(Duration::from_millis(1));
    }
}
