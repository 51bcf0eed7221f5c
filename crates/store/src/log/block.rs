//! Whole blocks of memory where a disk's controller can fetch them.

/// What files are written in: no disk in use has larger sectors.
pub(super) const BLOCK: usize = 4096;
/// A buffer that became larger than this is not kept.
const KEPT_BYTES: usize = 1 << 20;

/// A buffer that begins at a multiple of [`BLOCK`] in memory, and the unfinished block in it.
#[derive(Debug)]
pub(super) struct Blocks {
    memory: Vec<u8>,
    start: usize,
    /// Bytes of the unfinished block.
    kept: usize,
    /// Bytes in use, with those that were added last.
    used: usize,
}

impl Blocks {
    /// The end of a file, as far as it fills no block.
    pub(super) fn new(last: &[u8]) -> Self {
        let mut blocks = Self { memory: Vec::new(), start: 0, kept: 0, used: 0 };
        blocks.grow(BLOCK);
        blocks.memory[blocks.start..][..last.len()].copy_from_slice(last);
        blocks.kept = last.len();
        blocks
    }

    /// How much of the unfinished block there is.
    pub(super) fn kept(&self) -> usize {
        self.kept
    }

    /// The unfinished block with these bytes after it, filled up with zeros.
    pub(super) fn with(&mut self, bytes: &[u8]) -> &[u8] {
        self.used = self.kept + bytes.len();
        let whole = self.used.next_multiple_of(BLOCK);
        self.grow(whole);
        let blocks = &mut self.memory[self.start..][..whole];
        blocks[self.kept..self.used].copy_from_slice(bytes);
        blocks[self.used..].fill(0);
        blocks
    }

    /// What was added last is written: from now on the unfinished block is the one in which it ended.
    pub(super) fn keep_last(&mut self) {
        let kept = self.used % BLOCK;
        let from = self.start + self.used - kept;
        self.memory.copy_within(from..from + kept, self.start);
        self.kept = kept;
        if self.memory.len() > KEPT_BYTES {
            *self = Self::new(&self.memory[self.start..][..kept]);
        }
    }

    fn grow(&mut self, whole: usize) {
        if self.memory.len() >= self.start + whole {
            return;
        }
        let memory = vec![0; whole + BLOCK];
        let start = memory.as_ptr().addr().next_multiple_of(BLOCK) - memory.as_ptr().addr();
        let old = std::mem::replace(&mut self.memory, memory);
        let old = &old[self.start..];
        self.start = start;
        self.memory[start..][..self.kept].copy_from_slice(&old[..self.kept]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a file would hold.
    fn write(file: &mut Vec<u8>, blocks: &mut Blocks, position: usize, bytes: &[u8]) {
        let begin = position - blocks.kept();
        let written = blocks.with(bytes);
        assert_eq!((written.as_ptr().addr() % BLOCK, written.len() % BLOCK, begin % BLOCK), (0, 0, 0));
        file.resize(file.len().max(begin + written.len()), 0);
        file[begin..begin + written.len()].copy_from_slice(written);
        blocks.keep_last();
    }

    #[test]
    fn what_is_added_follows_what_was_there() {
        let (mut file, mut blocks, mut expected) = (b"start".to_vec(), Blocks::new(b"start"), b"start".to_vec());
        for (number, length) in [8, 4083, 1, 4096, 5000, 3 << 20, 7, 0, 4089].into_iter().enumerate() {
            let bytes = vec![number as u8 + 1; length];
            write(&mut file, &mut blocks, expected.len(), &bytes);
            expected.extend_from_slice(&bytes);
            assert!(file.starts_with(&expected), "after write {number}");
            assert!(file[expected.len()..].iter().all(|byte| *byte == 0), "after write {number}");
        }
    }
}
