//! Pulls images from registries: the Registry API version 2 and the OCI distribution specification, over TLS.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, LOCATION, USER_AGENT, WWW_AUTHENTICATE};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use sha2::{Digest, Sha256};
use tokio::time::timeout;
use wire::dial::{Dialer, Trust};
use wire::{Body, body};

use super::load::rewind;
use super::manifest::{ConfigDocument, Descriptor, Document, INDEX_TYPES, MANIFEST_TYPES, digest_of, encode};
use super::store::{Image, NewNames, Store};
use super::{Error, Reference};

const DOCUMENT_BYTES: usize = 16 << 20;
/// The head of an answer, and each further piece of it, must come within this time.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
const MAX_REDIRECTS: usize = 5;

/// A name and password for one registry.
#[derive(Clone, PartialEq, Eq)]
pub struct Auth {
    /// The registry as configurations name it: a host, perhaps with scheme and path.
    pub registry: String,
    /// Who.
    pub username: String,
    /// The secret.
    pub password: String,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth")
            .field("registry", &self.registry)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

impl Auth {
    fn is_for(&self, registry: &str) -> bool {
        let bare = self.registry.trim_start_matches("https://").trim_start_matches("http://");
        let host = bare.split('/').next().unwrap_or(bare);
        host == registry || (registry == "docker.io" && matches!(host, "index.docker.io" | "registry-1.docker.io"))
    }
}

/// How far a pull has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Bytes that have come.
    pub done_bytes: u64,
    /// Bytes to come, as the manifest says.
    pub total_bytes: u64,
}

/// Which registries are believed, and how they are spoken to.
#[derive(Debug, Clone, Default)]
pub struct Registries {
    /// PEM of authorities that are believed beside the public ones.
    pub authorities_pem: Option<String>,
    /// `host:port` of registries that speak plain HTTP.
    pub plain: Vec<String>,
}

type OnProgress = Arc<dyn Fn(Progress) + Send + Sync>;

impl Store {
    /// Pulls an image and enters it under its name. What is here already is not fetched again.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Unauthorized`], [`Error::Architecture`], [`Error::Corrupt`], or [`Error::Failed`] with the cause.
    pub async fn pull(self: &Arc<Self>, reference: &Reference, auths: &[Auth]) -> Result<Image, Error> {
        self.pull_with(reference, auths, Arc::new(|_| {})).await
    }

    /// [`Store::pull`], telling how far it has come.
    ///
    /// # Errors
    /// As [`Store::pull`].
    pub async fn pull_with(
        self: &Arc<Self>,
        reference: &Reference,
        auths: &[Auth],
        progress: OnProgress,
    ) -> Result<Image, Error> {
        let doing = |e| Error::failed(format!("pulling image \"{reference}\""), e);
        let session = Session::new(&self.registries, reference, auths).map_err(doing)?;
        let result = self.fetch(&session, reference, progress).await;
        result.map_err(|error| match error {
            Error::Architecture { .. } | Error::NotFound(_) | Error::Unauthorized { .. } => error,
            other => doing(other),
        })
    }

    async fn fetch(
        self: &Arc<Self>,
        session: &Session,
        reference: &Reference,
        progress: OnProgress,
    ) -> Result<Image, Error> {
        let (manifest, digest) = session.manifest(reference).await?;
        let config = manifest.config.as_ref().ok_or_else(|| Error::malformed("manifest", "it has no configuration"))?;
        let config = session.document(config).await?;
        let document = ConfigDocument::parse(&config)?;
        if document.diff_ids().len() != manifest.layers.len() {
            return Err(Error::malformed("manifest", "it names another number of layers than the configuration"));
        }
        let missing: Vec<(String, Descriptor)> = document
            .diff_ids()
            .iter()
            .cloned()
            .zip(manifest.layers.iter().cloned())
            .filter(|(diff_id, _)| !self.has_layer(diff_id))
            .collect();
        let total_bytes = missing.iter().map(|(_, layer)| layer.size).sum();
        let done = Mutex::new(Progress { done_bytes: 0, total_bytes });
        for (diff_id, layer) in missing {
            let on_bytes = |count: u64| {
                let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                done.done_bytes += count;
                progress(*done);
            };
            let mut file = self.download(session, &layer, on_bytes).await?;
            rewind(&mut file)?;
            let store = self.clone();
            let unpacking = tokio::task::spawn_blocking(move || store.add_layer(&diff_id, file));
            unpacking.await.map_err(|e| Error::failed("unpacking a layer", e))??;
        }
        let names = NewNames {
            names: vec![reference.to_string()],
            digests: vec![reference.with_digest(&digest)],
            by_hand: false,
        };
        self.add_image(&config, &names)?;
        self.find(reference).ok_or_else(|| Error::NotFound(reference.to_string()))
    }

