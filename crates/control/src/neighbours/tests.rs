//! Tables: six nodes in three zones, some pods that are there, and one that comes.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::fit;
use crate::snapshot::{Choice, Snapshot};

const AFFINITY: &str = "node(s) didn't match pod affinity rules";
const ANTI: &str = "node(s) didn't match pod anti-affinity rules";
const EXISTING: &str = "node(s) didn't satisfy existing pods anti-affinity rules";
const SPREAD: &str = "node(s) didn't match pod topology spread constraints";
const UNLABELLED: &str = "node(s) didn't match pod topology spread constraints (missing required label)";

/// `a1 a2 b1 b2 c1 c2`: the letter is the zone; `c2` is tainted, and there is `x` without a zone.
fn cluster() -> Snapshot {
    let mut snapshot = Snapshot::default();
    for name in ["a1", "a2", "b1", "b2", "c1", "c2", "x"] {
        let mut labels = json!({"kubernetes.io/hostname": name});
        if name != "x" {
            labels["zone"] = name[..1].into();
        }
        let taints = if name == "c2" { json!([{"key": "k", "effect": "NoSchedule"}]) } else { json!([]) };
        snapshot.set_node(&json!({"metadata": {"name": name, "labels": labels}, "spec": {"taints": taints},
            "status": {"allocatable": {"cpu": "8", "memory": "8Gi", "pods": "110"}}}));
    }
    for (name, team) in [("default", "red"), ("other", "blue")] {
        snapshot.set_namespace(name, [("team".to_owned(), team.to_owned())].into());
    }
    snapshot
}

fn pod(namespace: &str, labels: Value, spec: Value) -> Value {
    json!({"metadata": {"namespace": namespace, "labels": labels}, "spec": spec})
}

fn app(name: &str) -> Value {
    json!({"app": name})
}

fn place(snapshot: &mut Snapshot, number: usize, node: &str, pod: &Value) {
    snapshot.place(&format!("uid-{number}"), node, Arc::new(fit::wants(pod)));
}

fn term(name: &str, key: &str) -> Value {
    json!({"labelSelector": {"matchLabels": {"app": name}}, "topologyKey": key})
}

fn required(kind: &str, terms: Value) -> Value {
    json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": terms}}})
}

fn preferred(kind: &str, term: Value) -> Value {
    let items = json!([{"weight": 10, "podAffinityTerm": term}]);
    json!({"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": items}}})
}

/// Where a pod may be, or why it may be nowhere.
fn fitting(there: &[(&str, Value)], pod: &Value) -> Result<Vec<String>, String> {
    let mut snapshot = cluster();
    // Asked before the pods come, so that the counts must be kept up.
    snapshot.choose("", &fit::wants(pod));
    for (number, (node, pod)) in there.iter().enumerate() {
        place(&mut snapshot, number, node, pod);
    }
    let mut nodes = Vec::new();
    for name in ["a1", "a2", "b1", "b2", "c1", "c2", "x"] {
        let mut bound = pod.clone();
        bound["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": name});
        // The selector must not change which places count: it is told by the node affinity policy of the rules.
        if let Choice::Node(node) = snapshot.choose("", &fit::wants(&bound)) {
            nodes.push(node);
        }
    }
    match snapshot.choose("", &fit::wants(pod)) {
        Choice::Node(best) => {
            assert!(nodes.contains(&best));
            Ok(nodes)
        }
        Choice::None(why) => Err(why),
    }
}

