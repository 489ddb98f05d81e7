//! `SCHEME:NAME`: which channel, over which transport.

use ipc_core::{ChannelName, InvalidName};
use std::{fmt, str::FromStr};

/// The transports that addresses can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// Message passing: the kernel's POSIX queues.
    Mq,
    /// Message passing: the kernel's System V queues.
    Sysv,
    /// Message passing over connections: sequenced-packet sockets.
    Unix,
    /// Shared memory.
    Shm,
}

impl Scheme {
    /// All of them, in the order in which they are listed.
    pub(crate) const ALL: [Self; 4] = [Self::Mq, Self::Sysv, Self::Unix, Self::Shm];

    /// One for each of the two models, the simplest of it.
    pub(crate) const MODELS: [Self; 2] = [Self::Mq, Self::Shm];

    /// What stands before the colon.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Mq => "mq",
            Self::Sysv => "sysv",
            Self::Unix => "unix",
            Self::Shm => "shm",
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The address of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) scheme: Scheme,
    pub(crate) name: ChannelName,
}

impl Address {
    pub(crate) fn new(scheme: Scheme, name: ChannelName) -> Self {
        Self { scheme, name }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}:{}", self.scheme, self.name))
    }
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let (scheme, name) = text.split_once(':').ok_or(InvalidAddress::NoScheme)?;
        let scheme = Scheme::ALL
            .into_iter()
            .find(|known| known.as_str() == scheme)
            .ok_or_else(|| InvalidAddress::UnknownScheme(scheme.into()))?;
        Ok(Self::new(scheme, ChannelName::new(name).map_err(InvalidAddress::Name)?))
    }
}

/// Why a text is not an [`Address`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum InvalidAddress {
    NoScheme,
    UnknownScheme(String),
    Name(InvalidName),
}

const KNOWN: &str = "mq:NAME or sysv:NAME (kernel queue), unix:NAME (socket) or shm:NAME (shared memory)";

impl fmt::Display for InvalidAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoScheme => write!(f, "not an address: write {KNOWN}"),
            Self::UnknownScheme(scheme) => write!(f, "unknown scheme {scheme:?}: write {KNOWN}"),
            Self::Name(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for InvalidAddress {}

#[cfg(test)]
mod tests {
    use super::{Address, InvalidAddress, Scheme};
    use rstest::rstest;

    #[rstest]
    #[case("mq:orders", Scheme::Mq)]
    #[case("sysv:orders", Scheme::Sysv)]
    #[case("unix:orders", Scheme::Unix)]
    #[case("shm:orders", Scheme::Shm)]
    fn an_address_is_a_scheme_and_a_name(#[case] text: &str, #[case] scheme: Scheme) {
        let address: Address = text.parse().unwrap();
        assert_eq!((address.scheme, address.name.as_str()), (scheme, "orders"));
        assert_eq!(address.to_string(), text);
    }

    #[rstest]
    #[case::no_colon("orders")]
    #[case::empty("")]
    #[case::unknown("tcp:orders")]
    #[case::case_matters("MQ:orders")]
    #[case::no_name("mq:")]
    #[case::second_colon("mq:a:b")]
    #[case::slash("shm:../etc")]
    fn anything_else_is_refused(#[case] text: &str) {
        assert!(text.parse::<Address>().is_err());
    }

    #[test]
    fn an_unknown_scheme_is_answered_with_the_known_ones() {
        let error: InvalidAddress = "tcp:x".parse::<Address>().unwrap_err();
        let text = error.to_string();
        assert!(Scheme::ALL.iter().all(|scheme| text.contains(&format!("{scheme}:NAME"))), "{text}");
    }
}
