//! What a pod may say, on the real binary: what its containers share, see, and become.

use client::resource;
use e2e::cluster::{Cluster, condition};
use serde_json::{Value, json};

fn cluster() -> Option<Cluster> {
    e2e::can_run().then(Cluster::with_busybox)
}

/// A container that runs a shell script.
fn script(name: &str, text: &str) -> Value {
    json!({"name": name, "image": "busybox", "command": ["sh", "-c", text]})
}

fn with(mut value: Value, field: &str, content: Value) -> Value {
    value[field] = content;
    value
}

/// A pod that runs its containers once and is then looked at.
fn once(cluster: &Cluster, name: &str, spec: Value) -> Value {
    cluster.run(name, with(spec, "restartPolicy", "Never".into()));
    cluster.ended_pod(name)
}

fn log(cluster: &Cluster, name: &str) -> String {
    cluster.any_shell().ok(&format!("kubectl logs {name}"))
}

fn terminated(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]["state"]["terminated"]
}

#[test]
fn containers_of_one_pod_share_network_and_volumes_and_nothing_else() {
    let Some(cluster) = cluster() else { return };
    let mount = json!([{"name": "shared", "mountPath": "/shared"}]);
    let server = script("server", "echo mine > /own; echo ours > /shared/note; httpd -f -p 8080 -h /shared");
    let spec = json!({
        "terminationGracePeriodSeconds": 0,
        "volumes": [{"name": "shared", "emptyDir": {"medium": "Memory"}}],
        "containers": [
            with(server, "volumeMounts", mount.clone()),
            with(script("client", "exec sleep 3600"), "volumeMounts", mount),
        ],
    });
    cluster.run("pair", spec.clone());
    cluster.run("other", spec);
    let pod = cluster.ready_pod("pair");
    cluster.ready_pod("other");
    let shell = cluster.any_shell();
    let client = |line: &str| shell.run(&format!("kubectl exec pair -c client -- sh -c '{line}'"));
    assert_eq!(client("wget -qO- localhost:8080/note").ok(), "ours\n");
    assert_eq!(client("cat /shared/note; hostname").ok(), "ours\npair\n");
    assert!(client("cat /own").refused().contains("No such file"));
    assert!(client("httpd -f -p 8080").refused().contains("Address already in use"));
    let address = pod["status"]["podIP"].as_str().expect("an address").to_owned();
    let reached = format!("kubectl exec other -c client -- wget -qO- {address}:8080/note");
    assert_eq!(shell.ok(&reached), "ours\n");
}

