//! Decides on requests for certificates and has them signed: exactly those by which nodes get and keep their identity. All others wait for
//! people. It refuses to hold the key: a [`Signer`] does.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api::time;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use client::cache::{Cache, Change, Key};
use client::queue::Queue;
use client::resource::CERTIFICATE_REQUESTS as REQUESTS;
use client::{Client, Patch, resource};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::{removal, tokens};

const CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const SERVING: &str = "kubernetes.io/kubelet-serving";
const RETRY: Duration = Duration::from_secs(1);
/// What was decided is kept so long for people to see, and what was not so much longer, as upstream does.
const DECIDED: Duration = Duration::from_secs(3600);
const UNDECIDED: Duration = Duration::from_secs(24 * 3600);

/// A machine that was given a name makes its node within this time.
const JOINING: Duration = Duration::from_secs(60);

/// What a request asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// The subject's common name.
    pub user: String,
    /// The subject's organizations.
    pub groups: Vec<String>,
    /// DNS names.
    pub names: Vec<String>,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
    /// Whether it asks for names of other kinds.
    pub has_others: bool,
}

/// What a signed certificate is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// Dialling the API server.
    Client,
    /// Being dialled by it.
    Serving,
}

/// Whoever holds the cluster's key.
pub trait Signer: Send + Sync + 'static {
    /// Reads a request (PEM); the error says what is wrong with it.
    fn read(&self, request_pem: &str) -> Result<Asked, String>;

    /// Signs a request; the answer is the certificate (PEM).
    fn sign(&self, request_pem: &str, usage: Usage, life: Duration) -> Result<String, String>;
}

/// How certificates are given.
#[derive(Clone)]
pub struct Signing {
    /// Signs.
    pub signer: Arc<dyn Signer>,
    /// How long a certificate holds at most.
    pub life: Duration,
    /// The names and addresses of the API server, which no node may speak for.
    pub reserved: Vec<String>,
    /// The path of a config map; what its keys that begin with [`NAMES`] hold, separated by commas, are the names of other API servers.
    pub others: String,
}

/// Begins the keys under which API servers tell their names.
pub const NAMES: &str = "names.";

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is signed.
    Approve(Usage),
    /// It is refused: a word, and a sentence for people.
    Deny(&'static str, String),
    /// It is for somebody else to decide.
    Leave,
}

/// Decides on a request. `nodes` are those that exist.
pub fn decide(request: &Value, asked: &Asked, nodes: &[Arc<Value>], reserved: &[String]) -> Verdict {
    let spec = &request["spec"];
    let usage = match spec["signerName"].as_str() {
        Some(CLIENT) => Usage::Client,
        Some(SERVING) => Usage::Serving,
        _ => return Verdict::Leave,
    };
    let Some(node) = asked.user.strip_prefix("system:node:").filter(|node| !node.is_empty()) else {
        return Verdict::Deny("NoNode", format!("\"{}\" is no node's name: it must be system:node:NAME", asked.user));
    };
    if let Some(wrong) = api::name::dns_subdomain(node).into_iter().next() {
        return Verdict::Deny("NoNode", format!("\"{node}\" can be no node's name: {wrong}"));
    }
    if asked.groups != ["system:nodes"] || asked.has_others {
        return Verdict::Deny("NoNode", "a node is in the organization system:nodes, and has no other names".into());
    }
    let is_in = |group: &str| spec["groups"].as_array().is_some_and(|all| all.iter().any(|known| known == group));
    let is_itself = spec["username"] == asked.user && is_in("system:nodes");
    let unfit = unfit_usages(spec, usage);
    match usage {
        _ if unfit.is_some() => Verdict::Deny("Usages", unfit.unwrap_or_default()),
        Usage::Client if !asked.names.is_empty() || !asked.addresses.is_empty() => {
            Verdict::Deny("Names", "a client's certificate holds for no addresses".into())
        }
        Usage::Client if is_itself => Verdict::Approve(usage),
        Usage::Client if is_in("system:bootstrappers") => newcomer(node, nodes, reserved),
        Usage::Serving if is_itself => match foreign(node, asked, nodes, reserved) {
            Some(name) => Verdict::Deny("Names", format!("\"{name}\" is not for node \"{node}\" to speak for")),
            None => Verdict::Approve(usage),
        },
        _ => Verdict::Deny("NotAllowed", format!("{} may not ask for the identity of {node}", spec["username"])),
    }
}

