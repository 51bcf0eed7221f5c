//! The chores of this workspace.

mod bench;
mod command;
mod conformance;
mod fuzz;
mod leftovers;
mod oracle;
mod schema;
mod test;
mod tidy;
mod tools;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "the chores of this workspace")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Run all tests; installs the packages and clients that they use (wants root)
    Test,
    /// Formatting, clippy, tidy, tests
    Ci,
    /// Who uses whom, sizes, names, words, links
    Tidy,
    /// Run Kubernetes' own tests against a throw-away cluster and write docs/conformance.md (wants `go`)
    Conformance(conformance::Arguments),
    /// Measure, each figure beside its floor or peer
    Bench(bench::Arguments),
    /// Compare with the real API server's answers, or record them anew
    Oracle(oracle::Arguments),
    /// Feed random bytes to whatever reads a stranger's
    Fuzz(fuzz::Arguments),
    /// Make crates/api/schema anew from the published Go modules of the API (wants `go`)
    Schema(schema::Arguments),
}

#[expect(clippy::print_stderr, reason = "this is where errors meet people")]
fn main() -> ExitCode {
    let result = match Arguments::parse().chore {
        Chore::Test => test::run(),
        Chore::Ci => ci(),
        Chore::Tidy => tidy::run(),
        Chore::Conformance(arguments) => conformance::run(&arguments),
        Chore::Bench(arguments) => bench::run(&arguments),
        Chore::Oracle(arguments) => oracle::run(&arguments),
        Chore::Fuzz(arguments) => fuzz::run(&arguments),
        Chore::Schema(arguments) => schema::run(&arguments),
    };
    if let Err(error) = &result {
        eprintln!("error: {error:#}");
    }
    if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn ci() -> anyhow::Result<()> {
    command::cargo(&["fmt", "--all", "--check"]).run()?;
    command::cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]).run()?;
    tidy::run()?;
    test::run()
}
