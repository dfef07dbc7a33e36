//! Numbers as content formats and applications write them. Whole numbers of 64 bits are exact, all others are doubles.

use super::value::without_blanks;

/// Bounds the whole numbers that a double represents exactly.
const EXACT_IN_DOUBLE: f64 = 9_007_199_254_740_992.0;

/// Holds a number of any size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// Holds a whole number exactly.
    Whole(i128),
    /// Holds a number with a fraction, or a large one in decimal notation. It may be NaN or infinite.
    Double(f64),
    /// Holds the nearest double of a whole number that has more than 128 bits, or whose last digits are not known.
    Huge(f64),
}

impl Number {
    /// Reads a number from its text, in any form that JSON or a C library writes: `52`, `+52`, `52.0`, `5.2e1`. Returns
    /// `None` for anything else, and for a number that no double represents.
    pub fn parse(text: &str) -> Option<Self> {
        let text = without_blanks(text);
        // The parser of the standard library accepts the names of infinity and NaN, too.
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        if !unsigned.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
            return None;
        }
        if let Some(exact) = exact(text) {
            return Some(Self::Whole(exact));
        }
        text.parse().ok().filter(|number: &f64| number.is_finite()).map(Self::Double)
    }

    /// Converts a number of JSON. A whole number is exact over 64 bits unless it has a point or an exponent, with which
    /// the JSON parser makes it a double.
    pub(crate) fn of_json(number: &serde_json::Number) -> Self {
        match (number.as_i128(), number.as_f64().unwrap_or(f64::NAN)) {
            (Some(whole), _) => Self::Whole(whole),
            // From this size on, the double may stand for another whole number.
            (None, double) if double.abs() >= EXACT_IN_DOUBLE => Self::Huge(double),
            (None, double) => Self::Double(double),
        }
    }

    /// Returns mantissa × 10^exponent: exact if it is a whole number of 64 bits, else the nearest double. Returns
    /// `None` if no double represents it.
    pub(crate) fn decimal(mantissa: i128, exponent: i32) -> Option<Self> {
        if let Some(exact) = shifted(mantissa, exponent) {
            return Some(Self::Whole(exact));
        }
        let nearest: f64 = format!("{mantissa}e{exponent}").parse().ok()?;
        nearest.is_finite().then_some(Self::Double(nearest))
    }

    /// Returns the whole number that this is, without any loss. A double counts only in the range where it is exact.
    pub fn whole(self) -> Option<i128> {
        match self {
            Self::Whole(value) => Some(value),
            Self::Double(value) if value.fract() == 0.0 && value.abs() <= EXACT_IN_DOUBLE => Some(value as i128),
            Self::Double(_) | Self::Huge(_) => None,
        }
    }

    /// Returns the nearest double, which may be NaN or infinite.
    pub fn as_f64(self) -> f64 {
        match self {
            Self::Whole(value) => value as f64,
            Self::Double(value) | Self::Huge(value) => value,
        }
    }

    /// Returns the sum: exact for whole numbers, else in doubles. Returns `None` if an exact sum has more than 128
    /// bits.
    pub(crate) fn plus(self, other: Number) -> Option<Self> {
        match (self.whole(), other.whole()) {
            (Some(one), Some(other)) => one.checked_add(other).map(Self::Whole),
            (None | Some(_), None) | (None, Some(_)) => Some(Self::Double(self.as_f64() + other.as_f64())),
        }
    }
}

/// Returns the whole number that this double represents, if it is in the range where doubles are exact.
pub fn whole_of(value: f64) -> Option<i64> {
    (value.fract() == 0.0 && value.abs() < EXACT_IN_DOUBLE).then_some(value as i64)
}

/// Reads a decimal that is a whole number of 64 bits.
fn exact(text: &str) -> Option<i128> {
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (digits, exponent) = match text.split_once(['e', 'E']) {
        Some((digits, exponent)) => (digits, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let fraction = fraction.trim_end_matches('0');
    let exponent = exponent.checked_sub(i32::try_from(fraction.len()).ok()?)?;
    let mantissa = whole.bytes().chain(fraction.bytes()).try_fold(0_i128, |value, digit| {
        let digit = digit.is_ascii_digit().then(|| i128::from(digit - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })?;
    shifted(if negative { -mantissa } else { mantissa }, exponent)
}

/// Returns mantissa × 10^exponent if it is a whole number of 64 bits, signed or not.
fn shifted(mantissa: i128, exponent: i32) -> Option<i128> {
    if mantissa == 0 {
        return Some(0);
    }
    let power = 10_i128.checked_pow(exponent.unsigned_abs())?;
    let value = match exponent {
        0.. => mantissa.checked_mul(power)?,
        _ if mantissa % power == 0 => mantissa / power,
        _ => return None,
    };
    (i128::from(i64::MIN)..=i128::from(u64::MAX)).contains(&value).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_a_text_in_many_forms() {
        for (text, value) in [
            ("52", Number::Whole(52)),
            ("+52", Number::Whole(52)),
            ("-52.00", Number::Whole(-52)),
            ("9223372036854775807.0", Number::Whole(i64::MAX.into())),
            ("9007199254740993.0", Number::Whole(9_007_199_254_740_993)),
            ("900719925474099.3e1", Number::Whole(9_007_199_254_740_993)),
            ("18446744073709551615", Number::Whole(u64::MAX.into())),
            ("18446744073709551616", Number::Double(18_446_744_073_709_551_616.0)),
            (" 52\r\n", Number::Whole(52)),
            ("52\0", Number::Whole(52)),
            ("5.2e1", Number::Whole(52)),
            ("520E-1", Number::Whole(52)),
            ("525e-1", Number::Double(52.5)),
            ("+21.5", Number::Double(21.5)),
            (".5", Number::Double(0.5)),
            ("0e999999999", Number::Whole(0)),
            ("123456789012345678901234567890", Number::Double(1.234_567_890_123_456_8e29)),
        ] {
            assert_eq!(Number::parse(text), Some(value), "{text:?}");
        }
        for text in ["", " ", "+", "-.", ".", "5 2", "0x10", "inf", "-inf", "NaN", "--5", "1e400", "5,2", "1_000", "1e"]
        {
            assert_eq!(Number::parse(text), None, "{text:?}");
        }
        assert_eq!(Number::parse("1e999999999"), None);
        assert_eq!(Number::parse("1e-999999999"), Some(Number::Double(0.0)));
    }

    #[test]
    fn a_decimal_fraction_is_exact_where_it_is_whole() {
        for (mantissa, exponent, value) in [
            (8, 1, Some(Number::Whole(80))),
            (-8150, -2, Some(Number::Double(-81.5))),
            (-8100, -2, Some(Number::Whole(-81))),
            (1, 300, Some(Number::Double(1e300))),
            (1, 400, None),
        ] {
            assert_eq!(Number::decimal(mantissa, exponent), value, "{mantissa}e{exponent}");
        }
    }

    #[test]
    fn a_sum_of_whole_numbers_is_exact() {
        let large = Number::Whole(9_007_199_254_740_993);
        assert_eq!(large.plus(Number::Whole(2)), Some(Number::Whole(9_007_199_254_740_995)));
        assert_eq!(Number::Double(20.0).plus(Number::Whole(-1)), Some(Number::Whole(19)));
        assert_eq!(Number::Double(0.5).plus(Number::Whole(20)), Some(Number::Double(20.5)));
        assert_eq!(Number::Whole(i128::MAX).plus(Number::Whole(1)), None);
    }
}
