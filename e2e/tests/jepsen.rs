//! Two servers over three members of etcd, while somebody kills and freezes them at random; then the histories are read, in the manner of Jepsen.
//!
//! Each of some config maps holds a list, to which writers append by compare-and-swap through either server. What was acknowledged must be in the
//! list once and for all, what was refused must not, a read must show all that was acknowledged before it began, and a watch, resumed at the
//! other server where it broke off, must show each step of the list and no other.
//!
//! `PODLING_JEPSEN_SECONDS` says for how long (20), `PODLING_JEPSEN_SEED` with which choices.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use client::transport::Remote;
use client::watch::Event;
use client::{Client, Error};
use e2e::cluster::podling;
use serde_json::{Value, json};
use testkit::etcd::{Etcd, Options};
use testkit::eventually;
use tokio::time::{sleep, timeout};
use wire::dial::Trust;
use wire::identity::Credential;

const KEYS: usize = 4;
const WRITERS: usize = 6;
const COLLECTION: &str = "/api/v1/namespaces/default/configmaps";
/// Longer than any deadline of a server.
const PATIENCE: Duration = Duration::from_secs(12);

fn path(key: usize) -> String {
    format!("{COLLECTION}/list-{key}")
}

fn list(object: &Value) -> Vec<String> {
    let text = object["data"]["list"].as_str().unwrap_or_default();
    text.split(',').filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).expect("a resource version")
}

/// A server's process and the way to it.
struct Server {
    data: PathBuf,
    store: Vec<String>,
    port: u16,
    child: Option<Child>,
}

impl Server {
    fn new(directory: &Path, name: &str, store: Vec<String>) -> Self {
        let port =
            std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
        Self { data: directory.join(name), store, port, child: None }
    }

    fn run(&mut self) {
        let log =
            std::fs::File::options().create(true).append(true).open(self.data.with_extension("log")).expect("a log");
        let mut command = Command::new(podling());
        command.args(["server", "--listen", &format!("127.0.0.1:{}", self.port), "--data-dir"]).arg(&self.data);
        command
            .args(["--node-name", "server", "--kubeconfig"])
            .arg(self.data.with_extension("kubeconfig"))
            .args(&self.store);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
        self.child = Some(command.spawn().expect("podling can be started"));
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("killed");
            child.wait().expect("reaped");
        }
    }

    fn client(&self) -> Client {
        let pki = self.data.join("pki");
        let credential = Credential::read(&pki.join("admin.crt"), &pki.join("admin.key")).expect("a certificate");
        let authority = std::fs::read_to_string(pki.join("ca.crt")).expect("an authority");
        let trust = Trust { authorities_pem: Some(authority), credential: Some(credential), ..Trust::default() };
        Client::new(
            Arc::new(Remote::new(&format!("https://127.0.0.1:{}", self.port), &trust).expect("a way")),
            "jepsen",
        )
    }

    async fn is_up(&self) {
        let up = eventually("a server", || async {
            self.data.join("pki/admin.key").exists().then_some(())?;
            self.client().get("/api/v1/namespaces/default").await.ok()
        });
        let said = || std::fs::read_to_string(self.data.with_extension("log")).unwrap_or_default();
        up.await.unwrap_or_else(|error| panic!("{error}: {}", said()));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let log = std::fs::read_to_string(self.data.with_extension("log")).unwrap_or_default();
        if std::thread::panicking() {
            eprintln!("{}:\n{log}", self.data.display());
        }
        let ended = Command::new(podling()).args(["down", "--purge", "--data-dir"]).arg(&self.data).output();
        assert!(std::thread::panicking() || ended.is_ok_and(|output| output.status.success()), "down --purge");
    }
}

/// What became of the appended items.
#[derive(Default)]
struct Ledger {
    acknowledged: [BTreeSet<String>; KEYS],
    refused: [BTreeSet<String>; KEYS],
    unknown: usize,
}

/// What all of the test shares.
struct World {
    ledger: Mutex<Ledger>,
    clients: [Client; 2],
    over: AtomicBool,
    reads: AtomicUsize,
}

