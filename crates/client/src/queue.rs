//! A work queue: each key waits once, however often it was added, and may wait for a moment in time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// Keys that wait to be worked on. Cloning shares the queue.
pub struct Queue<K> {
    state: Arc<Mutex<State<K>>>,
    changed: Arc<Notify>,
}

impl<K> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Self { state: self.state.clone(), changed: self.changed.clone() }
    }
}

struct State<K> {
    ready: VecDeque<K>,
    waiting: BTreeSet<K>,
    later: BTreeMap<K, Instant>,
}

impl<K: Clone + Ord + Hash> Default for Queue<K> {
    fn default() -> Self {
        let state = State { ready: VecDeque::new(), waiting: BTreeSet::new(), later: BTreeMap::new() };
        Self { state: Arc::new(Mutex::new(state)), changed: Arc::new(Notify::new()) }
    }
}

impl<K: Clone + Ord + Hash> Queue<K> {
    /// Adds a key to work on now. One that waits already waits once.
    pub fn add(&self, key: K) {
        let mut state = self.lock();
        state.later.remove(&key);
        if state.waiting.insert(key.clone()) {
            state.ready.push_back(key);
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Adds a key to work on at `when`, or earlier if it was added for an earlier moment.
    pub fn add_at(&self, key: K, when: Instant) {
        let mut state = self.lock();
        if !state.waiting.contains(&key) {
            let earliest = state.later.get(&key).map_or(when, |set| when.min(*set));
            state.later.insert(key, earliest);
        }
        drop(state);
        self.changed.notify_one();
    }

    /// The next key. Waits until there is one.
    pub async fn next(&self) -> K {
        loop {
            let changed = self.changed.notified();
            let due = {
                let mut state = self.lock();
                state.promote(Instant::now());
                if let Some(key) = state.ready.pop_front() {
                    state.waiting.remove(&key);
                    return key;
                }
                state.later.values().min().copied()
            };
            match due {
                Some(due) => tokio::select! {
                    () = changed => {}
                    () = sleep_until(due) => {}
                },
                None => changed.await,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<K>> {
        // Nothing that holds the lock can panic halfway through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Ord> State<K> {
    fn promote(&mut self, now: Instant) {
        let due: Vec<K> = self.later.iter().filter(|(_, when)| **when <= now).map(|(key, _)| key.clone()).collect();
        for key in due {
            self.later.remove(&key);
            if self.waiting.insert(key.clone()) {
                self.ready.push_back(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_key_waits_once() {
        let queue = Queue::default();
        queue.add("a");
        queue.add("b");
        queue.add("a");
        assert_eq!(queue.next().await, "a");
        assert_eq!(queue.next().await, "b");
        queue.add("c");
        assert_eq!(queue.next().await, "c");
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_comes_when_it_is_due() {
        let (queue, begun) = (Queue::default(), Instant::now());
        queue.add_at("late", begun + Duration::from_secs(9));
        queue.add_at("soon", begun + Duration::from_secs(5));
        queue.add_at("late", begun + Duration::from_secs(7));
        assert_eq!(queue.next().await, "soon");
        assert_eq!(queue.next().await, "late");
        assert_eq!(begun.elapsed().as_secs(), 7);
    }
}
