//! Mounts as descriptors: made detached, then moved onto a target that was resolved inside the root and nowhere else.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat, openat2, readlinkat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_string,
    fsmount, fsopen, move_mount, open_tree,
};

use crate::sys;

/// The mount cannot be written to.
pub(crate) const READ_ONLY: u64 = 1;
/// No set-uid, no devices, no programs.
pub(crate) const INERT: u64 = 2 | 4 | 8;

const EMPTY_PATH: i32 = 0x1000;
const RECURSIVE: i32 = 0x8000;

/// What a target must be, if it has to be made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    File,
}

/// A new file system, not attached to anything yet.
pub(crate) fn new(fs: &str, options: &[(&str, &str)], flags: u64) -> io::Result<OwnedFd> {
    let context = fsopen(fs, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        fsconfig_set_string(context.as_fd(), *key, *value)?;
    }
    finish(&context, flags)
}

/// Creates what a context describes.
pub(crate) fn finish(context: &OwnedFd, flags: u64) -> io::Result<OwnedFd> {
    fsconfig_create(context.as_fd())?;
    let flags = MountAttrFlags::from_bits_retain(flags as u32);
    Ok(fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, flags)?)
}

/// A detached copy of what is at a path, with all that is mounted below.
pub(crate) fn copy(path: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    Ok(open_tree(CWD, path, flags)?)
}

/// The same of what a descriptor stands for.
pub(crate) fn copy_of(fd: impl AsFd) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(open_tree(fd.as_fd(), c"", flags)?)
}

/// Sets flags of a mount and all below it.
pub(crate) fn restrict(tree: impl AsFd, flags: u64) -> io::Result<()> {
    sys::mount_setattr(tree, EMPTY_PATH | RECURSIVE, flags, 0, 0)
}

/// Sets flags of one mount only.
pub(crate) fn restrict_one(tree: impl AsFd, flags: u64) -> io::Result<()> {
    sys::mount_setattr(tree, EMPTY_PATH, flags, 0, 0)
}

/// Sets how mounts made later spread, of a mount and all below it.
pub(crate) fn propagate(tree: impl AsFd, how: u64) -> io::Result<()> {
    sys::mount_setattr(tree, EMPTY_PATH | RECURSIVE, 0, 0, how)
}

/// Attaches a detached mount to what a descriptor stands for.
pub(crate) fn attach(tree: impl AsFd, target: impl AsFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    let empty: &CStr = c"";
    Ok(move_mount(tree.as_fd(), empty, target.as_fd(), empty, flags)?)
}

/// Whether a descriptor stands for a directory.
pub(crate) fn kind_of(fd: impl AsFd) -> io::Result<Kind> {
    let mode = fstat(fd)?.st_mode;
    Ok(if FileType::from_raw_mode(mode) == FileType::Directory { Kind::Directory } else { Kind::File })
}

