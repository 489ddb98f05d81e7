//! What director and actors say to each other: lines of text over the actors' standard
//! input and output, and the names of the channels they play on.

use crate::{
    address::{Address, Scheme},
    exit::{Exit, Failure},
};
use ipc_core::ChannelName;
use nix::time::{ClockId, clock_gettime};
use std::{fmt, str::FromStr, time::Duration};

/// What an actor tells the director.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// It did something.
    Did(Step),
    /// It measured something.
    Figure { name: String, value: u64 },
    /// It came to where it waits to be told to go on.
    Cue,
    /// It can't go on.
    Failed { exit: Exit, text: String },
}

/// Something that an actor did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// When it happened, on a clock that all processes share.
    pub(crate) at: Duration,
    pub(crate) took: Duration,
    pub(crate) text: String,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Did(Step { at, took, text }) => {
                write!(f, "did\t{}\t{}\t{text}", at.as_nanos(), took.as_nanos())
            }
            Self::Figure { name, value } => write!(f, "figure\t{name}\t{value}"),
            Self::Cue => f.write_str("cue"),
            Self::Failed { exit, text } => write!(f, "failed\t{}\t{text}", *exit as u8),
        }
    }
}

impl FromStr for Line {
    type Err = ();

    fn from_str(line: &str) -> Result<Self, ()> {
        let number = |text: Option<&str>| text.and_then(|text| text.parse::<u64>().ok()).ok_or(());
        let mut parts = line.splitn(4, '\t');
        match parts.next() {
            Some("did") => {
                let at = Duration::from_nanos(number(parts.next())?);
                let took = Duration::from_nanos(number(parts.next())?);
                Ok(Self::Did(Step { at, took, text: parts.next().ok_or(())?.into() }))
            }
            Some("figure") => {
                let name = parts.next().ok_or(())?.into();
                Ok(Self::Figure { name, value: number(parts.next())? })
            }
            Some("cue") => Ok(Self::Cue),
            Some("failed") => {
                let code = number(parts.next())?;
                let exit = Exit::ALL.into_iter().find(|exit| *exit as u64 == code).ok_or(())?;
                Ok(Self::Failed { exit, text: parts.next().ok_or(())?.into() })
            }
            _ => Err(()),
        }
    }
}

/// The time on a clock that all processes of the machine share and nobody sets.
pub(crate) fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default()
}

/// Who there is to play.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Creates, sends, gets the reply, measures; is killed.
    P1,
    /// Opens, retrieves, replies, serves; is killed with a message in its hands.
    P2,
    /// Comes after them and looks for that message.
    P3,
}

impl Part {
    const ALL: [Self; 3] = [Self::P1, Self::P2, Self::P3];
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::P1 => "P1",
            Self::P2 => "P2",
            Self::P3 => "P3",
        })
    }
}

/// Where they play: two channels, one for each direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stage {
    pub(crate) there: Address,
    pub(crate) back: Address,
    /// The longest message sent; P1 makes do with less where it must.
    pub(crate) len: usize,
}

impl Stage {
    pub(crate) fn new(scheme: Scheme, prefix: &str, len: usize) -> Result<Self, Failure> {
        let address = |direction| {
            ChannelName::new(&format!("{prefix}-{direction}"))
                .map(|name| Address::new(scheme, name))
                .map_err(|error| Failure::new(Exit::Usage, "demo", error))
        };
        Ok(Self { there: address("there")?, back: address("back")?, len })
    }

    pub(crate) fn scheme(&self) -> Scheme {
        self.there.scheme
    }
}

/// The arguments of the hidden option that starts an actor.
pub(crate) fn arguments(part: Part, prefix: &str, stage: &Stage) -> Vec<String> {
    vec![part.to_string(), stage.scheme().to_string(), prefix.into(), stage.len.to_string()]
}

/// What [`arguments`] made.
pub(crate) fn parse_arguments(arguments: &[String]) -> Result<(Part, Stage), Failure> {
    let parsed = (|| {
        let [part, scheme, prefix, len] = arguments else { return None };
        let part = Part::ALL.into_iter().find(|known| known.to_string() == *part)?;
        let scheme = Scheme::MODELS.into_iter().find(|known| known.as_str() == scheme)?;
        Some((part, Stage::new(scheme, prefix, len.parse().ok()?)))
    })();
    let (part, stage) = parsed.ok_or_else(|| Failure::new(Exit::Usage, "demo", "no such part"))?;
    Ok((part, stage?))
}

#[cfg(test)]
mod tests {
    use super::{Line, Part, Stage, Step, arguments, parse_arguments};
    use crate::{address::Scheme, exit::Exit};
    use rstest::rstest;
    use std::time::Duration;

    #[rstest]
    #[case(Line::Did(Step { at: Duration::from_nanos(1), took: Duration::from_nanos(2), text: "a\tb".into() }))]
    #[case(Line::Figure { name: "create".into(), value: 3 })]
    #[case(Line::Cue)]
    #[case(Line::Failed { exit: Exit::Busy, text: "why".into() })]
    fn lines_survive_the_way(#[case] line: Line) {
        assert_eq!(line.to_string().parse(), Ok(line));
    }

    #[test]
    fn arguments_survive_the_way() {
        let stage = Stage::new(Scheme::Shm, "demo", 256).unwrap();
        let arguments = arguments(Part::P2, "demo", &stage);
        assert_eq!(parse_arguments(&arguments), Ok((Part::P2, stage)));
    }
}
