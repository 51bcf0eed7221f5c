//! A store's whole state at one revision, outside of any engine: as a file, out of a directory that may be in use, and into an empty engine.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::log::{snapshot, view};
use crate::{Condition, Entry, Error, Event, Memo, Op, Range, Result, Revision, Store, Txn, Value, digits};

/// One transaction of a transfer has so many operations and bytes at most; etcd takes 128 and 1.5 MiB.
const OPS: usize = 100;
const BYTES: usize = 1 << 20;
/// A directory that is in use may change while it is read; then it is read again.
const ATTEMPTS: usize = 5;

/// All keys with their values, as of one revision.
#[derive(Debug)]
pub struct Backup {
    /// The revision.
    pub revision: Revision,
    /// The versions, in the order of their keys.
    pub entries: Vec<Arc<Entry>>,
}

impl Backup {
    /// What a store has now.
    ///
    /// # Errors
    /// Those of [`Store::list`].
    pub async fn of(store: &dyn Store) -> Result<Self> {
        let listing = store.list(Range::prefix("/")).await?;
        Ok(Self { revision: listing.revision, entries: listing.entries })
    }

    /// What the disk log in a directory has, or had at an earlier revision. Nothing is changed there, and a process may be at work in it.
    ///
    /// # Errors
    /// [`Error::Compacted`] for a revision before the last snapshot, [`Error::Future`] for one that is not there yet, [`Error::Corrupt`] and
    /// [`Error::Failed`] for what cannot be read.
    pub fn of_directory(dir: &Path, at: Option<Revision>) -> Result<Self> {
        let state = read(dir, at)?;
        Ok(Self { revision: state.progress().revision, entries: state.entries() })
    }

    /// Reads a file that [`Backup::write`] has written.
    ///
    /// # Errors
    /// [`Error::Unusable`] when it is something else, [`Error::Corrupt`] when it is no whole backup, [`Error::Failed`] when it cannot be read.
    pub fn read(file: &Path) -> Result<Self> {
        if !snapshot::is_one(file)? {
            let what = format!("{} is not a podling backup", file.display());
            return Err(Error::Unusable { what });
        }
        let (revision, entries) = snapshot::read(file)?;
        Ok(Self { revision, entries: entries.into_iter().map(Arc::new).collect() })
    }

    /// Writes it to a file, durably, readable for its owner alone. What was in the file is replaced when all of the new is on the disk.
    ///
    /// # Errors
    /// [`Error::Failed`] naming the file.
    pub fn write(&self, file: &Path) -> Result<()> {
        let mut partial = file.as_os_str().to_owned();
        partial.push(".partial");
        snapshot::write_file(Path::new(&partial), file, self.revision, &self.entries)
    }

    /// Makes a disk log of it, with all its revisions, in a directory that has none.
    ///
    /// # Errors
    /// [`Error::Unusable`] when there is something in the directory, [`Error::Failed`] when it cannot be written.
    pub fn seed(&self, dir: &Path) -> Result<()> {
        fs::create_dir_all(dir).map_err(Error::failed(format!("creating directory {}", dir.display())))?;
        let mut found = fs::read_dir(dir).map_err(Error::failed(format!("reading directory {}", dir.display())))?;
        if found.next().is_some() {
            return Err(Error::Unusable { what: format!("there is something in {} already", dir.display()) });
        }
        snapshot::write(dir, self.revision, &self.entries)
    }

    /// Creates all of it in an empty store, under new revisions. `told` hears how many keys are done.
    ///
    /// # Errors
    /// [`Error::Unusable`] when the store has keys already, else those of [`Store::commit`]; then a part is there.
    pub async fn copy_to(&self, store: &dyn Store, mut told: impl FnMut(usize)) -> Result<()> {
        let present = store.list(Range { limit: Some(1), ..Range::prefix("/") }).await?;
        if let Some(entry) = present.entries.first() {
            return Err(Error::Unusable { what: format!("the store is not empty: there is {}", entry.key) });
        }
        let (mut txn, mut bytes) = (Txn::default(), 0);
        for (number, entry) in self.entries.iter().enumerate() {
            let size = entry.key.len() * 3 + entry.value.len() + 64;
            if txn.ops.len() == OPS || bytes + size > BYTES {
                store.commit(std::mem::take(&mut txn)).await?;
                told(number);
                bytes = 0;
            }
            txn.conditions.push(Condition::Absent(entry.key.clone()));
            txn.ops.push(Op::Put(entry.key.clone(), entry.unstamped()));
            bytes += size;
        }
        if !txn.ops.is_empty() {
            store.commit(txn).await?;
        }
        told(self.entries.len());
        Ok(())
    }
}

/// What the log in a directory still tells of what happened, oldest first: all since its last snapshot.
///
/// # Errors
/// [`Error::Corrupt`] and [`Error::Failed`] for what cannot be read.
pub fn history(dir: &Path) -> Result<Vec<Arc<Event>>> {
    let state = read(dir, None)?;
    Ok(state.history())
}

fn read(dir: &Path, at: Option<Revision>) -> Result<crate::memory::State> {
    for _ in 1..ATTEMPTS {
        match view(dir, at) {
            // A snapshot may have taken away what was being read, before or after it was listed.
            Err(Error::Failed { source, .. }) if source.kind() == std::io::ErrorKind::NotFound && dir.exists() => {}
            Err(Error::Corrupt { .. }) => {}
            result => return result,
        }
    }
    view(dir, at)
}

