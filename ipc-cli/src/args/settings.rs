//! How a channel is made, and whose is opened.

use crate::{
    address::Scheme,
    units::{parse_id, parse_mode, parse_size},
};

/// How a channel is made.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub(crate) struct Settings {
    /// shm: the kind of channel
    ///
    /// mpmc, the default: a work queue, any number of senders and receivers, each message to
    /// one of them. spsc: one sender and one receiver at a time, the fastest. broadcast: every
    /// subscriber sees every message. latest: the newest value. rpc: request and response (ipc
    /// call, ipc serve).
    #[arg(long, value_name = "KIND")]
    pub(crate) kind: Option<String>,
    /// shm: room for messages, in bytes, rounded up to whole pages; unix: a sender's buffer
    /// (suffixes K, M, G, T: powers of 1,024)
    #[arg(long, value_name = "BYTES", value_parser = parse_size)]
    pub(crate) capacity: Option<u64>,
    /// mq, sysv, shm of kinds with slots: room for messages, in messages
    #[arg(long, value_name = "N")]
    pub(crate) depth: Option<usize>,
    /// mq, sysv, unix, shm of kinds with slots: the longest message, in bytes (suffixes K, M, G: powers of
    /// 1,024)
    #[arg(long, value_name = "BYTES", value_parser = parse_size)]
    pub(crate) max_message: Option<u64>,
    /// shm: what a sender does that finds no room: wait, fail, or drop-oldest (counted)
    #[arg(long, value_name = "POLICY")]
    pub(crate) when_full: Option<String>,
    /// shm mpmc: how often a message is delivered before it is dropped, and counted, because its
    /// receivers died with it (1: never again; the most, and the default, 255)
    #[arg(long, value_name = "N")]
    pub(crate) max_deliveries: Option<u32>,
    /// shm, but spsc: how many can take part at once (64); who finds no place ends with 6, but waits for
    /// one as long as its --timeout says
    #[arg(long, value_name = "N")]
    pub(crate) participants: Option<u32>,
    /// shm broadcast: how many can publish at once (4)
    #[arg(long, value_name = "N")]
    pub(crate) publishers: Option<u32>,
    /// shm: huge pages; if the system has none to give, the channel isn't made
    #[arg(long)]
    pub(crate) huge_pages: bool,
    /// shm: have all pages mapped when an endpoint is made, not when each is first used
    #[arg(long)]
    pub(crate) prefault: bool,
    /// Permission bits, whatever the umask (unix: others need --allow-uid too; mq, shm, unix: they open
    /// the channel with --trust-uid; shm, unix: in a directory in IPC_DIR that they may enter)
    #[arg(long, value_name = "OCTAL", value_parser = parse_mode)]
    pub(crate) mode: Option<u32>,
    /// shm: the group that the channel belongs to, by number: with --mode 660 its members take part
    #[arg(long, value_name = "GID", value_parser = parse_id)]
    pub(crate) group: Option<u32>,
    /// unix: the users whose messages are taken, by number (its maker's alone; once named, those
    /// and no others)
    #[arg(long, value_name = "UID", value_delimiter = ',', value_parser = parse_id)]
    pub(crate) allow_uid: Vec<u32>,
}

/// `--create` and the settings of what it makes.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub(crate) struct CreateIfMissing {
    /// Make the channel if it is missing; in shared memory it vanishes when the last one
    /// leaves it empty, a mq: channel stays until it is removed
    #[arg(long)]
    pub(crate) create: bool,
    #[command(
        flatten,
        next_help_heading = "Settings for --create (exit 5 if the channel exists with others)"
    )]
    pub(crate) settings: Settings,
}

/// Whose channels are opened besides one's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub(crate) struct Trust {
    /// mq, shm, unix: open the channels of these users too, by number: who owns one can change
    /// whatever is in it
    #[arg(long = "trust-uid", value_name = "UID", value_delimiter = ',', value_parser = parse_id)]
    pub(crate) uids: Vec<u32>,
}

