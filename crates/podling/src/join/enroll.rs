//! How a machine becomes a node: it meets the server that its token speaks of, and gets certificates.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use client::resource::CERTIFICATE_REQUESTS;
use client::transport::Remote;
use client::watch::Event;
use client::{Client, resource};
use http::{HeaderMap, Request, Uri};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use wire::Identity;
use wire::authority::{Usage, write_private};
use wire::dial::Trust;
use wire::identity::Credential;

use crate::token::{self, Token};
use crate::up::CLUSTER_FACTS;

/// A request must be decided within this time.
const DECISION: Duration = Duration::from_secs(30);
/// Clocks may differ by so much.
const CLOCKS: SignedDuration = SignedDuration::from_mins(5);

/// The first of the servers that answers, and the certificate of the authority that the token speaks of, as that server shows it.
pub(super) async fn meet(servers: &[String], token: &Token) -> anyhow::Result<(String, String)> {
    let mut unreachable = None;
    for url in servers {
        let uri: Uri = url.parse().with_context(|| format!("reading the server's address \"{url}\""))?;
        let host = uri.host().with_context(|| format!("the server's address \"{url}\" names no host"))?;
        match wire::dial::shown_chain(host, uri.port_u16().unwrap_or(6443)).await {
            Ok(chain) => return Ok((url.clone(), compare(url, &chain, token)?)),
            Err(error) => unreachable = unreachable.or(Some(error)),
        }
    }
    Err(unreachable.context("name the server to join: https://HOST:PORT")?.into())
}

fn compare(url: &str, chain: &[Vec<u8>], token: &Token) -> anyhow::Result<String> {
    match chain.iter().find(|certificate| token::digest(certificate) == token.digest) {
        Some(authority) => Ok(wire::identity::to_pem(authority)),
        None => {
            let shown = chain.last().map(|certificate| token::digest(certificate)).unwrap_or_default();
            bail!(
                "the server at {url} is not the one that made the token: the token speaks of the authority {}, the server \
                 shows {shown}. Take a token of that very cluster; if it is, somebody is in between",
                token.digest
            )
        }
    }
}

/// A way to the server for a machine that has nothing but a token.
pub(super) fn stranger(url: &str, authority_pem: &str, token: &Token) -> anyhow::Result<Client> {
    let trust = Trust { authorities_pem: Some(authority_pem.to_owned()), ..Trust::default() };
    let remote = Remote::new(url, &trust)?.with_token(&token.bearer())?;
    Ok(Client::new(Arc::new(remote), "podling"))
}

/// Refuses to join with a clock that is wrong by much: certificates and leases would mean nothing.
pub(super) async fn compare_clocks(client: &Client, url: &str, token: &Token) -> anyhow::Result<()> {
    let request = Request::get("/version").body(wire::body::empty())?;
    let headers = match client.raw(request).await {
        Ok((headers, _)) => headers,
        Err(error) if error.code() != 0 => return Err(refused(error, Some(token))),
        Err(error) => return Err(explain(error, url)),
    };
    clock_error(&headers, Timestamp::now()).map_or(Ok(()), |wrong| Err(anyhow!(wrong)))
}

fn clock_error(headers: &HeaderMap, now: Timestamp) -> Option<String> {
    let theirs = headers.get(http::header::DATE)?.to_str().ok()?;
    let theirs = jiff::fmt::rfc2822::parse(theirs).ok()?.timestamp();
    let ahead = now.duration_since(theirs);
    (ahead.abs() > CLOCKS).then(|| {
        let (minutes, how) = (ahead.abs().as_mins(), if ahead.is_negative() { "behind" } else { "ahead of" });
        format!(
            "this machine's clock is {minutes} min {how} the server's ({theirs}): certificates and leases would mean \
             nothing. Set it, as `timedatectl set-ntp true` does, and join again"
        )
    })
}

/// What a failure to reach the server most likely means.
fn explain(error: client::Error, url: &str) -> anyhow::Error {
    let text = format!("{:#}", anyhow::Error::from(error));
    let lower = text.to_lowercase();
    if lower.contains("expired") || lower.contains("not valid yet") || lower.contains("notvalidyet") {
        let now = api::time::format(Timestamp::now());
        return anyhow!("{text}: here it is {now}. If that is wrong, set the clock (`timedatectl set-ntp true`)");
    }
    if lower.contains("not valid for name") || lower.contains("notvalidforname") {
        let cure = "start the server with --advertise and that name, or join at one of its addresses";
        return anyhow!("the server's certificate does not hold for {url}: {cure}");
    }
    anyhow!("{text}")
}

/// What the cluster tells its nodes.
pub(super) async fn facts(client: &Client, token: Option<&Token>) -> anyhow::Result<Value> {
    match client.get(&resource::CONFIG_MAPS.object(Some("kube-system"), CLUSTER_FACTS)).await {
        Ok(map) => Ok(map["data"].clone()),
        Err(error) => Err(refused(error, token)),
    }
}

