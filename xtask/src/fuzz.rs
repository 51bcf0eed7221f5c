//! `cargo xtask fuzz`: feeds strangers' bytes to whatever reads them.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::command::{cargo, host, program, root, target};

/// What libFuzzer steers by, as cargo-fuzz asks the compiler for it; this way no other tool and no nightly compiler is needed.
const COVERAGE: &[&str] = &[
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
];
/// No target may need more than this, in megabytes.
const MEMORY: u32 = 2048;
/// No input may take longer than this, in seconds.
const PATIENCE: u32 = 10;

/// Which targets, and for how long.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Targets below fuzz/fuzz_targets [default: all]
    targets: Vec<String>,
    /// Seconds for all targets together
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

/// Builds the targets and runs each for its share of the time.
///
/// # Errors
/// When one does not build, or finds something: its input is then in fuzz/artifacts.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let targets = if arguments.targets.is_empty() { all()? } else { arguments.targets.clone() };
    let built = build(&targets)?;
    let share = (arguments.seconds / targets.len() as u64).max(1);
    for name in &targets {
        fuzz(&built.join(name), name, Duration::from_secs(share)).with_context(|| format!("fuzzing {name}"))?;
    }
    Ok(())
}

fn all() -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root().join("fuzz/fuzz_targets"))? {
        names.extend(entry?.path().file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    names.sort();
    ensure!(!names.is_empty(), "fuzz/fuzz_targets is empty");
    Ok(names)
}

/// Gives the folder of the programs.
fn build(targets: &[String]) -> anyhow::Result<PathBuf> {
    let folder = target().join("fuzz");
    let host = host()?;
    let mut call = cargo(&["build", "--release", "--quiet", "--manifest-path", "fuzz/Cargo.toml", "--target", &host]);
    for name in targets {
        call = call.args(["--bin", name]);
    }
    call.env("CARGO_TARGET_DIR", &folder).env("RUSTFLAGS", COVERAGE.join(" ")).run()?;
    Ok(folder.join(host).join("release"))
}

/// What was found before is kept in the target directory, so that each run goes on from there.
fn fuzz(built: &std::path::Path, name: &str, time: Duration) -> anyhow::Result<()> {
    let corpus = target().join("fuzz/corpus").join(name);
    let artifacts = root().join("fuzz/artifacts").join(name);
    std::fs::create_dir_all(&corpus)?;
    std::fs::create_dir_all(&artifacts)?;
    let seeds = root().join("fuzz/seeds").join(name);
    let mut call = program(built).args([&corpus]);
    if seeds.exists() {
        call = call.args([&seeds]);
    }
    call.args([format!("-artifact_prefix={}/", artifacts.display())])
        .args([format!("-max_total_time={}", time.as_secs())])
        .args([format!("-rss_limit_mb={MEMORY}"), format!("-timeout={PATIENCE}")])
        .args(["-print_final_stats=1", "-verbosity=0"])
        .run()
}
