//! Where the demonstration happens: a temporary directory with a cluster in it; and how its steps are run, shown and judged.

use std::io::Write;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::timeout;

use super::machines::Machines;
use crate::cluster;

/// No step takes longer.
const DEADLINE: Duration = Duration::from_secs(60);
/// So many lines of an answer are shown.
const SHOWN: usize = 14;
const MANIFESTS: [(&str, &str); 3] = [
    ("kubia-manual.yaml", include_str!("../../../../e2e/manifests/kubia-manual.yaml")),
    ("kubia-manual-v2.yaml", include_str!("../../../../e2e/manifests/kubia-manual-v2.yaml")),
    ("three.yaml", include_str!("three.yaml")),
];

/// The temporary cluster.
pub(super) struct Stage {
    directory: PathBuf,
    program: PathBuf,
    /// None: there is this machine only.
    several: Option<Machines>,
    /// Whether somebody wants no more of it.
    ended: watch::Receiver<bool>,
    steps: usize,
    wrong: Vec<String>,
}

/// What a command answered.
pub(super) struct Answer {
    pub(super) stdout: String,
    stderr: String,
    code: Option<i32>,
}

/// What a command must answer.
pub(super) enum Want<'a> {
    /// Success, and each of these texts on standard output.
    Text(&'a [&'a str]),
    /// Success, and a table whose rows begin with exactly these words.
    Rows(&'a [&'a str]),
    /// Success, and this text on standard error: nothing was found.
    Nothing(&'a str),
    /// Exit code 1, and this text on standard error.
    Refusal(&'a str),
}

impl Stage {
    /// Makes the directory with the manifests.
    pub(super) fn set(several: Option<Machines>, ended: watch::Receiver<bool>) -> anyhow::Result<Self> {
        let directory = std::env::temp_dir().join(format!("podling-demo-{}", cluster::new_id()?));
        std::fs::create_dir(&directory).with_context(|| format!("making {}", directory.display()))?;
        let stage = Self {
            directory,
            program: std::env::current_exe().context("finding this program")?,
            several,
            ended,
            steps: 0,
            wrong: Vec::new(),
        };
        MANIFESTS.iter().try_for_each(|(name, text)| stage.write(name, text))?;
        Ok(stage)
    }

    /// Makes a file beside the manifests.
    pub(super) fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        std::fs::write(self.directory.join(name), text).with_context(|| format!("writing {name}"))
    }

    /// How many machines there are; the first is number one, and has the server.
    pub(super) fn machines(&self) -> usize {
        self.several.as_ref().map_or(1, Machines::count)
    }

    /// By which others reach a machine.
    pub(super) fn address(&self, number: usize) -> anyhow::Result<Ipv4Addr> {
        self.several.as_ref().context("there is one machine")?.address(number)
    }

    /// Where a machine keeps its state.
    #[expect(clippy::unused_self, reason = "the stage is where things lie")]
    pub(super) fn data(&self, number: usize) -> String {
        if number == 1 { "data".to_owned() } else { format!("data{number}") }
    }

    /// Makes the root file system of the image `luksa/kubia`: this program, under the name of its server.
    pub(super) fn make_image(&self) -> anyhow::Result<()> {
        let path = self.directory.join("kubia.tar");
        let file = std::fs::File::create(&path).with_context(|| format!("making {}", path.display()))?;
        let mut archive = tar::Builder::new(file);
        archive.append_path_with_name(&self.program, "kubia").context("writing this program into an archive")?;
        archive.into_inner()?.sync_data().context("writing the archive")
    }

    /// Runs one command, shows it with its answer and judges it. A wrong answer is remembered, and the play goes on.
    pub(super) async fn step(&mut self, words: &[&str], want: &Want<'_>) -> anyhow::Result<Answer> {
        self.step_on(1, words, want).await
    }

    async fn step_on(&mut self, number: usize, words: &[&str], want: &Want<'_>) -> anyhow::Result<Answer> {
        ensure!(!*self.ended.borrow(), "interrupted");
        self.show_command(number, words);
        let begun = Instant::now();
        let output = timeout(DEADLINE, self.start(number, words)?.wait_with_output());
        let output = match words[0] {
            // Half a start would go on alone, and be found by nobody.
            "up" | "join" => output.await,
            _ => self.unless_ended(output).await?,
        };
        let output = output.with_context(|| format!("no answer within {} s", DEADLINE.as_secs()))??;
        let answer = Answer {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: output.status.code(),
        };
        self.show_answer(&answer.stdout);
        self.show_answer(&answer.stderr);
        self.judge(words, want.judge(&answer), begun.elapsed());
        Ok(answer)
    }

    /// A step without which nothing that follows makes sense.
    pub(super) async fn must(&mut self, words: &[&str], want: &Want<'_>) -> anyhow::Result<Answer> {
        self.must_on(1, words, want).await
    }

    /// The same on another machine.
    pub(super) async fn must_on(&mut self, number: usize, words: &[&str], want: &Want<'_>) -> anyhow::Result<Answer> {
        let before = self.wrong.len();
        let answer = self.step_on(number, words, want).await?;
        ensure!(self.wrong.len() == before, "`podling {}` did not do what it must", words[0]);
        Ok(answer)
    }

    /// Forwards a local port, sends a request through it and judges what came back.
    pub(super) async fn forward(&mut self, pod: &str, remote: u16, want: &str) -> anyhow::Result<()> {
        let free = std::net::TcpListener::bind(("127.0.0.1", 8888)).is_ok();
        let ports = if free { format!("8888:{remote}") } else { format!(":{remote}") };
        let words = ["port-forward", pod, &ports];
        self.show_command(1, &words);
        let begun = Instant::now();
        let mut child = self.start(1, &words)?;
        let result = self.unless_ended(timeout(DEADLINE, self.request(&mut child))).await?;
        child.kill().await.context("ending the port-forward")?;
        let judged = match result {
            Ok(Ok(body)) if body == want => Ok(()),
            Ok(Ok(body)) => Err(format!("the pod answered {body:?} and not {want:?}")),
            Ok(Err(error)) => Err(format!("{error:#}")),
            Err(_) => Err(format!("no answer within {} s", DEADLINE.as_secs())),
        };
        self.judge(&words, judged, begun.elapsed());
        Ok(())
    }

    async fn request(&self, child: &mut Child) -> anyhow::Result<String> {
        let stdout = child.stdout.take().context("the port-forward has no output")?;
        let mut lines = BufReader::new(stdout).lines();
        let Some(line) = lines.next_line().await? else { bail!("the port-forward ended at once") };
        self.show_answer(&line);
        let address = line.strip_prefix("Forwarding from ").and_then(|rest| rest.split(' ').next());
        let address = address.with_context(|| format!("the port-forward says {line:?}"))?;
        let port = address.rsplit(':').next().unwrap_or_default();
        self.show(&format!("$ curl localhost:{port}"));
        let mut stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
        stream
            .write_all(format!("GET / HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n\r\n").as_bytes())
            .await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        let (head, body) = text.split_once("\r\n\r\n").context("the answer is no HTTP")?;
        ensure!(head.starts_with("HTTP/1.1 200"), "the answer is {:?}", head.lines().next().unwrap_or_default());
        self.show_answer(body);
        Ok(body.to_owned())
    }

    /// Takes everything away, whatever happened before: the nodes first, and then the server.
    pub(super) async fn strike(&mut self) -> anyhow::Result<()> {
        let mut ended = Ok(());
        let is_there = |number: &usize| self.directory.join(self.data(*number)).join("cluster.json").exists();
        let there: Vec<usize> = (1..=self.machines()).rev().filter(is_there).collect();
        if !there.is_empty() {
            self.title("The end: nothing stays");
        }
        for number in there {
            ended = ended.and(self.purge(number).await);
        }
        if ended.is_ok() {
            std::fs::remove_dir_all(&self.directory)
                .with_context(|| format!("removing {}", self.directory.display()))?;
        }
        ended
    }

    async fn purge(&mut self, number: usize) -> anyhow::Result<()> {
        let data = self.data(number);
        let words = ["down", "--purge", "--data-dir", &data];
        self.show_command(number, &words);
        let begun = Instant::now();
        let output = self.start(number, &words)?.wait_with_output().await.context("ending the cluster")?;
        self.show_answer(&String::from_utf8_lossy(&output.stdout));
        self.show_answer(&String::from_utf8_lossy(&output.stderr));
        let place = self.directory.join(&data);
        let is_gone = output.status.success() && !place.join("cluster.json").exists();
        let judged = if is_gone { Ok(()) } else { Err("the cluster was not taken away whole".to_owned()) };
        self.judge(&words, judged, begun.elapsed());
        ensure!(is_gone, "`podling down --purge --data-dir {}` is needed by hand", place.display());
        Ok(())
    }

    /// The last words, and the exit code.
    pub(super) fn verdict(&self, took: Duration) -> ExitCode {
        let steps = self.steps;
        if self.wrong.is_empty() {
            self.show(&format!("\nAll {steps} steps gave what they should, in {:.1} s.", took.as_secs_f64()));
            return ExitCode::SUCCESS;
        }
        self.show(&format!("\n{} of {steps} steps went wrong:", self.wrong.len()));
        for wrong in &self.wrong {
            self.show(&format!("  {wrong}"));
        }
        ExitCode::FAILURE
    }

    /// A headline.
    pub(super) fn title(&self, text: &str) {
        self.show(&format!("\n== {text}"));
    }

    /// Starts a child that is this program, on a machine, speaks to this cluster only, and ends with this process. It is in a group of its
    /// own, so that Ctrl-C comes to this process only, which takes everything away in order.
    fn start(&self, number: usize, words: &[&str]) -> anyhow::Result<Child> {
        let mut command = Command::new(&self.program);
        command.args(words).current_dir(&self.directory).env("KUBECONFIG", self.directory.join("kubeconfig"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.kill_on_drop(true).process_group(0);
        let started = match &self.several {
            Some(machines) => machines.on(number, || command.spawn())?,
            None => command.spawn(),
        };
        started.with_context(|| format!("starting {}", self.program.display()))
    }

    async fn unless_ended<T>(&self, step: impl Future<Output = T>) -> anyhow::Result<T> {
        let mut ended = self.ended.clone();
        tokio::select! {
            done = step => Ok(done),
            _ = ended.wait_for(|is_ended| *is_ended) => bail!("interrupted"),
        }
    }

    fn judge(&mut self, words: &[&str], judged: Result<(), String>, took: Duration) {
        self.steps += 1;
        match judged {
            Ok(()) => self.show(&format!("  [right, {} ms]", took.as_millis())),
            Err(why) => {
                self.show(&format!("  [WRONG, {} ms] {why}", took.as_millis()));
                self.wrong.push(format!("podling {}: {why}", quoted(words)));
            }
        }
    }

    fn show_command(&self, number: usize, words: &[&str]) {
        let machine = if self.several.is_some() { format!("node{number} ") } else { String::new() };
        self.show(&format!("{machine}$ podling {}", quoted(words)));
    }

    fn show_answer(&self, text: &str) {
        let lines: Vec<&str> = text.lines().collect();
        for line in lines.iter().take(SHOWN) {
            self.show(&format!("  {line}"));
        }
        if lines.len() > SHOWN {
            self.show(&format!("  … {} more lines", lines.len() - SHOWN));
        }
    }

    #[expect(clippy::unused_self, reason = "the stage is where one speaks")]
    fn show(&self, text: &str) {
        // Whoever does not look is not told so; the cluster must be taken away all the same.
        drop(writeln!(std::io::stdout().lock(), "{text}"));
    }
}

impl Want<'_> {
    /// What is wrong with an answer.
    fn judge(&self, answer: &Answer) -> Result<(), String> {
        let wanted_code = if matches!(self, Self::Refusal(_)) { 1 } else { 0 };
        if answer.code != Some(wanted_code) {
            let code = answer.code.map_or_else(|| "none".to_owned(), |code| code.to_string());
            return Err(format!("the exit code is {code} and not {wanted_code}"));
        }
        let says = |text: &str, wanted: &str| match text.contains(wanted) {
            true => Ok(()),
            false => Err(format!("the answer lacks {wanted:?}")),
        };
        match self {
            Self::Text(texts) => texts.iter().try_for_each(|text| says(&answer.stdout, text)),
            Self::Rows(names) => {
                let first = |line: &str| line.split_whitespace().next().unwrap_or_default().to_owned();
                let rows: Vec<String> = answer.stdout.lines().skip(1).map(first).collect();
                if rows == *names { Ok(()) } else { Err(format!("the rows are {rows:?} and not {names:?}")) }
            }
            Self::Nothing(text) if !answer.stdout.is_empty() => Err(format!("something was found, and not {text:?}")),
            Self::Nothing(text) | Self::Refusal(text) => says(&answer.stderr, text),
        }
    }
}

/// A command as one would type it.
fn quoted(words: &[&str]) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,".contains(c);
    let quote = |word: &&str| if word.chars().all(is_plain) { (*word).to_owned() } else { format!("'{word}'") };
    words.iter().map(quote).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::{Answer, Want, quoted};

    fn answer(stdout: &str, stderr: &str, code: i32) -> Answer {
        Answer { stdout: stdout.into(), stderr: stderr.into(), code: Some(code) }
    }

    #[test]
    fn answers_are_judged() {
        let table = answer("NAME   READY\na      1/1\nb      1/1\n", "", 0);
        assert!(Want::Rows(&["a", "b"]).judge(&table).is_ok());
        assert!(Want::Rows(&["a"]).judge(&table).is_err());
        assert!(Want::Text(&["1/1", "READY"]).judge(&table).is_ok());
        assert!(Want::Text(&["0/1"]).judge(&table).is_err());
        assert!(Want::Refusal("x").judge(&answer("", "error: x", 1)).is_ok());
        assert!(Want::Refusal("x").judge(&answer("", "error: x", 0)).is_err());
        assert!(Want::Nothing("No").judge(&answer("", "No resources", 0)).is_ok());
        assert!(Want::Nothing("No").judge(&answer("a", "No resources", 0)).is_err());
    }

    #[test]
    fn commands_are_shown_as_typed() {
        assert_eq!(quoted(&["get", "po", "-l", "!env"]), "get po -l '!env'");
    }
}
