//! A receiver's sockets: the one that listens, and those of its senders, watched together
//! (`epoll(7)`).
//!
//! A sender that is alone, or has been the only one with messages for long, is the favourite: its
//! socket is read first, and isn't among those watched together, since that would cost each send
//! a wake-up of the `epoll`. Before the receiver says that there is nothing it asks for the
//! others as well; where it sleeps it watches both.

use super::{
    channel::Found,
    line::{Door, Line},
    peer::{Peer, Read},
    store::Held,
    transport::lock_role,
    turn::Turn,
};
use crate::{
    at_fork::{self, Private},
    flock::Locked,
    limit,
    place::refusal,
    wait,
};
use ipc_core::{ChannelError, Credentials, OsError};
use nix::{
    errno::Errno,
    fcntl::renameat,
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        socket::{
            AddressFamily, Backlog, SockFlag, SockType, bind, getsockopt, listen, socket,
            sockopt::PeerCredentials,
        },
        stat::{FchmodatFlags, Mode, fchmodat},
        time::TimeSpec,
        timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
    },
};
use std::{
    collections::VecDeque,
    fs::File,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    time::Duration,
};

/// So many senders at a time; others wait to be taken in.
const MOST_SENDERS: usize = 1024;
/// So many are taken in, and go, in one try: of those who only come and go there may be no end.
/// A crowd that comes at once, and all of whom leave, is less.
const MOST_STEPS: usize = 2 * MOST_SENDERS;
/// After so long it is looked again whether there is a descriptor for who is at the door.
const PAUSE: Duration = Duration::from_millis(10);
/// What stands for the listening socket among the events.
const LISTENING: u64 = u64::MAX;
/// What stands for the timer.
const LOOK_AGAIN: u64 = u64::MAX - 1;

/// All sockets of a receiver.
#[derive(Debug)]
pub(crate) struct Listener {
    epoll: Private<Epoll>,
    socket: Door,
    /// Whether the listening socket is watched: not while there are as many senders as can
    /// be, or no descriptor for another one.
    watched: bool,
    senders: Vec<Option<Peer>>,
    connected: usize,
    /// Who came, but couldn't be taken in yet for want of memory.
    at_the_door: Option<Line>,
    /// Whose message couldn't be taken yet for want of something.
    put_off: VecDeque<usize>,
    /// Whose messages are taken.
    turn: Option<Turn>,
    /// The sender that isn't watched together with the others.
    favourite: Option<usize>,
    /// There is none from now on, since somebody else watches what the receiver does: that one is
    /// told by a timer to look again, where nobody tells of who is at the door.
    all_watched: Option<TimerFd>,
    /// Whether deaths are events.
    pub(crate) reports_deaths: bool,
    allowed_uids: Vec<u32>,
    /// Our own user.
    uid: u32,
    max_message_len: usize,
    /// The role, held as long as this lives.
    role: Private<Locked<File>>,
}

/// What a look at the sockets found.
#[derive(Debug)]
pub(crate) enum Event {
    /// A message is in the store.
    Message,
    /// A sender went without a farewell.
    Death,
}

