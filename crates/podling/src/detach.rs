//! `--detach`: starts the same command again without a terminal, and waits until it is ready.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::before::Before;
use crate::cluster::Place;
use crate::install;
use crate::progress::Progress;

/// It must be ready within this time.
const DEADLINE: Duration = Duration::from_secs(60);

/// Starts the cluster's process in the background.
pub(crate) fn run(place: &Place) -> anyhow::Result<()> {
    let before = Before::of(place);
    before.unless_done(place, start(place, &before))
}

fn start(place: &Place, before: &Before) -> anyhow::Result<()> {
    place.make()?;
    let log = place.file("podling.log");
    let file =
        File::options().create(true).append(true).open(&log).with_context(|| format!("opening {}", log.display()))?;
    let length = file.metadata()?.len();
    let mut child = Command::new(std::env::current_exe().context("finding this program")?);
    let arguments: Vec<_> = std::env::args_os().skip(1).filter(|argument| argument != "--detach").collect();
    let (arguments, token) = install::without_token(&arguments);
    // Everyone may read the arguments of a process, for as long as it lives; its environment only root.
    child.envs(token.map(|token| (install::TOKEN, token)));
    let mut child = child
        .args(arguments)
        .arg("--detached")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(file)
        .spawn()
        .context("starting in the background")?;
    match ready_line(&mut child)? {
        Some(line) => {
            say!("{line}");
            Ok(())
        }
        None => {
            let status = child.wait().context("waiting for the background process")?;
            let text = std::fs::read(&log).unwrap_or_default();
            let own = text.get(usize::try_from(length).unwrap_or(0)..).unwrap_or_default();
            let own = String::from_utf8_lossy(own);
            let last = own.lines().next_back().unwrap_or_default().trim_start_matches("error: ").to_owned();
            let see = if before.is_to_come_back(place) { String::new() } else { format!(" (see {})", log.display()) };
            bail!("{}{see}", if last.is_empty() { status.to_string() } else { last })
        }
    }
}

/// The line that tells that the node is ready; `None` if the process ended without it.
fn ready_line(child: &mut Child) -> anyhow::Result<Option<String>> {
    let stdout = child.stdout.take().context("the background process has no output")?;
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        let line = BufReader::new(stdout).lines().next();
        // A parent that has given up needs no line.
        drop(sender.send(line));
    });
    let _progress = Progress::of("starting");
    match lines.recv_timeout(DEADLINE) {
        Ok(line) => Ok(line.transpose()?),
        Err(_) => bail!("not ready after {} s", DEADLINE.as_secs()),
    }
}
