use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Form, apply, merge, strategic};
use crate::kind::{self, Kind};
use crate::{Error, schema};

const KUBECTL: &str = "/usr/lib/google-cloud-sdk/bin/kubectl.1.33";

fn pod() -> &'static Kind {
    kind::by_resource("", "v1", "pods").expect("a row")
}

fn base() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "labels": {"a": "1", "b": "2"}, "finalizers": ["x/a", "x/b", "x/c"]},
        "spec": {
            "containers": [
                {"name": "a", "image": "i", "env": [{"name": "E", "value": "1"}, {"name": "F", "value": "2"}], "args": ["x", "y"]},
                {"name": "b", "image": "j", "ports": [{"containerPort": 80}, {"containerPort": 81}]},
                {"name": "c", "image": "k"}
            ],
            "tolerations": [{"key": "t", "operator": "Exists"}],
            "nodeSelector": {"n": "1", "m": "2"},
            "volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "secret": {"secretName": "s"}}]
        }
    })
}

/// Patches that are valid for [`base`], each with what is special about it.
fn cases() -> Vec<(Form, Value)> {
    let strategic = [
        json!({"metadata": {"labels": {"a": null, "c": "3"}}}),
        json!({"spec": {"containers": [{"name": "b", "image": "new"}, {"name": "n", "image": "x"}]}}),
        json!({"spec": {"containers": [{"name": "n", "image": "x"}, {"name": "a", "args": ["z"]}]}}),
        json!({"spec": {"containers": [{"name": "b", "$patch": "delete"}]}}),
        json!({"spec": {"containers": [{"name": "z", "image": "y"}, {"$patch": "replace"}]}}),
        json!({"spec": {"containers": [{"name": "a", "env": [{"name": "F", "$patch": "delete"}, {"name": "G", "value": "3"}]}]}}),
        json!({"spec": {"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}], "containers": [{"name": "a", "image": "q"}]}}),
        json!({"spec": {"$setElementOrder/containers": [{"name": "c"}, {"name": "b"}, {"name": "a"}]}}),
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["x/b"]}}),
        json!({"metadata": {"finalizers": ["x/d", "x/a"]}}),
        json!({"metadata": {"$setElementOrder/finalizers": ["x/c", "x/d", "x/a"], "finalizers": ["x/d"], "$deleteFromPrimitiveList/finalizers": ["x/b"]}}),
        json!({"spec": {"tolerations": [{"key": "u", "operator": "Exists"}]}}),
        json!({"spec": {"nodeSelector": {"$patch": "replace", "z": "1"}}}),
        json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/"}}]}}),
        json!({"spec": {"volumes": null, "securityContext": {"runAsUser": 1, "runAsGroup": null}}}),
        json!({"spec": {"containers": [{"name": "b", "ports": [{"containerPort": 81, "hostPort": 1}, {"containerPort": 82}]}]}}),
    ];
    let merges = [
        json!({"metadata": {"labels": {"a": null}}, "spec": {"containers": [{"name": "only", "image": "i"}]}}),
        json!({"spec": {"nodeSelector": {"o": "1"}, "volumes": null}}),
    ];
    let json_patches = [
        json!([{"op": "replace", "path": "/spec/containers/0/image", "value": "r"}, {"op": "remove", "path": "/metadata/labels/b"}]),
        json!([{"op": "add", "path": "/spec/containers/-", "value": {"name": "z", "image": "z"}}, {"op": "test", "path": "/metadata/name", "value": "p"}]),
        json!([{"op": "move", "from": "/spec/nodeSelector/n", "path": "/spec/nodeSelector/x"}]),
    ];
    let of = |form: Form| move |patch: Value| (form, patch);
    let all = strategic.into_iter().map(of(Form::Strategic)).chain(merges.into_iter().map(of(Form::Merge)));
    all.chain(json_patches.into_iter().map(of(Form::Json))).collect()
}

