//! kubectl takes the flags that name a cluster before its verb too: `-n web get pods`. Here they belong to each verb.

use std::ffi::OsString;

/// Moves such flags behind the verb and the words that follow it.
pub fn verb_first(words: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut words: Vec<OsString> = words.into_iter().collect();
    let mut verb = 1;
    while let Some(width) = words.get(verb).and_then(|word| width(word.to_str()?)) {
        verb += width;
    }
    if verb > 1 && verb < words.len() {
        let is_flag = |word: &OsString| word.to_string_lossy().starts_with('-');
        let end = words[verb..].iter().position(is_flag).map_or(words.len(), |at| verb + at);
        words[1..end].rotate_left(verb - 1);
    }
    words
}

/// How many words a flag takes, if it is one of these.
fn width(word: &str) -> Option<usize> {
    let names = ["--namespace", "--context", "--kubeconfig"];
    let is_joined = |name: &&str| word.strip_prefix(*name).is_some_and(|rest| rest.starts_with('='));
    match word {
        "-n" => Some(2),
        word if names.contains(&word) => Some(2),
        word if names.iter().any(is_joined) || word.starts_with("-n") => Some(1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_before_the_verb_go_behind_its_words() {
        let check = |given: &str, expected: &str| {
            let words = verb_first(given.split(' ').map(OsString::from));
            assert_eq!(words.join(std::ffi::OsStr::new(" ")), expected);
        };
        check("podling -n web get pods -o wide", "podling get pods -n web -o wide");
        check("podling --kubeconfig f -nweb create cm a", "podling create cm a --kubeconfig f -nweb");
        check("podling --context=c exec a -- ls -n", "podling exec a --context=c -- ls -n");
        check("podling get pods -n web", "podling get pods -n web");
        check("podling --help", "podling --help");
        check("podling -n web", "podling -n web");
        check("podling -n", "podling -n");
    }
}
