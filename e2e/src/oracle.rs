//! The real API server as an oracle: requests that are sent to it once, its answers freed of what varies, and the
//! comparison of another server's answers with them.
//!
//! A corpus file `TOPIC.yaml` is a list of steps, played in order against an empty server; `TOPIC.answers.json` is what the
//! oracle answered to each. Where podling differs on purpose, the step says where and why. Knows no server: whoever plays a
//! corpus says how a request is sent.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

/// A request of the corpus.
#[derive(Debug, Clone)]
pub struct Step {
    /// What it is about.
    pub name: String,
    /// `GET`, `POST` and so on.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Headers beside the usual ones.
    pub headers: Vec<(String, String)>,
    /// The body, if there is one.
    pub body: Option<Vec<u8>>,
    /// Places (prefixes of JSON pointers into the answer) that differ on purpose, each with its reason.
    pub differs: BTreeMap<String, String>,
    /// The answer need only be a part of the oracle's, as where the oracle serves more kinds.
    pub subset: bool,
    /// The answer does not matter; the step only prepares others.
    pub quiet: bool,
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The HTTP status.
    pub code: u16,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// The files of the corpus: the topics and where their steps are.
pub fn topics(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "yaml")
            && let Some(stem) = path.file_stem().and_then(|stem| stem.to_str())
        {
            found.push((stem.to_owned(), path.clone()));
        }
    }
    found.sort();
    Ok(found)
}

/// Where the answers of a topic are.
pub fn answers_path(steps: &Path) -> PathBuf {
    steps.with_extension("answers.json")
}

/// Reads the steps of a topic.
pub fn read_steps(path: &Path) -> Result<Vec<Step>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let documents = api::codec::yaml::decode(&text).with_context(|| format!("reading {}", path.display()))?;
    let steps = documents.into_iter().next().unwrap_or_default();
    let steps = steps.as_array().with_context(|| format!("{} is no list", path.display()))?;
    steps.iter().enumerate().map(|(number, step)| read_step(step).with_context(|| format!("step {number}"))).collect()
}

fn read_step(step: &Value) -> Result<Step> {
    let text = |name: &str| step[name].as_str().map(str::to_owned);
    let ask = text("ask").context("no request")?;
    let (method, path) = ask.split_once(' ').context("no method")?;
    let words = |name: &str| {
        let map = step[name].as_object().cloned().unwrap_or_default();
        map.into_iter().map(|(name, value)| (name, value.as_str().unwrap_or_default().to_owned()))
    };
    let body =
        text("raw").map(String::into_bytes).or_else(|| step.get("body").map(|body| body.to_string().into_bytes()));
    Ok(Step {
        name: text("name").unwrap_or_else(|| ask.clone()),
        method: method.to_owned(),
        path: path.to_owned(),
        headers: words("headers").collect(),
        body,
        differs: words("differs").collect(),
        subset: step["subset"] == true,
        quiet: step["quiet"] == true,
    })
}

/// Plays steps, one after the other. Answers what came back, freed of what varies.
pub async fn play(steps: &[Step], send: impl AsyncFn(&Step) -> Result<Reply>) -> Result<Vec<Value>> {
    let mut answers = Vec::with_capacity(steps.len());
    for step in steps {
        let reply = send(step).await.with_context(|| format!("{}: {} {}", step.name, step.method, step.path))?;
        answers.push(if step.quiet { setup(step, &reply)? } else { plain(&reply) });
    }
    Ok(answers)
}

fn setup(step: &Step, reply: &Reply) -> Result<Value> {
    if reply.code >= 300 {
        bail!("{}: answered {}: {}", step.name, reply.code, String::from_utf8_lossy(&reply.body));
    }
    Ok(Value::Null)
}

/// Sends a step's request over a transport.
pub async fn send(transport: &dyn client::Transport, step: &Step) -> Result<Reply> {
    const LIMIT: usize = 16 << 20;
    let mut request = http::Request::builder().method(step.method.as_str()).uri(step.path.as_str());
    let has = |name: &str| step.headers.iter().any(|(known, _)| known == name);
    if step.body.is_some() && !has("content-type") {
        request = request.header("content-type", "application/json");
    }
    for (name, value) in &step.headers {
        request = request.header(name, value);
    }
    let body = step.body.clone().map_or_else(wire::body::empty, wire::body::full);
    let response = transport.send(request.body(body)?).await?;
    let (parts, body) = response.into_parts();
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = parts.headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
    Ok(Reply { code: parts.status.as_u16(), headers, body: wire::body::collect(body, LIMIT).await?.to_vec() })
}

