//! What else people do with kubectl, and with podling's own commands where it has them.

use e2e::cluster::Cluster;
use e2e::finger::Finger;
use e2e::shell::Shell;
use serde_json::json;

/// Runs a test with each of the fingers, on a cluster with a pod `box` of two containers that runs.
fn with_each(fingers: &[Finger], test: impl Fn(&Cluster, &Shell)) {
    if !e2e::can_run() {
        return;
    }
    for finger in fingers {
        let cluster = Cluster::with_busybox();
        let container = |name: &str| json!({"name": name, "image": "busybox", "command": ["sh", "-c", "echo started; exec sleep 3600"]});
        cluster.run(
            "box",
            json!({"terminationGracePeriodSeconds": 0, "containers": [container("one"), container("two")]}),
        );
        cluster.ready_pod("box");
        test(&cluster, &cluster.shell(finger));
    }
}

#[track_caller]
fn contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
}

#[test]
fn commands_run_in_containers() {
    with_each(&Finger::all(), |_, shell| {
        for variables in ["KUBECTL_REMOTE_COMMAND_WEBSOCKETS=true", "KUBECTL_REMOTE_COMMAND_WEBSOCKETS=false"] {
            let line = |rest: &str| format!("env {variables} kubectl exec {rest}");
            assert_eq!(shell.ok(&line("box -c two -- hostname")), "box\n");
            let both = shell.run(&line("box -c one -- sh -c 'echo out; echo err >&2; exit 7'"));
            assert_eq!((both.code, both.stdout.as_str()), (7, "out\n"), "{both}");
            contains(&both.stderr, &["err\n", "command terminated with exit code 7"]);
            let echoed = shell.run_with(&line("-i box -c one -- cat"), "through and back\n");
            assert_eq!(echoed.ok(), "through and back\n");
            let missing = shell.run(&line("box -c one -- no-such-program"));
            assert!(missing.code != 0, "{missing}");
            contains(&missing.stderr, &["no-such-program"]);
            let terminal = format!("script -qec \"{}\" /dev/null", line("-it box -c one -- sh -c 'tty && stty size'"));
            contains(&shell.ok(&terminal), &["/dev/pts/"]);
        }
    });
}

#[test]
fn files_are_copied() {
    with_each(&Finger::kubectls(), |cluster, shell| {
        let (source, target) = (cluster.path("source"), cluster.path("target"));
        let content: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
        std::fs::write(&source, &content).expect("a file");
        shell.ok(&format!("kubectl cp {} box:/tmp/copy -c one", source.display()));
        shell.ok(&format!("kubectl cp box:/tmp/copy {} -c one", target.display()));
        assert_eq!(std::fs::read(&target).expect("a copy"), content);
    });
}

#[test]
fn pods_are_described() {
    with_each(&Finger::all(), |cluster, shell| {
        let node = cluster.facts()["node_name"].as_str().expect("a name").to_owned();
        let text = shell.ok("kubectl describe po box");
        contains(
            &text,
            &[
                "Name:",
                &format!("Node:             {node}/"),
                "Status:           Running",
                "  one:",
                "QoS Class:",
                "Scheduled",
                "Pulled",
                "Created",
                "Started",
                "Successfully assigned default/box",
            ],
        );
        contains(&shell.ok(&format!("kubectl describe node {node}")), &["Ready", "Allocatable:", "box"]);
        contains(&shell.ok("kubectl api-resources"), &["pods", "po ", "configmaps", "Pod"]);
        contains(&shell.ok("kubectl cluster-info"), &["Kubernetes control plane", "is running at"]);
        contains(&shell.ok("kubectl get events"), &["Scheduled", "Started", "pod/box"]);
    });
}

#[test]
fn the_cluster_is_explained() {
    with_each(&Finger::kubectls(), |_, shell| {
        contains(
            &shell.ok("kubectl explain pod.spec.containers"),
            &["KIND:", "Pod", "FIELD: containers", "image\t<string>"],
        );
        contains(&shell.ok("kubectl version"), &["Client Version: v1.3", "Server Version: v1.37"]);
        contains(&shell.ok("kubectl events"), &["Scheduled", "Started", "Pod/box"]);
        contains(&shell.ok("kubectl auth whoami"), &["kubernetes-admin", "system:masters"]);
        assert_eq!(shell.ok("kubectl auth can-i create pods"), "yes\n");
    });
}

