//! Commands as people type them, in a shell of their own whose `kubectl` is one of the clients.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Instant;

use crate::PATIENCE;
use crate::finger::Finger;

/// What a command left.
#[derive(Debug, Clone)]
pub struct Output {
    /// What was typed, and with which client.
    pub typed: String,
    /// The exit code.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Output {
    /// What was printed by a command that must succeed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self}");
        self.stdout
    }

    /// What was complained about by a command that must fail.
    #[track_caller]
    pub fn refused(self) -> String {
        assert!(self.code != 0 && self.code < 124, "{self}");
        self.stderr
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { typed, code, stdout, stderr } = self;
        write!(f, "\n$ {typed}\n{stdout}{stderr}[exit code {code}]")
    }
}

/// A shell with a client.
pub struct Shell {
    name: &'static str,
    path: String,
    home: PathBuf,
    kubeconfig: PathBuf,
    variables: Vec<(String, String)>,
}

impl Shell {
    /// A shell whose `kubectl` is `finger`; it keeps its things below `directory`.
    pub fn new(directory: &Path, kubeconfig: &Path, finger: &Finger) -> Self {
        let home = directory.join(finger.name.replace(' ', "-"));
        let programs = home.join("bin");
        if !programs.is_dir() {
            std::fs::create_dir_all(&programs).expect("a directory for programs");
            symlink(&finger.program, programs.join("kubectl")).expect("a link to the client");
        }
        let path = format!("{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", programs.display());
        Self { name: finger.name, path, home, kubeconfig: kubeconfig.to_owned(), variables: Vec::new() }
    }

    /// The same shell with an environment variable.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Whether the client is podling itself.
    pub fn is_own(&self) -> bool {
        self.name == "podling"
    }

    /// Runs a line to its end.
    pub fn run(&self, line: &str) -> Output {
        self.run_with(line, "")
    }

    /// Runs a line that must succeed.
    #[track_caller]
    pub fn ok(&self, line: &str) -> String {
        self.run(line).ok()
    }

    /// Runs a line that must fail; gives what it complained about.
    #[track_caller]
    pub fn refused(&self, line: &str) -> String {
        self.run(line).refused()
    }

    /// Runs a line with something to read.
    pub fn run_with(&self, line: &str, input: &str) -> Output {
        let mut command = self.command(line);
        let mut child = command.stdin(Stdio::piped()).spawn().expect("a shell");
        let mut stdin = child.stdin.take().expect("it is piped");
        let input = input.to_owned();
        let writer = std::thread::spawn(move || {
            // A command need not read all it is given.
            drop(stdin.write_all(input.as_bytes()));
        });
        let output = child.wait_with_output().expect("the shell can be waited for");
        writer.join().expect("the writer ends");
        Output {
            typed: format!("{line}   ({})", self.name),
            code: output.status.code().unwrap_or(128),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Starts one command that goes on, as a watch does.
    pub fn start(&self, line: &str) -> Running {
        let mut child = self.command(&format!("exec {line}")).stdin(Stdio::piped()).spawn().expect("a shell");
        let (sender, lines) = mpsc::channel();
        let stdout = child.stdout.take().expect("it is piped");
        let stderr = child.stderr.take().expect("it is piped");
        forward(stdout, sender.clone());
        forward(stderr, sender);
        Running {
            typed: format!("{line}   ({})", self.name),
            stdin: child.stdin.take(),
            child,
            lines,
            seen: String::new(),
        }
    }

    /// `timeout` gives every command a deadline of its own, and ends all that it started.
    fn command(&self, line: &str) -> Command {
        let mut command = Command::new("timeout");
        command.args(["-k", "5"]).arg(PATIENCE.as_secs().to_string()).args(["sh", "-c", line]);
        command.env_clear().env("PATH", &self.path).env("HOME", &self.home).env("KUBECONFIG", &self.kubeconfig);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.current_dir(manifests()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

/// Where the manifests are.
pub fn manifests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests")
}

fn forward(stream: impl Read + Send + 'static, sender: mpsc::Sender<String>) {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
}

/// A command that goes on.
pub struct Running {
    typed: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    seen: String,
}

impl Running {
    /// Waits for a line that holds `text`, and gives it.
    #[track_caller]
    pub fn line_with(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.seen.push_str(&line);
                    self.seen.push('\n');
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(reason) => {
                    let ended = if reason == RecvTimeoutError::Timeout { "did not print" } else { "ended without" };
                    panic!("\n$ {}\n{}[{ended} \"{text}\"]", self.typed, self.seen);
                }
            }
        }
    }

    /// Waits until it ends by itself; gives what it printed.
    pub fn end(mut self) -> String {
        self.stdin = None;
        let deadline = Instant::now() + PATIENCE;
        while let Ok(line) = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            self.seen.push_str(&line);
            self.seen.push('\n');
        }
        std::mem::take(&mut self.seen)
    }

    /// Types something.
    pub fn write(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().expect("its input is open");
        stdin.write_all(text.as_bytes()).and_then(|()| stdin.flush()).expect("the command reads");
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_none())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // `timeout` hands SIGTERM on to what it runs.
        drop(Command::new("kill").arg(self.child.id().to_string()).stderr(Stdio::null()).status());
        drop(self.child.wait());
    }
}
