//! Whether the cluster knows this node, and since when that is certain.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The node's object that was registered, and the last moment at which it was there for certain.
#[derive(Debug, Default)]
pub(crate) struct Presence(Mutex<Option<(String, Instant)>>);

impl Presence {
    /// The object of this uid was registered; it was not there before `at`.
    pub(crate) fn set(&self, uid: &str, at: Instant) {
        *self.lock() = Some((uid.to_owned(), at));
    }

    /// The object of this uid was there at this moment. False if it is not the one that was registered.
    pub(crate) fn renew(&self, uid: &str, at: Instant) -> bool {
        match &mut *self.lock() {
            Some((known, seen)) if known == uid => {
                *seen = at.max(*seen);
                true
            }
            _ => false,
        }
    }

    /// Whether the object of this uid is the one that was registered.
    pub(crate) fn is_of(&self, uid: &str) -> bool {
        self.lock().as_ref().is_some_and(|(known, _)| known == uid)
    }

    /// The object has gone.
    pub(crate) fn forget(&self) {
        *self.lock() = None;
    }

    /// Whether the registered object was there within this time.
    pub(crate) fn is_fresh(&self, limit: Duration) -> bool {
        self.lock().as_ref().is_some_and(|(_, seen)| seen.elapsed() < limit)
    }

    fn lock(&self) -> MutexGuard<'_, Option<(String, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_the_registered_object_counts() {
        let presence = Presence::default();
        let limit = Duration::from_secs(10);
        assert!(!presence.is_fresh(limit) && !presence.renew("a", Instant::now()));
        presence.set("a", Instant::now());
        tokio::time::advance(limit).await;
        assert!(!presence.is_fresh(limit));
        assert!(!presence.renew("b", Instant::now()) && !presence.is_fresh(limit));
        assert!(presence.renew("a", Instant::now()) && presence.is_fresh(limit));
        presence.forget();
        assert!(!presence.is_fresh(limit) && !presence.renew("a", Instant::now()));
    }
}