impl World {
    fn acknowledged(&self, key: usize) -> BTreeSet<String> {
        self.ledger.lock().expect("no panic").acknowledged[key].clone()
    }

    /// Reads a list, and checks that all is there that was acknowledged before.
    async fn read(&self, client: &Client, key: usize) -> Option<Value> {
        let before = self.acknowledged(key);
        let object = timeout(PATIENCE, client.get(&path(key))).await.ok()?.ok()?;
        let shown: BTreeSet<String> = list(&object).into_iter().collect();
        let missing: Vec<_> = before.difference(&shown).collect();
        assert!(missing.is_empty(), "a read of list {key} at {} does not show {missing:?}", version(&object));
        self.reads.fetch_add(1, Ordering::Relaxed);
        Some(object)
    }

    async fn append(&self, client: &Client, key: usize, item: String) {
        let Some(mut object) = self.read(client, key).await else { return };
        let mut items = list(&object);
        items.push(item.clone());
        object["data"]["list"] = items.join(",").into();
        let outcome = timeout(PATIENCE, client.update(&path(key), &object)).await;
        let mut ledger = self.ledger.lock().expect("no panic");
        match outcome {
            Ok(Ok(_)) => drop(ledger.acknowledged[key].insert(item)),
            Ok(Err(error)) if error.is_conflict() => drop(ledger.refused[key].insert(item)),
            Ok(Err(_)) | Err(_) => ledger.unknown += 1,
        }
    }
}

async fn writer(world: Arc<World>, number: usize) {
    let mut count = 0;
    while !world.over.load(Ordering::Relaxed) {
        let client = &world.clients[(number + count / 7) % 2];
        world.append(client, (number + count) % KEYS, format!("w{number}-{count}")).await;
        count += 1;
        sleep(Duration::from_millis(3)).await;
    }
}

/// What a watcher has seen: each list, as far as it knows it.
#[derive(Default)]
struct Seen {
    lists: BTreeMap<String, Vec<String>>,
    version: u64,
    steps: usize,
    relists: usize,
}

impl Seen {
    fn step(&mut self, object: &Value) {
        let (name, new, at) = (object["metadata"]["name"].as_str().unwrap_or_default(), list(object), version(object));
        assert!(at > self.version, "version {at} of {name} comes after {}", self.version);
        self.version = at;
        let old = self.lists.insert(name.to_owned(), new.clone()).unwrap_or_default();
        let is_next = new.len() == old.len() + 1 && new.starts_with(&old);
        assert!(is_next || new.is_empty(), "{name} at {at} goes from {} items to {new:?}", old.len());
        self.steps += 1;
    }

    /// After the history was gone: nothing may have been taken back.
    fn anew(&mut self, listed: &client::List) {
        for object in &listed.items {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            if !name.starts_with("list-") {
                continue;
            }
            let (new, old) = (list(object), self.lists.remove(name).unwrap_or_default());
            assert!(new.starts_with(&old), "{name} has lost something of {old:?}: {new:?}");
            self.lists.insert(name.to_owned(), new);
        }
        self.version = self.version.max(listed.resource_version.parse().expect("a version"));
        self.relists += 1;
    }
}

/// Watches at one server, and goes on at the other where it broke off. Ends when it has seen what it must.
async fn watcher(world: Arc<World>, number: usize, until: Arc<AtomicUsize>) -> Seen {
    let mut seen = Seen::default();
    let mut attempt = number;
    loop {
        let client = &world.clients[attempt % 2];
        attempt += 1;
        if let Err(error) = follow(client, &mut seen, &until).await {
            let expired = error.is_expired();
            if expired && let Ok(Ok(listed)) = timeout(PATIENCE, client.list(COLLECTION, &[])).await {
                seen.anew(&listed);
            }
            sleep(Duration::from_millis(50)).await;
        }
        if has_all(&seen, &until) {
            return seen;
        }
    }
}

fn has_all(seen: &Seen, until: &AtomicUsize) -> bool {
    let until = until.load(Ordering::Relaxed);
    until > 0 && seen.version >= until as u64
}

