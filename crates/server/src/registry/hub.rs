//! Hubs: one watch of the store for all watchers that want one value of the same field, as a thousand nodes want their own pods. Each change
//! goes only to those whom it may concern, whose number it does not depend on how many others watch.
//!
//! A hub never waits for a watcher. One that is too slow loses its place and begins again from the history, where it was.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use store::{Event, Revision, Store, Watch};
use tokio::sync::{Notify, mpsc, oneshot};

use super::object::derived;
use super::{Resource, Selection};

/// So many changes wait for one watcher.
const QUEUE: usize = 256;
/// So many bookmarks may be asked for at the same time.
const QUESTIONS: usize = 64;
/// The fields by which watchers are told apart.
const INDEXED: [&str; 2] = ["spec.nodeName", "metadata.name"];

/// Keys and the field.
type Place = (String, &'static str);

/// The present hubs.
pub(super) struct Hubs {
    store: Arc<dyn Store>,
    hubs: Mutex<HashMap<Place, Arc<Hub>>>,
}

struct Hub {
    watchers: Mutex<Watchers>,
    /// Nobody watches any more.
    deserted: Notify,
    questions: mpsc::Sender<oneshot::Sender<Revision>>,
}

/// Its number, and the way to it.
type Watcher = (u64, mpsc::Sender<Arc<Event>>);

#[derive(Default)]
struct Watchers {
    next: u64,
    by_value: HashMap<String, Vec<Watcher>>,
}

/// One watcher's place in a hub.
pub(super) struct Seat {
    hubs: Arc<Hubs>,
    hub: Arc<Hub>,
    place: Place,
    value: String,
    id: u64,
    events: mpsc::Receiver<Arc<Event>>,
}

/// The field and the value of which a hub can tell the selected objects.
pub(super) fn index(selection: &Selection) -> Option<(&'static str, &str)> {
    let fields = selection.fields.as_ref()?;
    INDEXED.into_iter().find_map(|field| Some((field, fields.exact(field)?)))
}

impl Hubs {
    pub(super) fn new(store: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self { store, hubs: Mutex::default() })
    }

    /// Takes a seat: from now on no change that may concern the watcher is missed.
    pub(super) async fn sit(
        self: &Arc<Self>,
        selection: &Selection,
        index: (&'static str, &str),
    ) -> store::Result<Seat> {
        let place = (selection.prefix(), index.0);
        if let Some(seat) = self.sit_in(lock(&self.hubs).get(&place), &place, index.1) {
            return Ok(seat);
        }
        let now = self.store.progress().await?.revision;
        let watch = self.store.watch(&place.0, now).await?;
        let (hub, seat) = {
            let mut hubs = lock(&self.hubs);
            // Another may have made it meanwhile.
            if let Some(seat) = self.sit_in(hubs.get(&place), &place, index.1) {
                return Ok(seat);
            }
            let (questions, asked) = mpsc::channel(QUESTIONS);
            let hub = Arc::new(Hub { watchers: Mutex::default(), deserted: Notify::new(), questions });
            hubs.insert(place.clone(), hub.clone());
            let seat = self.sit_in(Some(&hub), &place, index.1);
            ((hub, asked), seat)
        };
        tokio::spawn(run(self.clone(), hub.0, place, selection.resource, watch, hub.1));
        seat.ok_or(store::Error::Closed)
    }

    fn sit_in(self: &Arc<Self>, hub: Option<&Arc<Hub>>, place: &Place, value: &str) -> Option<Seat> {
        let hub = hub?.clone();
        let (sender, events) = mpsc::channel(QUEUE);
        let mut watchers = lock(&hub.watchers);
        let id = watchers.next;
        watchers.next += 1;
        watchers.by_value.entry(value.to_owned()).or_default().push((id, sender));
        drop(watchers);
        Some(Seat { hubs: self.clone(), hub, place: place.clone(), value: value.to_owned(), id, events })
    }

    /// Takes a hub out, unless it has been replaced.
    fn forget(hubs: &mut HashMap<Place, Arc<Hub>>, place: &Place, hub: &Arc<Hub>) {
        if hubs.get(place).is_some_and(|present| Arc::ptr_eq(present, hub)) {
            hubs.remove(place);
        }
    }
}

impl Seat {
    /// The next changes that may concern the watcher; nothing when the seat is lost.
    pub(super) async fn next(&mut self) -> Option<Vec<Arc<Event>>> {
        let mut events = Vec::new();
        let count = self.events.recv_many(&mut events, QUEUE).await;
        (count > 0).then_some(events)
    }

    /// All changes up to the revision of the store, and that revision; nothing when the seat is lost.
    pub(super) async fn all(&mut self) -> Option<(Vec<Arc<Event>>, Revision)> {
        let (answer, revision) = oneshot::channel();
        self.hub.questions.send(answer).await.ok()?;
        let revision = revision.await.ok()?;
        let mut events = Vec::new();
        loop {
            match self.events.try_recv() {
                Ok(event) => events.push(event),
                Err(mpsc::error::TryRecvError::Empty) => return Some((events, revision)),
                // What was lost comes from the history.
                Err(mpsc::error::TryRecvError::Disconnected) => return None,
            }
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut hubs = lock(&self.hubs.hubs);
        let mut watchers = lock(&self.hub.watchers);
        watchers.leave(&self.value, self.id);
        if watchers.by_value.is_empty() {
            Hubs::forget(&mut hubs, &self.place, &self.hub);
            self.hub.deserted.notify_one();
        }
    }
}

impl Watchers {
    fn leave(&mut self, value: &str, id: u64) {
        if let Some(list) = self.by_value.get_mut(value) {
            list.retain(|(present, _)| *present != id);
            if list.is_empty() {
                self.by_value.remove(value);
            }
        }
    }

    /// Hands a change to those who want the value. Who has no room left loses the seat.
    fn hand(&mut self, value: &str, event: &Arc<Event>) {
        if let Some(list) = self.by_value.get_mut(value) {
            list.retain(|(_, sender)| sender.try_send(event.clone()).is_ok());
        }
    }
}

/// Follows the store until nobody watches, or the store closes, or the hub itself was too slow. Then all seats are lost.
async fn run(
    hubs: Arc<Hubs>,
    hub: Arc<Hub>,
    place: Place,
    resource: Resource,
    mut watch: Box<dyn Watch>,
    mut asked: mpsc::Receiver<oneshot::Sender<Revision>>,
) {
    loop {
        tokio::select! {
            () = hub.deserted.notified() => break,
            batch = watch.next() => match batch {
                Some(Ok(batch)) => hub.tell(&resource, place.1, &batch.events),
                _ => break,
            },
            Some(first) = asked.recv() => {
                let mut answers = vec![first];
                while let Ok(more) = asked.try_recv() {
                    answers.push(more);
                }
                let Ok(batch) = watch.progress().await else { break };
                hub.tell(&resource, place.1, &batch.events);
                // Whoever has gone needs no answer.
                answers.into_iter().for_each(|answer| _ = answer.send(batch.revision));
            }
        }
    }
    Hubs::forget(&mut lock(&hubs.hubs), &place, &hub);
    lock(&hub.watchers).by_value.clear();
}

impl Hub {
    fn tell(&self, resource: &Resource, field: &str, events: &[Arc<Event>]) {
        for event in events {
            let after = (!event.deleted).then_some(&event.entry);
            let versions = event.previous.iter().chain(after);
            let values: BTreeSet<String> = versions.map(|entry| value(resource, field, entry)).collect();
            let mut watchers = lock(&self.watchers);
            values.iter().for_each(|value| watchers.hand(value, event));
        }
    }
}

fn value(resource: &Resource, field: &str, entry: &store::Entry) -> String {
    let derived = derived(entry);
    if field == "metadata.name" {
        return derived.head(entry).name.clone();
    }
    let all = derived.fields(resource, entry);
    all.iter().find(|(known, _)| *known == field).map(|(_, value)| value.clone()).unwrap_or_default()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that holds these locks can panic halfway through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
