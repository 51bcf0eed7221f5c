//! What this program is.

/// The version with the commit it was built from.
pub(crate) const TEXT: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("PODLING_COMMIT"), ")");
/// The commit it was built from.
pub(crate) const COMMIT: &str = env!("PODLING_COMMIT");
/// The version of Kubernetes whose API it speaks.
pub(crate) const KUBERNETES: &str = "v1.37.2";

/// `gitVersion` as clients see it.
pub(crate) fn git_version() -> String {
    format!("{KUBERNETES}+podling{}", env!("CARGO_PKG_VERSION"))
}

/// Prints all of it.
#[expect(clippy::unnecessary_wraps, reason = "a command like the others")]
pub(crate) fn print() -> anyhow::Result<()> {
    say!("podling {}\ncommit {COMMIT}\nKubernetes {KUBERNETES}", env!("CARGO_PKG_VERSION"));
    Ok(())
}
