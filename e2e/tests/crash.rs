//! SIGKILL, down and up: containers live on, nothing acknowledged is lost, and the end is that of an undisturbed run.

use std::process::Command;

use client::resource;
use client::watch::Event;
use e2e::cluster::Cluster;
use serde_json::{Value, json};

fn shell_pod(script: &str, restart: &str) -> Value {
    json!({
        "restartPolicy": restart,
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "main", "image": "busybox", "command": ["sh", "-c", script]}],
    })
}

/// Processes whose command line holds a word: also those of a shell that has yet to become what it was told to.
fn processes(word: &str) -> usize {
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).contains(word)).count()
}

fn main_container(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]
}

#[test]
fn containers_outlive_the_process() {
    if !e2e::can_run() {
        return;
    }
    let mut cluster = Cluster::with_busybox();
    cluster.run("stays", shell_pod("exec sleep 31415926", "Always"));
    let before = cluster.ready_pod("stays");
    cluster.kill();
    assert_eq!(processes("31415926"), 1, "the container's process lives on");
    cluster.up();
    let after = cluster.ready_pod("stays");
    assert_eq!(main_container(&before)["containerID"], main_container(&after)["containerID"]);
    assert_eq!(main_container(&after)["restartCount"], 0);
    assert_eq!(before["status"]["podIP"], after["status"]["podIP"]);
    let shell = cluster.any_shell();
    assert_eq!(shell.ok("kubectl exec stays -- echo still here"), "still here\n");
    drop(cluster);
    assert_eq!(processes("31415926"), 0, "purging ends it");
}

#[test]
fn acknowledged_writes_survive() {
    if !e2e::can_run() {
        return;
    }
    let mut cluster = Cluster::start();
    let client = cluster.client();
    let (sender, acknowledged) = std::sync::mpsc::channel();
    let writer = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            for number in 0.. {
                let name = format!("entry-{number}");
                let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": &name}});
                let path = resource::CONFIG_MAPS.collection(Some("default"));
                if client.create(&path, &object).await.is_err() || sender.send(name).is_err() {
                    return;
                }
            }
        });
    });
    let mut names: Vec<String> = acknowledged.iter().take(100).collect();
    cluster.kill();
    names.extend(acknowledged.iter());
    writer.join().expect("the writer ends with the server");
    corrupt_tail(&cluster);
    cluster.up();
    let path = resource::CONFIG_MAPS.collection(Some("default"));
    let list = cluster.ask(async |client| client.list(&path, &[]).await).expect("a list");
    for name in &names {
        let is_there = list.items.iter().any(|item| item["metadata"]["name"] == name.as_str());
        assert!(is_there, "{name} of {} was acknowledged and is lost", names.len());
    }
}

/// What a write that was cut off leaves: half a record behind the last one.
fn corrupt_tail(cluster: &Cluster) {
    let entries = std::fs::read_dir(cluster.data().join("store")).expect("a store").flatten();
    let mut files: Vec<_> = entries.map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    files.sort();
    let mut logs = files.iter().filter(|path| path.to_string_lossy().contains("log"));
    let last = logs.next_back().or(files.last()).expect("a log");
    let bytes = std::fs::read(last).expect("the log can be read");
    // The log is preallocated: what follows the last record is zeros.
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |position| position + 9);
    let mut torn = bytes;
    torn.truncate(end.min(torn.len()));
    torn.extend(*b"torn in the middle of a record");
    std::fs::write(last, torn).expect("the log can be written");
}

/// Waits for some changes of pods after a revision.
fn after_changes(cluster: &Cluster, revision: &str, count: usize) {
    cluster.ask(async |client| {
        let path = resource::PODS.collection(Some("default"));
        let mut watch = client.watch(&path, &[], revision).await.expect("a watch");
        let mut seen = 0;
        while seen < count {
            match tokio::time::timeout(e2e::PATIENCE, watch.next()).await.expect("changes come").expect("a watch") {
                Some(Event::Bookmark(_)) => {}
                Some(_) => seen += 1,
                None => return,
            }
        }
    });
}

#[test]
fn killed_in_the_middle_pods_end_as_if_nothing_happened() {
    if !e2e::can_run() {
        return;
    }
    let mut cluster = Cluster::with_busybox();
    for round in 0..6 {
        let name = |kind: &str| format!("{kind}-{round}");
        let path = resource::PODS.collection(Some("default"));
        let revision = cluster.ask(async |client| client.list(&path, &[]).await).expect("a list").resource_version;
        cluster.run(&name("good"), shell_pod("echo ran; sleep 0.3; exit 0", "Never"));
        cluster.run(&name("bad"), shell_pod("echo ran; exit 3", "Never"));
        cluster.run(&name("long"), shell_pod("echo ran; exec sleep 3600", "Always"));
        // Each round is killed a little later in the pods' lives.
        after_changes(&cluster, &revision, 3 + round);
        cluster.kill();
        cluster.up();
        let good = cluster.ended_pod(&name("good"));
        let bad = cluster.ended_pod(&name("bad"));
        let long = cluster.ready_pod(&name("long"));
        assert_eq!(good["status"]["phase"], "Succeeded");
        assert_eq!(main_container(&good)["state"]["terminated"]["exitCode"], 0);
        assert_eq!(bad["status"]["phase"], "Failed");
        assert_eq!(main_container(&bad)["state"]["terminated"]["exitCode"], 3);
        for pod in [&good, &bad, &long] {
            assert_eq!(main_container(pod)["restartCount"], 0, "round {round}: {:#}", pod["status"]);
        }
        let shell = cluster.any_shell();
        for kind in ["good", "bad", "long"] {
            assert_eq!(shell.ok(&format!("kubectl logs {}", name(kind))), "ran\n", "round {round}");
        }
        // Half of them go while the process is killed again.
        shell.ok(&format!("kubectl delete po {} {} --wait=false", name("good"), name("long")));
        cluster.kill();
        cluster.up();
        cluster.gone(&name("good"));
        cluster.gone(&name("long"));
        cluster.any_shell().ok(&format!("kubectl delete po {}", name("bad")));
    }
}

