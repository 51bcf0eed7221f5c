//! `podling install` and `podling uninstall`: podling as a service of the machine, which systemd starts with it.

use std::ffi::OsStr;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use clap::Parser as _;
use wire::authority::write_private;

use crate::cluster::unless_missing;
use crate::{Arguments, Command as Verb};

/// The options of `install`.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Options {
    #[command(flatten)]
    site: Site,
    /// Start it with the machine from now on, but not now
    #[arg(long)]
    no_start: bool,
    /// What the service runs: up, server or join, with their options
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    words: Vec<String>,
}

/// The options of `uninstall`.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Removal {
    #[command(flatten)]
    site: Site,
    /// Leave the cluster's state, and its pods, where they are
    #[arg(long)]
    keep_data: bool,
}

/// Which service is meant.
#[derive(clap::Args, Debug, Clone)]
struct Site {
    /// Name of the service
    #[arg(long, value_name = "NAME", default_value = "podling", value_parser = service_name)]
    name: String,
    /// Work on the system in this directory, as when an image of a machine is made; nothing is started
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

/// Where the program lies for the service.
const PROGRAM: &str = "/usr/local/bin/podling";
/// The name under which the unit says that the program was put there with it.
const OURS: &str = "X-Podling-Program=";
/// The name under which the unit says where the state is.
const DATA: &str = "X-Podling-Data=";
/// The token, which nobody but root may see, unlike a process's words.
pub(crate) const TOKEN: &str = "PODLING_TOKEN";

fn service_name(text: &str) -> Result<String, String> {
    let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    match !text.is_empty() && !text.starts_with(['-', '.']) && text.bytes().all(is_fine) {
        true => Ok(text.to_owned()),
        false => Err("a service's name has letters, digits, \"-\", \"_\" and \".\" only".to_owned()),
    }
}

impl Site {
    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    fn unit(&self) -> PathBuf {
        self.at(&format!("/etc/systemd/system/{}.service", self.name))
    }

    /// As the service sees it.
    fn secrets(&self) -> String {
        format!("/etc/podling/{}.env", self.name)
    }

    /// Whether systemd runs this very machine.
    fn is_managed(&self) -> bool {
        self.root == Path::new("/") && Path::new("/run/systemd/system").exists()
    }
}

/// Writes the unit, and starts it.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let site = &options.site;
    let mut service = Service::of(&options.words)?;
    if site.root == Path::new("/") {
        service.start_in(&std::env::current_dir().context("finding the working directory")?)?;
    }
    let unit = site.unit();
    ensure!(
        std::fs::read_to_string(&unit).map_or(true, |text| text.contains(DATA)),
        "{} is there already, and it is not podling's: choose another --name",
        unit.display()
    );
    let is_ours = put_program(&site.at(PROGRAM))? || had_program(&unit);
    let secrets = site.at(&site.secrets());
    match &service.token {
        Some(token) => {
            make_directory(&secrets, 0o700)?;
            write_private(&secrets, format!("{TOKEN}={token}\n").as_bytes())?;
        }
        None => unless_missing(std::fs::remove_file(&secrets))?,
    }
    make_directory(&unit, 0o755)?;
    write(&unit, service.unit(&site.secrets(), is_ours).as_bytes(), 0o644)?;
    say!("wrote {}", unit.display());
    if !site.is_managed() {
        say!(
            "systemd does not run there: nothing was started, and `systemctl enable {}` is still to be done",
            site.name
        );
        return Ok(());
    }
    systemctl(&["daemon-reload"])?;
    let start = if options.no_start { &["enable"][..] } else { &["enable", "--now"] };
    let doing = || format!("starting it: `journalctl -u {}` tells more", site.name);
    systemctl(&[start, &[site.name.as_str()]].concat()).with_context(doing)?;
    say!("service {} is enabled{}", site.name, if options.no_start { "" } else { " and runs" });
    Ok(())
}

