//! Pods on several machines: the real binary on network namespaces, two on one link and one behind a router.

use std::time::Duration;

use e2e::lab::Lab;
use testkit::lab::{Families, Impairment};

const WAIT: &str = "--timeout=60s";

/// Three nodes with a pod `on-mN` each, which answers HTTP and logs who asked.
fn cluster(options: &[&str]) -> Option<Lab> {
    cluster_of(Families::V4, options)
}

fn cluster_of(families: Families, options: &[&str]) -> Option<Lab> {
    if !e2e::can_run() {
        return None;
    }
    let lab = Lab::with_families(2, 1, families)?;
    populate(&lab, options);
    Some(lab)
}

/// Makes a cluster of the three machines, with a pod on each.
fn populate(lab: &Lab, options: &[&str]) {
    lab.serve("up", options);
    let token = lab.token(&[]);
    for number in 1..=3 {
        if number > 1 {
            // The ways are the cluster's: no node is told.
            lab.join(number, &token, &[]).ok();
        }
        lab.import_busybox(number);
        pod(lab, number);
    }
    lab.kubectl(&["wait", "--for=condition=Ready", "pod", "--all", WAIT]).ok();
}

fn pod(lab: &Lab, number: usize) {
    let manifest = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: on-m{number}}}, spec: {{nodeName: m{number}, terminationGracePeriodSeconds: 0, \
         containers: [{{name: main, image: busybox, command: [sh, -c, 'mkdir /w; echo I am on m{number} > /w/who; \
         dd if=/dev/zero of=/w/large bs=1M count=8 2> /dev/null; exec httpd -vv -f -p 8080 -h /w']}}]}}}}"
    );
    let file = lab.path("pod.yaml");
    std::fs::write(&file, manifest).expect("a file");
    lab.kubectl(&["apply", "-f", &file.to_string_lossy()]).ok();
}

fn address(lab: &Lab, number: usize) -> String {
    lab.kubectl(&["get", "pod", &format!("on-m{number}"), "-o", "jsonpath={.status.podIP}"]).ok()
}

fn addresses(lab: &Lab, number: usize) -> Vec<String> {
    let all = ["get", "pod", &format!("on-m{number}"), "-o", "jsonpath={.status.podIPs[*].ip}"];
    lab.kubectl(&all).ok().split_whitespace().map(str::to_owned).collect()
}

/// What the pod on one machine gets from the one on another, after it went through a filter.
fn fetch(lab: &Lab, from: usize, to: usize, path: &str, filter: &str) -> String {
    fetch_at(lab, from, &address(lab, to), path, filter)
}

fn fetch_at(lab: &Lab, from: usize, address: &str, path: &str, filter: &str) -> String {
    let ask = format!("printf 'GET {path} HTTP/1.0\\r\\n\\r\\n' | nc -w 10 {address} 8080 | {filter}");
    lab.kubectl(&["exec", &format!("on-m{from}"), "--", "sh", "-c", &ask]).ok()
}

fn all_reach_all(lab: &Lab) {
    for to in 1..=3 {
        for address in addresses(lab, to) {
            for from in 1..=3 {
                let answer = fetch_at(lab, from, &address, "/who", "tail -n 1");
                assert_eq!(answer, format!("I am on m{to}\n"), "from m{from} at {address}");
            }
        }
    }
    // Nobody stands between them: each sees the others' own addresses.
    for to in 1..=3 {
        let log = lab.kubectl(&["logs", &format!("on-m{to}")]).ok();
        for own in (1..=3).flat_map(|from| addresses(lab, from)) {
            assert!(log.contains(&format!("{own}]:")), "{own} to {to}: {log}");
        }
    }
}