/// A machine with a token may take a name that nobody has.
fn newcomer(node: &str, nodes: &[Arc<Value>], reserved: &[String]) -> Verdict {
    if nodes.iter().any(|known| known["metadata"]["name"] == node) {
        let cure =
            format!("`kubectl delete node {node}` first if it is gone for good, or join with another --node-name");
        return Verdict::Deny("NameTaken", format!("there is a node \"{node}\" already: {cure}"));
    }
    if reserved.iter().any(|name| name == node) {
        let cure = "join with another --node-name";
        return Verdict::Deny("NameTaken", format!("\"{node}\" is a name of the API server: {cure}"));
    }
    Verdict::Approve(Usage::Client)
}

/// A name that a node's listener may not speak for.
fn foreign(node: &str, asked: &Asked, nodes: &[Arc<Value>], reserved: &[String]) -> Option<String> {
    let of_others = |address: &str| {
        let others = nodes.iter().filter(|known| known["metadata"]["name"] != node);
        let mut all = others.filter_map(|known| known["status"]["addresses"].as_array()).flatten();
        all.any(|known| known["address"] == address)
    };
    let name = asked.names.iter().find(|name| *name != node).cloned();
    let addresses = asked.addresses.iter().map(ToString::to_string);
    name.or_else(|| addresses.into_iter().find(|text| reserved.contains(text) || of_others(text)))
}

