//! What a container may not: more than its share, and what only the host may.

use std::fs;

use runtime::{Mount, Resources, User};

use crate::lab::Lab;

fn field(text: &str, name: &str) -> String {
    text.lines().find_map(|line| line.strip_prefix(name)).map(|rest| rest.trim().to_owned()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_has_an_end() {
    let Some(lab) = Lab::new().await else { return };
    let mut spec = lab.container("one", "dd if=/dev/zero of=/dev/null bs=200M count=1; echo survived; exit 1");
    spec.argv[2] = "exec dd if=/dev/zero of=/dev/null bs=200M count=1".into();
    spec.resources = Resources { memory_bytes: Some(32 << 20), pids: Some(50), ..Resources::default() };
    let (exit, _) = lab.run(spec).await;
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (137, 9, true));
    let (exit, _) = lab.run(lab.container("two", "kill -9 $$; exit 0")).await;
    assert!(!exit.oom_killed);
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_in_the_container_s_own_groups() {
    let Some(lab) = Lab::new().await else { return };
    let mut spec = lab.container("one", "sleep 1000");
    spec.resources = Resources {
        cpu_shares: Some(256),
        cpu_quota_us: Some(50_000),
        cpu_period_us: Some(100_000),
        memory_bytes: Some(64 << 20),
        pids: Some(64),
    };
    lab.sandbox.start(spec).await.expect("start");
    let (_, text) = lab
        .exec(
            "one",
            "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes memory.max pids/pids.max pids.max 2>/dev/null",
        )
        .await;
    assert!(text.contains("67108864") && text.contains("64"), "{text}");
    let (_, text) = lab.exec("one", "mkdir /sys/fs/cgroup/x /sys/fs/cgroup/memory/x 2>&1").await;
    assert!(text.contains("Read-only file system"), "{text}");
    let stats = lab.sandbox.stats("one").await.expect("stats");
    assert!(stats.memory_bytes > 0 && stats.pids >= 1 && stats.cpu.as_nanos() > 0, "{stats:?}");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn privileges_are_what_engines_give() {
    let Some(lab) = Lab::new().await else { return };
    let mut spec = lab.container("root", "cat /proc/self/status");
    spec.no_new_privs = true;
    let (_, status) = lab.run(spec).await;
    assert_eq!(field(&status, "CapEff:"), "00000000a80425fb");
    assert_eq!(field(&status, "CapBnd:"), "00000000a80425fb");
    assert_eq!(field(&status, "CapInh:"), "0000000000000000");
    assert_eq!((field(&status, "NoNewPrivs:"), field(&status, "Seccomp:")), ("1".into(), "2".into()));
    let mut spec = lab.container("user", "cat /proc/self/status; id; echo fine > /dev/stdout");
    spec.user = User { uid: 1000, gid: 1000, groups: vec![2000] };
    let (_, status) = lab.run(spec).await;
    assert_eq!(
        (field(&status, "CapEff:"), field(&status, "CapPrm:")),
        ("0000000000000000".into(), "0000000000000000".into())
    );
    assert_eq!(field(&status, "CapBnd:"), "00000000a80425fb");
    assert!(status.contains("uid=1000(app) gid=1000(app) groups=2000(extra)") && status.contains("fine"), "{status}");
    let mut spec =
        lab.container("privileged", "cat /proc/self/status; ls /dev | wc -l; mount -t tmpfs none /tmp && echo mounted");
    (spec.privileged, spec.seccomp) = (true, runtime::Seccomp::Unconfined);
    let (_, status) = lab.run(spec).await;
    assert_eq!((field(&status, "Seccomp:"), status.contains("mounted")), ("0".into(), true), "{status}");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_is_out_of_reach() {
    let Some(lab) = Lab::new().await else { return };
    let script = "ls /proc/self/fd 2>/dev/null | wc -l; cat /proc/keys | wc -c; echo 1 > /proc/sys/kernel/panic; echo x > /proc/sysrq-trigger; \
                  ls /sys/firmware | wc -l; touch /sys/x; mount -t tmpfs none /tmp; unshare -n true; umask; \
                  mknod /tmp/disk b 254 0 && dd if=/tmp/disk of=/dev/null count=1; echo > /dev/null && echo null works; cat /proc/1/mountinfo";
    let (_, text) = lab.run(lab.container("one", script)).await;
    let mut lines = text.lines();
    // 0, 1, 2 and the directory itself.
    assert_eq!(lines.next().map(str::trim), Some("4"), "descriptors leaked: {text}");
    assert_eq!(lines.next().map(str::trim), Some("0"), "{text}");
    for expected in [
        "can't create /proc/sys/kernel/panic: Read-only",
        "touch: /sys/x: Read-only",
        "mount: permission denied",
        "unshare: unshare(0x40000000): Operation not permitted",
        "0022",
        "can't open '/tmp/disk': Operation not permitted",
        "null works",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    assert!(!text.contains(lab.directory.path().join("state").to_str().expect("path")), "{text}");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_can_be_read_only_beside_writable_mounts() {
    let Some(lab) = Lab::new().await else { return };
    let (source, sealed) = (lab.directory.path().join("volume"), lab.directory.path().join("sealed"));
    fs::create_dir_all(source.join("deep")).expect("mkdir");
    fs::create_dir(&sealed).expect("mkdir");
    fs::write(lab.directory.path().join("hosts"), "127.0.0.1 localhost\n").expect("write");
    let bind = |source: &std::path::Path, target: &str| Mount {
        source: Some(source.to_owned()),
        target: target.into(),
        ..Mount::default()
    };
    let script = "touch /x; touch /data/y; touch /data/part/z; touch /sealed/w; cat /etc/hosts; touch /scratch/v && echo scratched";
    let mut spec = lab.container("one", script);
    spec.readonly_rootfs = true;
    spec.mounts = vec![
        Mount { subpath: Some("made/here".into()), ..bind(&source, "/data/part") },
        bind(&source, "/data"),
        Mount { readonly: true, ..bind(&sealed, "/sealed") },
        bind(&lab.directory.path().join("hosts"), "/etc/hosts"),
        Mount { target: "/scratch".into(), ..Mount::default() },
    ];
    let (_, text) = lab.run(spec).await;
    assert!(
        text.contains("touch: /x: Read-only file system") && text.contains("touch: /sealed/w: Read-only file system"),
        "{text}"
    );
    assert!(text.contains("127.0.0.1 localhost") && text.contains("scratched"), "{text}");
    assert!(source.join("y").exists() && source.join("made/here/z").exists());
    lab.finish().await;
}

/// On a machine with version 2 only the shim is born in its group; here the shim is told so by hand.
#[tokio::test(flavor = "multi_thread")]
async fn a_shim_can_be_born_in_its_group() {
    let root = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(std::path::Path::new);
    let Some(root) = root.into_iter().find(|root| root.join("cgroup.procs").exists()) else {
        eprintln!("SKIPPED: needs a version 2 tree");
        return;
    };
    if crate::lab::busybox().is_none() {
        return;
    }
    let directory = tempfile::tempdir().expect("tempdir");
    let program = directory.path().join("podling-shim");
    fs::write(&program, crate::lab::shim()).expect("write");
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    let group = root.join(format!("podling-test-{}-born", std::process::id()));
    fs::create_dir(&group).expect("mkdir");
    let (ours, theirs) = seqpacket();
    let state = directory.path().to_owned();
    let network = Some(shim::spec::Network::default());
    let spec = shim::spec::Sandbox {
        id: "pod".into(),
        state,
        network,
        birth_cgroup: Some(group.clone()),
        ..Default::default()
    };
    shim::packet::send(&ours, &spec, &[]).expect("send");
    let mut child = std::process::Command::new(&program).stdin(theirs).spawn().expect("spawn");
    assert!(child.wait().expect("wait").success(), "the first process steps aside");
    let ask = |call| shim::packet::send(&ours, &shim::protocol::Request { seq: 1, call }, &[]).expect("send");
    ask(shim::protocol::Call::Hello);
    let (message, _) = shim::packet::receive::<shim::protocol::Message>(&ours).expect("receive").expect("a message");
    let shim::protocol::Message::Reply { result: Ok(shim::protocol::Reply::Hello { pid, .. }), .. } = message else {
        panic!("{message:?}");
    };
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("groups");
    ask(shim::protocol::Call::Shutdown);
    while let Ok(Some(_)) = shim::packet::receive::<shim::protocol::Message>(&ours) {}
    let name = group.file_name().expect("a name").to_string_lossy().into_owned();
    assert!(groups.lines().any(|line| line == format!("0::/{name}")), "{groups}");
    let deadline = std::time::Instant::now() + crate::lab::PATIENCE;
    while fs::remove_dir(&group).is_err() {
        assert!(std::time::Instant::now() < deadline, "the group is still populated");
        tokio::task::yield_now().await;
    }
}

fn seqpacket() -> (std::os::fd::OwnedFd, std::os::fd::OwnedFd) {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("socketpair")
}
