//! Amounts of resources: `100m`, `1.5Gi`, `12e6`. Exact decimal numbers that are written back in one canonical form.

use std::cmp::Ordering;
use std::fmt;
use std::ops::{Add, Sub};

use crate::Error;

/// How an amount was written and is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `12e6`.
    DecimalExponent,
    /// `12Mi`.
    BinarySi,
    /// `12M`.
    DecimalSi,
}

/// An amount: `mantissa * 10^scale`. Ordered and equal by value; use [`Quantity::cmp`].
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    mantissa: i128,
    scale: i32,
    format: Format,
}

/// Nothing finer than this is kept; it is rounded away from zero.
const FINEST: i32 = -9;
const FORM: &str = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
const NUMBER: &str = "unable to parse numeric part of quantity";
const SUFFIX: &str = "unable to parse quantity's suffix";

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self { mantissa: 0, scale: 0, format: Format::DecimalSi };

    /// A whole number in the given form.
    pub fn new(value: i64, format: Format) -> Self {
        Self { mantissa: value.into(), scale: 0, format }
    }

    /// Thousandths, as CPU is counted.
    pub fn from_milli(value: i64) -> Self {
        Self { mantissa: value.into(), scale: -3, format: Format::DecimalSi }
    }

    /// Bytes, written with `Ki`, `Mi`, ….
    pub fn from_bytes(value: u64) -> Self {
        Self { mantissa: value.into(), scale: 0, format: Format::BinarySi }
    }

    /// Reads an amount.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let parts = Parts::split(text)?;
        let (multiplier, format) = suffix(parts.suffix)?;
        let negative = parts.negative;
        let magnitude = match multiplier {
            Multiplier::Ten(exponent) => decimal(&parts, exponent, format)?,
            Multiplier::Two(exponent) => binary(&parts, exponent)?,
        };
        Ok(if negative { magnitude.negated() } else { magnitude })
    }

    fn negated(self) -> Self {
        Self { mantissa: self.mantissa.saturating_neg(), ..self }
    }

    /// How it is written.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether it is nothing.
    pub fn is_zero(&self) -> bool {
        self.mantissa == 0
    }

    /// Whether it is less than nothing.
    pub fn is_negative(&self) -> bool {
        self.mantissa < 0
    }

    /// Whether it has no fraction.
    pub fn is_integer(&self) -> bool {
        self.scale >= 0 || ten(-self.scale).is_some_and(|unit| self.mantissa % unit == 0)
    }

    /// In units of `10^scale`, rounded away from zero, limited to 64 bits.
    fn scaled(&self, scale: i32) -> i64 {
        let shift = self.scale - scale;
        let value = if shift >= 0 {
            ten(shift).and_then(|unit| self.mantissa.checked_mul(unit)).unwrap_or(saturated(self.mantissa))
        } else {
            ten(-shift).map_or_else(|| self.mantissa.signum(), |unit| away_from_zero(self.mantissa, unit))
        };
        i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
    }

    /// As a whole number: bytes, pieces. Rounded away from zero.
    pub fn value(&self) -> i64 {
        self.scaled(0)
    }

    /// In thousandths, as CPU is counted. Rounded away from zero.
    pub fn milli_value(&self) -> i64 {
        self.scaled(-3)
    }
}

/// The sum, written as the first of the two (the second, if the first is nothing).
impl Add for Quantity {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        sum(self, other)
    }
}

/// The difference, written as the first of the two.
impl Sub for Quantity {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        sum(self, other.negated())
    }
}

fn sum(a: Quantity, b: Quantity) -> Quantity {
    let format = if a.is_zero() { b.format } else { a.format };
    let scale = a.scale.min(b.scale);
    Quantity { mantissa: raised(a, scale).saturating_add(raised(b, scale)), scale, format }
}

fn saturated(sign: i128) -> i128 {
    if sign < 0 { i128::MIN } else { i128::MAX }
}

fn ten(exponent: i32) -> Option<i128> {
    10_i128.checked_pow(u32::try_from(exponent).ok()?)
}

