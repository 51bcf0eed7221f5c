//! What a node answers for the API server: logs, exec, attach and port-forward of its pods.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api::query::Query;
use api::status::Status;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::CONTENT_TYPE;
use http::{Request, Response, StatusCode};
use jiff::Timestamp;
use network::mesh::underlay;
use runtime::{ContainerState, ExecSpec, Sandbox, WindowSize};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use wire::upgrade::{self, Channels, Forward, Wanted};
use wire::{Body, Peer, Service, body};

use crate::agent::{Entry, Shared};
use crate::follow::Follower;
use crate::logs::Options;
use crate::pod::Pod;
use crate::spec::container_id;
use crate::{Error, observe};

/// The user and the group of API servers, which alone may ask.
const SERVER: &str = "kube-apiserver";
const MASTERS: &str = "system:masters";
const PIECE: usize = 32 << 10;
const LOG_CHUNKS: usize = 4;
/// A forwarded connection must be accepted within this time.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// The node's service.
pub struct Serve {
    shared: Arc<Shared>,
}

impl Serve {
    /// Serves the pods of an agent.
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

impl Service for Serve {
    fn call(&self, request: Request<Body>) -> BoxFuture<'_, Response<Body>> {
        Box::pin(async move {
            match self.route(request).await {
                Ok(response) => response,
                Err(error) => refusal(&error),
            }
        })
    }
}