impl Entry {
    /// The value as it was before it got its revision.
    pub fn unstamped(&self) -> Value {
        let Some(stamp) = self.stamp else {
            return Value::plain(self.value.clone());
        };
        let at = stamp as usize;
        let bytes = [&self.value[..at], &self.value[at + digits(self.modified)..]].concat();
        Value { bytes: bytes.into(), stamp: Some(stamp), memo: Memo::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, Disk};

    async fn filled(dir: &Path) -> (Disk, Vec<Revision>) {
        let store = Disk::open(Config::new(dir)).expect("a store");
        let mut revisions = Vec::new();
        for number in 0..3 {
            let value = Value::stamped(format!("{{n:{number},rv:}}"), 8);
            revisions.push(store.commit(Txn::create(format!("/{number}").into(), value)).await.expect("put").revision);
        }
        (store, revisions)
    }

    fn texts(backup: &Backup) -> Vec<String> {
        backup.entries.iter().map(|entry| String::from_utf8_lossy(&entry.value).into_owned()).collect()
    }

    #[tokio::test]
    async fn a_backup_goes_through_a_file_into_a_store_with_its_revisions() {
        let dir = tempfile::tempdir().expect("a directory");
        let (_running, revisions) = filled(&dir.path().join("a")).await;
        let backup = Backup::of_directory(&dir.path().join("a"), None).expect("read while it runs");
        let file = dir.path().join("backup");
        backup.write(&file).expect("written");
        let read = Backup::read(&file).expect("read");
        assert_eq!(texts(&read), ["{n:0,rv:2}", "{n:1,rv:3}", "{n:2,rv:4}"]);
        read.seed(&dir.path().join("b")).expect("seeded");
        assert!(matches!(read.seed(&dir.path().join("b")), Err(Error::Unusable { .. })));
        let store = Disk::open(Config::new(dir.path().join("b"))).expect("a store");
        let got = Backup::of(&store).await.expect("listed");
        assert_eq!((got.revision, texts(&got)), (revisions[2], texts(&backup)));
    }

    #[tokio::test]
    async fn the_past_is_there_as_far_as_the_log_goes() {
        let dir = tempfile::tempdir().expect("a directory");
        let (_running, revisions) = filled(dir.path()).await;
        let at = |at| Backup::of_directory(dir.path(), Some(at));
        assert_eq!(texts(&at(revisions[1]).expect("the past")), ["{n:0,rv:2}", "{n:1,rv:3}"]);
        let future = at(revisions[2].next());
        assert!(matches!(future, Err(Error::Future { current }) if current == revisions[2]), "{future:?}");
        let told: Vec<_> = history(dir.path()).expect("read").iter().map(|event| event.revision()).collect();
        assert_eq!(told, revisions);
        let other = tempfile::tempdir().expect("a directory");
        at(revisions[2]).expect("now").seed(&other.path().join("s")).expect("seeded");
        let past = Backup::of_directory(&other.path().join("s"), Some(revisions[0]));
        assert!(matches!(past, Err(Error::Compacted { oldest }) if oldest == revisions[2]), "{past:?}");
    }

    #[tokio::test]
    async fn a_copy_gets_new_revisions_in_its_values() {
        let dir = tempfile::tempdir().expect("a directory");
        let (from, _) = filled(&dir.path().join("a")).await;
        let to = Disk::open(Config::new(dir.path().join("b"))).expect("a store");
        let mut told = 0;
        let backup = Backup::of(&from).await.expect("listed");
        backup.copy_to(&to, |done| told = done).await.expect("copied");
        assert_eq!(told, 3);
        assert_eq!(texts(&Backup::of(&to).await.expect("listed")), ["{n:0,rv:2}", "{n:1,rv:2}", "{n:2,rv:2}"]);
        let again = backup.copy_to(&to, |_| {}).await;
        assert!(matches!(again, Err(Error::Unusable { .. })), "{again:?}");
    }

    proptest::proptest! {
        #[test]
        fn no_content_of_a_file_breaks_the_reader(content: Vec<u8>, stamp: u32) {
            let dir = tempfile::tempdir().expect("a directory");
            let file = dir.path().join("backup");
            // An entry that is almost right, then anything; with the right checksum, so that it is looked at.
            let head = [&b"podsnap\x01"[..], &7u64.to_le_bytes(), &7u64.to_le_bytes(), &7u64.to_le_bytes(), &stamp.to_le_bytes()];
            let key = [&1u32.to_le_bytes()[..], b"/", &1u32.to_le_bytes(), b"7"].concat();
            let whole = [head.concat(), key, content].concat();
            let sum = crc32fast::hash(&whole).to_le_bytes();
            fs::write(&file, [&whole[..], &sum].concat()).expect("a file");
            for entry in Backup::read(&file).into_iter().flat_map(|backup| backup.entries) {
                drop(entry.unstamped());
            }
        }
    }

    #[test]
    fn a_damaged_file_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("backup");
        Backup { revision: Revision(7), entries: Vec::new() }.write(&file).expect("written");
        let mut bytes = fs::read(&file).expect("read");
        bytes[9] ^= 1;
        fs::write(&file, bytes).expect("written");
        assert!(matches!(Backup::read(&file), Err(Error::Corrupt { .. })));
        for other in ["", "pods", "kind: Pod\nmetadata: {}\n"] {
            fs::write(&file, other).expect("written");
            let told = Backup::read(&file).expect_err("no backup").to_string();
            assert!(told.contains("is not a podling backup"), "{told}");
        }
        fs::write(&file, "podsnap\x01").expect("written");
        assert!(matches!(Backup::read(&file), Err(Error::Corrupt { .. })), "cut off");
        assert!(matches!(Backup::read(&dir.path().join("none")), Err(Error::Failed { .. })));
    }
}
