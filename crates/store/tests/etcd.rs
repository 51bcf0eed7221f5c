//! etcd under the contract, and misbehaving.

mod contract;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use store::etcd::{Config, Etcd};
use store::{Error, Op, Range, Revision, Store, Txn, Value};
use testkit::etcd::{Etcd as Running, Options};
use tokio::time::{Instant, timeout};

/// Finds the empty revision in a value of the contract, as a server finds it in an object. What says so is foreign.
fn read(_: &str, bytes: Bytes) -> Option<Value> {
    let text = std::str::from_utf8(&bytes).ok()?;
    if text.starts_with("foreign") {
        return None;
    }
    let place = ["\"rv\":\"", "{rv:"].iter().find_map(|mark| text.find(mark).map(|at| at + mark.len()));
    Some(place.map_or_else(|| Value::plain(bytes.clone()), |place| Value::stamped(bytes.clone(), place)))
}

fn config(etcd: &Running, prefix: &str) -> Config {
    let tls = etcd.tls();
    Config {
        prefix: prefix.to_owned(),
        authority_pem: tls.map(|tls| tls.authority_pem.clone()),
        identity: tls.map(|tls| (tls.client.certificate_pem.clone(), tls.client.key_pem.clone())),
        read: Arc::new(read),
        compaction: None,
        ..Config::new(etcd.endpoints())
    }
}

async fn running(options: Options) -> Option<Running> {
    if !Running::is_here() {
        return None;
    }
    Some(Running::start(&options).await.expect("etcd"))
}

async fn open(etcd: &Running, prefix: &str) -> Etcd {
    Etcd::open(config(etcd, prefix)).await.expect("a store")
}

async fn put(store: &Etcd, key: &str, value: &str) -> store::Result<Revision> {
    let ops = vec![Op::Put(key.into(), Value::plain(value.to_owned()))];
    Ok(store.commit(Txn { conditions: vec![], ops }).await?.revision)
}

async fn value(store: &Etcd, key: &str) -> Option<String> {
    let entry = store.get(key).await.expect("read").entry?;
    Some(String::from_utf8_lossy(&entry.value).into_owned())
}

async fn contract(etcd: &Running) {
    let number = AtomicUsize::new(0);
    contract::all(&|| {
        let prefix = format!("/test{}", number.fetch_add(1, Ordering::Relaxed));
        Box::pin(async move { Arc::new(open(etcd, &prefix).await) as Arc<dyn Store> })
    })
    .await;
}

#[tokio::test]
async fn keeps_the_contract() {
    let Some(etcd) = running(Options::default()).await else { return };
    contract(&etcd).await;
}

#[tokio::test]
async fn keeps_the_contract_with_three_members_and_certificates() {
    let Some(etcd) = running(Options { members: 3, tls: true, ..Options::default() }).await else { return };
    contract(&etcd).await;
    let strangers = Config { identity: None, ..config(&etcd, "/x") };
    let refused = Etcd::open(strangers).await.err().expect("no certificate, no store");
    assert!(matches!(refused, Error::Unavailable { .. }), "{refused}");
}

#[tokio::test]
async fn two_servers_see_each_other_s_writes_at_once() {
    let Some(etcd) = running(Options::default()).await else { return };
    let (one, other) = (open(&etcd, "/registry").await, open(&etcd, "/registry").await);
    for number in 0..100 {
        let text = number.to_string();
        put(&one, "/a", &text).await.expect("written");
        assert_eq!(value(&other, "/a").await, Some(text));
    }
    let written = put(&one, "/b", "1").await.expect("written");
    let mut watch = other.watch("/", written).await.expect("a watch from what the other has told");
    put(&other, "/b", "2").await.expect("written");
    let batch = watch.next().await.expect("it goes on").expect("a batch");
    assert_eq!(batch.events.len(), 1);
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let Some(etcd) = running(Options::default()).await else { return };
    let store = open(&etcd, "/registry").await;
    for number in 0..600 {
        put(&store, &format!("/p/{number:04}"), "{rv:}").await.expect("written");
    }
    let before = store.list(Range::prefix("/p/")).await.expect("a listing");
    drop(store);
    let after = open(&etcd, "/registry").await.list(Range::prefix("/p/")).await.expect("a listing");
    assert_eq!((after.entries.len(), after.revision), (600, before.revision));
    for (before, after) in before.entries.iter().zip(&after.entries) {
        assert_eq!((&before.key, before.modified, before.created), (&after.key, after.modified, after.created));
        assert_eq!(String::from_utf8_lossy(&after.value), format!("{{rv:{}}}", after.modified));
    }
}