    /// Fetches a blob into a file that has no name, checking its digest.
    async fn download(&self, session: &Session, blob: &Descriptor, on_bytes: impl Fn(u64)) -> Result<File, Error> {
        let draft = self.draft()?;
        let failed = |e: std::io::Error| Error::failed("keeping a download", e);
        let path = draft.path.join("blob");
        let mut file = File::options().read(true).write(true).create_new(true).open(&path).map_err(failed)?;
        let mut body = session.blob(&blob.digest).await?.into_body();
        let mut hash = Sha256::new();
        let mut length = 0;
        loop {
            let frame = timeout(ANSWER_DEADLINE, body.frame()).await;
            let Some(frame) = frame.map_err(|_| Error::failed("reading a layer", "the registry went silent"))? else {
                break;
            };
            let frame = frame.map_err(|e| Error::failed("reading a layer", e))?;
            let Ok(bytes) = frame.into_data() else { continue };
            length += bytes.len() as u64;
            if blob.size > 0 && length > blob.size {
                return Err(Error::malformed("layer", format!("it is longer than the {} bytes promised", blob.size)));
            }
            hash.update(&bytes);
            file.write_all(&bytes).map_err(failed)?;
            on_bytes(bytes.len() as u64);
        }
        let got = encode(hash);
        if got != blob.digest {
            return Err(Error::Corrupt { what: "a layer".into(), expected: blob.digest.clone(), got });
        }
        Ok(file)
    }
}

/// The conversation with one registry about one repository.
struct Session {
    dialer: Dialer,
    registry: String,
    base: String,
    repository: String,
    auth: Option<Auth>,
    authorization: Mutex<Option<String>>,
}

impl Session {
    fn new(registries: &Registries, reference: &Reference, auths: &[Auth]) -> Result<Self, Error> {
        let registry = reference.registry();
        let plain = registries.plain.iter().any(|host| host == registry);
        let trust = Trust {
            authorities_pem: registries.authorities_pem.clone(),
            public_too: true,
            plain_allowed: plain,
            ..Trust::default()
        };
        let host = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
        Ok(Self {
            dialer: Dialer::new(&trust).map_err(|e| Error::failed("preparing TLS", e))?,
            registry: registry.to_owned(),
            base: format!("{}://{host}", if plain { "http" } else { "https" }),
            repository: reference.repository().to_owned(),
            auth: auths.iter().find(|auth| auth.is_for(registry)).cloned(),
            authorization: Mutex::new(None),
        })
    }

    /// The manifest for this machine, and the digest by which the registry knows what was asked for.
    async fn manifest(&self, reference: &Reference) -> Result<(Document, String), Error> {
        let bytes = self.manifest_bytes(reference.selector()).await?;
        let digest = digest_of(&bytes);
        if let Some(wanted) = reference.digest().filter(|wanted| *wanted != digest) {
            return Err(Error::Corrupt { what: "the manifest".into(), expected: wanted.to_owned(), got: digest });
        }
        let document = Document::parse(&bytes)?;
        if document.manifests.is_empty() {
            return Ok((document, digest));
        }
        let chosen = document.for_this_machine()?.digest.clone();
        let bytes = self.manifest_bytes(&chosen).await?;
        let got = digest_of(&bytes);
        if got != chosen {
            return Err(Error::Corrupt { what: "the manifest".into(), expected: chosen, got });
        }
        Ok((Document::parse(&bytes)?, digest))
    }

