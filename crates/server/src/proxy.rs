//! Logs and streams of containers: checked here, answered by the agent of the pod's node.

use std::sync::Arc;

use api::field::{FieldError, Path};
use api::query::Query;
use api::status::{self, Status};
use http::{Response, StatusCode, Uri};
use serde_json::Value;
use wire::Body;

use crate::auth::{self, Action};
use crate::call::Call;
use crate::registry::{Target, object};
use crate::route::TUNNELS;
use crate::tree::{at, items, text};
use crate::{NodeDoorError, State};

/// The log of a container.
pub(crate) async fn log(state: &Arc<State>, call: Call, target: &Target) -> Result<Response<Body>, Status> {
    check_log_options(&call.query, target)?;
    let pod = object::decode(&*state.registry.get(target).await?);
    let container = container(&pod, call.query.first("container").unwrap_or_default())?;
    if text(&pod["spec"], "nodeName").is_empty() {
        // It has not been given a node, so it has said nothing yet.
        let mut nothing = Response::new(wire::body::empty());
        *nothing.status_mut() = StatusCode::NO_CONTENT;
        return Ok(nothing);
    }
    let place = format!("/containerLogs/{}/{}/{container}", target.namespace, target.name);
    send(state, call, &pod, &place).await
}

/// exec, attach, portforward.
pub(crate) async fn stream(
    state: &Arc<State>,
    call: Call,
    target: &Target,
    part: &str,
) -> Result<Response<Body>, Status> {
    let pod = object::decode(&*state.registry.get(target).await?);
    let (namespace, name) = (&target.namespace, &target.name);
    let container = match part {
        "portforward" => String::new(),
        _ => container(&pod, call.query.first("container").unwrap_or_default())?,
    };
    if text(&pod["spec"], "nodeName").is_empty() {
        return Err(Status::bad_request(format!("pod {name} does not have a host assigned")));
    }
    if part == "portforward" {
        return send(state, call, &pod, &format!("/portForward/{namespace}/{name}")).await;
    }
    check_stream_options(&call.query, part)?;
    let phase = text(&pod["status"], "phase");
    if ["Succeeded", "Failed"].contains(&phase) {
        let what = if part == "exec" { "exec into" } else { "attach to" };
        let message = format!("cannot {what} a container in a completed pod; current phase is {phase}");
        return Err(Status::bad_request(message));
    }
    send(state, call, &pod, &format!("/{part}/{namespace}/{name}/{container}")).await
}

/// Whatever an agent answers at a path of its own.
pub(crate) async fn node(state: &State, call: Call, target: &Target, path: &str) -> Result<Response<Body>, Status> {
    state.registry.get(target).await?;
    ask(state, call, &target.name, &format!("/{path}")).await
}

/// A connection that a node keeps ready: only for itself.
pub(crate) fn tunnel(state: &State, call: Call, path: &str) -> Result<Response<Body>, Status> {
    let node = path.strip_prefix(TUNNELS).unwrap_or_default().to_owned();
    let is_itself = call.user.name.strip_prefix("system:node:") == Some(&node) && call.user.is_in("system:nodes");
    if !is_itself {
        let action = Action { verb: "get".to_owned(), path: path.to_owned(), ..Action::default() };
        return Err(auth::forbidden(&call.user, &action, "only the node itself keeps connections ready"));
    }
    state.nodes.keep(&node, call.into_request()).map_err(|error| Status::bad_request(error.to_string()))
}

/// Hands the request on to the node of a pod.
async fn send(state: &State, call: Call, pod: &Value, place: &str) -> Result<Response<Body>, Status> {
    let node = text(&pod["spec"], "nodeName").to_owned();
    ask(state, call, &node, place).await
}

/// Hands the request on, its upgrade with it.
async fn ask(state: &State, call: Call, node: &str, place: &str) -> Result<Response<Body>, Status> {
    let mut request = call.into_request();
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    let uri: Uri = format!("{place}{query}").parse().map_err(|error| Status::bad_request(format!("{error}")))?;
    *request.uri_mut() = uri;
    state.nodes.send(node, request).await.map_err(|error| match error {
        NodeDoorError::Unknown(node) => Status::not_found(status::Resource { group: "", name: "nodes" }, &node),
        error @ NodeDoorError::Unreachable { .. } => Status::internal(format!("error dialing backend: {error}")),
    })
}

/// The container that a request means: the named one, or the only one, or the one that an annotation names.
fn container(pod: &Value, wanted: &str) -> Result<String, Status> {
    let name = text(&pod["metadata"], "name");
    let names = |list| items(&pod["spec"], list).iter().map(|item| text(item, "name")).collect::<Vec<_>>();
    let (init, main, ephemeral) = (names("initContainers"), names("containers"), names("ephemeralContainers"));
    if !wanted.is_empty() {
        return if init.iter().chain(&main).chain(&ephemeral).any(|known| *known == wanted) {
            Ok(wanted.to_owned())
        } else {
            Err(Status::bad_request(format!("container {wanted} is not valid for pod {name}")))
        };
    }
    let preferred =
        at(pod, &["metadata", "annotations", "kubectl.kubernetes.io/default-container"]).and_then(Value::as_str);
    match (main.as_slice(), preferred) {
        ([only], _) if init.is_empty() || main.len() == 1 => Ok((*only).to_owned()),
        (_, Some(preferred)) if main.contains(&preferred) => Ok(preferred.to_owned()),
        _ => {
            let all = [init, main, ephemeral].concat().join(" ");
            let message = format!("a container name must be specified for pod {name}, choose one of: [{all}]");
            Err(Status::bad_request(message))
        }
    }
}

fn check_log_options(query: &Query, target: &Target) -> Result<(), Status> {
    let mut errors = Vec::new();
    let mut number = |name: &str, least: i64, detail: &str| -> Result<bool, Status> {
        let Some(text) = query.non_empty(name) else { return Ok(false) };
        let value: i64 = text.parse().map_err(|_| {
            let shown = api::field::quote(text);
            Status::bad_request(format!(
                "unable to decode query parameter {name}: strconv.ParseInt: parsing {shown}: invalid syntax"
            ))
        })?;
        if value < least {
            errors.push(FieldError::invalid(&Path::new(name), value, detail));
        }
        Ok(true)
    };
    number("tailLines", 0, "must be greater than or equal to 0")?;
    number("limitBytes", 1, "must be greater than 0")?;
    let seconds = number("sinceSeconds", 1, "must be greater than 0")?;
    let time = query.non_empty("sinceTime");
    if let Some(text) = time {
        api::time::parse(text).map_err(|error| Status::bad_request(error.to_string()))?;
    }
    if seconds && time.is_some() {
        let detail = "at most one of `sinceTime` or `sinceSeconds` may be specified";
        errors.push(FieldError::forbidden(&Path::new("[]"), detail));
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(status::Resource { group: "", name: "PodLogOptions" }, &target.name, &errors))
}

fn check_stream_options(query: &Query, part: &str) -> Result<(), Status> {
    if !["stdin", "stdout", "stderr"].into_iter().any(|name| query.is_true(name)) {
        return Err(Status::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
    }
    if part == "exec" && query.all("command").next().is_none() {
        return Err(Status::bad_request("you must specify at least 1 command for the container"));
    }
    Ok(())
}
