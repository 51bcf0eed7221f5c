//! Writes the content of one layer below a directory, whatever the archive tries.
//!
//! Paths are resolved by the kernel inside the layer's root (`openat2` with `RESOLVE_IN_ROOT`), so neither `..` nor a link leads out of it.
//! Whiteouts become what overlayfs reads: character devices of number 0, and the attribute `trusted.overlay.opaque`.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use flate2::read::MultiGzDecoder;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags, chownat, fchmod, fchown,
    fsetxattr, futimens, linkat, mkdirat, mknodat, openat2, symlinkat, unlinkat, utimensat,
};
use sha2::{Digest, Sha256};
use tar::{Archive, Entry, EntryType};

use super::Error;
use super::manifest::encode;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const XATTR_PREFIX: &str = "SCHILY.xattr.";
/// A layer with more entries than this is taken for an attack.
const MAX_ENTRIES: usize = 5_000_000;

/// Reads a compressed or plain tar and writes it below `root`, an empty directory. Returns the digest of the uncompressed content and the
/// number of bytes of its files.
///
/// # Errors
/// [`Error::Malformed`] when the archive breaks the rules, [`Error::Failed`] when the disk refuses.
pub(super) fn unpack(source: impl Read, root: &Path) -> Result<(String, u64), Error> {
    let mut hashing = Hashing { inner: decompress(source)?, hash: Sha256::new() };
    let layer = Layer::open(root)?;
    let mut archive = Archive::new(&mut hashing);
    let entries = archive.entries().map_err(|e| Error::malformed("layer", e))?;
    let (mut bytes, mut count) = (0, 0);
    let mut directories = Vec::new();
    for entry in entries {
        let mut entry = entry.map_err(|e| Error::malformed("layer", e))?;
        count += 1;
        if count > MAX_ENTRIES {
            return Err(Error::malformed("layer", "it has too many entries"));
        }
        let path = inner_path(&entry.path_bytes());
        bytes += entry.size();
        layer.write(&mut entry, &path).map_err(|e| match e {
            WriteError::Format(why) => Error::malformed(format!("layer entry {}", path.display()), why),
            WriteError::Io(e) => Error::failed(format!("unpacking {}", path.display()), e),
        })?;
        if entry.header().entry_type() == EntryType::Directory {
            directories.push((path, entry.header().mtime().unwrap_or(0)));
        }
    }
    layer.date(&directories);
    // What follows the archive's end still belongs to the content that the digest covers.
    io::copy(&mut hashing, &mut io::sink()).map_err(|e| Error::malformed("layer", e))?;
    Ok((encode(hashing.hash), bytes))
}

/// Recognises gzip and zstd by their first bytes.
fn decompress<'a>(mut source: impl Read + 'a) -> Result<Box<dyn Read + 'a>, Error> {
    let mut magic = [0; 4];
    let mut filled = 0;
    while filled < magic.len() {
        match source.read(&mut magic[filled..]).map_err(|e| Error::failed("reading a layer", e))? {
            0 => break,
            count => filled += count,
        }
    }
    let whole = io::Cursor::new(magic[..filled].to_vec()).chain(source);
    match magic {
        [0x1f, 0x8b, ..] => Ok(Box::new(MultiGzDecoder::new(whole))),
        [0x28, 0xb5, 0x2f, 0xfd] => {
            let decoder = ruzstd::decoding::StreamingDecoder::new(whole).map_err(|e| Error::malformed("layer", e))?;
            Ok(Box::new(decoder))
        }
        _ => Ok(Box::new(whole)),
    }
}

struct Hashing<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}

/// The path of an entry without `/`, `.` and `..`, which mean nothing inside a layer.
fn inner_path(raw: &[u8]) -> PathBuf {
    let path = Path::new(OsStr::from_bytes(raw));
    path.components().filter(|part| matches!(part, Component::Normal(_))).collect()
}

