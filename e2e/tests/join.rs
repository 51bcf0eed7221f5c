//! Machines that join a cluster: the real binary on machines of their own (network namespaces), with a real kubectl.

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::process::Child;

use e2e::lab::Lab;

fn lab(machines: usize) -> Option<Lab> {
    if e2e::can_run() { Lab::new(machines) } else { None }
}

const WAIT: &str = "--timeout=60s";

fn pod(lab: &Lab, node: &str) {
    let manifest = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: on-{node}}}, spec: {{nodeName: {node}, terminationGracePeriodSeconds: 0, \
         containers: [{{name: main, image: busybox, command: [sh, -c, 'echo I am on {node}; echo {node} > /note; exec httpd -f -p 8080 -h /']}}]}}}}"
    );
    let file = lab.path("pod.yaml");
    std::fs::write(&file, manifest).expect("a file");
    lab.kubectl(&["apply", "-f", &file.to_string_lossy()]).ok();
}

/// What is at a URL, seen from the server's machine.
fn fetch(lab: &Lab, url: &str) -> String {
    lab.on(1, "curl".as_ref(), &["--silent", "--show-error", "--max-time", "10", url]).ok()
}

#[test]
fn a_machine_joins_and_its_pods_are_like_all_others() {
    let Some(lab) = lab(2) else { return };
    lab.serve("up", &[]);
    let joined = lab.join(2, &lab.token(&[]), &[]).ok();
    assert!(joined.starts_with("node m2 is Ready after "), "{joined}");
    let shown = lab.kubectl(&["get", "nodes", "-o", "wide"]).ok();
    for (node, role, address) in [("m1", "control-plane", lab.address(1)), ("m2", "<none>", lab.address(2))] {
        let line = shown.lines().find(|line| line.starts_with(node)).expect("the node is shown");
        assert!(line.contains(" Ready ") && line.contains(role) && line.contains(&address.to_string()), "{shown}");
    }
    let requests = lab.kubectl(&["get", "csr"]).ok();
    assert!(requests.contains("kubelet-serving") && !requests.contains("Pending"), "{requests}");
    let ranges = lab.kubectl(&["get", "nodes", "-o", "jsonpath={.items[*].spec.podCIDRs[*]}"]).ok();
    let blocks: Vec<&str> = ranges.split(' ').collect();
    assert!(blocks.len() == 2 && blocks[0].ends_with(".0.0/26") && blocks[1].ends_with(".0.64/26"), "{ranges}");
    for (number, node) in [(1, "m1"), (2, "m2")] {
        lab.import_busybox(number);
        pod(&lab, node);
    }
    lab.kubectl(&["wait", "--for=condition=Ready", "pod/on-m1", "pod/on-m2", WAIT]).ok();
    for node in ["m1", "m2"] {
        streams_work(&lab, node);
    }
    let status = lab.podling(2, &["status"]).ok();
    assert!(status.contains("m2 is Ready") && status.contains("1 Running"), "{status}");

    // The node ends and comes back, without a token; its pod has run on.
    let id = |lab: &Lab| {
        lab.kubectl(&["get", "pod", "on-m2", "-o", "jsonpath={.status.containerStatuses[0].containerID}"]).ok()
    };
    let before = id(&lab);
    lab.kill(2);
    let unreachable = lab.kubectl(&["logs", "on-m2"]).refused();
    let dialing = format!("error dialing backend: dial tcp {}:", lab.address(2));
    assert!(unreachable.contains(&dialing), "{unreachable}");
    assert!(unreachable.contains("connect: connection refused"), "{unreachable}");
    lab.podling(2, &["join", "--detach"]).ok();
    streams_work(&lab, "m2");
    assert_eq!(id(&lab), before);

    // It leaves, and nothing is left of it.
    let left = lab.podling(2, &["leave"]).ok();
    assert!(left.contains("node m2 has left"), "{left}");
    assert!(!lab.data(2).exists());
    assert_eq!(lab.kubectl(&["get", "nodes", "-o", "name"]).ok(), "node/m1\n");
    assert_eq!(lab.kubectl(&["get", "pods", "-o", "name"]).ok(), "pod/on-m1\n");
    let leases = lab.kubectl(&["get", "leases", "-A"]).ok();
    assert!(!leases.contains("m2"), "{leases}");
}

