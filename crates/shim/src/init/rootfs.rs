//! The container's view of files: its layers under a writable one, the kernel's file systems, devices, and what is bound in.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use rustix::mount::{FsOpenFlags, MountFlags, UnmountFlags, fsconfig_set_string, fsopen, unmount};
use rustix::process::{chdir, pivot_root};
use rustix::termios::{Winsize, tcsetwinsize};
use rustix::thread::UnshareFlags;

use super::mount::{self, INERT, Kind, READ_ONLY};
use super::{Refusal, Refuse};
use crate::protocol::StartFailure;
use crate::spec::{Container, Mount, Propagation, WindowSize};
use crate::sys;

const PRIVATE: u64 = libc::MS_PRIVATE;
const SLAVE: u64 = libc::MS_SLAVE;
const SHARED: u64 = libc::MS_SHARED;
const NO_SUID: u64 = 2;

fn refuse<T>(result: io::Result<T>, what: impl FnOnce() -> String) -> Result<T, Refusal> {
    result.refuse(StartFailure::Mount, what)
}

/// Leaves the host's files for the container's. Whatever comes from the host is opened before, since afterwards no path leads there.
pub(super) fn enter(spec: &Container, shm: &Shm) -> Result<(), Refusal> {
    rustix::process::umask(Mode::empty());
    let mounts = open_sources(spec)?;
    let views = open_views(spec)?;
    let shm = refuse(shm.copy(), || "open /dev/shm".into())?;
    let devices = if spec.privileged { host_devices(Path::new("/dev")) } else { Vec::new() };
    let root = refuse(mount::open_root(Path::new("/")), || "open /".into())?;
    refuse(mount::propagate(&root, PRIVATE), || "make / private".into())?;
    pivot(spec)?;
    let root = refuse(mount::open_root(Path::new("/")), || "open the root".into())?;
    kernel_files(spec, &root, shm, &devices)?;
    cgroups(spec, &root, views)?;
    for (mount, tree) in mounts {
        let target = refuse(
            mount::kind_of(&tree).and_then(|kind| mount::resolve(&root, Path::new(&mount.target), kind)),
            || format!("prepare mount target {}", mount.target),
        )?;
        refuse(mount::attach(tree, target), || format!("mount {}", mount.target))?;
    }
    Ok(())
}

/// Hides and seals; the last step before the process loses its rights.
pub(super) fn close(spec: &Container) -> Result<(), Refusal> {
    for path in &spec.readonly_paths {
        refuse(seal(Path::new(path)), || format!("make {path} read-only"))?;
    }
    for path in &spec.masked_paths {
        refuse(mask(Path::new(path)), || format!("mask {path}"))?;
    }
    if spec.readonly_rootfs {
        let root = refuse(mount::open_root(Path::new("/")), || "open the root".into())?;
        refuse(mount::restrict_one(root, READ_ONLY), || "make the root read-only".into())?;
    }
    Ok(())
}

fn open_sources(spec: &Container) -> Result<Vec<(&Mount, OwnedFd)>, Refusal> {
    let mut mounts: Vec<&Mount> = spec.mounts.iter().collect();
    mounts.sort_by_key(|mount| Path::new(&mount.target).components().count());
    let open = |mount| open_source(mount).refuse(class(mount), || describe(mount));
    mounts.into_iter().map(|mount| Ok((mount, open(mount)?))).collect()
}

fn class(mount: &Mount) -> StartFailure {
    if mount.subpath.is_some() { StartFailure::Subpath } else { StartFailure::Mount }
}

fn describe(mount: &Mount) -> String {
    if let Some(subpath) = &mount.subpath {
        return format!("{}: open {subpath:?} of its volume", mount.target);
    }
    let source = mount.source.as_deref().map_or("tmpfs".into(), |path| path.display().to_string());
    format!("mount {source} to {}", mount.target)
}

