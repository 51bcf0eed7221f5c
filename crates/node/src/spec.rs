//! Translates a container of a pod into what the runtime starts.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1 as core;
use runtime::image::Image;
use runtime::{ContainerSpec, Mount, PidNamespace, Propagation, Seccomp};

use crate::Error;
use crate::env::Environment;
use crate::expand::expand;
use crate::pod::Pod;
use crate::resources::{self, Capacity};
use crate::volume::Volumes;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Where a container leaves its last words unless the pod says otherwise.
const TERMINATION_LOG: &str = "/dev/termination-log";

/// The annotations by which the agent finds its containers again.
pub mod annotation {
    /// How often a container of this name was started before.
    pub const ATTEMPT: &str = "attempt";
    /// The image as the pod names it.
    pub const IMAGE: &str = "image";
    /// The image by the digest of its manifest or configuration.
    pub const IMAGE_ID: &str = "image-id";
    /// The image as the pod asked for it, to notice a change.
    pub const IMAGE_ASKED: &str = "image-asked";
    /// The signal that asks the process to end.
    pub const STOP_SIGNAL: &str = "stop-signal";
    /// Uid of the pod.
    pub const POD_UID: &str = "pod-uid";
    /// Namespace of the pod.
    pub const POD_NAMESPACE: &str = "pod-namespace";
    /// Name of the pod.
    pub const POD_NAME: &str = "pod-name";
    /// Addresses of the pod, with commas between; absent in the machine's network.
    pub const ADDRESSES: &str = "address";
}

/// Where the files of one pod lie.
#[derive(Debug, Clone)]
pub struct Paths {
    /// Volumes, hosts file and so on; goes with the pod.
    pub directory: PathBuf,
    /// Logs; goes with the pod.
    pub logs: PathBuf,
}

impl Paths {
    /// The log of one attempt of a container.
    pub fn log(&self, container: &str, attempt: u32) -> PathBuf {
        self.logs.join(container).join(format!("{attempt}.log"))
    }

    /// Where a container leaves its last words.
    pub fn termination(&self, container: &str, attempt: u32) -> PathBuf {
        self.directory.join("termination").join(format!("{container}-{attempt}"))
    }
}

/// Everything that the translation needs to know.
pub struct Context<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Its container.
    pub container: &'a core::Container,
    /// Number of this start, from 0.
    pub attempt: u32,
    /// The container's image.
    pub image: &'a Image,
    /// What the pod gives to the container's environment.
    pub environment: &'a Environment,
    /// The pod's volumes.
    pub volumes: &'a Volumes,
    /// The pod's files.
    pub paths: &'a Paths,
    /// What the node has.
    pub capacity: &'a Capacity,
}

/// The runtime's description of a container.
///
/// # Errors
/// [`Error::Config`] when the pod asks for what cannot be.
pub fn translate(context: &Context<'_>) -> Result<ContainerSpec, Error> {
    let Context { pod, container, attempt, image, .. } = *context;
    let security = Security::of(pod, container);
    let user = security.user(context)?;
    let argv = command(context)?;
    Ok(ContainerSpec {
        id: container_id(&container.name, attempt),
        name: container.name.clone(),
        layers: image.layers.clone(),
        argv,
        env: environment(context, &user.home),
        cwd: container.working_dir.clone().unwrap_or_else(|| image.config.working_dir.clone()),
        user: user.user,
        mounts: mounts(context)?,
        capabilities: security.capabilities(),
        privileged: security.is_privileged(),
        no_new_privs: security.no_new_privs(),
        seccomp: security.seccomp()?,
        readonly_rootfs: security.own.and_then(|own| own.read_only_root_filesystem).unwrap_or(false),
        resources: resources::of_container(container),
        oom_score_adj: Some(resources::oom_score(pod, container, context.capacity)),
        tty: container.tty == Some(true),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        log_path: Some(context.paths.log(&container.name, attempt)),
        masked_paths: security.unmasked().then(Vec::new),
        readonly_paths: security.unmasked().then(Vec::new),
        annotations: annotations(context),
        ..ContainerSpec::default()
    })
}