#[test]
fn a_deleted_node_comes_back_while_its_agent_runs() {
    let Some(lab) = lab(3) else { return };
    lab.serve("up", &["--node-grace", "4s"]);
    lab.join(2, &lab.token(&[]), &[]).ok();
    for (number, node) in [(1, "m1"), (2, "m2")] {
        lab.import_busybox(number);
        pod(&lab, node);
    }
    lab.kubectl(&["wait", "--for=condition=Ready", "pod/on-m1", "pod/on-m2", WAIT]).ok();
    let identity = |pod: &str| {
        let path = "jsonpath={.metadata.uid} {.status.podIP} {.status.containerStatuses[0].containerID}";
        lab.kubectl(&["get", "pod", pod, "-o", path]).ok()
    };
    let range = |node: &str| lab.kubectl(&["get", "node", node, "-o", "jsonpath={.spec.podCIDRs[*]}"]).ok();
    let before = [identity("on-m1"), identity("on-m2"), range("m1"), range("m2")];
    let deleted = lab.kubectl(&["delete", "node", "m1", "m2"]).ok();
    assert!(deleted.contains("\"m2\" deleted"), "{deleted}");
    for node in ["m1", "m2"] {
        lab.kubectl(&["wait", "--for=create", &format!("node/{node}"), WAIT]).ok();
        lab.kubectl(&["wait", "--for=condition=Ready", &format!("node/{node}"), WAIT]).ok();
    }
    first_of(&lab, &["get", "nodes", "--watch", "-o", "name", "-l", "node-role.kubernetes.io/control-plane"]);
    assert_eq!([identity("on-m1"), identity("on-m2"), range("m1"), range("m2")], before, "all is as it was");
    streams_work(&lab, "m2");

    // Its agent does not notice at first, and another node gets its addresses.
    lab.signal(2, "STOP");
    let lost = range("m2");
    lab.kubectl(&["delete", "node", "m2"]).ok();
    let lease = format!("lease/{}", lost.replace('/', "-"));
    lab.kubectl(&["wait", "--for=delete", "-n", "podling-blocks", &lease, WAIT]).ok();
    lab.kubectl(&["wait", "--for=delete", "pod/on-m2", WAIT]).ok();
    lab.join(3, &lab.token(&[]), &[]).ok();
    assert_eq!(range("m3"), lost, "the lowest free block is that of the lost node");
    lab.signal(2, "CONT");
    lab.kubectl(&["wait", "--for=create", "node/m2", WAIT]).ok();
    lab.kubectl(&["wait", "--for=condition=Ready", "node/m2", WAIT]).ok();
    assert_ne!(range("m2"), lost);
    lab.import_busybox(3);
    for node in ["m2", "m3"] {
        pod(&lab, node);
    }
    lab.kubectl(&["wait", "--for=condition=Ready", "pod/on-m2", "pod/on-m3", WAIT]).ok();
    let address = |pod: &str| lab.kubectl(&["get", "pod", pod, "-o", "jsonpath={.status.podIP}"]).ok();
    for node in ["m2", "m3"] {
        let url = format!("http://{}:8080/note", address(&format!("on-{node}")));
        assert_eq!(fetch(&lab, &url), format!("{node}\n"));
    }
}

fn streams_work(lab: &Lab, node: &str) {
    let name = format!("on-{node}");
    // A container runs before it has said anything.
    let log =
        e2e::until("the pod's first words", || Some(lab.kubectl(&["logs", &name]).ok()).filter(|log| !log.is_empty()));
    assert_eq!(log, format!("I am on {node}\n"));
    assert_eq!(lab.kubectl(&["exec", &name, "--", "cat", "/note"]).ok(), format!("{node}\n"));
    let failed = lab.kubectl(&["exec", &name, "--", "sh", "-c", "exit 7"]);
    assert_eq!(failed.code, 7, "{failed}");
    let mut forward = Forward::start(lab, &name);
    assert_eq!(fetch(lab, &format!("http://127.0.0.1:{}/note", forward.port())), format!("{node}\n"));
}

/// A `kubectl port-forward` that ends with this value.
struct Forward(Child, Option<BufReader<std::process::ChildStdout>>);

impl Forward {
    fn start(lab: &Lab, pod: &str) -> Self {
        Self(lab.start_kubectl(&["port-forward", &format!("pod/{pod}"), ":8080"]), None)
    }

