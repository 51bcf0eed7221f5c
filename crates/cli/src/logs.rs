//! `logs`: shows what containers printed.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use client::resource::{self, with_query};
use futures_util::future::try_join_all;
use http_body_util::BodyExt;
use serde_json::Value;

use crate::failure::Failure;
use crate::print;
use crate::session::{Call, Connection, Session};
use crate::target;

/// The annotation that says which container people mean.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
/// So many lines of each pod are shown when pods are chosen by labels.
const SELECTED_TAIL: i64 = 10;

/// The options of `logs`.
#[derive(clap::Args, Debug)]
pub struct Options {
    #[command(flatten)]
    connection: Connection,
    /// POD or pod/POD, perhaps followed by the container
    #[arg(value_name = "POD [CONTAINER]", num_args = 0..=2)]
    pod: Vec<String>,
    /// The container
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// Go on as it prints more
    #[arg(short, long)]
    follow: bool,
    /// Of the run before this one
    #[arg(short, long)]
    previous: bool,
    /// So many of the last lines
    #[arg(long, value_name = "LINES", default_value_t = -1, allow_hyphen_values = true)]
    tail: i64,
    /// Only what is younger
    #[arg(long, value_name = "DURATION", value_parser = crate::session::duration)]
    since: Option<Duration>,
    /// Only what came after
    #[arg(long, value_name = "TIME")]
    since_time: Option<String>,
    /// The time before each line
    #[arg(long)]
    timestamps: bool,
    /// So many bytes at most
    #[arg(long, value_name = "BYTES")]
    limit_bytes: Option<i64>,
    /// Of all containers of the pod
    #[arg(long)]
    all_containers: bool,
    /// Of all pods with such labels
    #[arg(short = 'l', long, value_name = "SELECTOR", default_value = "")]
    selector: String,
    /// The pod and container before each line
    #[arg(long)]
    prefix: bool,
    /// So many logs are followed at once
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    max_log_requests: usize,
    /// Say what goes wrong, and go on
    #[arg(long)]
    ignore_errors: bool,
}

/// One log.
struct Source {
    pod: String,
    container: String,
}

/// Shows logs.
pub(crate) async fn run(options: Options) -> Result<(), Failure> {
    options.check()?;
    let session = options.connection.open()?;
    let sources = options.sources(&session).await?;
    if options.follow && sources.len() > 1 {
        let (wanted, limit) = (sources.len(), options.max_log_requests);
        if wanted > limit {
            return Err(Failure::text(format!(
                "you are attempting to follow {wanted} log streams, but maximum allowed concurrency is {limit}, use \
                 --max-log-requests to increase the limit"
            )));
        }
        try_join_all(sources.iter().map(|source| options.show(&session, source))).await?;
        return Ok(());
    }
    for source in &sources {
        options.show(&session, source).await?;
    }
    Ok(())
}

impl Options {
    fn check(&self) -> Result<(), Failure> {
        if self.pod.is_empty() == self.selector.is_empty() {
            return Err(Failure::text(match self.selector.is_empty() {
                true => {
                    "expected 'logs [-f] [-p] (POD | TYPE/NAME) [-c CONTAINER]'.\nPOD or TYPE/NAME is a required argument \
                     for the logs command\nSee 'podling logs -h' for help and examples"
                }
                false => "only a selector (-l) or a POD name is allowed",
            }));
        }
        if self.since.is_some() && self.since_time.is_some() {
            return Err(Failure::text("at most one of `sinceTime` or `sinceSeconds` may be specified"));
        }
        if self.all_containers && (self.container.is_some() || self.pod.len() > 1) {
            return Err(Failure::text("--all-containers=true should not be specified with container name"));
        }
        if self.tail < -1 {
            return Err(Failure::text("--tail must be greater than or equal to -1"));
        }
        Ok(())
    }

    async fn sources(&self, session: &Session) -> Result<Vec<Source>, Failure> {
        if self.selector.is_empty() {
            let name = target::pod(&self.pod[0])?;
            let pod = session.get(&session.pod(&name)).await.map_err(|failure| match failure.is_not_found() {
                true => Failure::text(format!(
                    "error from server (NotFound): pods \"{name}\" not found in namespace \"{}\"",
                    session.namespace
                )),
                false => failure,
            })?;
            return self.containers(&pod);
        }
        let path = resource::PODS.collection(Some(&session.namespace));
        let pods = session.list(&path, &[("labelSelector", &self.selector)]).await?;
        if pods.is_empty() {
            print::complain(&format!("No resources found in {} namespace.", session.namespace));
        }
        let mut sources = Vec::new();
        for pod in &pods {
            sources.extend(self.containers(pod)?);
        }
        Ok(sources)
    }

    fn containers(&self, pod: &Value) -> Result<Vec<Source>, Failure> {
        let name = api::meta::name(pod);
        let source = |container: String| Source { pod: name.to_owned(), container };
        if self.all_containers {
            return Ok(containers(pod).into_iter().map(|(_, container)| source(container)).collect());
        }
        let asked = self.container.as_deref().or_else(|| self.pod.get(1).map(String::as_str));
        choose(pod, asked, true).map(|container| vec![source(container)])
    }

