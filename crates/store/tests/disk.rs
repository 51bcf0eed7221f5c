//! The disk log under the contract, and killed.

mod contract;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use store::{Config, Disk, Error, Range, Store, Txn, Value};

#[tokio::test]
async fn keeps_the_contract() {
    let dirs = Mutex::new(Vec::new());
    contract::all(&|| {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = Disk::open(Config::new(dir.path())).expect("a store");
        dirs.lock().expect("no panic").push(dir);
        Box::pin(async move { Arc::new(disk) as Arc<dyn Store> })
    })
    .await;
}

#[tokio::test]
async fn one_process_at_a_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let first = Disk::open(Config::new(dir.path())).expect("a store");
    assert!(matches!(Disk::open(Config::new(dir.path())), Err(Error::Busy { .. })));
    drop(first);
    Disk::open(Config::new(dir.path())).expect("free again");
}

const CHILD: &str = "PODLING_STORE_CHILD";

/// Not a test of its own: the process that the next test kills. It prints each number once it is durable.
#[tokio::test]
async fn child_that_is_killed() {
    let Ok(dir) = std::env::var(CHILD) else {
        return;
    };
    let config = Config { segment_bytes: 64 << 10, snapshot_bytes: 256 << 10, ..Config::new(dir) };
    let store = Disk::open(config).expect("a store");
    let start = store.list(Range::prefix("/")).await.expect("a listing").entries.len();
    let mut out = std::io::stdout().lock();
    for number in start.. {
        let value = Value::plain(format!("{number:0>300}"));
        store.commit(Txn::create(format!("/{number:08}").into(), value)).await.expect("created");
        writeln!(out, "ACK {number}").expect("the parent reads");
        out.flush().expect("the parent reads");
    }
}

/// Lets a child write until it has acknowledged some more numbers, and kills it. Answers the last acknowledged one.
fn run_and_kill(dir: &std::path::Path, acknowledgements: usize) -> usize {
    let mut child = Command::new(std::env::current_exe().expect("this binary"))
        .args(["child_that_is_killed", "--exact", "--nocapture"])
        .env(CHILD, dir)
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child");
    let out = BufReader::new(child.stdout.take().expect("piped"));
    let mut numbers = out.lines().map_while(Result::ok).filter_map(|line| line.strip_prefix("ACK ")?.parse().ok());
    let last = numbers.nth(acknowledgements - 1).expect("the child writes");
    child.kill().expect("killed");
    let later = numbers.last();
    child.wait().expect("reaped");
    later.unwrap_or(last)
}

#[tokio::test]
async fn a_killed_process_loses_no_acknowledged_write() {
    let dir = tempfile::tempdir().expect("a directory");
    for round in 1..8 {
        let last: usize = run_and_kill(dir.path(), 150 * round);
        let store = Disk::open(Config::new(dir.path())).expect("recovered");
        let entries = store.list(Range::prefix("/")).await.expect("a listing").entries;
        assert!(entries.len() > last, "{} entries, {last} acknowledged", entries.len());
        for (number, entry) in entries.iter().enumerate() {
            assert_eq!(String::from_utf8_lossy(&entry.value), format!("{number:0>300}"));
        }
    }
}
