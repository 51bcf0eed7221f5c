//! Room beside a value for what its reader makes of it.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, OnceLock};

/// A slot that is filled once, by whoever first needs what is derived from the value beside it.
#[derive(Clone, Default)]
pub struct Memo(OnceLock<Arc<dyn Any + Send + Sync>>);

impl Memo {
    /// A slot that is filled already.
    pub fn filled<T: Any + Send + Sync>(value: Arc<T>) -> Self {
        Self(OnceLock::from(value as Arc<dyn Any + Send + Sync>))
    }

    /// What is in the slot; `derive` fills it if it is empty. Should the slot hold another type, `derive` is called each
    /// time: a store has one reader, so this costs only time.
    pub fn get_or<T: Any + Send + Sync>(&self, derive: impl Fn() -> T) -> Arc<T> {
        let kept = self.0.get_or_init(|| Arc::new(derive()));
        Arc::clone(kept).downcast().unwrap_or_else(|_| Arc::new(derive()))
    }
}

impl fmt::Debug for Memo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.get().is_some() { "Memo(filled)" } else { "Memo(empty)" })
    }
}
