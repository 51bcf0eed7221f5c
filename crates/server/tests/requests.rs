//! Who may what, and what becomes of requests that make no sense.

#[expect(dead_code, reason = "each test file uses another part of the bench")]
mod bench;

use bench::{Answer, Bench, PODS, pod};
use serde_json::json;

async fn as_node(bench: &Bench, method: &str, path: &str) -> Answer {
    bench.ask(method, path).by("system:node:n1", &["system:nodes"]).send().await
}

async fn bound(bench: &Bench, pod: &serde_json::Value, node: &str) {
    bench.post(PODS, pod).await.ok();
    let name = pod["metadata"]["name"].as_str().expect("a name");
    let binding = json!({"metadata": {"name": name}, "target": {"kind": "Node", "name": node}});
    bench.post(&format!("{PODS}/{name}/binding"), &binding).await.ok();
}

#[tokio::test]
async fn strangers_see_health_and_versions_only() {
    let bench = Bench::new().await;
    for path in ["/healthz", "/livez", "/readyz", "/version", "/version/"] {
        assert_eq!(bench.ask("GET", path).anonymous().send().await.code, 200, "{path}");
    }
    for (path, refusal) in [
        (
            PODS,
            r#"403 Forbidden pods is forbidden: User "system:anonymous" cannot list resource "pods" in API group "" in the namespace "default""#,
        ),
        ("/api/v1", r#"403 Forbidden forbidden: User "system:anonymous" cannot get path "/api/v1""#),
        ("/openapi/v3", r#"403 Forbidden forbidden: User "system:anonymous" cannot get path "/openapi/v3""#),
        (
            "/apis/coordination.k8s.io/v1/leases",
            r#"403 Forbidden leases.coordination.k8s.io is forbidden: User "system:anonymous" cannot list resource "leases" in API group "coordination.k8s.io" at the cluster scope"#,
        ),
    ] {
        assert_eq!(bench.ask("GET", path).anonymous().send().await.refusal(), refusal);
    }
    let refusal = r#"403 Forbidden forbidden: User "system:anonymous" cannot get path "/healthz/""#;
    assert_eq!(bench.ask("GET", "/healthz/").anonymous().send().await.refusal(), refusal);
    for (path, code) in [("/healthz/", 404), ("/livez/ping/", 404), ("/livez/ping", 200), ("/api/", 200)] {
        assert_eq!(bench.ask("GET", path).by("somebody", &[]).send().await.code, code, "{path}");
    }
    for path in [
        "/",
        "/api",
        "/api/",
        "/apis",
        "/livez/",
        "/livez/ping",
        "/livez/ping/",
        "/readyz/ping",
        "/version/x",
        "/openapi/v2",
    ] {
        assert_eq!(bench.ask("GET", path).anonymous().send().await.code, 403, "{path}");
    }
    let known = bench.ask("GET", "/apis").by("somebody", &[]).send().await;
    assert_eq!(known.code, 200, "discovery is for all who are known");
    let token = bench.ask("GET", PODS).anonymous().header("authorization", "Bearer x").send().await;
    assert_eq!(token.refusal(), "401 Unauthorized Unauthorized");
}

#[tokio::test]
async fn users_without_rights_know_themselves() {
    let bench = Bench::new().await;
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let me = bench.ask("POST", path).by("jane", &["dev"]).body(&json!({})).send().await.ok();
    assert_eq!(me["status"]["userInfo"], json!({"username": "jane", "groups": ["dev", "system:authenticated"]}));
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let spec = json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let may = bench.ask("POST", path).by("jane", &["dev"]).body(&spec).send().await.ok();
    assert_eq!(may["status"]["allowed"], false);
    assert_eq!(bench.ask("GET", PODS).by("jane", &["dev"]).send().await.code, 403);
    assert_eq!(bench.ask("GET", "/api/v1").by("jane", &["dev"]).send().await.code, 200);
    let impersonating = bench.ask("GET", PODS).by("jane", &["dev"]).header("impersonate-user", "admin").send().await;
    assert_eq!(
        impersonating.refusal(),
        r#"403 Forbidden users "admin" is forbidden: User "jane" cannot impersonate resource "users" in API group "" at the cluster scope"#
    );
}

#[tokio::test]
async fn a_node_sees_what_its_pods_use() {
    let bench = Bench::ready().await;
    for name in ["used", "other"] {
        let secret = json!({"metadata": {"name": name}});
        bench.post("/api/v1/namespaces/default/secrets", &secret).await.ok();
    }
    let mut own = pod("own");
    own["spec"]["containers"][0]["envFrom"] = json!([{"secretRef": {"name": "used"}}]);
    bound(&bench, &own, "n1").await;
    bound(&bench, &pod("foreign"), "n2").await;
    let code = async |method: &str, path: &str| as_node(&bench, method, path).await.code;
    assert_eq!(code("GET", "/api/v1/namespaces/default/secrets/used").await, 200);
    let refusal = as_node(&bench, "GET", "/api/v1/namespaces/default/secrets/other").await.refusal();
    assert!(refusal.ends_with("no relationship found between node 'n1' and this object"), "{refusal}");
    assert_eq!(code("GET", "/api/v1/namespaces/default/secrets").await, 403);
    assert_eq!(code("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1").await, 200);
    assert_eq!(code("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn2").await, 403);
    assert_eq!(code("GET", "/api/v1/pods?fieldSelector=spec.nodeName%21%3Dn1").await, 403);
    assert_eq!(code("GET", "/api/v1/pods").await, 403);
    assert_eq!(code("GET", &format!("{PODS}/own")).await, 200);
    assert_eq!(code("GET", &format!("{PODS}/foreign")).await, 403);
    assert_eq!(code("DELETE", &format!("{PODS}/foreign")).await, 403);
    let patch = json!({"status": {"phase": "Running"}});
    let status = async |name: &str| {
        let ask = bench.ask("PATCH", &format!("{PODS}/{name}/status")).by("system:node:n1", &["system:nodes"]);
        ask.patch("merge-patch+json", &patch).send().await.code
    };
    assert_eq!((status("own").await, status("foreign").await), (200, 403));
    assert_eq!(code("GET", "/api/v1/nodes/n2").await, 403);
    assert_eq!(code("GET", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1").await, 404);
    assert_eq!(code("GET", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n2").await, 403);
}

#[tokio::test]
async fn the_systems_parts_may_what_they_need() {
    let bench = Bench::ready().await;
    bench.post(PODS, &pod("web")).await.ok();
    let scheduler = |method, path: &str| bench.ask(method, path).by("system:kube-scheduler", &[]);
    assert_eq!(scheduler("GET", "/api/v1/pods").send().await.code, 200);
    assert_eq!(scheduler("GET", "/api/v1/secrets").send().await.code, 403);
    let binding = json!({"metadata": {"name": "web"}, "target": {"kind": "Node", "name": "n1"}});
    assert_eq!(scheduler("POST", &format!("{PODS}/web/binding")).body(&binding).send().await.code, 201);
    assert_eq!(
        scheduler("POST", "/api/v1/namespaces").body(&json!({"metadata": {"name": "x"}})).send().await.code,
        403
    );
    let manager = |method, path: &str| bench.ask(method, path).by("system:kube-controller-manager", &[]);
    let account = json!({"metadata": {"name": "x"}});
    assert_eq!(manager("POST", "/api/v1/namespaces/default/serviceaccounts").body(&account).send().await.code, 201);
    assert_eq!(manager("DELETE", "/api/v1/namespaces/default/configmaps").send().await.code, 200);
    assert_eq!(manager("GET", &format!("{PODS}/web/exec?command=a&stdout=1")).send().await.code, 403);
}

#[tokio::test]
async fn logs_and_streams_go_to_the_node() {
    let bench = Bench::ready().await;
    bound(&bench, &pod("web"), "n1").await;
    let told = async |method: &str, path: &str| bench.ask(method, &format!("{PODS}/web/{path}")).send().await.text();
    assert_eq!(
        told("GET", "log?tailLines=5&follow=true").await,
        "n1: GET /containerLogs/default/web/main?tailLines=5&follow=true"
    );
    assert_eq!(
        told("POST", "exec?command=sh&command=-c&stdout=true&tty=true").await,
        "n1: POST /exec/default/web/main?command=sh&command=-c&stdout=true&tty=true"
    );
    assert_eq!(
        told("GET", "attach?stdin=true&container=main").await,
        "n1: GET /attach/default/web/main?stdin=true&container=main"
    );
    assert_eq!(told("POST", "portforward?ports=80").await, "n1: POST /portForward/default/web?ports=80");
    bound(&bench, &pod("lost"), "away").await;
    let refusal = bench.get(&format!("{PODS}/lost/log")).await.refusal();
    assert!(refusal.starts_with("500 InternalError Internal error occurred: error dialing backend: "), "{refusal}");
}

#[tokio::test]
async fn large_bodies_are_refused() {
    let bench = Bench::ready().await;
    let big = format!(r#"{{"metadata":{{"name":"big"}},"data":{{"k":"{}"}}}}"#, "x".repeat(3 << 20));
    let answer = bench.ask("POST", "/api/v1/namespaces/default/configmaps").raw(big).send().await;
    assert_eq!(answer.refusal(), "413 RequestEntityTooLarge Request entity too large: limit is 3145728");
    let big = json!({"metadata": {"name": "big"}, "data": {"k": "x".repeat((1 << 20) + 1)}});
    let refusal = bench.post("/api/v1/namespaces/default/configmaps", &big).await.refusal();
    assert!(refusal.contains("Too long: may not be more than 1048576 bytes"), "{refusal}");
}

#[tokio::test]
async fn nonsense_is_the_clients_mistake() {
    let bench = Bench::ready().await;
    bench.post(PODS, &pod("web")).await.ok();
    let one = format!("{PODS}/web");
    let bodies = [
        "",
        "null",
        "[]",
        "7",
        "\"x\"",
        "{",
        "{}",
        r#"{"metadata":null}"#,
        r#"{"metadata":[]}"#,
        r#"{"metadata":{"name":7}}"#,
        r#"{"spec":null}"#,
        r#"{"spec":{"containers":null}}"#,
        r#"{"spec":{"containers":[null]}}"#,
        r#"{"spec":{"containers":[{"resources":{"limits":{"cpu":null}}}]}}"#,
        r#"{"metadata":{"name":"a","ownerReferences":[null],"finalizers":[null]},"spec":{"containers":[{"name":"a","image":"x","ports":[null],"env":[null],"volumeMounts":[null]}],"volumes":[null]}}"#,
        r#"{"metadata":{"name":"a"},"spec":{"containers":[{"name":"a","image":"x","ports":[{"containerPort":99999999999999999999}]}]}}"#,
        "{\"metadata\":{\"name\":\"\\u0000\"}}",
    ];
    let places = [
        ("POST", PODS.to_owned()),
        ("PUT", one.clone()),
        ("POST", format!("{one}/binding")),
        ("POST", format!("{one}/eviction?dryRun=All")),
        ("PUT", format!("{one}/status")),
        ("DELETE", format!("{one}?dryRun=All")),
        ("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews".to_owned()),
    ];
    for body in bodies {
        for (method, path) in &places {
            for media in ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"] {
                let answer = bench.ask(method, path).header("content-type", media).raw(body).send().await;
                assert!(answer.code < 500, "{method} {path} {media} {body}: {}", answer.text());
            }
        }
        for media in ["json-patch+json", "merge-patch+json", "strategic-merge-patch+json", "apply-patch+yaml"] {
            let ask = bench.ask("PATCH", &one).header("content-type", &format!("application/{media}"));
            let answer = ask.raw(body).send().await;
            assert!(answer.code < 500, "PATCH {media} {body}: {}", answer.text());
        }
    }
    for path in [
        "/api/v1/namespaces/%2e%2e/pods",
        "/api/v1/namespaces/default/pods/%2f",
        "/%ff",
        "/api/v1/namespaces/default/pods?limit=-1",
        "/api/v1/pods?labelSelector=%00",
        "/api/v1/pods?watch=true&resourceVersion=x",
        "//",
        "/api//v1",
        "/api/v1/pods?continue=bnVsbA",
        "/api/v1/namespaces/default/pods?timeoutSeconds=x&watch=1",
        "/openapi/v3/",
        "/openapi/v3/x",
        "/openapi/v2",
    ] {
        let answer = bench.get(path).await;
        assert!(answer.code < 500, "{path}: {}", answer.text());
    }
}

#[tokio::test]
async fn discovery_is_kept_by_its_tag() {
    let bench = Bench::new().await;
    let wanted = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let first = bench.ask("GET", "/apis?timeout=32s").header("accept", wanted).send().await;
    assert_eq!(first.headers["content-type"], "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
    let tag = first.headers["etag"].to_str().expect("text").to_owned();
    let again = bench.ask("GET", "/apis").header("accept", wanted).header("if-none-match", &tag).send().await;
    assert_eq!((again.code, again.bytes.len()), (304, 0));
    assert!(again.headers.get("content-type").is_none());
    let index = bench.get("/openapi/v3").await.ok();
    let url = index["paths"]["api/v1"]["serverRelativeURL"].as_str().expect("a URL").to_owned();
    let document = bench.get(&url).await;
    assert_eq!(document.headers["cache-control"], "public, immutable");
    let moved = bench.get("/openapi/v3/api/v1?hash=OLD").await;
    assert_eq!(moved.code, 301);
    assert_eq!(moved.headers["location"].to_str().ok(), Some(url.as_str()));
}

#[tokio::test]
async fn what_is_not_done_yet_is_said() {
    let bench = Bench::ready().await;
    let mut probed = pod("probed");
    probed["spec"]["containers"][0]["livenessProbe"] = json!({"tcpSocket": {"port": 80}});
    let answer = bench.post(PODS, &probed).await;
    assert_eq!(
        answer.warnings(),
        [r#"299 - "spec.containers[0].livenessProbe: podling stores this field but does not act on it yet""#]
    );
    assert_eq!(bench.post(PODS, &pod("plain")).await.warnings(), [""; 0]);
}
