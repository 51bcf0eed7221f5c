//! The log against a model, with failing disks and damaged files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use proptest::prelude::{Just, Strategy, prop_oneof, proptest};

use super::faults::Faults;
use super::{Config, Disk, snapshot};
use crate::{Condition, Error, Op, Range, Revision, Store, Txn, Value};

fn block<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(future)
}

fn put(store: &Disk, key: &str, value: &str) -> crate::Result<Revision> {
    let ops = vec![Op::Put(key.into(), Value::plain(value.to_owned()))];
    block(store.commit(Txn { conditions: vec![], ops })).map(|commit| commit.revision)
}

fn contents(store: &Disk) -> BTreeMap<String, (Bytes, Revision, Revision)> {
    let listing = block(store.list(Range::prefix(""))).expect("a listing");
    listing.entries.iter().map(|e| (e.key.to_string(), (e.value.clone(), e.created, e.modified))).collect()
}

/// The log's last file, and where its frames end.
fn last_segment(dir: &Path) -> (PathBuf, u64) {
    let (_, path) = snapshot::files(dir, "log-").expect("a directory").pop().expect("a segment");
    let bytes = fs::read(&path).expect("readable");
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
    (path, end as u64)
}

fn flip(path: &Path, offset: u64) {
    let mut bytes = fs::read(path).expect("readable");
    bytes[usize::try_from(offset).expect("small")] ^= 0xFF;
    fs::write(path, bytes).expect("writable");
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u16),
    Create(u8),
    Update(u8),
    Stale(u8),
    Delete(u8),
    FailWrites,
    FailSync,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = || 0..12_u8;
    let step = prop_oneof![
        8 => (key(), 0..3000_u16).prop_map(|(key, size)| Step::Put(key, size)),
        4 => key().prop_map(Step::Create),
        4 => key().prop_map(Step::Update),
        1 => key().prop_map(Step::Stale),
        4 => key().prop_map(Step::Delete),
        1 => Just(Step::FailWrites),
        1 => Just(Step::FailSync),
        2 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..120)
}

type Model = BTreeMap<String, (Bytes, Revision, Revision)>;