    /// The path of a log with its query.
    fn path(&self, session: &Session, source: &Source) -> String {
        let tail = if self.tail < 0 && !self.selector.is_empty() { SELECTED_TAIL } else { self.tail };
        let mut query = vec![("container", source.container.clone())];
        let mut flag = |is_set: bool, name: &'static str| {
            if is_set {
                query.push((name, "true".to_owned()));
            }
        };
        flag(self.follow, "follow");
        flag(self.previous, "previous");
        flag(self.timestamps, "timestamps");
        // A part of a second counts as a whole one.
        let seconds = |since: Duration| since.as_secs() + u64::from(since.subsec_nanos() > 0);
        let optional = [
            ("limitBytes", self.limit_bytes.map(|bytes| bytes.to_string())),
            ("sinceSeconds", self.since.map(|since| seconds(since).to_string())),
            ("sinceTime", self.since_time.clone()),
            ("tailLines", (tail >= 0).then(|| tail.to_string())),
        ];
        query.extend(optional.into_iter().filter_map(|(name, value)| Some((name, value?))));
        let query: Vec<(&str, &str)> = query.iter().map(|(name, value)| (*name, value.as_str())).collect();
        with_query(&resource::PODS.subresource(Some(&session.namespace), &source.pod, "log"), &query)
    }

    async fn show(&self, session: &Session, source: &Source) -> Result<(), Failure> {
        match self.copy(session, source).await {
            Err(failure) if self.ignore_errors => {
                print::complain(&failure.lines());
                Ok(())
            }
            result => result,
        }
    }

    async fn copy(&self, session: &Session, source: &Source) -> Result<(), Failure> {
        let mut body = session.stream(Call::get(self.path(session, source))).await?;
        let prefix = self.prefix.then(|| format!("[pod/{}/{}] ", source.pod, source.container));
        let mut lines = Lines { prefix: prefix.unwrap_or_default(), rest: BytesMut::new() };
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                print::bytes(&lines.whole(&data));
            }
        }
        print::bytes(&lines.end());
        Ok(())
    }
}

/// Puts a prefix before each line, and never parts a line.
struct Lines {
    prefix: String,
    rest: BytesMut,
}

impl Lines {
    fn whole(&mut self, data: &[u8]) -> Bytes {
        self.rest.extend_from_slice(data);
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else { return Bytes::new() };
        let lines = self.rest.split_to(end + 1).freeze();
        if self.prefix.is_empty() {
            return lines;
        }
        let mut out = BytesMut::new();
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            out.extend_from_slice(self.prefix.as_bytes());
            out.extend_from_slice(line);
        }
        out.freeze()
    }

    fn end(self) -> Bytes {
        if self.rest.is_empty() {
            return Bytes::new();
        }
        let mut out = BytesMut::from(self.prefix.as_bytes());
        out.extend_from_slice(&self.rest);
        out.freeze()
    }
}

/// The containers of a pod in the order in which they are named: init, proper, ephemeral; with the field that they are listed in.
pub(crate) fn containers(pod: &Value) -> Vec<(&'static str, String)> {
    let of = |field: &'static str| {
        let list = pod["spec"][field].as_array().into_iter().flatten();
        list.map(move |container| (field, container["name"].as_str().unwrap_or_default().to_owned()))
    };
    of("initContainers").chain(of("containers")).chain(of("ephemeralContainers")).collect()
}

/// The container that is meant: the named one, the annotated one, the first; the last choice is told when there are several.
pub(crate) fn choose(pod: &Value, asked: Option<&str>, is_told: bool) -> Result<String, Failure> {
    let all = containers(pod);
    if let Some(name) = asked {
        return match all.iter().any(|(_, container)| container == name) {
            true => Ok(name.to_owned()),
            false => Err(Failure::text(format!(
                "container {name} is not valid for pod {} out of: {}",
                api::meta::name(pod),
                others(&all)
            ))),
        };
    }
    let annotated = api::meta::annotation(pod, DEFAULT_CONTAINER);
    if let Some(name) = annotated.filter(|name| all.iter().any(|(_, container)| container == name)) {
        return Ok(name.to_owned());
    }
    let first = pod["spec"]["containers"][0]["name"].as_str().unwrap_or_default().to_owned();
    if all.len() > 1 && is_told {
        print::complain(&format!("Defaulted container \"{first}\" out of: {}", others(&all)));
    }
    Ok(first)
}

fn others(all: &[(&'static str, String)]) -> String {
    let of = |wanted: &'static str, note: &'static str| {
        all.iter().filter(move |(field, _)| *field == wanted).map(move |(_, name)| format!("{name}{note}"))
    };
    let names =
        of("containers", "").chain(of("ephemeralContainers", " (ephem)")).chain(of("initContainers", " (init)"));
    names.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lines_are_never_parted() {
        let mut lines = Lines { prefix: "[p] ".into(), rest: BytesMut::new() };
        assert_eq!(lines.whole(b"ab"), Bytes::new());
        assert_eq!(lines.whole(b"c\nd\ne"), Bytes::from("[p] abc\n[p] d\n"));
        assert_eq!(lines.end(), Bytes::from("[p] e"));
    }

    #[test]
    fn which_container_is_meant() {
        let mut pod = json!({
            "metadata": {"name": "p"},
            "spec": {"initContainers": [{"name": "i"}], "containers": [{"name": "a"}, {"name": "b"}]},
        });
        assert_eq!(choose(&pod, None, false).unwrap(), "a");
        assert_eq!(choose(&pod, Some("i"), false).unwrap(), "i");
        assert_eq!(
            choose(&pod, Some("x"), false).unwrap_err().lines(),
            "error: container x is not valid for pod p out of: a, b, i (init)"
        );
        assert_eq!(others(&containers(&pod)), "a, b, i (init)");
        pod["metadata"]["annotations"] = json!({DEFAULT_CONTAINER: "b"});
        assert_eq!(choose(&pod, None, false).unwrap(), "b");
    }
}