fn ways(lab: &Lab) -> Vec<Vec<String>> {
    let shown = lab.own(&["network"]).ok();
    shown.lines().skip(1).map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

#[test]
fn pods_of_all_nodes_reach_each_other_as_themselves() {
    let Some(lab) = cluster(&[]) else { return };
    all_reach_all(&lab);
    let bytes: u64 = fetch(&lab, 1, 3, "/large", "wc -c").trim().parse().expect("a number");
    assert!(bytes > 8 << 20, "{bytes} bytes came through the tunnel");
    let lines = ways(&lab);
    let way = |from: &str, to: &str| {
        let start = lines.iter().position(|line| line[0] == from).expect("the node is shown");
        let found = lines[start..].iter().find(|line| line.iter().any(|word| word == to)).expect("its way is shown");
        found.iter().find(|word| ["route", "vxlan", "nowhere"].contains(&word.as_str())).expect("a way").clone()
    };
    assert_eq!((way("m1", "m2").as_str(), way("m1", "m3").as_str()), ("route", "vxlan"));
    let picture = lab.own(&["network", "-o", "mermaid"]).ok();
    assert!(picture.starts_with("graph TD\n") && picture.contains("|vxlan|"), "{picture}");

    // One leaves: nothing leads to its block any more.
    lab.podling(3, &["leave"]).ok();
    let name = lab.kubectl(&["get", "nodes", "-o", "name"]).ok();
    assert_eq!(name, "node/m1\nnode/m2\n");
    e2e::until("the tunnel to go", || {
        let links = lab.on(1, "ip".as_ref(), &["-br", "link"]).ok();
        (!links.lines().any(|line| line.split_whitespace().next().is_some_and(|link| link.ends_with("vx"))))
            .then_some(())
    });
}

#[test]
fn what_the_ways_take_and_who_is_in_the_way_is_shown() {
    if !e2e::can_run() {
        return;
    }
    let Some(lab) = Lab::with_far(1, 1) else { return };
    lab.wires().set_backbone_mtu(1400).expect("narrow");
    lab.serve("up", &[]);
    lab.join(2, &lab.token(&[]), &[]).ok();
    // Nobody told 1400; it was found.
    e2e::until("the path to be probed", || {
        let lines = ways(&lab);
        let is_found =
            lines.iter().filter(|line| line.contains(&"1350".to_owned()) && line.contains(&"0/5".to_owned()));
        (is_found.count() == 2).then_some(())
    });
    assert!(!lab.own(&["network"]).ok().contains("drops"));
    lab.on(2, "nft".as_ref(), &["add", "table", "ip", "filter"]).ok();
    let chain = "add chain ip filter FORWARD { type filter hook forward priority 0 ; policy drop ; }";
    lab.on(2, "nft".as_ref(), &[chain]).ok();
    let shown = lab.own(&["network"]).ok();
    assert!(shown.contains("node m2 drops") && shown.contains("nft insert rule ip filter FORWARD iifname"), "{shown}");
    // What does not come through is told as lost.
    lab.machine(2).cut().expect("cut");
    let shown = lab.own(&["network"]).ok();
    assert!(shown.contains("5/5"), "{shown}");
    lab.machine(2).restore().expect("restore");
}

#[test]
fn why_one_pod_does_not_reach_another_is_said() {
    let Some(lab) = cluster(&[]) else { return };
    let why = |from: usize, to: &str| lab.own(&["network", "why", &format!("on-m{from}"), to]);
    let whole = why(1, "on-m3:8080").ok();
    for told in
        ["on-m1 is Running on node m1", "m1 reaches m3 by vxlan", "m3 reaches m1 by vxlan", "on-m1 reaches on-m3 at"]
    {
        assert!(whole.contains(told), "no {told:?} in {whole}");
    }
    assert!(why(1, "on-m2:8080").ok().contains("m1 reaches m2 by route through eth0, packets up to 1500"));
    assert!(why(2, "on-m2:8080").ok().contains("both are on node m2"));
    // Options are taken on both sides of the verb.
    lab.own(&["network", "-n", "default", "why", "on-m2", "on-m2:8080"]).ok();
    lab.own(&["network", "why", "on-m2", "on-m2:8080", "-n", "default"]).ok();
    let elsewhere = lab.own(&["network", "-n", "none", "why", "on-m2", "on-m2:8080"]).refused();
    assert!(elsewhere.contains("\"on-m2\" not found"), "{elsewhere}");
    let ended = |from: usize, to: &str, told: &str| {
        let answer = why(from, to);
        assert!(answer.code == 1 && answer.stderr.contains(told), "no {told:?} in {answer}");
    };
    ended(1, "on-m2:81", "it ends at the port: nobody listens on port 81 in on-m2");
    lab.kubectl(&["exec", "on-m2", "--", "sh", "-c", "httpd -p 127.0.0.1:82 -h /w"]).ok();
    ended(1, "on-m2:82", "listens on port 82 of its loopback only");
    // Docker's way of guarding a machine.
    let nft = |line: &str| lab.on(3, "nft".as_ref(), &[line]).ok();
    nft("add table ip filter");
    nft("add chain ip filter FORWARD { type filter hook forward priority 0 ; policy drop ; }");
    ended(1, "on-m3:8080", "it ends at the rules: node m3 drops what its pods send further");
    nft("delete table ip filter");
    why(1, "on-m3:8080").ok();
    lab.machine(3).cut().expect("cut");
    ended(1, "on-m2:83", "nobody listens");
    ended(1, "on-m3:8080", "it ends at the node: m3 does not answer");
    lab.machine(3).restore().expect("restore");
}

#[test]
fn a_tunnel_can_be_had_everywhere() {
    let Some(lab) = cluster(&["--backend", "vxlan"]) else { return };
    all_reach_all(&lab);
    assert!(!ways(&lab).iter().flatten().any(|word| word == "route"));
}

/// Whether machines can have WireGuard, as another program than ours finds it.
fn has_wireguard(lab: &Lab) -> bool {
    let made = lab.on(1, "ip".as_ref(), &["link", "add", "probe", "type", "wireguard"]);
    made.code == 0 && lab.on(1, "ip".as_ref(), &["link", "del", "probe"]).code == 0
}

#[test]
fn an_encrypted_tunnel_can_be_had_everywhere() {
    if !e2e::can_run() {
        return;
    }
    let Some(lab) = Lab::new(1) else { return };
    if !has_wireguard(&lab) {
        eprintln!("SKIPPED: the kernel has no WireGuard");
        return;
    }
    drop(lab);
    let Some(lab) = cluster(&["--backend", "wireguard"]) else { return };
    all_reach_all(&lab);
    let bytes: u64 = fetch(&lab, 1, 3, "/large", "wc -c").trim().parse().expect("a number");
    assert!(bytes > 8 << 20, "{bytes} bytes came through the tunnel");
    let shown = ways(&lab);
    assert!(!shown.iter().flatten().any(|word| ["route", "vxlan", "nowhere"].contains(&word.as_str())), "{shown:?}");
    assert_eq!(shown.iter().flatten().filter(|word| *word == "wireguard").count(), 6, "{shown:?}");
    assert!(lab.own(&["network", "why", "on-m1", "on-m3:8080"]).ok().contains("m1 reaches m3 by wireguard"));
    let key = |number: usize| {
        let path = "jsonpath={.metadata.annotations.podling\\.dev/wireguard-key}";
        lab.kubectl(&["get", "node", &format!("m{number}"), "-o", path]).ok()
    };
    // Nobody passes for another: what somebody else says of a node is not what it says.
    let before = key(3);
    assert!(before.len() == 44 && before != key(2), "{before}");
    lab.kubectl(&["annotate", "--overwrite", "node", "m3", &format!("podling.dev/wireguard-key={}", key(2))]).ok();
    e2e::until("the node to say its own key again", || (key(3) == before).then_some(()));
    reaches(&lab, 1, 3);
    reaches(&lab, 2, 3);
    // Where the key is lost, there is another one.
    lab.signal(3, "TERM");
    e2e::until("the process to end", || (!lab.data(3).join("podling.pid").exists()).then_some(()));
    std::fs::remove_file(lab.data(3).join("node/wireguard.key")).expect("the key is a file");
    lab.podling(3, &["join", "--detach"]).ok();
    e2e::until("another key", || (key(3) != before).then_some(()));
    reaches(&lab, 1, 3);
    reaches(&lab, 3, 2);
    // The last one takes the tunnel away.
    lab.podling(3, &["leave"]).ok();
    lab.podling(2, &["leave"]).ok();
    e2e::until("the tunnel to go", || {
        let links = lab.on(1, "ip".as_ref(), &["-br", "link"]).ok();
        (!links.contains("wg")).then_some(())
    });
}

#[test]
fn a_kernel_without_wireguard_is_told_before_anything_is_done() {
    if !e2e::can_run() {
        return;
    }
    let Some(lab) = Lab::new(2) else { return };
    if has_wireguard(&lab) {
        eprintln!("SKIPPED: the kernel has WireGuard");
        return;
    }
    let (kubeconfig, listen) = (lab.path("kubeconfig"), ["--listen", "0.0.0.0:6443", "--backend", "wireguard"]);
    let told = |text: &str| {
        assert!(text.contains("has no WireGuard") && text.contains("CONFIG_WIREGUARD"), "{text}");
        assert!(text.contains("--backend auto, route or vxlan"), "{text}");
    };
    let config = kubeconfig.to_string_lossy();
    told(&lab.podling(1, &[&["up", "--detach", "--kubeconfig", &config], &listen[..]].concat()).refused());
    assert!(!lab.data(1).exists());
    // A control plane needs no tunnel itself; its nodes do.
    lab.serve("server", &["--backend", "wireguard"]);
    told(&lab.join(2, &lab.token(&[]), &[]).refused());
    assert!(!lab.data(2).exists());
    assert_eq!(lab.kubectl(&["get", "nodes", "-o", "name"]).ok(), "");
    lab.join(2, &lab.token(&[]), &["--backend", "auto"]).ok();
}

#[test]
fn a_node_that_falls_silent_comes_back_with_its_pods() {
    let Some(lab) = cluster(&["--node-grace", "2s"]) else { return };
    let id = || lab.kubectl(&["get", "pod", "on-m2", "-o", "jsonpath={.status.containerStatuses[0].containerID}"]).ok();
    let before = id();
    lab.kill(2);
    lab.kubectl(&["wait", "--for=condition=Ready=Unknown", "node/m2", WAIT]).ok();
    let taints = lab.kubectl(&["get", "node", "m2", "-o", "jsonpath={.spec.taints[*].key}"]).ok();
    assert!(taints.contains("node.kubernetes.io/unreachable"), "{taints}");
    // Its pod lives on, and is reached.
    assert_eq!(fetch(&lab, 3, 2, "/who", "tail -n 1"), "I am on m2\n");
    lab.podling(2, &["join", "--detach"]).ok();
    lab.kubectl(&["wait", "--for=condition=Ready", "node/m2", "pod/on-m2", WAIT]).ok();
    assert_eq!(id(), before);
    e2e::until("the taint to go", || {
        let taints = lab.kubectl(&["get", "node", "m2", "-o", "jsonpath={.spec.taints}"]).ok();
        (!taints.contains("unreachable")).then_some(())
    });
}

/// Tries again until the pod on one machine is answered by the one on another.
fn reaches(lab: &Lab, from: usize, to: usize) {
    let ask = format!("printf 'GET /who HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {} 8080 | tail -n 1", address(lab, to));
    e2e::until("an answer", || {
        let answer = lab.kubectl(&["exec", &format!("on-m{from}"), "--", "sh", "-c", &ask]);
        (answer.stdout == format!("I am on m{to}\n")).then_some(())
    });
}

#[test]
fn what_others_do_to_a_machine_is_put_right() {
    let Some(lab) = cluster(&[]) else { return };
    let run = |number: usize, line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        lab.on(number, words[0].as_ref(), &words[1..]).ok()
    };
    for number in 1..=3 {
        let before = run(number, "nft list ruleset");
        run(number, "nft flush ruleset");
        e2e::until("the rules", || (run(number, "nft list ruleset") == before).then_some(()));
    }
    all_reach_all(&lab);
    // A cable that is pulled and plugged again, three times, takes all routes with it.
    for _ in 0..3 {
        run(2, "ip link set eth0 down");
        run(2, "ip link set eth0 up");
    }
    run(2, "ip route replace default via 198.18.1.1");
    for (from, to) in [(1, 2), (2, 1), (2, 3), (3, 2)] {
        reaches(&lab, from, to);
    }
    run(3, "ip link del $(vx)".replace("$(vx)", &tunnel(&lab, 3)).as_str());
    reaches(&lab, 3, 1);
    reaches(&lab, 2, 3);
}

