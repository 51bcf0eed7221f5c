//! Which client a command is typed with.

use std::path::PathBuf;

use crate::cluster;

/// A client that understands kubectl's words.
#[derive(Debug, Clone)]
pub struct Finger {
    /// What it is called.
    pub name: &'static str,
    /// The program.
    pub program: PathBuf,
}

impl Finger {
    /// podling itself.
    pub fn own() -> Self {
        Self { name: "podling", program: cluster::podling() }
    }

    /// Whether it is podling itself.
    pub fn is_own(&self) -> bool {
        self.name == "podling"
    }

    /// kubectl 1.33, if this machine has it.
    pub fn kubectl_133() -> Option<Self> {
        let packaged = PathBuf::from("/usr/lib/google-cloud-sdk/bin/kubectl.1.33");
        Self::find("kubectl 1.33", "KUBECTL_133", packaged)
    }

    /// kubectl 1.37, if this machine has it.
    pub fn kubectl_137() -> Option<Self> {
        let cached = cluster::target_directory().join("tools/kubectl-1.37");
        Self::find("kubectl 1.37", "KUBECTL_137", cached)
    }

    /// Both kubectls, as far as they are here; says which are missing.
    pub fn kubectls() -> Vec<Self> {
        [Self::kubectl_133(), Self::kubectl_137()].into_iter().flatten().collect()
    }

    /// Both kubectls and podling.
    pub fn all() -> Vec<Self> {
        let mut fingers = Self::kubectls();
        fingers.push(Self::own());
        fingers
    }

    fn find(name: &'static str, variable: &str, otherwise: PathBuf) -> Option<Self> {
        let program = std::env::var_os(variable).map_or(otherwise, PathBuf::from);
        if program.is_file() {
            return Some(Self { name, program });
        }
        eprintln!("SKIPPED: no {name} here (`cargo xtask test` brings it, {variable} names it)");
        None
    }
}
