//! Commands for people, in kubectl's words.
//!
//! Every verb is a file of its own, named after it. What they share, in reading order: [`session`] is the way to the cluster, [`target`] reads
//! `TYPE/NAME`, [`manifest`] reads files, [`print`] writes objects, [`failure`] says what went wrong as kubectl says it. This crate knows the
//! API by its kinds only: it speaks to any cluster, and to nothing else on this machine.

mod apply;
mod completion;
mod create;
mod delete;
mod describe;
mod drain;
mod exec;
mod facts;
mod failure;
mod forward;
mod get;
mod label;
mod leading;
mod logs;
mod manifest;
mod network;
mod print;
mod run;
mod session;
mod streams;
mod target;
mod wait;

use std::process::ExitCode;

pub use completion::{Options as CompletionOptions, completion};
pub use leading::verb_first;
pub use session::duration;

use failure::Failure;

/// The verbs.
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// Create objects from files, or by naming them
    Create(Box<create::Options>),
    /// Make objects be as files say
    Apply(Box<apply::Options>),
    /// Run a pod of one container
    Run(Box<run::Options>),
    /// Show objects
    Get(Box<get::Options>),
    /// Tell all about objects
    Describe(Box<describe::Options>),
    /// Show what a container printed
    #[command(visible_alias = "log")]
    Logs(Box<logs::Options>),
    /// Set or remove labels
    Label(Box<label::LabelOptions>),
    /// Set or remove annotations
    Annotate(Box<label::AnnotateOptions>),
    /// Delete objects
    Delete(Box<delete::Options>),
    /// Run a command in a container
    Exec(Box<exec::ExecOptions>),
    /// Connect to what a container runs
    Attach(Box<exec::AttachOptions>),
    /// Make local ports lead into a pod
    PortForward(Box<forward::Options>),
    /// Wait until objects are as they should be
    Wait(Box<wait::Options>),
    /// Let no more pods onto nodes
    Cordon(Box<drain::CordonOptions>),
    /// Let pods onto nodes again
    Uncordon(Box<drain::CordonOptions>),
    /// Let no more pods onto nodes, and make those on them leave
    Drain(Box<drain::DrainOptions>),
    /// Show how nodes reach each other
    Network(Box<network::Options>),
    /// List the kinds of objects
    ApiResources(Box<facts::ResourceOptions>),
    /// Tell where the cluster is
    ClusterInfo(Box<facts::ClusterOptions>),
}

/// Runs one.
pub fn run(command: Command) -> ExitCode {
    match attempt(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.tell(),
    }
}

fn attempt(command: Command) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(perform(command));
    // A read of the terminal that never returns does not hold up the end.
    runtime.shutdown_background();
    result
}

async fn perform(command: Command) -> Result<(), Failure> {
    match command {
        Command::Create(options) => Box::pin(create::run(*options)).await,
        Command::Apply(options) => Box::pin(apply::run(*options)).await,
        Command::Run(options) => Box::pin(run::run(*options)).await,
        Command::Get(options) => Box::pin(get::run(*options)).await,
        Command::Describe(options) => Box::pin(describe::run(*options)).await,
        Command::Logs(options) => Box::pin(logs::run(*options)).await,
        Command::Label(options) => Box::pin(label::label(*options)).await,
        Command::Annotate(options) => Box::pin(label::annotate(*options)).await,
        Command::Delete(options) => Box::pin(delete::run(*options)).await,
        Command::Exec(options) => Box::pin(exec::exec(*options)).await,
        Command::Attach(options) => Box::pin(exec::attach(*options)).await,
        Command::PortForward(options) => Box::pin(forward::run(*options)).await,
        Command::Wait(options) => Box::pin(wait::run(*options)).await,
        Command::Cordon(options) => Box::pin(drain::cordon(*options, true)).await,
        Command::Uncordon(options) => Box::pin(drain::cordon(*options, false)).await,
        Command::Drain(options) => Box::pin(drain::drain(*options)).await,
        Command::Network(options) => Box::pin(network::run(*options)).await,
        Command::ApiResources(options) => Box::pin(facts::resources(*options)).await,
        Command::ClusterInfo(options) => Box::pin(facts::cluster(*options)).await,
    }
}
