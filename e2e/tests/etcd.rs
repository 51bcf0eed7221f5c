//! Several servers over one etcd, and the state on its way from one place to another.

use std::path::Path;
use std::process::Child;
use std::time::Instant;

use e2e::lab::Lab;
use testkit::etcd::Etcd;

const ETCDCTL: &str = "/usr/bin/etcdctl";
/// Stands for all servers.
const NAME: &str = "api.podling.test";

/// etcd on the first machine. It ends with this.
struct Member(Child);

impl Drop for Member {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Machines, the first with an etcd; and what says where that is.
fn lab(machines: usize) -> Option<(Lab, Member, String)> {
    if !e2e::can_run() || !Etcd::is_here() {
        return None;
    }
    let lab = Lab::new(machines)?;
    let address = lab.address(1);
    let (clients, peers) = (format!("http://{address}:2379"), format!("http://{address}:2380"));
    let data = lab.path("etcd").to_string_lossy().into_owned();
    let cluster = format!("default={peers}");
    let words = [
        "--data-dir",
        &data,
        "--listen-client-urls",
        &clients,
        "--advertise-client-urls",
        &clients,
        "--listen-peer-urls",
        &peers,
        "--initial-advertise-peer-urls",
        &peers,
        "--initial-cluster",
        &cluster,
    ];
    let member = Member(lab.start(1, Path::new("/usr/bin/etcd"), &words));
    Some((lab, member, format!("etcd={clients}")))
}

/// Starts a server with a node on a machine; the second machine's kubeconfig is its own.
fn up(lab: &Lab, number: usize, options: &[&str]) -> String {
    let kubeconfig = kubeconfig(lab, number);
    let name = format!("m{number}");
    let fixed = [
        "up",
        "--detach",
        "--kubeconfig",
        &kubeconfig,
        "--listen",
        "0.0.0.0:6443",
        "--node-name",
        &name,
        "--node-grace",
        "4s",
    ];
    lab.podling(number, &[&fixed, options].concat()).ok()
}

fn kubeconfig(lab: &Lab, number: usize) -> String {
    let name = if number == 1 { "kubeconfig".to_owned() } else { format!("kubeconfig{number}") };
    lab.path(&name).to_string_lossy().into_owned()
}

/// kubectl by way of a machine's own server.
#[track_caller]
fn kubectl(lab: &Lab, number: usize, words: &[&str]) -> String {
    let kubeconfig = kubeconfig(lab, number);
    lab.on(number, &lab.kubectl_program(), &[&["--kubeconfig", &kubeconfig], words].concat()).ok()
}

/// The nodes, asked for by the name that stands for both servers, from a machine that has none.
#[track_caller]
fn by_name(lab: &Lab) -> String {
    let (hosts, config) = (lab.path("hosts"), lab.path("by-name"));
    std::fs::write(&hosts, format!("{} {NAME}\n{} {NAME}\n", lab.address(1), lab.address(2))).expect("a file");
    let own = std::fs::read_to_string(kubeconfig(lab, 1)).expect("a kubeconfig");
    let server = own.lines().find(|line| line.trim_start().starts_with("server:")).expect("it names a server");
    std::fs::write(&config, own.replace(server.trim(), &format!("server: https://{NAME}:6443"))).expect("a file");
    let script = format!(
        "mount --bind {} /etc/hosts && exec {} --kubeconfig {} get nodes -o name",
        hosts.display(),
        lab.kubectl_program().display(),
        config.display()
    );
    lab.on(3, "unshare".as_ref(), &["--mount", "sh", "-c", &script]).ok()
}

fn pod(lab: &Lab, by: usize, name: &str, node: &str) {
    let manifest = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{nodeSelector: {{kubernetes.io/hostname: {node}}}, \
         terminationGracePeriodSeconds: 0, containers: [{{name: main, image: busybox, command: [sh, -c, 'echo I am {name}; exec sleep 1000']}}]}}}}"
    );
    let file = lab.path("pod.yaml");
    std::fs::write(&file, manifest).expect("a file");
    kubectl(lab, by, &["apply", "-f", &file.to_string_lossy()]);
    kubectl(lab, by, &["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=60s"]);
}

