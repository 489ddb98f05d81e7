//! Names of channels, validated once, so that no backend has to doubt them.
//!
//! The rule is the intersection of what file names, POSIX queue names and shells take
//! without surprises.

use std::{fmt, str::FromStr};

/// The name of a channel: 1 to 200 bytes of `[A-Za-z0-9._-]`, not starting with `.` or `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelName(Box<str>);

impl ChannelName {
    /// The longest name, in bytes.
    pub const MAX_LEN_BYTES: usize = 200;

    /// Validates `name`.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] says which rule the name breaks.
    pub fn new(name: &str) -> Result<Self, InvalidName> {
        if name.is_empty() {
            return Err(InvalidName::Empty);
        }
        if name.len() > Self::MAX_LEN_BYTES {
            return Err(InvalidName::TooLong { len_bytes: name.len() });
        }
        if let Some(first @ ('.' | '-')) = name.chars().next() {
            return Err(InvalidName::BadStart { first });
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        match name.chars().find(|&c| !allowed(c)) {
            Some(found) => Err(InvalidName::BadCharacter { found }),
            None => Ok(Self(name.into())),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl AsRef<str> for ChannelName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl FromStr for ChannelName {
    type Err = InvalidName;

    fn from_str(name: &str) -> Result<Self, InvalidName> {
        Self::new(name)
    }
}

impl TryFrom<&str> for ChannelName {
    type Error = InvalidName;

    fn try_from(name: &str) -> Result<Self, InvalidName> {
        Self::new(name)
    }
}

/// Why a text is not a [`ChannelName`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidName {
    /// The text is empty.
    Empty,
    /// The text is longer than [`ChannelName::MAX_LEN_BYTES`].
    TooLong {
        /// Its length.
        len_bytes: usize,
    },
    /// The text starts with a dot or a dash.
    BadStart {
        /// The offending character.
        first: char,
    },
    /// The text holds a character outside `[A-Za-z0-9._-]`.
    BadCharacter {
        /// The first such character.
        found: char,
    },
}

impl fmt::Display for InvalidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "the channel name is empty: give 1 to 200 characters"),
            Self::TooLong { len_bytes } => write!(
                f,
                "the channel name has {len_bytes} bytes: at most {} are allowed",
                ChannelName::MAX_LEN_BYTES
            ),
            Self::BadStart { first } => {
                write!(f, "a channel name can't start with `{first}`: start it with a letter or a digit")
            }
            Self::BadCharacter { found } => write!(
                f,
                "a channel name can't hold {found:?}: use letters, digits, dots, dashes and underscores"
            ),
        }
    }
}

impl std::error::Error for InvalidName {}

#[cfg(test)]
mod tests {
    use super::{ChannelName, InvalidName};
    use rstest::rstest;

    #[rstest]
    #[case::one_letter("a")]
    #[case::all_classes("Az09._-")]
    #[case::leading_underscore("_x")]
    fn accepts(#[case] name: &str) {
        assert_eq!(ChannelName::new(name).unwrap().as_str(), name);
    }

    #[test]
    fn accepts_200_bytes_and_refuses_201() {
        assert!(ChannelName::new(&"x".repeat(200)).is_ok());
        assert_eq!(ChannelName::new(&"x".repeat(201)), Err(InvalidName::TooLong { len_bytes: 201 }));
    }

    #[rstest]
    #[case("", InvalidName::Empty)]
    #[case("..", InvalidName::BadStart { first: '.' })]
    #[case("-rf", InvalidName::BadStart { first: '-' })]
    #[case("a/b", InvalidName::BadCharacter { found: '/' })]
    #[case("a b", InvalidName::BadCharacter { found: ' ' })]
    #[case("a\0b", InvalidName::BadCharacter { found: '\0' })]
    #[case("é", InvalidName::BadCharacter { found: 'é' })]
    fn refuses(#[case] name: &str, #[case] why: InvalidName) {
        assert_eq!(ChannelName::new(name), Err(why));
    }
}