    async fn manifest_bytes(&self, selector: &str) -> Result<Bytes, Error> {
        let url = format!("{}/v2/{}/manifests/{selector}", self.base, self.repository);
        let accept = [MANIFEST_TYPES, INDEX_TYPES].concat().join(", ");
        let response = self.get(&url, &accept).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Err(Error::NotFound(format!("{}/{}:{selector}", self.registry, self.repository)));
        }
        self.collect(self.checked(response)?).await
    }

    /// A small blob, checked.
    async fn document(&self, descriptor: &Descriptor) -> Result<Bytes, Error> {
        let response = self.blob(&descriptor.digest).await?;
        let bytes = self.collect(response).await?;
        let got = digest_of(&bytes);
        if got != descriptor.digest {
            let what = "the image configuration".into();
            return Err(Error::Corrupt { what, expected: descriptor.digest.clone(), got });
        }
        Ok(bytes)
    }

    async fn blob(&self, digest: &str) -> Result<Response<Body>, Error> {
        if !super::reference::is_digest(digest) {
            return Err(Error::malformed("manifest", format!("\"{digest}\" is no sha256 digest")));
        }
        let url = format!("{}/v2/{}/blobs/{digest}", self.base, self.repository);
        self.checked(self.get(&url, "*/*").await?)
    }

    fn checked(&self, response: Response<Body>) -> Result<Response<Body>, Error> {
        match response.status() {
            status if status.is_success() => Ok(response),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(self.unauthorized()),
            status => Err(Error::failed(format!("asking {}", self.registry), format!("it answered {status}"))),
        }
    }

    fn unauthorized(&self) -> Error {
        Error::Unauthorized { registry: self.registry.clone(), repository: self.repository.clone() }
    }

    async fn collect(&self, response: Response<Body>) -> Result<Bytes, Error> {
        let reading = timeout(ANSWER_DEADLINE, body::collect(response.into_body(), DOCUMENT_BYTES)).await;
        let doing = || format!("reading the answer of {}", self.registry);
        reading.map_err(|e| Error::failed(doing(), e))?.map_err(|e| Error::failed(doing(), e))
    }

    /// Asks, signs in if the registry wants that, and follows redirects.
    async fn get(&self, url: &str, accept: &str) -> Result<Response<Body>, Error> {
        let response = self.follow(url, accept).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let challenge = challenge(response.headers()).ok_or_else(|| self.unauthorized())?;
        let authorization = self.sign_in(&challenge).await?;
        *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(authorization);
        self.follow(url, accept).await
    }

    async fn follow(&self, url: &str, accept: &str) -> Result<Response<Body>, Error> {
        let own = url.parse::<Uri>().map_err(|e| Error::failed(format!("reading the address {url}"), e))?;
        let mut target = own.clone();
        for _ in 0..MAX_REDIRECTS {
            // The secret is for the registry alone, not for the host that it sends us to.
            let secret = (target.authority() == own.authority())
                .then(|| self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone());
            let response = self.send(&target, accept, secret.flatten()).await?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            target = redirect(&target, response.headers())
                .ok_or_else(|| Error::failed(format!("asking {}", self.registry), "it redirects to nowhere"))?;
        }
        Err(Error::failed(format!("asking {}", self.registry), "it redirects too often"))
    }

    async fn send(&self, target: &Uri, accept: &str, secret: Option<String>) -> Result<Response<Body>, Error> {
        let doing = || format!("asking {}", target.authority().map_or("", |authority| authority.as_str()));
        let mut request = Request::builder()
            .method(Method::GET)
            .uri(target)
            .header(USER_AGENT, concat!("podling/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT, accept);
        if let Some(secret) = secret {
            request = request.header(AUTHORIZATION, secret);
        }
        let request = request.body(body::empty()).map_err(|e| Error::failed(doing(), e))?;
        let answer = timeout(ANSWER_DEADLINE, self.dialer.send(request)).await;
        answer.map_err(|_| Error::failed(doing(), "no answer within 30 s"))?.map_err(|e| Error::failed(doing(), e))
    }

    /// Answers a challenge: the value of the `Authorization` header from now on.
    async fn sign_in(&self, challenge: &Challenge) -> Result<String, Error> {
        let basic = self
            .auth
            .as_ref()
            .map(|auth| format!("Basic {}", STANDARD.encode(format!("{}:{}", auth.username, auth.password))));
        if challenge.scheme == "basic" {
            return basic.ok_or_else(|| self.unauthorized());
        }
        let realm = challenge.parameters.get("realm").ok_or_else(|| self.unauthorized())?;
        let mut url = format!("{realm}{}", if realm.contains('?') { '&' } else { '?' });
        if let Some(service) = challenge.parameters.get("service") {
            url.extend(["service=", service, "&"]);
        }
        url.extend(["scope=repository:", &self.repository, ":pull"]);
        let target = url.parse::<Uri>().map_err(|e| Error::failed(format!("reading the address {url}"), e))?;
        // A password goes over TLS, or to a registry that was named as plain.
        if target.scheme_str() != Some("https") && !self.base.starts_with("http://") {
            return Err(Error::failed(format!("signing in at {}", self.registry), "its token service is not on TLS"));
        }
        let response = self.send(&target, "application/json", basic).await?;
        let bytes = self.collect(self.checked(response)?).await?;
        let answer: serde_json::Value =
            serde_json::from_slice(&bytes).map_err(|e| Error::failed(format!("signing in at {}", self.registry), e))?;
        let token = answer["token"].as_str().or_else(|| answer["access_token"].as_str());
        token.map(|token| format!("Bearer {token}")).ok_or_else(|| self.unauthorized())
    }
}

fn redirect(from: &Uri, headers: &HeaderMap) -> Option<Uri> {
    let location = headers.get(LOCATION)?.to_str().ok()?;
    if location.starts_with('/') {
        let (scheme, authority) = (from.scheme()?.clone(), from.authority()?.clone());
        return Uri::builder().scheme(scheme).authority(authority).path_and_query(location).build().ok();
    }
    location.parse().ok()
}

/// What a registry wants before it answers.
#[derive(Debug, PartialEq, Eq)]
struct Challenge {
    /// In lower case.
    scheme: String,
    parameters: BTreeMap<String, String>,
}

/// Reads `Bearer realm="…",service="…"`; a bearer challenge before a basic one.
fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let texts = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
    let mut all: Vec<Challenge> = texts.filter_map(parse_challenge).collect();
    all.sort_by_key(|challenge| challenge.scheme != "bearer");
    all.into_iter().find(|challenge| matches!(challenge.scheme.as_str(), "bearer" | "basic"))
}