async fn follow(client: &Client, seen: &mut Seen, until: &AtomicUsize) -> Result<(), Error> {
    if seen.version == 0 {
        let listed = client.list(COLLECTION, &[]).await?;
        seen.anew(&listed);
        seen.relists = 0;
    }
    let version = seen.version.to_string();
    let opening = client.watch(COLLECTION, &[], &version);
    let Ok(watch) = timeout(PATIENCE, opening).await else { return Ok(()) };
    let mut watch = watch?;
    // A frozen machine ends nothing: whoever hears nothing looks elsewhere.
    while let Ok(told) = timeout(Duration::from_secs(4), watch.next()).await {
        match told? {
            Some(Event::Added(object) | Event::Modified(object))
                if object["metadata"]["name"] != "kube-root-ca.crt" =>
            {
                seen.step(&object);
            }
            Some(Event::Bookmark(object)) => seen.version = seen.version.max(self::version(&object)),
            Some(_) => {}
            None => return Ok(()),
        }
        if has_all(seen, until) {
            return Ok(());
        }
    }
    Ok(())
}

/// Chooses what happens next.
struct Chance(u64);

impl Chance {
    fn new() -> Self {
        let given = std::env::var("PODLING_JEPSEN_SEED").ok().and_then(|text| text.parse().ok());
        let now =
            || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64);
        let seed = given.unwrap_or_else(now) | 1;
        eprintln!("PODLING_JEPSEN_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// Does harm until the end, one thing at a time; what was harmed is whole again after each turn.
async fn harm(etcd: &mut Etcd, servers: &mut [Server; 2], chance: &mut Chance, end: Instant) -> [usize; 4] {
    let mut done = [0; 4];
    while Instant::now() < end {
        sleep(Duration::from_millis(300 + chance.below(900))).await;
        let (what, whom, long) =
            (chance.below(7), chance.below(3) as usize, Duration::from_millis(200 + chance.below(2500)));
        match what {
            0..=2 => {
                etcd.kill(whom).expect("killed");
                sleep(long).await;
                etcd.run(whom).expect("started");
                done[0] += 1;
            }
            3 => {
                etcd.freeze(whom, true).expect("frozen");
                sleep(long).await;
                etcd.freeze(whom, false).expect("goes on");
                done[1] += 1;
            }
            4 => {
                // No quorum is left.
                let other = (whom + 1) % 3;
                etcd.kill(whom).expect("killed");
                etcd.kill(other).expect("killed");
                sleep(long).await;
                etcd.run(whom).expect("started");
                etcd.run(other).expect("started");
                done[2] += 1;
            }
            _ => {
                let server = &mut servers[whom % 2];
                server.kill();
                sleep(long / 2).await;
                server.run();
                done[3] += 1;
            }
        }
    }
    done
}

fn seconds() -> u64 {
    std::env::var("PODLING_JEPSEN_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_and_nothing_comes_out_of_order() {
    if !e2e::can_run() || !Etcd::is_here() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let mut etcd = Etcd::start(&Options { members: 3, tls: true, ..Options::default() }).await.expect("etcd");
    let mut servers =
        ["a", "b"].map(|name| Server::new(directory.path(), name, store_options(directory.path(), &etcd)));
    for server in &mut servers {
        server.run();
        server.is_up().await;
    }
    let clients = [servers[0].client(), servers[1].client()];
    for key in 0..KEYS {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("list-{key}")}, "data": {"list": ""}});
        clients[0].create(COLLECTION, &object).await.expect("made");
    }
    let (over, reads) = (AtomicBool::new(false), AtomicUsize::new(0));
    let world = Arc::new(World { ledger: Mutex::default(), clients, over, reads });
    let until = Arc::new(AtomicUsize::new(0));
    let writers: Vec<_> = (0..WRITERS).map(|number| tokio::spawn(writer(world.clone(), number))).collect();
    let watchers: Vec<_> = (0..4).map(|number| tokio::spawn(watcher(world.clone(), number, until.clone()))).collect();
    let end = Instant::now() + Duration::from_secs(seconds());
    let done = harm(&mut etcd, &mut servers, &mut Chance::new(), end).await;
    world.over.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.expect("the writer's reads were right");
    }
    // What etcd was still about to carry out, although nobody waits for it any more.
    sleep(Duration::from_secs(3)).await;
    let finals = finals(&world).await;
    let last = finals.iter().map(version).max().expect("lists");
    // Bookmarks need something to happen; this is what all watchers must come to.
    let marker =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "list-end"}, "data": {"list": ""}});
    let marker = eventually("a write", || async { world.clients[0].create(COLLECTION, &marker).await.ok() })
        .await
        .expect("made");
    assert!(version(&marker) > last);
    until.store(usize::try_from(version(&marker)).expect("small"), Ordering::Relaxed);
    check(&world, &finals);
    for watcher in watchers {
        let seen =
            timeout(Duration::from_secs(60), watcher).await.expect("in time").expect("the watcher saw each step");
        for (key, object) in finals.iter().enumerate() {
            assert_eq!(seen.lists.get(&format!("list-{key}")), Some(&list(object)), "what a watcher has come to");
        }
        eprintln!("a watcher saw {} steps and listed anew {} times", seen.steps, seen.relists);
    }
    let [killed, frozen, without, servers_killed] = done;
    eprintln!(
        "harm: {killed} members killed, {frozen} frozen, {without} times no quorum, {servers_killed} servers killed"
    );
    let ledger = world.ledger.lock().expect("no panic");
    let count = |sets: &[BTreeSet<String>]| sets.iter().map(BTreeSet::len).sum::<usize>();
    let (acknowledged, refused) = (count(&ledger.acknowledged), count(&ledger.refused));
    let reads = world.reads.load(Ordering::Relaxed);
    eprintln!("{acknowledged} acknowledged, {refused} refused, {} unknown, {reads} reads", ledger.unknown);
    assert!(acknowledged > 50, "too little was done to mean anything");
}