fn open_source(mount: &Mount) -> io::Result<OwnedFd> {
    let flags = if mount.readonly { READ_ONLY } else { 0 };
    let tree = match (&mount.source, &mount.subpath) {
        (None, _) => return mount::new("tmpfs", &[("mode", "1777")], flags | INERT & !8),
        (Some(source), None) => mount::copy(source)?,
        (Some(source), Some(subpath)) => {
            let root = mount::open_root(source)?;
            mount::copy_of(mount::part(&root, Path::new(subpath))?)?
        }
    };
    mount::propagate(
        &tree,
        match mount.propagation {
            Propagation::Private => PRIVATE,
            Propagation::Slave => SLAVE,
            Propagation::Shared => SHARED,
        },
    )?;
    if flags != 0 {
        mount::restrict(&tree, flags)?;
    }
    Ok(tree)
}

fn open_views(spec: &Container) -> Result<Vec<(&str, OwnedFd)>, Refusal> {
    let open = |path: &Path| mount::copy(path).and_then(|tree| mount::propagate(&tree, PRIVATE).map(|()| tree));
    let views = spec.cgroup.views.iter();
    views.map(|(path, name)| Ok((name.as_str(), refuse(open(path), || format!("open {}", path.display()))?))).collect()
}

/// Memory that a sandbox's containers share.
#[derive(Debug)]
pub(crate) enum Shm {
    /// Attached nowhere.
    Detached(OwnedFd),
    /// Seen by the host: its own, or ours on a kernel that cannot copy what is attached nowhere.
    Attached(PathBuf),
}

impl Shm {
    /// A new one; `place` is used only if it must be.
    pub(crate) fn new(place: &Path) -> io::Result<Shm> {
        let memory = mount::new("tmpfs", &[("mode", "1777"), ("size", "65536k")], INERT)?;
        match mount::copy_of(&memory) {
            Ok(_) => Ok(Shm::Detached(memory)),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                make_dir(place)?;
                mount::attach(memory, mount::open_root(place)?)?;
                Ok(Shm::Attached(place.to_owned()))
            }
            Err(error) => Err(error),
        }
    }

    fn copy(&self) -> io::Result<OwnedFd> {
        let tree = match self {
            Shm::Detached(memory) => mount::copy_of(memory)?,
            Shm::Attached(place) => mount::copy(place)?,
        };
        mount::propagate(&tree, PRIVATE)?;
        Ok(tree)
    }
}

/// Makes the layers the root.
fn pivot(spec: &Container) -> Result<(), Refusal> {
    let place = spec.dir.join("root");
    refuse(make_dir(&place), || format!("make {}", place.display()))?;
    refuse(mount_layers(spec, &place), || "stack the image's layers".into())?;
    let turn = || -> io::Result<()> {
        chdir(&place)?;
        pivot_root(".", ".")?;
        unmount(".", UnmountFlags::DETACH)?;
        Ok(chdir("/")?)
    };
    refuse(turn(), || "change the root".into())
}

fn make_dir(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn mount_layers(spec: &Container, place: &Path) -> io::Result<()> {
    let top = spec.layers.first().ok_or(io::ErrorKind::InvalidInput)?;
    let (upper, work) = (spec.dir.join("upper"), spec.dir.join("work"));
    make_dir(&upper)?;
    make_dir(&work)?;
    // The merged root shows owner and mode of the uppermost directory, which must look as the image's.
    let model = fs::metadata(top)?;
    chown(&upper, Some(model.uid()), Some(model.gid()))?;
    fs::set_permissions(&upper, fs::Permissions::from_mode(model.mode() & 0o7777))?;
    match overlay(spec, &upper, &work) {
        Ok(tree) => mount::attach(tree, mount::open_root(place)?),
        // Before Linux 6.8 layers could not be given one by one.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => overlay_by_options(spec, &upper, &work, place),
        Err(error) => Err(error),
    }
}

fn overlay(spec: &Container, upper: &Path, work: &Path) -> io::Result<OwnedFd> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for layer in &spec.layers {
        fsconfig_set_string(context.as_fd(), "lowerdir+", layer.as_path())?;
    }
    fsconfig_set_string(context.as_fd(), "upperdir", upper)?;
    fsconfig_set_string(context.as_fd(), "workdir", work)?;
    mount::finish(&context, 0)
}

