//! Rules for single values: those of `api::name`, and a few more; and how what is wrong becomes a field error.

use std::net::IpAddr;

use api::field::{FieldError, Path};

pub(crate) use api::name::{
    Wrongs, config_key, dns_label, dns_subdomain, env_name, header_name, in_range, label_key, label_value,
    path_segment, port_name, port_number, prefix, user_id,
};

/// What is wrong with a value.
pub(crate) type Rule = fn(&str) -> Wrongs;

fn lower(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

/// A DNS search path, in which underscores are allowed.
pub(crate) fn search_domain(value: &str) -> Wrongs {
    let mut wrongs = Wrongs::new();
    if value.len() > 253 {
        wrongs.push("must be no more than 253 characters".to_owned());
    }
    let label = |text: &str| {
        let bytes = text.strip_prefix('_').unwrap_or(text).as_bytes();
        let edges = bytes.first().is_some_and(|b| lower(*b)) && bytes.last().is_some_and(|b| lower(*b));
        edges && bytes.iter().all(|b| lower(*b) || b"-_".contains(b))
    };
    if !value.split('.').all(label) {
        let what = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and \
                    must start and end with an alphanumeric character";
        let part = "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?";
        wrongs.push(api::name::pattern(what, &format!("{part}(\\.{part})*"), &["example.com"]));
    }
    wrongs
}

/// An IP address.
pub(crate) fn ip_address(value: &str) -> Wrongs {
    if value.parse::<IpAddr>().is_ok() {
        return Wrongs::new();
    }
    vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()]
}

/// Turns what is wrong with a value into field errors.
pub(crate) fn report(errors: &mut Vec<FieldError>, path: &Path, value: &str, wrongs: Wrongs) {
    errors.extend(wrongs.into_iter().map(|wrong| FieldError::invalid(path, value, wrong)));
}

/// The same for a number.
pub(crate) fn report_number(errors: &mut Vec<FieldError>, path: &Path, value: i64, wrongs: Wrongs) {
    errors.extend(wrongs.into_iter().map(|wrong| FieldError::invalid(path, value, wrong)));
}

/// A value that must be one of some words; an empty one is missing.
pub(crate) fn one_of(errors: &mut Vec<FieldError>, path: &Path, value: &str, words: &[&str]) {
    if value.is_empty() {
        errors.push(FieldError::required(path, ""));
    } else if !words.contains(&value) {
        errors.push(FieldError::not_supported(path, value, words));
    }
}
