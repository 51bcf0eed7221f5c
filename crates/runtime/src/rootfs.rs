//! Questions to a root file system that is not mounted: a stack of layer directories, topmost first, whose links are never trusted.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::error::{Doing, Error, Result};
use crate::spec::User;

/// A file of an image that is larger than this is not an account database.
const ACCOUNTS_LIMIT: usize = 1 << 20;

/// Who a process is, and where it is at home.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvedUser {
    /// Numbers, with the supplementary groups of /etc/group.
    pub user: User,
    /// Home directory; `/` if nothing says otherwise.
    pub home: String,
    /// Whether the name was a number: only then "not root" can be told without reading the image.
    pub is_numeric: bool,
}

/// Reads at most `limit` bytes of a file of the layers, topmost first; links resolve within one layer.
pub fn read(layers: &[PathBuf], path: &Path, limit: usize) -> Result<Vec<u8>> {
    for layer in layers {
        if let Some(fd) = open_in(layer, path)? {
            return read_regular(fd, path, limit);
        }
    }
    Err(Error::NotFound { what: path.display().to_string() })
}

/// Opens for reading below a root, never leaving it; None if it is not there.
fn open_in(root: &Path, path: &Path) -> Result<Option<OwnedFd>> {
    let doing = || format!("open {} in {}", path.display(), root.display());
    let root =
        rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).doing(doing)?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    match rustix::fs::openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS) {
        Ok(fd) => Ok(Some(fd)),
        // NXIO is what opening a whiteout says, which is a character device of number 0.
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::NXIO) => Ok(None),
        Err(error) => Err(error).doing(doing),
    }
}

/// The content of a regular file.
pub(crate) fn read_regular(fd: OwnedFd, path: &Path, limit: usize) -> Result<Vec<u8>> {
    let doing = || format!("read {}", path.display());
    let file = File::from(fd);
    if !file.metadata().doing(doing)?.is_file() {
        return Err(Error::Unreadable { path: path.display().to_string(), reason: "not a regular file".into() });
    }
    let mut bytes = Vec::new();
    file.take(limit as u64).read_to_end(&mut bytes).doing(doing)?;
    Ok(bytes)
}

/// Turns an image's or a caller's `USER[:GROUP]`, names or numbers, into numbers. An empty string is root.
pub fn resolve_user(layers: &[PathBuf], text: &str) -> Result<ResolvedUser> {
    let read = |path: &str| match read(layers, Path::new(path), ACCOUNTS_LIMIT) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(Error::NotFound { .. }) => Ok(String::new()),
        Err(error) => Err(error),
    };
    resolve(&read("/etc/passwd")?, &read("/etc/group")?, text)
}

fn resolve(passwd: &str, group: &str, text: &str) -> Result<ResolvedUser> {
    let (user, group_name) = text.split_once(':').unwrap_or((text, ""));
    let user = if user.is_empty() { "0" } else { user };
    let number = user.parse::<u32>().ok();
    let account = accounts(passwd).find(|account| match number {
        Some(uid) => account.uid == uid,
        None => account.name == user,
    });
    let uid = match (&account, number) {
        (Some(account), _) => account.uid,
        (None, Some(uid)) => uid,
        (None, None) => {
            return Err(Error::NotFound { what: format!("user {user}: no matching entries in passwd file") });
        }
    };
    let gid = match group_name {
        "" => account.as_ref().map_or(0, |account| account.gid),
        name => resolve_group(group, name)?,
    };
    let groups = account.as_ref().map_or(Vec::new(), |account| memberships(group, account.name, gid));
    let home = account.as_ref().map(|account| account.home).filter(|home| !home.is_empty()).unwrap_or("/").to_owned();
    Ok(ResolvedUser { user: User { uid, gid, groups }, home, is_numeric: number.is_some() })
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, rest @ ..] = fields.as_slice() else {
            return None;
        };
        Some(Account { name, uid: uid.parse().ok()?, gid: gid.parse().ok()?, home: rest.get(1).copied().unwrap_or("") })
    })
}

/// (name, id, members)
fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _, gid) = (fields.next()?, fields.next()?, fields.next()?);
        Some((name, gid.parse().ok()?, fields.next().unwrap_or("")))
    })
}

fn resolve_group(group: &str, name: &str) -> Result<u32> {
    if let Ok(gid) = name.parse() {
        return Ok(gid);
    }
    let found = groups(group).find(|(known, ..)| *known == name);
    found
        .map(|(_, gid, _)| gid)
        .ok_or_else(|| Error::NotFound { what: format!("group {name}: no matching entries in group file") })
}

fn memberships(group: &str, user: &str, primary: u32) -> Vec<u32> {
    let is_member = |members: &str| members.split(',').any(|member| member.trim() == user);
    let mut found: Vec<u32> = groups(group)
        .filter(|(_, gid, members)| *gid != primary && is_member(members))
        .map(|(_, gid, _)| gid)
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:100:An app:/srv/app:/bin/sh\nodd line\n";
    const GROUP: &str = "root:x:0:\nusers:x:100:\nwheel:x:10:root,app\naudio:x:29:app\n";

    fn check(text: &str, uid: u32, gid: u32, groups: &[u32], home: &str) {
        let found = resolve(PASSWD, GROUP, text).expect(text);
        assert_eq!(
            (found.user.uid, found.user.gid, found.user.groups.as_slice(), found.home.as_str()),
            (uid, gid, groups, home),
            "{text}"
        );
    }

    #[test]
    fn users_are_resolved_as_engines_do() {
        check("", 0, 0, &[10], "/root");
        check("app", 1000, 100, &[10, 29], "/srv/app");
        check("1000", 1000, 100, &[10, 29], "/srv/app");
        check("app:wheel", 1000, 10, &[29], "/srv/app");
        check("app:7", 1000, 7, &[10, 29], "/srv/app");
        check("4242", 4242, 0, &[], "/");
        check("4242:users", 4242, 100, &[], "/");
    }

    #[test]
    fn unknown_names_are_errors() {
        assert!(matches!(resolve(PASSWD, GROUP, "nobody"), Err(Error::NotFound { .. })));
        assert!(matches!(resolve(PASSWD, GROUP, "app:nogroup"), Err(Error::NotFound { .. })));
    }

    #[test]
    fn links_do_not_leave_the_layer() {
        let top = tempfile::tempdir().expect("tempdir");
        let below = tempfile::tempdir().expect("tempdir");
        std::fs::create_dir(top.path().join("etc")).expect("mkdir");
        std::os::unix::fs::symlink("/etc/../../../../../etc/hostname", top.path().join("etc/passwd")).expect("symlink");
        let layers = [top.path().to_owned(), below.path().to_owned()];
        assert!(matches!(read(&layers, Path::new("/etc/passwd"), 10), Err(Error::NotFound { .. })));
        std::fs::write(top.path().join("etc/hostname"), "inside").expect("write");
        assert_eq!(read(&layers, Path::new("/etc/passwd"), 10).expect("read"), b"inside");
    }
}
