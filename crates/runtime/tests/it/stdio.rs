//! Streams: exec, attach, terminals, logs under load.

use std::time::Instant;

use runtime::{ExecSpec, Phase, WindowSize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::lab::{Lab, PATIENCE};

#[tokio::test(flavor = "multi_thread")]
async fn exec_carries_streams_and_codes() {
    let Some(lab) = Lab::new().await else { return };
    lab.sandbox.start(lab.container("one", "exec sleep 1000")).await.expect("start");
    let (exit, text) =
        lab.exec("one", "echo out; echo err >&2; tr '\\0' ' ' < /proc/1/cmdline | grep -o sleep; exit 4").await;
    assert_eq!((exit.code, text.as_str()), (4, "out\nsleep\nerr\n"));
    let argv = vec!["cat".to_owned()];
    let mut exec = lab
        .sandbox
        .exec(ExecSpec { container: "one".into(), argv, stdin: true, ..ExecSpec::default() })
        .await
        .expect("exec");
    let mut stdin = exec.stdin.take().expect("stdin");
    let mut stdout = exec.stdout.take().expect("stdout");
    let data = "0123456789".repeat(100_000);
    let write = async {
        stdin.write_all(data.as_bytes()).await.expect("write");
        drop(stdin);
    };
    let mut back = String::new();
    let (_, read) = tokio::join!(write, stdout.read_to_string(&mut back));
    assert_eq!((read.expect("read"), back == data), (data.len(), true));
    assert_eq!(exec.wait().await.expect("exit").code, 0);
    let missing = ExecSpec { container: "one".into(), argv: vec!["nosuch".into()], ..ExecSpec::default() };
    let error = lab.sandbox.exec(missing).await.expect_err("it is not there");
    assert_eq!(error.to_string(), "exec: \"nosuch\": executable file not found in $PATH");
    let long = format!("echo {} | wc -c", "x".repeat(100_000));
    assert_eq!(lab.exec("one", &long).await.1, "100001\n");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_can_have_a_terminal() {
    let Some(lab) = Lab::new().await else { return };
    lab.sandbox.start(lab.container("one", "exec sleep 1000")).await.expect("start");
    let spec = ExecSpec {
        container: "one".into(),
        argv: ["sh", "-c", "tty; stty size; read x; stty size; echo got $x"].map(String::from).to_vec(),
        tty: Some(WindowSize { columns: 100, rows: 40 }),
        stdin: true,
        ..ExecSpec::default()
    };
    let mut exec = lab.sandbox.exec(spec).await.expect("exec");
    let (mut stdin, mut stdout) = (exec.stdin.take().expect("stdin"), exec.stdout.take().expect("stdout"));
    let mut text = String::new();
    while !text.contains("40 100") {
        let mut buffer = [0; 1000];
        let count = stdout.read(&mut buffer).await.expect("read");
        assert!(count > 0, "{text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    exec.resize(WindowSize { columns: 90, rows: 30 }).expect("resize");
    stdin.write_all(b"word\n").await.expect("write");
    stdout.read_to_string(&mut text).await.expect("read");
    assert!(text.contains("/dev/pts/0") && text.contains("30 90") && text.contains("got word"), "{text}");
    assert_eq!(exec.wait().await.expect("exit").code, 0);
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_s_stdin_ends_with_its_first_client() {
    let Some(lab) = Lab::new().await else { return };
    let mut spec = lab.container("one", "cat; echo over");
    (spec.stdin, spec.stdin_once) = (true, true);
    lab.sandbox.start(spec).await.expect("start");
    let mut attached = lab.sandbox.attach("one", true).await.expect("attach");
    attached.stdin.take().expect("stdin").write_all(b"typed\n").await.expect("write");
    let mut text = String::new();
    attached.stdout.read_to_string(&mut text).await.expect("read");
    assert_eq!(text, "typed\nover\n");
    lab.wait("one").await;
    assert_eq!(lab.log("one"), "typed\nover\n");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_can_have_a_terminal() {
    let Some(lab) = Lab::new().await else { return };
    let mut spec = lab.container("one", "tty; echo to console > /dev/console; read x; stty size; echo got $x");
    (spec.stdin, spec.tty) = (true, true);
    lab.sandbox.start(spec).await.expect("start");
    let mut attached = lab.sandbox.attach("one", true).await.expect("attach");
    assert!(attached.tty && attached.stderr.is_none());
    lab.sandbox.resize("one", WindowSize { columns: 77, rows: 33 }).await.expect("resize");
    attached.stdin.take().expect("stdin").write_all(b"word\n").await.expect("write");
    let mut text = String::new();
    attached.stdout.read_to_string(&mut text).await.expect("read");
    assert!(text.contains("33 77") && text.contains("got word"), "{text}");
    lab.wait("one").await;
    assert!(lab.log("one").contains("/dev/pts/0") && lab.log("one").contains("to console"), "{}", lab.log("one"));
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_client_gets_everything() {
    let Some(lab) = Lab::new().await else { return };
    let mut spec = lab.container("one", "read x; seq 1 200000");
    spec.stdin = true;
    lab.sandbox.start(spec).await.expect("start");
    let mut attached = lab.sandbox.attach("one", true).await.expect("attach");
    attached.stdin.take().expect("stdin").write_all(b"go\n").await.expect("write");
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let mut text = String::new();
    attached.stdout.read_to_string(&mut text).await.expect("read");
    assert!(text.starts_with("1\n2\n") && text.ends_with("199999\n200000\n"), "{} bytes", text.len());
    lab.finish().await;
}

/// Prints the rate; what is measured is the release build of the shim, whatever the tests are.
#[tokio::test(flavor = "multi_thread")]
async fn many_lines_are_logged_fast() {
    let Some(lab) = Lab::new().await else { return };
    let lines = format!("{}\n", "x".repeat(99)).repeat(1_000_000);
    std::fs::write(lab.layer().join("lines"), &lines).expect("write");
    let spec = lab.container("one", "cat /lines /lines /lines /lines");
    let begin = Instant::now();
    lab.sandbox.start(spec).await.expect("start");
    let state = tokio::time::timeout(PATIENCE, lab.wait("one")).await.expect("in time");
    let elapsed = begin.elapsed();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", lab.sandbox.pid().expect("a pid"))).expect("stat");
    let ticks: Vec<f64> = stat.split(' ').skip(13).take(2).filter_map(|ticks| ticks.parse().ok()).collect();
    let (user, system) = (400.0 / (ticks[0] / 100.0), 400.0 / (ticks[1] / 100.0));
    println!(
        "MEASURED: log {:.0} MB/s, of CPU time: user {user:.0}, system {system:.0} MB/s",
        400.0 / elapsed.as_secs_f64()
    );
    assert_eq!((state.phase, state.exit.expect("exit").code), (Phase::Exited, 0));
    let older = std::fs::metadata(format!("{}.4", lab.log_path("one").display())).expect("rotated");
    assert!(older.len() >= 10 << 20);
    lab.finish().await;
}
