//! The volumes of a pod on this node's disk: emptyDir (disk and memory) and hostPath.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
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
    let group = group.and_then(|group| u32::try_from(group).ok());
    let made = match volume.medium.as_deref() {
        Some("Memory") => in_memory(path, volume, group),
        _ => on_disk(path, group),
    };
    made.map_err(|e| Error::failed(format!("making the volume {}", path.display()), e))?;
    Ok(path.to_owned())
}

/// Everyone may write: containers of a pod run as different users. With a group of the pod's own, files made inside get that group.
fn mode(group: Option<u32>) -> u32 {
    if group.is_some() { 0o2777 } else { 0o777 }
}

/// Made under another name first, so that one whose making was interrupted is not taken for whole.
fn on_disk(path: &Path, group: Option<u32>) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let fresh = path.with_extension("new");
    std::fs::create_dir_all(&fresh)?;
    std::os::unix::fs::chown(&fresh, None, group)?;
    std::fs::set_permissions(&fresh, Permissions::from_mode(mode(group)))?;
    std::fs::rename(fresh, path)
}

/// The directory may be there without its mount: the machine has booted since.
fn in_memory(path: &Path, volume: &core::EmptyDirVolumeSource, group: Option<u32>) -> io::Result<()> {
    std::fs::create_dir_all(path)?;
    if is_mount(path)? {
        return Ok(());
    }
    let mut options = format!("mode={:o}", mode(group));
    if let Some(group) = group {
        options.push_str(&format!(",gid={group}"));
    }
    let limit = volume.size_limit.as_ref().and_then(|text| Quantity::parse(&text.0).ok()).map(crate::resources::bytes);
    if let Some(bytes) = limit.filter(|bytes| *bytes > 0) {
        options.push_str(&format!(",size={bytes}"));
    }
    let options = std::ffi::CString::new(options)?;
    Ok(rustix::mount::mount("tmpfs", path, "tmpfs", MountFlags::empty(), options.as_c_str())?)
}

fn is_mount(path: &Path) -> io::Result<bool> {
    let device = |path: &Path| Ok::<_, io::Error>(path.metadata()?.dev());
    Ok(device(path)? != device(path.parent().unwrap_or(path))?)
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
pub async fn remove(directory: &Path) -> Result<(), Error> {
    let own = directory.to_owned();
    // A volume may hold a million files: others must not wait for that.
    let removed = tokio::task::spawn_blocking(move || remove_now(&own)).await;
    removed.map_err(|e| Error::failed(format!("removing {}", directory.display()), e))?
}

fn remove_now(directory: &Path) -> Result<(), Error> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_on_disk_is_made_once_and_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("volumes/data");
        // What an interrupted making leaves.
        std::fs::create_dir_all(path.with_extension("new")).unwrap();
        let volume = core::EmptyDirVolumeSource::default();
        empty_dir(&path, &volume, None).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o777);
        std::fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
        empty_dir(&path, &volume, None).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o700, "what a container did to it stays");
    }

    #[test]
    fn a_directory_is_no_mount_and_proc_is_one() {
        let directory = tempfile::tempdir().unwrap();
        assert!(!is_mount(directory.path()).unwrap());
        assert!(is_mount(Path::new("/proc")).unwrap());
    }
}
