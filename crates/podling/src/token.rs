//! `podling token`: the tokens by which machines join. Each is a secret of kube-system, as upstream's bootstrap tokens are.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use client::kubeconfig::Kubeconfig;
use client::transport::Remote;
use client::{Client, Delete, resource};
use control::tokens::USES;
use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::cluster::{Facts, Place, Role};
use crate::up::CLUSTER_FACTS;

const NAMESPACE: &str = "kube-system";
const TYPE: &str = "bootstrap.kubernetes.io/token";
const GROUP: &str = "system:bootstrappers:podling:node";
const DEADLINE: Duration = Duration::from_secs(10);

/// The options of `token`.
#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: Verb,
}

#[derive(clap::Subcommand, Debug)]
enum Verb {
    /// Make a token, and print the command that joins with it
    Create {
        /// How long it is good for; 0 is forever
        #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = cli::duration)]
        ttl: Duration,
        /// How many machines may join with it [default: any number]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        uses: Option<u32>,
        /// What it is for
        #[arg(long, value_name = "TEXT", default_value = "")]
        description: String,
    },
    /// Show the tokens, without their secrets
    List,
    /// Make tokens worthless
    Delete {
        /// Their ids, or the tokens themselves
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
    },
}

/// What a machine shows to join: the digest of the cluster's authority, and a bootstrap token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) digest: String,
    pub(crate) id: String,
    secret: String,
}

impl Token {
    /// What the server is shown.
    pub(crate) fn bearer(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }
}

impl FromStr for Token {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_word = |part: &str, length: usize| {
            part.len() == length && part.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase())
        };
        match text.trim().split('.').collect::<Vec<_>>()[..] {
            [digest, id, secret] if is_word(digest, 64) && is_word(id, 6) && is_word(secret, 16) => {
                Ok(Self { digest: digest.to_owned(), id: id.to_owned(), secret: secret.to_owned() })
            }
            _ => Err("a token is DIGEST.ID.SECRET, as `podling token create` prints it".to_owned()),
        }
    }
}

