//! How transactions look in a log file: one frame per group commit, so that a torn write can only be the last frame.
//!
//! A frame is a header (mark, length, checksum) and records; a record is a revision and its operations. All numbers are
//! little-endian. Frames start at multiples of eight bytes.

use bytes::Bytes;

use crate::{Memo, Op, Revision, Value};

/// Starts each frame. It is no valid UTF-8, so no text that is stored can look like a frame.
const MARK: u32 = 0xFFD0_1BFF;
/// Mark, length, checksum, and four bytes of nothing.
pub(super) const HEADER: usize = 16;
const ALIGN: usize = 8;
/// The largest payload that is believed; a longer length is damage.
pub(super) const MAX_PAYLOAD: usize = 64 << 20;
const NO_STAMP: u32 = u32::MAX;
const PUT: u8 = 1;
const DELETE: u8 = 2;

/// A transaction as it is written.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) revision: Revision,
    pub(super) ops: Vec<Op>,
}

/// What stands at an offset of a log.
#[derive(Debug)]
pub(super) enum Found {
    /// Nothing: the log ends here.
    End,
    /// Records, and the offset after them.
    Frame(Vec<Record>, usize),
    /// Something that is no whole frame.
    Damage(&'static str),
}

/// Begins a frame in an empty buffer.
pub(super) fn begin(buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.resize(HEADER, 0);
}

/// Adds a record to the frame.
pub(super) fn push(buffer: &mut Vec<u8>, revision: Revision, ops: &[Op]) {
    buffer.extend_from_slice(&revision.0.to_le_bytes());
    put_length(buffer, ops.len());
    for op in ops {
        push_op(buffer, op);
    }
}

fn push_op(buffer: &mut Vec<u8>, op: &Op) {
    match op {
        Op::Put(key, value) => {
            buffer.push(PUT);
            put_bytes(buffer, key.as_bytes());
            buffer.extend_from_slice(&value.stamp.unwrap_or(NO_STAMP).to_le_bytes());
            put_bytes(buffer, &value.bytes);
        }
        Op::Delete(key) => {
            buffer.push(DELETE);
            put_bytes(buffer, key.as_bytes());
        }
    }
}

fn put_length(buffer: &mut Vec<u8>, length: usize) {
    let length = u32::try_from(length).expect("a transaction's size was checked before it was queued");
    buffer.extend_from_slice(&length.to_le_bytes());
}

pub(super) fn put_bytes(buffer: &mut Vec<u8>, bytes: &[u8]) {
    put_length(buffer, bytes.len());
    buffer.extend_from_slice(bytes);
}

/// Completes the frame: fills in the header and pads.
pub(super) fn finish(buffer: &mut Vec<u8>) {
    let length = u32::try_from(buffer.len() - HEADER).expect("a batch is far smaller than 4 GiB");
    let checksum = checksum(length, &buffer[HEADER..]);
    buffer[0..4].copy_from_slice(&MARK.to_le_bytes());
    buffer[4..8].copy_from_slice(&length.to_le_bytes());
    buffer[8..12].copy_from_slice(&checksum.to_le_bytes());
    buffer.resize(buffer.len().next_multiple_of(ALIGN), 0);
}

fn checksum(length: u32, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length.to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

/// Reads what stands at an offset.
pub(super) fn read(log: &Bytes, offset: usize) -> Found {
    let header = log.get(offset..offset + HEADER);
    let Some(header) = header else {
        let blank = log.get(offset..).is_none_or(|rest| rest.iter().all(|byte| *byte == 0));
        return if blank { Found::End } else { Found::Damage("the file ends inside a frame's header") };
    };
    if header.iter().all(|byte| *byte == 0) {
        return Found::End;
    }
    let mut header = Reader(log.slice(offset..offset + HEADER));
    let (mark, length, sum) = (header.u32(), header.u32(), header.u32());
    let (Some(MARK), Some(length), Some(sum)) = (mark, length, sum) else {
        return Found::Damage("no frame starts here");
    };
    let start = offset + HEADER;
    let end = start + length as usize;
    if length as usize > MAX_PAYLOAD || end > log.len() {
        return Found::Damage("the frame is longer than the file");
    }
    let payload = log.slice(start..end);
    if checksum(length, &payload) != sum {
        return Found::Damage("the checksum does not match");
    }
    match records(payload) {
        Some(records) => Found::Frame(records, end.next_multiple_of(ALIGN)),
        None => Found::Damage("the frame's records make no sense"),
    }
}

/// Whether a whole frame stands anywhere after an offset. If so, damage before it is no torn write.
pub(super) fn any_after(log: &Bytes, offset: usize) -> bool {
    let first = (offset + 1).next_multiple_of(ALIGN);
    let mark = MARK.to_le_bytes();
    (first..log.len().saturating_sub(HEADER))
        .step_by(ALIGN)
        .filter(|at| log[*at..*at + 4] == mark)
        .any(|at| matches!(read(log, at), Found::Frame(..)))
}

fn records(payload: Bytes) -> Option<Vec<Record>> {
    let mut reader = Reader(payload);
    let mut records = Vec::new();
    while !reader.0.is_empty() {
        let revision = Revision(reader.u64()?);
        let count = reader.u32()?;
        let ops = (0..count).map(|_| reader.op()).collect::<Option<Vec<_>>>()?;
        records.push(Record { revision, ops });
    }
    Some(records)
}

/// Takes numbers and bytes off the front of a buffer.
pub(super) struct Reader(pub(super) Bytes);

impl Reader {
    pub(super) fn take(&mut self, length: usize) -> Option<Bytes> {
        (length <= self.0.len()).then(|| self.0.split_to(length))
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.as_ref().try_into().ok()?))
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.as_ref().try_into().ok()?))
    }

    pub(super) fn bytes(&mut self) -> Option<Bytes> {
        let length = self.u32()?;
        self.take(length as usize)
    }

    pub(super) fn key(&mut self) -> Option<crate::Key> {
        let bytes = self.bytes()?;
        std::str::from_utf8(&bytes).ok().map(Into::into)
    }

    pub(super) fn stamp(&mut self) -> Option<Option<u32>> {
        let stamp = self.u32()?;
        Some((stamp != NO_STAMP).then_some(stamp))
    }

    fn op(&mut self) -> Option<Op> {
        match self.take(1)?[0] {
            PUT => {
                let (key, stamp) = (self.key()?, self.stamp()?);
                // Copied: a slice would keep the whole log file in memory as long as this one value lives.
                let bytes = Bytes::copy_from_slice(&self.bytes()?);
                Some(Op::Put(key, Value { bytes, stamp, memo: Memo::default() }))
            }
            DELETE => Some(Op::Delete(self.key()?)),
            _ => None,
        }
    }
}

/// The stamp of an entry as it is written.
pub(super) fn stamp_bytes(stamp: Option<u32>) -> [u8; 4] {
    stamp.unwrap_or(NO_STAMP).to_le_bytes()
}
