//! What happens to objects: creating, reading, changing, watching, removing.

#[expect(dead_code, reason = "each test file uses another part of the bench")]
mod bench;

use bench::{Bench, PODS, pod};
use serde_json::{Value, json};

#[tokio::test]
async fn a_pod_is_created_with_defaults() {
    let bench = Bench::ready().await;
    let answer = bench.post(PODS, &pod("web")).await;
    assert_eq!(answer.code, 201);
    let made = answer.ok();
    let spec = &made["spec"];
    assert_eq!(made["metadata"]["generation"], 1);
    assert_eq!(made["metadata"]["namespace"], "default");
    assert_eq!(spec["restartPolicy"], "Always");
    assert_eq!(spec["securityContext"], json!({}));
    assert_eq!(spec["serviceAccountName"], "default");
    assert_eq!(spec["priority"], 0);
    assert_eq!(spec["tolerations"].as_array().map(Vec::len), Some(2));
    assert_eq!(made["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
    assert_eq!(bench.get(&format!("{PODS}/web")).await.ok(), made);
    let refusal = bench.post(PODS, &pod("web")).await.refusal();
    assert_eq!(refusal, r#"409 AlreadyExists pods "web" already exists"#);
    assert_eq!(bench.get(&format!("{PODS}/nope")).await.refusal(), r#"404 NotFound pods "nope" not found"#);
}

#[tokio::test]
async fn names_are_made() {
    let bench = Bench::ready().await;
    let mut nameless = pod("x");
    nameless["metadata"] = json!({"generateName": "web-"});
    let made = bench.post(PODS, &nameless).await.ok();
    let name = made["metadata"]["name"].as_str().expect("a name");
    assert!(name.starts_with("web-") && name.len() == 9, "{name}");
    nameless["metadata"] = json!({});
    let refusal = bench.post(PODS, &nameless).await.refusal();
    assert_eq!(
        refusal,
        r#"422 Invalid Pod "" is invalid: metadata.name: Required value: name or generateName is required"#
    );
}

#[tokio::test]
async fn namespaces_must_exist_and_live() {
    let bench = Bench::ready().await;
    let pods = "/api/v1/namespaces/x/pods";
    assert_eq!(bench.post(pods, &pod("a")).await.refusal(), r#"404 NotFound namespaces "x" not found"#);
    assert_eq!(bench.get(pods).await.ok()["items"], json!([]));
    bench.post("/api/v1/namespaces", &json!({"metadata": {"name": "x"}})).await.ok();
    let refusal = bench.post(pods, &pod("a")).await.refusal();
    assert_eq!(
        refusal,
        r#"403 Forbidden pods "a" is forbidden: error looking up service account x/default: serviceaccount "default" not found"#
    );
    let ending = bench.delete("/api/v1/namespaces/x").await.ok();
    assert_eq!(ending["status"]["phase"], "Terminating");
    let answer = bench.post("/api/v1/namespaces/x/configmaps", &json!({"metadata": {"name": "c"}})).await;
    assert_eq!(answer.json()["details"]["causes"][0]["reason"], "NamespaceTerminating");
    let refusal = answer.refusal();
    assert_eq!(
        refusal,
        r#"403 Forbidden configmaps "c" is forbidden: unable to create new content in namespace x because it is being terminated"#
    );
    let done = bench
        .put("/api/v1/namespaces/x/finalize", &json!({"metadata": {"name": "x"}, "spec": {"finalizers": []}}))
        .await;
    assert_eq!(done.code, 200);
    assert_eq!(bench.get("/api/v1/namespaces/x").await.code, 404);
}

#[tokio::test]
async fn writes_are_ordered_by_revision() {
    let bench = Bench::ready().await;
    let path = "/api/v1/namespaces/default/configmaps";
    let one = format!("{path}/c");
    let made = bench.post(path, &json!({"metadata": {"name": "c"}, "data": {"k": "1"}})).await.ok();
    let mut changed = made.clone();
    changed["data"]["k"] = json!("2");
    let second = bench.put(&one, &changed).await.ok();
    assert_ne!(second["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    let refusal = bench.put(&one, &changed).await.refusal();
    assert_eq!(
        refusal,
        r#"409 Conflict Operation cannot be fulfilled on configmaps "c": the object has been modified; please apply your changes to the latest version and try again"#
    );
    // A write that changes nothing is no write.
    assert_eq!(bench.put(&one, &second).await.ok(), second);
    // Without a revision it overwrites.
    let plain = json!({"metadata": {"name": "c"}, "data": {"k": "3"}});
    let third = bench.put(&one, &plain).await.ok();
    assert_eq!(third["metadata"]["uid"], made["metadata"]["uid"]);
    assert_eq!(third["data"]["k"], "3");
    // A pod need not repeat what admission filled in.
    bench.post(PODS, &pod("web")).await.ok();
    let mut other = pod("web");
    other["spec"]["containers"][0]["image"] = json!("other");
    other["spec"]["serviceAccountName"] = json!("default");
    assert_eq!(bench.put(&format!("{PODS}/web"), &other).await.ok()["metadata"]["generation"], 2);
    let refusal = bench.put(&one, &json!({"metadata": {"name": "d"}})).await.refusal();
    assert_eq!(refusal, "400 BadRequest the name of the object (d) does not match the name on the URL (c)");
}

#[tokio::test]
async fn dry_runs_store_nothing() {
    let bench = Bench::ready().await;
    let made = bench.post(&format!("{PODS}?dryRun=All"), &pod("web")).await.ok();
    assert!(made["metadata"]["uid"].is_string() && made["metadata"].get("resourceVersion").is_none());
    assert_eq!(bench.get(&format!("{PODS}/web")).await.code, 404);
    let refusal = bench.post(&format!("{PODS}?dryRun=Some"), &pod("web")).await.refusal();
    assert_eq!(
        refusal,
        r#"422 Invalid CreateOptions.meta.k8s.io "" is invalid: dryRun: Unsupported value: ["Some"]: supported values: "All""#
    );
    bench.post(PODS, &pod("web")).await.ok();
    bench.delete(&format!("{PODS}/web?dryRun=All")).await.ok();
    assert_eq!(bench.get(&format!("{PODS}/web")).await.code, 200);
}

async fn names(bench: &Bench, query: &str) -> Vec<String> {
    let list = bench.get(&format!("{PODS}?{query}")).await.ok();
    let items = list["items"].as_array().cloned().unwrap_or_default();
    items.iter().map(|item| item["metadata"]["name"].as_str().unwrap_or_default().to_owned()).collect()
}

#[tokio::test]
async fn lists_select_and_page() {
    let bench = Bench::ready().await;
    for name in ["a", "b", "c", "d", "e"] {
        bench.post(PODS, &pod(name)).await.ok();
    }
    assert_eq!(names(&bench, "").await, ["a", "b", "c", "d", "e"]);
    assert_eq!(names(&bench, "labelSelector=app+in+%28a%2Cc%29").await, ["a", "c"]);
    assert_eq!(names(&bench, "labelSelector=%21app").await, [""; 0]);
    assert_eq!(names(&bench, "fieldSelector=metadata.name%3Dd").await, ["d"]);
    assert_eq!(names(&bench, "fieldSelector=status.phase%21%3DPending").await, [""; 0]);
    assert_eq!(
        names(&bench, "fieldSelector=spec.nodeName%3D,status.phase%3DPending&labelSelector=app!%3Da").await.len(),
        4
    );
    let refusal = bench.get(&format!("{PODS}?fieldSelector=spec.x%3D1")).await.refusal();
    assert_eq!(refusal, "400 BadRequest field label not supported: spec.x");
    let page = bench.get(&format!("{PODS}?limit=2")).await.ok();
    assert_eq!(page["metadata"]["remainingItemCount"], 3);
    let token = page["metadata"]["continue"].as_str().expect("a token").to_owned();
    bench.post(PODS, &pod("bb")).await.ok();
    let rest = bench.get(&format!("{PODS}?limit=9&continue={token}")).await.ok();
    assert_eq!(rest["metadata"]["resourceVersion"], page["metadata"]["resourceVersion"]);
    assert_eq!(rest["items"].as_array().map(Vec::len), Some(3), "the page is of the list's moment");
    assert!(
        bench
            .get(&format!("{PODS}?continue=x"))
            .await
            .refusal()
            .starts_with("400 BadRequest invalid continue token: continue key is not valid")
    );
    let refusal = bench.get(&format!("{PODS}?resourceVersionMatch=Exact")).await.refusal();
    assert!(refusal.ends_with("resourceVersionMatch is forbidden unless resourceVersion is provided"), "{refusal}");
    assert!(
        bench
            .get(&format!("{PODS}?resourceVersion=99999"))
            .await
            .refusal()
            .starts_with("504 Timeout Timeout: Too large resource version: 99999")
    );
}

#[tokio::test]
async fn a_deletion_that_says_nonsense_deletes_nothing() {
    let bench = Bench::ready().await;
    let (path, one) = ("/api/v1/namespaces/default/configmaps", "/api/v1/namespaces/default/configmaps/a");
    bench.post(path, &json!({"metadata": {"name": "a"}})).await.ok();
    let refusal = bench.delete(&format!("{one}?gracePeriodSeconds=abc")).await.refusal();
    assert_eq!(refusal, r#"400 BadRequest strconv.ParseInt: parsing "abc": invalid syntax"#);
    let other = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}});
    let refusal = bench.ask("DELETE", one).body(&other).send().await.refusal();
    assert!(refusal.starts_with(r#"400 BadRequest no kind "Pod" is registered for version "v1""#), "{refusal}");
    let both = json!({"orphanDependents": true, "propagationPolicy": "Orphan"});
    let refusal = bench.ask("DELETE", one).body(&both).send().await.refusal();
    assert!(refusal.ends_with("orphanDependents and deletionPropagation cannot be both set"), "{refusal}");
    bench.get(one).await.ok();
}

#[tokio::test]
async fn watches_see_what_selectors_see() {
    let bench = Bench::ready().await;
    let path = "/api/v1/namespaces/default/configmaps";
    let list = bench.get(path).await.ok();
    let from = list["metadata"]["resourceVersion"].as_str().expect("a revision");
    let query = format!("{path}?watch=true&labelSelector=on%3Dyes&resourceVersion={from}");
    let mut watch = bench.ask("GET", &query).watch().await;
    let object = |on: &str| json!({"metadata": {"name": "c", "labels": {"on": on}}});
    bench.post(path, &object("yes")).await.ok();
    assert_eq!(watch.change().await, "ADDED c");
    let mut data = object("yes");
    data["data"] = json!({"k": "v"});
    bench.put(&format!("{path}/c"), &data).await.ok();
    assert_eq!(watch.change().await, "MODIFIED c");
    bench.put(&format!("{path}/c"), &object("no")).await.ok();
    let left = watch.line().await.expect("a line");
    assert_eq!(left["type"], "DELETED");
    assert_eq!(left["object"]["metadata"]["labels"]["on"], "yes");
    bench.put(&format!("{path}/c"), &object("yes")).await.ok();
    let back = watch.line().await.expect("a line");
    assert_eq!(back["type"], "ADDED");
    bench.delete(&format!("{path}/c")).await.ok();
    let gone = watch.line().await.expect("a line");
    assert_eq!(gone["type"], "DELETED");
    let revision =
        |line: &Value| line["object"]["metadata"]["resourceVersion"].as_str().and_then(|rv| rv.parse::<u64>().ok());
    assert!(revision(&gone) > revision(&back));
    assert!(revision(&back) > revision(&left));
}

/// One reads along, one begins in the past, one reads nothing until more has happened than anybody keeps for it.
#[tokio::test]
async fn watchers_of_one_field_miss_nothing() {
    const MANY: usize = 400;
    let bench = Bench::ready().await;
    let from = bench.get(PODS).await.ok()["metadata"]["resourceVersion"].as_str().expect("a revision").to_owned();
    let query = format!("{PODS}?watch=true&fieldSelector=spec.nodeName%3Dn1&resourceVersion={from}");
    let (mut quick, mut slow) = (bench.ask("GET", &query).watch().await, bench.ask("GET", &query).watch().await);
    let on = |name: &str, node: &str| {
        let mut pod = pod(name);
        pod["spec"]["nodeName"] = node.into();
        pod
    };
    for number in 0..MANY {
        bench.post(PODS, &on(&format!("a{number}"), "n1")).await.ok();
        assert_eq!(quick.change().await, format!("ADDED a{number}"));
        bench.post(PODS, &on(&format!("b{number}"), "n2")).await.ok();
    }
    bench.delete(&format!("{PODS}/a0?gracePeriodSeconds=0")).await.ok();
    let mut late = bench.ask("GET", &query).watch().await;
    for number in 0..MANY {
        assert_eq!(slow.change().await, format!("ADDED a{number}"));
        assert_eq!(late.change().await, format!("ADDED a{number}"));
    }
    bench.post(PODS, &on("last", "n1")).await.ok();
    for watch in [&mut quick, &mut slow, &mut late] {
        assert_eq!(watch.change().await, "DELETED a0");
        assert_eq!(watch.change().await, "ADDED last");
    }
}

#[tokio::test]
async fn a_watch_list_ends_with_its_mark() {
    let bench = Bench::ready().await;
    bench.post(PODS, &pod("a")).await.ok();
    let query = "watch=true&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
    let mut watch = bench.ask("GET", &format!("{PODS}?{query}")).watch().await;
    assert_eq!(watch.change().await, "ADDED a");
    let mark = watch.line().await.expect("a line");
    assert_eq!(mark["type"], "BOOKMARK");
    assert_eq!(mark["object"]["kind"], "Pod");
    assert_eq!(mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    bench.post(PODS, &pod("b")).await.ok();
    assert_eq!(watch.change().await, "ADDED b");
    let refusal = bench.get(&format!("{PODS}?watch=true&sendInitialEvents=true")).await.refusal();
    assert!(refusal.starts_with("422 Invalid ListOptions.meta.k8s.io"), "{refusal}");
    let mut ended = bench.ask("GET", &format!("{PODS}?watch=true&timeoutSeconds=1&resourceVersion=0")).watch().await;
    assert_eq!(ended.change().await, "ADDED a");
    assert_eq!(ended.change().await, "ADDED b");
    assert!(ended.line().await.is_none());
}

#[tokio::test]
async fn a_scheduled_pod_gets_time_to_end() {
    let bench = Bench::ready().await;
    bench.post(PODS, &pod("web")).await.ok();
    let one = format!("{PODS}/web");
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "web"}, "target": {"kind": "Node", "name": "n1"}});
    let bound = bench.post(&format!("{one}/binding"), &binding).await;
    assert_eq!(bound.code, 201);
    assert_eq!(bound.json()["status"], "Success");
    let refusal = bench.post(&format!("{one}/binding"), &binding).await.refusal();
    assert_eq!(
        refusal,
        r#"409 Conflict Operation cannot be fulfilled on pods/binding "web": pod web is already assigned to node "n1""#
    );
    let ending = bench.delete(&one).await.ok();
    assert_eq!(ending["spec"]["nodeName"], "n1");
    assert_eq!(ending["status"]["conditions"][0]["type"], "PodScheduled");
    assert_eq!(ending["metadata"]["deletionGracePeriodSeconds"], 30);
    assert_eq!(ending["metadata"]["generation"], 2);
    let shorter = bench.delete(&format!("{one}?gracePeriodSeconds=5")).await.ok();
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
    let longer = bench.delete(&format!("{one}?gracePeriodSeconds=50")).await.ok();
    assert_eq!(longer, shorter);
    let wrong = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": "x"}});
    assert!(bench.ask("DELETE", &one).body(&wrong).send().await.refusal().starts_with("409 Conflict"));
    bench.ask("DELETE", &one).body(&json!({"gracePeriodSeconds": 0})).send().await.ok();
    assert_eq!(bench.get(&one).await.code, 404);
}

#[tokio::test]
async fn finalizers_hold_an_object() {
    let bench = Bench::ready().await;
    let path = "/api/v1/namespaces/default/configmaps";
    let one = format!("{path}/c");
    bench.post(path, &json!({"metadata": {"name": "c", "finalizers": ["example.com/hold"]}})).await.ok();
    let ending = bench.delete(&one).await.ok();
    assert!(ending["metadata"]["deletionTimestamp"].is_string());
    let more = json!({"metadata": {"name": "c", "finalizers": ["example.com/hold", "example.com/b"]}});
    assert!(
        bench
            .put(&one, &more)
            .await
            .refusal()
            .contains("no new finalizers can be added if the object is being deleted")
    );
    bench.put(&one, &json!({"metadata": {"name": "c"}})).await.ok();
    assert_eq!(bench.get(&one).await.code, 404);
}

#[tokio::test]
async fn status_and_spec_are_apart() {
    let bench = Bench::ready().await;
    let made = bench.post(PODS, &pod("web")).await.ok();
    let one = format!("{PODS}/web");
    let mut changed = made.clone();
    changed["status"]["phase"] = json!("Running");
    changed["spec"]["containers"][0]["image"] = json!("other");
    let updated = bench.put(&one, &changed).await.ok();
    assert_eq!(updated["status"]["phase"], "Pending");
    assert_eq!(updated["metadata"]["generation"], 2);
    let patch = json!({"status": {"phase": "Running", "observedGeneration": 2}, "spec": {"nodeName": "x"}});
    let patched = bench.ask("PATCH", &format!("{one}/status")).patch("merge-patch+json", &patch).send().await.ok();
    assert_eq!(patched["status"]["phase"], "Running");
    assert_eq!(patched["spec"].get("nodeName"), None);
    assert_eq!(patched["metadata"]["generation"], 2);
    let patch = json!({"spec": {"hostname": "h"}});
    let refusal = bench.ask("PATCH", &one).patch("merge-patch+json", &patch).send().await.refusal();
    assert!(refusal.contains("spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`"), "{refusal}");
}

#[tokio::test]
async fn events_have_two_faces() {
    let bench = Bench::ready().await;
    let path = "/api/v1/namespaces/default/events";
    let event = json!({"metadata": {"name": "e.1"}, "involvedObject": {"kind": "Pod", "name": "web", "namespace": "default"},
        "reason": "Started", "message": "hello", "type": "Normal"});
    bench.post(path, &event).await.ok();
    let other = "/apis/events.k8s.io/v1/namespaces/default/events";
    let seen = bench.get(&format!("{other}/e.1")).await.ok();
    assert_eq!(seen["apiVersion"], "events.k8s.io/v1");
    assert_eq!(seen["note"], "hello");
    assert_eq!(seen["regarding"]["name"], "web");
    let list =
        bench.get(&format!("{path}?fieldSelector=involvedObject.name%3Dweb,involvedObject.kind%3DPod")).await.ok();
    assert_eq!(list["items"][0]["message"], "hello");
    let list = bench.get(other).await.ok();
    assert_eq!(list["items"][0]["note"], "hello");
    // By its new face an event is fixed, by its old one it is not.
    let patch = json!({"note": "bye"});
    let answer = bench.ask("PATCH", &format!("{other}/e.1")).patch("merge-patch+json", &patch).send().await;
    assert!(answer.refusal().contains("message: Invalid value: \"bye\": field is immutable"));
    let patch = json!({"message": "bye"});
    bench.ask("PATCH", &format!("{path}/e.1")).patch("merge-patch+json", &patch).send().await.ok();
    assert_eq!(bench.get(&format!("{other}/e.1")).await.ok()["note"], "bye");
    bench.delete(path).await.ok();
    assert_eq!(bench.get(path).await.ok()["items"], json!([]));
}

#[tokio::test]
async fn a_node_says_only_ranges_that_it_claimed() {
    let bench = Bench::ready().await;
    let facts = json!({"metadata": {"name": "podling-cluster"}, "data": {"podCIDR": "10.42.0.0/16"}});
    bench.post("/api/v1/namespaces/kube-system/configmaps", &facts).await.ok();
    let ask = |method: &str, path: &str| bench.ask(method, path).by("system:node:n9", &["system:nodes"]);
    let blocks = "/apis/coordination.k8s.io/v1/namespaces/podling-blocks/leases";
    let lease = |name: &str, holder: &str| json!({"metadata": {"name": name}, "spec": {"holderIdentity": holder}});
    for wide in ["10.42.0.0-16", "10.42.0.0-25", "10.42.0.1-26", "10.99.0.0-26"] {
        assert_eq!(ask("POST", blocks).body(&lease(wide, "n9")).send().await.code, 403, "{wide}");
    }
    let node = |ranges: Value| json!({"metadata": {"name": "n9"}, "spec": {"podCIDRs": ranges}});
    let nodes = "/api/v1/nodes";
    assert_eq!(ask("POST", nodes).body(&node(json!(["10.42.0.64/26"]))).send().await.code, 403, "not claimed yet");
    ask("POST", blocks).body(&lease("10.42.0.64-26", "n9")).send().await.ok();
    bench.post(blocks, &lease("10.42.0.128-26", "other")).await.ok();
    ask("POST", nodes).body(&node(json!(["10.42.0.64/26"]))).send().await.ok();
    let more = |range: &str| json!({"spec": {"podCIDRs": ["10.42.0.64/26", range]}});
    let own = "/api/v1/nodes/n9";
    for foreign in ["10.42.0.128/26", "10.42.0.192/26", "10.42.0.0/16"] {
        for path in [own.to_owned(), format!("{own}/status")] {
            let answer = ask("PATCH", &path).patch("merge-patch+json", &more(foreign)).send().await;
            assert_eq!(answer.code, 403, "{foreign} at {path}");
        }
    }
    let put = json!({"metadata": {"name": "n9"}, "spec": {"podCIDRs": ["10.42.0.64/26", "10.42.0.128/26"]}});
    assert_eq!(ask("PUT", own).body(&put).send().await.code, 403);
    ask("POST", blocks).body(&lease("10.42.0.192-26", "n9")).send().await.ok();
    let told = ask("PATCH", own).patch("merge-patch+json", &more("10.42.0.192/26")).send().await.ok();
    assert_eq!(told["spec"]["podCIDRs"], json!(["10.42.0.64/26", "10.42.0.192/26"]));
}

#[tokio::test]
async fn a_node_says_no_address_of_another_that_is_ready() {
    let bench = Bench::ready().await;
    let ask = |node: &str, method: &str, path: &str| {
        bench.ask(method, path).by(&format!("system:node:{node}"), &["system:nodes"])
    };
    let status = |address: &str, ready: &str| {
        json!({"status": {"addresses": [{"type": "InternalIP", "address": address}],
            "conditions": [{"type": "Ready", "status": ready}]}})
    };
    let node = |name: &str, address: &str| {
        let mut node = status(address, "True");
        node["metadata"] = json!({"name": name});
        node
    };
    let nodes = "/api/v1/nodes";
    ask("a", "POST", nodes).body(&node("a", "10.0.0.1")).send().await.ok();
    let refusal = ask("b", "POST", nodes).body(&node("b", "10.0.0.1")).send().await.refusal();
    assert_eq!(
        refusal,
        r#"403 Forbidden nodes "b" is forbidden: node "b" is not allowed to set the address "10.0.0.1", which node "a" has as long as it is ready"#
    );
    ask("b", "POST", nodes).body(&node("b", "10.0.0.2")).send().await.ok();
    let own = "/api/v1/nodes/b/status";
    for kind in ["merge-patch+json", "strategic-merge-patch+json"] {
        let answer = ask("b", "PATCH", own).patch(kind, &status("10.0.0.1", "True")).send().await;
        assert_eq!(answer.code, 403, "{kind}");
    }
    assert_eq!(ask("b", "PUT", own).body(&node("b", "10.0.0.1")).send().await.code, 403);
    let moved = ask("b", "PATCH", own).patch("merge-patch+json", &status("10.0.0.3", "True")).send().await.ok();
    assert_eq!(moved["status"]["addresses"][0]["address"], "10.0.0.3", "to where nobody is");
    let lost = bench.ask("PATCH", "/api/v1/nodes/a/status").patch("merge-patch+json", &status("10.0.0.1", "Unknown"));
    lost.send().await.ok();
    ask("b", "PATCH", own).patch("merge-patch+json", &status("10.0.0.1", "True")).send().await.ok();
}
