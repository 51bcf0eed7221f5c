use super::{Policy, decode, normalize, parse};
use crate::kind::{self, Kind};
use expect_test::{Expect, expect};
use proptest::prelude::*;
use serde_json::Value;

fn pod() -> &'static Kind {
    kind::by_resource("", "v1", "pods").expect("a row")
}

fn show(kind: &'static Kind, body: &str, policy: Policy) -> String {
    match decode(kind, body.as_bytes(), policy) {
        Ok(d) if d.warnings.is_empty() => d.value.to_string(),
        Ok(d) => format!("{} | {}", d.value, d.warnings.join(" | ")),
        Err(error) => error.to_string(),
    }
}

fn check(body: &str, want: &Expect) {
    want.assert_eq(&show(pod(), body, Policy::Warn));
}

#[test]
fn reads_as_go_would_write_it_again() {
    check(
        r#"{"metadata":{"name":"a","labels":{},"creationTimestamp":null},"spec":{"containers":[{"name":"c","image":"i","resources":{"limits":{"cpu":"1000m","memory":1024}}}]},"status":{}}"#,
        &expect![[
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[{"image":"i","name":"c","resources":{"limits":{"cpu":"1","memory":"1024"}}}]},"status":{}}"#
        ]],
    );
    check(
        r#"{"spec":{"activeDeadlineSeconds":0,"hostNetwork":false,"volumes":[{"emptyDir":{}}]}}"#,
        &expect![[
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{},"spec":{"activeDeadlineSeconds":0,"containers":null,"volumes":[{"emptyDir":{},"name":""}]},"status":{}}"#
        ]],
    );
    let event = kind::by_resource("", "v1", "events").expect("a row");
    let want = expect![[
        r#"{"apiVersion":"v1","eventTime":"2024-01-02T03:04:05.600000Z","firstTimestamp":null,"involvedObject":{},"kind":"Event","lastTimestamp":null,"metadata":{},"reportingComponent":"","reportingInstance":"","source":{}}"#
    ]];
    want.assert_eq(&show(event, r#"{"involvedObject":{},"eventTime":"2024-01-02T03:04:05.600000Z"}"#, Policy::Warn));
    let secret = kind::by_resource("", "v1", "secrets").expect("a row");
    let want = expect![[r#"{"apiVersion":"v1","data":{"a":"aGk=","b":null,"c":""},"kind":"Secret","metadata":{}}"#]];
    want.assert_eq(&show(secret, r#"{"data":{"a":"aGk=","b":null,"c":""}}"#, Policy::Warn));
}

#[test]
fn unknown_and_duplicate_fields() {
    let body = r#"{"kind":"Pod","spec":{"foo":1,"containers":[{"name":"c","Image":[{}]}],"nodeName":"a","nodeName":"b"},"metadata":{"labels":{"a":"1","a":"2"}}}"#;
    check(
        body,
        &expect![[
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{"labels":{"a":"2"}},"spec":{"containers":[{"name":"c","resources":{}}],"nodeName":"b"},"status":{}} | unknown field "spec.foo" | unknown field "spec.containers[0].Image" | duplicate field "spec.nodeName" | duplicate field "metadata.labels.a""#
        ]],
    );
    expect![[r#"Pod in version "v1" cannot be handled as a Pod: strict decoding error: unknown field "spec.foo", unknown field "spec.containers[0].Image", duplicate field "spec.nodeName", duplicate field "metadata.labels.a""#]].assert_eq(&show(pod(), body, Policy::Strict));
    assert!(!show(pod(), body, Policy::Ignore).contains('|'));
}

#[test]
fn wrong_types() {
    for (body, want) in [
        (
            r#"{"spec":{"containers":[{"ports":[{"containerPort":"80"}]}]}}"#,
            expect![[
                r#"Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal string into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32"#
            ]],
        ),
        (
            r#"{"spec":{"containers":[{"ports":[{"containerPort":80.5}]}]}}"#,
            expect![[
                r#"Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal number 80.5 into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32"#
            ]],
        ),
        (
            r#"{"spec":{"containers":{}}}"#,
            expect![[
                r#"Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container"#
            ]],
        ),
        (
            r#"{"metadata":{"labels":{"a":1}}}"#,
            expect![[
                r#"Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string"#
            ]],
        ),
        (
            r#"{"spec":{"restartPolicy":true}}"#,
            expect![[
                r#"Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal bool into Go struct field PodSpec.spec.restartPolicy of type v1.RestartPolicy"#
            ]],
        ),
        (
            r#"{"spec":{"containers":[{"resources":{"limits":{"cpu":"1z"}}}]}}"#,
            expect![[
                r#"Pod in version "v1" cannot be handled as a Pod: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"#
            ]],
        ),
        (
            r#"{"metadata":{"creationTimestamp":"yesterday"}}"#,
            expect![[
                r#"Pod in version "v1" cannot be handled as a Pod: parsing time "yesterday" as "2006-01-02T15:04:05Z07:00": cannot parse "yesterday" as "2006""#
            ]],
        ),
        (
            r#"{"spec":{"containers":[{"livenessProbe":{"httpGet":{"port":true}}}]}}"#,
            expect![[
                r#"Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal bool into Go struct field HTTPGetAction.spec.containers.livenessProbe.ProbeHandler.httpGet.port of type int32"#
            ]],
        ),
        (
            r#"{"spec":7}"#,
            expect![[
                r#"Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal number into Go struct field Pod.spec of type v1.PodSpec"#
            ]],
        ),
    ] {
        check(body, &want);
    }
    let secret = kind::by_resource("", "v1", "secrets").expect("a row");
    expect![[r#"Secret in version "v1" cannot be handled as a Secret: illegal base64 data at input byte 0"#]]
        .assert_eq(&show(secret, r#"{"data":{"a":"a"}}"#, Policy::Warn));
}

#[test]
fn other_kinds() {
    for (body, want) in [
        (
            r#"{"kind":"ConfigMap","apiVersion":"v1"}"#,
            expect![[
                r#"ConfigMap in version "v1" cannot be handled as a Pod: converting (v1.ConfigMap) to (core.Pod): unknown conversion"#
            ]],
        ),
        (
            r#"{"kind":"Foo","apiVersion":"v1"}"#,
            expect![[
                r#"Foo in version "v1" cannot be handled as a Pod: no kind "Foo" is registered for version "v1" in scheme "pkg/api/legacyscheme/scheme.go:30""#
            ]],
        ),
        (
            r#"{"kind":"Pod","apiVersion":"v2"}"#,
            expect![[
                r#"Pod in version "v2" cannot be handled as a Pod: no kind "Pod" is registered for version "v2" in scheme "pkg/api/legacyscheme/scheme.go:30""#
            ]],
        ),
    ] {
        check(body, &want);
    }
    let event = kind::by_resource("", "v1", "events").expect("a row");
    let want = expect!["the API version in the data (events.k8s.io/v1) does not match the expected API version (v1)"];
    want.assert_eq(&show(event, r#"{"kind":"Event","apiVersion":"events.k8s.io/v1"}"#, Policy::Warn));
}

#[test]
fn broken_text() {
    for (body, want) in [
        (
            "",
            expect![
                "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: unexpected end of JSON input (<empty>)"
            ],
        ),
        (
            "[]",
            expect![[
                r#"the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: json: cannot unmarshal array into Go value of type struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" } (5b5d)"#
            ]],
        ),
        (
            "{",
            expect![
                "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: unexpected end of JSON input ({)"
            ],
        ),
        (
            r#"{"a":1,}"#,
            expect![[
                r#"the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: invalid character '}' looking for beginning of object key string ({"a":1,})"#
            ]],
        ),
        (
            r#"{"a" 1}"#,
            expect![[
                r#"the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: invalid character '1' after object key ({"a" 1})"#
            ]],
        ),
        (
            r#"{"a":tru}"#,
            expect![[
                r#"the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: invalid character '}' in literal true (expecting 'e') ({"a":tru})"#
            ]],
        ),
        (
            r#"{"a":1} x"#,
            expect![[
                r#"the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: invalid character 'x' after top-level value ({"a":1} x)"#
            ]],
        ),
        (
            r#"{"a":[1 2]}"#,
            expect![[
                r#"the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: invalid character '2' after array element ({"a":[1 2]})"#
            ]],
        ),
        (
            "{\"a\":\"\\x\"}",
            expect![[
                r#"the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: invalid character 'x' in string escape code ({"a":"\x"})"#
            ]],
        ),
        (
            "{'a'",
            expect![[
                r#"the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: invalid character '\'' looking for beginning of object key string ({'a')"#
            ]],
        ),
    ] {
        check(body, &want);
    }
}

#[test]
fn depth_is_limited_and_escapes_are_read() {
    let deep = "[".repeat(100_000);
    assert_eq!(parse(deep.as_bytes()).expect_err("too deep").to_string(), "exceeded max depth");
    let value = parse(r#"["\u00e9\ud83d\ude00\ud800x\n\/", 1e3, -0, 18446744073709551615]"#.as_bytes()).expect("good");
    assert_eq!(value.to_string(), r#"["é😀�x\n/",1000.0,0,18446744073709551615]"#);
}

#[test]
fn normalizing_is_idempotent() {
    let body = r#"{"metadata":{"name":"a"},"spec":{"containers":[{"name":"c"}]}}"#;
    let first = decode(pod(), body.as_bytes(), Policy::Warn).expect("good").value;
    assert_eq!(normalize(pod(), &first, Policy::Strict).expect("good").value, first);
}

proptest! {
    #[test]
    fn agrees_with_serde_json(text in "[\\[\\]{}:,\"a0-9.eE\\\\ntrufalse -]{0,24}") {
        // A negative zero is a whole 0 to us and a float to serde_json.
        prop_assume!(!text.contains("-0"));
        let ours = parse(text.as_bytes());
        match serde_json::from_str::<serde_json::Value>(&text) {
            Ok(value) => prop_assert_eq!(ours.expect("serde reads it"), value),
            // serde_json refuses numbers beyond f64 and we do too, lone surrogates we replace.
            Err(error) => prop_assert!(ours.is_err() || text.contains("\\u"), "{} {:?}", text, error),
        }
    }

    #[test]
    fn decoding_never_panics(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        drop(decode(pod(), &body, Policy::Strict));
    }
}

/// What the reference's decoder makes of the same bodies.
#[test]
fn agrees_with_the_reference() {
    for line in include_str!("testdata/decode.jsonl").lines() {
        let case: Value = serde_json::from_str(line).expect("JSON");
        let [group, version, kind, body] =
            ["group", "version", "kind", "body"].map(|n| case[n].as_str().expect("a text"));
        let Some(kind) = kind::by_kind(group, version, kind) else { continue };
        let strict = decode(kind, body.as_bytes(), Policy::Strict);
        if let Some(want) = case["error"].as_str() {
            let error = strict.expect_err(body).to_string();
            let want = want.replace("pkg/runtime/scheme.go:111", "pkg/api/legacyscheme/scheme.go:30");
            assert!(error.contains(&want), "{body}\nours   {error}\ntheirs {want}");
        }
        if let (Some(mut want), Ok(decoded)) = (case.get("value").cloned(), decode(kind, body.as_bytes(), Policy::Warn))
        {
            want["kind"] = kind.kind.into();
            want["apiVersion"] = kind::api_version(kind.group, kind.version).into();
            assert_eq!(decoded.value.to_string(), want.to_string(), "{body}");
            let again = normalize(kind, &decoded.value, Policy::Strict).expect("its own output");
            assert_eq!(again.value, decoded.value, "{body}");
        }
    }
}
