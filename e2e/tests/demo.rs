//! The demonstration on several nodes: it plays through, and leaves nothing, also when it is interrupted.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use e2e::cluster::podling;

/// A demonstration whose temporary files are in a directory of its own.
fn start(directory: &std::path::Path) -> Child {
    let mut command = Command::new("timeout");
    command.args(["--foreground", "-k", "20", "120"]).arg(podling()).args(["demo", "--nodes", "3"]);
    command.env("TMPDIR", directory).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    command.spawn().expect("podling can be started")
}

/// Neither files nor processes; links and routes of other tests come and go, so those of the demonstration's machines are looked at by
/// their processes: a namespace is there as long as one of them is.
fn nothing_is_left(directory: &std::path::Path) {
    let files: Vec<_> =
        std::fs::read_dir(directory).expect("the directory").flatten().map(|file| file.path()).collect();
    assert!(files.is_empty(), "{files:?} are left");
    let mark = directory.to_string_lossy().into_owned();
    for process in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let environment = std::fs::read(process.path().join("environ")).unwrap_or_default();
        let is_of_it = String::from_utf8_lossy(&environment).contains(&mark);
        assert!(!is_of_it, "process {} is left", process.path().display());
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("the mounts");
    assert!(!mounts.contains(&mark), "{mounts}");
}

#[test]
fn three_nodes_play_through() {
    if !e2e::can_run() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let mut demo = start(directory.path());
    let mut played = String::new();
    demo.stdout.take().expect("its output").read_to_string(&mut played).expect("text");
    assert!(demo.wait().expect("its end").success(), "{played}");
    for told in ["node3 $ podling join https://192.0.2.11:6443", "vxlan", "route", "You've hit on-node3", "steps gave"]
    {
        assert!(played.contains(told), "no {told:?} in\n{played}");
    }
    nothing_is_left(directory.path());
}

#[test]
fn an_interrupted_one_leaves_nothing() {
    if !e2e::can_run() {
        return;
    }
    for moment in ["node1 $ podling up", "node2 $ podling join", "create -f on-node2.yaml"] {
        let directory = tempfile::tempdir().expect("a directory");
        let mut demo = start(directory.path());
        let mut lines = BufReader::new(demo.stdout.take().expect("its output")).lines();
        let found = lines.by_ref().any(|line| line.expect("text").contains(moment));
        assert!(found, "it never came to {moment}");
        // `timeout` hands it on.
        let pid = demo.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().expect("kill runs").success());
        let rest: Vec<String> = lines.map(|line| line.expect("text")).collect();
        assert!(!demo.wait().expect("its end").success(), "{rest:?}");
        nothing_is_left(directory.path());
    }
}