enum WriteError {
    Format(&'static str),
    Io(io::Error),
}

impl<E: Into<io::Error>> From<E> for WriteError {
    fn from(error: E) -> Self {
        Self::Io(error.into())
    }
}

struct Layer {
    root: OwnedFd,
}

impl Layer {
    fn open(root: &Path) -> Result<Self, Error> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(root, flags, Mode::empty())
            .map_err(|e| Error::failed(format!("opening {}", root.display()), io::Error::from(e)))?;
        Ok(Self { root })
    }

    fn write<R: Read>(&self, entry: &mut Entry<'_, R>, path: &Path) -> Result<(), WriteError> {
        let Some(name) = path.file_name() else { return self.write_root(entry) };
        let parent = self.directory(path.parent().unwrap_or(Path::new("")))?;
        let bytes = name.as_bytes();
        if bytes == OPAQUE {
            return Ok(fsetxattr(&parent, "trusted.overlay.opaque", b"y", XattrFlags::empty())?);
        }
        if let Some(hidden) = bytes.strip_prefix(WHITEOUT) {
            if hidden.is_empty() || hidden.starts_with(WHITEOUT) {
                return Err(WriteError::Format("a whiteout without a name"));
            }
            clear(&parent, OsStr::from_bytes(hidden), false)?;
            return Ok(mknodat(&parent, OsStr::from_bytes(hidden), FileType::CharacterDevice, Mode::empty(), 0)?);
        }
        self.make(entry, &parent, name)
    }

    fn write_root<R: Read>(&self, entry: &mut Entry<'_, R>) -> Result<(), WriteError> {
        if entry.header().entry_type() == EntryType::Directory { finish(entry, &self.root) } else { Ok(()) }
    }

    /// Opens a directory inside the layer; parents that the archive leaves out are made.
    fn directory(&self, path: &Path) -> Result<OwnedFd, WriteError> {
        match self.open_inside(path, OFlags::DIRECTORY) {
            Ok(fd) => Ok(fd),
            Err(error) if error == rustix::io::Errno::NOENT => {
                let Some(name) = path.file_name() else { return Err(error.into()) };
                let parent = self.directory(path.parent().unwrap_or(Path::new("")))?;
                match mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                Ok(self.open_inside(path, OFlags::DIRECTORY)?)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn open_inside(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        openat2(&self.root, path, flags | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty(), resolve)
    }

    fn make<R: Read>(&self, entry: &mut Entry<'_, R>, parent: &OwnedFd, name: &OsStr) -> Result<(), WriteError> {
        let kind = entry.header().entry_type();
        clear(parent, name, kind == EntryType::Directory)?;
        match kind {
            EntryType::Directory => self.make_directory(entry, parent, name),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => make_file(entry, parent, name),
            EntryType::Symlink => make_symlink(entry, parent, name),
            EntryType::Link => self.make_link(entry, parent, name),
            EntryType::Char => make_node(entry, parent, name, FileType::CharacterDevice),
            EntryType::Block => make_node(entry, parent, name, FileType::BlockDevice),
            EntryType::Fifo => make_node(entry, parent, name, FileType::Fifo),
            EntryType::XGlobalHeader => Ok(()),
            _ => Err(WriteError::Format("an entry of a type that layers do not have")),
        }
    }

    fn make_directory<R: Read>(
        &self,
        entry: &mut Entry<'_, R>,
        parent: &OwnedFd,
        name: &OsStr,
    ) -> Result<(), WriteError> {
        match mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(parent, name, flags, Mode::empty())?;
        finish(entry, &directory)
    }

    fn make_link<R: Read>(&self, entry: &mut Entry<'_, R>, parent: &OwnedFd, name: &OsStr) -> Result<(), WriteError> {
        let target = entry.link_name_bytes().ok_or(WriteError::Format("a link without a target"))?;
        let target = inner_path(&target);
        let file = target.file_name().ok_or(WriteError::Format("a link without a target"))?;
        let from = self.directory(target.parent().unwrap_or(Path::new("")))?;
        Ok(linkat(&from, file, parent, name, AtFlags::empty())?)
    }

    /// Dates directories last: writing into them changed their times. A date is no reason to refuse a layer.
    fn date(&self, directories: &[(PathBuf, u64)]) {
        for (path, mtime) in directories.iter().rev() {
            let dated = self.open_inside(path, OFlags::DIRECTORY).and_then(|fd| futimens(&fd, &times(*mtime)));
            if let Err(error) = dated {
                tracing::debug!(%error, path = %path.display(), "dating a directory");
            }
        }
    }
}

/// Takes away what an earlier entry of the same name made; a directory stays if a directory follows.
fn clear(parent: &OwnedFd, name: &OsStr, is_directory: bool) -> Result<(), WriteError> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(rustix::io::Errno::ISDIR | rustix::io::Errno::PERM) if is_directory => Ok(()),
        Err(rustix::io::Errno::ISDIR | rustix::io::Errno::PERM) => match unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Ok(()) => Ok(()),
            Err(_) => Err(WriteError::Format("a file replaces a directory that is not empty")),
        },
        Err(error) => Err(error.into()),
    }
}