fn away_from_zero(value: i128, unit: i128) -> i128 {
    value / unit + if value % unit == 0 { 0 } else { value.signum() }
}

fn raised(quantity: Quantity, scale: i32) -> i128 {
    if quantity.is_zero() {
        return 0;
    }
    let factor = quantity.scale.checked_sub(scale).and_then(ten);
    factor.and_then(|unit| quantity.mantissa.checked_mul(unit)).unwrap_or(saturated(quantity.mantissa))
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
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
        let scale = self.scale.min(other.scale);
        let (a, b) = (raised(*self, scale), raised(*other, scale));
        // Beyond i128 both may saturate; the reach decides.
        let reach = |q: &Self| q.mantissa.signum() * (i128::from(q.scale) + i128::from(digits(q.mantissa)));
        if a == b && (a == i128::MAX || a == i128::MIN) { reach(self).cmp(&reach(other)) } else { a.cmp(&b) }
    }
}

fn digits(value: i128) -> u32 {
    value.unsigned_abs().checked_ilog10().map_or(0, |log| log + 1)
}

/// The pieces of the text of an amount.
struct Parts<'a> {
    negative: bool,
    whole: &'a str,
    fraction: &'a str,
    suffix: &'a str,
}

impl<'a> Parts<'a> {
    fn split(text: &'a str) -> Result<Self, Error> {
        let malformed = || Error::Malformed(FORM.to_owned());
        if text.is_empty() {
            return Err(malformed());
        }
        let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
        let (whole, rest) = unsigned.split_at(unsigned.find(not_digit).unwrap_or(unsigned.len()));
        let (fraction, suffix) = match rest.strip_prefix('.') {
            Some(rest) => rest.split_at(rest.find(not_digit).unwrap_or(rest.len())),
            None => ("", rest),
        };
        let letters = suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
        let exponent = letters.strip_prefix(['-', '+']).unwrap_or(letters);
        if exponent.contains(not_digit) {
            return Err(malformed());
        }
        Ok(Self { negative: text.starts_with('-'), whole: whole.trim_start_matches('0'), fraction, suffix })
    }

    /// Whole and fraction as one number; the fraction's length is the scale.
    fn number(&self) -> Result<(i128, i32), Error> {
        let bad = || Error::Malformed(NUMBER.to_owned());
        let mut number = 0_i128;
        for digit in self.whole.bytes().chain(self.fraction.bytes()) {
            number = number.checked_mul(10).and_then(|n| n.checked_add(i128::from(digit - b'0'))).ok_or_else(bad)?;
        }
        Ok((number, -i32::try_from(self.fraction.len()).map_err(|_| bad())?))
    }
}

fn not_digit(c: char) -> bool {
    !c.is_ascii_digit()
}

enum Multiplier {
    Ten(i32),
    Two(u32),
}

fn suffix(text: &str) -> Result<(Multiplier, Format), Error> {
    use Multiplier::{Ten, Two};
    let decimal = |exponent| Ok((Ten(exponent), Format::DecimalSi));
    let binary = |exponent| Ok((Two(exponent), Format::BinarySi));
    match text {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => match text.strip_prefix(['e', 'E']).map(str::parse::<i32>) {
            // Beyond this no amount of anything exists, and arithmetic on exponents stays far from its limits.
            Some(Ok(exponent)) if exponent.abs() < 1_000_000 => Ok((Ten(exponent), Format::DecimalExponent)),
            _ => Err(Error::Malformed(SUFFIX.to_owned())),
        },
    }
}

fn decimal(parts: &Parts<'_>, exponent: i32, format: Format) -> Result<Quantity, Error> {
    let (number, scale) = parts.number()?;
    Ok(rounded(number, scale + exponent, format))
}

fn rounded(number: i128, scale: i32, format: Format) -> Quantity {
    if scale >= FINEST {
        return Quantity { mantissa: number, scale, format };
    }
    let mantissa = ten(FINEST - scale).map_or_else(|| number.signum(), |unit| away_from_zero(number, unit));
    Quantity { mantissa, scale: FINEST, format }
}

