//! The chores of this workspace.

mod schema;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "the chores of this workspace")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Make crates/api/schema anew from the published Go modules of the API (wants `go`).
    Schema(schema::Arguments),
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().chore {
        Chore::Schema(arguments) => schema::run(&arguments),
    }
}