fn tunnel(lab: &Lab, number: usize) -> String {
    let links = lab.on(number, "ip".as_ref(), &["-br", "link"]).ok();
    let mut names = links.lines().filter_map(|line| line.split_whitespace().next());
    names.find(|name| name.starts_with('p') && name.ends_with("vx")).expect("a tunnel").to_owned()
}

#[test]
fn who_was_cut_off_comes_back_and_losses_are_borne() {
    let Some(lab) = cluster(&["--node-grace", "2s"]) else { return };
    // Those on one side go on without the other.
    lab.machine(3).cut().expect("cut");
    lab.kubectl(&["wait", "--for=condition=Ready=Unknown", "node/m3", WAIT]).ok();
    reaches(&lab, 1, 2);
    reaches(&lab, 2, 1);
    lab.machine(3).restore().expect("restore");
    lab.kubectl(&["wait", "--for=condition=Ready", "node/m3", WAIT]).ok();
    reaches(&lab, 1, 3);
    reaches(&lab, 3, 2);
    // One packet in twenty is lost on the way to the third machine and back.
    for line in [
        "add table ip loss",
        "add chain ip loss forward { type filter hook forward priority 0 ; }",
        "add rule ip loss forward numgen random mod 100 < 5 drop",
    ] {
        lab.machine(3).wire().router().run(&format!("nft {line}")).expect("a rule");
    }
    let bytes: u64 = fetch(&lab, 1, 3, "/large", "wc -c").trim().parse().expect("a number");
    assert!(bytes > 8 << 20, "{bytes} bytes came through");
    e2e::until("losses to be shown", || {
        let lines = ways(&lab);
        let has_loss = |word: &String| word.ends_with("/5") && word != "0/5" && word != "5/5";
        lines.iter().flatten().any(has_loss).then_some(())
    });
}