fn by_kubectl(form: Form, patch: &Value) -> Value {
    let word = match form {
        Form::Json => "json",
        Form::Merge => "merge",
        _ => "strategic",
    };
    let mut child = Command::new(KUBECTL)
        .args(["patch", "--local", "-f", "-", "-o", "json", "--type", word, "-p", &patch.to_string()])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("kubectl starts");
    let input = base().to_string();
    std::io::Write::write_all(&mut child.stdin.take().expect("piped"), input.as_bytes()).expect("kubectl reads");
    let output = child.wait_with_output().expect("kubectl ends");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{patch}: {e}"))
}

#[test]
fn agrees_with_kubectl() {
    if !Path::new(KUBECTL).exists() {
        println!("SKIPPED: {KUBECTL} is not on this machine");
        return;
    }
    for (form, patch) in cases() {
        let ours = apply(form, pod(), &base(), patch.to_string().as_bytes()).expect("applies");
        let normal = |v: &Value| {
            let mut v =
                crate::codec::json::normalize(pod(), v, crate::codec::json::Policy::Ignore).expect("a Pod").value;
            v["spec"].as_object_mut().expect("a spec").retain(|_, v| !v.is_null());
            v
        };
        assert_eq!(normal(&ours), normal(&by_kubectl(form, &patch)), "{form:?} {patch}");
    }
}

