//! `podling image`: the images on this machine.

use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use clap::Subcommand;
use runtime::image::{Overrides, Progress, Reference, Registries, Store};

use crate::cluster::{self, Place};
use crate::progress::Progress as Shown;

/// The options of `image`.
#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Load the images of an archive (docker save, OCI layout; a file, a directory, or - for standard input)
    Load {
        /// File, directory or -
        source: PathBuf,
    },
    /// Make an image of a root file system (a tar; a file, or - for standard input)
    Import {
        /// File or -
        source: PathBuf,
        /// Name of the image
        name: String,
        /// The command (may be repeated: one for each word)
        #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
        entrypoint: Vec<String>,
        /// The command's default arguments (may be repeated)
        #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
        cmd: Vec<String>,
        /// A variable (may be repeated)
        #[arg(long, value_name = "NAME=VALUE")]
        env: Vec<String>,
        /// A port that it listens on (may be repeated)
        #[arg(long, value_name = "PORT[/PROTOCOL]")]
        expose: Vec<String>,
        /// Who runs it
        #[arg(long, value_name = "USER[:GROUP]", default_value = "")]
        user: String,
        /// Where it runs
        #[arg(long, value_name = "DIR", default_value = "")]
        workdir: String,
    },
    /// Pull an image from its registry
    Pull {
        /// Name of the image
        name: String,
        /// Speak plain HTTP with the registry at HOST:PORT
        #[arg(long, value_name = "HOST:PORT")]
        plain_registry: Vec<String>,
        /// Believe registries that this authority vouches for (PEM)
        #[arg(long, value_name = "FILE")]
        registry_ca: Option<PathBuf>,
    },
    /// List the images
    Ls,
    /// Remove images by name or id
    Rm {
        /// Names or ids
        #[arg(required = true)]
        names: Vec<String>,
    },
}

/// Does what the verb says.
pub(crate) fn run(options: Options) -> anyhow::Result<()> {
    let store = |registries| {
        options.place.make()?;
        cluster::images(&options.place, registries)
    };
    match options.verb {
        Verb::Load { source } => {
            for name in load(&store(Registries::default())?, &source)? {
                say!("Loaded image: {name}");
            }
        }
        Verb::Import { source, name, entrypoint, cmd, env, expose, user, workdir } => {
            let reference = Reference::parse(&name).with_context(|| format!("\"{name}\" is no image name"))?;
            let overrides = Overrides { entrypoint, cmd, env, expose, user, working_dir: workdir };
            let store = store(Registries::default())?;
            let shown = Shown::of("importing");
            let id = store.import(&reference, open(&source)?, &overrides)?;
            drop(shown);
            say!("Imported image: {reference} ({id})");
        }
        Verb::Pull { name, plain_registry, registry_ca } => {
            let authorities_pem = registry_ca.as_ref().map(std::fs::read_to_string).transpose()?;
            pull(store(Registries { authorities_pem, plain: plain_registry })?, &name)?;
        }
        Verb::Ls => list(&store(Registries::default())?)?,
        Verb::Rm { names } => {
            let store = store(Registries::default())?;
            for name in names {
                store.remove(&name)?;
                say!("Removed image: {name}");
            }
        }
    }
    Ok(())
}

fn open(source: &Path) -> anyhow::Result<Box<dyn Read>> {
    if source == Path::new("-") {
        return Ok(Box::new(std::io::stdin().lock()));
    }
    let file = File::open(source).with_context(|| format!("opening {}", source.display()))?;
    Ok(Box::new(file))
}

fn load(store: &Store, source: &Path) -> anyhow::Result<Vec<String>> {
    let _progress = Shown::of("loading");
    let names = if source.is_dir() { store.load_directory(source) } else { store.load_archive(open(source)?) };
    names.with_context(|| format!("loading {}", source.display()))
}

fn pull(store: Store, name: &str) -> anyhow::Result<()> {
    let reference = Reference::parse(name).with_context(|| format!("\"{name}\" is no image name"))?;
    let is_shown = std::io::stderr().is_terminal();
    let show = move |progress: Progress| {
        if is_shown {
            show_progress(progress);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let image = runtime.block_on(Arc::new(store).pull_with(&reference, &[], Arc::new(show)))?;
    say!("Pulled image: {reference} ({})", image.id);
    Ok(())
}

#[expect(clippy::print_stderr, reason = "progress for people")]
fn show_progress(progress: Progress) {
    eprint!("\r{} of {} ", size(progress.done_bytes), size(progress.total_bytes));
    // Progress that cannot be shown is not missed.
    drop(std::io::stderr().flush());
}

fn list(store: &Store) -> anyhow::Result<()> {
    let images = store.list()?;
    let width = images.iter().map(|image| image.name.len()).max().unwrap_or(0).max(4);
    say!("{:width$}  {:12}  {:>9}", "NAME", "ID", "SIZE");
    for image in images {
        let id = image.id.trim_start_matches("sha256:").chars().take(12).collect::<String>();
        say!("{:width$}  {id:12}  {:>9}", image.name, size(image.size_bytes));
    }
    Ok(())
}

/// Bytes as people read them, in decimal units.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let (mut tenths, mut unit) = (bytes / 100, 0);
    while tenths >= 10_000 && unit < UNITS.len() - 1 {
        tenths /= 1000;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}
