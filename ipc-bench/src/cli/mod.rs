//! The command line.

mod asked;

pub(crate) use asked::{Asked, or_default};

use crate::{
    measure::{idle, load, safety, scale},
    spec::{TransportId, Waiting},
};
use clap::{Args, Parser, Subcommand, value_parser};
use std::path::PathBuf;

/// Measures what each model of interprocess communication costs on this machine.
///
/// Two processes, each pinned to a processor of its own, and beside every figure the
/// physical floor of the same moment: a bare cache-line ping-pong between the two. The
/// floor moves (virtual processors migrate), so compare the ratios, not the nanoseconds.
#[derive(Debug, Parser)]
#[command(name = "ipc-bench", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,

    /// Measure even where figures mean nothing: on one processor, where processes can't be pinned,
    /// under a quota or a debugger. What is measured there says so
    #[arg(long, global = true)]
    pub(crate) anyway: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Round trips, one at a time: there over one channel and back over another
    Latency {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        messages: Messages,
    },
    /// One way as fast as it goes, the receiver checking the sequence
    Throughput {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        messages: Messages,
        #[command(flatten)]
        streams: Streams,
    },
    /// Making a channel of 1 MiB, and opening one up to its first message, beside the bare
    /// system calls
    Open {
        #[command(flatten)]
        common: Common,
    },
    /// Making a kernel channel (mq, sysv, unix), and opening one up to its first message, beside
    /// the bare system calls
    Setup {
        #[command(flatten)]
        common: Common,
    },
    /// Latency under load: messages at fixed rates up to saturation, each timed from when it was due
    Load(load::Asked),
    /// What channels cost while nothing happens: processor time and wake-ups of who waits, memory
    Idle(idle::Asked),
    /// What more processes make of it: senders and receivers on one channel; workers that share a
    /// structure under a lock, beside those with a part each and queues
    Scale(scale::Asked),
    /// What safety costs: each thing that is there for it beside the next simpler one without
    Safety(safety::Asked),
    /// Reading and writing the newest value (shm:latest), each for itself
    Latest {
        #[command(flatten)]
        common: Common,
        /// Lengths of the value in bytes, separated by commas [default: 8,64,1K]
        #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = parse_size)]
        size: Vec<usize>,
    },
    /// Requests and replies, and a value under a lock, when each hop takes longer: how many a second
    Tolerance {
        #[command(flatten)]
        common: Common,
        /// What each hop takes longer, separated by commas: 0 to 1s [default:
        /// 0,1us,10us,100us,1ms,10ms]
        #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = parse_delay)]
        delay: Vec<u64>,
        /// How many requests are under way at a time, 1 to 1024, separated by commas [default:
        /// 1,16,256]
        #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = value_parser!(u64).range(1..=1024))]
        in_flight: Vec<u64>,
    },
    /// All experiments, kept in a file that `report` makes a page of
    All {
        /// Everything, with rounds as long as those of the other commands: some 10 minutes. Else
        /// what tells most, with shorter ones: within 3 minutes
        #[arg(long)]
        full: bool,
        /// What is done without --full
        #[arg(long, conflicts_with = "full")]
        quick: bool,
        /// Rounds too short to mean anything: for testing the rig
        #[arg(long, hide = true, conflicts_with_all = ["full", "quick"])]
        smoke: bool,
        /// One JSON object a line instead of the tables
        #[arg(long)]
        json: bool,
        /// Keep the run in this file [default: $XDG_STATE_HOME/ipc-bench/last.jsonl]
        #[arg(long, value_name = "FILE")]
        keep: Option<PathBuf>,
    },
    /// What people use instead, in the same rounds as ours; built with cargo at first
    Peers {
        /// The folder of the program that drives them, ipc-bench/peers of the source code
        /// [default: that of the source code this was built from]
        #[arg(long, value_name = "DIR")]
        folder: Option<PathBuf>,
        /// One JSON object a line instead of the tables
        #[arg(long)]
        json: bool,
        /// Rounds too short to mean anything: for testing the rig
        #[arg(long, hide = true)]
        smoke: bool,
        /// Only what has messages of these lengths, separated by commas: 8, 64K, 1M
        /// [default: all]
        #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = parse_peers_size)]
        size: Vec<usize>,
        /// Keep the run in this file [default: peers.jsonl beside that of the last run]
        #[arg(long, value_name = "FILE")]
        keep: Option<PathBuf>,
    },
    /// Whether the measurement can be believed: delays, losses and a disturbed floor, made on purpose
    /// and to be found; exit with 1 if one isn't
    SelfTest {
        /// One JSON object a line instead of the table
        #[arg(long)]
        json: bool,
        /// Rounds too short to mean anything, so that no delay is judged: for testing the rig
        #[arg(long, hide = true)]
        smoke: bool,
    },
    /// Make a page of a run: DIR/index.html, and a summary on the terminal
    Report {
        /// The file of the run [default: that of the last one]
        run: Option<PathBuf>,
        /// Where the page goes
        #[arg(long, value_name = "DIR", default_value = "ipc-bench-report")]
        out: PathBuf,
    },
    /// Say what has changed between two runs beyond the noise, and which of the ratios that either
    /// claims to be stable the other one found; exit with 1 if anything is worse, or failed in the
    /// later one
    Compare {
        /// The file of the earlier run
        old: PathBuf,
        /// The file of the later one
        new: PathBuf,
    },
    /// Locks and values that processes share, beside those that a program would use instead
    Lock {
        /// One JSON object a line instead of the table
        #[arg(long)]
        json: bool,
        /// Rounds too short to mean anything: for testing the rig
        #[arg(long, hide = true)]
        quick: bool,
        /// Seconds without a sign of life after which it has failed
        #[arg(long, hide = true, default_value_t = 20)]
        watchdog_s: u64,
    },
    /// One of the processes of a measurement of locks
    #[command(hide = true)]
    LockingProcess {
        /// Where the state is
        directory: PathBuf,
        /// Where to stay, if anywhere
        processor: String,
    },
    /// One of the processes of a measurement
    #[command(name = "measuring-process", hide = true)]
    Peer {
        /// What it takes part in
        spec: String,
    },
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Common {
    /// Transports to measure, separated by commas [default: those that the experiment is for]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) transport: Vec<TransportId>,

    /// One JSON object a line instead of the table
    #[arg(long)]
    pub(crate) json: bool,

    /// Rounds too short to mean anything: for testing the rig
    #[arg(long, hide = true)]
    pub(crate) quick: bool,

    /// Seconds without a sign of life after which a measurement has failed
    #[arg(long, hide = true, default_value_t = 20)]
    pub(crate) watchdog_s: u64,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Messages {
    /// Message lengths in bytes, separated by commas: 8, 1K, 1M [default: 8,1K,8K, with
    /// --loan 8,64K,1M, with --copy 64K,1M]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = parse_size)]
    size: Vec<usize>,

    /// How a process waits for the other one, separated by commas [default: each way that a
    /// transport has]
    #[arg(long, alias = "waiting", value_name = "LIST", value_delimiter = ',')]
    wait: Vec<Waiting>,

    /// Touch only the first byte of each message on each side, as programs do that build
    /// and use large messages in place
    #[arg(long)]
    loan: bool,

    /// Copy each message in from memory of the sender's own and out to memory of the
    /// receiver's own, as programs do whose data is elsewhere
    #[arg(long, conflicts_with = "loan")]
    copy: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Streams {
    /// How many processes send on the one channel, 1 to 8
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u8).range(1..=8))]
    senders: u8,

    /// How many processes receive from it, 1 to 8
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u8).range(1..=8))]
    receivers: u8,

    /// Send and receive so many messages at a time, 1 to 4096
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        value_parser = value_parser!(u16).range(1..=4096),
        conflicts_with_all = ["loan", "copy"]
    )]
    batch: u16,
}

