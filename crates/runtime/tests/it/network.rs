//! What a sandbox's network is seen to be from here; attaching it is tested where links are made.

use std::time::Instant;

use runtime::{Network, SandboxSpec};
use tokio::io::AsyncReadExt;

use crate::lab::Lab;

#[tokio::test(flavor = "multi_thread")]
async fn ports_are_reached_from_inside() {
    let Some(lab) = Lab::new().await else { return };
    lab.sandbox.start(lab.container("one", "nc -l -p 8080 -e echo hello")).await.expect("start");
    lab.exec("one", "while ! netstat -ltn | grep -q 8080; do usleep 20000; done").await;
    let mut stream = lab.sandbox.connect(8080).await.expect("connect");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("read");
    assert_eq!(text, "hello\n");
    let error = lab.sandbox.connect(8081).await.expect_err("nobody listens");
    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    assert!(cause.contains("Connection refused"), "{error}: {cause}");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_s_network_can_be_shared() {
    let spec = SandboxSpec { id: "pod".into(), network: Network::Host, ..SandboxSpec::default() };
    let Some(lab) = Lab::with(spec).await else {
        return;
    };
    let (_, text) = lab.run(lab.container("one", "readlink /proc/self/ns/net; hostname")).await;
    let own = std::fs::read_link("/proc/self/ns/net").expect("link").display().to_string();
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("name");
    assert_eq!(text, format!("{own}\n{name}"));
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_sysctl_is_refused_and_leaves_nothing() {
    let Some(lab) = Lab::new().await else { return };
    let sysctls = [("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned())].into();
    let good = lab
        .host
        .create_sandbox(SandboxSpec { id: "good".into(), sysctls, ..SandboxSpec::default() })
        .await
        .expect("good");
    good.remove().await.expect("remove");
    let sysctls = [("net.no.such".to_owned(), "0".to_owned())].into();
    let error = lab
        .host
        .create_sandbox(SandboxSpec { id: "bad".into(), sysctls, ..SandboxSpec::default() })
        .await
        .expect_err("bad");
    assert!(error.to_string().contains("sysctl net.no.such"), "{error}");
    lab.finish().await;
}

/// Prints the median of a whole sandbox with one container, from the request until its first byte is in the log.
#[tokio::test(flavor = "multi_thread")]
async fn starting_is_fast() {
    let Some(lab) = Lab::new().await else { return };
    let (mut starts, mut ends) = (Vec::new(), Vec::new());
    for number in 0..15 {
        let id = format!("pod{number}");
        let begin = Instant::now();
        let sandbox = lab.host.create_sandbox(SandboxSpec { id, ..SandboxSpec::default() }).await.expect("create");
        let created = begin.elapsed();
        sandbox.start(lab.container("one", "exec sleep 1000")).await.expect("start");
        starts.push((begin.elapsed(), created));
        let begin = Instant::now();
        sandbox.remove().await.expect("remove");
        ends.push(begin.elapsed());
    }
    starts.sort();
    ends.sort();
    println!(
        "MEASURED: start {:?} (of which sandbox {:?}), best {:?}; removal {:?}",
        starts[7].0, starts[7].1, starts[0].0, ends[7]
    );
    lab.finish().await;
}

/// As an agent would give it: this crate knows nothing of what is in it.
fn attached(number: u8) -> SandboxSpec {
    let attachment = serde_json::json!({
        "link": "eth0", "host_link": format!("plr{number}"), "mtu": 1500,
        "addresses": [{"address": format!("10.78.0.{number}"), "gateway": "169.254.1.1", "host_address": null}],
    });
    let network = Network::Attached(attachment);
    SandboxSpec { id: format!("pod{number}"), hostname: format!("host{number}"), network, ..SandboxSpec::default() }
}

/// From nothing to the answer of its web server at its address.
async fn begin(lab: &Lab, number: u8) -> std::sync::Arc<runtime::Sandbox> {
    let sandbox = lab.host.create_sandbox(attached(number)).await.expect("create");
    let mut spec = lab.container("one", "");
    spec.argv = ["httpd", "-f", "-p", "8080", "-h", "/etc"].map(String::from).to_vec();
    spec.log_path = None;
    sandbox.start(spec).await.expect("start");
    let address = format!("10.78.0.{number}:8080");
    let mut stream = loop {
        match tokio::net::TcpStream::connect(&address).await {
            Ok(stream) => break stream,
            Err(_) => tokio::time::sleep(std::time::Duration::from_micros(200)).await,
        }
    };
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET /group HTTP/1.0\r\n\r\n").await.expect("write");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("read");
    assert!(text.contains("200 OK") && text.contains("extra:x:2000:app"), "{text}");
    sandbox
}

/// In a network namespace of its own, so that the machine's is not touched. Prints how long one takes, and how long many do.
#[tokio::test(flavor = "multi_thread")]
async fn attached_sandboxes_answer_at_their_address() {
    if crate::lab::busybox().is_none() || !inside_own_network("network::attached_sandboxes_answer_at_their_address") {
        return;
    }
    let Some(lab) = Lab::new().await else { return };
    let mut times = Vec::new();
    for number in 1..=15 {
        let start = Instant::now();
        let sandbox = begin(&lab, number).await;
        times.push(start.elapsed());
        sandbox.remove().await.expect("remove");
    }
    times.sort();
    println!("MEASURED: one to its HTTP 200 {:?}, best {:?}", times[7], times[0]);
    let start = Instant::now();
    let many = futures_util::future::join_all((100..150).map(|number| begin(&lab, number))).await;
    println!("MEASURED: 50 at once {:?}", start.elapsed());
    let shims: Vec<u64> = many.iter().filter_map(|sandbox| proportional_kilobytes(sandbox.pid()?)).collect();
    let average = shims.iter().sum::<u64>() / shims.len() as u64;
    println!("MEASURED: memory per shim {average} kB");
    assert!(average < 200, "{average} kB");
    let start = Instant::now();
    futures_util::future::join_all(many.iter().map(|sandbox| sandbox.remove()))
        .await
        .into_iter()
        .collect::<Result<Vec<()>, _>>()
        .expect("removed");
    println!("MEASURED: removal of 50 {:?}", start.elapsed());
    lab.finish().await;
}

/// Runs the test again inside a new namespace, unless this is there already.
fn inside_own_network(name: &str) -> bool {
    if std::env::var_os("PODLING_TEST_NETWORK").is_some() {
        return true;
    }
    let own = std::env::current_exe().expect("the test binary");
    let output = std::process::Command::new("unshare")
        .args(["--net", "--mount"])
        .arg(own)
        .args(["--exact", name, "--nocapture"])
        .env("PODLING_TEST_NETWORK", "1")
        .output()
        .expect("unshare runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    eprintln!("{text}");
    assert!(output.status.success(), "{text}");
    false
}

/// Memory of a process, with what it shares divided among those that share it.
fn proportional_kilobytes(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("Pss:"))?.trim().strip_suffix(" kB")?.parse().ok()
}