#[test]
fn pods_are_watched_and_waited_for() {
    with_each(&Finger::all(), |_, shell| {
        let mut watch = shell.start("kubectl get po -w");
        watch.line_with("box");
        contains(
            &shell.ok("kubectl run late --image=busybox --restart=Never -- sh -c 'sleep 0.2'"),
            &["pod/late created"],
        );
        watch.line_with("late");
        contains(
            &shell.ok("kubectl wait --for=jsonpath='{.status.phase}'=Succeeded po/late --timeout=60s"),
            &["condition met"],
        );
        watch.line_with("Completed");
        contains(&shell.ok("kubectl wait --for=condition=Ready po/box --timeout=60s"), &["pod/box condition met"]);
        contains(&shell.ok("kubectl delete po late box"), &["pod \"late\" deleted", "pod \"box\" deleted"]);
        let after = shell.run("kubectl wait --for=delete po/box --timeout=60s");
        assert_eq!(after.code, 0, "{after}");
    });
}

#[test]
fn objects_are_applied() {
    const MAP: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {colour: blue}\n";
    with_each(&Finger::all(), |_, shell| {
        let apply = |text: &str| shell.run_with("kubectl apply -f -", text).ok();
        assert_eq!(apply(MAP), "configmap/settings created\n");
        assert_eq!(apply(MAP), "configmap/settings unchanged\n");
        assert_eq!(apply(&MAP.replace("blue", "red")), "configmap/settings configured\n");
        assert_eq!(shell.ok("kubectl get cm settings -o jsonpath='{.data.colour}'"), "red");
        let several = format!(
            "{MAP}---\n{}---\n{}",
            MAP.replace("settings", "second"),
            r#"{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "third"}}"#
        );
        let lines = shell.run_with("kubectl create -f - --dry-run=server", &several.replace("settings", "first")).ok();
        assert_eq!(lines.lines().count(), 3, "{lines}");
        contains(&lines, &["configmap/third created (server dry run)"]);
        let folder = shell.ok("kubectl create -f . --dry-run=client -o name");
        contains(&folder, &["pod/kubia-manual\n", "pod/kubia-manual-v2\n"]);
    });
}

#[test]
fn objects_are_patched() {
    with_each(&Finger::kubectls(), |_, shell| {
        let edited = shell.ok("kubectl patch po box -p '{\"metadata\":{\"labels\":{\"size\":\"7\"}}}'");
        assert_eq!(edited, "pod/box patched\n");
        assert_eq!(shell.ok("kubectl get po -l size=7 -o name"), "pod/box\n");
    });
}

#[test]
fn logs_have_options() {
    with_each(&Finger::all(), |cluster, shell| {
        let script = "for i in 1 2 3 4 5; do echo line $i; done; exec sleep 3600";
        cluster.run("lines", json!({"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "busybox", "command": ["sh", "-c", script]}]}));
        let mut follow = shell.start("kubectl logs -f box -c one");
        follow.line_with("started");
        cluster.ready_pod("lines");
        let mut follow = shell.start("kubectl logs -f lines");
        follow.line_with("line 5");
        assert_eq!(shell.ok("kubectl logs lines --tail=2"), "line 4\nline 5\n");
        assert_eq!(shell.ok("kubectl logs lines --limit-bytes=6"), "line 1");
        assert_eq!(shell.ok("kubectl logs lines --since=1h").lines().count(), 5);
        assert_eq!(shell.ok("kubectl logs lines --since-time=2099-01-01T00:00:00Z"), "");
        contains(&shell.ok("kubectl logs lines --timestamps --tail=1"), &["Z line 5"]);
        let all = shell.ok("kubectl logs box --all-containers --prefix");
        contains(&all, &["[pod/box/one] started", "[pod/box/two] started"]);
        shell.ok("kubectl label po lines app=lines");
        assert_eq!(shell.ok("kubectl logs -l app=lines --tail=1"), "line 5\n");
    });
}

#[test]
fn nodes_are_drained() {
    with_each(&Finger::all(), |cluster, shell| {
        let node = cluster.facts()["node_name"].as_str().expect("a name").to_owned();
        let refusal = shell.refused(&format!("kubectl drain {node}"));
        contains(&refusal, &["Pods that declare no controller (use --force to override): default/box"]);
        let drained = shell.ok(&format!("kubectl drain {node} --force"));
        contains(
            &drained,
            &[&format!("node/{node} already cordoned"), "pod/box evicted", &format!("node/{node} drained")],
        );
        contains(&shell.ok("kubectl get nodes"), &["Ready,SchedulingDisabled"]);
        shell.ok("kubectl run later --image=busybox --restart=Never -- true");
        contains(&shell.ok("kubectl get po later"), &["Pending"]);
        assert_eq!(shell.ok(&format!("kubectl uncordon {node}")), format!("node/{node} uncordoned\n"));
        shell.ok("kubectl wait --for=jsonpath='{.status.phase}'=Succeeded po/later --timeout=60s");
    });
}
