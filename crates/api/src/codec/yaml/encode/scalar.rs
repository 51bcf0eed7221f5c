//! Scalars: which style a text needs so that it is read back as the same text, and that style written out.

use serde_json::Number;

use super::{WIDTH, Writer};

/// What a text allows and forbids.
struct Analysis {
    plain: bool,
    single: bool,
    block: bool,
}

pub(super) fn is_break(c: char) -> bool {
    matches!(c, '\r' | '\n' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

fn is_blank(c: char) -> bool {
    c == ' ' || c == '\t'
}

fn is_printable(c: char) -> bool {
    matches!(c, '\n' | ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fefe}' | '\u{ff00}'..='\u{fffd}')
}

fn analyze(text: &str) -> Analysis {
    let mut found = Analysis { plain: true, single: true, block: !text.is_empty() };
    if text.starts_with("---") || text.starts_with("...") {
        found.plain = false;
    }
    let edge = |c: char| c == ' ' || is_break(c);
    if text.starts_with(edge) || text.ends_with(edge) {
        found.plain = false;
    }
    found.block &= !text.ends_with(' ');
    let mut before = '\n';
    let mut chars = text.char_indices().peekable();
    while let Some((i, c)) = chars.next() {
        let blank_follows = chars.peek().is_none_or(|(_, next)| is_blank(*next));
        found.plain &= !is_indicator(c, i == 0, before, blank_follows) && !is_break(c);
        if is_break(before) && i > 0 && c == ' ' {
            (found.plain, found.single) = (false, false);
        }
        if (before == ' ' && is_break(c)) || !is_printable(c) {
            found = Analysis { plain: false, single: false, block: false };
            break;
        }
        before = c;
    }
    found
}

/// Whether a character at this place would be taken for syntax.
fn is_indicator(c: char, first: bool, before: char, blank_follows: bool) -> bool {
    match c {
        '#' | ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%' | '@' | '`' if first => true,
        '?' | '-' if first => blank_follows,
        ':' => blank_follows,
        '#' => is_blank(before) || is_break(before),
        _ => false,
    }
}

/// Whether the text, left bare, would be read as something other than a text.
fn is_other_type(text: &str) -> bool {
    const WORDS: [&str; 39] = [
        "", "y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON", "n", "N", "no", "No", "NO",
        "false", "False", "FALSE", "off", "Off", "OFF", "~", "null", "Null", "NULL", ".nan", ".NaN", ".NAN", ".inf",
        ".Inf", ".INF", "+.inf", "+.Inf", "+.INF", "-.inf", "-.Inf", "-.INF",
    ];
    match text.bytes().next() {
        None => true,
        Some(b'.') => WORDS.contains(&text) || is_float(text),
        Some(b'0'..=b'9' | b'+' | b'-') => {
            let bare = text.replace('_', "");
            WORDS.contains(&text) || is_timestamp(text) || is_integer(&bare) || is_float(&bare) || is_base_60(text)
        }
        _ => WORDS.contains(&text),
    }
}

fn is_integer(text: &str) -> bool {
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    if digits.starts_with(['+', '-']) {
        return false;
    }
    let most = if negative { 1 << 63 } else { u64::MAX };
    u64::from_str_radix(digits, radix).is_ok_and(|n| n <= most)
}

/// Also `3e555`, which some readers take for a number too large.
fn is_float(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (number, exponent) = unsigned.split_once(['e', 'E']).map_or((unsigned, None), |(n, e)| (n, Some(e)));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let mantissa = match number.split_once('.') {
        None => digits(number),
        Some(("", fraction)) => digits(fraction),
        Some((whole, fraction)) => digits(whole) && (fraction.is_empty() || digits(fraction)),
    };
    mantissa && exponent.is_none_or(|e| digits(e.strip_prefix(['+', '-']).unwrap_or(e))) && text.parse::<f64>().is_ok()
}

/// Sexagesimal numbers: other readers take `1:30` for 90.
fn is_base_60(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let mut parts = unsigned.split(':');
    let first = parts.next().unwrap_or_default();
    if !first.starts_with(|c: char| c.is_ascii_digit()) || !first.bytes().all(|b| b.is_ascii_digit() || b == b'_') {
        return false;
    }
    let rest: Vec<&str> = parts.collect();
    let Some((last, middle)) = rest.split_last() else { return false };
    let sixty = |part: &str| match part.as_bytes() {
        [d] => d.is_ascii_digit(),
        [t, d] => (b'0'..=b'5').contains(t) && d.is_ascii_digit(),
        _ => false,
    };
    let (whole, fraction) = last.split_once('.').unwrap_or((last, ""));
    middle.iter().all(|part| sixty(part)) && sixty(whole) && fraction.bytes().all(|b| b.is_ascii_digit() || b == b'_')
}

fn is_timestamp(text: &str) -> bool {
    let Some((date, time)) = text.split_at_checked(text.find(['T', 't', ' ']).unwrap_or(text.len())) else {
        return false;
    };
    let numbers: Vec<&str> = date.split('-').collect();
    let short = |part: &str| (1..=2).contains(&part.len()).then(|| part.parse::<u8>().ok()).flatten();
    let ([year, month, day], true) = (numbers.as_slice(), date.bytes().all(|b| b.is_ascii_digit() || b == b'-')) else {
        return false;
    };
    let (Ok(year), Some(month), Some(day), 4) = (year.parse::<i16>(), short(month), short(day), year.len()) else {
        return false;
    };
    let (Ok(month), Ok(day)) = (i8::try_from(month), i8::try_from(day)) else { return false };
    jiff::civil::Date::new(year, month, day).is_ok() && (time.is_empty() || is_time(time))
}

/// `T1:2:3.4Z`, or ` 1:2:3.4` without a zone.
fn is_time(text: &str) -> bool {
    let zoned = !text.starts_with(' ');
    let text = &text[1..];
    let (clock, zone) = text.split_at(text.find(['Z', '+', '-']).unwrap_or(text.len()));
    let (whole, fraction) = clock.split_once(['.', ',']).map_or((clock, None), |(w, f)| (w, Some(f)));
    let parts: Vec<&str> = whole.split(':').collect();
    let below = |part: &str, most: u8| {
        (1..=2).contains(&part.len())
            && part.bytes().all(|b| b.is_ascii_digit())
            && part.parse::<u8>().is_ok_and(|n| n < most)
    };
    let clock = matches!(parts.as_slice(), [h, m, s] if below(h, 24) && below(m, 60) && below(s, 60));
    let fraction = fraction.is_none_or(|f| !f.is_empty() && f.bytes().all(|b| b.is_ascii_digit()));
    let offset = |zone: &str| match zone.as_bytes() {
        [b'Z'] => true,
        [b'+' | b'-', _, _, b':', _, _] => below(&zone[1..3], 25) && below(&zone[4..6], 60),
        _ => false,
    };
    clock && fraction && if zoned { offset(zone) } else { zone.is_empty() }
}

/// A number as Go's `%g` writes it.
pub(super) fn number(number: &Number) -> String {
    let Some(float) = number.as_f64().filter(|_| number.is_f64()) else { return number.to_string() };
    if float != 0.0 && (float.abs() < 1e-4 || float.abs() >= 1e6) {
        let text = format!("{float:e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
        return format!("{mantissa}e{sign}{digits:0>2}");
    }
    float.to_string()
}

impl Writer {
    /// A key that fits on a line: bare or quoted, never broken.
    pub(super) fn key(&mut self, key: &str) {
        let allowed = analyze(key);
        match () {
            () if is_other_type(key) => self.double(key, None),
            () if allowed.plain => self.push(key),
            () if allowed.single => self.single(key, None),
            () => self.double(key, None),
        }
    }

    /// A text, whose further lines start at column `indent`.
    pub(super) fn text(&mut self, text: &str, indent: usize) {
        let allowed = analyze(text);
        match () {
            () if text.contains('\n') && allowed.block => self.literal(text, indent),
            () if text.contains('\n') || is_other_type(text) => self.double(text, Some(indent)),
            () if allowed.plain => self.folded(text, indent),
            () if allowed.single => self.single(text, Some(indent)),
            () => self.double(text, Some(indent)),
        }
    }

    /// Takes the space at the end of a full line for a line break. Whether it did.
    fn breaks(&mut self, indent: Option<usize>, before: Option<char>) -> bool {
        let Some(indent) = indent.filter(|_| self.column > WIDTH && before != Some(' ')) else { return false };
        self.line_end();
        self.pad(indent);
        true
    }

    fn folded(&mut self, text: &str, indent: usize) {
        let mut before = None;
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            if c != ' ' || chars.peek() == Some(&' ') || !self.breaks(Some(indent), before) {
                self.push_char(c);
            }
            before = Some(c);
        }
    }

    fn single(&mut self, text: &str, indent: Option<usize>) {
        self.push_char('\'');
        let mut before = None;
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            let inner = before.is_some() && chars.peek().is_some_and(|next| *next != ' ');
            if c != ' ' || !inner || !self.breaks(indent, before) {
                self.push(if c == '\'' { "''" } else { "" });
                if c != '\'' {
                    self.push_char(c);
                }
            }
            before = Some(c);
        }
        self.push_char('\'');
    }

    fn double(&mut self, text: &str, indent: Option<usize>) {
        self.push_char('"');
        let mut before = None;
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            let inner = before.is_some() && chars.peek().is_some();
            match c {
                ' ' if inner && self.breaks(indent, before) => {
                    if chars.peek() == Some(&' ') {
                        self.push_char('\\');
                    }
                }
                '"' | '\\' => self.push(&format!("\\{c}")),
                c if !is_printable(c) || is_break(c) => self.push(&escape(c)),
                c => self.push_char(c),
            }
            before = Some(c);
        }
        self.push_char('"');
    }

    /// Lines as they are below a bar; the signs behind it tell how the text begins and ends.
    fn literal(&mut self, text: &str, indent: usize) {
        self.push("|");
        if text.starts_with([' ', '\n']) {
            self.push("2");
        }
        match text.strip_suffix('\n') {
            None => self.push("-"),
            Some(rest) if rest.is_empty() || rest.ends_with('\n') => self.push("+"),
            Some(_) => {}
        }
        for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
            self.line_end();
            if !line.is_empty() {
                self.pad(indent);
                self.push(line);
            }
        }
        self.line_end();
    }
}

fn escape(c: char) -> String {
    let short = match c {
        '\0' => "\\0",
        '\u{7}' => "\\a",
        '\u{8}' => "\\b",
        '\t' => "\\t",
        '\n' => "\\n",
        '\u{b}' => "\\v",
        '\u{c}' => "\\f",
        '\r' => "\\r",
        '\u{1b}' => "\\e",
        '\u{85}' => "\\N",
        '\u{a0}' => "\\_",
        '\u{2028}' => "\\L",
        '\u{2029}' => "\\P",
        _ => "",
    };
    match u32::from(c) {
        _ if !short.is_empty() => short.to_owned(),
        code @ 0..=0xff => format!("\\x{code:02X}"),
        code @ 0x100..=0xffff => format!("\\u{code:04X}"),
        code => format!("\\U{code:08X}"),
    }
}
