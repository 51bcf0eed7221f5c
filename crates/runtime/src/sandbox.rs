//! One sandbox: the namespaces a shim holds, the containers in them, and what can be done to them from here.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::TcpStream as StdTcpStream;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use shim::protocol::{Call, Exit, Record, Reply};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::container::Entry;
use crate::error::{Doing, Error, Result};
use crate::host::{Host, check_name, load, remove_dir_aside, save};
use crate::link::{Event, Link};
use crate::rootfs;
use crate::spec::{ContainerSpec, SandboxSpec, Stats, WindowSize};

/// How long a sandbox may take to kill what runs in it.
const SHUTDOWN: Duration = Duration::from_secs(10);

/// A sandbox, living or dead.
#[derive(Debug)]
pub struct Sandbox {
    host: Arc<Host>,
    spec: SandboxSpec,
    /// None: dead from the start.
    link: Option<Arc<Link>>,
    state: Mutex<State>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    is_alive: bool,
    pid: Option<u32>,
    containers: Vec<Entry>,
}

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Asked for; its process does not run yet.
    Starting,
    /// Its process runs.
    Running,
    /// Its process ended, or could not be started, or died with the sandbox.
    Exited,
}

/// What is known of one container.
#[derive(Clone, Debug)]
pub struct ContainerState {
    /// As in its spec.
    pub id: String,
    /// As in its spec.
    pub name: String,
    /// As in its spec.
    pub annotations: BTreeMap<String, String>,
    /// Where it is in its life.
    pub phase: Phase,
    /// Of its first process, while it runs.
    pub pid: Option<u32>,
    /// When it was asked for.
    pub created: SystemTime,
    /// When its process began.
    pub started: Option<SystemTime>,
    /// When its process ended.
    pub finished: Option<SystemTime>,
    /// How it ended. None while it runs, and when nobody saw the end (the host went down, or the shim was killed).
    pub exit: Option<Exit>,
    /// As in its spec.
    pub log_path: Option<PathBuf>,
}

impl Sandbox {
    /// Waits until the shim of a new sandbox is ready.
    pub(crate) async fn begin(
        host: &Arc<Host>,
        spec: SandboxSpec,
        socket: OwnedFd,
        child: Child,
    ) -> Result<Arc<Sandbox>> {
        let id = spec.id.clone();
        let sandbox = Sandbox::with_link(host, spec, socket, Some(child))?;
        match sandbox.hello().await {
            Ok(_) => Ok(sandbox),
            Err(error) => {
                sandbox.wait_for_end().await;
                host.clean_up(&id).await?;
                Err(error)
            }
        }
    }

    /// Takes over a sandbox from an earlier agent.
    pub(crate) async fn adopt(host: &Arc<Host>, spec: SandboxSpec, socket: OwnedFd) -> Result<Arc<Sandbox>> {
        let sandbox = Sandbox::with_link(host, spec, socket, None)?;
        sandbox.recall();
        let doing = || format!("wait for the shim of sandbox {}", sandbox.spec.id);
        let records = tokio::time::timeout(SHUTDOWN, sandbox.hello()).await.doing(doing)??;
        let mut state = sandbox.lock();
        for record in records {
            state.note(record);
        }
        drop(state);
        sandbox.forget_unborn()?;
        Ok(sandbox)
    }

    /// Forgets containers that the shim never heard of: whoever was about to start them ended in the middle, and may begin anew under the
    /// same names.
    fn forget_unborn(&self) -> Result<()> {
        let mut state = self.lock();
        state.containers.retain(|entry| entry.record.is_some());
        for entry in fs::read_dir(self.dir().join("c")).into_iter().flatten().flatten() {
            let is_known = state.containers.iter().any(|known| entry.file_name() == known.spec.id.as_str());
            if !is_known {
                fs::remove_dir_all(entry.path()).doing(|| format!("remove {}", entry.path().display()))?;
            }
        }
        Ok(())
    }

    /// What is left of one whose shim is gone.
    pub(crate) fn dead(host: &Arc<Host>, spec: SandboxSpec) -> Arc<Sandbox> {
        let sandbox = Sandbox {
            host: Arc::clone(host),
            spec,
            link: None,
            state: Mutex::default(),
            changes: watch::Sender::new(0),
        };
        sandbox.recall();
        Arc::new(sandbox)
    }

