//! One file of the log, written from front to back into space that was zeroed before: overwriting costs a sync of the
//! data alone, growing costs the file system's journal as well.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::fdatasync;

use super::faults::Faults;
use crate::{Error, Result, Revision};

/// Starts each file; the last byte is the version of the format.
const MAGIC: &[u8; 8] = b"podlog\0\x01";
/// Magic and the first revision.
pub(super) const HEADER: usize = 16;
/// How far ahead the file is zeroed.
const STEP: u64 = 1 << 20;

/// A file that is being written.
#[derive(Debug)]
pub(super) struct Segment {
    file: File,
    path: PathBuf,
    position: u64,
    zeroed: u64,
    faults: Faults,
}

/// The path of the segment whose first revision this is.
pub(super) fn path(dir: &Path, first: Revision) -> PathBuf {
    dir.join(format!("log-{:016x}", first.0))
}

/// Makes what was created or removed in a directory durable.
pub(super) fn sync_dir(dir: &Path) -> Result<()> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(Error::failed(format!("syncing directory {}", dir.display())))
}

/// The first revision that a segment's header names.
pub(super) fn first_revision(header: &[u8]) -> Option<Revision> {
    let rest = header.get(..HEADER)?.strip_prefix(MAGIC)?;
    Some(Revision(u64::from_le_bytes(rest.try_into().ok()?)))
}

impl Segment {
    /// Starts a new file, durably.
    pub(super) fn create(dir: &Path, first: Revision, faults: Faults) -> Result<Self> {
        let path = path(dir, first);
        let segment = Self::start(&path, first, faults);
        let segment = segment.map_err(|source| explain(dir, &path, source))?;
        sync_dir(dir)?;
        Ok(segment)
    }

    fn start(path: &Path, first: Revision, faults: Faults) -> io::Result<Self> {
        faults.write()?;
        // An earlier attempt may have failed half-way; nothing in it was ever acknowledged.
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
        let mut header = vec![0; STEP as usize];
        header[..8].copy_from_slice(MAGIC);
        header[8..HEADER].copy_from_slice(&first.0.to_le_bytes());
        file.write_all_at(&header, 0)?;
        file.sync_all()?;
        Ok(Self { file, path: path.to_owned(), position: HEADER as u64, zeroed: STEP, faults })
    }

    /// Goes on with a file whose valid part ends at `position`; what is behind it is wiped.
    pub(super) fn resume(path: &Path, position: u64, faults: Faults) -> Result<Self> {
        let file = OpenOptions::new().write(true).open(path);
        let wiped = file.and_then(|file| {
            file.set_len(position)?;
            file.sync_all()?;
            Ok(file)
        });
        let file = wiped.map_err(Error::failed(format!("reopening {}", path.display())))?;
        Ok(Self { file, path: path.to_owned(), position, zeroed: position, faults })
    }

    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Writes a frame and makes it durable.
    ///
    /// If writing fails, the file is as before and the next frame may succeed. If syncing fails, nobody can know what is
    /// on the disk: the caller must write no more.
    pub(super) fn append(&mut self, frame: &[u8]) -> std::result::Result<(), Failure> {
        if let Err(source) = self.put(frame) {
            self.undo();
            return Err(Failure::Write(explain(self.dir(), &self.path, source)));
        }
        let synced = self.faults.sync().and_then(|()| Ok(fdatasync(&self.file)?));
        synced.map_err(|source| Failure::Sync(explain(self.dir(), &self.path, source)))?;
        self.position += frame.len() as u64;
        Ok(())
    }

    fn put(&mut self, frame: &[u8]) -> io::Result<()> {
        let end = self.position + frame.len() as u64;
        if end > self.zeroed {
            let zeroed = end.next_multiple_of(STEP);
            let blank = vec![0; usize::try_from(zeroed - end).unwrap_or(0)];
            self.file.write_all_at(&blank, end)?;
            self.zeroed = zeroed;
        }
        self.faults.write()?;
        self.file.write_all_at(frame, self.position)
    }

    /// Cuts off what a failed write left. Should even this fail, recovery will take it for the torn tail that it is.
    fn undo(&mut self) {
        if let Err(error) = self.file.set_len(self.position) {
            tracing::warn!(file = %self.path.display(), %error, "a failed write could not be cut off");
        }
        self.zeroed = self.position;
    }

    fn dir(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }
}

/// How appending failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// Nothing was written.
    Write(Error),
    /// What was written may or may not be on the disk.
    Sync(Error),
}

fn explain(dir: &Path, path: &Path, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::Full { dir: dir.to_owned() },
        _ => Error::Failed { doing: format!("writing {}", path.display()), source },
    }
}
