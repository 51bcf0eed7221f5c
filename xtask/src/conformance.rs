//! `cargo xtask conformance`: Kubernetes' own end-to-end tests against a throw-away cluster.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use crate::command::{cargo, program, root, target};

const PAGE: &str = "docs/conformance.md";
const PROCESSES: &str = "4";

/// Which tests.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// File with the names of the tests, one a line [default: conformance/chapter.txt]
    #[arg(long, value_name = "FILE", conflicts_with = "focus")]
    list: Option<PathBuf>,
    /// Regular expression over the names of all tests
    #[arg(long, value_name = "REGEX")]
    focus: Option<String>,
    /// How many nodes the cluster has, each a network namespace of this machine
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=9))]
    nodes: u16,
}

/// Builds the suite and its images, runs the tests, writes the page.
///
/// # Errors
/// When something cannot be built, or a test does not pass.
#[expect(clippy::print_stderr, reason = "tells what is skipped")]
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if program("go").args(["version"]).output().is_err() {
        eprintln!("SKIPPED: upstream's tests are built with go, which is not here");
        return Ok(());
    }
    let out = built_suite()?;
    cargo(&["build", "--release", "--package", "podling"]).run()?;
    let report = out.join("report");
    if arguments.nodes > 1 {
        return on_machines(arguments, &out, &report);
    }
    let cluster = Cluster::up(&out)?;
    let ran = program(root().join("conformance/run.sh"))
        .args([cluster.kubeconfig()])
        .args(selection(arguments, &out, &report)?)
        .run();
    drop(cluster);
    write_page(&report.join("table.tsv")).context("not every test passed: see docs/conformance.md")?;
    ran
}

/// The same on several machines of a lab. What came of it is in the report; the page is about one node.
fn on_machines(arguments: &Arguments, out: &Path, report: &Path) -> anyhow::Result<()> {
    let podling = crate::test::built_podling("release")?;
    let example = cargo(&["run", "--quiet", "--package", "e2e", "--example", "machines", "--"]);
    let run = example.args([arguments.nodes.to_string()]).args([out.join("images.tar")]);
    let run = run.args([root().join("conformance/run.sh")]).args(["KUBECONFIG"]);
    run.args(selection(arguments, out, report)?).env("PODLING_BIN", podling).run()
}

/// Which tests are run, and where they lie and leave their results.
fn selection(arguments: &Arguments, out: &Path, report: &Path) -> anyhow::Result<Vec<OsString>> {
    let chapter = root().join("conformance/chapter.txt");
    let which: [OsString; 2] = match (&arguments.focus, &arguments.list) {
        (Some(focus), _) => ["--focus".into(), focus.into()],
        (None, Some(list)) => ["--list".into(), std::path::absolute(list)?.into_os_string()],
        (None, None) => ["--list".into(), chapter.into_os_string()],
    };
    let rest: [OsString; 6] =
        ["--procs".into(), PROCESSES.into(), "--out".into(), out.into(), "--report".into(), report.into()];
    Ok(which.into_iter().chain(rest).collect())
}

/// Where the suite and its images lie: named by CONFORMANCE_OUT, or built below the target directory.
fn built_suite() -> anyhow::Result<PathBuf> {
    let out = std::env::var_os("CONFORMANCE_OUT").map_or_else(|| target().join("conformance"), PathBuf::from);
    if !out.join("bin/e2e.test").exists() {
        program(root().join("conformance/build.sh")).args([&out]).run()?;
    }
    if !out.join("images.tar").exists() {
        program("python3").args([root().join("conformance/images.py")]).args(["bundle"]).args([&out]).run()?;
    }
    Ok(out)
}

/// A cluster with all images loaded, which goes when it is dropped.
struct Cluster {
    podling: PathBuf,
    directory: tempfile::TempDir,
}

impl Cluster {
    fn up(out: &Path) -> anyhow::Result<Self> {
        let podling = crate::test::built_podling("release")?;
        let cluster = Self { podling, directory: tempfile::tempdir()? };
        cluster.podling(&["up", "--detach", "--listen", "127.0.0.1:0", "--kubeconfig", &cluster.kubeconfig()])?;
        cluster.podling(&["image", "load", &out.join("images.tar").to_string_lossy()])?;
        Ok(cluster)
    }

    fn podling(&self, words: &[&str]) -> anyhow::Result<()> {
        let (verb, rest) = words.split_first().context("podling needs a verb")?;
        let data = self.directory.path().join("data");
        program(&self.podling).args([verb]).args(["--data-dir"]).args([&data]).args(rest).run()
    }

    fn kubeconfig(&self) -> String {
        self.directory.path().join("kubeconfig").to_string_lossy().into_owned()
    }
}

impl Drop for Cluster {
    #[expect(clippy::print_stderr, reason = "an error in a destructor can go nowhere else")]
    fn drop(&mut self) {
        if let Err(error) = self.podling(&["down", "--purge"]) {
            eprintln!("error: {error:#}");
        }
    }
}

/// Writes each test with its result: name, result, seconds, first line of a failure.
fn write_page(table: &Path) -> anyhow::Result<()> {
    let content = fs::read_to_string(table).with_context(|| format!("reading {}", table.display()))?;
    let mut rows: Vec<Vec<&str>> = content.lines().map(|line| line.split('\t').collect()).collect();
    rows.retain(|row| row.len() >= 3);
    rows.sort();
    ensure!(!rows.is_empty(), "{} has no test", table.display());
    let passed = rows.iter().filter(|row| row[1] == "passed").count();
    let commit = program("git").args(["rev-parse", "--short=12", "HEAD"]).output()?;
    let mut page = format!(
        "# Upstream's tests\n\nKubernetes' own end-to-end tests (v1.37.2), run by `cargo xtask conformance` on commit {}: \
         {passed} of {} passed.\n\n| test | result | s |\n|---|---|---|\n",
        commit.trim(),
        rows.len()
    );
    for row in &rows {
        let name = row[0].replace('|', "\\|");
        let failure = row.get(3).filter(|text| !text.is_empty()).map(|text| format!(": {}", text.replace('|', "\\|")));
        page.extend(["| ", &name, " | ", row[1], &failure.unwrap_or_default(), " | ", row[2], " |\n"]);
    }
    let path = root().join(PAGE);
    // What people have added below the table stays.
    let old = fs::read_to_string(&path).unwrap_or_default();
    page.push_str(old.find("\n## ").map_or("", |at| &old[at..]));
    fs::write(&path, page).with_context(|| format!("writing {}", path.display()))?;
    if passed == rows.len() { Ok(()) } else { bail!("{} of {} tests did not pass", rows.len() - passed, rows.len()) }
}