#[test]
fn a_node_far_away_is_a_node_like_others() {
    if !e2e::can_run() {
        return;
    }
    let Some(lab) = Lab::with_far(2, 1) else { return };
    lab.wires().set_backbone_mtu(1400).expect("narrow");
    let each_way = Duration::from_millis(100);
    for number in [2, 3] {
        let how = Impairment { jitter: Duration::from_millis(10), ..Impairment::delay(each_way) };
        lab.machine(number).impair(Some(how)).expect("delay");
    }
    populate(&lab, &["--node-grace", "2s"]);
    let ready = "{range .items[*].status.conditions[?(@.type=='Ready')]}{.status} {.lastTransitionTime}\n{end}";
    let ready = || lab.kubectl(&["get", "nodes", "-o", &format!("jsonpath={ready}")]).ok();
    let before = ready();
    assert_eq!(before.matches("True").count(), 3, "{before}");
    all_reach_all(&lab);
    // What answers late is not taken for lost: neither large packets, nor small ones.
    e2e::until("the paths to be probed", || {
        let lines = ways(&lab);
        let whole = |mtu: &str| {
            let is_so = |line: &&Vec<String>| [mtu, "0/5"].iter().all(|told| line.iter().any(|word| word == told));
            lines.iter().filter(is_so).count()
        };
        ((whole("1500"), whole("1350")) == (2, 4)).then_some(())
    });
    // Heartbeats have gone on all the while, which was longer than a node may be silent.
    assert_eq!(ready(), before);
    let taints = lab.kubectl(&["get", "nodes", "-o", "jsonpath={.items[*].spec.taints}"]).ok();
    assert!(taints.is_empty(), "{taints}");
    assert!(lab.own(&["network", "why", "on-m2", "on-m3:8080"]).ok().contains("on-m2 reaches on-m3 at"));
}

