//! Where our keys and values lie in etcd, beside those of others.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use super::Read;
use crate::{Key, Value};

/// So many foreign keys are named in the log; then it is clear what is going on.
const NAMED: usize = 100;

/// The prefix, and how values are read.
pub(super) struct Keys {
    prefix: String,
    read: Read,
    /// Foreign keys that were named already.
    foreign: Mutex<BTreeSet<Key>>,
}

impl Keys {
    pub(super) fn new(prefix: &str, read: Read) -> Self {
        Self { prefix: prefix.trim_end_matches('/').to_owned(), read, foreign: Mutex::default() }
    }

    /// A key of ours as etcd has it.
    pub(super) fn full(&self, key: &str) -> Vec<u8> {
        [self.prefix.as_bytes(), key.as_bytes()].concat()
    }

    /// The first key that may be ours, and the first after all that are.
    pub(super) fn range(&self) -> (Vec<u8>, Vec<u8>) {
        // What follows '/' is '0'.
        (self.full("/"), self.full("0"))
    }

    /// A key of etcd as we know it, if it is one of ours.
    pub(super) fn own(&self, full: &[u8]) -> Option<Key> {
        let own = full.strip_prefix(self.prefix.as_bytes()).filter(|own| own.starts_with(b"/"))?;
        std::str::from_utf8(own).ok().map(Key::from)
    }

    /// A value of ours; `None`, and a word in the log, if someone else has written it.
    pub(super) fn read(&self, key: &Key, bytes: Bytes) -> Option<Value> {
        let value = (self.read)(key, bytes);
        if value.is_none() {
            self.name(key);
        }
        value
    }

    fn name(&self, key: &Key) {
        let mut named = self.foreign.lock().unwrap_or_else(PoisonError::into_inner);
        if named.len() < NAMED && named.insert(key.clone()) {
            let key = format_args!("{}{key}", self.prefix);
            tracing::warn!(%key, "a value in etcd is not one of this cluster's and is not shown; remove it or use another prefix");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn keys_lie_under_the_prefix() {
        let keys = Keys::new("/registry/", Arc::new(|_, bytes| Some(Value::plain(bytes))));
        assert_eq!(keys.full("/pods/default/web"), b"/registry/pods/default/web");
        assert_eq!(keys.own(b"/registry/pods/a").as_deref(), Some("/pods/a"));
        assert_eq!(keys.own(b"/registryother/pods/a"), None);
        assert_eq!(keys.own(b"/registry/\xff"), None);
        let (from, to) = keys.range();
        assert!(from.as_slice() <= b"/registry/a".as_slice() && b"/registry/zz".as_slice() < to.as_slice());
        assert!(b"/registry0".as_slice() >= to.as_slice());
    }
}
