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
