//! The chapter's commands as they are typed, with both kubectls and with podling's own commands.

use std::io::{Read, Write};
use std::net::TcpStream;

use e2e::cluster::Cluster;
use e2e::finger::Finger;
use e2e::shell::{Running, Shell};

/// Runs a test with each of the fingers, one cluster each.
fn with_each(fingers: &[Finger], test: impl Fn(&Cluster, &Shell)) {
    if !e2e::can_run() {
        return;
    }
    for finger in fingers {
        let cluster = Cluster::with_kubia();
        test(&cluster, &cluster.shell(finger));
    }
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// The names in the first column of a table.
fn names(table: &str) -> Vec<&str> {
    table.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect()
}

/// What a server on a local port answers.
fn fetch(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(e2e::PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn both_pods(cluster: &Cluster, shell: &Shell) {
    assert_eq!(shell.ok("kubectl create -f kubia-manual.yaml"), "pod/kubia-manual created\n");
    assert_eq!(shell.ok("kubectl create -f kubia-manual-v2.yaml"), "pod/kubia-manual-v2 created\n");
    cluster.ready_pod("kubia-manual");
    cluster.ready_pod("kubia-manual-v2");
}

#[test]
fn pods_are_created_and_shown() {
    with_each(&Finger::all(), |cluster, shell| {
        both_pods(cluster, shell);
        let table = shell.ok("kubectl get pods");
        let lines: Vec<_> = table.lines().map(words).collect();
        assert_eq!(lines[0], ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]);
        assert_eq!(lines[1][..4], ["kubia-manual", "1/1", "Running", "0"]);
        assert_eq!(lines[2][..4], ["kubia-manual-v2", "1/1", "Running", "0"]);
        assert_eq!(lines.len(), 3, "{table}");
        let yaml = shell.ok("kubectl get po kubia-manual -o yaml");
        for line in [
            "apiVersion: v1",
            "kind: Pod",
            "  name: kubia-manual",
            "  namespace: default",
            "  - image: luksa/kubia",
            "    imagePullPolicy: Always",
            "    - containerPort: 8080",
            "      protocol: TCP",
            "  restartPolicy: Always",
            "  phase: Running",
            "  qosClass: BestEffort",
        ] {
            assert!(yaml.lines().any(|found| found == line), "no line {line:?} in\n{yaml}");
        }
        let again = shell.refused("kubectl create -f kubia-manual.yaml");
        let expected = "Error from server (AlreadyExists): error when creating \"kubia-manual.yaml\": pods \"kubia-manual\" already exists\n";
        assert_eq!(again, expected);
        let missing = shell.refused("kubectl get po no-such-pod");
        assert_eq!(missing, "Error from server (NotFound): pods \"no-such-pod\" not found\n");
    });
}

#[test]
fn pods_are_shown_in_every_form() {
    with_each(&Finger::all(), |cluster, shell| {
        both_pods(cluster, shell);
        assert_eq!(shell.ok("kubectl get po -o name"), "pod/kubia-manual\npod/kubia-manual-v2\n");
        assert_eq!(shell.ok("kubectl get po kubia-manual -o jsonpath='{.spec.containers[0].image}'"), "luksa/kubia");
        let json = shell.ok("kubectl get po kubia-manual -o json");
        let pod: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(pod["status"]["phase"], "Running");
        let wide = shell.ok("kubectl get po -o wide");
        let node = cluster.facts()["node_name"].as_str().expect("a name").to_owned();
        let ip = pod["status"]["podIP"].as_str().expect("an address");
        assert_eq!(words(wide.lines().nth(1).expect("a row"))[5..], [ip, &node, "<none>", "<none>"], "{wide}");
        let all = shell.ok("kubectl get pods -A");
        assert_eq!(words(all.lines().nth(1).expect("a row"))[..2], ["default", "kubia-manual"]);
        let nothing = shell.run("kubectl get pods -n kube-system");
        assert_eq!(nothing.stderr, "No resources found in kube-system namespace.\n", "{nothing}");
    });
}

#[test]
fn logs_tell_what_the_server_printed() {
    with_each(&Finger::all(), |cluster, shell| {
        both_pods(cluster, shell);
        assert_eq!(shell.ok("kubectl logs kubia-manual"), "Kubia server starting...\n");
        assert_eq!(shell.ok("kubectl logs kubia-manual -c kubia"), "Kubia server starting...\n");
        let refusal = shell.refused("kubectl logs kubia-manual -c nothing");
        assert!(refusal.contains("container nothing is not valid for pod kubia-manual"), "{refusal}");
    });
}

#[test]
fn labels_are_set_and_guarded() {
    with_each(&Finger::all(), |cluster, shell| {
        both_pods(cluster, shell);
        assert_eq!(shell.ok("kubectl label po kubia-manual creation_method=manual"), "pod/kubia-manual labeled\n");
        let refusal = shell.refused("kubectl label po kubia-manual-v2 env=debug");
        assert_eq!(refusal, "error: 'env' already has a value (prod), and --overwrite is false\n");
        assert_eq!(shell.ok("kubectl label po kubia-manual-v2 env=debug --overwrite"), "pod/kubia-manual-v2 labeled\n");
        let table = shell.ok("kubectl get po --show-labels");
        let lines: Vec<_> = table.lines().map(words).collect();
        assert_eq!(lines[0].last(), Some(&"LABELS"));
        assert_eq!(lines[1].last(), Some(&"creation_method=manual"));
        assert_eq!(lines[2].last(), Some(&"creation_method=manual,env=debug"));
        let table = shell.ok("kubectl get po -L creation_method,env");
        let lines: Vec<_> = table.lines().map(words).collect();
        assert_eq!(lines[0][5..], ["CREATION_METHOD", "ENV"]);
        assert_eq!(lines[1][5..], ["manual"]);
        assert_eq!(lines[2][5..], ["manual", "debug"]);
        assert_eq!(shell.ok("kubectl label po kubia-manual-v2 env-"), "pod/kubia-manual-v2 unlabeled\n");
        assert_eq!(shell.ok("kubectl annotate po kubia-manual note='by hand'"), "pod/kubia-manual annotated\n");
        let note = shell.ok("kubectl get po kubia-manual -o jsonpath='{.metadata.annotations.note}'");
        assert_eq!(note, "by hand");
    });
}

#[test]
fn selectors_pick_pods() {
    const BOTH: &[&str] = &["kubia-manual", "kubia-manual-v2"];
    with_each(&Finger::all(), |cluster, shell| {
        both_pods(cluster, shell);
        for (line, expected) in [
            ("kubectl get po -l creation_method=manual", &BOTH[1..]),
            ("kubectl get po -l env", &BOTH[1..]),
            ("kubectl get po -l '!env'", &BOTH[..1]),
            ("kubectl get po -l 'creation_method!=manual'", &BOTH[..1]),
            ("kubectl get po -l 'env in (prod,devel)'", &BOTH[1..]),
            ("kubectl get po -l 'env notin (prod,devel)'", &BOTH[..1]),
            ("kubectl get po -l creation_method=manual,env=prod", &BOTH[1..]),
            ("kubectl get po -l 'env notin (devel)'", BOTH),
            ("kubectl get po --field-selector metadata.name=kubia-manual", &BOTH[..1]),
            ("kubectl get po --field-selector status.phase=Running", BOTH),
        ] {
            assert_eq!(names(&shell.ok(line)), expected, "{line}");
        }
        assert_eq!(shell.run("kubectl get po -l env=none").stderr, "No resources found in default namespace.\n");
    });
}

#[test]
fn deleted_pods_go() {
    with_each(&Finger::all(), |cluster, shell| {
        both_pods(cluster, shell);
        let table = shell.ok("kubectl delete po kubia-manual");
        assert!(table.starts_with("pod \"kubia-manual\" deleted"), "{table}");
        assert_eq!(names(&shell.ok("kubectl get po")), ["kubia-manual-v2"]);
        shell.ok("kubectl delete -f kubia-manual-v2.yaml");
        assert_eq!(shell.run("kubectl get po").stderr, "No resources found in default namespace.\n");
    });
}

#[test]
fn ports_are_forwarded() {
    with_each(&Finger::kubectls(), |cluster, shell| {
        both_pods(cluster, shell);
        forward(shell, "");
        forward(shell, "KUBECTL_PORT_FORWARD_WEBSOCKETS=false ");
        let log = shell.ok("kubectl logs kubia-manual");
        assert!(log.lines().filter(|line| line.starts_with("Received request from")).count() >= 4, "{log}");
        // The user sees the error. Whether the forward goes on is the client's choice; kubectl's is to end it.
        let (mut closed, port) = start_forward(shell, "", 9999);
        drop(fetch(port));
        closed.line_with("error");
    });
}

#[test]
fn own_forwards_outlive_closed_ports() {
    with_each(&[Finger::own()], |cluster, shell| {
        both_pods(cluster, shell);
        forward(shell, "");
        let (mut closed, port) = start_forward(shell, "", 9999);
        for _ in 0..2 {
            assert_eq!(fetch(port).unwrap_or_default(), "");
            closed.line_with("connection refused");
            assert!(closed.is_running());
        }
    });
}

/// Starts to forward a free local port.
fn start_forward(shell: &Shell, variables: &str, remote: u16) -> (Running, u16) {
    let mut forward =
        shell.start(&format!("env {variables}kubectl port-forward --address 127.0.0.1 kubia-manual :{remote}"));
    let line = forward.line_with("127.0.0.1");
    let port = line.split([':', ' ']).find_map(|word| word.parse::<u16>().ok()).expect("a port");
    (forward, port)
}

/// Forwards a local port to the server, and tries to forward it once more.
fn forward(shell: &Shell, variables: &str) {
    let (mut open, port) = start_forward(shell, variables, 8080);
    for _ in 0..2 {
        assert!(fetch(port).expect("an answer").ends_with("You've hit kubia-manual\n"));
    }
    let again = shell.refused(&format!("kubectl port-forward --address 127.0.0.1 kubia-manual {port}:8080"));
    assert!(again.contains("unable to listen on any of the requested ports"), "{again}");
    assert!(open.is_running());
}
