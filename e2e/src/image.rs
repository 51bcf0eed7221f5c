//! What the containers of the tests run: the demonstration's server and a busybox file system, made on the spot.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::cluster;

/// The name of the demonstration's image.
pub const KUBIA: &str = "luksa/kubia";
/// The name of the busybox image.
pub const BUSYBOX: &str = "busybox";

/// The static busybox of this machine.
pub fn busybox_path() -> Option<&'static Path> {
    ["/bin/busybox", "/usr/bin/busybox"].into_iter().map(Path::new).find(|path| path.exists())
}

/// A root file system, as a tar, that holds podling as `/kubia`.
pub fn kubia() -> &'static [u8] {
    static TAR: OnceLock<Vec<u8>> = OnceLock::new();
    TAR.get_or_init(|| {
        let mut tar = tar::Builder::new(Vec::new());
        let stripped = stripped();
        append(
            &mut tar,
            "kubia",
            0o755,
            &std::fs::read(stripped.path().join("kubia")).expect("the program can be read"),
        );
        tar.into_inner().expect("a tar in memory")
    })
}

/// The program without its debugging information, which nobody needs in a container.
fn stripped() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let target = directory.path().join("kubia");
    let strip = Command::new("strip").arg("-o").arg(&target).arg(cluster::podling()).status();
    if !strip.is_ok_and(|status| status.success()) {
        std::fs::copy(cluster::podling(), &target).expect("the program can be copied");
    }
    directory
}

/// A root file system, as a tar, with busybox under all its names.
pub fn busybox() -> &'static [u8] {
    static TAR: OnceLock<Vec<u8>> = OnceLock::new();
    TAR.get_or_init(|| {
        let program = busybox_path().expect("can_run() was asked");
        let mut tar = tar::Builder::new(Vec::new());
        for directory in ["bin", "etc", "tmp", "root", "home"] {
            let mut header = header(tar::EntryType::Directory, if directory == "tmp" { 0o1777 } else { 0o755 }, 0);
            tar.append_data(&mut header, directory, std::io::empty()).expect("a tar in memory");
        }
        append(&mut tar, "bin/busybox", 0o755, &std::fs::read(program).expect("busybox can be read"));
        let list = Command::new(program).arg("--list").output().expect("busybox lists its names").stdout;
        for name in String::from_utf8_lossy(&list).lines().filter(|name| *name != "busybox") {
            let mut header = header(tar::EntryType::Symlink, 0o777, 0);
            tar.append_link(&mut header, Path::new("bin").join(name), "busybox").expect("a tar in memory");
        }
        append(&mut tar, "etc/passwd", 0o644, b"root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home:/bin/sh\n");
        append(&mut tar, "etc/group", 0o644, b"root:x:0:\napp:x:1000:\nextra:x:2000:app\n");
        append(&mut tar, "etc/not-a-program", 0o644, b"no program\n");
        tar.into_inner().expect("a tar in memory")
    })
}

fn append(tar: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32, bytes: &[u8]) {
    let mut header = header(tar::EntryType::Regular, mode, bytes.len() as u64);
    tar.append_data(&mut header, PathBuf::from(path), bytes).expect("a tar in memory");
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}
