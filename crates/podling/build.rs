//! Builds the shim, a program of its own, and says where it is, so that it can be embedded.
//!
//! It is built by the same cargo with the same lock file, but by its own profile and into its own directory: this script runs while the
//! outer cargo holds the lock of the outer one.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for source in ["crates/shim", "crates/network", "Cargo.lock", "Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", workspace.join(source).display());
    }
    println!("cargo::rustc-env=PODLING_COMMIT={}", commit(&workspace));
    let target = std::env::var("TARGET").expect("cargo names the target");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo gives a directory")).join("shim");
    build(&workspace, &target, &out);
    println!("cargo::rustc-env=PODLING_SHIM={}", out.join(target).join("shim/podling-shim").display());
}

/// The commit that is checked out.
fn commit(workspace: &Path) -> String {
    for watched in [".git/HEAD", ".git/logs/HEAD"] {
        println!("cargo::rerun-if-changed={}", workspace.join(watched).display());
    }
    let git = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).current_dir(workspace).output();
    let text =
        git.ok().filter(|output| output.status.success()).and_then(|output| String::from_utf8(output.stdout).ok());
    text.map_or_else(|| "unknown".to_owned(), |text| text.trim().to_owned())
}

fn build(workspace: &Path, target: &str, out: &Path) {
    let mut cargo = Command::new(std::env::var_os("CARGO").expect("cargo names itself"));
    cargo.args([
        "build",
        "--quiet",
        "--locked",
        "--offline",
        "--profile",
        "shim",
        "--package",
        "shim",
        "--bin",
        "podling-shim",
    ]);
    cargo.args(["--target", target, "--target-dir"]).arg(out).current_dir(workspace);
    // What the outer cargo says about its own build must not leak into this one.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let is_own = text.starts_with("CARGO_")
            || text.starts_with("RUSTC")
            || text.starts_with("RUSTFLAGS")
            || text.starts_with("PROFILE");
        if is_own && text != "CARGO_HOME" {
            cargo.env_remove(&name);
        }
    }
    // Static, and at a fixed address: no page of it needs relocating, so all shims of a machine share them.
    if !target.contains("musl") {
        cargo.env("RUSTFLAGS", "-C target-feature=+crt-static -C relocation-model=static");
    }
    let status = cargo.status().expect("cargo can be run");
    assert!(status.success(), "the shim does not build: {status}");
}