impl Settings {
    /// The options that were given and that `scheme` doesn't have, the first with the
    /// reason: what it has instead.
    pub(crate) fn foreign_to(&self, scheme: Scheme) -> Option<String> {
        let queue = matches!(scheme, Scheme::Mq | Scheme::Sysv);
        let (option, instead) = match self {
            Self { allow_uid, .. } if scheme != Scheme::Unix && !allow_uid.is_empty() => {
                ("--allow-uid", "--mode says who may use one")
            }
            _ if scheme == Scheme::Shm => return None,
            Self { group: Some(_), .. } => ("--group", "leave it out"),
            Self { capacity: Some(_), .. } if queue => {
                ("--capacity", "its room is --depth messages of --max-message bytes")
            }
            Self { depth: Some(_), .. } if !queue => {
                ("--depth", "its room is the socket's buffer, --capacity bytes for each sender")
            }
            Self { kind: Some(_), .. } => ("--kind", "leave it out"),
            Self { when_full: Some(_), .. } => {
                ("--when-full", "a sender waits, as long as its --timeout says")
            }
            Self { max_deliveries: Some(_), .. } => {
                ("--max-deliveries", "the kernel delivers a message once")
            }
            Self { participants: Some(_), .. } => ("--participants", "anybody may come"),
            Self { huge_pages: true, .. } => ("--huge-pages", "the kernel keeps its messages"),
            Self { prefault: true, .. } => ("--prefault", "the kernel keeps its messages"),
            Self { publishers: Some(_), .. } => ("--publishers", "anybody may send"),
            _ => return None,
        };
        Some(format!("{scheme} channels have no {option}: {instead}"))
    }
}

impl Trust {
    /// Why `scheme` doesn't have the option, if it was given.
    pub(crate) fn foreign_to(&self, scheme: Scheme) -> Option<String> {
        let instead = match scheme {
            Scheme::Mq | Scheme::Unix | Scheme::Shm => return None,
            Scheme::Sysv => "only names in one's own directory are believed, use a mq, unix or shm channel",
        };
        (!self.uids.is_empty()).then(|| format!("{scheme} channels have no --trust-uid: {instead}"))
    }
}

#[cfg(test)]
mod tests {
    use super::{Settings, Trust};
    use crate::address::Scheme;
    use rstest::rstest;

    #[rstest]
    #[case(Scheme::Mq, Settings { capacity: Some(1), ..Settings::default() }, true)]
    #[case(Scheme::Mq, Settings { kind: Some("spsc".into()), ..Settings::default() }, true)]
    #[case(Scheme::Mq, Settings { depth: Some(1), max_message: Some(1), mode: Some(0), ..Settings::default() }, false)]
    #[case(Scheme::Mq, Settings { when_full: Some("fail".into()), ..Settings::default() }, true)]
    #[case(Scheme::Mq, Settings { max_deliveries: Some(1), ..Settings::default() }, true)]
    #[case(Scheme::Mq, Settings { participants: Some(1), ..Settings::default() }, true)]
    #[case(Scheme::Mq, Settings { publishers: Some(1), ..Settings::default() }, true)]
    #[case(Scheme::Mq, Settings { huge_pages: true, ..Settings::default() }, true)]
    #[case(Scheme::Mq, Settings { prefault: true, ..Settings::default() }, true)]
    #[case(Scheme::Mq, Settings { group: Some(1), ..Settings::default() }, true)]
    #[case(Scheme::Mq, Settings { allow_uid: vec![1], ..Settings::default() }, true)]
    #[case(Scheme::Unix, Settings { group: Some(1), ..Settings::default() }, true)]
    #[case(Scheme::Unix, Settings { allow_uid: vec![1], ..Settings::default() }, false)]
    #[case(Scheme::Shm, Settings { group: Some(1), ..Settings::default() }, false)]
    #[case(Scheme::Shm, Settings { allow_uid: vec![1], ..Settings::default() }, true)]
    #[case(Scheme::Sysv, Settings { capacity: Some(1), ..Settings::default() }, true)]
    #[case(Scheme::Sysv, Settings { depth: Some(1), max_message: Some(1), mode: Some(0), ..Settings::default() }, false)]
    #[case(Scheme::Unix, Settings { depth: Some(1), ..Settings::default() }, true)]
    #[case(Scheme::Unix, Settings { capacity: Some(1), max_message: Some(1), ..Settings::default() }, false)]
    #[case(Scheme::Shm, Settings { depth: Some(1), max_message: Some(1), ..Settings::default() }, false)]
    #[case(Scheme::Shm, Settings { capacity: Some(1), kind: Some("spsc".into()), ..Settings::default() }, false)]
    fn options_of_the_other_scheme_are_foreign(
        #[case] scheme: Scheme,
        #[case] settings: Settings,
        #[case] foreign: bool,
    ) {
        assert_eq!(settings.foreign_to(scheme).is_some(), foreign);
    }

    #[rstest]
    #[case(Scheme::Mq, false)]
    #[case(Scheme::Sysv, true)]
    #[case(Scheme::Unix, false)]
    #[case(Scheme::Shm, false)]
    fn whom_to_trust_is_said_where_there_is_something_to_trust(
        #[case] scheme: Scheme,
        #[case] foreign: bool,
    ) {
        assert_eq!(Trust::default().foreign_to(scheme), None);
        assert_eq!(Trust { uids: vec![1] }.foreign_to(scheme).is_some(), foreign);
    }
}
