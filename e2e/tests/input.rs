//! Bad input: every refusal as upstream's server or kubectl words it.

use e2e::cluster::Cluster;
use e2e::finger::Finger;
use e2e::shell::Shell;
use serde_json::json;

/// Runs a test with both kubectls on one cluster.
fn with_kubectls(test: impl Fn(&Cluster, &Shell)) {
    if !e2e::can_run() {
        return;
    }
    let cluster = Cluster::with_busybox();
    for finger in Finger::kubectls() {
        test(&cluster, &cluster.shell(&finger));
    }
}

const POD: &str =
    "apiVersion: v1\nkind: Pod\nmetadata: {name: sample}\nspec:\n  containers:\n  - name: c\n    image: busybox\n";

#[test]
fn manifests_are_refused_with_upstreams_words() {
    with_kubectls(|_, shell| {
        let port = |number: &str| format!("{POD}    ports: [{{containerPort: {number}}}]\n");
        for (manifest, parts) in [
            (
                POD.replace("image:", "imag:"),
                &["(BadRequest)", "strict decoding error: unknown field \"spec.containers[0].imag\""][..],
            ),
            (
                POD.replace("name: sample", "name: Bad_Name"),
                &[
                    "The Pod \"Bad_Name\" is invalid: metadata.name: Invalid value: \"Bad_Name\": a lowercase RFC 1123 subdomain",
                ],
            ),
            (
                POD.replace("name: sample", "name: sample, labels: {a: 'b c'}"),
                &["The Pod \"sample\" is invalid: metadata.labels: Invalid value: \"b c\""],
            ),
            (
                port("70000"),
                &[
                    "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
                ],
            ),
            (port("web"), &["(BadRequest)", "containerPort"]),
            (
                format!("{POD}    resources: {{limits: {{memory: lots}}}}\n"),
                &["(BadRequest)", "quantities must match the regular expression"],
            ),
            (POD.replace("    image: busybox\n", ""), &["spec.containers[0].image: Required value"]),
            (POD.replace("metadata: {", "metadata: {{"), &["yaml: line 3"]),
        ] {
            let output = shell.run_with("kubectl create -f -", &manifest);
            let complaint = output.clone().refused();
            for part in parts {
                assert!(complaint.contains(part), "no {part:?} in {output}\n{manifest}");
            }
        }
        let unknown = POD.replace("kind: Pod", "kind: Nothing");
        let complaint = shell.run_with("kubectl create -f -", &unknown).refused();
        assert!(complaint.contains("no matches for kind \"Nothing\" in version \"v1\""), "{complaint}");
        let foreign = unknown.replace("apiVersion: v1", "apiVersion: example.com/v1");
        let complaint = shell.run_with("kubectl create -f -", &foreign).refused();
        assert!(complaint.contains("no matches for kind \"Nothing\" in version \"example.com/v1\""), "{complaint}");
        let kind = shell.refused("kubectl get nothing");
        assert_eq!(kind, "error: the server doesn't have a resource type \"nothing\"\n");
        let selector = shell.refused("kubectl get po -l 'env in'");
        assert!(selector.contains("unable to parse requirement"), "{selector}");
        let large = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: large}}\ndata: {{a: {}}}\n",
            "x".repeat(3_200_000)
        );
        let complaint = shell.run_with("kubectl create -f -", &large).refused();
        assert!(complaint.contains("RequestEntityTooLarge") || complaint.contains("too large"), "{complaint}");
    });
}

#[test]
fn own_commands_name_line_and_column() {
    if !e2e::can_run() {
        return;
    }
    let cluster = Cluster::start();
    let shell = cluster.shell(&Finger::own());
    let complaint = shell.run_with("kubectl create -f -", &POD.replace("metadata: {", "metadata: {{")).refused();
    assert!(complaint.contains("line") && complaint.contains("column"), "{complaint}");
}

#[test]
fn containers_that_cannot_run_say_why() {
    if !e2e::can_run() {
        return;
    }
    let cluster = Cluster::with_busybox();
    let spec = |image: &str, command: &[&str], policy: &str| {
        json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": image, "command": command, "imagePullPolicy": policy}]})
    };
    let waiting = |name: &str, reasons: &[&str]| {
        cluster.pod(name, &format!("waits for {reasons:?}"), |pod| {
            let reason = pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"].as_str();
            reason.is_some_and(|reason| reasons.contains(&reason))
        });
    };
    cluster.run("never", spec("no/such:image", &["true"], "Never"));
    waiting("never", &["ErrImageNeverPull"]);
    cluster.run("nowhere", spec("127.0.0.1:1/image", &["true"], "Always"));
    waiting("nowhere", &["ErrImagePull", "ImagePullBackOff"]);
    cluster.run("misnamed", spec("Not An Image", &["true"], "Always"));
    waiting("misnamed", &["InvalidImageName"]);
    let shell = cluster.any_shell();
    let complaint = shell.refused("kubectl logs never");
    assert!(complaint.contains("is waiting to start"), "{complaint}");
    for (name, command, part) in [
        ("missing", "/no/such/program", "no such file or directory"),
        ("forbidden", "/etc/not-a-program", "permission denied"),
    ] {
        cluster.run(name, spec("busybox", &[command], "Never"));
        let pod = cluster.ended_pod(name);
        let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
        let message = ended["message"].as_str().unwrap_or_default().to_lowercase();
        assert!(message.contains(part), "{ended:#}");
        assert_eq!(
            (pod["status"]["phase"].as_str(), ended["reason"].as_str()),
            (Some("Failed"), Some("StartError")),
            "{ended:#}"
        );
    }
    cluster.run("brief", json!({"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "busybox", "command": ["sh", "-c", "exit 5"]}]}));
    let pod = cluster.pod("brief", "is started again and again", |pod| {
        pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    });
    assert_eq!(pod["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 5);
}
