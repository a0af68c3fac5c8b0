//! Resource quantities such as `500m`, `1.5Gi` and `1e3`.
//!
//! A quantity is a whole number of billionths and the notation it was written in, which decides how it is written back. As
//! upstream: finer fractions round up (away from zero), and magnitudes are capped at 2^63-1.

use std::cmp::Ordering;
use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::str::FromStr;

use serde_json::Value;

const NANO: i128 = 1_000_000_000;
const MAX_NANOS: i128 = i64::MAX as i128 * NANO;

/// An amount of a resource. Two quantities are equal when their amounts are, whatever the notation.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// The notation of a [`Quantity`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// `m`, `k`, `M`, ...
    DecimalSi,
    /// `Ki`, `Mi`, ...
    BinarySi,
    /// `e3`, ...
    DecimalExponent,
}

/// A text that is not a quantity. The messages are upstream's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not of the form number, suffix.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// No number before the suffix.
    #[error("unable to parse numeric part of quantity")]
    Number,
    /// No such suffix.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

const DECIMAL_SUFFIXES: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
const BINARY_SUFFIXES: [(&str, u32); 6] =
    [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];

// === impl Quantity ===

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self { nanos: 0, format: Format::DecimalSi };

    /// Whole units, in decimal notation.
    pub fn from_units(units: i64) -> Self {
        Self { nanos: i128::from(units) * NANO, format: Format::DecimalSi }
    }

    /// Thousandths, in decimal notation: CPU.
    pub fn from_milli(milli: i64) -> Self {
        Self { nanos: i128::from(milli) * (NANO / 1000), format: Format::DecimalSi }
    }

    /// Whole units, in binary notation: memory and storage.
    pub fn from_bytes(bytes: i64) -> Self {
        Self { nanos: i128::from(bytes) * NANO, format: Format::BinarySi }
    }

    /// From a JSON string or number.
    ///
    /// # Errors
    /// It is neither, or not a quantity.
    pub fn from_value(value: &Value) -> Result<Self, QuantityError> {
        match value {
            Value::String(text) => text.parse(),
            Value::Number(number) => number.to_string().parse(),
            _ => Err(QuantityError::Format),
        }
    }

    /// Whole units, rounded up: bytes, pods.
    pub fn to_units(self) -> i64 {
        self.scaled(NANO)
    }

    /// Bytes: the same as [`Self::to_units`].
    pub fn to_bytes(self) -> i64 {
        self.to_units()
    }

    /// Thousandths, rounded up: CPU.
    pub fn to_milli(self) -> i64 {
        self.scaled(NANO / 1000)
    }

    /// Whether it is nothing.
    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// Whether it is less than nothing.
    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// Whether it is a whole number of units.
    pub fn is_integer(self) -> bool {
        self.nanos % NANO == 0
    }

    /// How many times `other` it is; infinite or not a number if `other` is nothing.
    #[allow(clippy::cast_precision_loss, reason = "a ratio is for people and comparisons, not for sums")]
    pub fn ratio(self, other: Self) -> f64 {
        self.nanos as f64 / other.nanos as f64
    }

    fn scaled(self, unit: i128) -> i64 {
        let value = divide_away_from_zero(self.nanos, unit);
        i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
    }
}

fn divide_away_from_zero(value: i128, by: i128) -> i128 {
    let rest = i128::from(value % by != 0);
    value / by + rest * value.signum()
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let (negative, unsigned) = match text.as_bytes().first() {
            None => return Err(QuantityError::Format),
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            Some(_) => (false, text),
        };
        let split = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(split);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty() && !suffix.is_empty()) {
            return Err(QuantityError::Format);
        }
        if whole.is_empty() && fraction.is_empty() {
            return Err(if number.is_empty() { QuantityError::Format } else { QuantityError::Number });
        }
        if !suffix.bytes().all(|b| b"eEinumkKMGTP+-0123456789".contains(&b)) {
            return Err(QuantityError::Format);
        }
        let (scale, format) = suffix_scale(suffix)?;
        let nanos = nanos(whole, fraction, scale).min(MAX_NANOS);
        Ok(Self { nanos: if negative { -nanos } else { nanos }, format })
    }
}

/// What a suffix multiplies by.
#[derive(Clone, Copy)]
enum Scale {
    Ten(i32),
    Two(u32),
}

fn suffix_scale(suffix: &str) -> Result<(Scale, Format), QuantityError> {
    if let Some((_, power)) = DECIMAL_SUFFIXES.iter().find(|(s, _)| *s == suffix) {
        return Ok((Scale::Ten(*power), Format::DecimalSi));
    }
    if let Some((_, power)) = BINARY_SUFFIXES.iter().find(|(s, _)| *s == suffix) {
        return Ok((Scale::Two(*power), Format::BinarySi));
    }
    let exponent = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError::Suffix)?;
    let power: i32 = exponent.parse().map_err(|_| QuantityError::Suffix)?;
    Ok((Scale::Ten(power), Format::DecimalExponent))
}

/// Billionths of `whole.fraction * scale`, rounded up, saturating.
fn nanos(whole: &str, fraction: &str, scale: Scale) -> i128 {
    match scale {
        Scale::Ten(power) => nanos_decimal(whole, fraction, i64::from(power) + 9),
        Scale::Two(power) => {
            // 18 digits of fraction times 2^60 still fit; what comes after them can only make the result round up.
            let (digits, rest) = fraction.split_at(fraction.len().min(18));
            let fraction = nanos_decimal("", digits, 18) << power;
            let lost = rest.bytes().any(|b| b != b'0');
            let units = nanos_decimal(whole, "", 0).saturating_mul(1 << power);
            let nanos = fraction / NANO + i128::from(fraction % NANO != 0 || lost);
            units.saturating_mul(NANO).saturating_add(nanos)
        }
    }
}

