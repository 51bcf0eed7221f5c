//! Podling's own commands for images, and the script that completes what people type.

use std::process::Command;

use e2e::cluster::{Cluster, podling};
use e2e::image;
use serde_json::json;
use sha2::{Digest, Sha256};

/// An archive as `docker save` writes it, of one layer.
fn docker_archive(name: &str, layer: &[u8]) -> Vec<u8> {
    let digest = Sha256::digest(layer).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let config = json!({
        "architecture": match std::env::consts::ARCH { "aarch64" => "arm64", _ => "amd64" },
        "os": "linux",
        "config": {"Cmd": ["sh", "-c", "echo loaded; exec sleep 3600"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
    });
    let manifest = json!([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]);
    let mut tar = tar::Builder::new(Vec::new());
    let mut append = |path: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, path, bytes).expect("a tar in memory");
    };
    append("config.json", config.to_string().as_bytes());
    append("layer.tar", layer);
    append("manifest.json", manifest.to_string().as_bytes());
    tar.into_inner().expect("a tar in memory")
}

#[test]
fn images_are_loaded_listed_and_removed() {
    if !e2e::can_run() {
        return;
    }
    let mut cluster = Cluster::with_busybox();
    let listed = cluster.machine(&["image", "ls"]).ok();
    assert!(listed.starts_with("NAME") && listed.contains("busybox"), "{listed}");
    let archive = cluster.path("saved.tar");
    std::fs::write(&archive, docker_archive("example.com/saved:1", image::busybox())).expect("a file");
    let loaded = cluster.machine(&["image", "load", &archive.to_string_lossy()]).ok();
    assert_eq!(loaded, "Loaded image: example.com/saved:1\n");
    let again = cluster.machine_with(&["image", "load", "-"], &docker_archive("saved:2", image::busybox())).ok();
    assert_eq!(again, "Loaded image: docker.io/library/saved:2\n");
    cluster.run(
        "saved",
        json!({"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "example.com/saved:1"}]}),
    );
    cluster.ready_pod("saved");
    assert_eq!(cluster.any_shell().ok("kubectl logs saved"), "loaded\n");
    // The node tells of the second image with its next sign of life.
    cluster.any_shell().ok("kubectl wait nodes --all '--for=jsonpath={.status.images[1].sizeBytes}' --timeout=30s");
    let told = cluster.any_shell().ok("kubectl get nodes -o 'jsonpath={.items[0].status.images}'");
    assert!(told.contains("example.com/saved:1") && told.contains("busybox"), "{told}");
    cluster.machine(&["image", "rm", "saved:2"]).ok();
    let listed = cluster.machine(&["image", "ls"]).ok();
    assert!(listed.contains("example.com/saved") && !listed.contains("library/saved"), "{listed}");
    let missing = cluster.machine(&["image", "rm", "nothing:1"]).refused();
    assert!(missing.contains("nothing:1"), "{missing}");
    let broken = cluster.machine_with(&["image", "load", "-"], b"no archive").refused();
    assert!(broken.starts_with("error: "), "{broken}");
    cluster.purge().ok();
}

#[test]
fn shells_complete_commands() {
    for (shell, check) in [("bash", "complete -p podling"), ("zsh", ""), ("fish", "")] {
        let script = Command::new(podling()).args(["completion", shell]).output().expect("podling can be started");
        assert!(script.status.success(), "{shell}");
        let text = String::from_utf8(script.stdout).expect("it is text");
        assert!(text.contains("port-forward"), "{text}");
        if !check.is_empty() {
            let sourced = Command::new(shell).args(["-c", &format!("{text}\n{check}")]).output().expect("a shell");
            assert!(sourced.status.success(), "{}", String::from_utf8_lossy(&sourced.stderr));
        }
    }
}