#[test]
fn refusals() {
    let show = |form, patch: &str| match apply(form, pod(), &base(), patch.as_bytes()) {
        Ok(value) => panic!("{value}"),
        Err(Error::Malformed(m)) => format!("400 {m}"),
        Err(Error::Unprocessable(m)) => format!("422 {m}"),
        Err(other) => format!("413 {other}"),
    };
    let rejected = "422 the server rejected our request due to an error in our request";
    assert_eq!(show(Form::Json, r#"[{"op":"test","path":"/kind","value":"X"}]"#), rejected);
    assert_eq!(show(Form::Json, r#"[{"op":"remove","path":"/nope"}]"#), rejected);
    assert_eq!(show(Form::Json, r#"[{"op":"jump"}]"#), rejected);
    assert_eq!(
        show(Form::Json, "{}"),
        "400 error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp"
    );
    let many = format!("[{}]", vec![r#"{"op":"test","path":"/kind","value":"Pod"}"#; 10_001].join(","));
    assert_eq!(show(Form::Json, &many), "413 The allowed maximum operations in a JSON patch is 10000, got 10001");
    assert!(show(Form::Merge, "[]").starts_with("400 error decoding patch: json: cannot unmarshal array"));
    assert_eq!(show(Form::Strategic, "{"), "400 invalid JSON patch");
    let no_key = r#"{"spec":{"containers":[{"image":"x"}]}}"#;
    assert!(show(Form::Strategic, no_key).ends_with("does not contain declared merge key: name"));
    assert!(show(Form::Strategic, r#"{"spec":{"$patch":"x"}}"#).contains("unknown patch type"));
    assert!(show(Form::Strategic, r#"{"spec":{"$retainKeys":["a"],"nodeName":"x"}}"#).contains("retainKeys"));
}

#[test]
fn merge_differences_and_three_ways() {
    let (from, to) = (json!({"a": 1, "b": {"c": 1, "d": [1]}}), json!({"b": {"c": 2, "d": [1]}, "e": {}}));
    assert_eq!(merge::diff(&from, &to), json!({"a": null, "b": {"c": 2}, "e": {}}));
    assert_eq!(merge::apply(from.clone(), merge::diff(&from, &to)), to);
    let current = json!({"a": 1, "b": {"c": 3, "x": "theirs"}});
    assert_eq!(merge::three_way(&from, &to, &current), json!({"a": null, "b": {"c": 2, "d": [1]}, "e": {}}));
    assert_eq!(merge::three_way(&to, &to, &to), json!({}));
}

#[test]
fn strategic_differences_lead_to_their_goals() {
    let of = schema::lookup(pod().schema);
    for (form, patch) in cases() {
        let goal = apply(form, pod(), &base(), patch.to_string().as_bytes()).expect("applies");
        let difference = strategic::diff(of, &base(), &goal);
        let reached = strategic::apply(of, base(), difference.clone()).expect("applies");
        assert_eq!(reached, goal, "{patch} -> {difference}");
        assert_eq!(strategic::diff(of, &goal, &goal), json!({}));
    }
}

#[test]
fn an_apply_leaves_what_others_added() {
    let of = schema::lookup(pod().schema);
    let mut current = base();
    current["spec"]["containers"][0]["terminationMessagePath"] = json!("/dev/termination-log");
    current["spec"]["containers"].as_array_mut().expect("a list").push(json!({"name": "injected", "image": "i"}));
    current["metadata"]["finalizers"].as_array_mut().expect("a list").push(json!("others/f"));
    let mut modified = base();
    modified["spec"]["containers"].as_array_mut().expect("a list").remove(1);
    modified["metadata"]["finalizers"] = json!(["x/a", "x/new"]);
    modified["metadata"]["labels"] = json!({"a": "9"});
    let patch = strategic::three_way(of, &base(), &modified, &current);
    let reached = strategic::apply(of, current, patch).expect("applies");
    let names: Vec<_> = reached["spec"]["containers"].as_array().expect("a list").iter().map(|c| &c["name"]).collect();
    assert_eq!(names, ["a", "c", "injected"]);
    assert_eq!(reached["spec"]["containers"][0]["terminationMessagePath"], "/dev/termination-log");
    assert_eq!(reached["metadata"]["labels"], json!({"a": "9"}));
    let mut finalizers: Vec<_> = reached["metadata"]["finalizers"].as_array().expect("a list").clone();
    finalizers.sort_by_key(Value::to_string);
    assert_eq!(Value::from(finalizers), json!(["others/f", "x/a", "x/new"]));
}

fn documents() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        Just(json!("delete")),
        Just(json!("replace")),
        "[a-c]".prop_map(Value::from),
        (0..3).prop_map(Value::from)
    ];
    let keys = prop_oneof![
        Just("name".to_owned()),
        Just("spec".to_owned()),
        Just("containers".to_owned()),
        Just("env".to_owned()),
        Just("metadata".to_owned()),
        Just("finalizers".to_owned()),
        Just("$patch".to_owned()),
        Just("$retainKeys".to_owned()),
        Just("$setElementOrder/containers".to_owned()),
        Just("$deleteFromPrimitiveList/finalizers".to_owned()),
    ];
    leaf.prop_recursive(5, 40, 4, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(keys.clone(), inner, 0..4)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

/// The reference's own result: the order is what upstream's reuse of a list makes of it.
#[test]
fn new_items_take_the_places_of_deleted_ones() {
    let named = |names: &[&str]| names.iter().map(|n| json!({"name": n})).collect::<Vec<_>>();
    let current = json!({"spec": {"containers": named(&["e", "b", "d"])}});
    let patch = json!({"spec": {
        "$setElementOrder/containers": named(&["a", "c"]),
        "containers": [{"name": "a"}, {"name": "e", "$patch": "delete"}, {"name": "c"}],
    }});
    let patched = strategic::apply(schema::lookup(pod().schema), current, patch).expect("good");
    assert_eq!(patched["spec"]["containers"], Value::Array(named(&["b", "d", "a", "c"])));
}

proptest! {
    #[test]
    fn strategic_merges_never_panic(current in documents(), patch in documents()) {
        let of = schema::lookup(pod().schema);
        drop(strategic::three_way(of, &current, &patch, &current));
        drop(strategic::apply(of, current, patch));
    }

    #[test]
    fn a_merge_difference_leads_to_its_goal(from in documents(), to in documents()) {
        let to = merge::apply(Value::Null, to);
        if from.is_object() && to.is_object() {
            let patch = merge::diff(&from, &to);
            prop_assert_eq!(merge::apply(from, patch), to);
        }
    }
}