/// The runtime's name of one start of a container.
pub fn container_id(name: &str, attempt: u32) -> String {
    format!("{name}-{attempt}")
}

fn annotations(context: &Context<'_>) -> BTreeMap<String, String> {
    let stop = context.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.clone());
    let stop = stop.or_else(|| context.image.config.stop_signal.clone()).unwrap_or_else(|| "SIGTERM".into());
    let own = [
        (annotation::ATTEMPT, context.attempt.to_string()),
        (annotation::IMAGE, context.image.name_for_status(context.container.image.as_deref().unwrap_or_default())),
        (annotation::IMAGE_ID, context.image.id_for_status()),
        (annotation::STOP_SIGNAL, stop),
        (annotation::IMAGE_ASKED, context.container.image.clone().unwrap_or_default()),
    ];
    own.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn command(context: &Context<'_>) -> Result<Vec<String>, Error> {
    let Context { container, image, environment, .. } = context;
    let expanded = |list: &Option<Vec<String>>| -> Option<Vec<String>> {
        let list = list.as_ref().filter(|list| !list.is_empty())?;
        Some(list.iter().map(|word| expand(word, |name| environment.get(name).map(String::as_str))).collect())
    };
    let (command, args) = (expanded(&container.command), expanded(&container.args));
    // A command of the pod's own replaces the image's arguments too.
    let mut argv = command.clone().unwrap_or_else(|| image.config.entrypoint.clone());
    argv.extend(args.unwrap_or_else(|| if command.is_some() { Vec::new() } else { image.config.cmd.clone() }));
    if argv.is_empty() {
        return Err(Error::Config {
            reason: "CreateContainerError",
            message: format!("no command specified: image {} has none", container.image.as_deref().unwrap_or_default()),
        });
    }
    Ok(argv)
}

/// Image first, then the pod; the customary ones only where neither says them.
fn environment(context: &Context<'_>, home: &str) -> Vec<String> {
    let mut all = BTreeMap::new();
    all.insert("PATH", PATH.to_owned());
    all.insert("HOME", home.to_owned());
    all.insert("HOSTNAME", context.pod.hostname());
    if context.container.tty == Some(true) {
        all.insert("TERM", "xterm".to_owned());
    }
    for variable in &context.image.config.env {
        if let Some((name, value)) = variable.split_once('=') {
            all.insert(name, value.to_owned());
        }
    }
    for (name, value) in context.environment {
        all.insert(name, value.clone());
    }
    all.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

fn mounts(context: &Context<'_>) -> Result<Vec<Mount>, Error> {
    let Context { container, volumes, paths, environment, .. } = context;
    let mut mounts = Vec::new();
    for mount in container.volume_mounts.iter().flatten() {
        let source = volumes
            .get(&mount.name)
            .ok_or_else(|| Error::config(format!("volume \"{}\" of a mount is not in the pod", mount.name)))?;
        let expression = mount.sub_path_expr.as_ref().filter(|text| !text.is_empty());
        let expanded = expression.map(|text| expand(text, |name| environment.get(name).map(String::as_str)));
        mounts.push(Mount {
            source: Some(source.clone()),
            subpath: expanded.or_else(|| mount.sub_path.clone()).filter(|path| !path.is_empty()),
            target: mount.mount_path.clone(),
            readonly: mount.read_only == Some(true),
            propagation: match mount.mount_propagation.as_deref() {
                Some("HostToContainer") => Propagation::Slave,
                Some("Bidirectional") => Propagation::Shared,
                _ => Propagation::Private,
            },
        });
    }
    let readonly = Security::of(context.pod, container).own.and_then(|own| own.read_only_root_filesystem) == Some(true);
    let managed = [("hosts", "/etc/hosts"), ("hostname", "/etc/hostname"), ("resolv.conf", "/etc/resolv.conf")];
    for (file, target) in managed {
        if mounts.iter().all(|mount| mount.target != target) {
            mounts.push(file_mount(paths.directory.join(file), target, readonly));
        }
    }
    let last_words = container.termination_message_path.as_deref().unwrap_or(TERMINATION_LOG);
    mounts.push(file_mount(paths.termination(&container.name, context.attempt), last_words, false));
    Ok(mounts)
}

/// The runtime's words about a part of a volume in those of Kubernetes, which give away nothing about this machine.
pub(crate) fn subpath_refused(container: &core::Container, message: &str) -> Error {
    tracing::warn!(container = container.name, message, "a container's subPath is refused");
    let target = message.split_once(':').map_or("", |(target, _)| target);
    let mount = container.volume_mounts.iter().flatten().find(|mount| mount.mount_path == target);
    let volume = mount.map_or("", |mount| &mount.name);
    Error::config(format!("failed to prepare subPath for volumeMount \"{volume}\" of container \"{}\"", container.name))
}

fn file_mount(source: PathBuf, target: &str, readonly: bool) -> Mount {
    Mount { source: Some(source), target: target.to_owned(), readonly, ..Mount::default() }
}

/// The container's security context over the pod's.
struct Security<'a> {
    pod: Option<&'a core::PodSecurityContext>,
    own: Option<&'a core::SecurityContext>,
}