/// `whole.fraction * 10^power`, rounded up, saturating.
fn nanos_decimal(whole: &str, fraction: &str, power: i64) -> i128 {
    let mut value: i128 = 0;
    let mut lost = false;
    let first = power + whole.len() as i64 - 1;
    for (at, digit) in whole.bytes().chain(fraction.bytes()).enumerate() {
        let digit = i128::from(digit - b'0');
        if first - (at as i64) < 0 {
            lost |= digit != 0;
        } else {
            value = value.saturating_mul(10).saturating_add(digit);
        }
    }
    // Digits that are not written: zeros down to the unit.
    for _ in 0..(power - fraction.len() as i64).clamp(0, 40) {
        value = value.saturating_mul(10);
    }
    value.saturating_add(i128::from(lost))
}

impl fmt::Display for Quantity {
    /// The canonical text: the largest suffix that leaves a whole number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        // Upstream writes small and broken binary quantities in decimal, to avoid rounding.
        if self.format == Format::BinarySi && self.is_integer() && self.nanos.abs() >= 1024 * NANO {
            let mut value = self.nanos / NANO;
            let mut suffix = "";
            for (next, _) in BINARY_SUFFIXES {
                if value % 1024 != 0 {
                    break;
                }
                value /= 1024;
                suffix = next;
            }
            return write!(f, "{value}{suffix}");
        }
        let (mut value, mut power) = (self.nanos, -9);
        while value % 1000 == 0 && power < 18 {
            value /= 1000;
            power += 3;
        }
        if self.format == Format::DecimalExponent && power != 0 {
            return write!(f, "{value}e{power}");
        }
        let suffix = DECIMAL_SUFFIXES.iter().find(|(_, p)| *p == power).map_or("", |(s, _)| s);
        write!(f, "{value}{suffix}")
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl Add for Quantity {
    type Output = Self;

    /// In the notation of the left side, or of the right one if the left is zero.
    fn add(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nanos: self.nanos + other.nanos, format }
    }
}

impl Sub for Quantity {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nanos: self.nanos - other.nanos, format }
    }
}

impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl SubAssign for Quantity {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Add::add)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Quantity {
        text.parse().unwrap_or_else(|err| panic!("{text}: {err}"))
    }

    #[test]
    fn texts_are_written_back_canonically() {
        let cases = [
            ("0", "0"),
            ("0Ki", "0"),
            ("1000m", "1"),
            ("0.5", "500m"),
            ("1500m", "1500m"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("1023Ki", "1023Ki"),
            ("0.5Ki", "512"),
            ("100", "100"),
            ("1e3", "1e3"),
            ("1E6", "1e6"),
            ("12e2", "1200"),
            ("10000k", "10M"),
            ("1E", "1E"),
            ("-1Gi", "-1Gi"),
            ("+2", "2"),
            ("1.", "1"),
            (".5", "500m"),
            ("0.0000000001", "1n"),
            ("1.1Ki", "1126400m"),
            ("100000E", "9223372036854775807"),
            ("9223372036854775807", "9223372036854775807"),
        ];
        for (text, canonical) in cases {
            assert_eq!(parse(text).to_string(), canonical, "{text}");
        }
    }

    #[test]
    fn what_is_not_a_quantity_is_refused() {
        let cases = [
            ("", QuantityError::Format),
            ("abc", QuantityError::Format),
            ("1.2.3", QuantityError::Format),
            ("1 Gi", QuantityError::Format),
            ("1GB", QuantityError::Format),
            ("1ki", QuantityError::Suffix),
            ("1e", QuantityError::Suffix),
            ("1MM", QuantityError::Suffix),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<Quantity>(), Err(error), "{text}");
        }
    }

    #[test]
    fn canonical_text_means_the_same_amount() {
        for whole in [0_u64, 1, 7, 10, 1000, 1023, 1024, 1025, 4096, 123_456_789] {
            for suffix in ["n", "u", "m", "", "k", "M", "G", "Ki", "Mi", "Gi", "e3", "e-3"] {
                let quantity = parse(&format!("{whole}{suffix}"));
                let again = parse(&quantity.to_string());
                assert_eq!(quantity, again, "{whole}{suffix}");
                assert_eq!(quantity.to_string(), again.to_string(), "{whole}{suffix}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_amount_survives_its_canonical_text(
            whole in 0_u64..1_000_000_000, fraction in "[0-9]{0,6}", suffix in "(n|u|m|k|M|G|Ki|Mi|Gi|Ti|e[0-9]|)",
        ) {
            let quantity = parse(&format!("{whole}.{fraction}{suffix}"));
            let again = parse(&quantity.to_string());
            prop_assert_eq!(quantity, again);
            prop_assert_eq!(quantity.to_string(), again.to_string());
        }

        #[test]
        fn no_text_panics(text in ".{0,24}") {
            let _ = text.parse::<Quantity>();
        }
    }

    #[test]
    fn sums_and_conversions_round_up() {
        let sum: Quantity = ["100m", "1", "250m"].into_iter().map(parse).sum();
        assert_eq!((sum.to_string().as_str(), sum.to_milli(), sum.to_units()), ("1350m", 1350, 2));
        assert_eq!((parse("1Gi") - parse("256Mi")).to_string(), "768Mi");
        assert_eq!(parse("64Mi").to_bytes(), 67_108_864);
        assert_eq!(parse("7.000000000000000000000001Ei").to_units(), (7 << 60) + 1);
        assert!(parse("1Gi") > parse("1G") && parse("1") == parse("1000m"));
    }
}
