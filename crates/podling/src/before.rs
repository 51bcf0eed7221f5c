//! What a directory was before a command that may fail: such a command leaves no half of a cluster behind. What was there before it, and a
//! cluster that has come to be, is never touched.

use std::path::PathBuf;

use crate::cluster::Place;

/// A directory as it was.
#[derive(Debug)]
pub(crate) struct Before {
    /// Whether there was nothing in it.
    was_empty: bool,
    /// Whether there was a file that named its process.
    was_named: bool,
    /// Directories that were not there: itself, and those that it is to lie in, the innermost first.
    missing: Vec<PathBuf>,
}

impl Before {
    /// Looks at it.
    pub(crate) fn of(place: &Place) -> Self {
        let found = std::fs::read_dir(&place.data_dir).map(|mut entries| entries.next().is_none());
        Self {
            was_empty: found.unwrap_or(true),
            was_named: place.pid_file().exists(),
            missing: place.data_dir.ancestors().take_while(|path| !path.exists()).map(PathBuf::from).collect(),
        }
    }

    /// Hands a result on; after a failure, what it has left is taken away first.
    pub(crate) fn unless_done<T>(&self, place: &Place, result: anyhow::Result<T>) -> anyhow::Result<T> {
        if result.is_err() {
            self.bring_back(place);
        }
        result
    }

    /// Whether a failure now leaves nothing.
    pub(crate) fn is_to_come_back(&self, place: &Place) -> bool {
        self.was_empty && matches!(place.facts(), Ok(None))
    }

    /// What cannot be removed stays: the failure itself is what has to be told.
    fn bring_back(&self, place: &Place) {
        // Somebody else may be at work there by now: that may be the very failure.
        if place.process().is_some() {
            return;
        }
        if self.is_to_come_back(place) {
            drop(place.clear());
        } else if !self.was_named {
            drop(std::fs::remove_file(place.pid_file()));
        }
        for directory in &self.missing {
            // Only empty ones go.
            drop(std::fs::remove_dir(directory));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(place: &Place, work: impl FnOnce()) {
        let before = Before::of(place);
        work();
        before.unless_done(place, Err::<(), _>(anyhow::anyhow!("it failed"))).expect_err("the failure is handed on");
    }

    fn leave_traces(place: &Place) {
        place.make().expect("a directory");
        drop(place.occupy().expect("a lock"));
        std::fs::create_dir_all(place.file("pki")).expect("a directory");
    }

    #[test]
    fn a_failure_leaves_what_was_there() {
        let outer = tempfile::tempdir().expect("a directory");
        let place = Place { data_dir: outer.path().join("a/b") };
        failed(&place, || leave_traces(&place));
        assert!(!outer.path().join("a").exists(), "nothing was there");
        std::fs::create_dir_all(&place.data_dir).expect("a directory");
        failed(&place, || leave_traces(&place));
        assert!(place.data_dir.exists() && !place.file("pki").exists(), "an empty directory was there");
        std::fs::create_dir(place.file("store")).expect("a directory");
        failed(&place, || leave_traces(&place));
        assert!(place.file("store").exists() && !place.pid_file().exists(), "a state was there");
    }

    #[test]
    fn a_cluster_that_came_to_be_stays() {
        let outer = tempfile::tempdir().expect("a directory");
        let place = Place { data_dir: outer.path().join("a") };
        let facts = serde_json::json!({"id": "12345678", "pod_cidr": "10.42.0.0/16", "node_name": "n",
            "node_address": "192.0.2.1", "listen": "127.0.0.1:1", "kubeconfig": null});
        failed(&place, || {
            leave_traces(&place);
            std::fs::write(place.file("cluster.json"), facts.to_string()).expect("a file");
        });
        assert!(place.file("cluster.json").exists() && place.file("pki").exists() && !place.pid_file().exists());
    }

    #[test]
    fn nobody_takes_away_what_another_process_uses() {
        let outer = tempfile::tempdir().expect("a directory");
        let place = Place { data_dir: outer.path().join("a") };
        let mut lock = None;
        failed(&place, || {
            place.make().expect("a directory");
            lock = Some(place.occupy().expect("a lock"));
        });
        assert!(place.pid_file().exists());
    }
}
