//! From the files of a directory to a state: the newest snapshot, then every frame of the log after it.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::faults::Faults;
use super::frame::{self, Found, Record};
use super::segment::{self, Segment};
use super::snapshot;
use crate::memory::State;
use crate::{Error, Result, Revision};

/// Reads a directory. Answers the state and the file that further frames go to.
pub(super) fn recover(dir: &Path, faults: &Faults) -> Result<(State, Segment)> {
    let (state, tail) = read(dir, None)?;
    let segment = match tail {
        Some((path, end)) => Segment::resume(&path, end as u64, faults.clone())?,
        None => Segment::create(dir, state.progress().revision.next(), faults.clone())?,
    };
    Ok((state, segment))
}

/// Reads a directory as it is, or was at a revision, and changes nothing in it.
pub(crate) fn view(dir: &Path, at: Option<Revision>) -> Result<State> {
    let (state, _) = read(dir, at)?;
    let current = state.progress().revision;
    if at.is_some_and(|at| at > current) { Err(Error::Future { current }) } else { Ok(state) }
}

/// The state, up to a revision if one is named, and where the last file's frames end.
fn read(dir: &Path, until: Option<Revision>) -> Result<(State, Option<(PathBuf, usize)>)> {
    let (revision, entries) = snapshot::load(dir)?;
    if until.is_some_and(|until| until < revision) {
        return Err(Error::Compacted { oldest: revision });
    }
    let mut state = State::new(revision, entries);
    let segments = snapshot::files(dir, "log-")?;
    check_start(&segments, revision)?;
    let last = segments.len().saturating_sub(1);
    let mut tail = None;
    for (number, (first, path)) in segments.into_iter().enumerate() {
        tail = replay(&mut state, first, &path, number == last, until)?.map(|end| (path, end));
    }
    Ok((state, tail))
}

/// The log must reach back to the snapshot.
fn check_start(segments: &[(Revision, PathBuf)], snapshot: Revision) -> Result<()> {
    match segments.first() {
        Some((first, path)) if *first > snapshot.next() => {
            let what = format!("the log starts at revision {first}, the snapshot ends at {snapshot}");
            Err(Error::Corrupt { file: path.clone(), offset: 0, what })
        }
        _ => Ok(()),
    }
}

/// Applies a file's frames, those after `until` excepted. Answers where they end; `None` for a file that was being created when the machine stopped.
fn replay(
    state: &mut State,
    first: Revision,
    path: &Path,
    last: bool,
    until: Option<Revision>,
) -> Result<Option<usize>> {
    let log = fs::read(path).map_err(Error::failed(format!("reading {}", path.display())))?;
    let log = Bytes::from(log);
    let corrupt = |offset: usize, what: String| Error::Corrupt { file: path.to_owned(), offset: offset as u64, what };
    if segment::first_revision(&log) != Some(first) {
        let unborn = last && !frame::any_after(&log, 0);
        return if unborn { Ok(None) } else { Err(corrupt(0, "the header makes no sense".to_owned())) };
    }
    let mut offset = segment::HEADER;
    loop {
        match frame::read(&log, offset) {
            Found::End if frame::any_after(&log, offset) => {
                return Err(corrupt(offset, "zeros where a frame should be".to_owned()));
            }
            Found::End => return Ok(Some(offset)),
            Found::Frame(records, end) => {
                for record in records.into_iter().filter(|record| until.is_none_or(|until| record.revision <= until)) {
                    apply(state, record).map_err(|what| corrupt(offset, what))?;
                }
                offset = end;
            }
            Found::Damage(what) if last && !frame::any_after(&log, offset) => {
                tracing::warn!(file = %path.display(), offset, what, "the log's torn tail is cut off");
                return Ok(Some(offset));
            }
            Found::Damage(what) => return Err(corrupt(offset, what.to_owned())),
        }
    }
}

/// Revisions must follow one another without a gap; those that the snapshot covers are passed over.
fn apply(state: &mut State, record: Record) -> std::result::Result<(), String> {
    let at = state.progress().revision;
    if record.revision <= at {
        return Ok(());
    }
    if record.revision != at.next() {
        return Err(format!("revision {} follows {at}", record.revision));
    }
    state.apply(record.revision, record.ops);
    Ok(())
}