/// What a field of all nodes says, a line each.
fn of_nodes(lab: &Lab, field: &str) -> Vec<String> {
    let path = format!("jsonpath={{range .items[*]}}{{{field}}}\n{{end}}");
    lab.kubectl(&["get", "nodes", "-o", &path]).ok().lines().map(str::to_owned).collect()
}

#[test]
fn pods_of_both_families_reach_each_other_as_themselves() {
    let ranges = "10.42.0.0/16,fd42:0:0:100::/56";
    let Some(lab) = cluster_of(Families::Both, &["--pod-cidr", ranges]) else { return };
    for number in 1..=3 {
        let own = addresses(&lab, number);
        assert!(own.len() == 2 && own[0].starts_with("10.42.0.") && own[1].starts_with("fd42:0:0:100::"), "{own:?}");
    }
    all_reach_all(&lab);
    let bytes: u64 = fetch_at(&lab, 1, &addresses(&lab, 3)[1], "/large", "wc -c").trim().parse().expect("a number");
    assert!(bytes > 8 << 20, "{bytes} bytes came through the tunnel");
    let internal = of_nodes(&lab, ".status.addresses[?(@.type=='InternalIP')].address");
    assert_eq!(internal, ["198.18.1.10 fd12:1::10", "198.18.1.11 fd12:1::11", "198.18.2.10 fd12:2::10"]);
    let blocks = of_nodes(&lab, ".spec.podCIDRs");
    assert_eq!(blocks[0], "[\"10.42.0.0/26\",\"fd42:0:0:100::/122\"]");
    assert_eq!(of_nodes(&lab, ".spec.podCIDR")[0], "10.42.0.0/26");
    let told = lab.kubectl(&["get", "pod", "on-m3", "-o", "jsonpath={.status.hostIPs[*].ip} {.status.hostIP}"]).ok();
    assert_eq!(told, "198.18.2.10 fd12:2::10 198.18.2.10");
    let lines = ways(&lab);
    assert!(
        lines.iter().any(|line| line.contains(&"route".to_owned()) && line.contains(&"1500".to_owned())),
        "{lines:?}"
    );
    assert!(lines.iter().all(|line| !line.contains(&"nowhere".to_owned())), "{lines:?}");
    let walk = lab.own(&["network", "why", "on-m1", "on-m3:8080"]).ok();
    for told in ["by IPv4:\n", "by IPv6:\n", "on-m1 reaches on-m3 at 10.42.", "on-m1 reaches on-m3 at [fd42:0:0:100::"]
    {
        assert!(walk.contains(told), "no {told:?} in {walk}");
    }

    // What a container is told of itself, and who may ask for it by either family.
    let manifest = "{apiVersion: v1, kind: Pod, metadata: {name: told}, spec: {nodeName: m2, restartPolicy: Never, containers: [{name: main, \
        image: busybox, command: [sh, -c, 'echo $PODS $HOSTS; grep told /etc/hosts'], env: [{name: PODS, valueFrom: {fieldRef: \
        {fieldPath: status.podIPs}}}, {name: HOSTS, valueFrom: {fieldRef: {fieldPath: status.hostIPs}}}]}]}}";
    let file = lab.path("told.yaml");
    std::fs::write(&file, manifest).expect("a file");
    lab.kubectl(&["apply", "-f", &file.to_string_lossy()]).ok();
    lab.kubectl(&["wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/told", WAIT]).ok();
    let own = lab.kubectl(&["get", "pod", "told", "-o", "jsonpath={.status.podIPs[*].ip}"]).ok();
    let (four, six) = own.split_once(' ').expect("two addresses");
    let log = lab.kubectl(&["logs", "told"]).ok();
    assert_eq!(log, format!("{four},{six} 198.18.1.11,fd12:1::11\n{four}\ttold\n{six}\ttold\n"));

    // Another address of one family: the node and the ways to it follow.
    lab.on(2, "ip".as_ref(), &["address", "add", "fd12:1::77/64", "dev", "eth0", "nodad"]).ok();
    lab.on(2, "ip".as_ref(), &["address", "del", "fd12:1::11/64", "dev", "eth0"]).ok();
    e2e::until("the node to say it", || {
        (of_nodes(&lab, ".status.addresses[?(@.type=='InternalIP')].address")[1] == "198.18.1.11 fd12:1::77")
            .then_some(())
    });
    e2e::until("the way to follow", || {
        let routes = lab.on(1, "ip".as_ref(), &["-6", "route"]).ok();
        routes.contains("fd42:0:0:100::40/122 via fd12:1::77 dev eth0").then_some(())
    });

    // A server that starts again finds it all as it was; another range is refused.
    let before = addresses(&lab, 1);
    lab.podling(1, &["down"]).ok();
    let other = lab.podling(1, &["up", "--detach", "--pod-cidr", "10.42.0.0/16"]).refused();
    assert!(other.contains("has the range 10.42.0.0/16,fd42:0:0:100::/56"), "{other}");
    lab.serve("up", &[]);
    lab.kubectl(&["wait", "--for=condition=Ready", "pod/on-m1", WAIT]).ok();
    assert_eq!(addresses(&lab, 1), before);
    all_reach_all(&lab);
}

