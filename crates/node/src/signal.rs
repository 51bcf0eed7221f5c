//! Signals by the names that images and pods use.

const NAMES: [(&str, i32); 31] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", TERM),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];
const TERM: i32 = 15;
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// The number of a signal (`SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`); one that is not known asks to end as any other.
pub(crate) fn number(name: &str) -> i32 {
    if let Ok(number) = name.parse::<i32>() {
        return if (1..=RTMAX).contains(&number) { number } else { TERM };
    }
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |prefix: &str, base: i32, sign: i32| {
        let offset = short.strip_prefix(prefix)?.trim_start_matches(['+', '-']);
        Some(base + sign * if offset.is_empty() { 0 } else { offset.parse().ok()? })
    };
    let known = NAMES.iter().find(|(known, _)| *known == short).map(|(_, number)| *number);
    let found = known.or_else(|| real_time("RTMIN", RTMIN, 1)).or_else(|| real_time("RTMAX", RTMAX, -1));
    found.filter(|number| (1..=RTMAX).contains(number)).unwrap_or(TERM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_numbers_and_nonsense() {
        let cases =
            [("SIGTERM", 15), ("quit", 3), ("9", 9), ("SIGRTMIN+3", 37), ("RTMAX-1", 63), ("SIGFOO", 15), ("99", 15)];
        for (name, expected) in cases {
            assert_eq!(number(name), expected, "{name}");
        }
    }
}
