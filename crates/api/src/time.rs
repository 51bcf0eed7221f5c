//! Times as the API writes and reads them, and ages as kubectl shows them. Knows no clock.

use jiff::{SignedDuration, Timestamp};

use crate::Error;

/// A Time: UTC, whole seconds.
pub fn format(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A MicroTime: UTC, six decimals.
pub fn format_micro(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// A time with nanoseconds whose trailing zeros are left out, as at the head of log lines.
pub fn format_nano(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S%.fZ").to_string()
}

/// Reads RFC 3339 as Go does: `T` and `Z` in upper case, any number of decimals, any offset.
pub fn parse(text: &str) -> Result<Timestamp, Error> {
    let bad = || {
        let quoted = crate::field::quote(text);
        Error::Malformed(format!(
            "parsing time {quoted} as \"2006-01-02T15:04:05Z07:00\": cannot parse {quoted} as \"2006\""
        ))
    };
    if !is_rfc3339(text.as_bytes()) {
        return Err(bad());
    }
    text.parse().map_err(|_| bad())
}

/// Reads a MicroTime, which has exactly six decimals.
pub fn parse_micro(text: &str) -> Result<Timestamp, Error> {
    let bad = |rest: &str, wanted: &str| {
        let (quoted, rest) = (crate::field::quote(text), crate::field::quote(rest));
        let form = "\"2006-01-02T15:04:05.000000Z07:00\"";
        Error::Malformed(format!("parsing time {quoted} as {form}: cannot parse {rest} as \"{wanted}\""))
    };
    let time = parse(text).map_err(|_| bad(text, "2006"))?;
    let Some(fraction) = text[19..].strip_prefix('.') else { return Err(bad(&text[19..], ".000000")) };
    match fraction.find(|c: char| !c.is_ascii_digit()) {
        Some(6) => Ok(time),
        Some(7..) => Err(bad(&fraction[6..], "Z07:00")),
        _ => Err(bad(&text[19..], ".000000")),
    }
}

fn is_rfc3339(text: &[u8]) -> bool {
    let Some((head, rest)) = text.split_at_checked(19) else { return false };
    let shape = head.iter().zip(b"0000-00-00T00:00:00").all(|(b, want)| match want {
        b'0' => b.is_ascii_digit(),
        want => b == want,
    });
    let zone = match rest.strip_prefix(b".") {
        None => rest,
        Some(fraction) => match fraction.iter().position(|b| !b.is_ascii_digit()) {
            Some(digits) if digits > 0 => &fraction[digits..],
            _ => return false,
        },
    };
    shape && (zone == b"Z" || is_offset(zone))
}

fn is_offset(zone: &[u8]) -> bool {
    matches!(zone, [b'+' | b'-', a, b, b':', c, d] if [a, b, c, d].iter().all(|x| x.is_ascii_digit()))
}

/// An age in two or three significant figures: `95s`, `4m10s`, `3h`, `2d3h`.
pub fn human_duration(age: SignedDuration) -> String {
    const DAY: i64 = 24;
    const YEAR: i64 = 365 * DAY;
    let seconds = age.as_secs();
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    match () {
        () if seconds < -1 => "<invalid>".to_owned(),
        () if seconds < 0 => "0s".to_owned(),
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => two(hours, "h", minutes % 60, "m"),
        () if hours < 2 * DAY => format!("{hours}h"),
        () if hours < 8 * DAY => two(hours / DAY, "d", hours % DAY, "h"),
        () if hours < 2 * YEAR => format!("{}d", hours / DAY),
        () if hours < 8 * YEAR => two(hours / YEAR, "y", hours / DAY % 365, "d"),
        () => format!("{}y", hours / YEAR),
    }
}

fn two(large: i64, large_unit: &str, small: i64, small_unit: &str) -> String {
    match small {
        0 => format!("{large}{large_unit}"),
        _ => format!("{large}{large_unit}{small}{small_unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{format, format_micro, format_nano, human_duration, parse};
    use jiff::SignedDuration;

    #[test]
    fn writes_what_it_reads() {
        let time = parse("2026-11-24T21:41:40.123456789+02:00").expect("good");
        assert_eq!(format(time), "2026-11-24T19:41:40Z");
        assert_eq!(format_micro(time), "2026-11-24T19:41:40.123456Z");
        assert_eq!(format_nano(time), "2026-11-24T19:41:40.123456789Z");
        assert_eq!(format_nano(parse("2026-11-24T19:41:40Z").expect("good")), "2026-11-24T19:41:40Z");
        assert_eq!(format_micro(parse("2026-11-24T19:41:40Z").expect("good")), "2026-11-24T19:41:40.000000Z");
    }

    #[test]
    fn refuses_what_go_refuses() {
        for bad in [
            "",
            "2026-11-24",
            "2026-11-24t19:41:40Z",
            "2026-11-24T19:41:40",
            "2026-11-24T19:41:40.Z",
            "2026-13-24T19:41:40Z",
            "2026-11-24T19:41:40Zx",
            "2026-11-24 19:41:40Z",
            "2026-11-24T19:41:40+0200",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ages() {
        let shown = |s: i64| human_duration(SignedDuration::from_secs(s));
        let table = [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (599, "9m59s"),
            (600, "10m"),
            (3 * 3600 - 1, "179m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 60, "3h1m"),
            (8 * 3600, "8h"),
            (47 * 3600, "47h"),
            (48 * 3600, "2d"),
            (49 * 3600, "2d1h"),
            (8 * 86400, "8d"),
            (729 * 86400, "729d"),
            (730 * 86400, "2y"),
            (731 * 86400, "2y1d"),
            (8 * 365 * 86400, "8y"),
        ];
        for (seconds, want) in table {
            assert_eq!(shown(seconds), want, "{seconds}");
        }
    }
}