/// Stops the service, and takes away what [`run`] made.
pub(crate) fn remove(options: &Removal) -> anyhow::Result<()> {
    let site = &options.site;
    let unit = site.unit();
    let text = std::fs::read_to_string(&unit)
        .with_context(|| format!("there is no service {} ({})", site.name, unit.display()))?;
    let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    let data = value(DATA).with_context(|| format!("{} is not podling's", unit.display()))?;
    let facts = site.at(data).join("cluster.json");
    if facts.exists() && !options.keep_data {
        bail!(
            "there is a cluster in {data}: `podling leave` (on a node) or `podling down --purge` ends it first, or --keep-data leaves \
             it and its pods as they are"
        );
    }
    if site.is_managed() {
        systemctl(&["disable", "--now", &site.name])?;
    }
    let program = value(OURS).filter(|answer| *answer == "yes").map(|_| site.at(PROGRAM));
    for path in [Some(unit), Some(site.at(&site.secrets())), program].into_iter().flatten() {
        unless_missing(std::fs::remove_file(&path)).with_context(|| format!("removing {}", path.display()))?;
    }
    // Another service may keep its own there.
    drop(std::fs::remove_dir(site.at("/etc/podling")));
    if site.is_managed() {
        systemctl(&["daemon-reload"])?;
    }
    say!("service {} is gone", site.name);
    Ok(())
}

/// What is to run.
struct Service {
    about: &'static str,
    words: Vec<String>,
    token: Option<String>,
    data: PathBuf,
    /// The line that says where relative paths begin; empty where that is the root, as in the image of a machine.
    directory: String,
}

impl Service {
    /// Reads the words as they will be read when the service starts, so that mistakes are found now.
    fn of(words: &[String]) -> anyhow::Result<Self> {
        let all = std::iter::once("podling").chain(words.iter().map(String::as_str));
        let arguments = match Arguments::try_parse_from(all) {
            Ok(arguments) => arguments,
            Err(error) => bail!("{}", error.to_string().trim_start_matches("error: ").trim_end()),
        };
        let (about, detach, place) = match &arguments.command {
            Verb::Up(up) => ("control plane and node", up.detach, &up.place),
            Verb::Server(up) => ("control plane", up.detach, &up.place),
            Verb::Join(join) => ("node", join.detach, &join.place),
            _ => bail!("a service runs `up`, `server` or `join`"),
        };
        ensure!(!detach, "a service is in the background already: leave out --detach");
        let (words, token) = without_token(words);
        Ok(Self { about, words, token, data: place.data_dir.clone(), directory: String::new() })
    }

    /// Lets relative paths mean what they mean here.
    fn start_in(&mut self, directory: &Path) -> anyhow::Result<()> {
        let text = directory.to_str().filter(|text| !text.contains(char::is_control));
        // There is no quoting in this line, so its end must be the path's.
        let text = text.filter(|text| text.trim_end() == *text && !text.ends_with('\\'));
        let text = text.with_context(|| format!("systemd cannot start a service in {directory:?}: go elsewhere"))?;
        // Where all paths are absolute the directory may go; the service starts all the same.
        self.directory = format!("WorkingDirectory=-{}\n", text.replace('%', "%%"));
        Ok(())
    }

    fn unit(&self, secrets: &str, is_ours: bool) -> String {
        let words: Vec<String> =
            std::iter::once(PROGRAM.to_owned()).chain(self.words.iter().map(|w| quoted(w))).collect();
        let line = words.join(" ");
        let answer = if is_ours { "yes" } else { "no" };
        format!(
            "[Unit]\n\
             Description=podling: Kubernetes {}\n\
             Wants=network-online.target\n\
             After=network-online.target\n\
             {OURS}{answer}\n\
             {DATA}{}\n\
             \n\
             [Service]\n\
             Type=notify\n\
             {}\
             ExecStart={line}\n\
             EnvironmentFile=-{secrets}\n\
             # The pods outlive it, and it ends them only when it is told to.\n\
             KillMode=process\n\
             Delegate=yes\n\
             Restart=on-failure\n\
             RestartSec=2\n\
             # A node waits for its server for as long as it takes.\n\
             TimeoutStartSec=infinity\n\
             LimitNOFILE=1048576\n\
             LimitNPROC=infinity\n\
             LimitCORE=infinity\n\
             TasksMax=infinity\n\
             OOMScoreAdjust=-999\n\
             \n\
             [Install]\n\
             WantedBy=multi-user.target\n",
            self.about,
            self.data.display(),
            self.directory
        )
    }
}