struct Bench {
    dir: tempfile::TempDir,
    faults: Faults,
    store: Option<Disk>,
    model: Model,
    revision: Revision,
    /// Every state so far, by revision, as far as this run of the store remembers it.
    past: BTreeMap<Revision, Model>,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let (revision, past) = (Revision::EMPTY, BTreeMap::from([(Revision::EMPTY, Model::new())]));
        let mut bench = Self { dir, faults: Faults::default(), store: None, model: Model::new(), revision, past };
        bench.reopen();
        bench
    }

    fn store(&self) -> &Disk {
        self.store.as_ref().expect("open")
    }

    fn reopen(&mut self) {
        self.store = None;
        self.faults.fail_writes(0);
        self.faults.fail_syncs(0);
        let config = Config { segment_bytes: 8 << 10, snapshot_bytes: 32 << 10, ..Config::new(self.dir.path()) };
        self.store = Some(Disk::open_with(config, self.faults.clone()).expect("recovered"));
        assert_eq!(contents(self.store()), self.model);
    }

    fn step(&mut self, number: usize, step: Step) {
        let name = |key: u8| format!("/{key}");
        let value = |size: u16| Value::plain(vec![b'a' + (number % 26) as u8; size.into()]);
        let at = |bench: &Self, key| bench.model.get(&name(key)).map(|(_, _, modified)| *modified);
        match step {
            Step::Put(key, size) => {
                let ops = vec![Op::Put(name(key).into(), value(size))];
                self.commit(Txn { conditions: vec![], ops }, true);
            }
            Step::Create(key) => {
                let free = at(self, key).is_none();
                self.commit(Txn::create(name(key).into(), value(10)), free);
            }
            Step::Update(key) => {
                let modified = at(self, key);
                let txn = Txn::update(name(key).into(), modified.unwrap_or_default(), value(20));
                self.commit(txn, modified.is_some());
            }
            Step::Stale(key) => {
                let conditions = vec![Condition::ModifiedAt(name(key).into(), Revision(0))];
                self.commit(Txn { conditions, ops: vec![Op::Delete(name(key).into())] }, false);
            }
            Step::Delete(key) => {
                let modified = at(self, key);
                let txn = Txn::delete(name(key).into(), modified.unwrap_or_default());
                self.commit(txn, modified.is_some());
            }
            Step::FailWrites => self.fails(|faults| faults.fail_writes(1)),
            Step::FailSync => {
                self.fails(|faults| faults.fail_syncs(1));
                assert!(matches!(put(self.store(), "/x", "y"), Err(Error::Closed)), "no write after a failed sync");
                self.cut_unacknowledged();
                self.reopen();
            }
            Step::Reopen => self.reopen(),
        }
    }

    /// A failed sync leaves the frame in the file here, though a real disk may have lost it. Either is right; the model
    /// takes the side of the loss.
    fn cut_unacknowledged(&mut self) {
        self.store = None;
        let (path, end) = last_segment(self.dir.path());
        flip(&path, end - 1);
    }

    fn fails(&self, inject: impl Fn(&Faults)) {
        inject(&self.faults);
        put(self.store(), "/x", "lost").expect_err("the disk fails");
    }

    fn commit(&mut self, txn: Txn, holds: bool) {
        let ops = txn.ops.clone();
        match block(self.store().commit(txn)) {
            Ok(commit) => {
                assert!(holds);
                assert_eq!(commit.revision, self.revision.next());
                self.apply(commit.revision, ops);
            }
            Err(Error::Conflict { .. }) => assert!(!holds),
            Err(other) => panic!("{other}"),
        }
    }

    fn apply(&mut self, revision: Revision, ops: Vec<Op>) {
        self.revision = revision;
        for op in ops {
            match op {
                Op::Put(key, value) => {
                    let created = self.model.get(&*key).map_or(revision, |(_, created, _)| *created);
                    self.model.insert(key.to_string(), (value.bytes, created, revision));
                }
                Op::Delete(key) => drop(self.model.remove(&*key)),
            }
        }
        self.past.insert(revision, self.model.clone());
    }

    /// Every state that is still kept can be listed, and the watch from it leads to the present.
    fn check_history(&self) {
        let progress = block(self.store().progress()).expect("progress");
        assert_eq!(progress.revision, self.revision);
        for (at, model) in self.past.range(progress.oldest..) {
            let listing = block(self.store().list(Range { at: Some(*at), ..Range::prefix("") })).expect("the past");
            let listed: Model =
                listing.entries.iter().map(|e| (e.key.to_string(), (e.value.clone(), e.created, e.modified))).collect();
            assert_eq!(&listed, model);
        }
        let mut replayed = self.past[&progress.oldest].clone();
        let mut watch = block(self.store().watch("", progress.oldest)).expect("a watch");
        let batch = block(watch.progress()).expect("progress");
        for event in &batch.events {
            let (key, entry) = (event.entry.key.to_string(), &event.entry);
            let before = replayed.get(&key).map(|(_, _, modified)| *modified);
            assert_eq!(event.previous.as_ref().map(|previous| previous.modified), before);
            match event.deleted {
                true => replayed.remove(&key),
                false => replayed.insert(key, (entry.value.clone(), entry.created, entry.modified)),
            };
        }
        assert_eq!(replayed, self.model);
    }
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(48))]

    #[test]
    fn behaves_like_a_map_with_a_history(steps in steps()) {
        let mut bench = Bench::new();
        for (number, step) in steps.into_iter().enumerate() {
            bench.step(number, step);
        }
        bench.check_history();
        bench.reopen();
        bench.check_history();
    }
}

#[test]
fn a_torn_tail_is_cut_off_and_written_over() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Disk::open(Config::new(dir.path())).expect("a store");
    put(&store, "/a", "1").expect("written");
    let kept = contents(&store);
    put(&store, "/b", "2").expect("written");
    drop(store);
    let (path, end) = last_segment(dir.path());
    flip(&path, end - 1);
    let store = Disk::open(Config::new(dir.path())).expect("recovered");
    assert_eq!(contents(&store), kept);
    put(&store, "/c", "3").expect("written");
    let now = contents(&store);
    drop(store);
    let store = Disk::open(Config::new(dir.path())).expect("recovered");
    assert_eq!(contents(&store), now);
}