    fn with_link(host: &Arc<Host>, spec: SandboxSpec, socket: OwnedFd, child: Option<Child>) -> Result<Arc<Sandbox>> {
        let link = Arc::new(Link::new(&spec.id, socket)?);
        let state = Mutex::new(State { is_alive: true, ..State::default() });
        let changes = watch::Sender::new(0);
        let sandbox = Arc::new(Sandbox { host: Arc::clone(host), spec, link: Some(Arc::clone(&link)), state, changes });
        tokio::spawn(listen(link, Arc::downgrade(&sandbox), child));
        Ok(sandbox)
    }

    async fn hello(&self) -> Result<Vec<Record>> {
        match self.link()?.call(Call::Hello, &[]).await? {
            (Reply::Hello { pid, containers, .. }, _) => {
                self.lock().pid = Some(pid);
                Ok(containers)
            }
            _ => Err(self.dead_error()),
        }
    }

    /// Reads from disk which containers there are.
    fn recall(&self) {
        let directory = self.dir().join("c");
        let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
        let mut containers: Vec<Entry> =
            entries.filter_map(|entry| load::<Entry>(&entry.path().join("spec.json")).ok()).collect();
        containers.sort_by_key(|entry| entry.created_ns);
        for entry in &mut containers {
            entry.record = load(&directory.join(&entry.spec.id).join(shim::container::RECORD)).ok();
        }
        self.lock().containers = containers;
    }

    /// As in the spec.
    pub fn id(&self) -> &str {
        &self.spec.id
    }

    /// What was asked for.
    pub fn spec(&self) -> &SandboxSpec {
        &self.spec
    }

    /// Whether its shim lives. A dead sandbox can be looked at and removed, no more.
    pub fn is_alive(&self) -> bool {
        self.lock().is_alive
    }

    /// Process id of the shim, whose namespaces are those of the sandbox.
    pub fn pid(&self) -> Option<u32> {
        let state = self.lock();
        state.pid.filter(|_| state.is_alive)
    }

    /// All containers that were not removed, in the order they were asked for.
    pub fn containers(&self) -> Vec<ContainerState> {
        let state = self.lock();
        state.containers.iter().map(|entry| entry.state(state.is_alive)).collect()
    }

    /// One container.
    pub fn container(&self, id: &str) -> Option<ContainerState> {
        let state = self.lock();
        state.containers.iter().find(|entry| entry.spec.id == id).map(|entry| entry.state(state.is_alive))
    }

    /// What was asked for.
    pub fn container_spec(&self, id: &str) -> Option<ContainerSpec> {
        self.lock().containers.iter().find(|entry| entry.spec.id == id).map(|entry| entry.spec.clone())
    }

    /// A number that rises with every change of a container or of the sandbox's life: wait for it, then look.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Starts a container; its process runs when this returns. After an error the container exists, exited, until it is removed.
    pub async fn start(&self, spec: ContainerSpec) -> Result<ContainerState> {
        check_name(&spec.id)?;
        let link = self.link()?;
        let id = spec.id.clone();
        let started = self.prepare(spec);
        let result = match started {
            Ok(container) => link.call(Call::Start(Box::new(container)), &[]).await,
            Err(error) => Err(error),
        };
        let outcome = match result {
            Ok((Reply::Started(record), _)) => {
                self.lock().note(record);
                self.container(&id).ok_or_else(|| self.unknown(&id))
            }
            Ok(_) => Err(self.dead_error()),
            Err(error) => {
                self.lock().refuse(&id);
                Err(error)
            }
        };
        self.changed();
        outcome
    }

    /// Everything a container needs on disk and in cgroups before its process can be forked.
    fn prepare(&self, spec: ContainerSpec) -> Result<shim::spec::Container> {
        let dir = self.container_dir(&spec.id);
        fs::create_dir(&dir).doing(|| format!("make {}", dir.display()))?;
        let entry = Entry::new(spec.clone());
        save(&dir.join("spec.json"), &entry)?;
        self.lock().containers.push(entry);
        let cgroup = self.host.cgroups.create_container(&self.spec.id, &spec.id, &spec.resources, spec.privileged)?;
        Ok(crate::container::for_shim(&spec, dir, cgroup))
    }

