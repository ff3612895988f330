//! Files that appear whole or not at all.
//!
//! The file has no name until it is finished, so a process that is killed leaves nothing behind. Where the file
//! system cannot do that, a temporary name in the same folder stands in, removed on every way out but a kill. A
//! finished file needs such a name, too, for the moment in which it takes the place of an older one. What a kill
//! leaves under a temporary name, the next output in that folder removes: whoever works on a file holds a lock on it,
//! and locks die with their process.
//! A finished file takes the place of a regular file only: to replace `/dev/null` would break the whole machine.

mod folder;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use llamac_plan::diagnostic::{Code, Diagnostic, reason, shell_word};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use tempfile::NamedTempFile;

pub use folder::Folder;

/// How names begin that nobody but this process should see.
const TEMPORARY: &str = ".llamac-unfinished-";

/// A file under construction.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Unnamed(File),
    Named(NamedTempFile),
}

impl Output {
    /// Starts the file that will be at `path`, or at what a link there points to.
    ///
    /// # Errors
    /// When the folder does not exist or cannot be written to, or `path` is something else than a file.
    pub fn create(path: &Path) -> Result<Self, Diagnostic> {
        let fault = |what: &str| {
            let fault = Diagnostic::new(Code::Io).at(path.display().to_string()).message(what);
            Err(fault.help("name a file (`model.llamac`)"))
        };
        let target = match fs::metadata(path) {
            Ok(there) if there.is_dir() => return fault("this is a folder: only a file can be replaced"),
            Ok(there) if !there.is_file() => {
                return fault("this is a device, a pipe or a socket: only a file can be replaced");
            }
            Err(_) if path.is_symlink() => return fault("this link points to nothing"),
            Err(_) if path.as_os_str().as_encoded_bytes().ends_with(b"/") => {
                return fault("this is a name for a folder: it ends with a slash");
            }
            Ok(_) if path.is_symlink() => fs::canonicalize(path).map_err(|e| write_fault(path, &e))?,
            _ => path.to_owned(),
        };
        match Kind::create_in(folder(&target)) {
            Ok(kind) => Ok(Self { path: target, kind }),
            Err(e) => Err(write_fault(&target, &e)),
        }
    }

    /// Its name once it is finished.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file that never gets a name, in the system's folder for temporary files: gone when it is closed.
    ///
    /// # Errors
    /// When there is no room for it.
    pub fn temporary() -> Result<Self, Diagnostic> {
        let path = std::env::temp_dir();
        match tempfile::tempfile_in(&path) {
            Ok(file) => Ok(Self { path, kind: Kind::Unnamed(file) }),
            Err(e) => Err(write_fault(&path, &e)),
        }
    }

    /// The file, to write to at any position.
    pub fn file(&self) -> &File {
        match &self.kind {
            Kind::Unnamed(file) => file,
            Kind::Named(file) => file.as_file(),
        }
    }

    /// Makes the finished file visible under its name, in place of an older one.
    ///
    /// # Errors
    /// When it cannot be stored or named; the older file is then still there.
    pub fn publish(self) -> Result<(), Diagnostic> {
        let path = self.path;
        let done = self.kind.sync().and_then(|()| self.kind.name(&path));
        done.and_then(|()| sync_folder(folder(&path))).map_err(|e| write_fault(&path, &e))
    }
}

impl Kind {
    fn create_in(folder: &Path) -> io::Result<Self> {
        sweep(folder);
        match unnamed(folder) {
            Ok(file) => Ok(Self::Unnamed(file)),
            Err(_) => named(folder).map(Self::Named),
        }
    }

    fn sync(&self) -> io::Result<()> {
        match self {
            Self::Unnamed(file) => file.sync_all(),
            Self::Named(file) => file.as_file().sync_all(),
        }
    }

    fn name(self, path: &Path) -> io::Result<()> {
        match self {
            Self::Unnamed(file) => link(&file, path),
            Self::Named(file) => file.persist(path).map(|_| ()).map_err(|e| e.error),
        }
    }
}

/// Stores the names in `folder`, unless it may not be read, or its file system has no way to.
fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        Err(e) if matches!(e.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput) => Ok(()),
        done => done,
    }
}

/// A fault of writing `path`.
pub fn write_fault(path: &Path, error: &io::Error) -> Diagnostic {
    fault_in(folder(path), path, error)
}

/// A fault of writing `path`, whose files are made in `folder`.
fn fault_in(folder: &Path, path: &Path, error: &io::Error) -> Diagnostic {
    let fault = |code| Diagnostic::new(code).at(path.display().to_string());
    // The name that a temporary file was to have is nobody's business.
    let why = if error.get_ref().is_some() { error.kind().to_string() } else { reason(error) };
    let temporary = path == std::env::temp_dir();
    let place = folder.display();
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded if temporary => {
            fault(Code::NoSpace).help(format!("free some space, or {TMPDIR}"))
        }
        io::ErrorKind::FileTooLarge => fault(Code::NoSpace)
            .message("the file is larger than the system or the disk takes")
            .help("raise the limit (`ulimit -f`), or write to a disk with another file system"),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            fault(Code::NoSpace).help("free some space, or write to another disk")
        }
        io::ErrorKind::NotFound if temporary => {
            fault(Code::Io).message("the folder for temporary files does not exist").help(TMPDIR)
        }
        io::ErrorKind::NotFound => fault(Code::Io)
            .message(format!("the folder `{place}` does not exist"))
            .help(format!("mkdir -p {}", shell_word(folder))),
        io::ErrorKind::DirectoryNotEmpty => fault(Code::Io)
            .message("somebody else has filled this folder in the meantime")
            .help("run the command again"),
        _ if temporary => fault(Code::Io).message(format!("it cannot be written to: {why}")).help(TMPDIR),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => fault(Code::Io)
            .message(format!("the folder `{place}` cannot be written to: {why}"))
            .help("choose another folder"),
        _ => fault(Code::Io).message(format!("it cannot be written: {why}")),
    }
}