fn parse_challenge(text: &str) -> Option<Challenge> {
    let (scheme, mut rest) = text.split_once(' ').unwrap_or((text, ""));
    let mut parameters = BTreeMap::new();
    while let Some((key, after)) = rest.split_once('=') {
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_at(after.find(',').unwrap_or(after.len())),
        };
        parameters.insert(key.trim().to_ascii_lowercase(), value.to_owned());
        rest = next.trim_start_matches([',', ' ']);
    }
    Some(Challenge { scheme: scheme.to_ascii_lowercase(), parameters })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let text = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io", scope="a:b,c""#;
        let challenge = parse_challenge(text).unwrap();
        assert_eq!(challenge.scheme, "bearer");
        assert_eq!(challenge.parameters["realm"], "https://auth.docker.io/token");
        assert_eq!(challenge.parameters["scope"], "a:b,c");
        assert_eq!(parse_challenge("Basic realm=x").unwrap().parameters["realm"], "x");
        assert_eq!(parse_challenge("Bearer realm=\"open"), None);
    }

    #[test]
    fn credentials_are_found_by_host() {
        let auth = |registry: &str| Auth { registry: registry.into(), username: "u".into(), password: "p".into() };
        assert!(auth("https://index.docker.io/v1/").is_for("docker.io"));
        assert!(auth("localhost:5000").is_for("localhost:5000"));
        assert!(!auth("localhost:5000").is_for("localhost"));
    }
}
