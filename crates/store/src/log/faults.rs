//! Where tests make the disk fail. Outside of tests this is nothing.

use std::io;

#[cfg(test)]
use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

/// Which of the coming disk operations fail.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    #[cfg(test)]
    writes: Arc<AtomicU32>,
    #[cfg(test)]
    syncs: Arc<AtomicU32>,
}

#[cfg(not(test))]
impl Faults {
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "the shape that tests need")]
    pub(super) fn write(&self) -> io::Result<()> {
        Ok(())
    }

    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "the shape that tests need")]
    pub(super) fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
impl Faults {
    pub(super) fn write(&self) -> io::Result<()> {
        fail(&self.writes, io::ErrorKind::StorageFull)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        fail(&self.syncs, io::ErrorKind::Other)
    }

    /// The next `count` writes fail.
    pub(super) fn fail_writes(&self, count: u32) {
        self.writes.store(count, Ordering::SeqCst);
    }

    /// The next `count` syncs fail.
    pub(super) fn fail_syncs(&self, count: u32) {
        self.syncs.store(count, Ordering::SeqCst);
    }
}

#[cfg(test)]
fn fail(left: &AtomicU32, kind: io::ErrorKind) -> io::Result<()> {
    let before = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| count.checked_sub(1));
    before.map_or(Ok(()), |_| Err(kind.into()))
}
