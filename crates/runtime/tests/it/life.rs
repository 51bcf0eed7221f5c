//! From start to end: exit codes, signals, refusals, adoption, removal.

use std::fs;

use runtime::{Error, Host, Phase, PidNamespace, SandboxSpec, StartFailure};

use crate::lab::{Lab, PATIENCE};

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_and_output_are_seen() {
    let Some(lab) = Lab::new().await else { return };
    let (exit, text) = lab.run(lab.container("one", "echo hello; hostname; echo oops >&2; exit 7")).await;
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (7, 0, false));
    assert_eq!(text, "hello\nlab\noops\n");
    let raw = fs::read_to_string(lab.log_path("one")).expect("log");
    assert!(
        raw.lines().any(|line| line.ends_with(" stdout F hello"))
            && raw.lines().any(|line| line.ends_with(" stderr F oops")),
        "{raw}"
    );
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_arrive_and_killing_takes_all() {
    let Some(lab) = Lab::new().await else { return };
    let script = "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done";
    lab.sandbox.start(lab.container("polite", script)).await.expect("start");
    lab.exec("polite", "while ! kill -0 1; do :; done; sleep 0.2").await;
    lab.sandbox.signal("polite", libc::SIGTERM).await.expect("signal");
    assert_eq!(lab.wait("polite").await.exit.expect("exit").code, 3);
    lab.sandbox.start(lab.container("stubborn", "trap '' TERM; sleep 1000 & sleep 1000")).await.expect("start");
    lab.sandbox.kill("stubborn").await.expect("kill");
    let exit = lab.wait("stubborn").await.exit.expect("exit");
    assert_eq!((exit.code, exit.signal), (137, 9));
    assert!(matches!(lab.sandbox.signal("stubborn", 15).await, Err(Error::NotRunning { .. })));
    lab.sandbox.remove_container("polite").await.expect("remove");
    assert!(lab.sandbox.container("polite").is_none());
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_start_says_why() {
    let Some(lab) = Lab::new().await else { return };
    fs::write(lab.layer().join("etc/plain"), "text").expect("write");
    let cases: [(&str, &str, StartFailure, &str); 5] = [
        ("nosuch", "", StartFailure::NotFound, "exec: \"nosuch\": executable file not found in $PATH"),
        ("/no/such", "", StartFailure::NotFound, "exec: \"/no/such\": stat /no/such: no such file or directory"),
        ("/etc/plain", "", StartFailure::NotExecutable, "exec: \"/etc/plain\": permission denied"),
        ("/etc", "", StartFailure::NotExecutable, "exec: \"/etc\": is a directory"),
        (
            "sh",
            "/etc/plain",
            StartFailure::Cwd,
            "chdir to cwd (\"/etc/plain\") set in config.json failed: not a directory",
        ),
    ];
    for (number, (program, cwd, class, message)) in cases.into_iter().enumerate() {
        let id = format!("c{number}");
        let mut spec = lab.container(&id, "");
        (spec.argv, spec.cwd) = (vec![program.into()], cwd.into());
        match lab.sandbox.start(spec).await {
            Err(Error::Start { class: found, message: text }) => assert_eq!((found, text.as_str()), (class, message)),
            other => panic!("{program}: {other:?}"),
        }
        assert_eq!(lab.sandbox.container(&id).expect("it is there").phase, Phase::Exited);
        lab.sandbox.remove_container(&id).await.expect("remove");
    }
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn file_systems_are_separate_and_the_sandbox_is_shared() {
    let Some(lab) = Lab::new().await else { return };
    lab.sandbox
        .start(lab.container("a", "echo a > /tmp/x; echo shared > /dev/shm/y; nc -l -p 7000 -e echo reached"))
        .await
        .expect("start");
    lab.exec("a", "while ! [ -s /dev/shm/y ] || ! netstat -ltn | grep -q 7000; do usleep 20000; done").await;
    let script = "ls /tmp/x; cat /dev/shm/y; nc 127.0.0.1 7000 < /dev/null; hostname; cat /proc/1/comm; true";
    let (_, text) = lab.run(lab.container("b", script)).await;
    assert!(text.contains("/tmp/x: No such file") && text.contains("shared\nreached\nlab\nsh\n"), "{text}");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_are_shared_when_asked_for() {
    let spec =
        SandboxSpec { id: "pod".into(), hostname: "lab".into(), pid: PidNamespace::Shared, ..SandboxSpec::default() };
    let Some(lab) = Lab::with(spec).await else {
        return;
    };
    lab.sandbox.start(lab.container("a", "exec sleep 4242")).await.expect("start");
    let (_, text) = lab.run(lab.container("b", "echo pid $$; ps -o args; (sleep 0.1 &)")).await;
    assert!(text.contains("sleep 4242") && !text.contains("pid 1\n"), "{text}");
    let (_, text) = lab.exec("a", "ls -la /proc/1/root/ | wc -l; grep CapEff /proc/1/status").await;
    assert!(text.contains("CapEff:\t0000000000000000"), "{text}");
    lab.sandbox.kill("a").await.expect("kill");
    lab.wait("a").await;
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_agent_finds_what_runs_and_what_ended() {
    let Some(mut lab) = Lab::new().await else {
        return;
    };
    lab.sandbox.start(lab.container("ended", "exit 5")).await.expect("start");
    lab.wait("ended").await;
    lab.sandbox.start(lab.container("living", "sleep 1000")).await.expect("start");
    // The old agent is gone: its runtime forgets the sandbox and hears nothing more.
    let sandboxes = Host::open(lab.config.clone()).expect("open").adopt().await.expect("adopt");
    assert_eq!(sandboxes.len(), 1);
    lab.sandbox = sandboxes.into_iter().next().expect("one");
    assert!(lab.sandbox.is_alive());
    assert_eq!(lab.sandbox.container("ended").and_then(|state| state.exit).expect("exit").code, 5);
    lab.sandbox.kill("living").await.expect("kill");
    assert_eq!(lab.wait("living").await.exit.expect("exit").code, 137);
    lab.finish().await;
}

/// Whether a process ends in time.
fn ends(process: &std::os::fd::OwnedFd) -> bool {
    let mut poll = [rustix::event::PollFd::new(process, rustix::event::PollFlags::IN)];
    let patience = rustix::event::Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    rustix::event::poll(&mut poll, Some(&patience)).expect("poll") == 1
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_shim_takes_its_containers_along() {
    let Some(mut lab) = Lab::new().await else {
        return;
    };
    let state = lab.sandbox.start(lab.container("one", "sleep 1000")).await.expect("start");
    let pid = rustix::process::Pid::from_raw(state.pid.expect("a pid") as i32).expect("a pid");
    let watched = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).expect("pidfd");
    let shim = rustix::process::Pid::from_raw(lab.sandbox.pid().expect("a pid") as i32).expect("a pid");
    let mut changes = lab.sandbox.changes();
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).expect("kill");
    let sandbox = lab.sandbox.clone();
    tokio::time::timeout(PATIENCE, changes.wait_for(|_| !sandbox.is_alive())).await.expect("in time").expect("there");
    assert_eq!(lab.sandbox.container("one").expect("there").phase, Phase::Exited);
    assert!(matches!(lab.sandbox.start(lab.container("two", "")).await, Err(Error::Dead { .. })));
    assert!(ends(&watched), "the container outlived its shim");
    lab.sandbox = lab.host.adopt().await.expect("adopt").into_iter().next().expect("one");
    assert!(!lab.sandbox.is_alive());
    assert!(lab.sandbox.container("one").expect("there").exit.is_none());
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_read_while_it_runs_and_after() {
    let Some(lab) = Lab::new().await else { return };
    lab.run(lab.container(
        "one",
        "echo why > /etc/reason; ln -s /etc/reason /etc/link; ln -s /../../../../../etc/hostname /etc/out",
    ))
    .await;
    let read = |path: &'static str| lab.sandbox.read_file("one", std::path::Path::new(path), 100);
    assert_eq!(read("/etc/reason").await.expect("read"), b"why\n");
    assert_eq!(read("/etc/link").await.expect("read"), b"why\n");
    assert!(matches!(read("/etc/out").await, Err(Error::NotFound { .. })));
    assert!(matches!(read("/etc").await, Err(Error::Unreadable { .. })));
    lab.finish().await;
}

/// Plays the agent in [`a_killed_agent_leaves_what_runs_running`]: a process of its own that is killed when it said where things are.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_killed() {
    if std::env::var_os("PODLING_TEST_AGENT").is_none() {
        return;
    }
    let Some(lab) = Lab::new().await else { return };
    let script = "while ! [ -e /go ]; do usleep 10000; done; echo after; exit 6";
    lab.sandbox.start(lab.container("one", script)).await.expect("start");
    let config = &lab.config;
    println!("AGENT {} {} {}", lab.directory.path().display(), config.cgroup, lab.sandbox.pid().expect("a pid"));
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_leaves_what_runs_running() {
    use std::io::BufRead;
    if crate::lab::busybox().is_none() {
        return;
    }
    let mut agent = std::process::Command::new(std::env::current_exe().expect("the test binary"))
        .args(["--exact", "life::an_agent_that_is_killed", "--nocapture"])
        .env("PODLING_TEST_AGENT", "1")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("spawn");
    let lines = std::io::BufReader::new(agent.stdout.take().expect("stdout")).lines().map_while(Result::ok);
    // The harness prints the name of the test on the same line.
    let line =
        lines.into_iter().find_map(|line| line.split_once("AGENT ").map(|(_, rest)| rest.to_owned())).expect("a line");
    let words: Vec<&str> = line.split(' ').collect();
    agent.kill().expect("kill");
    agent.wait().expect("wait");
    let lab = Lab::adopt(words[0].into(), words[1]).await;
    assert_eq!(lab.sandbox.pid().expect("it lives").to_string(), words[2]);
    let state = lab.sandbox.container("one").expect("there");
    assert_eq!(state.phase, Phase::Running);
    lab.exec("one", "touch /go").await;
    assert_eq!(lab.wait("one").await.exit.expect("exit").code, 6);
    assert_eq!(lab.log("one"), "after\n");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_s_processes_and_memory_can_be_shared() {
    let spec = SandboxSpec { id: "pod".into(), pid: PidNamespace::Host, host_ipc: true, ..SandboxSpec::default() };
    let Some(lab) = Lab::with(spec).await else { return };
    let script = format!("ls -d /proc/{}; readlink /proc/self/ns/ipc; (sleep 1000 &); exit 3", std::process::id());
    let (exit, text) = lab.run(lab.container("one", &script)).await;
    let ipc = fs::read_link("/proc/self/ns/ipc").expect("link").display().to_string();
    assert_eq!((exit.code, text), (3, format!("/proc/{}\n{ipc}\n", std::process::id())));
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_whose_record_is_lost_is_ended() {
    let Some(lab) = Lab::new().await else {
        return;
    };
    let record = lab.config.root.join("sandboxes").join(lab.sandbox.id()).join("spec.json");
    fs::write(&record, "{\"id\":").expect("write");
    let shim = rustix::process::Pid::from_raw(lab.sandbox.pid().expect("a pid") as i32).expect("a pid");
    let watched = rustix::process::pidfd_open(shim, rustix::process::PidfdFlags::empty()).expect("pidfd");
    let sandboxes = Host::open(lab.config.clone()).expect("open").adopt().await.expect("adopt");
    assert!(sandboxes.is_empty());
    assert!(ends(&watched), "the shim lives on");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_that_hangs_does_not_keep_its_containers_alive() {
    let Some(lab) = Lab::new().await else {
        return;
    };
    lab.sandbox.start(lab.container("one", "sleep 1000")).await.expect("start");
    let shim = rustix::process::Pid::from_raw(lab.sandbox.pid().expect("a pid") as i32).expect("a pid");
    rustix::process::kill_process(shim, rustix::process::Signal::STOP).expect("stop");
    lab.sandbox.kill("one").await.expect("kill");
    assert_eq!(lab.wait("one").await.phase, Phase::Exited);
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_agent_does_not_wait_long_for_a_shim_that_hangs() {
    let Some(mut lab) = Lab::new().await else {
        return;
    };
    let shim = rustix::process::Pid::from_raw(lab.sandbox.pid().expect("a pid") as i32).expect("a pid");
    rustix::process::kill_process(shim, rustix::process::Signal::STOP).expect("stop");
    let host = Host::open(lab.config.clone()).expect("open");
    let adopted = tokio::time::timeout(PATIENCE, host.adopt()).await.expect("in time").expect("adopt");
    lab.sandbox = adopted.into_iter().next().expect("one");
    assert!(!lab.sandbox.is_alive());
    lab.finish().await;
}