#[test]
fn two_servers_are_one_cluster_and_one_is_enough() {
    let Some((lab, etcd, store)) = lab(3) else { return };
    for number in [1, 2] {
        up(&lab, number, &["--store", &store, "--advertise", NAME]);
        lab.import_busybox(number);
    }
    assert_eq!(by_name(&lab), "node/m1\nnode/m2\n");
    let nodes = kubectl(&lab, 1, &["get", "nodes", "-o", "name"]);
    assert_eq!(nodes, "node/m1\nnode/m2\n");
    // Each server leads to the nodes of both.
    pod(&lab, 1, "on-m2", "m2");
    pod(&lab, 2, "on-m1", "m1");
    for server in [1, 2] {
        for name in ["on-m1", "on-m2"] {
            assert_eq!(kubectl(&lab, server, &["logs", name]), format!("I am {name}\n"));
            assert_eq!(kubectl(&lab, server, &["exec", name, "--", "echo", "hello"]), "hello\n");
        }
    }
    // A name is one machine's.
    let fixed = ["up", "--detach", "--kubeconfig", "/dev/null", "--store", &store];
    let third = lab.podling(3, &[&fixed[..], &["--node-name", "m2"]].concat()).refused();
    assert!(third.contains("node m2 is another machine's"), "{third}");
    // What lies in etcd lies where people look for it.
    let endpoint = store.trim_start_matches("etcd=");
    let keys = lab.on(
        1,
        "env".as_ref(),
        &["ETCDCTL_API=3", ETCDCTL, "--endpoints", endpoint, "get", "--prefix", "--keys-only", "/registry/"],
    );
    let keys = keys.ok();
    for key in ["/registry/pods/default/on-m1", "/registry/minions/m2", "/registry/services/specs/default/kubernetes"] {
        assert!(keys.lines().any(|line| line == key), "{key} is not in\n{keys}");
    }
    // The first server dies; it ran the controllers.
    let holder = ["get", "lease", "-n", "kube-system", "podling-controllers", "-o", "jsonpath={.spec.holderIdentity}"];
    assert!(kubectl(&lab, 2, &holder).starts_with("m1_"));
    lab.kill(1);
    let begun = Instant::now();
    assert_eq!(by_name(&lab), "node/m1\nnode/m2\n");
    eprintln!("by the servers' name, kubectl took {:?} with one of two servers dead", begun.elapsed());
    kubectl(&lab, 2, &["create", "namespace", "later"]);
    kubectl(&lab, 2, &["wait", "--for=create", "-n", "later", "serviceaccount/default", "--timeout=60s"]);
    assert!(kubectl(&lab, 2, &holder).starts_with("m2_"));
    kubectl(&lab, 2, &["wait", "--for=condition=Ready=Unknown", "node/m1", "--timeout=60s"]);
    pod(&lab, 2, "later", "m2");
    // It comes back, without being told where the state is, and its pod is the one that it was.
    up(&lab, 1, &[]);
    kubectl(&lab, 1, &["wait", "--for=condition=Ready", "node/m1", "--timeout=60s"]);
    assert_eq!(kubectl(&lab, 2, &["exec", "on-m1", "--", "echo", "hello"]), "hello\n");
    assert_eq!(kubectl(&lab, 1, &["get", "pods", "-o", "name"]), "pod/later\npod/on-m1\npod/on-m2\n");
    assert!(kubectl(&lab, 1, &holder).starts_with("m2_"), "who works goes on working");
    // Without etcd nothing is answered, and that within its time; a balancer can see it.
    drop(etcd);
    let kubeconfig = kubeconfig(&lab, 2);
    let raw = |path: &str| lab.on(2, &lab.kubectl_program(), &["--kubeconfig", &kubeconfig, "get", "--raw", path]);
    let ready = raw("/readyz").refused();
    assert!(ready.contains("[-]store failed"), "{ready}");
    assert_eq!(raw("/livez").ok(), "ok");
    let read = raw("/api/v1/nodes").refused();
    assert!(read.contains("the store cannot be reached") && read.contains("etcd at http://"), "{read}");
}