#[test]
fn down_and_up_resumes() {
    if !e2e::can_run() {
        return;
    }
    let mut cluster = Cluster::with_busybox();
    cluster.run("worker", shell_pod("echo ran; exec sleep 27182818", "Always"));
    cluster.run("done", shell_pod("echo ran", "Never"));
    cluster.ready_pod("worker");
    cluster.ended_pod("done");
    assert_eq!(cluster.machine(&["status"]).code, 0);
    cluster.down();
    assert_eq!(processes("27182818"), 0, "down ends the pods");
    assert_eq!(traces(&cluster), Vec::<String>::new(), "down leaves nothing but the state");
    assert_ne!(cluster.machine(&["status"]).code, 0);
    cluster.up();
    cluster.pod("worker", "runs again", |pod| {
        pod["status"]["phase"] == "Running"
            && main_container(pod)["state"]["running"].is_object()
            && processes("27182818") == 1
    });
    let done = cluster.ended_pod("done");
    assert_eq!(done["status"]["phase"], "Succeeded");
    let busy = cluster.machine(&["up", "--listen", "127.0.0.1:0", "--kubeconfig", "/dev/null"]).refused();
    assert!(busy.contains("a cluster runs in"), "{busy}");
}

/// What a cluster has on the machine beside its directory.
fn traces(cluster: &Cluster) -> Vec<String> {
    let facts = cluster.facts();
    let id = facts["id"].as_str().expect("an id");
    let mut found = Vec::new();
    let prefix = format!("p{}", &id[..4]);
    for entry in std::fs::read_dir("/sys/class/net").expect("links").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(&prefix) {
            found.push(format!("link {name}"));
        }
    }
    let output = |program: &str, words: &[&str]| {
        let output = Command::new(program).args(words).output().expect("a program");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    found.extend(output("nft", &["list", "tables"]).lines().filter(|line| line.contains(id)).map(str::to_owned));
    let groups = output("find", &["/sys/fs/cgroup", "-maxdepth", "3", "-name", &format!("podling-{id}")]);
    found.extend(groups.lines().map(str::to_owned));
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
    let data = cluster.data();
    let data = data.to_string_lossy();
    found.extend(mounts.lines().filter(|line| line.contains(&*data) || line.contains(id)).map(str::to_owned));
    if std::path::Path::new("/run/podling").join(id).exists() {
        found.push(format!("/run/podling/{id}"));
    }
    found
}

#[test]
fn two_clusters_live_side_by_side() {
    if !e2e::can_run() {
        return;
    }
    // At the same moment: each must find a range of its own all the same.
    let other = std::thread::spawn(Cluster::with_busybox);
    let mut one = Cluster::with_busybox();
    let other = other.join().expect("it starts");
    assert_ne!(one.facts()["pod_cidr"], other.facts()["pod_cidr"]);
    for cluster in [&one, &other] {
        cluster.run("same-name", shell_pod("exec sleep 3600", "Always"));
    }
    let (first, second) = (one.ready_pod("same-name"), other.ready_pod("same-name"));
    assert_ne!(first["status"]["podIP"], second["status"]["podIP"]);
    assert!(!traces(&one).is_empty());
    let facts = one.facts();
    let ended = one.purge();
    assert_eq!(ended.code, 0, "{ended}");
    assert!(!one.data().exists() && !one.kubeconfig().exists(), "purging leaves nothing");
    std::fs::create_dir_all(one.data()).expect("a directory");
    std::fs::write(one.data().join("cluster.json"), facts.to_string()).expect("facts");
    assert_eq!(traces(&one), Vec::<String>::new(), "purging leaves nothing");
    let shell = other.any_shell();
    assert_eq!(shell.ok("kubectl exec same-name -- echo here"), "here\n");
    assert!(!traces(&other).is_empty());
}

#[test]
fn a_purge_touches_nothing_of_others() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let theirs = directory.path().join("theirs");
    std::fs::write(&theirs, "precious").expect("a file");
    let podling = |words: &[&str]| {
        let mut command = std::process::Command::new(e2e::cluster::podling());
        command.args(words).arg("--data-dir").arg(directory.path()).output().expect("podling can be started")
    };
    let purged = podling(&["down", "--purge"]);
    assert!(theirs.exists() && !purged.status.success(), "{purged:?}");
    assert!(String::from_utf8_lossy(&purged.stderr).contains("there is no cluster in"), "{purged:?}");
    let started = podling(&["up", "--listen", "127.0.0.1:0", "--kubeconfig", "/dev/null"]);
    assert!(!started.status.success(), "{started:?}");
    assert_eq!(std::fs::read_dir(directory.path()).expect("a directory").count(), 1);
}

#[test]
fn a_reader_that_has_gone_harms_no_command() {
    let program = e2e::cluster::podling();
    for words in ["version", "image ls --help", "completion bash"] {
        let script = format!("{} {words} | true; exit ${{PIPESTATUS[0]}}", program.display());
        let output = std::process::Command::new("bash").args(["-c", &script]).output().expect("bash can be started");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!text.contains("panicked"), "{words}: {text}");
    }
}
