//! The order of keys: letters after everything else, digits by the number they form, so that `a2` precedes `a10`.

use std::cmp::Ordering;

pub(super) fn compare(a: &str, b: &str) -> Ordering {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let Some(i) = (0..a.len().min(b.len())).find(|i| a[*i] != b[*i]) else { return a.len().cmp(&b.len()) };
    match (a[i].is_alphabetic(), b[i].is_alphabetic()) {
        (true, true) => return a[i].cmp(&b[i]),
        (true, false) => return Ordering::Greater,
        (false, true) => return Ordering::Less,
        (false, false) => {}
    }
    // Where one has a zero, digits before it decide whether it leads a number or stands within one.
    let zero = a[i] == '0' || b[i] == '0';
    let within = a[..i].iter().rev().take_while(|c| c.is_ascii_digit()).any(|c| *c != '0');
    let base = i64::from(zero && within);
    let ((an, ai), (bn, bi)) = (number(&a, i, base), number(&b, i, base));
    an.cmp(&bn).then(ai.cmp(&bi)).then(a[i].cmp(&b[i]))
}

/// The number that starts at `i`, behind the digits of `base`, and where it ends.
fn number(text: &[char], i: usize, base: i64) -> (i64, usize) {
    let digits = text[i..].iter().map_while(|c| c.to_digit(10));
    let (mut number, mut end) = (base, i);
    for digit in digits {
        number = number.wrapping_mul(10).wrapping_add(digit.into());
        end += 1;
    }
    (number, end)
}

#[cfg(test)]
mod tests {
    use super::compare;

    #[test]
    fn natural() {
        let mut keys = ["b", "a10", "a2", "a", "A", "a-b", "a.b", "a0", "a01", "a1", "_x", "1", "ab", "a/b"];
        keys.sort_by(|a, b| compare(a, b));
        assert_eq!(keys.join(" "), "_x 1 A a a-b a.b a/b a0 a1 a01 a2 a10 ab b");
    }
}