/// All in one text of at most a page: hence names by descriptor, which are short and need no escapes.
fn overlay_by_options(spec: &Container, upper: &Path, work: &Path, place: &Path) -> io::Result<()> {
    let open = |path: &Path| mount::open_root(path);
    let name = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let layers: Vec<OwnedFd> = spec.layers.iter().map(|layer| open(layer)).collect::<io::Result<_>>()?;
    let lower: Vec<String> = layers.iter().map(name).collect();
    let (upper, work) = (open(upper)?, open(work)?);
    let options = format!("lowerdir={},upperdir={},workdir={}", lower.join(":"), name(&upper), name(&work));
    let options = CString::new(options)?;
    Ok(rustix::mount::mount("overlay", place, "overlay", MountFlags::empty(), options.as_c_str())?)
}

/// Opens (making it if missing) a directory that must not be reached through a link: the kernel's files belong at their place.
fn own_dir(path: &str) -> io::Result<OwnedFd> {
    make_dir(Path::new(path))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}

fn kernel_files(spec: &Container, _root: &OwnedFd, shm: OwnedFd, devices: &[Device]) -> Result<(), Refusal> {
    let sys_flags = if spec.privileged { INERT } else { INERT | READ_ONLY };
    let put = |fs: &'static str, options: &[(&str, &str)], flags: u64, path: &'static str| {
        refuse(mount::new(fs, options, flags).and_then(|tree| mount::attach(tree, own_dir(path)?)), || {
            format!("mount {path}")
        })
    };
    put("proc", &[], INERT, "/proc")?;
    put("tmpfs", &[("mode", "755"), ("size", "65536k")], NO_SUID, "/dev")?;
    put("devpts", &[("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")], NO_SUID | 8, "/dev/pts")?;
    put("mqueue", &[], INERT, "/dev/mqueue")?;
    refuse(own_dir("/dev/shm").and_then(|target| mount::attach(shm, target)), || "mount /dev/shm".into())?;
    put("sysfs", &[], sys_flags, "/sys")?;
    refuse(device_files(devices), || "make device files".into())
}

const NODES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const LINKS: [(&str, &str); 6] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("pts/ptmx", "/dev/ptmx"),
    ("/proc/kcore", "/dev/core"),
];