fn make_file<R: Read>(entry: &mut Entry<'_, R>, parent: &OwnedFd, name: &OsStr) -> Result<(), WriteError> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600))?;
    let mut file = std::fs::File::from(fd);
    io::copy(entry, &mut file)?;
    finish(entry, &file)
}

fn make_symlink<R: Read>(entry: &mut Entry<'_, R>, parent: &OwnedFd, name: &OsStr) -> Result<(), WriteError> {
    let target = entry.link_name_bytes().ok_or(WriteError::Format("a link without a target"))?;
    symlinkat(OsStr::from_bytes(&target), parent, name)?;
    let (uid, gid) = owner(entry)?;
    chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    let mtime = entry.header().mtime().unwrap_or(0);
    Ok(utimensat(parent, name, &times(mtime), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn make_node<R: Read>(
    entry: &mut Entry<'_, R>,
    parent: &OwnedFd,
    name: &OsStr,
    kind: FileType,
) -> Result<(), WriteError> {
    let header = entry.header();
    let number = |n: io::Result<Option<u32>>| n.ok().flatten().unwrap_or(0);
    let device = rustix::fs::makedev(number(header.device_major()), number(header.device_minor()));
    let mode = Mode::from_raw_mode(header.mode()? & 0o7777);
    mknodat(parent, name, kind, mode, if kind == FileType::Fifo { 0 } else { device })?;
    let (uid, gid) = owner(entry)?;
    chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    // The mode that mknod was given went through the umask.
    Ok(rustix::fs::chmodat(parent, name, mode, AtFlags::empty())?)
}

/// Owner, mode, attributes and date of a file or directory: in this order, since a change of owner drops set-uid bits and capabilities.
fn finish<R: Read>(entry: &mut Entry<'_, R>, file: &impl AsFd) -> Result<(), WriteError> {
    let (uid, gid) = owner(entry)?;
    fchown(file, Some(uid), Some(gid))?;
    fchmod(file, Mode::from_raw_mode(entry.header().mode()? & 0o7777))?;
    let mtime = entry.header().mtime().unwrap_or(0);
    let extensions = entry.pax_extensions()?.into_iter().flatten().filter_map(Result::ok);
    for extension in extensions {
        let Some(name) = extension.key().ok().and_then(|key| key.strip_prefix(XATTR_PREFIX)) else { continue };
        // Attributes of the trusted class steer overlayfs; an image has no business there.
        if name.starts_with("trusted.") {
            continue;
        }
        match fsetxattr(file, name, extension.value_bytes(), XattrFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(futimens(file, &times(mtime))?)
}

fn owner<R: Read>(entry: &Entry<'_, R>) -> Result<(Uid, Gid), WriteError> {
    let number = |id: u64| u32::try_from(id).ok().filter(|id| *id != u32::MAX);
    let too_large = WriteError::Format("an owner beyond what the kernel knows");
    match (number(entry.header().uid()?), number(entry.header().gid()?)) {
        (Some(uid), Some(gid)) => Ok((Uid::from_raw(uid), Gid::from_raw(gid))),
        _ => Err(too_large),
    }
}

fn times(mtime: u64) -> Timestamps {
    let time = Timespec { tv_sec: i64::try_from(mtime).unwrap_or(0), tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};

    use super::*;

    struct Maker(tar::Builder<Vec<u8>>);

    impl Maker {
        fn new() -> Self {
            Self(tar::Builder::new(Vec::new()))
        }

        fn entry(mut self, path: &str, kind: EntryType, content: &str) -> Self {
            let mut header = tar::Header::new_gnu();
            // The name is written raw: hostile ones must get through.
            header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_entry_type(kind);
            header.set_mode(0o755);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(1_000);
            let is_link = matches!(kind, EntryType::Symlink | EntryType::Link);
            if is_link {
                header.set_link_name_literal(content).unwrap();
            }
            let content = if is_link { "" } else { content };
            header.set_size(content.len() as u64);
            header.set_cksum();
            self.0.append(&header, content.as_bytes()).unwrap();
            self
        }

        fn unpack(self) -> (tempfile::TempDir, Result<(String, u64), Error>) {
            let dir = tempfile::tempdir().unwrap();
            let root = dir.path().join("root");
            std::fs::create_dir(&root).unwrap();
            let result = unpack(&self.0.into_inner().unwrap()[..], &root);
            (dir, result)
        }
    }

    fn is_root() -> bool {
        let is_root = rustix::process::geteuid().is_root();
        if !is_root {
            eprintln!("SKIPPED: writing owners and devices needs root");
        }
        is_root
    }

    #[test]
    fn files_links_and_whiteouts_are_written() {
        if !is_root() {
            return;
        }
        let (dir, result) = Maker::new()
            .entry("bin/", EntryType::Directory, "")
            .entry("bin/sh", EntryType::Regular, "#!")
            .entry("bin/ash", EntryType::Link, "bin/sh")
            .entry("sh", EntryType::Symlink, "/bin/sh")
            .entry("etc/.wh.motd", EntryType::Regular, "")
            .entry("var/.wh..wh..opq", EntryType::Regular, "")
            .unpack();
        let (digest, bytes) = result.unwrap();
        assert!(digest.starts_with("sha256:"));
        assert_eq!(bytes, 2);
        let root = dir.path().join("root");
        assert_eq!(std::fs::read(root.join("bin/ash")).unwrap(), b"#!");
        assert_eq!(std::fs::read_link(root.join("sh")).unwrap(), Path::new("/bin/sh"));
        let hidden = std::fs::symlink_metadata(root.join("etc/motd")).unwrap();
        assert!(hidden.file_type().is_char_device() && hidden.rdev() == 0);
        assert_eq!(std::fs::metadata(root.join("bin")).unwrap().mtime(), 1_000);
    }

    #[test]
    fn nothing_is_written_outside() {
        if !is_root() {
            return;
        }
        let (dir, result) = Maker::new()
            .entry("../../evil", EntryType::Regular, "x")
            .entry("/abs", EntryType::Regular, "x")
            .entry("out", EntryType::Symlink, "../..")
            .entry("out/via-link", EntryType::Regular, "x")
            .entry("etc/", EntryType::Directory, "")
            .entry("host", EntryType::Symlink, "/etc")
            .entry("host/via-absolute", EntryType::Regular, "x")
            .unpack();
        result.unwrap();
        let root = dir.path().join("root");
        for inside in ["evil", "abs", "via-link", "etc/via-absolute"] {
            assert!(root.join(inside).exists(), "{inside}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(!Path::new("/etc/via-absolute").exists());
    }

    #[test]
    fn a_link_to_a_file_outside_fails() {
        if !is_root() {
            return;
        }
        let (_dir, result) = Maker::new().entry("x", EntryType::Link, "../../../../etc/passwd").unpack();
        assert!(result.is_err());
    }

    #[test]
    fn a_truncated_layer_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let whole = Maker::new().entry("a", EntryType::Regular, "0123456789").0.into_inner().unwrap();
        assert!(unpack(&whole[..514], dir.path()).is_err());
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut packed, &whole).unwrap();
        let packed = packed.finish().unwrap();
        assert!(unpack(&packed[..packed.len() / 2], dir.path()).is_err());
    }
}
