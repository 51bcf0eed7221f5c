//! The volumes of a pod on this node's disk: emptyDir (disk and memory) and hostPath.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use api::quantity::Quantity;
use k8s_openapi::api::core::v1 as core;
use rustix::mount::{MountFlags, UnmountFlags};

use crate::Error;
use crate::pod::Pod;

/// Where each volume of a pod lies on this machine.
pub type Volumes = BTreeMap<String, PathBuf>;

/// Makes the volumes of a pod below `directory`. What is there already stays as it is.
///
/// # Errors
/// [`Error::Config`] when a volume is of a kind that this node does not offer or its host path is not what it should be.
pub fn prepare(pod: &Pod, directory: &Path) -> Result<Volumes, Error> {
    let group = pod.spec().security_context.as_ref().and_then(|context| context.fs_group);
    let mut volumes = Volumes::new();
    for volume in pod.spec().volumes.iter().flatten() {
        let path = if let Some(empty) = &volume.empty_dir {
            empty_dir(&directory.join(&volume.name), empty, group)?
        } else if let Some(host) = &volume.host_path {
            host_path(host)?
        } else {
            return Err(failed_mount(&volume.name, "podling does not offer volumes of this kind yet"));
        };
        volumes.insert(volume.name.clone(), path);
    }
    Ok(volumes)
}

fn failed_mount(volume: &str, why: impl std::fmt::Display) -> Error {
    Error::Config { reason: "FailedMount", message: format!("MountVolume.SetUp failed for volume \"{volume}\": {why}") }
}

fn empty_dir(path: &Path, volume: &core::EmptyDirVolumeSource, group: Option<i64>) -> Result<PathBuf, Error> {
    if path.is_dir() {
        return Ok(path.to_owned());
    }
    let failed = |e: io::Error| Error::failed(format!("making the volume {}", path.display()), e);
    std::fs::create_dir_all(path).map_err(failed)?;
    if volume.medium.as_deref() == Some("Memory") {
        mount_memory(path, volume).map_err(failed)?;
    }
    // Everyone may write: containers of a pod run as different users. With a group of the pod's own, files made inside get that group.
    let mode = if group.is_some() { 0o2777 } else { 0o777 };
    if let Some(group) = group {
        let group = u32::try_from(group).ok();
        std::os::unix::fs::chown(path, None, group).map_err(failed)?;
    }
    std::fs::set_permissions(path, Permissions::from_mode(mode)).map_err(failed)?;
    Ok(path.to_owned())
}

fn mount_memory(path: &Path, volume: &core::EmptyDirVolumeSource) -> io::Result<()> {
    let limit = volume.size_limit.as_ref().and_then(|text| Quantity::parse(&text.0).ok()).map(crate::resources::bytes);
    let options = match limit {
        Some(bytes) if bytes > 0 => format!("size={bytes},mode=0777"),
        _ => "mode=0777".to_owned(),
    };
    let options = std::ffi::CString::new(options)?;
    Ok(rustix::mount::mount("tmpfs", path, "tmpfs", MountFlags::empty(), options.as_c_str())?)
}

fn host_path(volume: &core::HostPathVolumeSource) -> Result<PathBuf, Error> {
    let path = PathBuf::from(&volume.path);
    let wrong =
        |why: &str| Err(failed_mount(&volume.path, format_args!("hostPath type check failed: {} {why}", volume.path)));
    let failed = |e: io::Error| Error::failed(format!("making {}", path.display()), e);
    let kind = path.metadata().ok().map(|found| found.file_type());
    match volume.type_.as_deref().unwrap_or_default() {
        "" => {}
        "DirectoryOrCreate" if kind.is_none() => std::fs::create_dir_all(&path).map_err(failed)?,
        "FileOrCreate" if kind.is_none() => drop(std::fs::File::create(&path).map_err(failed)?),
        "Directory" | "DirectoryOrCreate" if !kind.is_some_and(|kind| kind.is_dir()) => {
            return wrong("is not a directory");
        }
        "File" | "FileOrCreate" if !kind.is_some_and(|kind| kind.is_file()) => return wrong("is not a file"),
        "Socket" if !kind.is_some_and(|kind| kind.is_socket()) => return wrong("is not a socket file"),
        "CharDevice" if !kind.is_some_and(|kind| kind.is_char_device()) => return wrong("is not a character device"),
        "BlockDevice" if !kind.is_some_and(|kind| kind.is_block_device()) => return wrong("is not a block device"),
        _ => {}
    }
    if !path.exists() {
        std::fs::create_dir_all(&path).map_err(failed)?;
    }
    Ok(path)
}

/// Takes a pod's directory away, memory volumes unmounted first. One that is not there is gone already.
///
/// # Errors
/// [`Error::Failed`] naming what could not be removed.
pub fn remove(directory: &Path) -> Result<(), Error> {
    let volumes = directory.join("volumes");
    for entry in std::fs::read_dir(&volumes).into_iter().flatten().flatten() {
        // Most volumes are no mounts, which is what the error says then.
        if let Err(error) = rustix::mount::unmount(entry.path(), UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
            && error != rustix::io::Errno::INVAL
        {
            tracing::warn!(%error, path = %entry.path().display(), "unmounting a volume");
        }
    }
    match std::fs::remove_dir_all(directory) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::failed(format!("removing {}", directory.display()), error)),
    }
}
