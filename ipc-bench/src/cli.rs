//! The command line.

use crate::{
    link::Touch,
    transports::{TransportId, Waiting},
};
use clap::{Args, Parser, Subcommand};
use std::time::Duration;

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
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Round trips, one at a time: there over one channel and back over another
    Latency(Options),
    /// One way as fast as it goes, the receiver checking the sequence
    Throughput(Options),
    /// The near or the far process of a measurement
    #[command(name = "measuring-process", hide = true)]
    Peer {
        /// What it takes part in
        spec: String,
    },
}

#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Options {
    /// Transports to measure, separated by commas [default: all]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) transport: Vec<TransportId>,

    /// Message lengths in bytes, separated by commas: 8, 1K, 1M [default: 8,1K,8K, and with
    /// --loan 8,64K,1M]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = parse_size)]
    pub(crate) size: Vec<usize>,

    /// How a process waits for the other one, separated by commas [default: each way that a
    /// transport has]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) wait: Vec<Waiting>,

    /// Touch only the first byte of each message on each side, as programs do that build
    /// and use large messages in place
    #[arg(long)]
    pub(crate) loan: bool,

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

impl Options {
    pub(crate) fn transports(&self) -> Vec<TransportId> {
        or_default(&self.transport, TransportId::ALL)
    }

    pub(crate) fn sizes_bytes(&self) -> Vec<usize> {
        or_default(&self.size, if self.loan { &[8, 64 << 10, 1 << 20] } else { &[8, 1 << 10, 8 << 10] })
    }

    pub(crate) fn waits(&self) -> Vec<Waiting> {
        or_default(&self.wait, Waiting::ALL)
    }

    pub(crate) fn touch(&self) -> Touch {
        if self.loan { Touch::First } else { Touch::All }
    }

    pub(crate) fn watchdog(&self) -> Duration {
        Duration::from_secs(self.watchdog_s)
    }
}

/// The list, each value once, in the order given; `default` if it is empty.
fn or_default<T: Copy + PartialEq>(given: &[T], default: &[T]) -> Vec<T> {
    let mut values = Vec::new();
    for &value in if given.is_empty() { default } else { given } {
        if !values.contains(&value) {
            values.push(value);
        }
    }
    values
}

/// The longest message that is measured.
const MAX_SIZE_BYTES: usize = 16 << 20;

fn parse_size(text: &str) -> Result<usize, String> {
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
        .ok_or_else(|| "give 0 to 16M: bytes, or a number with K or M (8, 64, 1K, 64K, 1M)".into())
}

#[cfg(test)]
mod tests {
    use super::{Cli, Command, Options, parse_size};
    use crate::transports::{TransportId, Waiting};
    use clap::{CommandFactory, Parser};
    use rstest::rstest;

    fn latency(arguments: &[&str]) -> Result<Options, clap::Error> {
        let all = ["ipc-bench", "latency"].iter().chain(arguments);
        Cli::try_parse_from(all).map(|cli| match cli.command {
            Command::Latency(options) => options,
            other => panic!("not latency: {other:?}"),
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
    #[case("16M", 16 << 20)]
    fn reads_sizes(#[case] text: &str, #[case] bytes: usize) {
        assert_eq!(parse_size(text), Ok(bytes));
    }

    #[rstest]
    #[case::empty("")]
    #[case::no_digits("K")]
    #[case::negative("-1")]
    #[case::fraction("1.5K")]
    #[case::unknown_unit("1G")]
    #[case::too_long("17M")]
    #[case::one_byte_too_long("16777217")]
    #[case::overflow("99999999999999999999M")]
    fn refuses_other_sizes(#[case] text: &str) {
        assert!(parse_size(text).unwrap_err().contains("0 to 16M"));
    }

    #[test]
    fn lists_are_separated_by_commas_and_each_value_counts_once() {
        let options =
            latency(&["--transport", "raw:mq,floor:cache-line,raw:mq", "--size", "8,1K,8"]).unwrap();
        assert_eq!(options.transports(), [TransportId::RawMq, TransportId::CacheLine]);
        assert_eq!(options.sizes_bytes(), [8, 1024]);
        assert_eq!(options.waits(), Waiting::ALL);
    }

    #[rstest]
    #[case::transport(&["--transport", "pigeon"], "floor:fixed-ring")]
    #[case::empty_transport(&["--transport", "raw:mq,"], "floor:fixed-ring")]
    #[case::wait(&["--wait", "patiently"], "adaptive")]
    #[case::size(&["--size", "big"], "0 to 16M")]
    fn bad_values_are_usage_errors_that_list_what_exists(#[case] arguments: &[&str], #[case] listed: &str) {
        let error = latency(arguments).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(listed), "{error}");
    }
}
