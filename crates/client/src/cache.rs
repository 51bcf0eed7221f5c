//! A cache of a collection, kept true by a watch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{mpsc, watch};

use crate::watch::Event;
use crate::{Client, Error};

/// How long to wait before the server is asked again after a failure.
const RETRY: Duration = Duration::from_millis(250);
const PAGE: &str = "500";
const QUEUE: usize = 256;

/// What makes an object itself, in its collection.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Key {
    /// The key of an object.
    pub fn of(object: &Value) -> Self {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        Self { namespace: text("namespace"), name: text("name") }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

/// What happened to an object, as far as the cache can tell.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// It is there, new or changed.
    Set(Arc<Value>),
    /// It is gone; its last known state.
    Removed(Arc<Value>),
    /// Everything that was there when the cache began has been reported.
    Synced,
}

/// The known objects of a collection. Cloning shares them.
#[derive(Clone, Default)]
pub struct Cache {
    objects: Arc<RwLock<BTreeMap<Key, Arc<Value>>>>,
}

impl Cache {
    /// Starts to follow the collection at `path`, narrowed by `query` (selectors). Changes are reported in order; whoever reads them sees
    /// the cache at least as new as the change.
    pub fn start(
        client: Client,
        path: String,
        query: Vec<(String, String)>,
        shutdown: watch::Receiver<bool>,
    ) -> (Self, mpsc::Receiver<Change>) {
        Self::start_trimmed(client, path, query, |_| {}, shutdown)
    }

    /// As [`Cache::start`], but `trim` takes out of each object what its reader does not need before it is kept. Metadata must stay.
    pub fn start_trimmed(
        client: Client,
        path: String,
        query: Vec<(String, String)>,
        trim: fn(&mut Value),
        shutdown: watch::Receiver<bool>,
    ) -> (Self, mpsc::Receiver<Change>) {
        let mut shared = Shared::new(client, path, query, trim);
        let reader = shared.reader();
        shared.start(shutdown);
        reader
    }

    /// One object.
    pub fn get(&self, key: &Key) -> Option<Arc<Value>> {
        self.objects.read().ok()?.get(key).cloned()
    }

    /// All objects, in the order of their keys.
    pub fn list(&self) -> Vec<Arc<Value>> {
        self.objects.read().map(|objects| objects.values().cloned().collect()).unwrap_or_default()
    }

    fn set(&self, object: Arc<Value>) {
        if let Ok(mut objects) = self.objects.write() {
            objects.insert(Key::of(&object), object);
        }
    }

    fn remove(&self, key: &Key) -> Option<Arc<Value>> {
        self.objects.write().ok()?.remove(key)
    }

    fn keys(&self) -> BTreeSet<Key> {
        self.objects.read().map(|objects| objects.keys().cloned().collect()).unwrap_or_default()
    }
}

/// A collection that several readers are about to follow by one watch: each object is read and kept once, and each reader hears of each
/// change. A reader that does not take its changes holds up the others, once its queue is full; one that is gone does not.
pub struct Shared {
    follower: Follower,
}

impl Shared {
    /// Of the collection at `path`, narrowed by `query`. `trim` leaves what any of the readers needs; metadata must stay.
    pub fn new(client: Client, path: String, query: Vec<(String, String)>, trim: fn(&mut Value)) -> Self {
        Self { follower: Follower { client, path, query, trim, cache: Cache::default(), changes: Vec::new() } }
    }

    /// One more reader.
    pub fn reader(&mut self) -> (Cache, mpsc::Receiver<Change>) {
        let (changes, receiver) = mpsc::channel(QUEUE);
        self.follower.changes.push(changes);
        (self.follower.cache.clone(), receiver)
    }

    /// Begins to follow, until the shutdown or until all readers are gone.
    pub fn start(self, shutdown: watch::Receiver<bool>) {
        tokio::spawn(self.follower.run(shutdown));
    }
}

struct Follower {
    client: Client,
    path: String,
    query: Vec<(String, String)>,
    trim: fn(&mut Value),
    cache: Cache,
    changes: Vec<mpsc::Sender<Change>>,
}

/// Nobody reads the changes any more.
struct Unread;

enum Stopped {
    Unread,
    Failed(Error),
}

