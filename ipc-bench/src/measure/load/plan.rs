//! What is measured under load: which channels, at which rates, for how long.

use super::super::{
    experiment::Extent,
    plan::Contender,
    survey::{by_itself, waits_only_by},
};
use crate::{
    cli::{Common, or_default, parse_size},
    jobs::{crowd::SHORTEST_BYTES, transports::refuses},
    spec::{Job, LaneSpec, Shape, TransportId, Waiting},
};
use clap::Args;

/// What is measured if nothing is named.
const TRANSPORTS: &[TransportId] =
    &[TransportId::ShmSpsc, TransportId::ShmMpmc, TransportId::Mq, TransportId::Unix, TransportId::Sysv];

/// As it is asked for.
#[derive(Args, Clone, Debug)]
pub(crate) struct Asked {
    #[command(flatten)]
    pub(crate) common: Common,
    /// How a process waits for the other one, separated by commas [default: adaptive in shared
    /// memory, block on the kernel's channels]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    wait: Vec<Waiting>,
    /// Message lengths in bytes, separated by commas [default: 8]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = parse_size)]
    size: Vec<usize>,
    /// Messages per second, separated by commas: 500, 10K, 2M; ascending, and nothing more is
    /// measured of a channel that doesn't keep up at two of them [default: 1K, 2K, 5K and so on]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = parse_rate)]
    rate: Vec<u64>,
}

impl Asked {
    pub(crate) fn survey(&self) -> Load {
        let pace = if self.common.quick { Pace::SMOKE } else { Pace::DEFAULT };
        let mut rates = or_default(&self.rate, pace.rates);
        rates.sort_unstable();
        Load {
            transports: or_default(&self.common.transport, TRANSPORTS),
            waits: self.wait.clone(),
            sizes_bytes: or_default(&self.size, &[8]),
            rates,
            pace,
        }
    }
}

/// Messages per second: at most one a nanosecond.
fn parse_rate(text: &str) -> Result<u64, String> {
    let digits_len = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(digits_len);
    let unit = match unit.to_ascii_lowercase().as_str() {
        "" => Some(1),
        "k" => Some(1_000),
        "m" => Some(1_000_000),
        _ => None,
    };
    let rate = unit.and_then(|unit: u64| digits.parse::<u64>().ok()?.checked_mul(unit));
    rate.filter(|rate| (1..=1_000_000_000).contains(rate))
        .ok_or_else(|| "give 1 to 1000M messages per second: 500, 10K, 2M".into())
}

/// How long each rate is kept up, and which there are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) rounds: usize,
    pub(super) spare_rounds: usize,
    pub(super) run_ms: u64,
    /// Round trips of a probe of the floor.
    pub(super) probe: u64,
    rates: &'static [u64],
}

impl Pace {
    const SMOKE: Self = Self {
        rounds: 1,
        spare_rounds: 0,
        run_ms: 2,
        probe: 200,
        rates: &[10_000, 1_000_000, 1_000_000_000],
    };
    const QUICK: Self = Self {
        rounds: 3,
        spare_rounds: 1,
        run_ms: 40,
        probe: 4_000,
        rates: &[10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000, 30_000_000, 100_000_000],
    };
    const DEFAULT: Self = Self {
        rounds: 3,
        spare_rounds: 3,
        run_ms: 400,
        probe: 20_000,
        rates: &[
            1_000,
            2_000,
            5_000,
            10_000,
            20_000,
            50_000,
            100_000,
            200_000,
            500_000,
            1_000_000,
            2_000_000,
            5_000_000,
            10_000_000,
            20_000_000,
            50_000_000,
            100_000_000,
        ],
    };
}

/// What is to be measured.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    transports: Vec<TransportId>,
    /// As each does by itself, if empty.
    waits: Vec<Waiting>,
    sizes_bytes: Vec<usize>,
    pub(super) rates: Vec<u64>,
    pub(super) pace: Pace,
}

impl Load {
    /// Its part of a run of everything.
    pub(crate) fn of(extent: Extent) -> Self {
        let (pace, waits) = match extent {
            Extent::Smoke => (Pace::SMOKE, &[][..]),
            Extent::Quick => (Pace::QUICK, &[][..]),
            Extent::Full => (Pace::DEFAULT, Waiting::ALL),
        };
        Self {
            transports: TRANSPORTS.into(),
            waits: waits.into(),
            sizes_bytes: vec![8],
            rates: pace.rates.into(),
            pace,
        }
    }

