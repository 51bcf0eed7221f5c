//! `api-resources` and `cluster-info`: what there is, and where.

use serde_json::Value;

use crate::failure::Failure;
use crate::print::{self, table::Table};
use crate::session::{Call, Connection};

const DISCOVERY: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

/// The options of `api-resources`.
#[derive(clap::Args, Debug)]
pub struct ResourceOptions {
    #[command(flatten)]
    connection: Connection,
    /// Leave out the headers
    #[arg(long)]
    no_headers: bool,
    /// Only those of a group
    #[arg(long, value_name = "GROUP")]
    api_group: Option<String>,
    /// Only those whose objects have namespaces, or have none
    #[arg(long, value_name = "BOOL")]
    namespaced: Option<bool>,
    /// wide: the verbs and categories too; name: only the names
    #[arg(short, long, value_name = "FORMAT", default_value = "")]
    output: String,
}

/// The options of `cluster-info`.
#[derive(clap::Args, Debug)]
pub struct ClusterOptions {
    #[command(flatten)]
    connection: Connection,
}

/// Lists what the server knows.
pub(crate) async fn resources(options: ResourceOptions) -> Result<(), Failure> {
    let session = options.connection.open()?;
    let mut rows = Vec::new();
    for root in ["/api", "/apis"] {
        let groups = session.call(Call::get(root).accept(DISCOVERY)).await?;
        for group in items(&groups["items"]) {
            let name = group["metadata"]["name"].as_str().unwrap_or_default();
            let version = &group["versions"][0];
            if options.api_group.as_deref().is_some_and(|wanted| wanted != name) {
                continue;
            }
            for resource in items(&version["resources"]) {
                let is_namespaced = resource["scope"] == "Namespaced";
                if options.namespaced.is_none_or(|wanted| wanted == is_namespaced) {
                    rows.push((name.to_owned(), row(name, version, resource, is_namespaced)));
                }
            }
        }
    }
    rows.sort_by(|(group, cells), (other, others)| (group, &cells[0]).cmp(&(other, &others[0])));
    let mut lines: Vec<Vec<String>> = Vec::new();
    for (group, mut cells) in rows {
        match options.output.as_str() {
            "name" => {
                lines.push(vec![if group.is_empty() { cells.remove(0) } else { format!("{}.{group}", cells[0]) }])
            }
            "wide" => lines.push(cells),
            "" => lines.push(cells.into_iter().take(5).collect()),
            other => return Err(Failure::text(format!("--output {other} is not available"))),
        }
    }
    let headers = ["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND", "VERBS", "CATEGORIES"];
    if !options.no_headers && options.output != "name" {
        let count = if options.output == "wide" { headers.len() } else { 5 };
        lines.insert(0, headers[..count].iter().map(ToString::to_string).collect());
    }
    print::out(&Table::default().lines(&lines));
    Ok(())
}

fn row(group: &str, version: &Value, resource: &Value, is_namespaced: bool) -> Vec<String> {
    let version = version["version"].as_str().unwrap_or_default();
    let list = |field: &str| items(&resource[field]).iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    vec![
        text(&resource["resource"]),
        list("shortNames"),
        api::kind::api_version(group, version),
        is_namespaced.to_string(),
        text(&resource["responseKind"]["kind"]),
        list("verbs"),
        list("categories"),
    ]
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Tells where the cluster is, once it has answered.
pub(crate) async fn cluster(options: ClusterOptions) -> Result<(), Failure> {
    let session = options.connection.open()?;
    session.get("/version").await?;
    let bold = |code: &str, text: &str| match std::io::IsTerminal::is_terminal(&std::io::stdout()) {
        true => format!("\x1b[0;{code}m{text}\x1b[0m"),
        false => text.to_owned(),
    };
    let server = bold("33", session.server.trim_end_matches('/'));
    print::line(&format!("{} is running at {server}", bold("32", "Kubernetes control plane")));
    print::line("\nTo further debug and diagnose cluster problems, use 'kubectl cluster-info dump'.");
    Ok(())
}