/// A directory as starting point.
pub(crate) fn open_root(path: &Path) -> io::Result<OwnedFd> {
    Ok(openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

const MOST_LINKS: u32 = 40;

/// Opens a path below a root, whatever links are there never leaving it, and makes what is missing.
pub(crate) fn resolve(root: impl AsFd, path: &Path, kind: Kind) -> io::Result<OwnedFd> {
    resolve_within(root.as_fd(), path, kind, MOST_LINKS)
}

fn resolve_within(root: std::os::fd::BorrowedFd<'_>, path: &Path, kind: Kind, links: u32) -> io::Result<OwnedFd> {
    match open_in(root, path) {
        Err(Errno::NOENT) => {}
        other => return Ok(other?),
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::NOENT.into());
    };
    let parent_fd = resolve_within(root, parent, Kind::Directory, links)?;
    let made = match kind {
        Kind::Directory => mkdirat(&parent_fd, name, Mode::from_raw_mode(0o755)),
        Kind::File => create_file(&parent_fd, name),
    };
    match made {
        Ok(()) => Ok(open_in(root, path)?),
        // A link that leads nowhere: what it points to is what must be made.
        Err(Errno::EXIST | Errno::LOOP) if links > 0 => {
            let link = readlinkat(&parent_fd, name, Vec::new())?;
            let link = Path::new(std::ffi::OsStr::new(std::str::from_utf8(link.to_bytes()).map_err(|_| Errno::INVAL)?))
                .to_owned();
            resolve_within(root, &parent.join(link), kind, links - 1)
        }
        Err(error) => Err(error.into()),
    }
}

/// Opens a part of a volume, and makes the directories that are missing. A link that leads out of the volume is an error,
/// whatever its processes do meanwhile.
pub(crate) fn part(volume: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    let mut here = volume.as_fd().try_clone_to_owned()?;
    match open_beneath(&here, path) {
        Err(Errno::NOENT) => {}
        other => return Ok(other?),
    }
    let mut way = PathBuf::new();
    for name in path.components() {
        way.push(name);
        here = match open_beneath(&volume, &way) {
            Err(Errno::NOENT) => {
                mkdirat(&here, name.as_os_str(), Mode::from_raw_mode(0o755))?;
                open_beneath(&volume, &way)?
            }
            other => other?,
        };
    }
    Ok(here)
}

/// How often to try again if directories are renamed under the kernel's feet.
const MOST_RACES: u32 = 100;

fn open_beneath(root: impl AsFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    let open = || {
        let flags = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        openat2(&root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), flags)
    };
    let mut tries = (0..MOST_RACES).map(|_| open());
    tries.find(|opened| !matches!(opened, Err(Errno::AGAIN))).unwrap_or(Err(Errno::AGAIN))
}

fn create_file(parent: &OwnedFd, name: &std::ffi::OsStr) -> rustix::io::Result<()> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::WRONLY;
    openat(parent, name, flags, Mode::from_raw_mode(0o644)).map(drop)
}

/// Opens a path below a root without making anything.
pub(crate) fn open_in(root: impl AsFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new("/") } else { path };
    openat2(
        root,
        path,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_never_leave_the_root() {
        let outside = tempfile::tempdir().expect("tempdir");
        let inside = tempfile::tempdir().expect("tempdir");
        std::fs::create_dir(inside.path().join("run")).expect("mkdir");
        symlink("/run", inside.path().join("var")).expect("link");
        symlink(outside.path(), inside.path().join("evil")).expect("link");
        symlink("../../../../../../../tmp", inside.path().join("up")).expect("link");
        let root = open_root(inside.path()).expect("root");
        for path in ["/var/a/b", "/evil/c", "/up/d", "/plain/e"] {
            resolve(&root, Path::new(path), Kind::File).expect(path);
        }
        assert!(inside.path().join("run/a/b").is_file());
        assert!(inside.path().join("plain/e").is_file());
        assert!(inside.path().join("tmp/d").is_file());
        assert_eq!(std::fs::read_dir(outside.path()).expect("dir").count(), 0);
    }

    #[test]
    fn a_part_of_a_volume_is_refused_if_it_leads_out() {
        let inside = tempfile::tempdir().expect("tempdir");
        std::fs::create_dir(inside.path().join("in")).expect("mkdir");
        for (to, name) in [("/", "root"), ("..", "up"), ("nowhere", "broken"), ("in", "link")] {
            symlink(to, inside.path().join(name)).expect("link");
        }
        let volume = open_root(inside.path()).expect("root");
        for path in ["root", "root/new", "up", "up/../..", "broken", "broken/new", "in/../.."] {
            part(&volume, Path::new(path)).expect_err(path);
        }
        for path in ["in", "link", "link/made/here", "new/too"] {
            part(&volume, Path::new(path)).expect(path);
        }
        assert!(inside.path().join("in/made/here").is_dir() && inside.path().join("new/too").is_dir());
    }

    #[test]
    fn a_link_that_leads_nowhere_is_completed() {
        let inside = tempfile::tempdir().expect("tempdir");
        std::fs::create_dir(inside.path().join("etc")).expect("mkdir");
        symlink("../run/resolve/stub.conf", inside.path().join("etc/resolv.conf")).expect("link");
        let root = open_root(inside.path()).expect("root");
        resolve(&root, Path::new("/etc/resolv.conf"), Kind::File).expect("resolve");
        assert!(inside.path().join("run/resolve/stub.conf").is_file());
    }
}
