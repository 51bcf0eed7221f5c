//! `podling store`: backs up, restores and moves the state of a cluster.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use store::{Backup, Revision, Store};

/// Renewed every two seconds by the server that runs the controllers.
const LEASE: &str = "/leases/kube-system/podling-controllers";
const LEASE_BEATS: Duration = Duration::from_secs(5);

use crate::before::Before;
use crate::cluster::{Place, absolute, unless_missing};
use crate::progress::Progress;
use crate::state::{Engine, Etcd, EtcdOptions, Home, Shared, ensure_idle};

/// The options of `store`.
#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: Command,
}

/// What is done with the state.
#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Write the whole state to a file; the cluster may run
    Backup {
        /// The file, which holds all secrets of the cluster
        file: PathBuf,
        /// The state as it was at this resource version, as far back as the log goes: `podling store log` shows it
        #[arg(long, value_name = "VERSION")]
        at: Option<u64>,
    },
    /// Make the state be that of a backup; the cluster must not run
    Restore {
        /// A file that `podling store backup` has written
        file: PathBuf,
        /// Forget the state that is there
        #[arg(long)]
        replace: bool,
    },
    /// Move the state from the disk to etcd or back; the cluster must not run
    Migrate {
        /// Where it is: the cluster's directory, or etcd=https://HOST:2379[,…]
        #[arg(long, value_name = "DIR|etcd=…")]
        from: End,
        /// Where it is to be
        #[arg(long, value_name = "etcd=…|DIR")]
        to: End,
        #[command(flatten)]
        etcd: EtcdOptions,
    },
    /// Show what has changed, as far back as the log goes: resource version, what was done, and the key
    Log,
}

/// One end of a move.
#[derive(Debug, Clone)]
enum End {
    Directory(PathBuf),
    Etcd(Vec<String>),
}

impl std::str::FromStr for End {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("etcd=") {
            return match text.parse()? {
                Engine::Etcd(members) => Ok(Self::Etcd(members)),
                Engine::Disk => Err("must be a directory or etcd=…".to_owned()),
            };
        }
        absolute(text).map(Self::Directory)
    }
}

/// Does it.
pub(crate) fn run(options: Options) -> anyhow::Result<()> {
    let Options { place, command } = options;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        match command {
            Command::Backup { file, at } => backup(&place, &file, at.map(Revision)).await,
            Command::Restore { file, replace } => {
                let before = Before::of(&place);
                before.unless_done(&place, restore(&place, &file, replace).await)
            }
            Command::Migrate { from: End::Directory(dir), to: End::Etcd(members), etcd } => {
                let place = Place { data_dir: dir };
                let before = Before::of(&place);
                before.unless_done(&place, to_etcd(&place, members, &etcd).await)
            }
            Command::Migrate { from: End::Etcd(members), to: End::Directory(dir), etcd } => {
                let place = Place { data_dir: dir };
                let before = Before::of(&place);
                before.unless_done(&place, to_disk(&place, members, &etcd).await)
            }
            Command::Migrate { .. } => bail!("one end is a directory, the other etcd=…"),
            Command::Log => log(&place),
        }
    })
}

async fn backup(place: &Place, file: &Path, at: Option<Revision>) -> anyhow::Result<()> {
    let facts = place.existing()?;
    let _progress = Progress::of("reading the state");
    let mut backup = match &facts.store {
        Home::Disk => Backup::of_directory(&place.file("store"), at).map_err(|error| explain(error, at))?,
        Home::Etcd(_) if at.is_some() => {
            bail!("etcd keeps a few minutes of history only: there is no state of the past")
        }
        Home::Etcd(etcd) => Backup::of(&etcd.open().await?).await?,
    };
    Shared::of(place, &facts)?.enter(&mut backup)?;
    let is_other = std::fs::metadata(file).is_ok_and(|found| !found.is_file());
    ensure!(!is_other, "{} is no file that could be replaced by a backup", file.display());
    backup.write(file)?;
    say!("{} keys at resource version {} are in {}", backup.entries.len(), backup.revision, file.display());
    Ok(())
}

fn explain(error: store::Error, at: Option<Revision>) -> anyhow::Error {
    let wanted = at.map_or_else(String::new, |at| format!("there is no state of version {at}: "));
    anyhow::Error::from(error).context(format!("{wanted}`podling store log` shows the versions that there are"))
}

async fn restore(place: &Place, file: &Path, replace: bool) -> anyhow::Result<()> {
    let backup = Backup::read(file).map_err(|error| match error {
        store::Error::Unusable { what } => anyhow!("{what}: `podling store backup` writes one"),
        error => error.into(),
    })?;
    place.make()?;
    let lock = idle(place).await?;
    let known = place.facts()?;
    if let Some(facts) = &known {
        Shared::ensure_same(&backup, facts)?;
    }
    let home = known.map_or(Home::Disk, |facts| facts.store);
    let _progress = Progress::of("writing the state");
    match &home {
        Home::Disk => put_on_disk(place, &backup, replace)?,
        Home::Etcd(etcd) => put_into_etcd(etcd, &backup).await?,
    }
    place.leave(lock);
    say!("{} keys are in {home} again; `podling up` goes on with them", backup.entries.len());
    Ok(())
}

