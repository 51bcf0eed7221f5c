//! `cargo xtask test`: everything that the tests need, then the tests, then a look at what they left.

use std::path::PathBuf;

use anyhow::ensure;

use crate::command::{cargo, host, program, target};
use crate::{leftovers, tools};

/// Runs all tests.
///
/// # Errors
/// When something cannot be installed or built, a test fails, or something is left behind.
#[expect(clippy::print_stderr, reason = "tells how it ended")]
pub(crate) fn run() -> anyhow::Result<()> {
    let user = program("id").args(["-u"]).output()?;
    ensure!(user.trim() == "0", "the tests make namespaces, mounts and links, and install packages: run them as root");
    let clients = tools::install()?;
    let before = leftovers::find();
    cargo(&["build", "--package", "podling"]).run()?;
    let podling = built_podling("debug")?;
    let mut tests = cargo(&["test", "--workspace", "--no-fail-fast"]).env("PODLING_BIN", &podling);
    for (name, path) in [("KUBECTL_133", clients.kubectl_133), ("KUBECTL_137", clients.kubectl_137)] {
        if let Some(path) = path {
            tests = tests.env(name, path);
        }
    }
    tests.run()?;
    leftovers::compare(&before)?;
    eprintln!("all tests passed, and nothing is left behind");
    Ok(())
}

/// The program that cargo has just built: below the name of the target, since the workspace names one.
pub(crate) fn built_podling(profile: &str) -> anyhow::Result<PathBuf> {
    let host = host()?;
    let path = target().join(host).join(profile).join("podling");
    ensure!(path.exists(), "cargo built podling, but not as {}", path.display());
    Ok(path)
}