fn refusal(error: &Error) -> Response<Body> {
    let status = match error {
        Error::Refused { code: 404, message } => {
            Status { code: 404, reason: "NotFound".into(), ..Status::bad_request(message.clone()) }
        }
        Error::Refused { code: 403, message } => {
            Status { code: 403, reason: "Forbidden".into(), ..Status::bad_request(message.clone()) }
        }
        Error::Refused { message, .. } => Status::bad_request(message.clone()),
        other => Status::internal(other.chain()),
    };
    let mut response = Response::new(body::full(status.to_json()));
    *response.status_mut() = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

fn answer(told: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(body::full(told.to_string()));
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

fn refused(code: u16, message: impl Into<String>) -> Error {
    Error::Refused { code, message: message.into() }
}

impl Serve {
    async fn route(&self, request: Request<Body>) -> Result<Response<Body>, Error> {
        let peer = request.extensions().get::<Peer>().and_then(|peer| peer.identity.as_ref());
        let is_server =
            |identity: &wire::Identity| identity.user == SERVER && identity.groups.iter().any(|group| group == MASTERS);
        if !peer.is_some_and(is_server) {
            return Err(refused(403, "only an API server may ask a node"));
        }
        let query = Query::parse(request.uri().query().unwrap_or_default()).map_err(|e| refused(400, e.to_string()))?;
        let path = request.uri().path().to_owned();
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match parts[..] {
            ["containerLogs", namespace, pod, container] => self.logs(request, namespace, pod, container, &query),
            ["exec", namespace, pod, container] => self.exec(request, namespace, pod, container, &query),
            ["attach", namespace, pod, container] => self.attach(request, namespace, pod, container, &query),
            ["portForward", namespace, pod] => self.forward(request, namespace, pod, &query),
            ["network"] => self.network().await,
            ["reach"] => self.reach(&query).await,
            ["healthz"] => Ok(Response::new(body::full("ok"))),
            _ => Err(refused(404, "the node has nothing at this path")),
        }
    }

    /// How this node reaches the others, how good that is just now, and what of others is in the way.
    async fn network(&self) -> Result<Response<Body>, Error> {
        let ways = self.shared.ways();
        let unknown = IpAddr::from([0; 4]);
        let addresses: Vec<IpAddr> = ways.iter().map(|way| underlay(&way.peer.addresses).unwrap_or(unknown)).collect();
        let asked = tokio::task::spawn_blocking(move || network::probe::quality(&addresses));
        let failed = |error| Error::failed("asking the other nodes for a sign of life", error);
        let quality = asked.await.map_err(|error| Error::failed("asking the other nodes", error))?.map_err(failed)?;
        let obstacles = self.shared.addresses.obstacles()?;
        Ok(answer(&json!({"peers": *ways, "quality": quality, "obstacles": obstacles})))
    }

    /// Whether a pod of this node reaches a port of an address.
    async fn reach(&self, query: &Query) -> Result<Response<Body>, Error> {
        let one = |name: &str| query.all(name).next().unwrap_or_default().to_owned();
        let entry = self.entry(&one("namespace"), &one("pod"))?;
        let goal = one("address").parse().map_err(|_| refused(400, "address must be an IP address"))?;
        let port = one("port").parse().map_err(|_| refused(400, "port must be a number from 1 to 65535"))?;
        let pid = entry.sandbox().and_then(|sandbox| sandbox.pid());
        let pid = pid.ok_or_else(|| refused(400, format!("pod \"{}\" does not run", one("pod"))))?;
        Ok(answer(&crate::reach::from_process(pid, goal, port).await?))
    }

    fn entry(&self, namespace: &str, pod: &str) -> Result<Arc<Entry>, Error> {
        self.shared.find(namespace, pod).ok_or_else(|| refused(404, format!("pod \"{pod}\" is not on this node")))
    }

    fn running(&self, namespace: &str, pod: &str, container: &str) -> Result<(Arc<Sandbox>, String), Error> {
        let entry = self.entry(namespace, pod)?;
        let not_found = || refused(400, format!("container not found (\"{container}\")"));
        let sandbox = entry.sandbox().ok_or_else(not_found)?;
        let state = newest(&sandbox, container).filter(|state| observe::exit_code(state).is_none());
        let id = state.ok_or_else(not_found)?.id;
        Ok((sandbox, id))
    }

    // === Logs ===

    fn logs(
        &self,
        mut request: Request<Body>,
        namespace: &str,
        pod: &str,
        container: &str,
        query: &Query,
    ) -> Result<Response<Body>, Error> {
        let entry = self.entry(namespace, pod)?;
        let mut options = options(query)?;
        let attempt = self.attempt(&entry, container, query.is_true("previous"))?;
        let is_newest = !query.is_true("previous");
        options.follow &= is_newest;
        let path = self.shared.paths(&entry.pod()).log(container, attempt);
        let follower = Follower::new(path, options, entry, container_id(container, attempt));
        if upgrade::is_wanted(&request) {
            let (response, pending) = upgrade::accept_output(&mut request).map_err(|e| refused(400, e.to_string()))?;
            tokio::spawn(async move {
                match pending.open().await {
                    Ok(output) => follower.send(&output).await,
                    Err(error) => tracing::debug!(%error, "a log over a WebSocket"),
                }
            });
            return Ok(response);
        }
        let (sender, content) = body::channel(LOG_CHUNKS);
        tokio::spawn(async move { follower.send(&sender).await });
        let mut response = Response::new(content);
        response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
        Ok(response)
    }

    /// Which start of a container has the log that is asked for.
    fn attempt(&self, entry: &Entry, container: &str, previous: bool) -> Result<u32, Error> {
        let pod = entry.pod();
        let current =
            entry.sandbox().and_then(|sandbox| newest(&sandbox, container)).map(|state| observe::attempt(&state));
        let reported = || {
            let status = pod.status()?;
            let mut all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
            let found = all.find(|status| status.name == container)?;
            let has_started = found.container_id.is_some();
            u32::try_from(found.restart_count).ok().filter(|_| has_started)
        };
        let current = current.or_else(reported);
        if !previous {
            return current.ok_or_else(|| refused(400, waiting(&pod, container)));
        }
        let gone = || {
            let name = pod.name();
            refused(400, format!("previous terminated container \"{container}\" in pod \"{name}\" not found"))
        };
        current.and_then(|current| current.checked_sub(1)).ok_or_else(gone)
    }

    // === Exec and attach ===

    fn exec(
        &self,
        mut request: Request<Body>,
        namespace: &str,
        pod: &str,
        container: &str,
        query: &Query,
    ) -> Result<Response<Body>, Error> {
        let (sandbox, id) = self.running(namespace, pod, container)?;
        let wanted = wanted(query)?;
        let argv: Vec<String> = query.all("command").map(str::to_owned).collect();
        if argv.is_empty() {
            return Err(refused(400, "you must specify at least 1 command for the container"));
        }
        let size = wanted.tty.then(WindowSize::default);
        let spec = ExecSpec { container: id, argv, tty: size, stdin: wanted.stdin, ..ExecSpec::default() };
        grant(&mut request, wanted, move |channels| async move { run_exec(&sandbox, spec, channels).await })
    }

    fn attach(
        &self,
        mut request: Request<Body>,
        namespace: &str,
        pod: &str,
        container: &str,
        query: &Query,
    ) -> Result<Response<Body>, Error> {
        let (sandbox, id) = self.running(namespace, pod, container)?;
        let wanted = wanted(query)?;
        grant(&mut request, wanted, move |channels| async move { run_attach(&sandbox, &id, channels).await })
    }

    // === Port-forward ===

    fn forward(
        &self,
        mut request: Request<Body>,
        namespace: &str,
        pod: &str,
        query: &Query,
    ) -> Result<Response<Body>, Error> {
        let entry = self.entry(namespace, pod)?;
        let sandbox = entry.sandbox().ok_or_else(|| refused(400, format!("pod \"{pod}\" does not run")))?;
        let listed = query.all("ports").flat_map(|list| list.split(','));
        let ports: Result<Vec<u16>, _> = listed.map(str::parse).collect();
        let ports = ports.map_err(|_| refused(400, "ports must be numbers from 1 to 65535"))?;
        let (response, pending) =
            upgrade::accept_forwards(&mut request, ports).map_err(|e| refused(400, e.to_string()))?;
        let label = format!("pod {}, uid {}", entry.pod().name(), entry.pod().uid());
        tokio::spawn(async move {
            let mut forwards = match pending.open().await {
                Ok(forwards) => forwards,
                Err(error) => return tracing::debug!(%error, "a client that wanted to forward has gone"),
            };
            while let Some(forward) = forwards.next().await {
                tokio::spawn(run_forward(sandbox.clone(), forward, label.clone()));
            }
        });
        Ok(response)
    }
}

/// Grants the streams that a request asks for; `carry` gets them once the client has opened them.
fn grant<F>(
    request: &mut Request<Body>,
    wanted: Wanted,
    carry: impl FnOnce(Channels) -> F + Send + 'static,
) -> Result<Response<Body>, Error>
where
    F: Future<Output = ()> + Send,
{
    let (response, pending) = upgrade::accept_channels(request, wanted).map_err(|e| refused(400, e.to_string()))?;
    tokio::spawn(async move {
        match pending.open().await {
            Ok(channels) => carry(channels).await,
            Err(error) => tracing::debug!(%error, "a client that asked for streams has gone"),
        }
    });
    Ok(response)
}

/// Why a container has no log yet, as upstream's kubelet says it.
fn waiting(pod: &Pod, container: &str) -> String {
    let status = pod.status();
    let mut all =
        status.into_iter().flat_map(|s| s.container_statuses.iter().chain(&s.init_container_statuses)).flatten();
    let state = all.find(|status| status.name == container).and_then(|status| status.state.as_ref()?.waiting.as_ref());
    let why = match state.and_then(|waiting| waiting.reason.as_deref()) {
        Some("ErrImagePull") => "image can't be pulled",
        Some("ImagePullBackOff") => "trying and failing to pull image",
        Some(reason) => reason,
        None => "ContainerCreating",
    };
    format!("container \"{container}\" in pod \"{}\" is waiting to start: {why}", pod.name())
}

fn newest(sandbox: &Sandbox, container: &str) -> Option<ContainerState> {
    sandbox.containers().into_iter().filter(|state| state.name == container).max_by_key(observe::attempt)
}

fn options(query: &Query) -> Result<Options, Error> {
    let number = |name: &str| match query.non_empty(name) {
        Some(text) => text.parse::<u64>().map(Some).map_err(|_| refused(400, format!("{name} must be a number"))),
        None => Ok(None),
    };
    let usize_of = |number: Option<u64>| number.map(|number| usize::try_from(number).unwrap_or(usize::MAX));
    let since_time = match query.non_empty("sinceTime") {
        Some(text) => Some(text.parse::<Timestamp>().map_err(|e| refused(400, format!("sinceTime: {e}")))?),
        None => None,
    };
    let ago = |seconds: u64| Timestamp::now().checked_sub(Duration::from_secs(seconds)).unwrap_or(Timestamp::MIN);
    Ok(Options {
        follow: query.is_true("follow"),
        timestamps: query.is_true("timestamps"),
        tail: usize_of(number("tailLines")?),
        since: number("sinceSeconds")?.map(ago).or(since_time),
        limit: usize_of(number("limitBytes")?),
    })
}

fn wanted(query: &Query) -> Result<Wanted, Error> {
    let tty = query.is_true("tty");
    let asks = |name: &str, old: &str| query.is_true(name) || query.is_true(old);
    let (stdin, stdout) = (asks("stdin", "input"), asks("stdout", "output"));
    let stderr = asks("stderr", "error") && !tty;
    if !stdin && !stdout && !stderr {
        return Err(refused(400, "you must specify at least 1 of stdin, stdout, stderr"));
    }
    Ok(Wanted { stdin, stdout, stderr, tty })
}

/// Runs a process and carries its streams until it ends.
async fn run_exec(sandbox: &Arc<Sandbox>, spec: ExecSpec, mut channels: Channels) {
    let mut exec = match sandbox.exec(spec).await {
        Ok(exec) => exec,
        Err(error) => {
            let text = format!("error executing command in container: {}", Error::from(error).chain());
            return finish(channels, &Status::internal(text)).await;
        }
    };
    if let (Some(mut sizes), Some(terminal)) = (channels.resize.take(), exec.resizer()) {
        tokio::spawn(async move {
            while let Some(size) = sizes.recv().await {
                if terminal.resize(WindowSize { columns: size.width, rows: size.height }).is_err() {
                    return;
                }
            }
        });
    }
    if let (Some(mut from), Some(mut to)) = (channels.stdin.take(), exec.stdin.take()) {
        tokio::spawn(async move { copy_input(&mut from, &mut to).await });
    }
    let (stdout, stderr) = (exec.stdout.take(), exec.stderr.take());
    tokio::join!(copy_output(stdout, channels.stdout.as_ref()), copy_output(stderr, channels.stderr.as_ref()));
    let status = match exec.wait().await {
        Ok(exit) => exit_status(exit.code),
        Err(error) => Status::internal(Error::from(error).chain()),
    };
    finish(channels, &status).await;
}

/// Carries the streams of a running container until it or the client ends.
async fn run_attach(sandbox: &Arc<Sandbox>, id: &str, mut channels: Channels) {
    let mut attached = match sandbox.attach(id, channels.stdin.is_some()).await {
        Ok(attached) => attached,
        Err(error) => return finish(channels, &Status::internal(Error::from(error).chain())).await,
    };
    if let Some(mut sizes) = channels.resize.take() {
        let (sandbox, id) = (sandbox.clone(), id.to_owned());
        tokio::spawn(async move {
            while let Some(size) = sizes.recv().await {
                if sandbox.resize(&id, WindowSize { columns: size.width, rows: size.height }).await.is_err() {
                    return;
                }
            }
        });
    }
    if let (Some(mut from), Some(mut to)) = (channels.stdin.take(), attached.stdin.take()) {
        tokio::spawn(async move { copy_input(&mut from, &mut to).await });
    }
    let gone = channels.gone();
    tokio::select! {
        () = gone => return,
        _ = async {
            tokio::join!(
                copy_output(Some(attached.stdout), channels.stdout.as_ref()),
                copy_output(attached.stderr.take(), channels.stderr.as_ref()),
            )
        } => {}
    }
    finish(channels, &exit_status(0)).await;
}

async fn copy_input(from: &mut upgrade::Reader, to: &mut runtime::stdio::Input) {
    while let Some(bytes) = from.next().await {
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
    // The process may have gone; then nobody misses the end of its input.
    drop(to.shutdown().await);
}

async fn copy_output<R: AsyncRead + Unpin>(from: Option<R>, to: Option<&upgrade::Writer>) {
    let Some(mut from) = from else { return };
    let mut piece = vec![0; PIECE];
    while let Ok(count @ 1..) = from.read(&mut piece).await {
        // Output that nobody wants is still read, so that the process does not block.
        if let Some(to) = to
            && to.send(Bytes::copy_from_slice(&piece[..count])).await.is_err()
        {
            return;
        }
    }
}

fn exit_status(code: i32) -> Status {
    if code == 0 {
        return Status::success();
    }
    let text = format!("command terminated with non-zero exit code: error executing command, exit code {code}");
    let mut status = Status::bad_request(text).with_cause("ExitCode", &code.to_string(), "");
    status.reason = "NonZeroExitCode".into();
    status.code = 0;
    status
}

async fn finish(channels: Channels, status: &Status) {
    let content = match (channels.is_structured, status.is_failure()) {
        (true, _) => status.to_json(),
        (false, true) => status.message.clone().into_bytes(),
        (false, false) => Vec::new(),
    };
    if let Err(error) = channels.finish(content.into()).await {
        tracing::debug!(%error, "telling a client how its process ended");
    }
}

async fn run_forward(sandbox: Arc<Sandbox>, mut forward: Forward, label: String) {
    let port = forward.port;
    let connection = match tokio::time::timeout(CONNECT_DEADLINE, sandbox.connect(port)).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return refuse_forward(forward, &label, &unconnected(port, error)).await,
        Err(_) => {
            return refuse_forward(forward, &label, &format!("dial tcp 127.0.0.1:{port}: no answer within 10 s")).await;
        }
    };
    let (mut reading, mut writing) = connection.into_split();
    let output = async {
        let mut piece = vec![0; PIECE];
        while let Ok(count @ 1..) = reading.read(&mut piece).await {
            if forward.output.send(Bytes::copy_from_slice(&piece[..count])).await.is_err() {
                return;
            }
        }
    };
    let input = async {
        while let Some(bytes) = forward.input.next().await {
            if writing.write_all(&bytes).await.is_err() {
                return;
            }
        }
        // A pod that has closed its side needs no end of ours.
        drop(writing.shutdown().await);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = output => {}
        () = input => {}
    }
    if let Err(error) = forward.finish().await {
        tracing::debug!(%error, "ending a forwarded connection");
    }
}

/// Why nobody could be reached at a port, in the words by which people recognise that nobody listens there.
fn unconnected(port: u16, error: runtime::Error) -> String {
    match error {
        runtime::Error::Failed { source, .. } if source.kind() == io::ErrorKind::ConnectionRefused => {
            format!("dial tcp 127.0.0.1:{port}: connect: connection refused")
        }
        other => Error::from(other).chain(),
    }
}

async fn refuse_forward(forward: Forward, label: &str, why: &str) {
    let port = forward.port;
    let message = format!(
        "error forwarding port {port} to {label}: failed to execute portforward in network namespace: failed to connect to localhost:{port} inside namespace: {why}"
    );
    if let Err(error) = forward.fail(message).await {
        tracing::debug!(%error, "refusing a forwarded connection");
    }
}
