use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{decode, decode_type, envelope};
use crate::codec::json::{Policy, decode as decode_json, decode_type as decode_json_type};
use crate::kind::{self, Kind};
use crate::schema;

fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2, u8::try_from(content.len()).expect("short")];
    out.extend_from_slice(content);
    out
}

fn wrap(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
    [b"k8s\0".to_vec(), field(1, &meta), field(2, raw)].concat()
}

fn rows(name: &str) -> &'static Kind {
    kind::ALL.iter().find(|k| k.kind == name && k.group.is_empty()).expect("a row")
}

#[test]
fn zeros_of_values_go_and_zeros_of_pointers_stay() {
    let metadata = [field(1, b"x"), field(2, b""), field(5, b""), vec![7 << 3, 0], field(8, &[])].concat();
    let data = field(2, &[field(1, b"k"), field(2, b"v")].concat());
    let immutable = vec![4 << 3, 0];
    let body = wrap("v1", "ConfigMap", &[field(1, &metadata), data, immutable].concat());
    let found = decode(rows("ConfigMap"), &body).expect("a ConfigMap").value;
    let want = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"k": "v"}, "immutable": false});
    assert_eq!(found, want);
}

#[test]
fn refusals() {
    let show = |body: &[u8]| decode(rows("ConfigMap"), body).expect_err("bad").to_string();
    assert!(show(b"{}").ends_with("expected prefix [107 56 115 0] ({})"));
    assert!(show(b"k8s\0\x0a\x7f").contains("unexpected EOF"));
    assert!(show(&wrap("v1", "Pod", &[])).contains("unknown conversion"));
    assert!(
        show(&wrap("v1", "ConfigMap", &[0x0a, 0x05, 1])).contains("cannot be handled as a ConfigMap: unexpected EOF")
    );
    assert!(show(&wrap("v1", "ConfigMap", &[0x08, 0x05])).contains("wrong wireType"));
}

#[test]
fn options_are_read_by_their_type() {
    let raw = [vec![1 << 3, 0], field(4, b"Background")].concat();
    let body = wrap("v1", "DeleteOptions", &raw);
    let opened = envelope(&body).expect("an envelope");
    assert_eq!((opened.api_version.as_str(), opened.kind.as_str()), ("v1", "DeleteOptions"));
    let of = schema::lookup("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions").expect("known");
    let want = json!({"gracePeriodSeconds": 0, "propagationPolicy": "Background"});
    assert_eq!(decode_type(of, opened.raw).expect("options"), want);
}

#[test]
fn messages_may_not_nest_without_end() {
    let raw = vec![0x0a; 3 << 20];
    assert!(decode(rows("Pod"), &wrap("v1", "Pod", &[])).is_ok());
    drop(decode_type(schema::lookup(rows("Pod").schema).expect("known"), &raw));
}

/// The published round-trip files of the API: each kind with every field set, as JSON and as protobuf.
fn published() -> Option<PathBuf> {
    let modules = std::env::var_os("GOMODCACHE").map(PathBuf::from);
    let modules = modules.or_else(|| std::env::home_dir().map(|h| h.join("go/pkg/mod")))?;
    let folder = modules.join("k8s.io/api@v0.37.2/testdata/HEAD");
    folder.is_dir().then_some(folder)
}

#[test]
fn agrees_with_the_published_round_trip_files() {
    let Some(folder) = published() else {
        println!("SKIPPED: the Go module k8s.io/api v0.37.2 is not on this machine");
        return;
    };
    let mut checked = 0;
    for kind in kind::ALL {
        let group = if kind.group.is_empty() { "core" } else { kind.group };
        let file = folder.join(format!("{group}.{}.{}.json", kind.version, kind.kind));
        let Ok(text) = std::fs::read(&file) else { continue };
        let want: Value = serde_json::from_slice(&text).expect("JSON");
        let from_json = decode_json(kind, &text, Policy::Strict).expect("strictly good").value;
        compare(&want, &from_json, kind.kind);
        let raw = std::fs::read(file.with_extension("pb")).expect("beside it");
        compare(&want, &decode(kind, &raw).expect("protobuf").value, kind.kind);
        checked += 1;
    }
    assert!(checked > 15, "only {checked} kinds have files");
}

/// The same for types that are not served yet, such as Deployments.
#[test]
fn agrees_with_the_published_files_of_other_types() {
    let Some(folder) = published() else {
        println!("SKIPPED: the Go module k8s.io/api v0.37.2 is not on this machine");
        return;
    };
    let mut checked = 0;
    for of in schema::all() {
        let Some(name) = of.name.strip_prefix("io.k8s.api.") else { continue };
        let (package, rest) = name.split_once('.').expect("a group and more");
        let domains = ["", ".k8s.io", ".authorization.k8s.io"];
        let paths = domains.map(|domain| folder.join(format!("{package}{domain}.{rest}.json")));
        let Some(file) = paths.iter().find(|path| path.is_file()) else { continue };
        let text = std::fs::read(file).expect("readable");
        let mut want: Value = serde_json::from_slice(&text).expect("JSON");
        let from_json = decode_json_type(of, &text, Policy::Strict).expect("strictly good").value;
        compare(&want, &from_json, of.name);
        let raw = std::fs::read(file.with_extension("pb")).expect("beside it");
        let opened = envelope(&raw).expect("an envelope");
        // The type stands in the envelope alone.
        want.as_object_mut().expect("an object").retain(|name, _| name != "kind" && name != "apiVersion");
        compare(&want, &decode_type(of, opened.raw).expect("protobuf"), of.name);
        checked += 1;
    }
    assert!(checked > 50, "only {checked} types have files");
}

fn compare(want: &Value, found: &Value, place: &str) {
    match (want, found) {
        (Value::Object(w), Value::Object(f)) => {
            for key in w.keys().chain(f.keys()) {
                let (w, f) = (w.get(key).unwrap_or(&Value::Null), f.get(key).unwrap_or(&Value::Null));
                compare(w, f, &format!("{place}.{key}"));
            }
        }
        (Value::Array(w), Value::Array(f)) => {
            assert_eq!(w.len(), f.len(), "{place}");
            w.iter().zip(f).enumerate().for_each(|(i, (w, f))| compare(w, f, &format!("{place}[{i}]")));
        }
        _ => assert_eq!(want, found, "{place}"),
    }
}

proptest! {
    #[test]
    fn never_panics(raw in proptest::collection::vec(any::<u8>(), 0..300)) {
        for kind in kind::ALL {
            drop(decode_type(schema::lookup(kind.schema).expect("known"), &raw));
        }
        drop(decode(rows("Pod"), &[b"k8s\0".as_slice(), &raw].concat()));
    }
}
