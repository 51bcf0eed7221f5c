//! One file of the log, written from front to back into space that was zeroed before: overwriting costs a sync of the
//! data alone, growing costs the file system's journal as well.
//!
//! It is written in whole blocks past the page cache, each write durable by itself: that takes a fifth off the time of a
//! commit and half off its processor time. The block in which the log ends is kept in memory and written again with what
//! follows; the bytes that were there before are the same ones.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::block::{BLOCK, Blocks};
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
    /// What is below this was written before, be it with zeros. A multiple of [`BLOCK`], or the file's end.
    zeroed: u64,
    blocks: Blocks,
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
        let mut header = vec![0; STEP as usize];
        header[..8].copy_from_slice(MAGIC);
        header[8..HEADER].copy_from_slice(&first.0.to_le_bytes());
        // An earlier attempt may have failed half-way; nothing in it was ever acknowledged.
        let plain = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
        plain.write_all_at(&header, 0)?;
        plain.sync_all()?;
        let blocks = Blocks::new(&header[..HEADER]);
        Ok(Self { file: open(path)?, path: path.to_owned(), position: HEADER as u64, zeroed: STEP, blocks, faults })
    }

    /// Goes on with a file whose valid part ends at `position`; what is behind it is wiped.
    pub(super) fn resume(path: &Path, position: u64, faults: Faults) -> Result<Self> {
        let resumed = || -> io::Result<(File, Blocks)> {
            let plain = OpenOptions::new().read(true).write(true).open(path)?;
            plain.set_len(position)?;
            plain.sync_all()?;
            let mut last = vec![0; position as usize % BLOCK];
            let begin = position - last.len() as u64;
            plain.read_exact_at(&mut last, begin)?;
            Ok((open(path)?, Blocks::new(&last)))
        };
        let (file, blocks) = resumed().map_err(Error::failed(format!("reopening {}", path.display())))?;
        Ok(Self { file, path: path.to_owned(), position, zeroed: position, blocks, faults })
    }

    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Writes a frame and makes it durable.
    ///
    /// If there is no room for it, the file is as before and the next frame may succeed. If writing fails otherwise, nobody
    /// can know what is on the disk: the caller must write no more.
    pub(super) fn append(&mut self, frame: &[u8]) -> std::result::Result<(), Failure> {
        let end = self.position + frame.len() as u64;
        if let Err(source) = self.make_room(end) {
            self.undo();
            return Err(Failure::Write(explain(self.dir(), &self.path, source)));
        }
        let begin = self.position - self.blocks.kept() as u64;
        let blocks = self.blocks.with(frame);
        let written = self.file.write_all_at(blocks, begin).and_then(|()| self.faults.sync());
        written.map_err(|source| Failure::Sync(explain(self.dir(), &self.path, source)))?;
        self.blocks.keep_last();
        self.position = end;
        Ok(())
    }

    /// Zeroes what the frame will overwrite, and more, so that the frame itself can only fail with the disk.
    fn make_room(&mut self, end: u64) -> io::Result<()> {
        self.faults.write()?;
        if end <= self.zeroed {
            return Ok(());
        }
        let begin = self.position.next_multiple_of(BLOCK as u64);
        let zeroed = end.next_multiple_of(STEP);
        let mut blank = Blocks::new(&[]);
        let blank = blank.with(&vec![0; usize::try_from(zeroed - begin).unwrap_or(0)]);
        self.file.write_all_at(blank, begin)?;
        self.zeroed = zeroed;
        Ok(())
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

/// Each write is durable when it returns; past the page cache where the file system knows how.
fn open(path: &Path) -> io::Result<File> {
    let open = |flags: OFlags| OpenOptions::new().write(true).custom_flags(flags.bits().cast_signed()).open(path);
    open(OFlags::DIRECT | OFlags::DSYNC).or_else(|error| match error.kind() {
        io::ErrorKind::InvalidInput => open(OFlags::DSYNC),
        _ => Err(error),
    })
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
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Error::Full { place: format!("for the log in {}", dir.display()) }
        }
        _ => Error::Failed { doing: format!("writing {}", path.display()), source },
    }
}