/// Plays the corpus against the cluster of a kubeconfig, which must be new, and writes down what it answers.
pub async fn record(dir: &Path, kubeconfig: &Path) -> Result<()> {
    let access = client::kubeconfig::Kubeconfig::read(kubeconfig)?.access(None)?;
    let oracle = client::transport::Remote::new(&access.server, &access.trust)?;
    for (_, path) in topics(dir)? {
        let steps = read_steps(&path)?;
        let answers = play(&steps, async |step| send(&oracle, step).await).await?;
        let lines: Vec<_> = answers.iter().map(Value::to_string).collect();
        let target = answers_path(&path);
        let text = format!("[\n{}\n]\n", lines.join(",\n"));
        std::fs::write(&target, text).with_context(|| format!("writing {}", target.display()))?;
    }
    Ok(())
}

/// The recorded answers of a topic.
pub fn read_answers(steps: &Path) -> Result<Vec<Value>> {
    let path = answers_path(steps);
    let text = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))
}

/// The headers that are compared.
const HEADERS: [&str; 4] = ["content-type", "warning", "vary", "retry-after"];

fn plain(reply: &Reply) -> Value {
    let headers: Map<_, _> = HEADERS
        .iter()
        .filter_map(|name| {
            let values: Vec<_> =
                reply.headers.iter().filter(|(known, _)| known == name).map(|(_, v)| v.as_str()).collect();
            (!values.is_empty()).then(|| ((*name).to_owned(), values.join("\n").into()))
        })
        .collect();
    json!({"code": reply.code, "headers": headers, "body": body(&reply.body)})
}

/// JSON, or the lines of a watch, or text.
fn body(bytes: &[u8]) -> Value {
    let text = String::from_utf8_lossy(bytes);
    let mut value = serde_json::from_slice(bytes).unwrap_or_else(|_| {
        let lines: Vec<Value> = text.lines().map_while(|line| serde_json::from_str(line).ok()).collect();
        if lines.is_empty() { Value::from(text.as_ref()) } else { lines.into() }
    });
    settle(&mut value);
    value
}

/// Replaces what is different each time by a word for what it is.
fn settle(value: &mut Value) {
    match value {
        Value::Object(fields) => settle_object(fields),
        Value::Array(items) => items.iter_mut().for_each(settle),
        Value::String(text) => *text = settle_text(text),
        _ => {}
    }
}

fn settle_object(fields: &mut Map<String, Value>) {
    for name in ["managedFields", "storageVersionHash"] {
        fields.remove(name);
    }
    if let Some(prefix) = fields.get("generateName").and_then(Value::as_str).map(str::to_owned)
        && fields.get("name").and_then(Value::as_str).is_some_and(|name| name.starts_with(&prefix))
    {
        fields.insert("name".to_owned(), format!("{prefix}XXXXX").into());
    }
    settle_table(fields);
    settle_list(fields);
    for (name, value) in fields.iter_mut() {
        let word = match name.as_str() {
            "uid" => "UID",
            "resourceVersion" => "REVISION",
            "continue" => "TOKEN",
            _ => "",
        };
        match value {
            Value::String(text) if !word.is_empty() && !text.is_empty() => *text = word.to_owned(),
            value => settle(value),
        }
    }
}

/// Descriptions of columns are prose, and ages pass.
fn settle_table(fields: &mut Map<String, Value>) {
    let mut ages = Vec::new();
    let columns = fields.get_mut("columnDefinitions").and_then(Value::as_array_mut);
    for (number, column) in columns.into_iter().flatten().enumerate() {
        if ["Age", "Last Seen", "First Seen"].iter().any(|name| column["name"] == *name) {
            ages.push(number);
        }
        if let Some(column) = column.as_object_mut() {
            column.remove("description");
        }
    }
    for row in fields.get_mut("rows").and_then(Value::as_array_mut).into_iter().flatten() {
        for number in &ages {
            if let Some(cell) = row["cells"].get_mut(*number) {
                *cell = "AGE".into();
            }
        }
        // Later tables of a watch do not name their columns.
        for cell in row["cells"].as_array_mut().into_iter().flatten() {
            if cell.as_str().and_then(|text| text.strip_suffix('s')).is_some_and(|number| number.parse::<u8>().is_ok())
            {
                *cell = "AGE".into();
            }
        }
    }
}

/// Items of lists may repeat what the list says of them.
fn settle_list(fields: &mut Map<String, Value>) {
    let is_list = fields.get("kind").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("List"));
    for item in fields.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten().filter(|_| is_list) {
        if let Some(item) = item.as_object_mut().filter(|item| item.contains_key("metadata")) {
            item.remove("kind");
            item.remove("apiVersion");
        }
    }
}

