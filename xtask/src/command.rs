//! Other programs.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

/// A program to run in the workspace's root.
pub(crate) struct Call(Command);

/// A call of any program.
pub(crate) fn program(name: impl AsRef<OsStr>) -> Call {
    let mut command = Command::new(name);
    command.current_dir(root());
    Call(command)
}

/// A call of cargo.
pub(crate) fn cargo(arguments: &[&str]) -> Call {
    program(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())).args(arguments)
}

impl Call {
    /// Adds arguments.
    pub(crate) fn args<I: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = I>) -> Self {
        self.0.args(arguments);
        self
    }

    /// Sets a variable.
    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.0.env(name, value);
        self
    }

    /// Runs it before everyone's eyes; a failure is an error.
    #[expect(clippy::print_stderr, reason = "shows what is done")]
    pub(crate) fn run(mut self) -> anyhow::Result<()> {
        let text = self.text();
        eprintln!("$ {text}");
        let status = self.0.status().with_context(|| format!("running {text}"))?;
        if !status.success() {
            bail!("{text}: {status}");
        }
        Ok(())
    }

    /// Runs it and gives what it prints; a failure is an error.
    pub(crate) fn output(mut self) -> anyhow::Result<String> {
        let text = self.text();
        let output = self.0.output().with_context(|| format!("running {text}"))?;
        if !output.status.success() {
            bail!("{text}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn text(&self) -> String {
        let words = std::iter::once(self.0.get_program()).chain(self.0.get_args());
        words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
    }
}

/// The workspace's root.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace's root")
}

/// The name of this machine's kind of target, below which cargo puts what it builds for a named one.
pub(crate) fn host() -> anyhow::Result<String> {
    let version = program("rustc").args(["-vV"]).output()?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not name its host")?.to_owned())
}

/// Where cargo puts what it builds.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}
