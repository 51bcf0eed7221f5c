//! Container logs in the CRI format (`TIME stdout F text`), read, filtered and followed.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::{BufMut, Bytes, BytesMut};
use jiff::Timestamp;
use runtime::{LOG_FILES, older_log};

const CHUNK: usize = 256 << 10;

/// One line of a log file, without its line feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// When it was written, as RFC 3339.
    pub time: &'a [u8],
    /// The text.
    pub content: &'a [u8],
    /// The text goes on in the next line of the file.
    pub is_partial: bool,
}

impl<'a> Line<'a> {
    /// The text with the line feed that the process wrote, if it wrote one.
    pub fn text(self) -> impl Iterator<Item = u8> + 'a {
        let end: &[u8] = if self.is_partial { b"" } else { b"\n" };
        self.content.iter().chain(end).copied()
    }
}

/// Reads one line of a log file; `None` if it is no such line.
pub fn parse(line: &[u8]) -> Option<Line<'_>> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut fields = line.splitn(4, |byte| *byte == b' ');
    let (time, _stream, tag) = (fields.next()?, fields.next()?, fields.next()?);
    Some(Line { time, content: fields.next().unwrap_or_default(), is_partial: tag.first() == Some(&b'P') })
}

/// What of a log is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Goes on as the log grows.
    pub follow: bool,
    /// Puts the time before each line.
    pub timestamps: bool,
    /// Only the last lines.
    pub tail: Option<usize>,
    /// Only what was written at or after this moment.
    pub since: Option<Timestamp>,
    /// No more than so many bytes.
    pub limit: Option<usize>,
}

/// Reads a log file, its rotated predecessors first, and goes on from where it stopped.
pub struct Reader {
    path: PathBuf,
    /// The oldest first; the last is the one that grows.
    files: VecDeque<BufReader<File>>,
    newest_inode: u64,
    options: Options,
    left: usize,
    is_line_start: bool,
    pending: Vec<u8>,
}

impl Reader {
    /// Opens the log at `path`; one that is not there yet is empty.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(path: &Path, options: Options) -> std::io::Result<Self> {
        let mut reader = Self {
            path: path.to_owned(),
            files: VecDeque::new(),
            newest_inode: 0,
            left: options.limit.unwrap_or(usize::MAX),
            options,
            is_line_start: true,
            pending: Vec::new(),
        };
        reader.take_up(LOG_FILES - 1)?;
        if let Some(tail) = reader.options.tail {
            reader.skip_to_tail(tail)?;
        }
        Ok(reader)
    }

    /// Queues the rotated files from number `oldest` on, then the one that grows.
    fn take_up(&mut self, oldest: usize) -> std::io::Result<()> {
        for number in (1..=oldest).rev() {
            self.files.extend(open(&older_log(&self.path, number))?.map(reader));
        }
        if let Some(file) = open(&self.path)? {
            self.newest_inode = file.metadata()?.ino();
            self.files.push_back(reader(file));
        }
        Ok(())
    }

    /// Everything up to the present end that is wanted, at most some hundred kilobytes; empty when there is no more for now.
    ///
    /// # Errors
    /// What the file system says.
    pub fn read(&mut self) -> std::io::Result<Bytes> {
        let mut out = BytesMut::with_capacity(CHUNK);
        while out.len() < CHUNK && self.left > 0 && self.read_line()? {
            let line = std::mem::take(&mut self.pending);
            self.emit(&line, &mut out);
            self.pending = line;
            self.pending.clear();
        }
        Ok(out.freeze())
    }

    /// Whether the byte limit was reached: nothing more will come.
    pub fn is_exhausted(&self) -> bool {
        self.left == 0
    }

    /// Fills `pending` with the next whole line; false when there is none yet.
    fn read_line(&mut self) -> std::io::Result<bool> {
        loop {
            if let Some(file) = self.files.front_mut() {
                file.read_until(b'\n', &mut self.pending)?;
                if self.pending.ends_with(b"\n") {
                    return Ok(true);
                }
                if self.files.len() > 1 {
                    self.files.pop_front();
                    continue;
                }
            }
            if !self.has_rotated()? {
                return Ok(false);
            }
        }
    }

    /// Queues what came after the file that grew, if another has taken its place.
    fn has_rotated(&mut self) -> std::io::Result<bool> {
        let Some(newest) = inode(&self.path)? else { return Ok(false) };
        if newest == self.newest_inode {
            return Ok(false);
        }
        let mut own = 1;
        while self.newest_inode != 0
            && own < LOG_FILES
            && inode(&older_log(&self.path, own))? != Some(self.newest_inode)
        {
            own += 1;
        }
        self.take_up(own - 1)?;
        Ok(true)
    }

    fn skip_to_tail(&mut self, tail: usize) -> std::io::Result<()> {
        let mut need = tail;
        for index in (0..self.files.len()).rev() {
            let file = &mut self.files[index];
            let (offset, found) = tail_offset(file.get_mut(), need)?;
            file.seek(SeekFrom::Start(offset))?;
            need -= found;
            if need == 0 {
                self.files.drain(..index);
                return Ok(());
            }
        }
        Ok(())
    }

    fn emit(&mut self, raw: &[u8], out: &mut BytesMut) {
        let Some(line) = parse(raw) else { return };
        if self.options.since.is_some_and(|since| moment(line.time).is_some_and(|time| time < since)) {
            return;
        }
        let mut put = |bytes: &[u8]| {
            let count = bytes.len().min(self.left);
            out.put_slice(&bytes[..count]);
            self.left -= count;
        };
        if self.options.timestamps && self.is_line_start {
            put(line.time);
            put(b" ");
        }
        put(line.content);
        if !line.is_partial {
            put(b"\n");
        }
        self.is_line_start = !line.is_partial;
    }
}