impl<'a> Security<'a> {
    fn of(pod: &'a Pod, container: &'a core::Container) -> Self {
        Self { pod: pod.spec().security_context.as_ref(), own: container.security_context.as_ref() }
    }

    fn is_privileged(&self) -> bool {
        self.own.and_then(|own| own.privileged) == Some(true)
    }

    /// Set-uid programs gain nothing unless the pod asks for it: podling is closed where Kubernetes is open.
    fn no_new_privs(&self) -> bool {
        let asked = self.own.and_then(|own| own.allow_privilege_escalation);
        let adds_admin = self.own.and_then(|own| own.capabilities.as_ref()).is_some_and(|capabilities| {
            capabilities.add.iter().flatten().any(|name| matches!(name.as_str(), "SYS_ADMIN" | "CAP_SYS_ADMIN" | "ALL"))
        });
        !asked.unwrap_or(self.is_privileged() || adds_admin)
    }

    fn capabilities(&self) -> Vec<String> {
        let capabilities = self.own.and_then(|own| own.capabilities.as_ref());
        let list = |names: Option<&Vec<String>>| names.cloned().unwrap_or_default();
        let (add, drop) = (capabilities.and_then(|c| c.add.as_ref()), capabilities.and_then(|c| c.drop.as_ref()));
        runtime::spec::capabilities(&list(add), &list(drop))
    }

    fn unmasked(&self) -> bool {
        self.own.and_then(|own| own.proc_mount.as_deref()) == Some("Unmasked")
    }

    fn seccomp(&self) -> Result<Seccomp, Error> {
        let own = self.own.and_then(|own| own.seccomp_profile.as_ref());
        let profile = own.or_else(|| self.pod.and_then(|pod| pod.seccomp_profile.as_ref()));
        match profile.map(|profile| profile.type_.as_str()) {
            Some("Unconfined") => Ok(Seccomp::Unconfined),
            Some("RuntimeDefault") => Ok(Seccomp::Default),
            Some(other) => Err(Error::config(format!("seccomp profile type {other} is not offered by this node"))),
            None if self.is_privileged() => Ok(Seccomp::Unconfined),
            None => Ok(Seccomp::Default),
        }
    }

