//! What every engine behind [`store::Store`] must do. Each function takes an empty store; an engine's test file runs them
//! all through [`all`].

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use store::{Batch, Condition, Error, Key, Op, Range, Revision, Store, Txn, Value, Watch};

type Opener<'a> = &'a dyn Fn() -> BoxFuture<'a, Arc<dyn Store>>;

/// Runs the whole contract, each part on a store of its own.
pub(crate) async fn all(open: Opener<'_>) {
    creates_once(&*open().await).await;
    updates_only_the_expected_version(&*open().await).await;
    deletes_and_tells_the_last_version(&*open().await).await;
    a_transaction_is_all_or_nothing(&*open().await).await;
    stamps_carry_the_revision(&*open().await).await;
    lists_in_order_with_limit_and_start(&*open().await).await;
    lists_the_past(&*open().await).await;
    list_and_watch_meet(&*open().await).await;
    a_watch_waits_and_wakes(&*open().await).await;
    progress_covers_the_present(&*open().await).await;
    compaction_forgets(&*open().await).await;
    the_future_is_refused(&*open().await).await;
    concurrent_creates_have_one_winner(open().await).await;
    concurrent_increments_lose_nothing(open().await).await;
}

fn key(name: &str) -> Key {
    name.into()
}

async fn put(store: &dyn Store, name: &str, value: &str) -> Revision {
    let txn = Txn { conditions: vec![], ops: vec![Op::Put(key(name), Value::plain(value.to_owned()))] };
    store.commit(txn).await.expect("an unconditional put").revision
}

async fn values(store: &dyn Store, range: Range) -> Vec<String> {
    let listing = store.list(range).await.expect("a listing");
    listing.entries.iter().map(|entry| String::from_utf8_lossy(&entry.value).into_owned()).collect()
}

fn told(batch: &Batch) -> Vec<(String, String, bool)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    batch.events.iter().map(|e| (e.entry.key.to_string(), text(&e.entry.value), e.deleted)).collect()
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("within the deadline")
}

async fn next(watch: &mut dyn Watch) -> Batch {
    soon(watch.next()).await.expect("the watch goes on").expect("a batch")
}

async fn creates_once(store: &dyn Store) {
    let first = store.commit(Txn::create(key("/a/1"), Value::plain("one"))).await.expect("created");
    assert!(first.revision > Revision::EMPTY);
    let got = store.get("/a/1").await.expect("read");
    let entry = got.entry.expect("it is there");
    assert_eq!((entry.created, entry.modified, &entry.value[..]), (first.revision, first.revision, &b"one"[..]));
    assert!(got.revision >= first.revision);
    match store.commit(Txn::create(key("/a/1"), Value::plain("two"))).await {
        Err(Error::Conflict { key, current: Some(current) }) => {
            assert_eq!((&*key, &current.value[..]), ("/a/1", &b"one"[..]));
        }
        other => panic!("a second create answered {other:?}"),
    }
    assert!(store.get("/a/2").await.expect("read").entry.is_none());
}

async fn updates_only_the_expected_version(store: &dyn Store) {
    let first = put(store, "/a", "1").await;
    let second = store.commit(Txn::update(key("/a"), first, Value::plain("2"))).await.expect("updated").revision;
    assert!(second > first);
    let stale = store.commit(Txn::update(key("/a"), first, Value::plain("3"))).await;
    assert!(matches!(stale, Err(Error::Conflict { current: Some(ref e), .. }) if e.modified == second), "{stale:?}");
    let absent = store.commit(Txn::update(key("/b"), first, Value::plain("3"))).await;
    assert!(matches!(absent, Err(Error::Conflict { current: None, .. })), "{absent:?}");
    let entry = store.get("/a").await.expect("read").entry.expect("there");
    assert_eq!((entry.created, entry.modified, &entry.value[..]), (first, second, &b"2"[..]));
}