    /// What is measured, or why not.
    pub(super) fn lanes(&self) -> Vec<Result<LaneSpec, String>> {
        let mut lanes = Vec::new();
        for &transport in &self.transports {
            if let Some(why) = cant(transport) {
                lanes.push(Err(why));
                continue;
            }
            let its = transport.traits().waits;
            let by_itself = [by_itself(transport)];
            let asked = if self.waits.is_empty() { &by_itself[..] } else { &self.waits };
            for &waiting in asked.iter().filter(|waiting| its.contains(waiting)) {
                lanes.extend(self.sizes_bytes.iter().map(|&len_bytes| lane(transport, waiting, len_bytes)));
            }
            if !asked.iter().any(|waiting| its.contains(waiting)) {
                lanes.push(Err(waits_only_by(transport)));
            }
        }
        lanes
    }
}

/// Why a transport has no part in it.
fn cant(transport: TransportId) -> Option<String> {
    use TransportId as T;
    let toolkit =
        matches!(transport, T::Mq | T::Sysv | T::Unix | T::ShmSpsc | T::ShmMpmc | T::ShmBroadcastReliable);
    (!toolkit).then(|| {
        format!(
            "{transport} isn't measured under load: that is for mq, sysv, unix, shm:spsc, shm:mpmc and \
             shm:broadcast-reliable, whose messages are all received"
        )
    })
}

fn lane(transport: TransportId, waiting: Waiting, len_bytes: usize) -> Result<LaneSpec, String> {
    if len_bytes < SHORTEST_BYTES {
        return Err(format!(
            "{transport} with {len_bytes} bytes: here messages are known by numbers of {SHORTEST_BYTES} bytes"
        ));
    }
    if let Some(why) = refuses(transport, len_bytes) {
        return Err(format!("{transport} with {len_bytes} bytes: {why}"));
    }
    let Contender { lane, .. } = Contender::new(transport, waiting, [Job::Meter; 2]);
    let shape = Shape::Crowd { senders: 1, receivers: 1 };
    Ok(LaneSpec { message_len_bytes: len_bytes, shape, ..lane })
}

#[cfg(test)]
mod tests {
    use super::{Load, TRANSPORTS, parse_rate};
    use crate::{
        measure::{experiment::Extent, survey::Survey},
        spec::{TransportId, Waiting},
    };
    use rstest::rstest;

    #[rstest]
    #[case("1", 1)]
    #[case("10K", 10_000)]
    #[case("2m", 2_000_000)]
    #[case("1000M", 1_000_000_000)]
    fn rates_are_messages_per_second(#[case] text: &str, #[case] rate: u64) {
        assert_eq!(parse_rate(text), Ok(rate));
    }

    #[rstest]
    fn other_rates_are_refused(#[values("", "0", "-5", "1.5K", "K", "1G", "1001M", "fast")] text: &str) {
        assert!(parse_rate(text).unwrap_err().contains("500, 10K, 2M"));
    }

    #[test]
    fn by_default_each_waits_as_it_does_by_itself_and_in_full_by_all_ways() {
        let waits = |load: &Load| -> Vec<_> {
            load.lanes()
                .into_iter()
                .map(|lane| lane.unwrap())
                .map(|lane| (lane.transport, lane.waiting))
                .collect()
        };
        let quick = waits(&Load::of(Extent::Quick));
        assert_eq!(quick.len(), TRANSPORTS.len());
        assert_eq!(quick[0], (TransportId::ShmSpsc, Waiting::Adaptive));
        assert!(quick.contains(&(TransportId::Mq, Waiting::Block)));
        assert_eq!(waits(&Load::of(Extent::Full)).len(), 3 + 3 + 2 + 2 + 2);
    }

    #[rstest]
    #[case::lossy(TransportId::ShmBroadcast, 8, Waiting::Block, "shm:broadcast isn't measured under load")]
    #[case::unnumbered(TransportId::Mq, 7, Waiting::Block, "numbers of 8 bytes")]
    #[case::too_long(TransportId::Mq, 64 << 20, Waiting::Block, "mq with 67108864 bytes")]
    #[case::wait(TransportId::Sysv, 8, Waiting::Adaptive, "sysv waits by spin, block only")]
    fn what_is_left_out_is_said(
        #[case] transport: TransportId,
        #[case] len_bytes: usize,
        #[case] waiting: Waiting,
        #[case] said: &str,
    ) {
        let load = Load {
            transports: vec![transport],
            sizes_bytes: vec![len_bytes],
            waits: vec![waiting],
            ..Load::of(Extent::Smoke)
        };
        let left_out = load.left_out();
        assert!(load.steps().is_empty() && left_out.len() == 1 && left_out[0].contains(said), "{left_out:?}");
    }
}
