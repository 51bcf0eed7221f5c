//! Images in and out of the store: archives, layouts, root file systems; forged and foreign ones are refused.

#![expect(clippy::unwrap_used, reason = "a test may fail by a panic")]

use std::io::Write;
use std::path::Path;

use runtime::image::manifest::digest_of;
use runtime::image::{Error, Overrides, Reference, Registries, Store, architecture};
use serde_json::{Value, json};

fn layer(path: &str, content: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    append(&mut builder, path, content.as_bytes());
    builder.into_inner().unwrap()
}

fn append(builder: &mut tar::Builder<Vec<u8>>, path: &str, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_cksum();
    builder.append_data(&mut header, path, content).unwrap();
}

fn config(diff_id: &str, architecture: &str) -> Value {
    json!({
        "architecture": architecture,
        "os": "linux",
        "config": {"Entrypoint": ["/a"], "Env": ["X=1"], "ExposedPorts": {"80/tcp": {}}},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    })
}

/// `docker save`'s format.
fn docker_archive(content: &[u8], config: &Value) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    append(&mut builder, "l/layer.tar", content);
    append(&mut builder, "c.json", config.to_string().as_bytes());
    let manifest = json!([{"Config": "c.json", "RepoTags": ["luksa/kubia"], "Layers": ["l/layer.tar"]}]);
    append(&mut builder, "manifest.json", manifest.to_string().as_bytes());
    builder.into_inner().unwrap()
}

/// An OCI layout in a directory, its layer packed.
fn layout(directory: &Path, content: &[u8], config: &Value) {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(content).unwrap();
    let put = |bytes: &[u8]| {
        let digest = digest_of(bytes);
        let path = directory.join("blobs").join(digest.replace(':', "/"));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
        json!({"digest": digest, "size": bytes.len()})
    };
    let (layer, config) = (put(&packed.finish().unwrap()), put(config.to_string().as_bytes()));
    let mut manifest = put(json!({"config": config, "layers": [layer]}).to_string().as_bytes());
    manifest["annotations"] = json!({"io.containerd.image.name": "registry.test/x:1"});
    std::fs::write(directory.join("index.json"), json!({"manifests": [manifest]}).to_string()).unwrap();
}

struct Lab {
    _dir: tempfile::TempDir,
    store: Store,
}

fn lab() -> Option<Lab> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: unpacking layers needs root");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Registries::default()).unwrap();
    Some(Lab { _dir: dir, store })
}

fn name(text: &str) -> Reference {
    Reference::parse(text).unwrap()
}

#[test]
fn a_docker_archive_is_loaded_and_removed() {
    let Some(Lab { _dir, store }) = lab() else { return };
    let content = layer("hello", "world");
    let archive = docker_archive(&content, &config(&digest_of(&content), architecture()));
    assert_eq!(store.load_archive(&archive[..]).unwrap(), ["docker.io/luksa/kubia:latest"]);
    let image = store.find(&name("luksa/kubia")).unwrap();
    assert!(image.is_loaded_by_hand);
    assert_eq!(image.config.entrypoint, ["/a"]);
    assert_eq!(image.config.exposed_ports, ["80/tcp"]);
    assert_eq!(std::fs::read_to_string(image.layers[0].join("hello")).unwrap(), "world");
    assert_eq!(store.list().unwrap().len(), 1);
    store.remove("luksa/kubia").unwrap();
    assert!(store.find(&name("luksa/kubia")).is_none());
    assert!(!image.layers[0].exists());
    assert!(matches!(store.remove("luksa/kubia"), Err(Error::NotFound(_))));
}

#[test]
fn an_oci_layout_is_loaded_as_directory_and_as_archive() {
    let Some(Lab { _dir, store }) = lab() else { return };
    let (content, dir) = (layer("hello", "layout"), tempfile::tempdir().unwrap());
    layout(dir.path(), &content, &config(&digest_of(&content), architecture()));
    assert_eq!(store.load_directory(dir.path()).unwrap(), ["registry.test/x:1"]);
    let image = store.find(&name("registry.test/x:1")).unwrap();
    assert!(image.id_for_status().starts_with("registry.test/x@sha256:"));
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_dir_all(".", dir.path()).unwrap();
    assert_eq!(store.load_archive(&archive.into_inner().unwrap()[..]).unwrap(), ["registry.test/x:1"]);
}

#[test]
fn forged_layers_and_foreign_images_are_refused() {
    let Some(Lab { _dir, store }) = lab() else { return };
    let (content, other) = (layer("hello", "world"), layer("hello", "forged"));
    let forged = docker_archive(&other, &config(&digest_of(&content), architecture()));
    assert!(matches!(store.load_archive(&forged[..]), Err(Error::Corrupt { .. })));
    let foreign = docker_archive(&content, &config(&digest_of(&content), "s390x"));
    let error = store.load_archive(&foreign[..]).unwrap_err();
    assert!(error.to_string().starts_with("the image is for linux/s390x"), "{error}");
    let truncated = &docker_archive(&content, &config(&digest_of(&content), architecture()))[..700];
    assert!(store.load_archive(truncated).is_err());
    assert!(matches!(store.load_archive(&content[..]), Err(Error::Malformed { .. })));
    assert!(store.list().unwrap().is_empty());
    let dir = tempfile::tempdir().unwrap();
    layout(dir.path(), &content, &config(&digest_of(&content), architecture()));
    let blobs = dir.path().join("blobs/sha256");
    let largest =
        std::fs::read_dir(blobs).unwrap().map(|e| e.unwrap().path()).max_by_key(|p| p.metadata().unwrap().len());
    std::fs::write(largest.unwrap(), "forged").unwrap();
    assert!(store.load_directory(dir.path()).is_err());
}

#[test]
fn a_root_file_system_is_imported() {
    let Some(Lab { _dir, store }) = lab() else { return };
    let overrides = Overrides {
        entrypoint: vec!["/kubia".into()],
        env: vec!["A=b".into()],
        expose: vec!["8080".into(), "53/udp".into()],
        ..Overrides::default()
    };
    let id = store.import(&name("luksa/kubia"), &layer("kubia", "#!")[..], &overrides).unwrap();
    let image = store.find(&name("luksa/kubia")).unwrap();
    assert_eq!((&image.id, image.config.env.as_slice()), (&id, &["A=b".to_owned()][..]));
    assert_eq!(store.find_by_id(&id[7..19]).unwrap().id, id);
    let wrong = Overrides { expose: vec!["http".into()], ..Overrides::default() };
    assert!(matches!(store.import(&name("x"), &b""[..], &wrong), Err(Error::Malformed { .. })));
}

#[test]
fn a_second_process_sees_what_the_first_loaded() {
    let Some(Lab { _dir, store }) = lab() else { return };
    let second = Store::open(_dir.path(), Registries::default()).unwrap();
    assert!(second.find(&name("a")).is_none());
    store.import(&name("a"), &layer("f", "1")[..], &Overrides::default()).unwrap();
    assert!(second.find(&name("a")).is_some());
}