impl From<Unread> for Stopped {
    fn from(_: Unread) -> Self {
        Self::Unread
    }
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Follower {
    async fn run(self, mut shutdown: watch::Receiver<bool>) {
        let mut version = None;
        let mut synced = false;
        loop {
            let failure = tokio::select! {
                () = wire::listen::stopped(&mut shutdown) => return,
                ended = self.follow(&mut version, &mut synced) => ended,
            };
            match failure {
                Ok(()) => continue,
                Err(Stopped::Unread) => return,
                Err(Stopped::Failed(error)) if error.is_expired() => version = None,
                Err(Stopped::Failed(error)) => tracing::debug!(%error, path = self.path, "a watch failed"),
            }
            tokio::select! {
                () = wire::listen::stopped(&mut shutdown) => return,
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }

    /// Lists if there is no version to go on from, then watches until the server ends the watch.
    async fn follow(&self, version: &mut Option<String>, synced: &mut bool) -> Result<(), Stopped> {
        let from = match version.take() {
            Some(from) => from,
            None => self.list().await?,
        };
        if !std::mem::replace(synced, true) {
            self.report(Change::Synced).await?;
        }
        let mut watch = self.client.watch(&self.path, &self.selectors(), &from).await?;
        *version = Some(from);
        while let Some(event) = watch.next().await? {
            let object = match event {
                Event::Added(object) | Event::Modified(object) => {
                    let object = self.trimmed(object);
                    self.cache.set(object.clone());
                    self.report(Change::Set(object.clone())).await?;
                    object
                }
                Event::Deleted(object) => {
                    let object = self.trimmed(object);
                    self.cache.remove(&Key::of(&object));
                    self.report(Change::Removed(object.clone())).await?;
                    object
                }
                Event::Bookmark(object) => Arc::new(object),
            };
            *version = object["metadata"]["resourceVersion"].as_str().map(str::to_owned);
        }
        Ok(())
    }

    /// Reads everything page by page; what has vanished in between is reported as removed.
    async fn list(&self) -> Result<String, Stopped> {
        let mut vanished = self.cache.keys();
        let mut next = String::new();
        loop {
            let mut query = self.selectors();
            query.push(("limit", PAGE));
            if !next.is_empty() {
                query.push(("continue", &next));
            }
            let page = self.client.list(&self.path, &query).await?;
            for object in page.items {
                let object = self.trimmed(object);
                vanished.remove(&Key::of(&object));
                self.cache.set(object.clone());
                self.report(Change::Set(object)).await?;
            }
            if page.next.is_empty() {
                for key in vanished {
                    if let Some(object) = self.cache.remove(&key) {
                        self.report(Change::Removed(object)).await?;
                    }
                }
                return Ok(page.resource_version);
            }
            next = page.next;
        }
    }

    fn trimmed(&self, mut object: Value) -> Arc<Value> {
        (self.trim)(&mut object);
        Arc::new(object)
    }

    fn selectors(&self) -> Vec<(&str, &str)> {
        self.query.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
    }

    async fn report(&self, change: Change) -> Result<(), Unread> {
        let mut reported = Err(Unread);
        for reader in &self.changes {
            if reader.send(change.clone()).await.is_ok() {
                reported = Ok(());
            }
        }
        reported
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::BoxFuture;
    use http::{Request, Response};
    use wire::{Body, body};

    use super::*;
    use crate::Transport;

    /// A server with one object, of which a watch tells that it goes.
    struct Server;

    impl Transport for Server {
        fn send(&self, request: Request<Body>) -> BoxFuture<'_, Result<Response<Body>, Error>> {
            let object = r#"{"metadata":{"name":"a","resourceVersion":"7"}}"#;
            let text = match request.uri().query().unwrap_or_default() {
                query if query.contains("resourceVersion=7") => return Box::pin(std::future::pending()),
                query if query.contains("watch=true") => format!("{{\"type\":\"DELETED\",\"object\":{object}}}\n"),
                _ => format!(r#"{{"metadata":{{"resourceVersion":"6"}},"items":[{object}]}}"#),
            };
            Box::pin(async move { Ok(Response::new(body::full(text))) })
        }

        fn upgrade(&self, request: Request<Body>) -> BoxFuture<'_, Result<Response<Body>, Error>> {
            self.send(request)
        }
    }

    #[tokio::test]
    async fn each_reader_hears_everything_and_one_that_is_gone_holds_up_nobody() {
        let mut shared = Shared::new(Client::new(Arc::new(Server), "test"), "/things".into(), Vec::new(), |_| {});
        let (mut readers, gone) = ([shared.reader(), shared.reader()], shared.reader());
        drop(gone);
        let (_stop, shutdown) = watch::channel(false);
        shared.start(shutdown);
        for (cache, changes) in &mut readers {
            assert!(matches!(changes.recv().await, Some(Change::Set(object)) if Key::of(&object).name == "a"));
            assert_eq!(changes.recv().await, Some(Change::Synced));
            assert!(matches!(changes.recv().await, Some(Change::Removed(_))));
            assert!(cache.list().is_empty());
        }
    }
}
