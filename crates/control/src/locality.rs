//! Which nodes have a pod's images already, and what that is worth: upstream's score of image locality. Pure.

use std::collections::BTreeMap;

use serde_json::Value;

const MB: u64 = 1 << 20;
/// Less than this is worth nothing: it is pulled in no time.
const LEAST: u64 = 23 * MB;
/// More than this for each container is worth no more.
const MOST: u64 = 1000 * MB;
const BEST: u64 = 100;

/// Where images are: their size by name, then by node.
#[derive(Debug, Default)]
pub struct Locality {
    images: BTreeMap<String, BTreeMap<String, u64>>,
}

impl Locality {
    /// What a node says in `status.images`, instead of what it said before.
    pub fn set(&mut self, node: &str, images: &Value) {
        self.remove(node);
        for image in images.as_array().into_iter().flatten() {
            let size = image["sizeBytes"].as_u64().unwrap_or(0);
            for name in image["names"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                self.images.entry(complete(name)).or_default().insert(node.to_owned(), size);
            }
        }
    }

    /// A node has gone.
    pub fn remove(&mut self, node: &str) {
        self.images.retain(|_, nodes| {
            nodes.remove(node);
            !nodes.is_empty()
        });
    }

    /// A pod's images, one for each container, by their complete names, in a cluster of so many nodes.
    pub fn of(&self, images: &[String], nodes: usize) -> Sought<'_> {
        let found = images.iter().filter_map(|name| self.images.get(name)).collect();
        Sought { found, containers: images.len() as u64, nodes: nodes as u64 }
    }
}

/// Those of a pod's images that are on some node.
#[derive(Debug)]
pub struct Sought<'a> {
    found: Vec<&'a BTreeMap<String, u64>>,
    containers: u64,
    nodes: u64,
}

impl Sought<'_> {
    /// What the images on a node are worth, 0 to 100. An image that few nodes have counts less, so that those few are not overrun.
    pub fn score(&self, node: &str) -> u64 {
        let worth = |at: &&BTreeMap<String, u64>| {
            let size = u128::from(at.get(node).copied().unwrap_or(0));
            (size * at.len() as u128).checked_div(u128::from(self.nodes)).unwrap_or(0)
        };
        let sum = u64::try_from(self.found.iter().map(worth).sum::<u128>()).unwrap_or(u64::MAX);
        let most = MOST * self.containers.max(1);
        BEST * (sum.clamp(LEAST, most) - LEAST) / (most - LEAST)
    }
}

/// A name of an image with its registry and its tag or digest, so that a pod's `nginx` is a node's `docker.io/library/nginx:latest`.
pub fn complete(name: &str) -> String {
    let (path, digest) = name.split_once('@').map_or((name, None), |(path, digest)| (path, Some(digest)));
    let tag = path.rfind(':').filter(|at| path.rfind('/').is_none_or(|slash| slash < *at));
    let (path, tag) = tag.map_or((path, "latest"), |at| (&path[..at], &path[at + 1..]));
    let is_registry = |first: &str| first.contains(['.', ':']) || first == "localhost";
    let path = match path.split_once('/') {
        Some((first, _)) if is_registry(first) => path.to_owned(),
        Some(_) => format!("docker.io/{path}"),
        None => format!("docker.io/library/{path}"),
    };
    digest.map_or_else(|| format!("{path}:{tag}"), |digest| format!("{path}@{digest}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(name: &str, megabytes: u64) -> Value {
        json!([{"names": [name], "sizeBytes": megabytes * MB}])
    }

    #[test]
    fn names_are_completed() {
        for (short, long) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("me/app:1", "docker.io/me/app:1"),
            ("localhost:5000/app", "localhost:5000/app:latest"),
            ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10"),
            ("nginx:1@sha256:ab", "docker.io/library/nginx@sha256:ab"),
        ] {
            assert_eq!(complete(short), long);
            assert_eq!(complete(long), long);
        }
    }

    #[test]
    fn size_counts_between_the_thresholds_by_how_many_nodes_have_it() {
        let mut locality = Locality::default();
        let images = [complete("app")];
        assert_eq!(locality.of(&images, 2).score("a"), 0);
        locality.set("a", &said("app", 1000));
        // One node of two has it: half of 1000 MB, less 23, of 977.
        assert_eq!(locality.of(&images, 2).score("a"), 48);
        assert_eq!(locality.of(&images, 2).score("b"), 0);
        locality.set("b", &said("docker.io/library/app:latest", 4000));
        assert_eq!((locality.of(&images, 2).score("a"), locality.of(&images, 2).score("b")), (100, 100));
        // A second container doubles what would be the most.
        let two = [complete("app"), complete("other")];
        assert_eq!(locality.of(&two, 2).score("a"), 49);
        locality.set("a", &said("app", 22));
        assert_eq!(locality.of(&images, 2).score("a"), 0);
    }

    #[test]
    fn what_a_node_no_longer_has_is_forgotten() {
        let mut locality = Locality::default();
        locality.set("a", &said("app", 500));
        locality.set("a", &said("other", 500));
        assert_eq!(locality.of(&[complete("app")], 1).score("a"), 0);
        assert_eq!(locality.of(&[complete("other")], 1).score("a"), 48);
        locality.remove("a");
        assert!(locality.images.is_empty());
    }
}