#[test]
fn affinity_and_its_opposite() {
    let web = |namespace: &str| pod(namespace, app("web"), json!({}));
    let hermit = pod("default", app("web"), required("podAntiAffinity", json!([term("web", "zone")])));
    let selector = |team: &str| {
        let mut term = term("web", "zone");
        term["namespaceSelector"] = json!({"matchLabels": {"team": team}});
        term
    };
    let named = json!([{"labelSelector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]},
        "topologyKey": "kubernetes.io/hostname", "namespaces": ["other"]}]);
    let with = |terms: Value| pod("default", app("db"), required("podAffinity", terms));
    let apart = |terms: Value| pod("default", app("db"), required("podAntiAffinity", terms));
    let all = ["a1", "a2", "b1", "b2", "c1", "x"];
    for (what, there, comes, expected) in [
        (
            "the zone of its friend",
            vec![("a1", web("default"))],
            with(json!([term("web", "zone")])),
            Ok(vec!["a1", "a2"]),
        ),
        (
            "the node of its friend",
            vec![("a1", web("default"))],
            with(json!([term("web", "kubernetes.io/hostname")])),
            Ok(vec!["a1"]),
        ),
        ("of another namespace", vec![("a1", web("other"))], with(json!([term("web", "zone")])), Err((6, AFFINITY))),
        ("a namespace by name", vec![("a1", web("other"))], with(named), Ok(vec!["a1"])),
        ("a namespace by label", vec![("b1", web("other"))], with(json!([selector("blue")])), Ok(vec!["b1", "b2"])),
        ("no namespace of that label", vec![("b1", web("other"))], with(json!([selector("red")])), Err((6, AFFINITY))),
        (
            "all terms by the same pod",
            vec![("b1", web("default"))],
            with(json!([term("web", "zone"), term("sql", "zone")])),
            Err((6, AFFINITY)),
        ),
        (
            "the first of its kind",
            vec![],
            pod("default", app("web"), required("podAffinity", json!([term("web", "zone")]))),
            Ok(vec!["a1", "a2", "b1", "b2", "c1"]),
        ),
        (
            "away from the zone",
            vec![("a1", web("default"))],
            apart(json!([term("web", "zone")])),
            Ok(vec!["b1", "b2", "c1", "x"]),
        ),
        (
            "away from everywhere",
            vec![("a1", web("default")), ("b2", web("default")), ("c1", web("default"))],
            apart(json!([term("web", "zone"), {"topologyKey": "kubernetes.io/hostname", "labelSelector": {}}])),
            Ok(vec!["x"]),
        ),
        ("those there refuse it", vec![("a1", hermit.clone())], web("default"), Ok(vec!["b1", "b2", "c1", "x"])),
        ("those there refuse others", vec![("a1", hermit)], pod("default", app("db"), json!({})), Ok(all.to_vec())),
    ] {
        let expected = match expected {
            Ok(nodes) => Ok(nodes.into_iter().map(str::to_owned).collect()),
            Err((count, why)) => {
                Err(format!("0/7 nodes are available: 1 node(s) had untolerated taint(s), {count} {why}."))
            }
        };
        assert_eq!(fitting(&there, &comes), expected, "{what}");
    }
}

#[test]
fn the_reasons_are_told_apart() {
    let mut snapshot = cluster();
    let hermit = pod("default", app("web"), required("podAntiAffinity", json!([term("web", "zone")])));
    for (number, node) in ["a1", "b1", "c1"].into_iter().enumerate() {
        place(&mut snapshot, number, node, &hermit);
    }
    let mut spec = required("podAntiAffinity", json!([term("web", "kubernetes.io/hostname")]));
    spec["topologySpreadConstraints"] = json!([{"topologyKey": "zone", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "none"}}}]);
    let told =
        format!("0/7 nodes are available: 1 {UNLABELLED}, 1 node(s) had untolerated taint(s), 2 {EXISTING}, 3 {ANTI}.");
    assert_eq!(snapshot.choose("", &fit::wants(&pod("default", app("web"), spec))), Choice::None(told));
}

#[test]
fn spreading_as_a_condition() {
    let rule = |extra: Value| {
        let mut rule = json!({"topologyKey": "zone", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "web"}}});
        rule.as_object_mut().unwrap().extend(extra.as_object().cloned().unwrap());
        pod("default", json!({"app": "web", "hash": "2"}), json!({"topologySpreadConstraints": [rule]}))
    };
    let web = |hash: &str| pod("default", json!({"app": "web", "hash": hash}), json!({}));
    let in_zones = |mut pod: Value, zones: &[&str]| {
        let terms = json!([{"matchExpressions": [{"key": "zone", "operator": "In", "values": zones}]}]);
        pod["spec"]["affinity"] =
            json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}});
        pod
    };
    let full = || vec![("a1", web("1")), ("b1", web("1"))];
    let one = || vec![("a1", web("1"))];
    for (what, there, comes, expected) in [
        ("where there are fewest", full(), rule(json!({})), Some("c1")),
        ("skew allows more", full(), rule(json!({"maxSkew": 2})), Some("a1")),
        ("places that are not its own do not count", one(), in_zones(rule(json!({})), &["a", "b"]), Some("b1")),
        (
            "unless it says so",
            vec![("a1", web("1")), ("b1", web("1"))],
            in_zones(rule(json!({"nodeAffinityPolicy": "Ignore"})), &["a", "b"]),
            None,
        ),
        (
            "too few places",
            vec![("a1", web("1")), ("b1", web("1")), ("c1", web("1"))],
            rule(json!({"minDomains": 4})),
            None,
        ),
        (
            "enough places",
            vec![("a1", web("1")), ("b1", web("1")), ("c1", web("1"))],
            rule(json!({"minDomains": 3})),
            Some("a1"),
        ),
        (
            "only those of its own revision",
            vec![("a1", web("1")), ("b1", web("2")), ("c1", web("2"))],
            rule(json!({"matchLabelKeys": ["hash"]})),
            Some("a1"),
        ),
    ] {
        let mut snapshot = cluster();
        for (number, (node, pod)) in there.iter().enumerate() {
            place(&mut snapshot, number, node, pod);
        }
        match (snapshot.choose("", &fit::wants(&comes)), expected) {
            (Choice::Node(node), Some(expected)) => assert_eq!(node, expected, "{what}"),
            (Choice::None(why), None) => assert!(why.contains(SPREAD), "{what}: {why}"),
            (choice, _) => panic!("{what}: {choice:?}"),
        }
    }
}