/// A machine of its own that knows both servers: whichever dies, it goes on by the other, and is asked by the other.
#[test]
fn a_node_of_several_servers_needs_only_one_of_them() {
    let Some((lab, _etcd, store)) = lab(3) else { return };
    let server = |number: usize| {
        let (kubeconfig, name) = (kubeconfig(&lab, number), format!("m{number}"));
        let fixed = ["server", "--detach", "--listen", "0.0.0.0:6443", "--node-grace", "4s", "--store", &store];
        let own = ["--kubeconfig", &kubeconfig, "--node-name", &name];
        lab.podling(number, &[&fixed[..], &own].concat()).ok();
    };
    [1, 2].into_iter().for_each(server);
    // Nobody can dial the node.
    let wall = "add table inet wall; add chain inet wall in { type filter hook input priority 0; policy drop; }; \
                add rule inet wall in ct state established,related accept; add rule inet wall in iifname lo accept";
    lab.on(3, "nft".as_ref(), &[wall]).ok();
    let servers = [1, 2].map(|number| format!("https://{}:6443", lab.address(number))).join(",");
    let token = lab.token(&[]);
    lab.podling(3, &["join", &servers, "--token", &token, "--detach", "--node-name", "m3"]).ok();
    lab.import_busybox(3);
    pod(&lab, 1, "first", "m3");
    let logs = |by: usize, name: &str| assert_eq!(kubectl(&lab, by, &["logs", name]), format!("I am {name}\n"));
    logs(1, "first");
    logs(2, "first");
    for (dead, alive, name) in [(1, 2, "second"), (2, 1, "third")] {
        lab.kill(dead);
        let begun = Instant::now();
        // Bound by hand: no scheduler has to be chosen first.
        let overrides = r#"{"spec": {"nodeName": "m3", "terminationGracePeriodSeconds": 0}}"#;
        let words = ["run", "bound", "--image=busybox", "--overrides", overrides, "--", "sleep", "1000"];
        kubectl(&lab, alive, &words);
        kubectl(&lab, alive, &["wait", "--for=condition=Ready", "pod/bound", "--timeout=60s"]);
        eprintln!("a pod was Ready {:?} after server {dead} was killed", begun.elapsed());
        kubectl(&lab, alive, &["delete", "pod", "bound"]);
        pod(&lab, alive, name, "m3");
        logs(alive, name);
        assert_eq!(kubectl(&lab, alive, &["exec", "first", "--", "echo", "hello"]), "hello\n");
        let ready = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
        assert_eq!(kubectl(&lab, alive, &["get", "node", "m3", "-o", ready]), "True");
        server(dead);
    }
    let left = lab.podling(3, &["leave"]).ok();
    assert!(left.contains("has left"), "{left}");
}

