//! Durations, sizes and permission bits as people write and read them.

use std::{fmt, time::Duration};

/// Reads `250ms`, `1.5s`, `2m`, `1h`, or a bare `0`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split_unit(text);
    let value: f64 = parse_decimal(number)
        .ok_or("write a number and a unit, such as 250ms, 5s, 2m or 1h (0 means don't wait)")?;
    let unit_s = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "" if value == 0.0 => 0.0,
        "" => return Err("the unit is missing: write ms, s, m or h after the number".into()),
        _ => return Err(format!("unknown unit {unit:?}: write ms, s, m or h")),
    };
    Duration::try_from_secs_f64(value * unit_s).map_err(|_| "too long a time".into())
}

/// Reads `4096`, `64K` or `64KiB`, `1M`, `2G`, `1T`: powers of 1,024.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let (number, unit) = split_unit(text);
    let shift = match unit {
        "" | "B" => 0,
        "K" | "k" | "KiB" => 10,
        "M" | "m" | "MiB" => 20,
        "G" | "g" | "GiB" => 30,
        "T" | "t" | "TiB" => 40,
        _ => return Err(format!("unknown unit {unit:?}: write K, M, G or T (or KiB, MiB, GiB, TiB)")),
    };
    let value: u64 = number.parse().map_err(|_| "write a number of bytes, such as 65536, 64K or 1MiB")?;
    value.checked_mul(1 << shift).ok_or_else(|| "more bytes than there are".into())
}

/// Reads permission bits in octal: `600`, `0600`, `0o600`.
pub(crate) fn parse_mode(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    match u32::from_str_radix(digits, 8) {
        Ok(mode) if mode <= 0o777 && !digits.starts_with('+') => Ok(mode),
        _ => Err("write permission bits in octal, from 000 to 777, such as 0660".into()),
    }
}

/// Reads the number of a user or a group.
pub(crate) fn parse_id(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| "write its number, as `id NAME` or `getent group NAME` shows it".into())
}

/// A size for people: exact, in the largest unit that keeps it whole, else rounded.
pub(crate) struct Size(pub(crate) u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u32, &str); 3] = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
        let in_unit = |shift: u32| self.0 as f64 / (1_u64 << shift) as f64;
        // From 0.9995 on it rounds to 1.0.
        let unit = UNITS.into_iter().find(|&(shift, _)| in_unit(shift) >= 0.9995);
        let text = match unit {
            Some((shift, unit)) if self.0 % (1 << shift) == 0 => format!("{} {unit}", self.0 >> shift),
            Some((shift, unit)) => format!("{:.1} {unit}", in_unit(shift)),
            None => format!("{} B", self.0),
        };
        f.pad(&text)
    }
}

/// A time span for people, in three digits or so.
pub(crate) struct Span(pub(crate) Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ns = self.0.as_nanos() as f64;
        let text = match ns {
            ..1e3 => format!("{ns:.0} ns"),
            ..1e5 => format!("{:.1} µs", ns / 1e3),
            ..1e6 => format!("{:.0} µs", ns / 1e3),
            ..1e8 => format!("{:.1} ms", ns / 1e6),
            ..1e9 => format!("{:.0} ms", ns / 1e6),
            _ => format!("{:.2} s", ns / 1e9),
        };
        f.pad(&text)
    }
}

/// A whole number with its thousands apart: `1,048,576`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// So many of a thing: `1 message`, `2,000 messages`.
pub(crate) fn counted(number: u64, thing: &str) -> String {
    format!("{} {thing}{}", grouped(number), if number == 1 { "" } else { "s" })
}

fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    text.split_at(end)
}

/// Digits with at most one point in them; not `inf`, `1e3` and what else a float may be.
fn parse_decimal(text: &str) -> Option<f64> {
    let plain = text.starts_with(|c: char| c.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::{Size, Span, grouped, parse_duration, parse_mode, parse_size};
    use rstest::rstest;
    use std::time::Duration;

    #[rstest]
    #[case("0", 0)]
    #[case("0s", 0)]
    #[case("250ms", 250_000)]
    #[case("5s", 5_000_000)]
    #[case("1.5s", 1_500_000)]
    #[case("2m", 120_000_000)]
    #[case("1h", 3_600_000_000)]
    #[case("7us", 7)]
    fn durations(#[case] text: &str, #[case] us: u64) {
        assert_eq!(parse_duration(text), Ok(Duration::from_micros(us)));
    }

    #[rstest]
    #[case("")]
    #[case("5")]
    #[case("s")]
    #[case("-1s")]
    #[case("5 s")]
    #[case("5d")]
    #[case("1.2.3s")]
    #[case(".5s")]
    #[case("infs")]
    #[case("99999999999999999999999h")]
    fn not_durations(#[case] text: &str) {
        assert!(parse_duration(text).is_err());
    }

    #[rstest]
    #[case("0", 0)]
    #[case("4096", 4096)]
    #[case("64K", 65536)]
    #[case("64KiB", 65536)]
    #[case("1M", 1 << 20)]
    #[case("1MiB", 1 << 20)]
    #[case("2g", 2 << 30)]
    fn sizes(#[case] text: &str, #[case] bytes: u64) {
        assert_eq!(parse_size(text), Ok(bytes));
    }

    #[rstest]
    #[case("")]
    #[case("-1")]
    #[case("K")]
    #[case("1.5M")]
    #[case("1KB")]
    #[case("18446744073709551615K")]
    fn not_sizes(#[case] text: &str) {
        assert!(parse_size(text).is_err());
    }

    #[rstest]
    #[case("600", 0o600)]
    #[case("0660", 0o660)]
    #[case("0o777", 0o777)]
    fn modes(#[case] text: &str, #[case] mode: u32) {
        assert_eq!(parse_mode(text), Ok(mode));
    }

    #[rstest]
    #[case("")]
    #[case("8")]
    #[case("1777")]
    #[case("+7")]
    #[case("rw")]
    fn not_modes(#[case] text: &str) {
        assert!(parse_mode(text).is_err());
    }

    #[rstest]
    #[case(0, "0 B")]
    #[case(1023, "1023 B")]
    #[case(1024, "1 KiB")]
    #[case(1 << 20, "1 MiB")]
    #[case((1 << 20) - 16, "1.0 MiB")]
    #[case(1536, "1.5 KiB")]
    fn sizes_for_people(#[case] bytes: u64, #[case] text: &str) {
        assert_eq!(Size(bytes).to_string(), text);
    }

    #[rstest]
    #[case(640, "640 ns")]
    #[case(6_400, "6.4 µs")]
    #[case(640_000, "640 µs")]
    #[case(6_400_000, "6.4 ms")]
    #[case(1_500_000_000, "1.50 s")]
    fn spans_for_people(#[case] ns: u64, #[case] text: &str) {
        assert_eq!(Span(Duration::from_nanos(ns)).to_string(), text);
    }

    #[rstest]
    #[case(0, "0")]
    #[case(999, "999")]
    #[case(1_000, "1,000")]
    #[case(1_048_576, "1,048,576")]
    fn thousands(#[case] number: u64, #[case] text: &str) {
        assert_eq!(grouped(number), text);
    }
}