#[tokio::test]
async fn what_others_keep_in_etcd_is_not_touched_and_not_shown() {
    let Some(etcd) = running(Options::default()).await else { return };
    let store = open(&etcd, "/registry").await;
    let others =
        Etcd::open(Config { read: Arc::new(|_, bytes| Some(Value::plain(bytes))), ..config(&etcd, "/registry") });
    let others = others.await.expect("a store");
    let mine = put(&store, "/a", "mine").await.expect("written");
    put(&others, "/foreign", "foreign thing").await.expect("written");
    put(&others, "/a", "foreign thing in my place").await.expect("written");
    let listing = store.list(Range::prefix("/")).await.expect("a listing");
    assert!(listing.entries.is_empty(), "{:?}", listing.entries);
    let over = store.commit(Txn::create("/foreign".into(), Value::plain("x"))).await;
    assert!(matches!(over, Err(Error::Conflict { current: None, .. })), "{over:?}");
    let over = store.commit(Txn::update("/a".into(), mine, Value::plain("x"))).await;
    assert!(matches!(over, Err(Error::Conflict { current: None, .. })), "{over:?}");
}

#[tokio::test]
async fn a_killed_member_is_left_for_another() {
    let Some(mut etcd) = running(Options { members: 3, ..Options::default() }).await else { return };
    let store = open(&etcd, "/registry").await;
    let start = store.progress().await.expect("progress").revision;
    let mut watch = store.watch("/", start).await.expect("a watch");
    let mut sure = Vec::new();
    for number in 0..60 {
        match number {
            15 | 45 => etcd.kill(number / 20).expect("killed"),
            30 => {
                etcd.run(0).expect("started");
                etcd.listens(0).await.expect("up");
            }
            _ => {}
        }
        let text = number.to_string();
        match put(&store, &format!("/{number:02}"), &text).await {
            Ok(_) => sure.push(text),
            Err(Error::Ambiguous { .. } | Error::Unavailable { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert!(sure.len() >= 50, "{} of 60 were written", sure.len());
    let entries = store.list(Range::prefix("/")).await.expect("a listing").entries;
    let kept: Vec<_> =
        entries.iter().map(|entry| String::from_utf8_lossy(&entry.value).parse::<u8>().expect("ours")).collect();
    let lost: Vec<_> = sure.iter().filter(|text| !kept.contains(&text.parse().expect("a number"))).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    let mut seen = Vec::new();
    while seen.len() < kept.len() {
        let batch = timeout(Duration::from_secs(20), watch.next())
            .await
            .expect("in time")
            .expect("it goes on")
            .expect("a batch");
        seen.extend(batch.events.iter().map(|event| event.revision()));
    }
    assert!(seen.is_sorted_by(|one, next| one < next), "out of order: {seen:?}");
}

#[tokio::test]
async fn without_quorum_everything_is_refused_in_time() {
    let Some(mut etcd) = running(Options { members: 3, ..Options::default() }).await else { return };
    let store = open(&etcd, "/registry").await;
    put(&store, "/a", "1").await.expect("written");
    etcd.kill(0).expect("killed");
    etcd.kill(1).expect("killed");
    let begun = Instant::now();
    let read = store.get("/a").await.map(drop);
    assert!(matches!(read, Err(Error::Unavailable { .. })), "{read:?}");
    let written = put(&store, "/a", "2").await;
    assert!(matches!(written, Err(Error::Unavailable { .. } | Error::Ambiguous { .. })), "{written:?}");
    // Each has a deadline of five seconds.
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    etcd.run(0).expect("started");
    etcd.listens(0).await.expect("up");
    let healed = testkit::eventually("a read", || async { store.get("/a").await.ok() }).await;
    assert!(healed.expect("a read").entry.is_some());
}

#[tokio::test]
async fn a_frozen_member_is_left_for_another() {
    let Some(etcd) = running(Options { members: 3, ..Options::default() }).await else { return };
    let store = open(&etcd, "/registry").await;
    put(&store, "/a", "1").await.expect("written");
    for number in 0..3 {
        etcd.freeze(number, true).expect("frozen");
        let read = testkit::eventually("a read", || async { store.get("/a").await.ok() }).await;
        assert!(read.expect("read").entry.is_some());
        let written = testkit::eventually("a write", || async { put(&store, "/a", "2").await.ok() }).await;
        written.expect("written");
        etcd.freeze(number, false).expect("goes on");
    }
}

#[tokio::test]
async fn an_etcd_that_has_gone_back_is_read_anew() {
    let Some(mut etcd) = running(Options::default()).await else { return };
    let store = open(&etcd, "/registry").await;
    let mut last = Revision::EMPTY;
    for number in 0..50 {
        last = put(&store, "/a", &number.to_string()).await.expect("written");
    }
    let mut watch = store.watch("/", last).await.expect("a watch");
    etcd.kill(0).expect("killed");
    etcd.wipe(0).expect("wiped");
    etcd.run(0).expect("started");
    etcd.listens(0).await.expect("up");
    let got = testkit::eventually("a read", || async { store.get("/a").await.ok() }).await.expect("a read");
    assert!(got.entry.is_none() && got.revision < last, "{got:?}");
    let told = timeout(Duration::from_secs(20), watch.next()).await.expect("in time");
    assert!(matches!(told, Some(Err(Error::Future { .. } | Error::Compacted { .. }))), "{told:?}");
    put(&store, "/a", "new").await.expect("written");
    assert_eq!(value(&store, "/a").await.as_deref(), Some("new"));
}

#[tokio::test]
async fn the_history_is_shortened_by_one_of_several_servers() {
    const ETCDCTL: &str = "/usr/bin/etcdctl";
    let Some(etcd) = running(Options::default()).await else { return };
    if !std::path::Path::new(ETCDCTL).exists() {
        eprintln!("SKIPPED: {ETCDCTL} is missing (Debian's etcd-client)");
        return;
    }
    let config = || Config { compaction: Some(Duration::from_millis(100)), ..config(&etcd, "/registry") };
    let (store, _other) = (Etcd::open(config()).await.expect("a store"), Etcd::open(config()).await.expect("a store"));
    let first = put(&store, "/a", "1").await.expect("written");
    put(&store, "/a", "2").await.expect("written");
    let endpoint = etcd.endpoints().remove(0);
    testkit::eventually("a shorter history", || async {
        let revision = format!("--rev={first}");
        let mut command = tokio::process::Command::new(ETCDCTL);
        command.env("ETCDCTL_API", "3").args(["--endpoints", &endpoint, "get", "/registry/a", &revision]);
        let output = command.output().await.expect("etcdctl runs");
        String::from_utf8_lossy(&output.stderr).contains("has been compacted").then_some(())
    })
    .await
    .expect("compacted");
    assert_eq!(value(&store, "/a").await.as_deref(), Some("2"));
    let past = store.list(Range { at: Some(first), ..Range::prefix("/") }).await.expect("memory still has it");
    assert_eq!(past.entries.len(), 1);
}

#[tokio::test]
async fn a_full_database_says_so() {
    let Some(etcd) = running(Options { quota: Some(8 << 20), ..Options::default() }).await else { return };
    let store = open(&etcd, "/registry").await;
    let large = "x".repeat(1 << 20);
    let mut refused = None;
    for number in 0..30 {
        if let Err(error) = put(&store, &format!("/{number}"), &large).await {
            refused = Some(error);
            break;
        }
    }
    let told = refused.as_ref().map(ToString::to_string).unwrap_or_default();
    assert!(matches!(refused, Some(Error::Full { .. })) && told.contains("etcdctl alarm disarm"), "{refused:?}");
    assert!(value(&store, "/0").await.is_some(), "what is there can be read");
    let huge = put(&store, "/huge", &"x".repeat(2 << 20)).await;
    assert!(matches!(huge, Err(Error::TooLarge { .. })), "{huge:?}");
}

#[tokio::test]
async fn nobody_there_is_an_error_that_names_the_member() {
    let store = Etcd::open(Config::new(["http://127.0.0.1:1".to_owned()])).await;
    let error = store.err().expect("refused").to_string();
    assert!(error.contains("http://127.0.0.1:1") && error.contains("refused"), "{error}");
}