#[test]
fn the_state_moves_to_etcd_and_back_and_into_a_file() {
    let Some((lab, _etcd, store)) = lab(1) else { return };
    let data = lab.data(1).to_string_lossy().into_owned();
    up(&lab, 1, &[]);
    lab.import_busybox(1);
    pod(&lab, 1, "steady", "m1");
    let id = || {
        kubectl(
            &lab,
            1,
            &["get", "pod", "steady", "-o", "jsonpath={.metadata.uid} {.status.containerStatuses[0].containerID}"],
        )
    };
    let before = id();

    // A backup of the running cluster, now and as it was.
    let (file, past) = (lab.path("backup"), lab.path("past"));
    let log = lab.podling(1, &["store", "log"]).ok();
    let made = log.lines().find(|line| line.ends_with("create\t/pods/default/steady")).expect("the log shows it");
    let version: u64 = made.split('\t').next().and_then(|text| text.parse().ok()).expect("a resource version");
    lab.podling(1, &["store", "backup", &file.to_string_lossy()]).ok();
    let earlier = (version - 1).to_string();
    lab.podling(1, &["store", "backup", &past.to_string_lossy(), "--at", &earlier]).ok();
    let never = lab.podling(1, &["store", "backup", &past.to_string_lossy(), "--at", "999999"]).refused();
    assert!(never.contains("there is no state of version 999999"), "{never}");

    // To etcd: not while it runs, not by the option alone; the pod runs on.
    let busy = lab.podling(1, &["store", "migrate", "--from", &data, "--to", &store]).refused();
    assert!(busy.contains("already (process"), "{busy}");
    lab.kill(1);
    let other = lab.podling(1, &["up", "--detach", "--store", &store]).refused();
    assert!(other.contains("podling store migrate"), "{other}");
    lab.podling(1, &["store", "migrate", "--from", &data, "--to", &store]).ok();
    up(&lab, 1, &[]);
    assert_eq!(id(), before);
    kubectl(&lab, 1, &["create", "namespace", "made-in-etcd"]);
    let status = lab.podling(1, &["status"]).ok();
    assert!(status.contains("under /registry"), "{status}");

    // And back.
    lab.kill(1);
    lab.podling(1, &["store", "migrate", "--from", &store, "--to", &data]).ok();
    up(&lab, 1, &[]);
    assert_eq!(id(), before);
    kubectl(&lab, 1, &["get", "namespace", "made-in-etcd"]);

    // What the file has is what there is, after the state was lost and after it was forgotten on purpose.
    lab.kill(1);
    std::fs::remove_dir_all(lab.data(1).join("store")).expect("removed");
    let lost = lab.podling(1, &["up", "--detach"]).refused();
    assert!(lost.contains("has lost all that the cluster knew"), "{lost}");
    lab.podling(1, &["store", "restore", &file.to_string_lossy()]).ok();
    up(&lab, 1, &[]);
    assert_eq!(id(), before);
    let there = lab.podling(1, &["store", "restore", &past.to_string_lossy()]).refused();
    assert!(there.contains("already (process"), "{there}");
    lab.kill(1);
    let there = lab.podling(1, &["store", "restore", &past.to_string_lossy()]).refused();
    assert!(there.contains("--replace"), "{there}");
    lab.podling(1, &["store", "restore", "--replace", &past.to_string_lossy()]).ok();
    up(&lab, 1, &[]);
    assert_eq!(kubectl(&lab, 1, &["get", "pods", "-o", "name"]), "");
}

#[test]
fn etcd_that_is_not_there_is_named() {
    if !e2e::can_run() {
        return;
    }
    let Some(lab) = Lab::new(1) else { return };
    let refused = lab.podling(1, &["server", "--detach", "--store", "etcd=http://127.0.0.1:2379"]).refused();
    assert!(refused.contains("http://127.0.0.1:2379") && refused.contains("Connection refused"), "{refused}");
    let refused = lab.podling(1, &["server", "--detach", "--store", "etcd=https://127.0.0.1:2379"]).refused();
    assert!(refused.contains("authority"), "{refused}");
    let refused = lab.podling(1, &["server", "--detach", "--etcd-prefix", "/x"]).refused();
    assert!(refused.contains("--store etcd"), "{refused}");
    assert!(!lab.data(1).exists(), "nothing was begun");

    // What fails leaves nothing behind, and what is no backup is not said to be a damaged one.
    let (data, other) = (lab.data(1).to_string_lossy().into_owned(), lab.path("other"));
    let etcd = "etcd=http://127.0.0.1:2379";
    let refused = lab.podling(1, &["store", "migrate", "--from", etcd, "--to", &data]).refused();
    assert!(refused.contains("http://127.0.0.1:2379") && !lab.data(1).exists(), "{refused}");
    std::fs::write(&other, "kind: Pod\nmetadata: {name: a}\n").expect("a file");
    let refused = lab.podling(1, &["store", "restore", &other.to_string_lossy()]).refused();
    assert!(refused.contains("is not a podling backup: `podling store backup` writes one"), "{refused}");
    assert!(!refused.contains("damaged") && !lab.data(1).exists(), "{refused}");
    let refused = lab.podling(1, &["up", "--node-ip", "9.9.9.9"]).refused();
    let told = format!("--node-ip 9.9.9.9 is no address of this machine, which has {}", lab.address(1));
    assert!(refused.contains(&told) && refused.contains("leave the option out"), "{refused}");
    assert!(!lab.data(1).exists(), "nothing was begun");
}