#[test]
fn the_environment_comes_from_everywhere() {
    let Some(cluster) = cluster() else { return };
    let map =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "map"}, "data": {"one": "1", "two": "2"}});
    cluster.create(&resource::CONFIG_MAPS, map);
    let secret =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "secret"}, "stringData": {"word": "sesame"}});
    cluster.create(&resource::SECRETS, secret);
    let env = json!([
        {"name": "LITERAL", "value": "a"},
        {"name": "COMPOSED", "value": "$(LITERAL)-$(one) $$(LITERAL) $(MISSING)"},
        {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "LIMIT", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
        {"name": "KEY", "valueFrom": {"configMapKeyRef": {"name": "map", "key": "two"}}},
        {"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "secret", "key": "word"}}},
        {"name": "NONE", "valueFrom": {"secretKeyRef": {"name": "secret", "key": "none", "optional": true}}},
    ]);
    let text = "echo $LITERAL/$COMPOSED/$NAME/$LIMIT/$KEY/$WORD/${NONE-unset}/$MAP_two";
    let mut container = script("c", text);
    container["env"] = env;
    container["envFrom"] =
        json!([{"configMapRef": {"name": "map"}}, {"prefix": "MAP_", "configMapRef": {"name": "map"}}]);
    container["resources"] = json!({"limits": {"memory": "64Mi"}});
    once(&cluster, "env", json!({"containers": [container]}));
    assert_eq!(log(&cluster, "env"), "a/a-1 $(LITERAL) $(MISSING)/env/64/2/sesame/unset/2\n");
}

#[test]
fn init_containers_run_in_order_before_the_others() {
    let Some(cluster) = cluster() else { return };
    let mount = json!([{"name": "work", "mountPath": "/work"}]);
    let step = |name: &str, text: &str| with(script(name, text), "volumeMounts", mount.clone());
    let volumes = json!([{"name": "work", "emptyDir": {}}]);
    let spec = json!({
        "volumes": volumes,
        "initContainers": [step("first", "echo 1 >> /work/log"), step("second", "echo 2 >> /work/log")],
        "containers": [step("main", "cat /work/log")],
    });
    let pod = once(&cluster, "prepared", spec);
    assert_eq!(log(&cluster, "prepared"), "1\n2\n");
    assert_eq!(condition(&pod, "Initialized"), "True");
    let spec = json!({"initContainers": [script("bad", "exit 3")], "containers": [script("main", "echo never")]});
    let failed = once(&cluster, "unprepared", spec);
    assert_eq!(failed["status"]["phase"], "Failed");
    assert_eq!(failed["status"]["initContainerStatuses"][0]["state"]["terminated"]["exitCode"], 3);
    assert_eq!(failed["status"]["containerStatuses"][0]["state"]["waiting"]["reason"], "PodInitializing");
}

#[test]
fn containers_end_with_codes_reasons_and_last_words() {
    let Some(cluster) = cluster() else { return };
    let spec = |container: Value| json!({"containers": [container]});
    let good = once(&cluster, "good", spec(script("c", "echo -n fine > /dev/termination-log")));
    assert_eq!(good["status"]["phase"], "Succeeded");
    let end = terminated(&good);
    assert_eq!((&end["reason"], &end["message"], &end["exitCode"]), (&json!("Completed"), &json!("fine"), &json!(0)));
    let loud = with(script("c", "echo last words; exit 7"), "terminationMessagePolicy", "FallbackToLogsOnError".into());
    let bad = once(&cluster, "bad", spec(loud));
    assert_eq!(bad["status"]["phase"], "Failed");
    let end = terminated(&bad);
    assert_eq!(
        (&end["reason"], &end["message"], &end["exitCode"]),
        (&json!("Error"), &json!("last words\n"), &json!(7))
    );
    // Two dollars stand for one in a command.
    let killed = once(&cluster, "killed", spec(script("c", "sh -c 'kill -KILL $$$$'; exit $?")));
    assert_eq!(terminated(&killed)["exitCode"], 137);
    let hungry = script("c", "x=a; while true; do x=$x$x; done");
    let hungry = with(hungry, "resources", json!({"limits": {"memory": "32Mi"}}));
    let starved = once(&cluster, "hungry", spec(hungry));
    assert_eq!(terminated(&starved)["reason"], "OOMKilled");
}

#[test]
fn a_failed_container_starts_again_and_a_pod_does_not_outlive_its_deadline() {
    let Some(cluster) = cluster() else { return };
    let spec = json!({
        "restartPolicy": "OnFailure",
        "volumes": [{"name": "work", "emptyDir": {}}],
        "containers": [with(
            script("c", "test -e /work/seen && exit 0; touch /work/seen; exit 1"),
            "volumeMounts",
            json!([{"name": "work", "mountPath": "/work"}]),
        )],
    });
    cluster.run("again", spec);
    let pod = cluster.ended_pod("again");
    assert_eq!(pod["status"]["phase"], "Succeeded");
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 1);
    let spec = json!({"activeDeadlineSeconds": 1, "terminationGracePeriodSeconds": 0, "containers": [script("c", "sleep 3600")]});
    let late = once(&cluster, "late", spec);
    assert_eq!((&late["status"]["phase"], &late["status"]["reason"]), (&json!("Failed"), &json!("DeadlineExceeded")));
}

