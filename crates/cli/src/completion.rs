//! `completion`: a script by which a shell completes what people type.

use clap_complete::Shell;

/// The options of `completion`.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// The shell
    shell: Shell,
}

/// Prints the script for the shell that the options name; `command` is the whole program.
pub fn completion(command: &mut clap::Command, options: &Options) {
    let mut script = Vec::new();
    clap_complete::generate(options.shell, command, "podling", &mut script);
    crate::print::bytes(&script);
}