async fn deletes_and_tells_the_last_version(store: &dyn Store) {
    let value = Value::stamped("{rv:}", 4);
    let made = store.commit(Txn::create(key("/a"), value)).await.expect("created").revision;
    let gone = store.commit(Txn::delete(key("/a"), made)).await.expect("deleted");
    let event = &gone.events[0];
    assert!(event.deleted && event.revision() == gone.revision);
    assert_eq!(String::from_utf8_lossy(&event.entry.value), format!("{{rv:{}}}", gone.revision));
    assert_eq!(event.previous.as_ref().map(|before| before.modified), Some(made));
    assert!(store.get("/a").await.expect("read").entry.is_none());
    let again = store.commit(Txn::delete(key("/a"), made)).await;
    assert!(matches!(again, Err(Error::Conflict { current: None, .. })), "{again:?}");
    let reborn = put(store, "/a", "x").await;
    assert_eq!(store.get("/a").await.expect("read").entry.expect("there").created, reborn);
}

async fn a_transaction_is_all_or_nothing(store: &dyn Store) {
    let at = put(store, "/a", "1").await;
    let ops = || vec![Op::Put(key("/b"), Value::plain("b")), Op::Delete(key("/a"))];
    let conditions = vec![Condition::Present(key("/a")), Condition::Absent(key("/a"))];
    let refused = store.commit(Txn { conditions, ops: ops() }).await;
    assert!(matches!(refused, Err(Error::Conflict { .. })), "{refused:?}");
    assert_eq!(values(store, Range::prefix("/")).await, ["1"]);
    let conditions = vec![Condition::ModifiedAt(key("/a"), at), Condition::Absent(key("/b"))];
    let mut watch = store.watch("/", at).await.expect("a watch");
    let done = store.commit(Txn { conditions, ops: ops() }).await.expect("carried out");
    assert_eq!(done.events.len(), 2);
    let batch = next(&mut *watch).await;
    assert_eq!(batch.events.len(), 2, "one revision comes in one batch");
    assert_eq!(batch.revision, done.revision);
}

