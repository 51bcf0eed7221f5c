//! Output as lines of a log file in CRI format: `TIME STREAM F|P TEXT`, with rotation by size.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::sys::find_byte;

/// A line longer than this is cut, as readers expect.
pub const LINE_BYTES: usize = 16 * 1024;
/// When a file is full.
pub const FILE_BYTES: u64 = 10 * 1024 * 1024;
/// How many files there are, the current one included.
pub const FILES: usize = 5;

/// A log file and the older ones beside it: `path.1` is the youngest of them.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
    written: u64,
    out: Vec<u8>,
}

/// One stream's unfinished line.
#[derive(Debug)]
pub struct Stream {
    name: &'static str,
    partial: Vec<u8>,
}

impl Stream {
    /// `stdout` or `stderr`.
    pub fn new(name: &'static str) -> Stream {
        Stream { name, partial: Vec::new() }
    }
}

impl Log {
    /// Appends to a file, made if missing.
    pub fn open(path: &Path) -> io::Result<Log> {
        let file = OpenOptions::new().append(true).create(true).mode(0o640).open(path)?;
        let written = file.metadata()?.len();
        Ok(Log { path: path.to_owned(), file, written, out: Vec::new() })
    }

    /// Adds what was read at one moment.
    pub fn append(&mut self, stream: &mut Stream, mut bytes: &[u8], now: SystemTime) -> io::Result<()> {
        let head = head(now, stream.name);
        loop {
            let room = LINE_BYTES - stream.partial.len();
            match find_byte(b'\n', &bytes[..bytes.len().min(room + 1)]) {
                Some(end) => {
                    self.line(&head, b'F', &stream.partial, &bytes[..end]);
                    stream.partial.clear();
                    bytes = &bytes[end + 1..];
                }
                None if bytes.len() > room => {
                    self.line(&head, b'P', &stream.partial, &bytes[..room]);
                    stream.partial.clear();
                    bytes = &bytes[room..];
                }
                None => break,
            }
        }
        stream.partial.extend_from_slice(bytes);
        self.flush()
    }

    /// Writes what has no end of line: the stream is closed.
    pub fn finish(&mut self, stream: &mut Stream, now: SystemTime) -> io::Result<()> {
        if !stream.partial.is_empty() {
            self.line(&head(now, stream.name), b'P', &stream.partial, b"");
            stream.partial = Vec::new();
        }
        self.flush()
    }

    /// Gives the buffer back that a burst of output needed.
    pub fn rest(&mut self) {
        self.out = Vec::new();
    }

    fn line(&mut self, head: &[u8], tag: u8, begin: &[u8], end: &[u8]) {
        self.out.reserve(head.len() + begin.len() + end.len() + 1);
        self.out.extend_from_slice(head);
        // The head ends with a tag and a space.
        let place = self.out.len() - 2;
        self.out[place] = tag;
        if !begin.is_empty() {
            self.out.extend_from_slice(begin);
        }
        self.out.extend_from_slice(end);
        self.out.push(b'\n');
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = self.file.write_all(&self.out);
        self.written += self.out.len() as u64;
        self.out.clear();
        result?;
        if self.written >= FILE_BYTES { self.rotate() } else { Ok(()) }
    }

    /// By renaming only: who reads the old file reads on, and sees by the inode that there is a new one.
    fn rotate(&mut self) -> io::Result<()> {
        // Removed first: ext4 writes a whole file to the disk before it lets the file replace another by renaming.
        unless_missing(std::fs::remove_file(numbered(&self.path, FILES - 1)))?;
        for number in (1..FILES).rev() {
            let older = if number == 1 { self.path.clone() } else { numbered(&self.path, number - 1) };
            unless_missing(std::fs::rename(older, numbered(&self.path, number)))?;
        }
        let fresh = Log::open(&self.path)?;
        (self.file, self.written) = (fresh.file, fresh.written);
        Ok(())
    }
}

fn unless_missing(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// An older file of a log: 1 is the youngest, [`FILES`]` - 1` the oldest.
pub fn numbered(path: &Path, number: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// `2026-11-24T21:05:08.123456789Z stdout F `
fn head(now: SystemTime, stream: &str) -> Vec<u8> {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days as i64);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let nanos = since.subsec_nanos();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z {stream} F ").into_bytes()
}

/// Year, month and day of a day counted from 1970, by eras of 400 years that begin in March.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::new(seconds, 5)
    }

    #[test]
    fn time_is_written_as_readers_expect() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00.000000005Z stdout F "),
            (951_782_400, "2000-02-29T00:00:00.000000005Z stdout F "),
            (1_795_554_308, "2026-11-24T21:05:08.000000005Z stdout F "),
        ] {
            assert_eq!(String::from_utf8_lossy(&head(at(seconds), "stdout")), expected);
        }
    }

    fn logged(chunks: &[&[u8]]) -> Vec<String> {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("0.log");
        let mut log = Log::open(&path).expect("open");
        let mut stream = Stream::new("stdout");
        for chunk in chunks {
            log.append(&mut stream, chunk, at(0)).expect("append");
        }
        log.finish(&mut stream, at(0)).expect("finish");
        let text = std::fs::read_to_string(&path).expect("read");
        text.lines().map(|line| line.split_once("stdout ").expect("a head").1.to_owned()).collect()
    }

    #[test]
    fn lines_are_put_together_and_cut() {
        assert_eq!(logged(&[b"one\ntw", b"o\n\nrest"]), ["F one", "F two", "F ", "P rest"]);
        let long = vec![b'x'; LINE_BYTES];
        let full = format!("F {}", "x".repeat(LINE_BYTES));
        assert_eq!(logged(&[&long, b"\n"]).concat(), full);
        assert_eq!(logged(&[&long, b"yz\n"]), [full.replace('F', "P"), "F yz".into()]);
        assert_eq!(logged(&[&[long.as_slice(), &long, b"\n"].concat()]), [full.replace('F', "P"), full]);
    }

    #[test]
    fn a_full_file_is_renamed() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("0.log");
        let mut log = Log::open(&path).expect("open");
        let mut stream = Stream::new("stdout");
        let chunk = vec![b'\n'; 100_000];
        for _ in 0..20 {
            log.append(&mut stream, &chunk, at(0)).expect("append");
        }
        let mut names: Vec<_> =
            std::fs::read_dir(dir.path()).expect("dir").map(|entry| entry.expect("entry").file_name()).collect();
        names.sort();
        assert_eq!(names, ["0.log", "0.log.1", "0.log.2", "0.log.3", "0.log.4"]);
    }
}
