//! `exec` and `attach`: a process in a container, as if it ran here.

use client::resource::{self, with_query};
use serde_json::Value;

use crate::failure::Failure;
use crate::logs::choose;
use crate::print;
use crate::session::{Connection, Session};
use crate::streams::{self, Wish};
use crate::target;

/// The options of `exec`.
#[derive(clap::Args, Debug)]
pub struct ExecOptions {
    #[command(flatten)]
    connection: Connection,
    /// POD or pod/POD
    #[arg(required = true, value_name = "POD", num_args = 1..)]
    pod: Vec<String>,
    /// The container
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// Pass standard input on
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// Print only what the command prints
    #[arg(short, long)]
    quiet: bool,
    /// What to run
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// The options of `attach`.
#[derive(clap::Args, Debug)]
pub struct AttachOptions {
    #[command(flatten)]
    connection: Connection,
    /// POD or pod/POD
    pod: String,
    /// The container
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// Pass standard input on
    #[arg(short = 'i', long)]
    stdin: bool,
    /// It has a terminal
    #[arg(short, long)]
    tty: bool,
    /// Print only what the container prints
    #[arg(short, long)]
    quiet: bool,
}

/// Runs a command in a container.
pub(crate) async fn exec(options: ExecOptions) -> Result<(), Failure> {
    if options.pod.len() > 1 {
        return Err(Failure::text(
            "exec [POD] [COMMAND] is not supported anymore. Use exec [POD] -- [COMMAND] instead\nSee 'podling exec -h' for \
             help and examples",
        ));
    }
    if options.command.is_empty() {
        return Err(Failure::text("you must specify at least one command for the container"));
    }
    let session = options.connection.open()?;
    let name = target::pod(&options.pod[0])?;
    let pod = session.get(&session.pod(&name)).await?;
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    if matches!(phase, "Succeeded" | "Failed") {
        return Err(Failure::text(format!(
            "cannot exec into a container in a completed pod; current phase is {phase}"
        )));
    }
    let container = choose(&pod, options.container.as_deref(), !options.quiet)?;
    let mut query: Vec<(&str, &str)> = options.command.iter().map(|word| ("command", word.as_str())).collect();
    query.push(("container", &container));
    let wish = Wish { stdin: options.stdin, tty: options.tty && can_be_terminal(options.stdin) };
    let path = resource::PODS.subresource(Some(&session.namespace), &name, "exec");
    streams::run(&session, &with_query(&path, &query), wish).await
}

/// Connects to what a container runs.
pub(crate) async fn attach(options: AttachOptions) -> Result<(), Failure> {
    let session = options.connection.open()?;
    let name = target::pod(&options.pod)?;
    let pod = session.get(&session.pod(&name)).await?;
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    if matches!(phase, "Succeeded" | "Failed") {
        return Err(Failure::text(format!("cannot attach a container in a completed pod; current phase is {phase}")));
    }
    let container = choose(&pod, options.container.as_deref(), !options.quiet)?;
    attach_to(&session, &pod, &container, (options.stdin, options.tty), options.quiet).await
}

/// Connects to a container of a pod that is known.
pub(crate) async fn attach_to(
    session: &Session,
    pod: &Value,
    container: &str,
    (stdin, tty): (bool, bool),
    is_quiet: bool,
) -> Result<(), Failure> {
    let all = pod["spec"]["containers"].as_array().into_iter().flatten();
    let has_terminal = all.clone().any(|one| one["name"] == container && one["tty"] == true);
    if tty && !has_terminal {
        print::complain(&format!("error: Unable to use a TTY - container {container} did not allocate one"));
    }
    let wish = Wish { stdin, tty: tty && has_terminal && can_be_terminal(stdin) };
    if wish.tty && wish.stdin && !is_quiet {
        print::complain("If you don't see a command prompt, try pressing enter.");
    }
    let path = resource::PODS.subresource(Some(&session.namespace), api::meta::name(pod), "attach");
    streams::run(session, &with_query(&path, &[("container", container)]), wish).await
}

fn can_be_terminal(stdin: bool) -> bool {
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stdin());
    if !is_terminal && stdin {
        print::complain("Unable to use a TTY - input is not a terminal or the right kind of file");
    }
    is_terminal
}
