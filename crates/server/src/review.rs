//! Questions that are answered at once and stored nowhere: who am I, what may I.

use std::sync::Arc;

use api::field::{FieldError, Path};
use api::kind::Kind;
use api::path::ResourcePath;
use api::status::{Resource, Status};
use http::{Response, StatusCode};
use serde_json::{Value, json};
use wire::Body;

use crate::auth::{self, Action, Decision, User};
use crate::call::{Call, warn};
use crate::registry::now;
use crate::tree::{at, items, object, set, text};
use crate::{State, body, options, render, route, subresource};

/// Answers a question.
pub(crate) async fn answer(
    state: &Arc<State>,
    mut call: Call,
    kind: &'static Kind,
    path: &ResourcePath,
) -> Result<Response<Body>, Status> {
    if kind.kind == "Binding" {
        return bind(state, call, path).await;
    }
    // There is nothing to make a table of.
    route::plain(&call)?;
    let unknown = options::unknown(&call.query, "CreateOptions")?;
    let (mut tree, warnings) = body::read(&mut call, kind, unknown).await?;
    let status = match kind.kind {
        "SelfSubjectReview" => json!({"userInfo": user_info(&call.user)}),
        "SelfSubjectAccessReview" => access(state, &call.user, &tree["spec"]).await?,
        "SelfSubjectRulesReview" => {
            set(&mut tree, "spec", json!({}));
            rules(&call.user)
        }
        "SubjectAccessReview" | "LocalSubjectAccessReview" => {
            let user = subject(&tree["spec"]);
            access(state, &user, &tree["spec"]).await?
        }
        // There are no tokens yet, so none is known.
        _ => json!({"authenticated": false, "user": {}, "error": "tokens are not supported"}),
    };
    if kind.kind == "SelfSubjectReview" {
        set(object(&mut tree, "metadata"), "creationTimestamp", crate::table::rfc3339(now()));
    }
    set(&mut tree, "status", status);
    let mut response = render::tree(StatusCode::CREATED, &tree);
    warn(&mut response, &warnings);
    Ok(response)
}

/// The old place of `pods/NAME/binding`: the pod is named in the body.
async fn bind(state: &State, mut call: Call, path: &ResourcePath) -> Result<Response<Body>, Status> {
    let bytes = call.body().await?;
    let tree: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let name = text(&tree["metadata"], "name").to_owned();
    let pods = crate::registry::Resource::known("", "pods");
    let target = crate::registry::Target::new(pods, path.namespace.as_deref().unwrap_or_default(), &name);
    call.put_back(bytes);
    subresource::bind(&state.registry, call, &target).await
}

fn user_info(user: &User) -> Value {
    json!({"username": user.name, "groups": user.groups})
}

fn subject(spec: &Value) -> User {
    let groups = items(spec, "groups").iter().filter_map(Value::as_str).map(str::to_owned).collect();
    User { name: text(spec, "user").to_owned(), groups }
}

async fn access(state: &State, user: &User, spec: &Value) -> Result<Value, Status> {
    let action = match (at(spec, &["resourceAttributes"]), at(spec, &["nonResourceAttributes"])) {
        (Some(wanted), None) => {
            let of = |name| text(wanted, name).to_owned();
            Action {
                verb: of("verb"),
                group: of("group"),
                resource: of("resource"),
                subresource: of("subresource"),
                namespace: of("namespace"),
                name: of("name"),
                ..Action::default()
            }
        }
        (None, Some(wanted)) => {
            Action { verb: text(wanted, "verb").to_owned(), path: text(wanted, "path").to_owned(), ..Action::default() }
        }
        _ => {
            let detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            let errors = [FieldError::invalid(&Path::new("spec"), Value::Null, detail)];
            return Err(Status::invalid(Resource { group: "authorization.k8s.io", name: "" }, "", &errors));
        }
    };
    Ok(match auth::decide(&state.registry, user, &action).await? {
        Decision::Allowed => json!({"allowed": true}),
        Decision::Denied(reason) if reason.is_empty() => json!({"allowed": false}),
        Decision::Denied(reason) => json!({"allowed": false, "reason": reason}),
    })
}

/// What the caller may, as rules. For all but administrators this is less than the whole truth, and says so.
fn rules(user: &User) -> Value {
    let all = user.is_in("system:masters");
    let own = json!([
        {"verbs": ["create"], "apiGroups": ["authorization.k8s.io"], "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"]},
        {"verbs": ["create"], "apiGroups": ["authentication.k8s.io"], "resources": ["selfsubjectreviews"]},
    ]);
    let paths = json!([{"verbs": ["get"], "nonResourceURLs": ["/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez",
        "/openapi", "/openapi/*", "/readyz", "/version", "/version/"]}]);
    if !all {
        return json!({"resourceRules": own, "nonResourceRules": paths, "incomplete": user.name.starts_with("system:")});
    }
    json!({
        "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
        "incomplete": false,
    })
}