fn device_files(devices: &[Device]) -> io::Result<()> {
    for (name, major, minor) in NODES {
        make_node(
            Path::new(&format!("/dev/{name}")),
            FileType::CharacterDevice,
            0o666,
            rustix::fs::makedev(major, minor),
        )?;
    }
    for (target, path) in LINKS {
        symlink(target, path)?;
    }
    for device in devices {
        if let Some(parent) = device.path.parent() {
            fs::create_dir_all(parent)?;
        }
        match make_node(&device.path, device.kind, device.mode, device.number) {
            Ok(()) => chown(&device.path, Some(device.uid), Some(device.gid))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn make_node(path: &Path, kind: FileType, mode: u32, number: u64) -> io::Result<()> {
    Ok(mknodat(CWD, path, kind, Mode::from_raw_mode(mode), number)?)
}

/// A device file of the host.
struct Device {
    path: PathBuf,
    kind: FileType,
    mode: u32,
    number: u64,
    uid: u32,
    gid: u32,
}

const NOT_DEVICES: [&str; 4] = ["pts", "shm", "mqueue", "console"];

fn host_devices(directory: &Path) -> Vec<Device> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut devices = Vec::new();
    for entry in entries.flatten().filter(|entry| !NOT_DEVICES.iter().any(|name| entry.file_name() == *name)) {
        let Ok(metadata) = entry.path().symlink_metadata() else {
            continue;
        };
        let kind = metadata.file_type();
        if kind.is_dir() {
            devices.extend(host_devices(&entry.path()));
        } else if kind.is_char_device() || kind.is_block_device() {
            devices.push(Device {
                path: entry.path(),
                kind: if kind.is_char_device() { FileType::CharacterDevice } else { FileType::BlockDevice },
                mode: metadata.mode() & 0o7777,
                number: metadata.rdev(),
                uid: metadata.uid(),
                gid: metadata.gid(),
            });
        }
    }
    devices
}

/// The container's own part of the cgroup trees.
fn cgroups(spec: &Container, root: &OwnedFd, views: Vec<(&str, OwnedFd)>) -> Result<(), Refusal> {
    let place = Path::new("/sys/fs/cgroup");
    let flags = if spec.privileged { INERT } else { INERT | READ_ONLY };
    let mount = || -> io::Result<()> {
        if spec.cgroup.namespaced {
            sys::unshare(UnshareFlags::NEWCGROUP)?;
            return mount::attach(mount::new("cgroup2", &[], flags)?, mount::open_in(root, place)?);
        }
        if views.is_empty() {
            return Ok(());
        }
        let tree = mount::new("tmpfs", &[("mode", "755")], INERT)?;
        mount::attach(&tree, mount::open_in(root, place)?)?;
        for (name, view) in &views {
            mount::restrict(view, flags)?;
            mount::attach(view, mount::resolve(root, &place.join(name), Kind::Directory)?)?;
        }
        mount::restrict_one(tree, flags)
    };
    refuse(mount(), || "show cgroups".into())
}

fn seal(path: &Path) -> io::Result<()> {
    let tree = match mount::copy(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    mount::restrict(&tree, READ_ONLY)?;
    mount::attach(tree, mount::open_in(CWD, path)?)
}

fn mask(path: &Path) -> io::Result<()> {
    let target = match mount::open_in(mount::open_root(Path::new("/"))?, path) {
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(()),
        other => other?,
    };
    let cover = match mount::kind_of(&target)? {
        Kind::Directory => mount::new("tmpfs", &[("size", "0k"), ("mode", "755")], READ_ONLY | INERT)?,
        Kind::File => mount::copy(Path::new("/dev/null"))?,
    };
    mount::attach(cover, target)
}

/// A terminal of the container's own devpts: (master, slave, path of the slave).
pub(super) fn open_terminal(size: Option<WindowSize>) -> io::Result<(OwnedFd, OwnedFd, PathBuf)> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = rustix::fs::openat(CWD, "/dev/pts/ptmx", flags, Mode::empty())?;
    rustix::pty::unlockpt(&master)?;
    let name = rustix::pty::ptsname(&master, Vec::new())?;
    let path = PathBuf::from(name.to_string_lossy().into_owned());
    let slave = rustix::fs::openat(CWD, &path, flags, Mode::empty())?;
    if let Some(size) = size.filter(|size| size.rows > 0 && size.columns > 0) {
        tcsetwinsize(&master, Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 })?;
    }
    Ok((master, slave, path))
}

/// Shows the terminal as /dev/console, too.
pub(super) fn bind_console(terminal: &Path) -> Result<(), Refusal> {
    let bind = || -> io::Result<()> {
        fs::write("/dev/console", "")?;
        mount::attach(mount::copy(terminal)?, mount::open_in(CWD, Path::new("dev/console"))?)
    };
    refuse(bind(), || "bind /dev/console".into())
}

/// Gives the process an empty, read-only root: for one that needs no file at all.
pub(crate) fn enter_void(place: &Path) -> io::Result<()> {
    mount::propagate(mount::open_root(Path::new("/"))?, PRIVATE)?;
    let void = mount::new("tmpfs", &[("size", "0k"), ("mode", "555")], READ_ONLY | INERT)?;
    mount::attach(void, mount::open_root(place)?)?;
    chdir(place)?;
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    Ok(chdir("/")?)
}
