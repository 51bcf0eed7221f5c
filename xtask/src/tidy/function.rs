//! Lengths of functions.

/// A function and its length.
pub(super) struct Function {
    /// File, line and name.
    pub(super) place: String,
    /// From its first word to its last brace.
    pub(super) lines: usize,
}

/// The functions of formatted source: each ends at the brace below its first word.
pub(super) fn lengths(shown: &str, lines: &[&str]) -> Vec<Function> {
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let Some(name) = name(line.trim_start()) else { continue };
        let head = lines[start..].iter().find(|line| line.ends_with(['{', ';', '}']));
        if head.is_none_or(|line| line.ends_with(';')) {
            continue;
        }
        let closing = format!("{}}}", " ".repeat(indent));
        let end = lines[start..].iter().position(|line| *line == closing || line.trim_end().ends_with(" {}"));
        if let Some(length) = end {
            found.push(Function { place: format!("{shown}:{} {name}", start + 1), lines: length + 1 });
        }
    }
    found
}

/// The name of the function that a line begins.
fn name(line: &str) -> Option<&str> {
    const BEFORE: [&str; 6] = ["pub(crate)", "pub(super)", "pub", "const", "async", "unsafe"];
    let mut words = line.split(' ').skip_while(|word| BEFORE.contains(word));
    if words.next() != Some("fn") {
        return None;
    }
    words.next()?.split(['(', '<']).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_measured() {
        let lines = ["impl X {", "    pub(crate) async fn a(&self) -> u8 {", "        1", "    }", "}", "fn b() {}"];
        let found: Vec<_> = lengths("f", &lines).into_iter().map(|f| (f.place, f.lines)).collect();
        assert_eq!(found, [("f:2 a".to_owned(), 3), ("f:6 b".to_owned(), 1)]);
    }
}
