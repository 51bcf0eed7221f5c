//! The whole state at one revision, as a file: what the log before it came to.
//!
//! Written beside the running store under a temporary name and renamed when it is durable; then the log files that it
//! covers are removed.

use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::frame::{Reader, put_bytes, stamp_bytes};
use super::segment::sync_dir;
use crate::{Entry, Error, Memo, Result, Revision};

const MAGIC: &[u8; 8] = b"podsnap\x01";
const PREFIX: &str = "snapshot-";
/// Length of the checksum at the end.
const TRAILER: usize = 4;

/// Writes a snapshot and removes what it makes superfluous.
pub(crate) fn write(dir: &Path, revision: Revision, entries: &[Arc<Entry>]) -> Result<()> {
    write_file(&dir.join("snapshot.partial"), &path(dir, revision), revision, entries)?;
    remove_covered(dir, revision)
}

/// Writes a file beside its place and puts it there when it is durable.
pub(crate) fn write_file(partial: &Path, path: &Path, revision: Revision, entries: &[Arc<Entry>]) -> Result<()> {
    let written = fill(partial, revision, entries).and_then(|()| fs::rename(partial, path));
    if written.is_err() {
        // Whatever was written is of no use; what cannot be removed is overwritten by the next attempt.
        let _ = fs::remove_file(partial);
    }
    written.map_err(Error::failed(format!("writing {}", path.display())))?;
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => sync_dir(dir),
        _ => sync_dir(Path::new(".")),
    }
}

fn path(dir: &Path, revision: Revision) -> PathBuf {
    dir.join(format!("{PREFIX}{:016x}", revision.0))
}

fn fill(path: &Path, revision: Revision, entries: &[Arc<Entry>]) -> std::io::Result<()> {
    // What is stored is its owner's, secrets and all.
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let mut file = BufWriter::with_capacity(1 << 20, file);
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = Vec::new();
    buffer.extend_from_slice(MAGIC);
    buffer.extend_from_slice(&revision.0.to_le_bytes());
    for entry in entries {
        buffer.extend_from_slice(&entry.created.0.to_le_bytes());
        buffer.extend_from_slice(&entry.modified.0.to_le_bytes());
        buffer.extend_from_slice(&stamp_bytes(entry.stamp));
        put_bytes(&mut buffer, entry.key.as_bytes());
        put_bytes(&mut buffer, &entry.value);
        hasher.update(&buffer);
        file.write_all(&buffer)?;
        buffer.clear();
    }
    hasher.update(&buffer);
    file.write_all(&buffer)?;
    file.write_all(&hasher.finalize().to_le_bytes())?;
    file.into_inner()?.sync_all()
}

/// The newest snapshot's revision and entries; an empty store where there is none.
pub(super) fn load(dir: &Path) -> Result<(Revision, Vec<Entry>)> {
    let newest = files(dir, PREFIX)?.pop();
    let Some((_, path)) = newest else {
        return Ok((Revision::EMPTY, Vec::new()));
    };
    read(&path)
}

/// A snapshot's revision and entries.
pub(crate) fn read(path: &Path) -> Result<(Revision, Vec<Entry>)> {
    let bytes = fs::read(path).map_err(Error::failed(format!("reading {}", path.display())))?;
    let corrupt = |(offset, what): (u64, &str)| Error::Corrupt { file: path.to_owned(), offset, what: what.to_owned() };
    parse(Bytes::from(bytes)).map_err(corrupt)
}

/// Whether a file begins as one that [`write_file`] has written, of whatever version.
pub(crate) fn is_one(path: &Path) -> Result<bool> {
    let mut begin = Vec::new();
    let kind = &MAGIC[..MAGIC.len() - 1];
    let read = fs::File::open(path).and_then(|file| file.take(kind.len() as u64).read_to_end(&mut begin));
    read.map_err(Error::failed(format!("reading {}", path.display())))?;
    Ok(begin == kind)
}

fn parse(bytes: Bytes) -> std::result::Result<(Revision, Vec<Entry>), (u64, &'static str)> {
    let length = bytes.len();
    let body_length = length.checked_sub(TRAILER).ok_or((0, "the snapshot is too short"))?;
    let body = bytes.slice(..body_length);
    if crc32fast::hash(&body).to_le_bytes() != bytes[body_length..] {
        return Err((body_length as u64, "the checksum does not match"));
    }
    let mut reader = Reader(body);
    let bad = |reader: &Reader| ((body_length - reader.0.len()) as u64, "the snapshot makes no sense");
    if reader.take(MAGIC.len()).as_deref() != Some(MAGIC.as_slice()) {
        return Err((0, "this is no snapshot of a known version"));
    }
    let revision = reader.u64().map(Revision).ok_or_else(|| bad(&reader))?;
    let mut entries = Vec::new();
    while !reader.0.is_empty() {
        entries.push(entry(&mut reader).ok_or_else(|| bad(&reader))?);
    }
    Ok((revision, entries))
}

fn entry(reader: &mut Reader) -> Option<Entry> {
    let (created, modified) = (Revision(reader.u64()?), Revision(reader.u64()?));
    let (stamp, key) = (reader.stamp()?, reader.key()?);
    let value = Bytes::copy_from_slice(&reader.bytes()?);
    let has_digits =
        |at: u32| value.get(at as usize..).is_some_and(|rest| rest.starts_with(modified.to_string().as_bytes()));
    if stamp.is_some_and(|at| !has_digits(at)) {
        return None;
    }
    Some(Entry { key, value, created, modified, stamp, memo: Memo::default() })
}

/// The files of a directory that are named by a prefix and a revision, in order.
pub(super) fn files(dir: &Path, prefix: &str) -> Result<Vec<(Revision, PathBuf)>> {
    let listing = fs::read_dir(dir).and_then(|entries| entries.collect::<std::io::Result<Vec<_>>>());
    let listing = listing.map_err(Error::failed(format!("reading directory {}", dir.display())))?;
    let mut found: Vec<_> = listing
        .iter()
        .filter_map(|entry| {
            let name = entry.file_name();
            let number = u64::from_str_radix(name.to_str()?.strip_prefix(prefix)?, 16).ok()?;
            Some((Revision(number), entry.path()))
        })
        .collect();
    found.sort();
    Ok(found)
}

/// Removes older snapshots, and log files that end at or before the snapshot.
fn remove_covered(dir: &Path, revision: Revision) -> Result<()> {
    let snapshots = files(dir, PREFIX)?.into_iter().filter(|(at, _)| *at < revision).map(|(_, path)| path);
    let segments = files(dir, "log-")?;
    let successors = segments.iter().skip(1).map(|(first, _)| *first);
    let covered = segments.iter().zip(successors).filter(|(_, next)| *next <= revision.next());
    let covered: Vec<_> = covered.map(|((_, path), _)| path.clone()).collect();
    for path in snapshots.chain(covered) {
        fs::remove_file(&path).map_err(Error::failed(format!("removing {}", path.display())))?;
    }
    sync_dir(dir)
}
