//! YAML as kubectl reads and writes it: YAML 1.1's words and numbers in, the reference's layout out.

mod encode;

use serde_json::{Number, Value};
use serde_saphyr::DuplicateKeyPolicy;

use crate::Error;

pub use encode::encode;

/// Reads all documents; empty ones are skipped. A key that is there twice is an error.
pub fn decode(text: &str) -> Result<Vec<Value>, Error> {
    let options = serde_saphyr::options! {
        legacy_octal_numbers: true,
        duplicate_keys: DuplicateKeyPolicy::Error,
        with_snippet: false,
    };
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options).map_err(|e| malformed(&e))?;
    Ok(documents.into_iter().filter(|d| !d.is_null()).map(whole_numbers).collect())
}

fn malformed(error: &serde_saphyr::Error) -> Error {
    // The library's advice is for programmers.
    let text = error.without_snippet().to_string().replace(", set DuplicateKeyPolicy in Options if acceptable", "");
    match error.location() {
        Some(at) if !text.contains("line ") => {
            Error::Malformed(format!("error parsing YAML: line {} column {}: {text}", at.line(), at.column()))
        }
        _ => Error::Malformed(format!("error parsing YAML: {text}")),
    }
}

/// JSON has one kind of number, and Go prints a whole one without a point: `1e3` in a file is the integer 1000.
fn whole_numbers(value: Value) -> Value {
    match value {
        Value::Number(number) => Value::Number(whole_number(number)),
        Value::Array(items) => items.into_iter().map(whole_numbers).collect(),
        Value::Object(fields) => fields.into_iter().map(|(k, v)| (k, whole_numbers(v))).collect(),
        other => other,
    }
}

fn whole_number(number: Number) -> Number {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match number.as_f64() {
        #[expect(clippy::cast_possible_truncation, reason = "it is whole and within the range where f64 is exact")]
        Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() <= EXACT => Number::from(float as i64),
        _ => number,
    }
}

#[cfg(test)]
mod tests {
    use super::decode;
    use expect_test::{Expect, expect};
    use std::path::{Path, PathBuf};

    fn check(text: &str, want: &Expect) {
        let shown = match decode(text) {
            Ok(documents) => documents.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
            Err(error) => format!("error: {error}"),
        };
        want.assert_eq(&shown);
    }

    #[test]
    fn words_and_numbers_of_yaml_1_1() {
        check(
            "[yes, on, No, off, 0644, 0o644, 0x1f, 0b11, 1_000, 1e3, 1.0, 1.5, ~, null, 'yes']",
            &expect![[r#"[true,true,false,false,420,420,31,3,1000,1000,1,1.5,null,null,"yes"]"#]],
        );
        check("a: &x {b: 1}\nc: {<<: *x, d: 2}", &expect![[r#"{"a":{"b":1},"c":{"b":1,"d":2}}"#]]);
        check("a: 2024-01-01", &expect![[r#"{"a":"2024-01-01"}"#]]);
    }

    #[test]
    fn documents() {
        check(
            "---\na: 1\n---\n---\n# nothing\n---\nb: 2\n...\n",
            &expect![[r#"
            {"a":1}
            {"b":2}"#]],
        );
        check("\u{feff}a: 1\r\nb: 2\r\n", &expect![[r#"{"a":1,"b":2}"#]]);
        check("", &expect![""]);
        check(r#"{"kind":"Pod"}"#, &expect![[r#"{"kind":"Pod"}"#]]);
    }

    #[test]
    fn writes_what_the_reference_writes() {
        let data: serde_json::Value = serde_json::from_str(include_str!("yaml/testdata/all.json")).expect("JSON");
        let written = super::encode(&data);
        for (number, (ours, theirs)) in written.lines().zip(include_str!("yaml/testdata/all.yaml").lines()).enumerate()
        {
            assert_eq!(ours, theirs, "line {}", number + 1);
        }
        assert_eq!(written, include_str!("yaml/testdata/all.yaml"));
        let mut back = decode(&written).expect("YAML");
        // Whole floats come back as integers.
        back[0]["floats"] = data["floats"].clone();
        assert_eq!(back, [data]);
        assert_eq!((super::encode(&serde_json::json!({})), super::encode(&"a".into())), ("{}\n".into(), "a\n".into()));
    }

    /// The published files of the API hold each object as JSON and as the YAML that the reference writes.
    #[test]
    fn agrees_with_the_published_files() {
        let modules = std::env::var_os("GOMODCACHE").map(PathBuf::from);
        let modules = modules.or_else(|| std::env::home_dir().map(|home| home.join("go/pkg/mod"))).unwrap_or_default();
        let Ok(folder) = modules.join("k8s.io/api@v0.37.2/testdata/HEAD").read_dir() else {
            println!("SKIPPED: the Go module k8s.io/api v0.37.2 is not on this machine");
            return;
        };
        let files = folder.map(|entry| entry.expect("readable").path());
        let mut checked = 0;
        for file in files.filter(|path| path.extension().is_some_and(|e| e == "json")) {
            let read = |path: &Path| std::fs::read_to_string(path).expect("readable");
            let object: serde_json::Value = serde_json::from_str(&read(&file)).expect("JSON");
            let yaml = read(&file.with_extension("yaml"));
            for (ours, theirs) in super::encode(&object).lines().zip(yaml.lines()) {
                assert_eq!(ours, theirs, "{}", file.display());
            }
            assert_eq!(decode(&yaml), Ok(vec![object]), "{}", file.display());
            checked += 1;
        }
        assert!(checked > 100, "only {checked} files");
    }

    #[test]
    fn errors_say_where() {
        check("a: 1\nb: [", &expect!["error: error parsing YAML: unclosed bracket '[' at line 2, column 4"]);
        check("a: 1\na: 2", &expect!["error: error parsing YAML: duplicate mapping key: a at line 2, column 1"]);
    }
}