    fn user(&self, context: &Context<'_>) -> Result<runtime::rootfs::ResolvedUser, Error> {
        let own = |pick: fn(&core::SecurityContext) -> Option<i64>| self.own.and_then(pick);
        let shared = |pick: fn(&core::PodSecurityContext) -> Option<i64>| self.pod.and_then(pick);
        let uid = own(|own| own.run_as_user).or_else(|| shared(|pod| pod.run_as_user));
        let gid = own(|own| own.run_as_group).or_else(|| shared(|pod| pod.run_as_group));
        let text = uid.map_or_else(|| context.image.config.user.clone(), |uid| uid.to_string());
        let mut resolved = runtime::rootfs::resolve_user(&context.image.layers, &text)
            .map_err(|e| Error::Config { reason: "CreateContainerError", message: Error::from(e).chain() })?;
        if let Some(gid) = gid.and_then(|gid| u32::try_from(gid).ok()) {
            resolved.user.gid = gid;
        }
        self.refuse_root(context, &resolved)?;
        if self.pod.and_then(|pod| pod.supplemental_groups_policy.as_deref()) == Some("Strict") {
            resolved.user.groups.clear();
        }
        let groups = self.pod.and_then(|pod| pod.supplemental_groups.clone()).unwrap_or_default();
        let extra = groups.into_iter().chain(shared(|pod| pod.fs_group)).filter_map(|gid| u32::try_from(gid).ok());
        for gid in extra {
            if !resolved.user.groups.contains(&gid) {
                resolved.user.groups.push(gid);
            }
        }
        Ok(resolved)
    }

    fn refuse_root(&self, context: &Context<'_>, resolved: &runtime::rootfs::ResolvedUser) -> Result<(), Error> {
        let own = self.own.and_then(|own| own.run_as_non_root);
        if own.or_else(|| self.pod.and_then(|pod| pod.run_as_non_root)) != Some(true) {
            return Ok(());
        }
        let (pod, container) = (context.pod.label(), &context.container.name);
        if !resolved.is_numeric {
            return Err(Error::config(format!(
                "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root (pod: \"{pod}\", container: {container})",
                context.image.config.user
            )));
        }
        if resolved.user.uid == 0 {
            return Err(Error::config(format!(
                "container has runAsNonRoot and image will run as root (pod: \"{pod}\", container: {container})"
            )));
        }
        Ok(())
    }
}

/// Which processes the pod's containers see.
pub fn pid_namespace(pod: &Pod) -> PidNamespace {
    let spec = pod.spec();
    match (spec.host_pid, spec.share_process_namespace) {
        (Some(true), _) => PidNamespace::Host,
        (_, Some(true)) => PidNamespace::Shared,
        _ => PidNamespace::Container,
    }
}

/// Writes the files that a pod's containers find in /etc, and makes the directory of its logs.
///
/// # Errors
/// [`Error::Failed`] naming the file.
pub fn write_files(pod: &Pod, paths: &Paths, addresses: &[IpAddr]) -> Result<(), Error> {
    let host = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let resolver =
        if pod.uses_host_network() { host("/etc/resolv.conf") } else { crate::files::machine_resolver(host) };
    let files = [
        ("hosts", crate::files::hosts(pod, addresses, &host("/etc/hosts"))),
        ("hostname", format!("{}\n", pod.hostname())),
        ("resolv.conf", crate::files::resolver(pod, &resolver)),
    ];
    for directory in [&paths.directory.join("termination"), &paths.logs] {
        std::fs::create_dir_all(directory).map_err(|e| Error::failed(format!("making {}", directory.display()), e))?;
    }
    files.into_iter().try_for_each(|(name, text)| write(&paths.directory.join(name), &text))
}

/// Makes what one start of a container needs: the directory of its log, the file for its last words.
///
/// # Errors
/// [`Error::Failed`] naming the file.
pub fn write_container_files(paths: &Paths, container: &str, attempt: u32) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt;
    let logs = paths.logs.join(container);
    std::fs::create_dir_all(&logs).map_err(|e| Error::failed(format!("making {}", logs.display()), e))?;
    let file = paths.termination(container, attempt);
    write(&file, "")?;
    // Whoever the container's process is, it may leave a message.
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666))
        .map_err(|e| Error::failed(format!("opening {} to all", file.display()), e))
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    std::fs::write(path, text).map_err(|e| Error::failed(format!("writing {}", path.display()), e))
}
