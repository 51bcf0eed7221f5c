//! Finding and executing the program, with the words users know from other engines.

use std::ffi::CString;
use std::io;

use rustix::fs::{Access, AtFlags, CWD, Mode, accessat, mkdir, stat};

use super::{Refusal, Refuse, reason};
use crate::protocol::StartFailure;
use crate::spec::Process;
use crate::sys;

/// Where programs are when nothing says otherwise.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Enters the working directory, making it if it is not there.
pub(super) fn enter_cwd(cwd: &str) -> Result<(), Refusal> {
    let cwd = if cwd.is_empty() { "/" } else { cwd };
    if !cwd.starts_with('/') {
        return Err(Refusal::new(StartFailure::Cwd, format!("cwd {cwd:?} is not an absolute path")));
    }
    let doing = || format!("chdir to cwd ({cwd:?}) set in config.json failed");
    match rustix::process::chdir(cwd) {
        Err(rustix::io::Errno::NOENT) => {
            make_all(cwd).refuse(StartFailure::Cwd, || format!("mkdir {cwd}"))?;
            rustix::process::chdir(cwd).refuse(StartFailure::Cwd, doing)
        }
        other => other.refuse(StartFailure::Cwd, doing),
    }
}

fn make_all(path: &str) -> io::Result<()> {
    for (end, _) in path.match_indices('/').skip(1).chain(std::iter::once((path.len(), ""))) {
        match mkdir(&path[..end], Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Command line and environment as the kernel takes them.
pub(super) struct Words {
    argv: Vec<CString>,
    env: Vec<CString>,
}

impl Words {
    pub(super) fn new(process: &Process) -> Result<Words, Refusal> {
        let convert = |words: &[String]| -> Result<Vec<CString>, Refusal> {
            let convert = |word: &String| CString::new(word.as_str());
            words
                .iter()
                .map(convert)
                .collect::<Result<_, _>>()
                .map_err(|_| Refusal::new(StartFailure::Other, "a word contains a NUL byte"))
        };
        Ok(Words { argv: convert(&process.argv)?, env: convert(&process.env)? })
    }

    /// Comes back only with why not.
    pub(super) fn execute(self, path: &str, argv: &[String]) -> Refusal {
        let name = argv.first().map_or("", String::as_str);
        if is_own(path) {
            let text = format!("exec: {name:?}: this is the program of the runtime, not one of the image");
            return Refusal::new(StartFailure::NotExecutable, text);
        }
        let Ok(path) = CString::new(path) else {
            return Refusal::new(StartFailure::Other, "the program's path contains a NUL byte");
        };
        let error = sys::execve(&path, &self.argv, &self.env);
        let class = match error.raw_os_error() {
            Some(libc::ENOENT) => StartFailure::NotFound,
            Some(libc::EACCES | libc::ENOEXEC | libc::EPERM | libc::EISDIR) => StartFailure::NotExecutable,
            _ => StartFailure::Other,
        };
        Refusal::new(class, format!("exec: {name:?}: {}", reason(&error)))
    }
}

/// Whether a path leads, by way of /proc, to what this process runs itself.
fn is_own(path: &str) -> bool {
    let place = |path: &str| stat(path).ok().map(|found| (found.st_dev, found.st_ino));
    place(path).is_some_and(|wanted| place("/proc/self/exe") == Some(wanted))
}

/// The path of the program: as it stands if it has a slash, else searched for.
pub(super) fn find(process: &Process) -> Result<String, Refusal> {
    let name = match process.argv.first() {
        None => return Err(Refusal::new(StartFailure::Other, "no command specified")),
        Some(name) if name.is_empty() => return Err(missing(name)),
        Some(name) => name,
    };
    if name.contains('/') {
        return executable(name).map(|()| name.clone()).map_err(|error| refuse(name, error));
    }
    let path = process.env.iter().rev().find_map(|word| word.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    let mut denied = false;
    for directory in path.split(':') {
        let directory = if directory.is_empty() { "." } else { directory };
        let candidate = format!("{directory}/{name}");
        match executable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(rustix::io::Errno::ACCESS) => denied = true,
            Err(_) => {}
        }
    }
    if denied { Err(refuse(name, rustix::io::Errno::ACCESS)) } else { Err(missing(name)) }
}

fn missing(name: &str) -> Refusal {
    Refusal::new(StartFailure::NotFound, format!("exec: {name:?}: executable file not found in $PATH"))
}

fn refuse(name: &str, error: rustix::io::Errno) -> Refusal {
    let class = match error {
        rustix::io::Errno::NOENT => StartFailure::NotFound,
        _ => StartFailure::NotExecutable,
    };
    let verb = if error == rustix::io::Errno::NOENT { "stat " } else { "" };
    Refusal::new(
        class,
        format!("exec: {name:?}: {verb}{}{}", if verb.is_empty() { "" } else { name }, suffix(verb, error)),
    )
}

fn suffix(verb: &str, error: rustix::io::Errno) -> String {
    let text = reason(&error.into());
    if verb.is_empty() { text } else { format!(": {text}") }
}

fn executable(path: &str) -> rustix::io::Result<()> {
    let found = stat(path)?;
    if rustix::fs::FileType::from_raw_mode(found.st_mode) == rustix::fs::FileType::Directory {
        return Err(rustix::io::Errno::ISDIR);
    }
    accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)
}