#[test]
fn taints_decide_whether_a_place_counts() {
    let rule = |policy: &str| {
        json!({"topologySpreadConstraints": [{"topologyKey": "kubernetes.io/hostname", "maxSkew": 1,
            "whenUnsatisfiable": "DoNotSchedule", "nodeTaintsPolicy": policy, "labelSelector": {"matchLabels": {"app": "web"}}}]})
    };
    let mut snapshot = cluster();
    for (number, node) in ["a1", "a2", "b1", "b2", "c1", "x"].into_iter().enumerate() {
        place(&mut snapshot, number, node, &pod("default", app("web"), json!({})));
    }
    let comes = |policy: &str| fit::wants(&pod("default", app("web"), rule(policy)));
    assert!(matches!(snapshot.choose("", &comes("Ignore")), Choice::None(_)), "the tainted node stays empty");
    assert!(matches!(snapshot.choose("", &comes("Honor")), Choice::Node(_)));
}

#[test]
fn wishes_decide_between_nodes_that_fit() {
    let web = pod("default", app("web"), json!({}));
    let owned = |labels: Value| json!({"metadata": {"namespace": "default", "labels": labels, "ownerReferences": [{"uid": "set", "controller": true}]}});
    let wish = json!({"topologySpreadConstraints": [{"topologyKey": "zone", "maxSkew": 1, "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"app": "web"}}}]});
    let fan = pod("default", app("fan"), preferred("podAffinity", term("db", "zone")));
    for (what, there, comes, expected) in [
        (
            "near",
            vec![("b1", web.clone())],
            pod("default", app("db"), preferred("podAffinity", term("web", "zone"))),
            vec!["b1", "b2"],
        ),
        (
            "far",
            vec![("a1", web.clone()), ("b1", web.clone())],
            pod("default", app("db"), preferred("podAntiAffinity", term("web", "zone"))),
            vec!["c1", "x"],
        ),
        ("near those who like it", vec![("c1", fan)], pod("default", app("db"), json!({})), vec!["c1"]),
        (
            "near those who need it",
            vec![("b1", pod("default", app("fan"), required("podAffinity", json!([term("db", "zone")]))))],
            pod("default", app("db"), json!({})),
            vec!["b1", "b2"],
        ),
        ("spread", vec![("a1", web.clone()), ("c1", web)], pod("default", app("web"), wish), vec!["b1", "b2"]),
        (
            "spread of a controller's",
            vec![
                ("a1", owned(app("s"))),
                ("a2", owned(app("s"))),
                ("b1", owned(app("s"))),
                ("b2", owned(app("s"))),
                ("c1", owned(app("s"))),
            ],
            owned(app("s")),
            vec!["x"],
        ),
    ] {
        let mut snapshot = cluster();
        for (number, (node, pod)) in there.iter().enumerate() {
            place(&mut snapshot, number, node, pod);
        }
        match snapshot.choose("", &fit::wants(&comes)) {
            Choice::Node(node) => assert!(expected.contains(&node.as_str()), "{what}: {node}"),
            none => panic!("{what}: {none:?}"),
        }
    }
}

#[test]
fn counts_are_kept_up() {
    let mut snapshot = cluster();
    let web = pod("default", app("web"), json!({}));
    let comes = fit::wants(&pod("default", app("db"), required("podAffinity", json!([term("web", "zone")]))));
    assert!(matches!(snapshot.choose("", &comes), Choice::None(_)));
    place(&mut snapshot, 1, "b1", &web);
    assert!(matches!(snapshot.choose("", &comes), Choice::Node(node) if node.starts_with('b')));
    place(&mut snapshot, 1, "a1", &web);
    assert!(matches!(snapshot.choose("", &comes), Choice::Node(node) if node.starts_with('a')));
    place(&mut snapshot, 1, "a1", &pod("default", app("other"), json!({})));
    assert!(matches!(snapshot.choose("", &comes), Choice::None(_)), "it has other labels now");
    place(&mut snapshot, 2, "c1", &web);
    assert!(matches!(snapshot.choose("", &comes), Choice::Node(_)));
    snapshot.release("uid-2");
    assert!(matches!(snapshot.choose("", &comes), Choice::None(_)));
}
