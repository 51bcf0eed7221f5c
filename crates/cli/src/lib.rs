//! Commands for people, in kubectl's words.

use std::process::ExitCode;

/// The verbs.
#[derive(clap::Subcommand, Debug)]
pub enum Command {
}

/// Runs one.
pub fn run(command: Command) -> ExitCode {
    match command {}
}