/// The digest by which a token knows an authority: of its certificate in DER form.
pub(crate) fn digest(der: &[u8]) -> String {
    Sha256::digest(der).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Does what is asked.
pub(crate) fn run(options: Options) -> anyhow::Result<()> {
    let facts = options.place.existing()?;
    ensure!(facts.role != Role::Node, "tokens are made where the API server runs: this is a node");
    let access = Kubeconfig::read(&options.place.file("kubeconfig"))?.access(None)?;
    let client = Client::new(Arc::new(Remote::new(&access.server, &access.trust)?), "podling");
    let authority = access.trust.authorities_pem.context("the kubeconfig names no authority")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let work = async {
        match options.command {
            Verb::Create { ttl, uses, description } => {
                create(&client, &facts, &authority, &Wanted { ttl, uses, description }).await
            }
            Verb::List => list(&client).await,
            Verb::Delete { ids } => delete(&client, &ids).await,
        }
    };
    runtime.block_on(async { tokio::time::timeout(DEADLINE, work).await }).context("the API does not answer")?
}

struct Wanted {
    ttl: Duration,
    uses: Option<u32>,
    description: String,
}

async fn create(client: &Client, facts: &Facts, authority_pem: &str, wanted: &Wanted) -> anyhow::Result<()> {
    let authority = wire::identity::certificates(authority_pem)?;
    let token = Token { digest: digest(&authority[0]), id: word(6)?, secret: word(16)? };
    let mut data = json!({
        "token-id": token.id,
        "token-secret": token.secret,
        "usage-bootstrap-authentication": "true",
        "auth-extra-groups": GROUP,
    });
    if !wanted.ttl.is_zero() {
        data["expiration"] = api::time::format(Timestamp::now().checked_add(wanted.ttl)?).into();
    }
    if !wanted.description.is_empty() {
        data["description"] = wanted.description.as_str().into();
    }
    let mut secret = json!({"apiVersion": "v1", "kind": "Secret", "type": TYPE, "stringData": data,
        "metadata": {"name": name(&token.id)}});
    if let Some(uses) = wanted.uses {
        secret["metadata"]["annotations"] = json!({USES: uses.to_string()});
    }
    client.create(&resource::SECRETS.collection(Some(NAMESPACE)), &secret).await?;
    let text = format!("{}.{}", token.digest, token.bearer());
    say!("{text}");
    say!("");
    say!("On the other machine:");
    let told = client.get(&resource::CONFIG_MAPS.object(Some(NAMESPACE), CLUSTER_FACTS)).await?;
    say!("  podling join {} --token {text}", servers(facts, &told));
    if facts.listen.ip().is_loopback() {
        say!("");
        say!("The API server listens on {} only, where no other machine reaches it:", facts.listen.ip());
        let any = if facts.node_address.is_ipv4() { "0.0.0.0" } else { "[::]" };
        say!("start it with --listen {any}:{} first.", facts.listen.port());
    }
    Ok(())
}

/// The cluster's facts say by keys of this kind, one for each server, where other machines reach it.
pub(crate) const URLS: &str = "url.";

/// All servers that other machines reach, this one first.
fn servers(facts: &Facts, told: &Value) -> String {
    // The process that runs knows better than its file where the machine is now.
    let own = told["data"][format!("{URLS}{}", facts.id)].as_str().map_or_else(|| url(facts), str::to_owned);
    let of_others = |(key, url): (&String, &Value)| {
        let id = key.strip_prefix(URLS).filter(|id| *id != facts.id)?;
        url.as_str().filter(|url| *url != own && !is_loopback(url)).map(|url| (id.to_owned(), url.to_owned()))
    };
    let mut others: Vec<(String, String)> =
        told["data"].as_object().into_iter().flatten().filter_map(of_others).collect();
    others.sort_unstable();
    std::iter::once(own).chain(others.into_iter().map(|(_, url)| url)).collect::<Vec<_>>().join(",")
}

fn is_loopback(url: &str) -> bool {
    let address = url.trim_start_matches("https://").parse::<SocketAddr>();
    address.is_ok_and(|address| address.ip().is_loopback())
}

/// Where other machines reach the API.
pub(crate) fn url(facts: &Facts) -> String {
    let mut address = facts.listen;
    if address.ip().is_unspecified() {
        address.set_ip(facts.node_address);
    }
    match facts.advertise.first() {
        Some(name) => match name.parse::<IpAddr>() {
            Ok(ip) => format!("https://{}", SocketAddr::new(ip, address.port())),
            Err(_) => format!("https://{name}:{}", address.port()),
        },
        None => format!("https://{address}"),
    }
}

async fn list(client: &Client) -> anyhow::Result<()> {
    let selector = [("fieldSelector", "type=bootstrap.kubernetes.io/token")];
    let secrets = client.list(&resource::SECRETS.collection(Some(NAMESPACE)), &selector).await?.items;
    say!("{:<8}{:<22}{:<6}DESCRIPTION", "ID", "EXPIRES", "USES");
    for secret in secrets {
        let end = match value(&secret, "expiration") {
            end if end.is_empty() => "never".to_owned(),
            end => end,
        };
        let uses = secret["metadata"]["annotations"][USES].as_str().unwrap_or("any");
        say!("{:<8}{end:<22}{uses:<6}{}", value(&secret, "token-id"), value(&secret, "description"));
    }
    Ok(())
}

fn value(secret: &Value, key: &str) -> String {
    let bytes = STANDARD.decode(secret["data"][key].as_str().unwrap_or_default()).unwrap_or_default();
    String::from_utf8(bytes).unwrap_or_default()
}

async fn delete(client: &Client, ids: &[String]) -> anyhow::Result<()> {
    for text in ids {
        let id = text.parse::<Token>().map_or_else(|_| text.clone(), |token| token.id);
        match client.delete(&resource::SECRETS.object(Some(NAMESPACE), &name(&id)), &Delete::default()).await {
            Ok(_) => say!("token {id} is deleted"),
            Err(error) if error.is_not_found() => bail!("there is no token {id}: `podling token list` shows all"),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn name(id: &str) -> String {
    format!("bootstrap-token-{id}")
}

/// A random word of digits and small letters.
fn word(length: usize) -> anyhow::Result<String> {
    const LETTERS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut text = String::new();
    while text.len() < length {
        let mut bytes = [0u8; 32];
        getrandom::fill(&mut bytes).map_err(|e| anyhow::anyhow!("no randomness: {e}"))?;
        // 252 is the largest multiple of 36: beyond it, some letters would come more often than others.
        let fair = bytes.into_iter().filter(|byte| *byte < 252).map(|byte| char::from(LETTERS[usize::from(byte) % 36]));
        text.extend(fair.take(length - text.len()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_servers_that_are_reached_are_named() {
        let facts: Facts = serde_json::from_value(json!({
            "id": "12345678", "pod_cidr": "10.42.0.0/16", "node_name": "n", "node_address": "192.0.2.1",
            "listen": "0.0.0.0:6443", "kubeconfig": null,
        }))
        .expect("facts");
        let own = format!("{URLS}{}", facts.id);
        let told = json!({"data": {
            own: "https://192.0.2.99:6443",
            "url.b": "https://192.0.2.3:7443",
            "url.a": "https://api.example:6443",
            "url.c": "https://127.0.0.1:6443",
            "names.b": "b,192.0.2.3",
        }});
        let all = "https://192.0.2.99:6443,https://api.example:6443,https://192.0.2.3:7443";
        assert_eq!(servers(&facts, &told), all);
        assert_eq!(servers(&facts, &json!({})), "https://192.0.2.1:6443");
    }

    #[test]
    fn a_token_is_read_as_it_is_printed() {
        let text = format!("{}.abcdef.0123456789abcdef", digest(b"x"));
        let token: Token = text.parse().expect("a token");
        assert_eq!((token.id.as_str(), token.bearer().as_str()), ("abcdef", "abcdef.0123456789abcdef"));
        for bad in ["", "abcdef.0123456789abcdef", "x.abcdef.0123456789abcdef", &text.to_uppercase()] {
            assert!(bad.parse::<Token>().is_err(), "{bad}");
        }
        assert!(word(16).is_ok_and(|word| word.len() == 16));
    }
}