async fn stamps_carry_the_revision(store: &dyn Store) {
    let done = store.commit(Txn::create(key("/a"), Value::stamped(r#"{"rv":"","x":1}"#, 7))).await.expect("created");
    let entry = store.get("/a").await.expect("read").entry.expect("there");
    assert_eq!(String::from_utf8_lossy(&entry.value), format!(r#"{{"rv":"{}","x":1}}"#, done.revision));
    let later = entry.stamped_as(Revision(1_234_567));
    assert_eq!(String::from_utf8_lossy(&later), r#"{"rv":"1234567","x":1}"#);
}

async fn lists_in_order_with_limit_and_start(store: &dyn Store) {
    for name in ["/p/b", "/p/d", "/p/a", "/q/a", "/p/c", "/o"] {
        put(store, name, name).await;
    }
    assert_eq!(values(store, Range::prefix("/p/")).await, ["/p/a", "/p/b", "/p/c", "/p/d"]);
    let range = Range { limit: Some(2), ..Range::prefix("/p/") };
    let page = store.list(range.clone()).await.expect("a page");
    assert_eq!((page.entries.len(), page.remaining), (2, 2));
    let rest = Range { after: Some("/p/b".to_owned()), at: Some(page.revision), ..range };
    assert_eq!(values(store, rest.clone()).await, ["/p/c", "/p/d"]);
    assert_eq!(store.list(rest).await.expect("a page").remaining, 0);
    assert_eq!(values(store, Range::prefix("/nothing/")).await, [""; 0]);
}

async fn lists_the_past(store: &dyn Store) {
    let first = put(store, "/a", "1").await;
    let second = put(store, "/b", "1").await;
    let third = put(store, "/a", "2").await;
    let at = store.get("/b").await.expect("read").entry.expect("there").modified;
    let fourth = store.commit(Txn::delete(key("/b"), at)).await.expect("deleted").revision;
    put(store, "/b", "3").await;
    let at = async |at| values(store, Range { at: Some(at), ..Range::prefix("/") }).await;
    assert_eq!(at(first).await, ["1"]);
    assert_eq!(at(second).await, ["1", "1"]);
    assert_eq!(at(third).await, ["2", "1"]);
    assert_eq!(at(fourth).await, ["2"]);
    assert_eq!(values(store, Range::prefix("/")).await, ["2", "3"]);
}

async fn list_and_watch_meet(store: &dyn Store) {
    put(store, "/p/a", "1").await;
    let listing = store.list(Range::prefix("/p/")).await.expect("a listing");
    put(store, "/q/x", "other").await;
    let second = put(store, "/p/a", "2").await;
    store.commit(Txn::delete(key("/p/a"), second)).await.expect("deleted");
    let mut watch = store.watch("/p/", listing.revision).await.expect("a watch");
    let mut seen = Vec::new();
    while seen.len() < 2 {
        seen.extend(told(&next(&mut *watch).await));
    }
    assert_eq!(seen, [("/p/a".into(), "2".into(), false), ("/p/a".into(), "2".into(), true)]);
}

async fn a_watch_waits_and_wakes(store: &dyn Store) {
    let at = store.progress().await.expect("progress").revision;
    let mut watch = store.watch("/p/", at).await.expect("a watch");
    let quiet = tokio::time::timeout(Duration::from_millis(30), watch.next()).await;
    assert!(quiet.is_err(), "nothing has happened");
    let (batch, ()) = soon(futures_util::future::join(watch.next(), async {
        put(store, "/q/1", "elsewhere").await;
        put(store, "/p/1", "here").await;
    }))
    .await;
    let batch = batch.expect("the watch goes on").expect("a batch");
    assert_eq!(told(&batch), [("/p/1".into(), "here".into(), false)]);
}

async fn progress_covers_the_present(store: &dyn Store) {
    let first = put(store, "/p/1", "1").await;
    let mut watch = store.watch("/p/", first).await.expect("a watch");
    let last = put(store, "/q/1", "1").await;
    let batch = soon(watch.progress()).await.expect("progress");
    assert!(batch.events.is_empty() && batch.revision >= last);
    put(store, "/p/2", "2").await;
    let batch = soon(watch.progress()).await.expect("progress");
    assert_eq!(told(&batch), [("/p/2".into(), "2".into(), false)]);
}

async fn compaction_forgets(store: &dyn Store) {
    let first = put(store, "/a", "1").await;
    let second = put(store, "/a", "2").await;
    let third = put(store, "/a", "3").await;
    let mut slow = store.watch("/", first).await.expect("a watch");
    store.compact(second).await.expect("compacted");
    let past = store.list(Range { at: Some(first), ..Range::prefix("/") }).await;
    assert!(matches!(past, Err(Error::Compacted { oldest }) if oldest == second), "{past:?}");
    assert_eq!(values(store, Range { at: Some(second), ..Range::prefix("/") }).await, ["2"]);
    let watch = store.watch("/", first).await.map(drop);
    assert!(matches!(watch, Err(Error::Compacted { .. })), "{watch:?}");
    let left_behind = soon(slow.next()).await;
    assert!(matches!(left_behind, Some(Err(Error::Compacted { .. }))), "{left_behind:?}");
    let mut watch = store.watch("/", second).await.expect("a watch");
    assert_eq!(next(&mut *watch).await.revision, third);
    assert_eq!(store.progress().await.expect("progress").oldest, second);
}

async fn the_future_is_refused(store: &dyn Store) {
    let now = put(store, "/a", "1").await;
    let at = Some(now.next());
    let list = store.list(Range { at, ..Range::prefix("/") }).await;
    assert!(matches!(list, Err(Error::Future { current }) if current == now), "{list:?}");
    let watch = store.watch("/", now.next()).await.map(drop);
    assert!(matches!(watch, Err(Error::Future { .. })), "{watch:?}");
}

async fn concurrent_creates_have_one_winner(store: Arc<dyn Store>) {
    let creates = (0..50).map(|n: u32| {
        let store = store.clone();
        async move { store.commit(Txn::create(key("/one"), Value::plain(n.to_string()))).await.is_ok() }
    });
    let created = futures_util::future::join_all(creates).await;
    assert_eq!(created.into_iter().filter(|created| *created).count(), 1);
}

fn increment(store: &dyn Store) -> BoxFuture<'_, ()> {
    Box::pin(async move {
        loop {
            let entry = store.get("/n").await.expect("read").entry.expect("there");
            let number: u64 = String::from_utf8_lossy(&entry.value).parse().expect("a number");
            let value = Value::plain((number + 1).to_string());
            match store.commit(Txn::update(key("/n"), entry.modified, value)).await {
                Ok(_) => return,
                Err(Error::Conflict { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
    })
}

async fn concurrent_increments_lose_nothing(store: Arc<dyn Store>) {
    put(&*store, "/n", "0").await;
    futures_util::future::join_all((0..20).map(|_| increment(&*store))).await;
    assert_eq!(values(&*store, Range::prefix("/n")).await, ["20"]);
}