#[test]
fn a_file_cut_anywhere_recovers_a_prefix() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Disk::open(Config::new(dir.path())).expect("a store");
    for number in 0..10 {
        put(&store, &format!("/{number}"), "value").expect("written");
    }
    drop(store);
    let (path, end) = last_segment(dir.path());
    let bytes = fs::read(&path).expect("readable");
    for cut in (0..=end).rev().step_by(7) {
        let other = tempfile::tempdir().expect("a directory");
        let copy = other.path().join(path.file_name().expect("a name"));
        fs::write(copy, &bytes[..usize::try_from(cut).expect("small")]).expect("writable");
        let store = Disk::open(Config::new(other.path())).expect("recovered");
        let names: Vec<_> = contents(&store).into_keys().collect();
        let expected: Vec<_> = (0..names.len()).map(|number| format!("/{number}")).collect();
        assert_eq!(names, expected);
    }
}

#[test]
fn damage_in_the_middle_is_refused_by_name_and_place() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Disk::open(Config::new(dir.path())).expect("a store");
    for name in ["/a", "/b", "/c"] {
        put(&store, name, "value").expect("written");
    }
    drop(store);
    let (path, _) = last_segment(dir.path());
    flip(&path, 40);
    match Disk::open(Config::new(dir.path())).map(drop) {
        Err(Error::Corrupt { file, offset, .. }) => assert_eq!((file, offset), (path, 16)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_lost_file_of_the_log_is_noticed() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = || Config { segment_bytes: 100, ..Config::new(dir.path()) };
    let store = Disk::open(config()).expect("a store");
    for number in 0..30 {
        put(&store, &format!("/{number}"), "some value").expect("written");
    }
    drop(store);
    let segments = snapshot::files(dir.path(), "log-").expect("a directory");
    assert!(segments.len() > 3);
    fs::remove_file(&segments[1].1).expect("removed");
    assert!(matches!(Disk::open(config()), Err(Error::Corrupt { .. })));
}

#[test]
fn snapshots_replace_the_log() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = || Config { segment_bytes: 4 << 10, snapshot_bytes: 16 << 10, ..Config::new(dir.path()) };
    let store = Disk::open(config()).expect("a store");
    for number in 0..400 {
        put(&store, &format!("/{}", number % 7), &"x".repeat(200)).expect("written");
    }
    let now = contents(&store);
    drop(store);
    assert_eq!(snapshot::files(dir.path(), "snapshot-").expect("a directory").len(), 1);
    assert!(snapshot::files(dir.path(), "log-").expect("a directory").len() < 20);
    let store = Disk::open(config()).expect("recovered");
    assert_eq!(contents(&store), now);
    drop(store);
    let (_, path) = snapshot::files(dir.path(), "snapshot-").expect("a directory").pop().expect("a snapshot");
    flip(&path, 30);
    assert!(matches!(Disk::open(config()), Err(Error::Corrupt { .. })));
}

#[test]
fn a_full_disk_is_an_answer_and_passes() {
    let dir = tempfile::tempdir().expect("a directory");
    let faults = Faults::default();
    let store = Disk::open_with(Config::new(dir.path()), faults.clone()).expect("a store");
    put(&store, "/a", "1").expect("written");
    faults.fail_writes(1);
    assert!(matches!(put(&store, "/b", "2"), Err(Error::Full { .. })));
    put(&store, "/c", "3").expect("there is room again");
    let names: Vec<_> = contents(&store).into_keys().collect();
    assert_eq!(names, ["/a", "/c"]);
}

#[test]
fn history_is_bounded() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = Config { history_bytes: 20_000, ..Config::new(dir.path()) };
    let store = Disk::open(config).expect("a store");
    for _ in 0..100 {
        put(&store, "/a", &"x".repeat(1000)).expect("written");
    }
    let progress = block(store.progress()).expect("progress");
    let kept = progress.revision.0 - progress.oldest.0;
    assert!((10..20).contains(&kept), "{kept} revisions");
}
