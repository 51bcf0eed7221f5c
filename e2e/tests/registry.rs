//! Pulls from a real registry on loopback, with TLS and a password, and without.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use client::resource;
use e2e::cluster::Cluster;
use e2e::image;
use serde_json::{Value, json};
use wire::Identity;
use wire::authority::Authority;

const PROGRAM: &str = "/usr/bin/docker-registry";
const USER: &str = "reader";
/// The first test vector of bcrypt's public test suite: a password and its hash.
const PASSWORD: &str = "U*U";
const HASH: &str = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";

/// A registry with the busybox image, which ends when it is dropped.
struct Registry {
    directory: tempfile::TempDir,
    process: Child,
    address: String,
    is_plain: bool,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.process.kill().expect("the registry can be ended");
        self.process.wait().expect("the registry can be waited for");
    }
}

fn can_run() -> bool {
    let has_registry = Path::new(PROGRAM).exists() && Path::new("/usr/bin/curl").exists();
    if !has_registry {
        eprintln!("SKIPPED: needs docker-registry and curl");
    }
    has_registry && e2e::can_run()
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect("the program is here");
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Registry {
    fn start(is_plain: bool) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port();
        let address = format!("127.0.0.1:{port}");
        let config = directory.path().join("config.yml");
        std::fs::write(&config, configuration(directory.path(), &address, is_plain)).expect("a configuration");
        let process = Command::new(PROGRAM)
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the registry starts");
        let registry = Self { directory, process, address, is_plain };
        registry.push();
        registry
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn curl(&self, arguments: &[&str]) -> String {
        let (authority, user) = (self.path("ca.pem").display().to_string(), format!("{USER}:{PASSWORD}"));
        let mut all = vec!["-sSf", "--retry", "20", "--retry-connrefused", "--retry-delay", "1", "-u", &user];
        if !self.is_plain {
            all.extend(["--cacert", &authority]);
        }
        all.extend(arguments);
        run("curl", &all)
    }

    fn url(&self, path: &str) -> String {
        format!("{}://{}/v2/library/busybox/{path}", if self.is_plain { "http" } else { "https" }, self.address)
    }

    /// Uploads content; its digest and length.
    fn upload(&self, name: &str, content: &[u8]) -> Value {
        let file = self.path(name);
        std::fs::write(&file, content).expect("a file");
        let sum = run("sha256sum", &[&file.display().to_string()]);
        let digest = format!("sha256:{}", sum.split(' ').next().expect("a sum"));
        let head = self.curl(&["-X", "POST", "-D", "-", "-o", "/dev/null", &self.url("blobs/uploads/")]);
        let location =
            head.lines().find_map(|line| line.to_ascii_lowercase().starts_with("location:").then(|| line[9..].trim()));
        let target = format!("{}&digest={digest}", location.expect("a place for the upload"));
        let data = format!("@{}", file.display());
        self.curl(&["-X", "PUT", "-H", "Content-Type: application/octet-stream", "--data-binary", &data, &target]);
        json!({"digest": digest, "size": content.len()})
    }

    fn push(&self) {
        let mut layer = self.upload("layer", image::busybox());
        let config = json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "config": {"Cmd": ["sh"]},
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
        });
        let mut config = self.upload("config", config.to_string().as_bytes());
        config["mediaType"] = "application/vnd.oci.image.config.v1+json".into();
        layer["mediaType"] = "application/vnd.oci.image.layer.v1.tar".into();
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": [layer]}).to_string();
        let header = format!("Content-Type: {kind}");
        self.curl(&["-X", "PUT", "-H", &header, "--data-binary", &manifest, &self.url("manifests/1")]);
    }

    fn image(&self) -> String {
        format!("{}/library/busybox:1", self.address)
    }
}

fn configuration(directory: &Path, address: &str, is_plain: bool) -> String {
    let path = |name: &str| directory.join(name).display().to_string();
    let storage = format!("version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n", path("storage"));
    if is_plain {
        return format!("{storage}http: {{addr: {address}}}\n");
    }
    let (authority, _) = Authority::create("registry-authority").expect("an authority");
    let server = authority.server(&Identity::new("registry", &[]), &["127.0.0.1".into()]).expect("a certificate");
    for (name, content) in [
        ("ca.pem", authority.certificate_pem()),
        ("tls.crt", &server.certificate_pem),
        ("tls.key", &server.key_pem),
        ("htpasswd", &format!("{USER}:{HASH}\n")),
    ] {
        std::fs::write(directory.join(name), content).expect("a file");
    }
    format!(
        "{storage}http: {{addr: {address}, tls: {{certificate: {}, key: {}}}}}\nauth: {{htpasswd: {{realm: here, path: {}}}}}\n",
        path("tls.crt"),
        path("tls.key"),
        path("htpasswd"),
    )
}

fn pod(image: &str, secret: Option<&str>) -> Value {
    let mut spec = json!({
        "restartPolicy": "Never",
        "containers": [{"name": "c", "image": image, "command": ["echo", "pulled"]}],
    });
    if let Some(secret) = secret {
        spec["imagePullSecrets"] = json!([{"name": secret}]);
    }
    spec
}

fn waits_for(pod: &Value, reasons: &[&str]) -> bool {
    let reason = pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"].as_str();
    reason.is_some_and(|reason| reasons.contains(&reason))
}

#[test]
fn a_registry_with_tls_and_a_password_wants_the_pods_secret() {
    if !can_run() {
        return;
    }
    let registry = Registry::start(false);
    let authority = registry.path("ca.pem").display().to_string();
    let cluster = Cluster::start_with(&["--registry-ca", &authority]);
    cluster.run("stranger", pod(&registry.image(), None));
    let refused = cluster.pod("stranger", "its refusal", |pod| waits_for(pod, &["ErrImagePull", "ImagePullBackOff"]));
    let message = refused["status"]["containerStatuses"][0]["state"]["waiting"]["message"].as_str().unwrap_or_default();
    assert!(message.contains("needs credentials"), "{message}");
    let auths = json!({"auths": {registry.address.clone(): {"username": USER, "password": PASSWORD}}});
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "word"},
        "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": auths.to_string()},
    });
    cluster.create(&resource::SECRETS, secret);
    cluster.run("friend", pod(&registry.image(), Some("word")));
    let ended = cluster.ended_pod("friend");
    assert_eq!(ended["status"]["phase"], "Succeeded", "{}", ended["status"]);
    let id = ended["status"]["containerStatuses"][0]["imageID"].as_str().unwrap_or_default();
    assert!(id.starts_with(&format!("{}/library/busybox@sha256:", registry.address)), "{id}");
    cluster.run("typo", pod(&format!("{}/library/busybox:missing", registry.address), Some("word")));
    cluster.pod("typo", "its refusal", |pod| waits_for(pod, &["ErrImagePull", "ImagePullBackOff"]));
}

#[test]
fn a_registry_without_tls_must_be_named() {
    if !can_run() {
        return;
    }
    let registry = Registry::start(true);
    let careful = Cluster::start();
    careful.run("refused", pod(&registry.image(), None));
    careful.pod("refused", "its refusal", |pod| waits_for(pod, &["ErrImagePull", "ImagePullBackOff"]));
    let told = Cluster::start_with(&["--plain-registry", &registry.address]);
    told.run("pulled", pod(&registry.image(), None));
    assert_eq!(told.ended_pod("pulled")["status"]["phase"], "Succeeded");
}