#[test]
fn security_contexts_are_obeyed() {
    let Some(cluster) = cluster() else { return };
    let show = "id -u; id -g; id -G; grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\\t'; touch /x 2>/dev/null && echo writable || echo read-only; stat -c %g /volume";
    let mut container = script("c", show);
    container["securityContext"] =
        json!({"runAsUser": 1000, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}});
    container["volumeMounts"] = json!([{"name": "volume", "mountPath": "/volume"}]);
    let spec = json!({
        "securityContext": {"runAsGroup": 3000, "fsGroup": 4000, "supplementalGroups": [5000]},
        "volumes": [{"name": "volume", "emptyDir": {}}],
        "containers": [container],
    });
    once(&cluster, "confined", spec);
    let text = log(&cluster, "confined");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..2], ["1000", "3000"], "{text}");
    for group in ["3000", "2000", "4000", "5000"] {
        assert!(lines[2].split(' ').any(|own| own == group), "no group {group} in {text}");
    }
    assert_eq!(lines[3..], ["NoNewPrivs:1", "Seccomp:2", "read-only", "4000"], "{text}");
    let root = json!({"containers": [with(script("c", "true"), "securityContext", json!({"runAsNonRoot": true}))]});
    cluster.run("root", root);
    let refused = cluster.pod("root", "its refusal", |pod| {
        pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CreateContainerConfigError"
    });
    let waiting = &refused["status"]["containerStatuses"][0]["state"]["waiting"];
    assert!(waiting["message"].as_str().is_some_and(|text| text.contains("will run as root")), "{waiting}");
}

#[test]
fn names_and_ports_of_the_host_are_as_the_pod_says() {
    let Some(cluster) = cluster() else { return };
    let aliases = json!([{"ip": "192.0.2.7", "hostnames": ["far", "away"]}]);
    let spec =
        json!({"hostname": "custom", "hostAliases": aliases, "containers": [script("c", "hostname; cat /etc/hosts")]});
    once(&cluster, "named", spec);
    let text = log(&cluster, "named");
    assert!(text.starts_with("custom\n# Kubernetes-managed hosts file.\n"), "{text}");
    assert!(text.contains("192.0.2.7\tfar\taway\n") && text.contains("\tcustom\n"), "{text}");
    let spec = json!({"hostNetwork": true, "containers": [script("c", "hostname; ls /sys/class/net")]});
    let pod = once(&cluster, "outside", spec);
    assert_eq!(pod["status"]["podIP"], pod["status"]["hostIP"]);
    let own = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("a host name");
    assert!(log(&cluster, "outside").starts_with(own.trim()));
    let mut server = script("c", "echo served > /tmp/index.html; httpd -f -p 80 -h /tmp");
    server["ports"] = json!([{"containerPort": 80, "hostPort": 38080}]);
    cluster.run("published", json!({"terminationGracePeriodSeconds": 0, "containers": [server]}));
    cluster.ready_pod("published");
    let fetched =
        cluster.any_shell().run("curl -s --retry 20 --retry-connrefused --retry-delay 1 -m 30 localhost:38080");
    assert_eq!(fetched.ok(), "served\n");
}

#[test]
fn quality_of_service_and_warnings_are_told() {
    let Some(cluster) = cluster() else { return };
    let resources = |requests: Value, limits: Value| json!({"containers": [with(script("c", "true"), "resources", json!({"requests": requests, "limits": limits}))]});
    let both = json!({"cpu": "100m", "memory": "32Mi"});
    for (name, spec, class) in [
        ("guaranteed", resources(both.clone(), both.clone()), "Guaranteed"),
        ("burstable", resources(both, json!({})), "Burstable"),
        ("effort", json!({"containers": [script("c", "true")]}), "BestEffort"),
    ] {
        assert_eq!(once(&cluster, name, spec)["status"]["qosClass"], class);
    }
    let manifest = "apiVersion: v1\nkind: Pod\nmetadata: {name: probed}\nspec:\n  containers:\n  - {name: c, image: busybox, livenessProbe: {tcpSocket: {port: 80}}}\n";
    let output = cluster.any_shell().run_with("kubectl create -f -", manifest);
    assert!(output.stderr.contains("Warning: spec.containers[0].livenessProbe:"), "{output}");
}