/// Takes the token out of the words of `join`.
pub(crate) fn without_token<W: AsRef<OsStr> + Clone>(words: &[W]) -> (Vec<W>, Option<String>) {
    let (mut rest, mut token) = (Vec::new(), None);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_ref().to_str().and_then(|text| text.strip_prefix("--token")) {
            Some("") => token = words.next().map(|value| value.as_ref().to_string_lossy().into_owned()),
            Some(value) if value.starts_with('=') => token = Some(value[1..].to_owned()),
            _ => rest.push(word.clone()),
        }
    }
    (rest, token)
}

/// A word as systemd reads it back: `%` and `$` mean something there.
fn quoted(word: &str) -> String {
    let word = word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"'\"\\;".contains(&byte);
    if !word.is_empty() && word.bytes().all(is_plain) { word } else { format!("\"{word}\"") }
}

/// Puts this program where services look for it. False if it is there.
fn put_program(path: &Path) -> anyhow::Result<bool> {
    let own = std::env::current_exe().context("finding this program")?;
    let same = |a: &Path, b: &Path| Some(std::fs::canonicalize(a).ok()? == std::fs::canonicalize(b).ok()?);
    if same(&own, path) == Some(true) {
        return Ok(false);
    }
    make_directory(path, 0o755)?;
    let content = std::fs::read(&own).with_context(|| format!("reading {}", own.display()))?;
    write(path, &content, 0o755)?;
    say!("wrote {}", path.display());
    Ok(true)
}

fn had_program(unit: &Path) -> bool {
    std::fs::read_to_string(unit).is_ok_and(|text| text.contains(&format!("{OURS}yes\n")))
}

fn make_directory(path: &Path, mode: u32) -> anyhow::Result<()> {
    let parent = path.parent().context("a path without a directory")?;
    let made = std::fs::DirBuilder::new().recursive(true).mode(mode).create(parent);
    made.with_context(|| format!("making {}", parent.display()))
}

/// Writes a file whole or not at all, though the one that it replaces may be running.
fn write(path: &Path, content: &[u8], mode: u32) -> anyhow::Result<()> {
    let doing = || format!("writing {}", path.display());
    let draft = path.with_extension("new");
    std::fs::write(&draft, content).with_context(doing)?;
    std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(mode)).with_context(doing)?;
    std::fs::rename(&draft, path).with_context(doing)
}