/// Makes the directory's store be that of a backup; what was there goes when all of the new is on the disk.
fn put_on_disk(place: &Place, backup: &Backup, replace: bool) -> anyhow::Result<()> {
    let (store, new, old) = (place.file("store"), place.file("store.new"), place.file("store.old"));
    let is_there = std::fs::read_dir(&store).is_ok_and(|mut entries| entries.next().is_some());
    ensure!(
        replace || !is_there,
        "there is a state in {} already: back it up, and say --replace to have it forgotten",
        store.display()
    );
    let doing = || format!("replacing {}", store.display());
    unless_missing(std::fs::remove_dir_all(&new)).with_context(doing)?;
    unless_missing(std::fs::remove_dir_all(&old)).with_context(doing)?;
    backup.seed(&new)?;
    unless_missing(std::fs::rename(&store, &old)).with_context(doing)?;
    std::fs::rename(&new, &store).with_context(doing)?;
    std::fs::File::open(&place.data_dir).and_then(|dir| dir.sync_all()).with_context(doing)?;
    unless_missing(std::fs::remove_dir_all(&old)).with_context(doing)
}

async fn put_into_etcd(etcd: &Etcd, backup: &Backup) -> anyhow::Result<()> {
    let store = etcd.open().await?;
    let copied = backup.copy_to(&store, |done| tracing::debug!(done, "copied")).await;
    copied.with_context(|| format!("filling {etcd}, which must be empty: `etcdctl del --prefix` empties it"))
}

/// Holds the place of the process that must not run meanwhile.
async fn idle(place: &Place) -> anyhow::Result<std::fs::File> {
    ensure_idle(place).await.context("`podling down` first")?;
    place.occupy()
}

async fn to_etcd(place: &Place, members: Vec<String>, options: &EtcdOptions) -> anyhow::Result<()> {
    let mut facts = place.existing()?;
    let directory = place.data_dir.display();
    ensure!(facts.store == Home::Disk, "the state of the cluster in {directory} is in {} already", facts.store);
    let lock = idle(place).await?;
    let etcd = Etcd::new(members, options, None);
    let progress = Progress::of("copying the state");
    let mut backup = Backup::of_directory(&place.file("store"), None)?;
    let shared = Shared::of(place, &facts)?;
    shared.enter(&mut backup)?;
    put_into_etcd(&etcd, &backup).await?;
    facts.shared = Some(shared.id);
    facts.store = Home::Etcd(etcd);
    place.keep(&facts)?;
    place.leave(lock);
    drop(progress);
    say!("{} keys are in {}; `podling {}` goes on there", backup.entries.len(), facts.store, facts.role.verb());
    say!("{directory}/store stays as it is and is not used any more");
    Ok(())
}

async fn to_disk(place: &Place, members: Vec<String>, options: &EtcdOptions) -> anyhow::Result<()> {
    place.make()?;
    let lock = idle(place).await?;
    let known = place.facts()?;
    let before = known.as_ref().and_then(|facts| match &facts.store {
        Home::Etcd(etcd) => Some(etcd.clone()),
        Home::Disk => None,
    });
    let etcd = Etcd::new(members, options, before.as_ref());
    let progress = Progress::of("copying the state");
    let store = etcd.open().await?;
    ensure_still(&store, &etcd).await?;
    let backup = Backup::of(&store).await?;
    ensure!(!backup.entries.is_empty(), "there is no cluster in {etcd}");
    if let Some(facts) = &known {
        Shared::ensure_same(&backup, facts)?;
    }
    // What was left there when the state went to etcd is older.
    put_on_disk(place, &backup, before.is_some())?;
    if let Some(mut facts) = known {
        facts.store = Home::Disk;
        place.keep(&facts)?;
    }
    place.leave(lock);
    drop(progress);
    say!("{} keys are in {}; `podling up` goes on there", backup.entries.len(), place.file("store").display());
    say!("what is in {etcd} stays as it is: let no other server go on with it");
    Ok(())
}

/// Refuses to take away what another server is at work on: one of them renews the controllers' lease all the time.
async fn ensure_still(store: &dyn Store, etcd: &Etcd) -> anyhow::Result<()> {
    let lease = async || Ok::<_, store::Error>(store.get(LEASE).await?.entry.map(|entry| entry.modified));
    let before = lease().await?;
    if before.is_some() {
        tokio::time::sleep(LEASE_BEATS).await;
    }
    ensure!(lease().await? == before, "another server is at work on the state in {etcd}: `podling down` there first");
    Ok(())
}

fn log(place: &Place) -> anyhow::Result<()> {
    let facts = place.existing()?;
    ensure!(facts.store == Home::Disk, "the state is in {}, which keeps no log that could be shown", facts.store);
    for event in store::backup::history(&place.file("store"))? {
        let what = match (event.deleted, &event.previous) {
            (true, _) => "delete",
            (false, Some(_)) => "update",
            (false, None) => "create",
        };
        say!("{}\t{what}\t{}", event.revision(), event.entry.key);
    }
    Ok(())
}
