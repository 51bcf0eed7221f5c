//! `podling`: reads the command line and hands on to what does the work.

/// Prints a line of an answer. A reader that has gone, as `head` does, is no reason to fail: least of all for a cluster.
macro_rules! say {
    ($($word:tt)*) => {
        drop(std::io::Write::write_fmt(&mut std::io::stdout(), format_args!("{}\n", format_args!($($word)*))))
    };
}

mod before;
mod cluster;
mod demo;
mod detach;
mod door;
mod down;
mod image;
mod install;
mod join;
mod kubia;
mod leave;
mod moves;
mod names;
mod notify;
mod own;
mod process;
mod progress;
mod signals;
mod signer;
mod state;
mod status;
mod storage;
mod token;
mod up;
mod version;

use std::process::ExitCode;
use std::time::Instant;

use clap::{CommandFactory, Parser, Subcommand};

use cluster::Role;

/// A fifth of the server's time went into glibc's allocator (decision 9).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Pods on this machine: a Kubernetes API, a runtime, a network and a store in one program.
#[derive(Parser)]
#[command(name = "podling", version = version::TEXT, max_term_width = 120)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a cluster on this machine, or resume it
    Up(up::Options),
    /// Start the control plane of a cluster on this machine, without a node
    Server(up::Options),
    /// Make this machine a node of a cluster, or resume it
    Join(join::Options),
    /// Take this machine out of its cluster: its pods, its node, its data
    Leave(leave::Options),
    /// Work with the tokens by which machines join
    Token(token::Options),
    /// Back up, restore and move the state of the cluster
    Store(storage::Options),
    /// Make a service of `up`, `server` or `join`, which systemd starts with the machine
    Install(install::Options),
    /// Take the service away again
    Uninstall(install::Removal),
    /// Tell whether the cluster runs and how it is
    Status(cluster::Place),
    /// End the cluster and its pods; what the API knows is kept
    Down(down::Options),
    /// Work with the images on this machine
    Image(image::Options),
    /// Print the version
    Version,
    /// Print a script that completes what you type: bash, zsh, fish
    Completion(cli::CompletionOptions),
    /// Play pods, logs, labels, selectors and namespaces on a temporary cluster, or pods on several nodes, and check every answer
    Demo(demo::Options),
    /// The program of the demonstration's image
    #[command(hide = true)]
    Kubia {
        /// What it does
        words: Vec<std::ffi::OsString>,
    },
    #[command(flatten)]
    Client(cli::Command),
}

fn main() -> ExitCode {
    let begun = Instant::now();
    // Inside the demonstration's image the program is called by the name of its server.
    if std::env::args_os().next().is_some_and(|name| name.to_string_lossy().ends_with("/kubia")) {
        return finish(kubia::run(std::env::args_os().skip(1)).map(|()| ExitCode::SUCCESS));
    }
    let arguments = match Arguments::try_parse_from(cli::verb_first(std::env::args_os())) {
        Ok(arguments) => arguments,
        // As kubectl does: a mistake on the command line is an error like any other.
        Err(error) => {
            drop(error.print());
            return if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    let result = match arguments.command {
        Command::Up(options) | Command::Server(options) if options.detach => detach::run(&options.place),
        Command::Join(options) if options.detach => detach::run(&options.place),
        Command::Up(options) => up::run(options, Role::Up, begun),
        Command::Server(options) => up::run(options, Role::Server, begun),
        Command::Join(options) => join::run(options, begun),
        Command::Leave(options) => leave::run(&options),
        Command::Token(options) => token::run(options),
        Command::Store(options) => storage::run(options),
        Command::Install(options) => install::run(&options),
        Command::Uninstall(options) => install::remove(&options),
        Command::Status(place) => return finish(status::run(&place)),
        Command::Down(options) => down::run(&options),
        Command::Image(options) => image::run(options),
        Command::Version => version::print(),
        Command::Completion(options) => {
            cli::completion(&mut Arguments::command(), &options);
            Ok(())
        }
        Command::Demo(options) => return finish(demo::run(&options)),
        Command::Kubia { words } => kubia::run(words.into_iter()),
        Command::Client(command) => return cli::run(command),
    };
    finish(result.map(|()| ExitCode::SUCCESS))
}

/// Prints an error with its causes, once.
#[expect(clippy::print_stderr, reason = "this is where errors meet people")]
fn finish(result: anyhow::Result<impl Into<ExitCode>>) -> ExitCode {
    match result {
        Ok(code) => code.into(),
        Err(error) => {
            let mut text = String::new();
            for cause in error.chain().map(ToString::to_string) {
                if !text.ends_with(&cause) {
                    text.push_str(if text.is_empty() { "" } else { ": " });
                    text.push_str(&cause);
                }
            }
            eprintln!("error: {text}");
            ExitCode::FAILURE
        }
    }
}