/// The longest message that is measured.
const MAX_SIZE_BYTES: usize = 128 << 20;

/// Those lengths that peers are measured with.
fn parse_peers_size(text: &str) -> Result<usize, String> {
    match parse_size(text)? {
        measured if crate::measure::peers::SIZES_BYTES.contains(&measured) => Ok(measured),
        _ => Err("peers are measured with 8, 64K and 1M".into()),
    }
}

pub(crate) fn parse_size(text: &str) -> Result<usize, String> {
    let digits_len = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(digits_len);
    let unit_bytes = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => Some(1),
        "k" | "kib" => Some(1 << 10),
        "m" | "mib" => Some(1 << 20),
        _ => None,
    };
    let size_bytes = unit_bytes.and_then(|unit: usize| digits.parse::<usize>().ok()?.checked_mul(unit));
    size_bytes
        .filter(|&bytes| bytes <= MAX_SIZE_BYTES)
        .ok_or_else(|| "give 0 to 128M: bytes, or a number with K or M (8, 64, 1K, 64K, 1M)".into())
}

/// Nothing, or what takes the layer that delays no longer than it takes itself.
fn parse_delay(text: &str) -> Result<u64, String> {
    let digits_len = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(digits_len);
    let unit_ns: Option<u64> = match unit {
        "us" => Some(1_000),
        "ms" => Some(1_000_000),
        "s" => Some(1_000_000_000),
        "" if text == "0" => Some(0),
        _ => None,
    };
    unit_ns
        .and_then(|unit_ns| digits.parse::<u64>().ok()?.checked_mul(unit_ns))
        .filter(|&delay_ns| delay_ns <= 1_000_000_000)
        .ok_or_else(|| "give 0 to 1s: 0, or a number with us, ms or s (1us, 100us, 10ms)".into())
}

#[cfg(test)]
mod tests {
    use super::{Asked, Cli, Command, parse_delay, parse_size};
    use crate::spec::{Touch, TransportId, Waiting};
    use clap::{CommandFactory, Parser};
    use rstest::rstest;