/// A way out where the folder for temporary files is of no use.
const TMPDIR: &str = "choose another folder for temporary files with TMPDIR";

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn unnamed(folder: &Path) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat(CWD, folder, flags, Mode::from_raw_mode(0o666))?);
    lock(&file);
    Ok(file)
}

fn named(folder: &Path) -> io::Result<NamedTempFile> {
    loop {
        let file = tempfile::Builder::new()
            .prefix(TEMPORARY)
            .permissions(fs::Permissions::from_mode(0o666))
            .tempfile_in(folder)?;
        lock(file.as_file());
        // Another process may have swept it away before it was locked.
        if file.as_file().metadata()?.nlink() > 0 {
            return Ok(file);
        }
    }
}

/// Marks a file as being worked on. Where the file system has no locks, nothing is swept, either.
fn lock(file: &File) {
    let _ = file.try_lock();
}

/// Removes what killed processes left in `folder`: files and folders with a temporary name that nobody has locked.
fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if is_temporary(&entry.file_name()) && (kind.is_file() || kind.is_dir()) {
            // Locked until it is gone, so that of two sweepers only one removes it.
            let file = File::open(entry.path());
            if file.as_ref().is_ok_and(|file| file.try_lock().is_ok()) {
                let path = entry.path();
                let _ = if kind.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
            }
        }
    }
}

fn is_temporary(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(TEMPORARY.as_bytes())
}

/// Names an unnamed file. An existing name cannot be linked over, so there the file first gets another one.
fn link(file: &File, path: &Path) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let source = format!("/proc/self/fd/{}", file.as_raw_fd());
    let link_to = |name: &Path| rustix::fs::linkat(CWD, &source, CWD, name, AtFlags::SYMLINK_FOLLOW);
    match link_to(path) {
        Err(rustix::io::Errno::EXIST) => {
            let other = tempfile::Builder::new()
                .prefix(TEMPORARY)
                .make_in(folder(path), |name| Ok(link_to(name)?))?;
            other.into_temp_path().persist(path).map_err(|e| e.error)
        }
        result => Ok(result?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn an_output_replaces_only_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let names =
            || fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
        for content in ["first", "second"] {
            let before = fs::read(&path).ok();
            drop(Output::create(&path).unwrap());
            let output = Output::create(&path).unwrap();
            output.file().write_all(content.as_bytes()).unwrap();
            assert_eq!(fs::read(&path).ok(), before);
            output.publish().unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
            assert_eq!(names(), ["out"]);
        }
    }

    #[test]
    fn what_a_kill_left_is_swept_away_and_what_is_worked_on_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let left = folder.path().join(".llamac-unfinished-0");
        fs::write(&left, "half of it").unwrap();
        let at_work = named(folder.path()).unwrap();
        let other = Output { path: path.clone(), kind: Kind::Named(named(folder.path()).unwrap()) };
        Output::create(&path).unwrap().publish().unwrap();
        assert!(!left.exists() && at_work.path().exists());
        other.file().write_all(b"other").unwrap();
        other.publish().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "other");
        drop(at_work);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_file_is_not_replaced() {
        use std::os::unix::fs::FileTypeExt;
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        rustix::fs::mknodat(CWD, &pipe, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("pipe", &link).unwrap();
        let nowhere = folder.path().join("nowhere");
        std::os::unix::fs::symlink("none", &nowhere).unwrap();
        for (path, what) in [
            (pipe.as_path(), "pipe"),
            (&link, "pipe"),
            (folder.path(), "this is a folder"),
            (&folder.path().join("new/"), "ends with a slash"),
            (&nowhere, "points to nothing"),
        ] {
            let fault = Output::create(path).unwrap_err();
            assert!(fault.message.as_ref().unwrap().contains(what), "{fault}");
        }
        assert!(nowhere.is_symlink());
        assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
    }

    #[test]
    fn a_link_stays_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        let output = Output::create(&link).unwrap();
        output.file().write_all(b"new").unwrap();
        output.publish().unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }

    /// (Whoever may do everything is not stopped by permissions.)
    #[test]
    fn a_folder_that_cannot_be_listed_takes_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o333)).unwrap();
        let output = Output::create(&path).unwrap();
        output.file().write_all(b"new").unwrap();
        output.publish().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn a_missing_folder_is_named() {
        let fault = Output::create(Path::new("/nonexistent/place/out")).unwrap_err();
        assert_eq!(fault.code, Code::Io);
        assert!(fault.message.as_ref().unwrap().contains("/nonexistent/place"));
    }
}