/// A refusal, with what to do about it.
fn refused(error: client::Error, token: Option<&Token>) -> anyhow::Error {
    let cure = "`podling token create` where the server runs makes another";
    match (error.code(), token) {
        (401, Some(token)) if error.to_string().contains("expired") => {
            let text = error.to_string();
            anyhow!(
                "{}: {cure}",
                text.trim_start_matches("Unauthorized: ").replace(&token.id, &format!("\"{}\"", token.id))
            )
        }
        (401, Some(token)) => {
            anyhow!(
                "the server does not know the token \"{}\": it was mistyped, deleted, used up, or its time is over; {cure}",
                token.id
            )
        }
        (401 | 403, None) => anyhow!("the server does not accept this node's certificate any more ({error}): {cure}"),
        _ => anyhow::Error::from(error),
    }
}

/// Whether the same question may be answered later: nobody listens, or the server is not up yet. A server that is another one stays so.
pub(super) fn may_pass(error: &anyhow::Error) -> bool {
    match error.downcast_ref::<client::Error>() {
        Some(client::Error::Api(status)) => status.code == 404 || status.code >= 500,
        Some(error) => !chain(error).contains("certificate"),
        None => false,
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Asks for a certificate, and waits for it.
pub(super) async fn certificate(
    client: &Client,
    node: &str,
    usage: Usage,
    names: &[String],
    token: Option<&Token>,
) -> anyhow::Result<Credential> {
    let identity = Identity::new(format!("system:node:{node}"), &["system:nodes"]);
    let (request_pem, key_pem) = wire::request::create(&identity, names)?;
    let (signer, needed) = match usage {
        Usage::Client => ("kubernetes.io/kube-apiserver-client-kubelet", "client auth"),
        Usage::Server => ("kubernetes.io/kubelet-serving", "server auth"),
    };
    let object = json!({
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"generateName": "node-csr-"},
        "spec": {
            "request": STANDARD.encode(&request_pem),
            "signerName": signer,
            "usages": ["digital signature", needed],
        },
    });
    let made = client.create(&CERTIFICATE_REQUESTS.collection(None), &object).await;
    let made = made.map_err(|error| refused(error, token))?;
    let name = made["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let signed = tokio::time::timeout(DECISION, signed(client, made)).await.map_err(|_| {
        anyhow!("nobody has decided on {name} within {} s: is a controller running?", DECISION.as_secs())
    })??;
    Ok(Credential { certificate_pem: signed, key_pem })
}

/// Waits until a request is signed or refused.
async fn signed(client: &Client, mut request: Value) -> anyhow::Result<String> {
    let name = request["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let selector = format!("metadata.name={name}");
    let mut version = request["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    loop {
        let path = CERTIFICATE_REQUESTS.collection(None);
        let mut watch = client.watch(&path, &[("fieldSelector", &selector)], &version).await?;
        loop {
            if let Some(certificate) = outcome(&request)? {
                return Ok(certificate);
            }
            match watch.next().await? {
                Some(Event::Added(object) | Event::Modified(object)) => request = object,
                Some(Event::Deleted(_)) => bail!("somebody has deleted {name} before it was decided"),
                Some(Event::Bookmark(_)) => {}
                None => break,
            }
            version = request["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        }
    }
}

fn outcome(request: &Value) -> anyhow::Result<Option<String>> {
    let conditions = request["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let against = conditions.iter().find(|condition| condition["type"] == "Denied" || condition["type"] == "Failed");
    if let Some(condition) = against {
        bail!("{}", condition["message"].as_str().unwrap_or("the request for a certificate was denied"));
    }
    let Some(encoded) = request["status"]["certificate"].as_str() else { return Ok(None) };
    Ok(Some(String::from_utf8(STANDARD.decode(encoded)?)?))
}

/// Reads certificate and key, which lie in one file so that they are always those that belong together.
pub(super) fn read(path: &Path) -> anyhow::Result<Option<Credential>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(Credential { certificate_pem: text.clone(), key_pem: text })),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

/// Writes certificate and key.
pub(super) fn write(path: &Path, credential: &Credential) -> anyhow::Result<()> {
    let text = format!("{}{}", credential.certificate_pem, credential.key_pem);
    Ok(write_private(path, text.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_wrong_is_told() {
        let mut headers = HeaderMap::new();
        headers.insert(http::header::DATE, "Wed, 25 Nov 2026 02:00:00 GMT".parse().expect("a header"));
        let wrong = |now: &str| clock_error(&headers, now.parse().expect("a moment"));
        assert_eq!(wrong("2026-11-25T02:04:00Z"), None);
        assert!(wrong("2026-11-25T03:01:00Z").is_some_and(|text| text.contains("61 min ahead of the server's")));
        assert!(wrong("2026-11-25T00:59:00Z").is_some_and(|text| text.contains("61 min behind the server's")));
    }

    #[test]
    fn a_denial_is_told_in_its_own_words() {
        let request = json!({"status": {"conditions": [{"type": "Denied", "message": "no"}]}});
        assert_eq!(outcome(&request).expect_err("it is denied").to_string(), "no");
        assert_eq!(outcome(&json!({"status": {}})).expect("undecided"), None);
        let signed = json!({"status": {"certificate": STANDARD.encode("PEM")}});
        assert_eq!(outcome(&signed).expect("signed").as_deref(), Some("PEM"));
    }
}
