//! Names of images, as Docker resolves them: `luksa/kubia` is `docker.io/luksa/kubia:latest`.

use super::Error;

const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

/// A complete image name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<String>,
}

impl Reference {
    /// Reads a name and fills in what it leaves out.
    ///
    /// # Errors
    /// [`Error::InvalidName`] in the words that Docker's and Kubernetes' users know.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let invalid = |why: &str| Error::InvalidName(why.to_owned());
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
            _ => (rest, None),
        };
        let (registry, repository) = split(path);
        if repository.chars().any(|c| c.is_ascii_uppercase()) {
            return Err(invalid("invalid reference format: repository name must be lowercase"));
        }
        let is_valid = !repository.is_empty()
            && repository.split('/').all(is_component)
            && is_registry(&registry)
            && tag.is_none_or(is_tag)
            && digest.is_none_or(is_digest);
        if !is_valid {
            return Err(invalid("invalid reference format"));
        }
        if registry.len() + 1 + repository.len() > MAX_NAME {
            return Err(invalid("repository name must not be more than 255 characters"));
        }
        let tag = tag.map(str::to_owned).or_else(|| digest.is_none().then(|| DEFAULT_TAG.to_owned()));
        Ok(Self { registry, repository, tag, digest: digest.map(str::to_owned) })
    }

    /// Host, and port if one is named.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path in the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The digest that is asked for, if the name has one.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// What a registry is asked for: digest before tag.
    pub fn selector(&self) -> &str {
        self.digest.as_deref().or(self.tag.as_deref()).unwrap_or(DEFAULT_TAG)
    }

    /// The name with a digest in place of tag and digest.
    pub fn with_digest(&self, digest: &str) -> String {
        format!("{}/{}@{digest}", self.registry, self.repository)
    }
}

impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

/// The first component names a registry if it could be no user of Docker's: it has a dot or a port, or is `localhost`.
fn split(path: &str) -> (String, String) {
    if let Some((first, rest)) = path.split_once('/')
        && (first.contains(['.', ':']) || first == "localhost" || first.chars().any(|c| c.is_ascii_uppercase()))
    {
        let registry = if first == "index.docker.io" { DEFAULT_REGISTRY } else { first };
        let library = registry == DEFAULT_REGISTRY && !rest.contains('/');
        return (registry.to_owned(), if library { format!("library/{rest}") } else { rest.to_owned() });
    }
    let repository = if path.contains('/') { path.to_owned() } else { format!("library/{path}") };
    (DEFAULT_REGISTRY.to_owned(), if path.is_empty() { String::new() } else { repository })
}

fn is_component(text: &str) -> bool {
    let is_alphanumeric = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends_well = |end: Option<&u8>| end.is_some_and(|c| is_alphanumeric(*c));
    // Between letters and digits: one dot, one or two underscores, or any number of dashes.
    let separators = text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()).filter(|run| !run.is_empty());
    let mut separators = separators.map(|run| matches!(run, "." | "_" | "__") || run.bytes().all(|c| c == b'-'));
    ends_well(bytes.first()) && ends_well(bytes.last()) && separators.all(|is_fine| is_fine)
}

fn is_registry(text: &str) -> bool {
    let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.split('.').all(is_label)
        && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|c| c.is_ascii_digit()))
}

fn is_tag(text: &str) -> bool {
    let is_word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    text.len() <= MAX_TAG
        && text.bytes().next().is_some_and(is_word)
        && text.bytes().all(|c| is_word(c) || c == b'.' || c == b'-')
}

/// `sha256:` and 64 hexadecimal digits: what this store can check.
pub(crate) fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_as_docker_does() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let cases = [
            ("luksa/kubia", "docker.io/luksa/kubia:latest".to_owned()),
            ("busybox", "docker.io/library/busybox:latest".to_owned()),
            ("docker.io/busybox:1.35", "docker.io/library/busybox:1.35".to_owned()),
            ("localhost/x", "localhost/x:latest".to_owned()),
            ("localhost:5000/a/b:v1", "localhost:5000/a/b:v1".to_owned()),
            ("registry.k8s.io/pause", "registry.k8s.io/pause:latest".to_owned()),
            (&format!("a/b@{digest}"), format!("docker.io/a/b@{digest}")),
            (&format!("a/b:t@{digest}"), format!("docker.io/a/b:t@{digest}")),
        ];
        for (text, expected) in cases {
            assert_eq!(Reference::parse(text).unwrap().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in ["", "a//b", "a/b:", "-a", "a:b:c", "a@sha256:12", "a b", "a/../b", "a__-b", "x/Y"] {
            assert!(Reference::parse(text).is_err(), "{text}");
        }
        let error = Reference::parse("x/Y").unwrap_err().to_string();
        assert_eq!(error, "invalid reference format: repository name must be lowercase");
    }
}