#[test]
fn pods_of_the_newer_family_alone_reach_each_other_as_themselves() {
    let Some(lab) = cluster_of(Families::V6, &["--pod-cidr", "fd42::/56"]) else { return };
    all_reach_all(&lab);
    assert!((1..=3).all(|number| addresses(&lab, number)[0].starts_with("fd42::")));
    assert_eq!(of_nodes(&lab, ".status.addresses[?(@.type=='InternalIP')].address")[2], "fd12:2::10");
    let lines = ways(&lab);
    let told = |word: &str| lines.iter().flatten().filter(|found| *found == word).count();
    assert_eq!((told("route"), told("vxlan"), told("1430")), (2, 4, 4), "{lines:?}");
    assert!(lab.own(&["network", "why", "on-m1", "on-m3:8080"]).ok().contains("on-m1 reaches on-m3 at"));
}

#[test]
fn a_range_that_a_machine_uses_otherwise_is_refused() {
    if !e2e::can_run() {
        return;
    }
    let Some(lab) = Lab::with_families(2, 0, Families::Both) else { return };
    let refused = lab.podling(1, &["up", "--detach", "--pod-cidr", "10.42.0.0/16,fd12:1::/56"]).refused();
    assert!(refused.contains("fd12:1::/56, but this machine reaches fd12:1::/64 otherwise"), "{refused}");
    let wrong = lab.podling(1, &["up", "--detach", "--pod-cidr", "10.42.0.0/16,10.43.0.0/16"]).refused();
    assert!(wrong.contains("neither one range nor one of IPv4 and one of IPv6"), "{wrong}");
    lab.serve("up", &["--pod-cidr", "10.42.0.0/16,fd42::/56"]);
    lab.on(2, "ip".as_ref(), &["route", "add", "fd42::/64", "via", "fd12:1::1"]).ok();
    let refused = lab.join(2, &lab.token(&[]), &[]).refused();
    assert!(refused.contains("fd42::/56, but this machine reaches fd42::/64 otherwise"), "{refused}");
}