fn systemctl(words: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("systemctl").args(words).output().context("running systemctl")?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`systemctl {}`: {}", words.join(" "), told.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(root: &Path) -> Site {
        Site { name: "podling".into(), root: root.to_owned() }
    }

    fn install(root: &Path, words: &[&str]) -> anyhow::Result<()> {
        let words = words.iter().map(ToString::to_string).collect();
        run(&Options { site: site(root), no_start: false, words })
    }

    fn files(root: &Path) -> Vec<String> {
        let mut found = Vec::new();
        let mut open = vec![root.to_owned()];
        while let Some(directory) = open.pop() {
            for entry in std::fs::read_dir(directory).expect("a directory").flatten() {
                match entry.path() {
                    path if path.is_dir() => open.push(path),
                    path => found.push(path.strip_prefix(root).expect("within").display().to_string()),
                }
            }
        }
        found.sort();
        found
    }

    fn token() -> String {
        format!("{}.abcdef.0123456789abcdef", "0".repeat(64))
    }

    #[test]
    fn a_node_becomes_a_service_and_leaves_nothing() {
        let root = tempfile::tempdir().expect("a directory");
        let words = [
            "join",
            "https://a:6443,https://b:6443",
            "--token",
            &token(),
            "--node-name",
            "n1",
            "--data-dir",
            "/srv/a b%",
        ];
        install(root.path(), &words).expect("it is installed");
        let all = ["etc/podling/podling.env", "etc/systemd/system/podling.service", "usr/local/bin/podling"];
        assert_eq!(files(root.path()), all);
        let unit = std::fs::read_to_string(root.path().join(all[1])).expect("the unit");
        let line = "ExecStart=/usr/local/bin/podling join https://a:6443,https://b:6443 --node-name n1 --data-dir \"/srv/a b%%\"\n";
        assert!(unit.contains(line) && unit.contains("Type=notify\n") && unit.contains("Kubernetes node\n"), "{unit}");
        assert!(!unit.contains(&token()), "who may list services may not join machines: {unit}");
        let secrets = root.path().join(all[0]);
        assert_eq!(std::fs::read_to_string(&secrets).expect("the token"), format!("{TOKEN}={}\n", token()));
        assert_eq!(std::fs::metadata(&secrets).expect("the token").permissions().mode() & 0o777, 0o600);

        // Again, as something else: the token goes.
        install(root.path(), &["server", "--listen", "0.0.0.0:6443"]).expect("it is installed again");
        assert_eq!(files(root.path()), all[1..]);
        let data = root.path().join("var/lib/podling");
        std::fs::create_dir_all(&data).expect("a directory");
        std::fs::write(data.join("cluster.json"), "{}").expect("a file");
        let uninstall = |keep_data| remove(&Removal { site: site(root.path()), keep_data });
        let told = uninstall(false).expect_err("there is a cluster").to_string();
        assert!(told.contains("podling down --purge") && told.contains("--keep-data"), "{told}");
        uninstall(true).expect("it goes");
        assert_eq!(files(root.path()), ["var/lib/podling/cluster.json"]);
        assert!(uninstall(true).expect_err("it is gone").to_string().contains("there is no service podling"));
    }

    #[test]
    fn mistakes_are_told_before_anything_is_written() {
        let root = tempfile::tempdir().expect("a directory");
        let told = |words: &[&str]| install(root.path(), words).expect_err("it is wrong").to_string();
        assert!(told(&["up", "--no-such-option"]).contains("--no-such-option"));
        assert!(told(&["join", "http://a"]).contains("https://HOST:PORT"));
        assert!(told(&["up", "--detach"]).contains("leave out --detach"));
        assert!(told(&["get", "pods"]).contains("`up`, `server` or `join`"));
        assert!(files(root.path()).is_empty());
        let unit = root.path().join("etc/systemd/system/podling.service");
        make_directory(&unit, 0o755).expect("a directory");
        std::fs::write(&unit, "[Unit]\nDescription=theirs\n").expect("a file");
        assert!(told(&["up"]).contains("it is not podling's"));
        let removal = Removal { site: site(root.path()), keep_data: true };
        assert!(remove(&removal).expect_err("it is theirs").to_string().contains("is not podling's"));
        assert!(service_name("a/b").is_err() && service_name("podling-2").is_ok());
    }

    #[test]
    fn words_are_read_back_as_they_were() {
        for (word, expected) in
            [("a", "a"), ("", "\"\""), ("a b", "\"a b\""), ("50%", "50%%"), ("$x", "$$x"), ("\"", "\"\\\"\"")]
        {
            assert_eq!(quoted(word), expected);
        }
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(without_token(&words("join --token=x a")), (words("join a"), Some("x".into())));
    }

    fn service(data: &str) -> Service {
        Service::of(&["up".to_owned(), "--data-dir".to_owned(), data.to_owned()]).expect("a service")
    }

    #[test]
    fn relative_paths_begin_where_it_was_installed() {
        let mut relative = service("state");
        relative.start_in(Path::new("/srv/a b/50%")).expect("a usable directory");
        let unit = relative.unit("/etc/podling/podling.env", true);
        assert!(unit.contains("\nWorkingDirectory=-/srv/a b/50%%\nExecStart="), "{unit}");
        for directory in ["/a\nExecStart=b", "/a\\", "/a "] {
            assert!(service("state").start_in(Path::new(directory)).is_err(), "{directory:?}");
        }
    }

    #[test]
    fn systemd_takes_the_unit() {
        let root = tempfile::tempdir().expect("a directory");
        install(root.path(), &["up"]).expect("it is installed");
        let unit = root.path().join("etc/systemd/system/podling.service");
        let mut service = service("state");
        service.start_in(&root.path().join("a b%")).expect("a usable directory");
        // The program that it names is not there.
        let text = service.unit("/etc/podling/podling.env", true).replace(PROGRAM, "/bin/true");
        std::fs::write(&unit, text).expect("the unit");
        match Command::new("systemd-analyze").arg("verify").arg("--man=no").arg(&unit).output() {
            Ok(output) => {
                let told = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success() && !told.contains("podling.service:"), "{told}");
            }
            Err(error) => eprintln!("SKIPPED: systemd-analyze: {error}"),
        }
    }
}