fn binary(parts: &Parts<'_>, exponent: u32) -> Result<Quantity, Error> {
    const MOST: Quantity = Quantity { mantissa: i64::MAX as i128, scale: 0, format: Format::BinarySi };
    let (number, scale) = parts.number()?;
    let Some(number) = number.checked_mul(1 << exponent) else { return Ok(MOST) };
    let mut quantity = rounded(number, scale, Format::BinarySi).min(MOST);
    if !quantity.is_zero() && quantity < Quantity::new(1, Format::BinarySi) {
        quantity.format = Format::DecimalSi;
    }
    Ok(quantity)
}

/// The canonical form: the largest suffix without a fraction.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_zero() {
            return f.write_str("0");
        }
        let kilo = Self::new(1024, Format::BinarySi);
        let small = *self < kilo && *self > kilo.negated();
        match self.format {
            Format::BinarySi if !small && self.is_integer() => self.write_binary(f),
            Format::DecimalExponent => self.write_decimal(f, Format::DecimalExponent),
            _ => self.write_decimal(f, Format::DecimalSi),
        }
    }
}

impl Quantity {
    fn write_binary(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut number =
            if self.scale < 0 { ten(-self.scale).map_or(0, |unit| self.mantissa / unit) } else { raised(*self, 0) };
        let mut thousands = 0;
        while number % 1024 == 0 && thousands < 6 {
            number /= 1024;
            thousands += 1;
        }
        write!(f, "{number}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][thousands])
    }

    fn write_decimal(&self, f: &mut fmt::Formatter<'_>, format: Format) -> fmt::Result {
        let (mut number, mut exponent) = (self.mantissa, self.scale);
        while number % 10 == 0 {
            number /= 10;
            exponent += 1;
        }
        // One of i128's 38 digits may be lost to these two steps; the number then keeps its own exponent.
        while exponent.rem_euclid(3) != 0 {
            let Some(larger) = number.checked_mul(10) else { break };
            number = larger;
            exponent -= 1;
        }
        write!(f, "{number}")?;
        let known =
            [(-9, "n"), (-6, "u"), (-3, "m"), (0, ""), (3, "k"), (6, "M"), (9, "G"), (12, "T"), (15, "P"), (18, "E")];
        match known.iter().find(|(e, _)| *e == exponent && (format == Format::DecimalSi || *e == 0)) {
            Some((_, suffix)) => f.write_str(suffix),
            None if format == Format::DecimalExponent => write!(f, "e{exponent}"),
            None => Ok(()),
        }
    }
}

/// The text that an amount gets when it is read and written again. Upstream keeps some texts as they were written, though
/// they are not canonical (`1.500`, `+5`); so does this.
pub fn canonical(text: &str) -> Result<String, Error> {
    let quantity = Quantity::parse(text)?;
    Ok(if is_kept(text) { text.to_owned() } else { quantity.to_string() })
}

fn is_kept(text: &str) -> bool {
    let Ok(parts) = Parts::split(text) else { return false };
    let Ok((multiplier, _)) = suffix(parts.suffix) else { return false };
    let places = |text: &str| i32::try_from(text.len()).unwrap_or(i32::MAX);
    let whole = if parts.whole.is_empty() { "0" } else { parts.whole };
    match multiplier {
        Multiplier::Ten(exponent) => {
            let scale = exponent - places(parts.fraction);
            let short = places(whole) + places(parts.fraction) <= 18;
            let zeros = format!("{whole}{}", parts.fraction).ends_with("000");
            short && scale >= FINEST && scale % 3 == 0 && !zeros && !whole.starts_with('0')
        }
        Multiplier::Two(exponent) => {
            let fast =
                parts.fraction.is_empty() && 14 - places(whole) - i32::try_from(exponent).unwrap_or(60) * 3 / 10 >= 0;
            fast && whole.parse::<i64>().is_ok_and(|n| n & 7 != 0)
        }
    }
}

#[cfg(test)]
mod tests;