fn reader(file: File) -> BufReader<File> {
    BufReader::with_capacity(CHUNK, file)
}

fn moment(time: &[u8]) -> Option<Timestamp> {
    std::str::from_utf8(time).ok()?.parse().ok()
}

fn open(path: &Path) -> std::io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn inode(path: &Path) -> std::io::Result<Option<u64>> {
    Ok(open(path)?.map(|file| file.metadata()).transpose()?.map(|data| data.ino()))
}

/// Where the last `need` lines of a file begin (lines of the process: pieces of one line count once), and how many there are.
fn tail_offset(file: &mut File, need: usize) -> std::io::Result<(u64, usize)> {
    let length = file.metadata()?.len();
    let (mut start, mut found, mut rest) = (length, 0, Vec::new());
    if need == 0 {
        return Ok((length, 0));
    }
    while start > 0 {
        let size = start.min(CHUNK as u64);
        start -= size;
        let mut chunk = vec![0; usize::try_from(size).unwrap_or(CHUNK)];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut chunk)?;
        chunk.append(&mut rest);
        // Goes over the line feeds backwards; what follows each is a line whose tag tells whether it ends one of the process's lines.
        let mut end = chunk.len();
        while let Some(at) = chunk[..end.saturating_sub(1)].iter().rposition(|byte| *byte == b'\n') {
            if is_line_end(&chunk[at + 1..end]) {
                if found == need {
                    return Ok((start + end as u64, found));
                }
                found += 1;
            }
            end = at + 1;
        }
        chunk.truncate(end);
        rest = chunk;
    }
    if is_line_end(&rest) {
        if found == need {
            return Ok((rest.len() as u64, found));
        }
        found += 1;
    }
    Ok((0, found))
}

fn is_line_end(line: &[u8]) -> bool {
    line.ends_with(b"\n") && parse(line).is_some_and(|line| !line.is_partial)
}

/// Removes a log and what was rotated out of it.
pub fn remove(path: &Path) {
    let all = std::iter::once(path.to_owned()).chain((1..LOG_FILES).map(|number| older_log(path, number)));
    for file in all {
        if let Err(error) = std::fs::remove_file(&file)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, file = %file.display(), "removing a log");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn log(lines: &[(&str, &str)]) -> String {
        let line = |(index, (tag, text)): (usize, &(&str, &str))| {
            format!("2026-01-01T00:00:{index:02}.000000000Z stdout {tag} {text}\n")
        };
        lines.iter().enumerate().map(line).collect()
    }

    fn read(path: &Path, options: Options) -> String {
        let bytes = Reader::open(path, options).unwrap().read().unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    fn tail(count: usize) -> Options {
        Options { tail: Some(count), ..Options::default() }
    }

    #[test]
    fn pieces_of_a_line_are_joined_and_counted_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, log(&[("F", "one"), ("P", "tw"), ("F", "o"), ("F", "three")])).unwrap();
        assert_eq!(read(&path, Options::default()), "one\ntwo\nthree\n");
        assert_eq!(read(&path, tail(1)), "three\n");
        assert_eq!(read(&path, tail(2)), "two\nthree\n");
        assert_eq!(read(&path, tail(3)), "one\ntwo\nthree\n");
        assert_eq!(read(&path, tail(0)), "");
        assert_eq!(read(&path, Options { limit: Some(5), ..Options::default() }), "one\nt");
        let since = Some("2026-01-01T00:00:03Z".parse().unwrap());
        assert_eq!(read(&path, Options { since, ..Options::default() }), "three\n");
        let stamped = read(&path, Options { timestamps: true, ..tail(2) });
        assert_eq!(stamped, "2026-01-01T00:00:01.000000000Z two\n2026-01-01T00:00:03.000000000Z three\n");
    }

    #[test]
    fn rotated_files_come_first_and_a_rotation_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(older_log(&path, 1), log(&[("F", "old")])).unwrap();
        std::fs::write(&path, log(&[("F", "new")])).unwrap();
        assert_eq!(read(&path, tail(2)), "old\nnew\n");
        let mut reader = Reader::open(&path, Options::default()).unwrap();
        assert_eq!(&reader.read().unwrap()[..], b"old\nnew\n");
        std::fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(log(&[("F", "more")]).as_bytes())
            .unwrap();
        std::fs::rename(&path, older_log(&path, 2)).unwrap();
        std::fs::write(older_log(&path, 1), log(&[("F", "between")])).unwrap();
        std::fs::write(&path, log(&[("F", "newest")])).unwrap();
        assert_eq!(&reader.read().unwrap()[..], b"more\nbetween\nnewest\n");
        assert_eq!(&reader.read().unwrap()[..], b"");
    }

    #[test]
    fn a_log_that_is_not_there_yet_is_empty_and_then_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut reader = Reader::open(&path, Options::default()).unwrap();
        assert!(reader.read().unwrap().is_empty());
        std::fs::write(&path, log(&[("F", "hello")])).unwrap();
        assert_eq!(&reader.read().unwrap()[..], b"hello\n");
    }
}