/// Times and uids within text.
fn settle_text(text: &str) -> String {
    let words = text.split_inclusive([' ', '"', ',', ';', ':', '(', ')']);
    if text.len() == 20 && text.ends_with('Z') && text.as_bytes()[10] == b'T' {
        return "TIME".to_owned();
    }
    let is_uid = |word: &str| word.len() == 36 && word.split('-').map(str::len).eq([8, 4, 4, 4, 12]);
    let settle = |word: &str| {
        let core = word.trim_end_matches([' ', '"', ',', ';', ':', '(', ')']);
        if is_uid(core) { word.replacen(core, "UID", 1) } else { word.to_owned() }
    };
    let text: String = words.map(settle).collect();
    match text.split_once(", current: ") {
        Some((before, _)) => format!("{before}, current: REVISION"),
        None => text,
    }
}

/// Compares the answers to some steps with the oracle's. Answers one line per difference that no step announces, and one
/// per announced difference that is none.
pub fn compare(steps: &[Step], oracle: &[Value], ours: &[Value]) -> Vec<String> {
    let mut found = Vec::new();
    if oracle.len() != steps.len() {
        found.push(format!("{} steps, {} recorded answers: record anew", steps.len(), oracle.len()));
    }
    for ((step, theirs), ours) in steps.iter().zip(oracle).zip(ours) {
        let mut differences = Vec::new();
        differ(&mut differences, "", theirs, ours, step.subset);
        let announced = |path: &str| step.differs.keys().find(|prefix| path.starts_with(prefix.as_str()));
        for (path, text) in &differences {
            if announced(path).is_none() {
                found.push(format!("{}: {path}: {text}", step.name));
            }
        }
        for prefix in step.differs.keys() {
            if !differences.iter().any(|(path, _)| path.starts_with(prefix)) {
                found.push(format!("{}: {prefix}: is announced as different, but is not", step.name));
            }
        }
    }
    found
}

fn differ(found: &mut Vec<(String, String)>, path: &str, theirs: &Value, ours: &Value, subset: bool) {
    match (theirs, ours) {
        (Value::Object(a), Value::Object(b)) => {
            let names: std::collections::BTreeSet<_> = a.keys().filter(|_| !subset).chain(b.keys()).collect();
            for name in names {
                let (theirs, ours) = (a.get(name).unwrap_or(&Value::Null), b.get(name).unwrap_or(&Value::Null));
                differ(found, &format!("{path}/{name}"), theirs, ours, subset);
            }
        }
        (Value::Array(a), Value::Array(b)) if subset && b.iter().all(|item| identity(item).is_some()) => {
            for ours in b {
                let theirs = a.iter().find(|theirs| identity(theirs) == identity(ours)).unwrap_or(&Value::Null);
                differ(found, &format!("{path}/{}", identity(ours).unwrap_or_default()), theirs, ours, subset);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (number, (theirs, ours)) in a.iter().zip(b).enumerate() {
                differ(found, &format!("{path}/{number}"), theirs, ours, subset);
            }
        }
        (theirs, ours) if theirs == ours => {}
        (theirs, ours) => found.push((path.to_owned(), format!("upstream {theirs}, here {ours}"))),
    }
}

/// By what an item of a list is known, where order does not matter.
fn identity(item: &Value) -> Option<String> {
    if let Some(text) = item.as_str() {
        return Some(text.to_owned());
    }
    let names = ["name", "resource", "subresource", "version"].iter().filter_map(|name| item[*name].as_str());
    let name = names.chain(item["metadata"]["name"].as_str()).next();
    name.map(str::to_owned).or_else(|| item["versions"].is_array().then(String::new))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_varies_is_settled() {
        let mut value = json!({"metadata": {"uid": "x", "resourceVersion": "7", "creationTimestamp": "2026-01-01T00:00:00Z",
            "generateName": "a-", "name": "a-12345"}, "message": "uid 26fd5afb-ca4b-4845-8bf2-5922755eea26, end"});
        settle(&mut value);
        assert_eq!(
            value,
            json!({"metadata": {"uid": "UID", "resourceVersion": "REVISION", "creationTimestamp": "TIME",
                "generateName": "a-", "name": "a-XXXXX"}, "message": "uid UID, end"})
        );
    }

    #[test]
    fn announced_differences_must_exist() {
        let step = |differs: &[&str]| Step {
            name: "s".to_owned(),
            method: String::new(),
            path: String::new(),
            headers: Vec::new(),
            body: None,
            differs: differs.iter().map(|path| ((*path).to_owned(), String::new())).collect(),
            subset: false,
            quiet: false,
        };
        let (theirs, ours) = ([json!({"a": 1, "b": {"c": 2}})], [json!({"a": 1, "b": {"c": 3}})]);
        assert_eq!(compare(&[step(&[])], &theirs, &ours), ["s: /b/c: upstream 2, here 3"]);
        assert_eq!(compare(&[step(&["/b"])], &theirs, &ours), [""; 0]);
        assert_eq!(compare(&[step(&["/a"])], &theirs, &theirs), ["s: /a: is announced as different, but is not"]);
    }
}