fn store_options(directory: &Path, etcd: &Etcd) -> Vec<String> {
    let tls = etcd.tls().expect("certificates");
    let file = |name: &str, content: &str| {
        let path = directory.join(name);
        std::fs::write(&path, content).expect("written");
        path.to_string_lossy().into_owned()
    };
    let mut options = vec!["--store".to_owned(), format!("etcd={}", etcd.endpoints().join(","))];
    let files = [
        ("--etcd-cafile", file("etcd-ca.crt", &tls.authority_pem)),
        ("--etcd-certfile", file("etcd.crt", &tls.client.certificate_pem)),
        ("--etcd-keyfile", file("etcd.key", &tls.client.key_pem)),
    ];
    options.extend(files.into_iter().flat_map(|(option, file)| [option.to_owned(), file]));
    options
}

/// The lists at the end, when all is whole again; both servers say the same.
async fn finals(world: &World) -> Vec<Value> {
    let mut finals = Vec::new();
    for key in 0..KEYS {
        let [one, other] = [0, 1].map(|server| {
            let client = &world.clients[server];
            async move { eventually("a read", || async { world.read(client, key).await }).await.expect("a read") }
        });
        let (one, other) = (one.await, other.await);
        assert_eq!(list(&one), list(&other), "the servers disagree on list {key}");
        finals.push(one);
    }
    finals
}

fn check(world: &World, finals: &[Value]) {
    let ledger = world.ledger.lock().expect("no panic");
    for (key, object) in finals.iter().enumerate() {
        let items = list(object);
        let set: BTreeSet<String> = items.iter().cloned().collect();
        assert_eq!(set.len(), items.len(), "list {key} has something twice");
        let lost: Vec<_> = ledger.acknowledged[key].difference(&set).collect();
        assert!(lost.is_empty(), "acknowledged and lost in list {key}: {lost:?}");
        let ghosts: Vec<_> = ledger.refused[key].intersection(&set).collect();
        assert!(ghosts.is_empty(), "refused and yet in list {key}: {ghosts:?}");
    }
}