fn unfit_usages(spec: &Value, usage: Usage) -> Option<String> {
    let needed = match usage {
        Usage::Client => "client auth",
        Usage::Serving => "server auth",
    };
    let all: Vec<&str> = spec["usages"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let known = |usage: &&str| [needed, "digital signature", "key encipherment"].contains(usage);
    (!all.contains(&needed) || !all.iter().all(known))
        .then(|| format!("the usages must be \"digital signature\", \"{needed}\" and perhaps \"key encipherment\""))
}

/// Runs until the shutdown.
pub async fn run(client: Client, signing: Signing, mut shutdown: watch::Receiver<bool>) {
    let (requests, mut changes) = Cache::start(client.clone(), REQUESTS.collection(None), Vec::new(), shutdown.clone());
    let name_only = |node: &mut Value| *node = json!({"metadata": node["metadata"].take()});
    let nodes = resource::NODES.collection(None);
    let (_, mut nodes) = Cache::start_trimmed(client.clone(), nodes, Vec::new(), name_only, shutdown.clone());
    let mut desk = Desk { client, signing, joining: HashMap::new() };
    let queue: Queue<String> = Queue::default();
    loop {
        tokio::select! {
            () = client::stopped(&mut shutdown) => return,
            Some(change) = nodes.recv() => if let Change::Set(node) = change {
                // It has come; from now on its object guards the name.
                desk.joining.remove(&format!("system:node:{}", Key::of(&node).name));
            },
            change = changes.recv() => match change {
                Some(Change::Set(request)) => queue.add(Key::of(&request).name),
                Some(_) => {}
                None => return,
            },
            name = queue.next() => {
                let key = Key { namespace: String::new(), name: name.clone() };
                let Some(request) = requests.get(&key) else { continue };
                match desk.handle(&name, &request).await {
                    Ok(Some(later)) => queue.add_at(name, later),
                    Ok(None) => {}
                    Err(error) => {
                        tracing::debug!(%error, request = name, "handling a certificate request");
                        // What changed in between comes again as a change.
                        if !error.is_conflict() && !error.is_not_found() {
                            queue.add_at(name, Instant::now() + RETRY);
                        }
                    }
                }
            }
        }
    }
}

struct Desk {
    client: Client,
    signing: Signing,
    /// The names that were given a moment ago, whose nodes may not be there yet.
    joining: HashMap<String, Instant>,
}

impl Desk {
    /// Decides, signs or forgets; says when to look again.
    async fn handle(&mut self, name: &str, request: &Value) -> Result<Option<Instant>, client::Error> {
        let has = |kind: &str| {
            let conditions = request["status"]["conditions"].as_array().into_iter().flatten();
            conditions.into_iter().any(|condition| condition["type"] == kind)
        };
        let is_signed = request["status"]["certificate"].is_string();
        let is_over = is_signed || has("Denied") || has("Failed");
        let begun = request["metadata"]["creationTimestamp"].as_str().and_then(|text| text.parse::<Timestamp>().ok());
        let age = begun.and_then(|begun| Duration::try_from(Timestamp::now().duration_since(begun)).ok());
        let kept = if is_over { DECIDED } else { UNDECIDED };
        let left = kept.saturating_sub(age.unwrap_or_default());
        if left.is_zero() {
            removal::delete(&self.client, &REQUESTS.object(None, name), request, None).await?;
            return Ok(None);
        }
        let Some(pem) = request["spec"]["request"].as_str().and_then(decoded).filter(|_| !is_over) else {
            return Ok(Some(Instant::now() + left));
        };
        if has("Approved") {
            self.sign(name, request, &pem).await?;
        } else {
            self.decide(name, request, &pem).await?;
        }
        Ok(Some(Instant::now() + left))
    }

    async fn decide(&mut self, name: &str, request: &Value, pem: &str) -> Result<(), client::Error> {
        let signer = request["spec"]["signerName"].as_str().unwrap_or_default();
        if ![CLIENT, SERVING].contains(&signer) {
            return Ok(());
        }
        // Not from a cache: a node that was made a moment ago has its name for itself.
        let nodes = self.client.list(&resource::NODES.collection(None), &[]).await?.items;
        let nodes: Vec<Arc<Value>> = nodes.into_iter().map(Arc::new).collect();
        let reserved = self.reserved().await?;
        let verdict = match self.signing.signer.read(pem) {
            Ok(asked) => match decide(request, &asked, &nodes, &reserved) {
                Verdict::Approve(Usage::Client) => self.admit(request, &asked).await?,
                verdict => verdict,
            },
            Err(wrong) => Verdict::Deny("Unreadable", wrong),
        };
        let (kind, reason, message) = match verdict {
            Verdict::Leave => return Ok(()),
            Verdict::Approve(_) => ("Approved", "AutoApproved", "a node gets or keeps its identity".to_owned()),
            Verdict::Deny(reason, message) => ("Denied", reason, message),
        };
        self.condition(name, request, "approval", kind, reason, &message).await
    }

    /// The names of all API servers.
    async fn reserved(&self) -> Result<Vec<String>, client::Error> {
        let mut reserved = self.signing.reserved.clone();
        match self.client.get(&self.signing.others).await {
            Ok(map) => {
                let data = map["data"].as_object().into_iter().flatten();
                let told = data.filter(|(key, _)| key.starts_with(NAMES)).filter_map(|(_, names)| names.as_str());
                reserved.extend(told.flat_map(|names| names.split(',')).map(str::to_owned));
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        Ok(reserved)
    }

    /// A machine with a token must have the name for itself, and a token that is still good.
    async fn admit(&mut self, request: &Value, asked: &Asked) -> Result<Verdict, client::Error> {
        let Some(id) = request["spec"]["username"].as_str().and_then(|user| user.strip_prefix("system:bootstrap:"))
        else {
            return Ok(Verdict::Approve(Usage::Client));
        };
        let now = Instant::now();
        self.joining.retain(|_, given| now.duration_since(*given) < JOINING);
        if self.joining.contains_key(&asked.user) {
            let node = asked.user.trim_start_matches("system:node:");
            let cure = "wait a minute if it is this one, or join with another --node-name";
            return Ok(Verdict::Deny("NameTaken", format!("a machine is joining as \"{node}\" just now: {cure}")));
        }
        if !tokens::use_up(&self.client, id).await? {
            return Ok(Verdict::Deny("TokenGone", format!("the token \"{id}\" was deleted, or is used up")));
        }
        self.joining.insert(asked.user.clone(), now);
        Ok(Verdict::Approve(Usage::Client))
    }

    async fn sign(&self, name: &str, request: &Value, pem: &str) -> Result<(), client::Error> {
        let usage = match request["spec"]["signerName"].as_str() {
            Some(CLIENT) => Usage::Client,
            Some(SERVING) => Usage::Serving,
            _ => return Ok(()),
        };
        let wanted = request["spec"]["expirationSeconds"].as_u64().map(Duration::from_secs);
        let life = wanted.unwrap_or(self.signing.life).min(self.signing.life);
        // Whoever approved it: what is signed here makes nodes, and nothing else.
        let is_node = |asked: Asked| asked.user.starts_with("system:node:") && asked.groups == ["system:nodes"];
        let signed = match self.signing.signer.read(pem).map(is_node) {
            Ok(true) => self.signing.signer.sign(pem, usage, life),
            Ok(false) => Err("it asks for no node's identity".to_owned()),
            Err(wrong) => Err(wrong),
        };
        match signed {
            Ok(certificate) => {
                let patch = json!({"metadata": {"resourceVersion": request["metadata"]["resourceVersion"]},
                    "status": {"certificate": encoded(&certificate)}});
                let path = REQUESTS.subresource(None, name, "status");
                self.client.patch(&path, Patch::Merge, &patch).await.map(drop)
            }
            Err(wrong) => self.condition(name, request, "status", "Failed", "SignerValidationFailure", &wrong).await,
        }
    }

    async fn condition(
        &self,
        name: &str,
        request: &Value,
        part: &str,
        kind: &str,
        reason: &str,
        message: &str,
    ) -> Result<(), client::Error> {
        let now = time::format(Timestamp::now());
        let mut all = request["status"]["conditions"].as_array().cloned().unwrap_or_default();
        all.push(json!({"type": kind, "status": "True", "reason": reason, "message": message,
            "lastUpdateTime": now, "lastTransitionTime": now}));
        let patch = json!({"metadata": {"resourceVersion": request["metadata"]["resourceVersion"]},
            "status": {"conditions": all}});
        self.client.patch(&REQUESTS.subresource(None, name, part), Patch::Merge, &patch).await.map(drop)
    }
}

pub(crate) fn decoded(text: &str) -> Option<String> {
    String::from_utf8(STANDARD.decode(text).ok()?).ok()
}

pub(crate) fn encoded(text: &str) -> String {
    STANDARD.encode(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes() -> Vec<Arc<Value>> {
        vec![Arc::new(json!({"metadata": {"name": "old"}, "status": {"addresses": [{"address": "192.0.2.9"}]}}))]
    }

    fn ask(signer: &str, username: &str, groups: &[&str], asked: &Asked) -> Verdict {
        let usage = if signer == CLIENT { "client auth" } else { "server auth" };
        let request = json!({"spec": {"signerName": signer, "username": username, "groups": groups,
            "usages": ["digital signature", usage]}});
        decide(&request, asked, &nodes(), &["kubernetes".into(), "192.0.2.1".into()])
    }

    fn node(name: &str) -> Asked {
        Asked { user: format!("system:node:{name}"), groups: vec!["system:nodes".into()], ..Asked::default() }
    }

    fn refused(verdict: &Verdict) -> &str {
        match verdict {
            Verdict::Deny(_, why) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_token_makes_a_new_node_and_nothing_else() {
        let bootstrap = |asked: &Asked| ask(CLIENT, "system:bootstrap:abcdef", &["system:bootstrappers"], asked);
        assert_eq!(bootstrap(&node("new")), Verdict::Approve(Usage::Client));
        assert!(refused(&bootstrap(&node("old"))).contains("kubectl delete node old"));
        assert!(refused(&bootstrap(&node("kubernetes"))).contains("name of the API server"));
        assert!(refused(&bootstrap(&Asked { groups: vec!["system:masters".into()], ..node("new") })).contains("organ"));
        assert!(refused(&bootstrap(&Asked { user: "admin".into(), ..node("new") })).contains("no node's name"));
        assert!(refused(&bootstrap(&Asked { names: vec!["x".into()], ..node("new") })).contains("no addresses"));
        let serving = ask(SERVING, "system:bootstrap:abcdef", &["system:bootstrappers"], &node("new"));
        assert!(refused(&serving).contains("may not ask"));
    }

    #[test]
    fn a_node_renews_its_own_and_speaks_for_itself_only() {
        let own = |signer: &str, asked: &Asked| ask(signer, "system:node:old", &["system:nodes"], asked);
        assert_eq!(own(CLIENT, &node("old")), Verdict::Approve(Usage::Client));
        assert!(refused(&own(CLIENT, &node("other"))).contains("may not ask"));
        let named = |name: &str, address: &str| Asked {
            names: vec![name.into()],
            addresses: vec![address.parse().expect("an address")],
            ..node("old")
        };
        assert_eq!(own(SERVING, &named("old", "192.0.2.9")), Verdict::Approve(Usage::Serving));
        assert!(refused(&own(SERVING, &named("kubernetes", "192.0.2.9"))).contains("\"kubernetes\""));
        assert!(refused(&own(SERVING, &named("old", "192.0.2.1"))).contains("\"192.0.2.1\""));
        let other = ask(
            SERVING,
            "system:node:new",
            &["system:nodes"],
            &Asked { addresses: vec!["192.0.2.9".parse().expect("an address")], ..node("new") },
        );
        assert!(refused(&other).contains("\"192.0.2.9\""));
        assert_eq!(ask("example.com/x", "u", &[], &node("old")), Verdict::Leave);
    }
}