impl Listener {
    /// Takes the receiver's role, and begins to listen.
    pub(crate) fn open(found: &Found) -> Result<Self, ChannelError> {
        let (folder, settings) = (&found.folder, &found.settings);
        let role = lock_role(folder, &found.name, &found.file)?;
        let os = |call| move |errno: Errno| OsError::new(call, errno);
        let (name, new) = (settings.socket_name(), settings.new_socket_name());
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let make = || socket(AddressFamily::Unix, SockType::SeqPacket, flags, None);
        let socket =
            at_fork::private(make, OwnedFd::as_raw_fd).map_err(|errno| limit::explained("socket", errno))?;
        let socket = Door::new(socket);
        let make = || Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC);
        let epoll = at_fork::private(make, |epoll| epoll.0.as_raw_fd())
            .map_err(|errno| limit::explained("epoll_create1", errno))?;
        // The new socket takes the name when it listens, or a sender could come too early and
        // wait for ever.
        let address = found.address(&new)?;
        let bound = match bind(socket.as_fd().as_raw_fd(), &address) {
            // We have the role, so what is there is a dead receiver's.
            Err(Errno::EADDRINUSE) => {
                folder.unlink_own(&new)?;
                bind(socket.as_fd().as_raw_fd(), &address)
            }
            answer => answer,
        };
        let path = &folder.path().join(&new);
        let refused = |call| move |errno| refusal(call, path, errno);
        bound.map_err(refused("bind"))?;
        let listening = || {
            let mode = Mode::from_bits_truncate(found.file.status.st_mode & 0o666);
            fchmodat(folder, &*new, mode, FchmodatFlags::FollowSymlink).map_err(os("fchmodat"))?;
            listen(&socket, Backlog::MAXALLOWABLE).map_err(os("listen"))?;
            epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, LISTENING)).map_err(os("epoll_ctl"))?;
            renameat(folder, &*new, folder, &*name).map_err(refused("renameat"))
        };
        listening().inspect_err(|_| {
            // Nobody would listen there.
            let _ = folder.unlink_own(&new);
        })?;
        Ok(Self {
            epoll,
            socket,
            watched: true,
            senders: Vec::new(),
            connected: 0,
            at_the_door: None,
            put_off: VecDeque::new(),
            turn: None,
            favourite: None,
            all_watched: None,
            reports_deaths: false,
            allowed_uids: settings.allowed_uids.clone(),
            uid: folder.uid(),
            max_message_len: settings.max_message_len,
            role,
        })
    }

    /// Whether this process is the one that opened it.
    #[inline]
    pub(crate) fn is_ours(&self) -> bool {
        self.role.is_ours()
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    /// The senders that are connected.
    pub(crate) fn peers(&self) -> impl Iterator<Item = Credentials> {
        self.senders.iter().flatten().map(Peer::credentials)
    }

    /// What is to be watched besides [`descriptor`](Self::descriptor).
    pub(crate) fn favourite(&self) -> Option<BorrowedFd<'_>> {
        self.favourite.and_then(|index| self.senders[index].as_ref()).map(Peer::socket)
    }

    /// From now on [`descriptor`](Self::descriptor) tells of all senders.
    pub(crate) fn watch_all(&mut self) -> Result<(), OsError> {
        if self.all_watched.is_none() {
            // While there are descriptors.
            let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
            let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)
                .map_err(|errno| limit::explained("timerfd_create", errno))?;
            let event = EpollEvent::new(EpollFlags::EPOLLIN, LOOK_AGAIN);
            self.epoll.add(&timer, event).map_err(|errno| OsError::new("epoll_ctl", errno))?;
            self.all_watched = Some(timer);
        }
        self.watch_favourite()
    }

    /// Has whoever watches look again after a while, if that is wanted.
    fn set_timer(&self, is_wanted: bool) -> Result<(), OsError> {
        let Some(timer) = &self.all_watched else { return Ok(()) };
        // Zero stops it.
        let pause = if is_wanted { PAUSE } else { Duration::ZERO };
        timer
            .set(Expiration::OneShot(TimeSpec::from_duration(pause)), TimerSetTimeFlags::empty())
            .map_err(|errno| OsError::new("timerfd_settime", errno))
    }

    /// Takes one message into `held`, waiting for one if that is wanted. `None` is "not now".
    pub(crate) fn next(&mut self, held: &mut Held, may_wait: bool) -> Result<Option<Event>, OsError> {
        for _ in 0..MOST_STEPS {
            let mut tried = false;
            if let Some(index) = self.probable(may_wait) {
                tried = true;
                match self.read(index, held)? {
                    Read::Message => return Ok(Some(Event::Message)),
                    Read::Nothing => {}
                    Read::Gone { death } => {
                        self.forget(index);
                        if death && self.reports_deaths {
                            return Ok(Some(Event::Death));
                        }
                    }
                }
            }
            // Where nobody is in, who comes next is at the door; and while nobody watches it, nobody
            // else tells of who is.
            if (self.connected == 0 || self.is_shut_for_want()) && self.take_in()? {
                continue;
            }
            // Somebody has had a turn since it was put off.
            if self.turn.is_some() && !self.nothing_is_put_off() {
                self.take_up()?;
                continue;
            }
            let may_wait = may_wait && self.nothing_is_put_off() && !self.is_shut_for_want();
            let event = self.ready(may_wait, tried)?;
            match event.map(|event| self.next_after_turn(event)).transpose()? {
                Some(LISTENING) => drop(self.take_in()?),
                Some(LOOK_AGAIN) => self.set_timer(false)?,
                // One at a time: the kernel turns its list round, so that all get theirs.
                Some(index) => self.give_turn(index as usize)?,
                None if self.nothing_is_put_off() => break,
                None => self.take_up()?,
            }
        }
        Ok(None)
    }

    fn nothing_is_put_off(&self) -> bool {
        self.put_off.is_empty() && self.at_the_door.is_none()
    }

    /// Tries again what was put off, one thing at a time.
    #[cold]
    fn take_up(&mut self) -> Result<(), OsError> {
        match self.put_off.pop_front() {
            Some(index) => self.give_turn(index),
            None => self.take_in().map(drop),
        }
    }

    /// The sender whose turn it is, if it is worth a try before it is asked who has something.
    fn probable(&self, may_wait: bool) -> Option<usize> {
        let turn = self.turn.as_ref().filter(|turn| !turn.is_over())?;
        // Of the favourite nobody tells but itself.
        let alone_knows = !may_wait && self.favourite == Some(turn.sender);
        (alone_knows || turn.probably_goes_on()).then_some(turn.sender)
    }

    /// Which socket has something, or may have; the favourite was `tried` in vain, or not.
    fn ready(&self, may_wait: bool, tried: bool) -> Result<Option<u64>, OsError> {
        let (Some(index), Some(favourite)) = (self.favourite, self.favourite()) else {
            return self.ask(may_wait);
        };
        let is_over = self.turn.as_ref().is_some_and(|turn| turn.is_over());
        if !may_wait || is_over {
            let other = self.ask(false)?;
            // It may have more, if nobody else has.
            return Ok(other.or((!tried).then_some(index as u64)));
        }
        match wait::either_readable(self.descriptor(), favourite)? {
            Some(true) => self.ask(false),
            Some(false) => Ok(Some(index as u64)),
            None => Ok(None),
        }
    }

    /// Which of the sockets that are watched together has something.
    fn ask(&self, may_wait: bool) -> Result<Option<u64>, OsError> {
        let timeout = if may_wait { EpollTimeout::NONE } else { EpollTimeout::ZERO };
        let mut events = [EpollEvent::empty()];
        match self.epoll.wait(&mut events, timeout) {
            Ok(0) | Err(Errno::EINTR) => Ok(None),
            Ok(_) => Ok(Some(events[0].data())),
            Err(errno) => Err(OsError::new("epoll_wait", errno)),
        }
    }

    /// Who has had its turn stands, in the kernel's list, before those who came into it meanwhile:
    /// another one goes first.
    fn next_after_turn(&self, event: u64) -> Result<u64, OsError> {
        let has_had = |turn: &Turn| turn.is_over() && turn.sender as u64 == event;
        if self.favourite.is_some() || !self.turn.as_ref().is_some_and(has_had) {
            return Ok(event);
        }
        Ok(self.ask(false)?.unwrap_or(event))
    }

    /// This sender has something.
    fn give_turn(&mut self, index: usize) -> Result<(), OsError> {
        match &mut self.turn {
            Some(turn) if turn.sender == index => {
                turn.go_on();
                if turn.is_alone() && self.favourite.is_none() && self.all_watched.is_none() {
                    self.make_favourite(index);
                }
            }
            _ => {
                if self.favourite != Some(index) {
                    self.watch_favourite()?;
                }
                self.turn = Some(Turn::new(index));
            }
        }
        Ok(())
    }

    /// It is not watched any more, so that its sends wake nobody.
    #[cold]
    fn make_favourite(&mut self, index: usize) {
        let Some(peer) = &self.senders[index] else { return };
        // Where it fails, the sender is watched as it was.
        if self.epoll.delete(peer.socket()).is_ok() {
            self.favourite = Some(index);
        }
    }

    /// The favourite is one of many again.
    fn watch_favourite(&mut self) -> Result<(), OsError> {
        if let (Some(index), Some(socket)) = (self.favourite, self.favourite()) {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, index as u64);
            self.epoll.add(socket, event).map_err(|errno| OsError::new("epoll_ctl", errno))?;
        }
        self.favourite = None;
        Ok(())
    }

    /// Takes in one who waits at the door, if it is allowed, and listens to it: it will have
    /// said something. Whether there was one.
    #[cold]
    fn take_in(&mut self) -> Result<bool, OsError> {
        if self.connected == MOST_SENDERS {
            self.close_the_door()?;
            return Ok(false);
        }
        let answer = self.at_the_door.take().map_or_else(|| self.socket.accept(), Ok);
        if matches!(answer, Ok(_) | Err(Errno::EAGAIN)) {
            self.open_the_door();
        }
        let socket = match answer {
            Ok(socket) => socket,
            Err(Errno::EAGAIN) => return Ok(false),
            Err(Errno::EINTR | Errno::ECONNABORTED) => return Ok(true),
            // Those inside go on. From time to time it is looked whether there is a descriptor again.
            Err(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS) if self.connected > 0 => {
                self.close_the_door()?;
                self.set_timer(true)?;
                return Ok(false);
            }
            Err(errno) => return Err(limit::explained("accept4", errno)),
        };
        match self.admit(&socket) {
            Ok(Some((index, credentials))) => {
                self.senders[index] = Some(Peer::new(socket, credentials, self.uid));
                self.connected += 1;
                self.turn = Some(Turn::new(index));
                Ok(true)
            }
            Ok(None) => Ok(true),
            Err(error) => {
                // What it has sent is not to be lost; the others come first.
                self.at_the_door = Some(socket);
                self.turn = None;
                Err(error)
            }
        }
    }

    /// A place for the one who came, and who it is, if it is allowed.
    fn admit(&mut self, socket: &Line) -> Result<Option<(usize, Credentials)>, OsError> {
        let found = getsockopt(socket, PeerCredentials).map_err(|errno| OsError::new("getsockopt", errno))?;
        let credentials = Credentials { pid: found.pid().unsigned_abs(), uid: found.uid(), gid: found.gid() };
        if !self.allowed_uids.contains(&credentials.uid) {
            return Ok(None);
        }
        let index = self.senders.iter().position(Option::is_none).unwrap_or(self.senders.len());
        if self.connected == 0 && self.all_watched.is_none() {
            self.favourite = Some(index);
        } else {
            self.watch_favourite()?;
            let event = EpollEvent::new(EpollFlags::EPOLLIN, index as u64);
            self.epoll.add(socket, event).map_err(|errno| OsError::new("epoll_ctl", errno))?;
        }
        if index == self.senders.len() {
            self.senders.push(None);
        }
        Ok(Some((index, credentials)))
    }

    /// Nobody tells of those who come now.
    fn close_the_door(&mut self) -> Result<(), OsError> {
        if self.watched {
            self.epoll.delete(&self.socket).map_err(|errno| OsError::new("epoll_ctl", errno))?;
            self.watched = false;
        }
        Ok(())
    }

    /// The contrary; where it fails it is shut for want.
    fn open_the_door(&mut self) {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, LISTENING);
        self.watched = self.watched || self.epoll.add(&self.socket, event).is_ok();
    }

    /// Whether there would be a place for who is at the door.
    fn is_shut_for_want(&self) -> bool {
        !self.watched && self.connected < MOST_SENDERS
    }

    /// How long to sleep at most: nobody tells when there is again what was wanting.
    pub(crate) fn longest_sleep(&self) -> Option<Duration> {
        (self.is_shut_for_want() || !self.nothing_is_put_off()).then_some(PAUSE)
    }

    /// Closes a sender's connection, so that there is a place for another one.
    #[cold]
    fn forget(&mut self, index: usize) {
        self.turn = None;
        self.put_off.retain(|&other| other != index);
        if let Some(peer) = self.senders[index].take() {
            if self.favourite == Some(index) {
                self.favourite = None;
            } else {
                // To close it isn't enough: a forked child may have the socket as well, and then
                // it would be told of for ever. An entry that isn't there needs no end.
                let _ = self.epoll.delete(peer.socket());
            }
            self.connected -= 1;
        }
    }

    /// Looks at one sender's socket. What isn't a packet of ours ends the connection.
    #[inline]
    fn read(&mut self, index: usize, held: &mut Held) -> Result<Read, OsError> {
        let Some(peer) = self.senders.get_mut(index).and_then(Option::as_mut) else {
            return Ok(Read::Nothing);
        };
        let read = peer.read(held, self.max_message_len);
        match (&read, &mut self.turn) {
            (Ok(Read::Message), Some(turn)) => turn.took_one(),
            (Ok(Read::Nothing), Some(turn)) => turn.found_nothing(),
            (Err(_), _) => self.put_off(index),
            _ => {}
        }
        read
    }

    /// The others have theirs before it is tried again.
    #[cold]
    fn put_off(&mut self, index: usize) {
        self.turn = None;
        if !self.put_off.contains(&index) {
            self.put_off.push_back(index);
        }
    }
}