    /// Sends a signal to a container's first process.
    pub async fn signal(&self, id: &str, signal: i32) -> Result<()> {
        let call = Call::Signal { container: id.to_owned(), signal, all: false };
        let link = self.link()?;
        let asked = tokio::time::timeout(SHUTDOWN, link.call(call, &[])).await;
        asked.doing(|| format!("signal container {id}"))?.map(drop)
    }

    /// Kills every process of a container. Its end is seen as a change.
    pub async fn kill(&self, id: &str) -> Result<()> {
        let call = Call::Signal { container: id.to_owned(), signal: libc::SIGKILL, all: true };
        let link = self.link()?;
        let asked = tokio::time::timeout(SHUTDOWN, link.call(call, &[])).await;
        asked.map_or_else(
            |_| {
                tracing::warn!(sandbox = self.spec.id, "a shim hangs, it is killed with its containers");
                self.kill_shim();
                Ok(())
            },
            |answer| answer.map(drop),
        )
    }

    /// Changes the size of a container's terminal.
    pub async fn resize(&self, id: &str, size: WindowSize) -> Result<()> {
        self.link()?.call(Call::Resize { container: id.to_owned(), size }, &[]).await.map(|_| ())
    }

    /// Connects to a port on the sandbox's loopback: 127.0.0.1, or ::1 if nobody is there.
    pub async fn connect(&self, port: u16) -> Result<TcpStream> {
        match self.connect_to(port, false).await {
            Err(refusal) => self.connect_to(port, true).await.map_err(|_| refusal),
            connected => connected,
        }
    }

    async fn connect_to(&self, port: u16, ipv6: bool) -> Result<TcpStream> {
        let doing = || format!("connect to port {port} in sandbox {}", self.spec.id);
        let (_, answer) = self.link()?.call(Call::Connect { port, ipv6 }, &[]).await?;
        let socket = answer.fds.into_iter().next().ok_or_else(|| self.dead_error())?;
        let stream = TcpStream::from_std(StdTcpStream::from(socket)).doing(doing)?;
        stream.writable().await.doing(doing)?;
        match stream.take_error().doing(doing)? {
            Some(error) => Err(error).doing(doing),
            None => Ok(stream),
        }
    }

    /// Reads at most `limit` bytes of a file inside a container's root. What is mounted there is seen only while it runs.
    pub async fn read_file(&self, id: &str, path: &Path, limit: usize) -> Result<Vec<u8>> {
        let spec = self.container_spec(id).ok_or_else(|| self.unknown(id))?;
        let running = self.container(id).and_then(|state| state.pid);
        let layers = match running {
            Some(pid) => vec![PathBuf::from(format!("/proc/{pid}/root"))],
            None => std::iter::once(self.container_dir(id).join("upper")).chain(spec.layers).collect(),
        };
        rootfs::read(&layers, path, limit)
    }

    /// What a running container uses.
    pub async fn stats(&self, id: &str) -> Result<Stats> {
        match self.container(id) {
            Some(state) if state.phase == Phase::Running => self.host.cgroups.stats(&self.spec.id, id),
            Some(_) => Err(Error::NotRunning { container: id.to_owned() }),
            None => Err(self.unknown(id)),
        }
    }

    /// Forgets a container that has ended: its writable layer, records and cgroup. Its log stays. Kills it first if it runs.
    pub async fn remove_container(&self, id: &str) -> Result<()> {
        if self.container(id).is_none() {
            return Err(self.unknown(id));
        }
        if self.is_alive() {
            self.end(id).await?;
            self.link()?.call(Call::Forget { container: id.to_owned() }, &[]).await?;
        }
        self.host.cgroups.remove_container(&self.spec.id, id).await?;
        remove_dir_aside(self.container_dir(id)).await?;
        self.lock().containers.retain(|entry| entry.spec.id != id);
        self.changed();
        Ok(())
    }