    /// The local port, once it is open.
    fn port(&mut self) -> String {
        let mut stdout = BufReader::new(self.0.stdout.take().expect("it is piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("it says its port");
        // It goes on to write, and would die of a closed pipe.
        self.1 = Some(stdout);
        let port = line.split_once("127.0.0.1:").and_then(|(_, rest)| rest.split_once(' '));
        port.unwrap_or_else(|| panic!("no port in \"{line}\"")).0.to_owned()
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn nobody_joins_who_should_not() {
    let Some(lab) = lab(2) else { return };
    lab.serve("server", &[]);
    let token = lab.token(&["--description", "for the test"]);
    let refused = |token: &str, options: &[&str]| lab.join(2, token, options).refused();
    let (rest, last) = token.split_at(token.len() - 1);
    let forged = format!("{rest}{}", if last == "0" { "1" } else { "0" });
    assert!(refused(&forged, &[]).contains("does not know the token"), "forged");
    let foreign = format!("{}{}", "0".repeat(64), &token[64..]);
    let told = refused(&foreign, &[]);
    assert!(told.contains(&"0".repeat(64)) && told.contains(&token[..64]), "both digests are told: {told}");
    assert!(refused("nonsense", &[]).contains("DIGEST.ID.SECRET"));
    let told = refused(&token, &["--node-name", "kubernetes"]);
    assert!(told.contains("is a name of the API server"), "{told}");
    let without = lab.podling(2, &["join", &lab.server(), "--detach"]).refused();
    assert!(without.contains("podling token create"), "{without}");

    // A token dies with its time, with its last use, and when it is deleted.
    let (short, once, deleted) = (lab.token(&["--ttl", "1s"]), lab.token(&["--uses", "1"]), lab.token(&[]));
    lab.podling(1, &["token", "delete", &deleted]).ok();
    assert!(refused(&deleted, &[]).contains("does not know the token"), "deleted");
    let id = short.split('.').nth(1).expect("it has an id");
    lab.kubectl(&["wait", "--for=delete", "-n", "kube-system", &format!("secret/bootstrap-token-{id}"), WAIT]).ok();
    assert!(refused(&short, &[]).contains("does not know the token"), "expired");
    lab.join(2, &once, &[]).ok();
    lab.podling(2, &["leave"]).ok();
    assert!(refused(&once, &["--node-name", "again"]).contains("used up"), "used up");

    // A name that is taken, and a token that may do nothing but join.
    lab.join(2, &token, &[]).ok();
    lab.podling(2, &["down", "--purge"]).ok();
    let taken = refused(&token, &[]);
    assert!(taken.contains("there is a node \"m2\" already") && taken.contains("kubectl delete node m2"), "{taken}");
    let bearer = token.split_once('.').expect("it has parts").1;
    let none = lab.path("none");
    std::fs::write(&none, "").expect("an empty kubeconfig");
    let as_token = |words: &[&str]| {
        let (none, server) = (none.to_string_lossy(), lab.server());
        let fixed = ["--kubeconfig", &*none, "--server", &server, "--insecure-skip-tls-verify", "--token", bearer];
        lab.on(2, &lab.kubectl_program(), &[&fixed[..], words].concat())
    };
    if lab.has_kubectl() {
        let told = as_token(&["get", "pods"]).refused();
        assert!(told.contains("User \"system:bootstrap:") && told.contains("cannot list resource \"pods\""), "{told}");
        for what in ["secrets", "nodes", "csr"] {
            assert!(as_token(&["get", what]).refused().contains("Forbidden"), "{what}");
        }
    }
}

#[test]
fn servers_that_are_others_are_told_apart() {
    let Some(lab) = lab(3) else { return };
    lab.serve("server", &[]);
    let other = format!("https://{}:6443", lab.address(3));
    let kubeconfig = lab.path("other");
    let words = ["--detach", "--listen", "0.0.0.0:6443", "--node-name", "m3", "--kubeconfig"];
    lab.podling(3, &[&["server"], &words[..], &[&kubeconfig.to_string_lossy()]].concat()).ok();
    let token = lab.token(&[]);
    let join = |server: &str, token: &str, more: &[&str]| {
        lab.podling(2, &[&["join", server, "--token", token, "--detach", "--node-name", "m2"], more].concat())
    };

    // The token is one cluster's and the server is another's: nobody shows the token to it.
    let told = join(&other, &token, &[]).refused();
    assert!(told.contains("is not the one that made the token"), "{told}");
    assert!(told.contains("somebody is in between"), "{told}");
    // An id that the server never gave, and what is no token at all.
    let parts: Vec<&str> = token.split('.').collect();
    let told = join(&lab.server(), &format!("{}.zzzzzz.{}", parts[0], parts[2]), &[]).refused();
    assert!(told.contains("does not know the token \"zzzzzz\""), "{told}");
    for bad in [parts[0], &token[1..], "", &token.to_uppercase()] {
        assert!(join(&lab.server(), bad, &[]).refused().contains("DIGEST.ID.SECRET"), "{bad}");
    }
    // Addresses at which no API server is, or under a name that its certificate does not hold for.
    let told = join("http://192.0.2.1:6443", &token, &[]).refused();
    assert!(told.contains("https://HOST:PORT"), "{told}");
    let told = join(&lab.server().replace("6443", "6444"), &token, &[]).refused();
    assert!(told.contains("cannot reach") && told.contains("refused"), "{told}");
    let told = join(&lab.server(), &token, &["--node-ip", "9.9.9.9"]).refused();
    assert!(told.contains("--node-ip 9.9.9.9") && told.contains(&lab.address(2).to_string()), "{told}");
    assert!(!lab.data(2).exists(), "nothing was joined, and nothing is left");

    // It joins, and is then led to a server of another cluster: it keeps away, and its pods run on.
    join(&lab.server(), &token, &[]).ok();
    let told = join(&lab.server(), &token, &[]).refused();
    assert!(told.contains("a node runs in"), "{told}");
    lab.import_busybox(2);
    pod(&lab, "m2");
    lab.kubectl(&["wait", "--for=condition=Ready", "pod/on-m2", WAIT]).ok();
    lab.podling(2, &["down"]).ok();
    let told = lab.podling(2, &["join", &other, "--detach"]).refused();
    assert!(told.contains("certificate") && told.contains(&lab.address(3).to_string()), "{told}");
    let foreign = format!("{}{}", "0".repeat(64), &token[64..]);
    let told = lab.podling(2, &["join", &other, "--token", &foreign, "--detach"]).refused();
    assert!(told.contains("is that of a node of another cluster") && told.contains("podling leave"), "{told}");
    let told = lab.podling(2, &["join", "--node-name", "m9", "--detach"]).refused();
    assert!(told.contains("is called m2, not m9"), "{told}");
    lab.podling(2, &["join", &lab.server(), "--detach"]).ok();
    lab.kubectl(&["wait", "--for=condition=Ready", "pod/on-m2", WAIT]).ok();
}

#[test]
fn a_node_outlives_its_server_its_cable_and_its_address() {
    let Some(mut lab) = lab(2) else { return };
    lab.serve("server", &["--node-grace", "4s"]);
    lab.join(2, &lab.token(&[]), &[]).ok();
    lab.import_busybox(2);
    pod(&lab, "m2");
    lab.kubectl(&["wait", "--for=condition=Ready", "pod/on-m2", WAIT]).ok();
    let path = "jsonpath={.status.podIP} {.status.containerStatuses[0].containerID}";
    let identity = |lab: &Lab| lab.kubectl(&["get", "pod", "on-m2", "-o", path]).ok();
    let before = identity(&lab);
    let url = format!("http://{}:8080/note", before.split(' ').next().expect("it has an address"));
    let runs_on = |lab: &Lab| {
        let read = lab.on(2, "curl".as_ref(), &["--silent", "--show-error", "--max-time", "10", &url]).ok();
        assert_eq!(read, "m2\n");
    };

    // The server is gone for a while, and then the machine's cable.
    lab.kill(1);
    runs_on(&lab);
    lab.serve("server", &["--node-grace", "4s"]);
    lab.kubectl(&["run", "after", "--image=busybox", "--restart=Never", "--", "true"]).ok();
    lab.kubectl(&["wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/after", WAIT]).ok();
    lab.set_plugged(2, false);
    lab.kubectl(&["wait", "--for=condition=Ready=Unknown", "node/m2", WAIT]).ok();
    runs_on(&lab);
    lab.set_plugged(2, true);
    lab.kubectl(&["wait", "--for=condition=Ready", "node/m2", WAIT]).ok();
    lab.kubectl(&["wait", "--for=condition=Ready", "pod/on-m2", WAIT]).ok();
    assert_eq!(identity(&lab), before);
    streams_work(&lab, "m2");

    // The machine gets another address: the node stays what it is, and gets a certificate for the new one.
    lab.podling(2, &["down"]).ok();
    lab.readdress(2, 77);
    lab.podling(2, &["join", "--detach"]).ok();
    let address = "jsonpath={.status.addresses[?(@.type==\"InternalIP\")].address}";
    assert_eq!(lab.kubectl(&["get", "node", "m2", "-o", address]).ok(), lab.address(2).to_string());
    lab.kubectl(&["wait", "--for=condition=Ready", "node/m2", "pod/on-m2", WAIT]).ok();
    streams_work(&lab, "m2");
}

#[test]
fn a_node_goes_on_under_another_address_while_it_runs() {
    let Some(mut lab) = lab(2) else { return };
    lab.serve("up", &[]);
    lab.join(2, &lab.token(&[]), &[]).ok();
    for (number, node) in [(1, "m1"), (2, "m2")] {
        lab.import_busybox(number);
        pod(&lab, node);
    }
    lab.kubectl(&["wait", "--for=condition=Ready", "pod", "--all", WAIT]).ok();
    let path = "jsonpath={.metadata.uid} {.status.podIP} {.status.containerStatuses[0].containerID}";
    let identity = |lab: &Lab| lab.kubectl(&["get", "pod", "on-m2", "-o", path]).ok();
    let before = identity(&lab);
    let url = format!("http://{}:8080/note", before.split(' ').nth(1).expect("it has an address"));
    assert_eq!(fetch(&lab, &url), "m2\n");
    let certificate = lab.data(2).join("pki/serving.pem");
    let first = std::fs::read(&certificate).expect("a certificate");
    for number in [77, 78] {
        lab.readdress(2, number);
        let address = lab.address(2).to_string();
        let has_moved = format!("--for=jsonpath={{.status.addresses[0].address}}={address}");
        lab.kubectl(&["wait", &has_moved, "node/m2", WAIT]).ok();
        lab.kubectl(&["wait", &format!("--for=jsonpath={{.status.hostIP}}={address}"), "pod/on-m2", WAIT]).ok();
        // The other node leads to it under its new address.
        e2e::until("the pod to be reached", || {
            let read = lab.on(1, "curl".as_ref(), &["--silent", "--max-time", "2", &url]);
            (read.stdout == "m2\n").then_some(())
        });
        streams_work(&lab, "m2");
        // So does whoever dials it, under a certificate that holds for that address.
        let port = "jsonpath={.status.daemonEndpoints.kubeletEndpoint.Port}";
        let port = lab.kubectl(&["get", "node", "m2", "-o", port]).ok();
        let (pki, dialled) = (lab.data(1).join("pki"), format!("https://{address}:{port}/healthz"));
        let file = |name: &str| pki.join(name).to_string_lossy().into_owned();
        let (authority, own, key) = (file("ca.crt"), file("admin.crt"), file("admin.key"));
        let words = ["--silent", "--show-error", "--cacert", &authority, "--cert", &own, "--key", &key, &dialled];
        e2e::until("the certificate", || (lab.on(1, "curl".as_ref(), &words).code == 0).then_some(()));
    }
    assert_ne!(std::fs::read(&certificate).expect("a certificate"), first);
    assert_eq!(identity(&lab), before, "all is as it was");
    lab.kubectl(&["wait", "--for=condition=Ready", "node/m2", WAIT]).ok();

    // The server's own node, too.
    lab.readdress(1, 79);
    let has_moved = format!("--for=jsonpath={{.status.addresses[0].address}}={}", lab.address(1));
    lab.kubectl(&["wait", &has_moved, "node/m1", WAIT]).ok();
    // Whoever looks for the server there finds it under that name.
    let moved = lab.server();
    e2e::until("the server's certificate", || {
        (lab.kubectl(&["--server", &moved, "get", "--raw", "/readyz"]).stdout == "ok").then_some(())
    });
    e2e::until("tokens to name it", || {
        let told = lab.podling(1, &["token", "create"]).ok();
        told.contains(&format!("podling join {moved} --token")).then_some(())
    });
    let own = lab.kubectl(&["get", "pod", "on-m1", "-o", "jsonpath={.status.podIP}"]).ok();
    let url = format!("http://{own}:8080/note");
    e2e::until("the server's own pod", || {
        let read = lab.on(1, "curl".as_ref(), &["--silent", "--max-time", "2", &url]);
        (read.stdout == "m1\n").then_some(())
    });
    streams_work(&lab, "m1");
}

#[test]
fn a_node_behind_a_wall_is_reached_over_its_own_connections() {
    let Some(lab) = lab(2) else { return };
    lab.serve("server", &[]);
    let wall = "add table inet wall; add chain inet wall in { type filter hook input priority 0; policy drop; }; \
                add rule inet wall in ct state established,related accept; add rule inet wall in iifname lo accept";
    lab.on(2, "nft".as_ref(), &[wall]).ok();
    lab.join(2, &lab.token(&[]), &["--port", "10250"]).ok();
    let dialled = format!("https://{}:10250/healthz", lab.address(2));
    let dial = ["--silent", "--insecure", "--max-time", "1", dialled.as_str()];
    assert_eq!(lab.on(1, "curl".as_ref(), &dial).code, 28, "nobody can dial the node");
    lab.import_busybox(2);
    pod(&lab, "m2");
    lab.kubectl(&["wait", "--for=condition=Ready", "pod/on-m2", WAIT]).ok();
    for _ in 0..3 {
        streams_work(&lab, "m2");
    }
    // Many at once need more connections than wait.
    let logs: Vec<Child> = (0..12).map(|_| lab.start_kubectl(&["logs", "on-m2"])).collect();
    for child in logs {
        let output = child.wait_with_output().expect("kubectl ends");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "I am on m2\n");
    }
    // They come back with the server, and end with the node.
    lab.kill(1);
    lab.serve("server", &[]);
    lab.kubectl(&["wait", "--for=condition=Ready", "pod/on-m2", WAIT]).ok();
    streams_work(&lab, "m2");
    let stranger = format!("https://{}:6443/podling/v1/tunnel/m2", lab.address(1));
    let words = ["--silent", "--insecure", "-H", "Connection: Upgrade", "-H", "Upgrade: podling-tunnel", &stranger];
    let refused = lab.on(2, "curl".as_ref(), &words).ok();
    assert!(refused.contains("only the node itself keeps connections ready"), "{refused}");
    lab.podling(2, &["leave"]).ok();
}

#[test]
fn certificates_are_renewed_in_time() {
    let Some(lab) = lab(2) else { return };
    lab.serve("server", &["--node-certificate-ttl", "6s", "--certificate-ttl", "6s"]);
    let administrator = || std::fs::read_to_string(lab.path("kubeconfig")).expect("a kubeconfig");
    let before = administrator();
    lab.join(2, &lab.token(&[]), &[]).ok();
    lab.import_busybox(2);
    pod(&lab, "m2");
    lab.kubectl(&["wait", "--for=condition=Ready", "pod/on-m2", WAIT]).ok();
    let file = lab.data(2).join("pki/node.pem");
    let first = std::fs::read(&file).expect("the node has a certificate");
    // Each renewal is a request; after three of both kinds, the first certificates have long run out.
    renewals(&lab, 6);
    assert_ne!(std::fs::read(&file).expect("the node has a certificate"), first);
    // The server's own, too: the node and kubectl have gone on speaking with it, and it with the node.
    assert_ne!(administrator(), before);
    streams_work(&lab, "m2");
    let ready = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
    assert_eq!(lab.kubectl(&["get", "node", "m2", "-o", ready]).ok(), "True");
}

#[test]
fn a_node_that_knows_several_servers_needs_only_one() {
    let Some(lab) = lab(2) else { return };
    lab.serve("server", &["--tls-san", "api.test"]);
    // Nobody listens at the one, and no machine has the other.
    let dead = [lab.server().replace("6443", "6444"), lab.server().replace(&lab.address(1).to_string(), "192.0.2.1")];
    let servers = format!("{},{},{}", dead[0], dead[1], lab.server());
    let token = lab.token(&[]);
    let words = ["join", &servers, "--token", &token, "--detach", "--node-name", "m2"];
    let joined = lab.podling(2, &words).ok();
    assert!(joined.contains(&servers), "{joined}");
    lab.import_busybox(2);
    pod(&lab, "m2");
    lab.kubectl(&["wait", "--for=condition=Ready", "pod/on-m2", WAIT]).ok();
    lab.podling(2, &["down"]).ok();
    // As a service manager starts it.
    let socket = lab.path("notify");
    let manager = UnixDatagram::bind(&socket).expect("a socket");
    let (data, notify) = (lab.data(2).display().to_string(), format!("NOTIFY_SOCKET={}", socket.display()));
    let program = e2e::cluster::podling().display().to_string();
    let resumed = lab.on(2, "env".as_ref(), &[&notify, &program, "join", "--detach", "--data-dir", &data]).ok();
    assert!(resumed.contains(&servers), "{resumed}");
    let mut told = [0; 200];
    let length = manager.recv(&mut told).expect("it tells");
    assert!(String::from_utf8_lossy(&told[..length]).starts_with("READY=1\nSTATUS=node m2 is Ready"));
    streams_work(&lab, "m2");
    assert!(lab.podling(2, &["status"]).ok().contains(&servers));

    // A name that the certificate holds for; the node is told another way to the same server.
    lab.podling(2, &["down"]).ok();
    let told = lab.podling(2, &["join", &lab.server(), "--detach"]).ok();
    assert!(told.contains(&format!("belongs to {}\n", lab.server())), "{told}");
    let named = format!("api.test:6443:{}", lab.address(1));
    let authority = lab.data(1).join("pki/ca.crt");
    let words = ["--silent", "--show-error", "--cacert", &authority.to_string_lossy(), "--resolve", &named];
    let ready = lab.on(1, "curl".as_ref(), &[&words[..], &["https://api.test:6443/readyz"]].concat()).ok();
    assert_eq!(ready, "ok");
    let gone = lab.podling(2, &["leave"]).ok();
    assert!(gone.contains("has left"), "{gone}");
}

#[test]
fn a_range_that_is_used_otherwise_is_refused() {
    let Some(lab) = lab(2) else { return };
    let lan = format!("{}/24", lab.address(1));
    let own = lab.podling(1, &["server", "--detach", "--pod-cidr", &lan]).refused();
    assert!(own.contains("this machine reaches") && own.contains("another --pod-cidr"), "{own}");
    lab.serve("server", &["--pod-cidr", "10.200.0.0/16"]);
    lab.on(2, "ip".as_ref(), &["addr", "add", "10.200.5.1/24", "dev", "eth0"]).ok();
    let token = lab.token(&["--uses", "1"]);
    let told = lab.join(2, &token, &[]).refused();
    assert!(told.contains("10.200.0.0/16") && told.contains("this machine reaches 10.200.5."), "{told}");
    assert!(!lab.data(2).exists(), "nothing is left");
    // The cure that is named helps, and the token was not used up.
    lab.on(2, "ip".as_ref(), &["addr", "del", "10.200.5.1/24", "dev", "eth0"]).ok();
    lab.join(2, &token, &[]).ok();
}

#[test]
fn a_full_range_is_told_and_goes_on_when_there_is_room() {
    let Some(lab) = lab(3) else { return };
    // One block of eight addresses for the whole cluster.
    lab.serve("server", &["--pod-cidr", "10.201.0.0/29"]);
    let token = lab.token(&[]);
    lab.join(2, &token, &[]).ok();
    let full = "all 1 blocks of 10.201.0.0/29 are taken: delete nodes that are gone";
    let told = lab.join(3, &token, &[]).refused();
    assert!(told.contains(full) && told.contains("larger --pod-cidr"), "{told}");

    // Pods that get no address wait, and say why.
    lab.import_busybox(2);
    for number in 0..9 {
        let name = format!("p{number}");
        let words = ["run", &name, "--image=busybox", "--", "sleep", "1000"];
        lab.kubectl(&words).ok();
    }
    let field = "--field-selector=reason=FailedCreatePodSandBox";
    let waiting = e2e::until("an event that names the cure", || {
        let path = "jsonpath={range .items[*]}{.involvedObject.name} {.message}{\"\\n\"}{end}";
        let events = lab.kubectl(&["get", "events", field, "-o", path]).ok();
        let line = events.lines().find(|line| line.contains(full))?;
        line.split(' ').next().map(str::to_owned)
    });
    let running = |name: &str| lab.kubectl(&["get", "pod", name, "-o", "jsonpath={.status.phase}"]).ok() == "Running";
    assert!(!running(&waiting), "{waiting} has no address");
    let others: Vec<String> = (0..9).map(|number| format!("p{number}")).filter(|name| *name != waiting).collect();
    let words: Vec<&str> =
        ["delete", "pod", "--grace-period=0", "--force"].into_iter().chain(others.iter().map(String::as_str)).collect();
    lab.kubectl(&words).ok();
    lab.kubectl(&["wait", "--for=condition=Ready", &format!("pod/{waiting}"), WAIT]).ok();

    // The node that has the block leaves, and the other goes on with it.
    lab.podling(2, &["leave"]).ok();
    let joined = lab.podling(3, &["join", "--detach"]).ok();
    assert!(joined.starts_with("node m3 is Ready"), "{joined}");
    let range = lab.kubectl(&["get", "node", "m3", "-o", "jsonpath={.spec.podCIDR}"]).ok();
    assert_eq!(range, "10.201.0.0/29");
}

#[test]
fn half_of_the_nodes_are_cut_off_and_come_back() {
    let Some(lab) = e2e::can_run().then(|| Lab::with_far(2, 2)).flatten() else { return };
    lab.serve("up", &["--node-grace", "3s"]);
    let token = lab.token(&[]);
    for number in 1..=4 {
        if number > 1 {
            lab.join(number, &token, &[]).ok();
        }
        lab.import_busybox(number);
        pod(&lab, &format!("m{number}"));
    }
    lab.kubectl(&["wait", "--for=condition=Ready", "pod", "--all", WAIT]).ok();
    let path =
        "jsonpath={range .items[*]}{.metadata.name} {.status.podIP} {.status.containerStatuses[0].containerID};{end}";
    let identities = || lab.kubectl(&["get", "pods", "-o", path]).ok();
    let before = identities();
    let addresses: Vec<&str> = before.split(';').filter_map(|pod| pod.split(' ').nth(1)).collect();
    let reaches = |from: usize, to: usize| {
        let url = format!("http://{}:8080/note", addresses[to - 1]);
        e2e::until("an answer", || {
            let read = lab.on(from, "curl".as_ref(), &["--silent", "--max-time", "2", &url]);
            (read.stdout == format!("m{to}\n")).then_some(())
        });
    };
    let router = lab.machine(3).wire().router();
    router.run("nft add table ip cut").expect("a table");
    router
        .run("nft add chain ip cut forward { type filter hook forward priority 0 ; policy drop ; }")
        .expect("a chain");
    for node in ["m3", "m4"] {
        lab.kubectl(&["wait", "--for=condition=Ready=Unknown", &format!("node/{node}"), WAIT]).ok();
    }
    // Each half goes on, also the one without a server.
    for (from, to) in [(1, 2), (2, 1), (3, 4), (4, 3)] {
        reaches(from, to);
    }
    router.run("nft delete table ip cut").expect("healed");
    for node in ["m3", "m4"] {
        lab.kubectl(&["wait", "--for=condition=Ready", &format!("node/{node}"), WAIT]).ok();
    }
    for (from, to) in [(1, 3), (3, 1), (2, 4), (4, 2)] {
        reaches(from, to);
    }
    assert_eq!(identities(), before, "nothing was run twice");
    streams_work(&lab, "m4");
}

/// The first line that kubectl prints.
fn first_of(lab: &Lab, words: &[&str]) -> String {
    let mut child = lab.start_kubectl(words);
    let line = BufReader::new(child.stdout.take().expect("it is piped")).lines().map_while(Result::ok).next();
    drop(child.kill());
    drop(child.wait());
    line.unwrap_or_else(|| panic!("nothing came of {words:?}"))
}

/// Waits until a node has asked so often for a new certificate.
fn renewals(lab: &Lab, count: usize) {
    let mut child = lab.start_kubectl(&["get", "csr", "--watch-only", "-o", "name"]);
    let mut seen = std::collections::BTreeSet::new();
    for line in BufReader::new(child.stdout.take().expect("it is piped")).lines().map_while(Result::ok) {
        seen.insert(line);
        if seen.len() >= count {
            break;
        }
    }
    drop(child.kill());
    drop(child.wait());
    assert!(seen.len() >= count, "only {} renewals", seen.len());
}