    fn asked(arguments: &[&str]) -> Result<Asked, clap::Error> {
        let all = ["ipc-bench"].iter().chain(arguments);
        Cli::try_parse_from(all).map(|cli| match cli.command {
            Command::Latency { common, messages } => Asked::latency(&common, &messages),
            Command::Throughput { common, messages, streams } => {
                Asked::throughput(&common, &messages, &streams)
            }
            Command::Open { common } => Asked::open(&common),
            Command::Setup { common } => Asked::setup(&common),
            Command::Latest { common, size } => Asked::latest(&common, &size),
            Command::Tolerance { common, delay, in_flight } => Asked::tolerance(&common, &delay, &in_flight),
            _ => panic!("no single experiment"),
        })
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[rstest]
    #[case("0", 0)]
    #[case("8", 8)]
    #[case("8B", 8)]
    #[case("1k", 1024)]
    #[case("64KiB", 65_536)]
    #[case("128M", 128 << 20)]
    fn reads_sizes(#[case] text: &str, #[case] bytes: usize) {
        assert_eq!(parse_size(text), Ok(bytes));
    }

    #[rstest]
    #[case::empty("")]
    #[case::no_digits("K")]
    #[case::negative("-1")]
    #[case::fraction("1.5K")]
    #[case::unknown_unit("1G")]
    #[case::too_long("129M")]
    #[case::one_byte_too_long("134217729")]
    #[case::overflow("99999999999999999999M")]
    fn refuses_other_sizes(#[case] text: &str) {
        assert!(parse_size(text).unwrap_err().contains("0 to 128M"));
    }

    #[rstest]
    #[case("0", Ok(0))]
    #[case("1us", Ok(1_000))]
    #[case("250us", Ok(250_000))]
    #[case("10ms", Ok(10_000_000))]
    #[case("1s", Ok(1_000_000_000))]
    #[case::no_unit("10", Err(()))]
    #[case::no_digits("ms", Err(()))]
    #[case::too_fine("100ns", Err(()))]
    #[case::too_long("1001ms", Err(()))]
    #[case::overflow("99999999999999999999s", Err(()))]
    fn reads_delays(#[case] text: &str, #[case] expected: Result<u64, ()>) {
        assert_eq!(parse_delay(text).map_err(|why| assert!(why.contains("0 to 1s"))), expected);
    }

    #[test]
    fn lists_are_separated_by_commas_and_each_value_counts_once() {
        let asked =
            asked(&["latency", "--transport", "raw:mq,floor:cache-line,raw:mq", "--size", "8,1K,8"]).unwrap();
        assert_eq!(asked.transports, [TransportId::RawMq, TransportId::CacheLine]);
        assert_eq!(asked.sizes_bytes, [8, 1024]);
        assert_eq!(asked.waits, Waiting::ALL);
    }

    #[rstest]
    #[case::in_place(&[], Touch::All, &[8, 1 << 10, 8 << 10])]
    #[case::lent(&["--loan"], Touch::First, &[8, 64 << 10, 1 << 20])]
    #[case::copied(&["--copy"], Touch::Copied, &[64 << 10, 1 << 20])]
    #[case::copied_at_a_size(&["--copy", "--size", "8"], Touch::Copied, &[8])]
    fn default_sizes_suit_how_messages_are_used(
        #[case] arguments: &[&str],
        #[case] touch: Touch,
        #[case] sizes_bytes: &[usize],
    ) {
        let asked = asked(&[&["throughput"], arguments].concat()).unwrap();
        assert_eq!((asked.touch, &asked.sizes_bytes[..]), (touch, sizes_bytes));
        assert_eq!((asked.senders, asked.receivers, asked.batch), (1, 1, 1));
    }

    #[rstest]
    #[case::transport(&["latency", "--transport", "pigeon"], "floor:fixed-ring")]
    #[case::empty_transport(&["latency", "--transport", "raw:mq,"], "floor:fixed-ring")]
    #[case::wait(&["latency", "--wait", "patiently"], "adaptive")]
    #[case::size(&["latency", "--size", "big"], "0 to 128M")]
    #[case::no_senders(&["throughput", "--senders", "0"], "1..=8")]
    #[case::too_many_receivers(&["throughput", "--receivers", "9"], "1..=8")]
    #[case::no_batch(&["throughput", "--batch", "0"], "1..=4096")]
    #[case::batch_in_place(&["throughput", "--batch", "16", "--loan"], "--loan")]
    #[case::copy_and_in_place(&["latency", "--copy", "--loan"], "--loan")]
    #[case::many_in_a_round_trip(&["latency", "--senders", "2"], "--senders")]
    #[case::delay(&["tolerance", "--delay", "1ms,fast"], "0 to 1s")]
    #[case::too_many_in_flight(&["tolerance", "--in-flight", "1025"], "1..=1024")]
    #[case::size_of_an_opening(&["open", "--size", "8"], "--size")]
    fn bad_values_are_usage_errors_that_list_what_exists(#[case] arguments: &[&str], #[case] listed: &str) {
        let error = asked(arguments).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(listed), "{error}");
    }
}