    /// Kills a container and waits until it is dead.
    async fn end(&self, id: &str) -> Result<()> {
        let mut changes = self.changes();
        if self.container(id).is_some_and(|state| state.phase == Phase::Running) {
            match self.kill(id).await {
                Err(Error::NotRunning { .. }) => {}
                other => other?,
            }
        }
        let is_over = |_: &u64| self.container(id).is_none_or(|state| state.phase == Phase::Exited);
        let waited = tokio::time::timeout(SHUTDOWN, changes.wait_for(is_over)).await;
        waited
            .map(|_| ())
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))
            .doing(|| format!("wait for the end of container {id}"))
    }

    /// Kills what runs, ends the shim and takes everything of this sandbox away. Idempotent.
    pub async fn remove(&self) -> Result<()> {
        if self.is_alive()
            && let Ok(link) = self.link()
        {
            // A shim that is gone or hangs has the same end: below.
            let asked = tokio::time::timeout(SHUTDOWN, link.ask(Call::Shutdown, &[])).await;
            if asked.is_err() {
                self.kill_shim();
            }
            self.wait_for_end().await;
        }
        self.host.clean_up(&self.spec.id).await?;
        self.lock().containers.clear();
        self.changed();
        Ok(())
    }

    /// Kills everything in it at once. What is known of its containers can still be read.
    pub fn kill_all(&self) {
        self.kill_shim();
    }

    fn kill_shim(&self) {
        if let Some(pid) = self.pid().and_then(|pid| rustix::process::Pid::from_raw(pid as i32)) {
            // It is ours as long as its socket is open.
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap_or_default();
        }
    }

    async fn wait_for_end(&self) {
        let mut changes = self.changes();
        let waited = tokio::time::timeout(SHUTDOWN, changes.wait_for(|_| !self.is_alive())).await;
        if waited.is_err() {
            tracing::warn!(sandbox = self.spec.id, "a shim does not end");
        }
    }

    fn hear(&self, event: Event) {
        match event {
            Event::Started(record) | Event::Exited(record) => self.lock().note(record),
        }
        self.changed();
    }

    fn mark_dead(&self) {
        // Containers die with their shim, but what shares no pid namespace with them may have got away.
        self.host.cgroups.kill(&self.spec.id, None);
        self.lock().is_alive = false;
        self.changed();
    }

    fn changed(&self) {
        self.changes.send_modify(|number| *number += 1);
    }

    fn dir(&self) -> PathBuf {
        self.host.sandbox_dir(&self.spec.id)
    }

    fn container_dir(&self, id: &str) -> PathBuf {
        self.dir().join("c").join(id)
    }

    pub(crate) fn link(&self) -> Result<Arc<Link>> {
        self.link.clone().ok_or_else(|| self.dead_error())
    }

    pub(crate) fn dead_error(&self) -> Error {
        Error::Dead { sandbox: self.spec.id.clone() }
    }

    pub(crate) fn unknown(&self, id: &str) -> Error {
        Error::NotFound { what: format!("container {id} in sandbox {}", self.spec.id) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Later news never gives way to earlier: an end that overtook the reply to a start stays an end.
    fn note(&mut self, record: Record) {
        let Some(entry) = self.containers.iter_mut().find(|entry| entry.spec.id == record.container) else {
            return;
        };
        if entry.record.as_ref().is_none_or(|known| known.exit.is_none()) {
            entry.record = Some(record);
        }
    }

    fn refuse(&mut self, id: &str) {
        if let Some(entry) = self.containers.iter_mut().find(|entry| entry.spec.id == id) {
            entry.is_refused = true;
        }
    }
}

/// The task that hears a shim until it is gone, and reaps it if it is our child.
async fn listen(link: Arc<Link>, sandbox: std::sync::Weak<Sandbox>, child: Option<Child>) {
    let hear = |event| {
        if let Some(sandbox) = sandbox.upgrade() {
            sandbox.hear(event);
        }
    };
    link.listen(hear).await;
    if let Some(mut child) = child {
        let reaped = tokio::task::spawn_blocking(move || child.wait()).await;
        tracing::debug!(?reaped, "a shim ended");
    }
    if let Some(sandbox) = sandbox.upgrade() {
        sandbox.mark_dead();
    }
}

/// A moment in nanoseconds since 1970.
pub(crate) fn moment(nanoseconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(nanoseconds)
}
