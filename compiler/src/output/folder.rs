//! Folders that appear whole or not at all.
//!
//! As long as the work takes, the files have no names. Only when all of them are whole and stored do they get names,
//! in a temporary folder beside the place of the finished one, which then becomes it in one step: a moment in which a
//! process that is killed leaves a temporary folder behind, for the next output there to remove. A folder that is there
//! and empty is filled where it is: it may be where a disk is mounted, or belong to somebody else than the folder around
//! it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use llamac_plan::diagnostic::{Code, Diagnostic};
use rustix::fs::{CWD, RenameFlags};
use tempfile::TempDir;

use super::{Kind, Output, TEMPORARY, fault_in, folder, is_temporary, lock, sync_folder, write_fault};

/// Says why a folder that is there and not empty must stay, if it must.
pub type Guard = fn(&Path) -> Result<(), Diagnostic>;

/// A folder under construction.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    guard: Guard,
    /// By their paths in the folder.
    files: Vec<(PathBuf, Output)>,
}

/// What is at the place of a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Free,
    Empty,
    Taken,
}

impl Folder {
    /// Starts the folder that will be at `path`, or at what a link there points to. One that is there is replaced if
    /// it is empty, or `guard` does not mind.
    ///
    /// # Errors
    /// When the folder around it does not exist or cannot be written to; when `path` is something else than a folder,
    /// or one that has to stay.
    pub fn create(path: &Path, guard: Guard) -> Result<Self, Diagnostic> {
        // A link, `.` and `..` have no names that could be given to another folder.
        let target = path.exists().then(|| fs::canonicalize(path).ok()).flatten();
        let folder = Self { path: target.unwrap_or_else(|| path.to_owned()), guard, files: Vec::new() };
        let place = folder.place()?;
        let base = folder.base(place);
        match Kind::create_in(base) {
            Ok(_) => Ok(folder),
            Err(e) => Err(fault_in(base, &folder.path, &e)),
        }
    }

    /// Its path once it is finished.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Starts a file of it. Files get their names in the order in which they were started.
    ///
    /// # Errors
    /// When there is no room for it.
    pub fn file(&mut self, name: &Path) -> Result<&Output, Diagnostic> {
        let path = self.path.join(name);
        let kind = Kind::create_in(self.base(self.place()?)).map_err(|e| write_fault(&path, &e))?;
        self.files.push((name.to_owned(), Output { path, kind }));
        Ok(&self.files[self.files.len() - 1].1)
    }

    /// Makes the finished folder visible under its name, in place of an older one.
    ///
    /// # Errors
    /// When it cannot be stored or named; the older one is then still there.
    pub fn publish(self) -> Result<(), Diagnostic> {
        let place = self.place()?;
        let Self { path, files, .. } = self;
        for (_, file) in &files {
            file.kind.sync().map_err(|e| write_fault(&file.path, &e))?;
        }
        let done = match place {
            Place::Empty => fill(&path, files),
            Place::Free | Place::Taken => stage(&path, files, place),
        };
        done.and_then(|()| sync_folder(folder(&path))).map_err(|e| write_fault(&path, &e))
    }

    fn place(&self) -> Result<Place, Diagnostic> {
        let fault = |message: &str| {
            let fault = Diagnostic::new(Code::Io).at(self.path.display().to_string()).message(message);
            Err(fault.help("give the output a folder of its own"))
        };
        let Ok(there) = fs::metadata(&self.path) else {
            return match self.path.file_name() {
                _ if self.path.is_symlink() => fault("this link points to nothing"),
                None => fault("this is no name for a folder"),
                Some(_) => Ok(Place::Free),
            };
        };
        if !there.is_dir() {
            return fault("this is no folder, and the output is one");
        }
        let entries = fs::read_dir(&self.path).map_err(|e| write_fault(&self.path, &e))?;
        // Where files need names, this folder's own are there.
        if entries.flatten().all(|entry| is_temporary(&entry.file_name())) {
            return Ok(Place::Empty);
        }
        (self.guard)(&self.path).map(|()| Place::Taken)
    }

    /// Where the files are while they have no names: where they will get them.
    fn base(&self, place: Place) -> &Path {
        if place == Place::Empty { &self.path } else { folder(&self.path) }
    }
}

/// Names `files` in the folder `home`, which is there.
fn name(home: &Path, files: Vec<(PathBuf, Output)>) -> io::Result<()> {
    for (name, file) in files {
        let path = home.join(&name);
        fs::create_dir_all(folder(&path))?;
        file.kind.name(&path)?;
        sync_folder(folder(&path))?;
    }
    sync_folder(home)
}

/// Names `files` in an empty folder; if that fails, it is empty again.
fn fill(path: &Path, files: Vec<(PathBuf, Output)>) -> io::Result<()> {
    let names: Vec<PathBuf> = files.iter().map(|(name, _)| path.join(name)).collect();
    name(path, files).inspect_err(|_| {
        for name in names {
            let _ = fs::remove_file(&name);
            if folder(&name) != path {
                let _ = fs::remove_dir(folder(&name));
            }
        }
    })
}

/// Names `files` in a temporary folder, and makes that the one at `path`.
fn stage(path: &Path, files: Vec<(PathBuf, Output)>, place: Place) -> io::Result<()> {
    // Locked against sweepers, also under its new name.
    let old = if place == Place::Taken { Some(File::open(path)?) } else { None };
    let mode = match &old {
        Some(old) => {
            lock(old);
            old.metadata()?.permissions().mode()
        }
        None => 0o777,
    };
    let (home, _locked) = temporary(folder(path), mode)?;
    name(home.path(), files)?;
    match place {
        // What was there is removed with the temporary folder that it has become.
        Place::Taken => exchange(home.path(), path),
        _ => fs::rename(home.path(), path),
    }
}

/// A folder with a temporary name in `folder`, locked as long as the file is open.
fn temporary(folder: &Path, mode: u32) -> io::Result<(TempDir, File)> {
    loop {
        let mut builder = tempfile::Builder::new();
        builder.prefix(TEMPORARY).permissions(fs::Permissions::from_mode(mode));
        let home = builder.tempdir_in(folder)?;
        // Another process may have swept it away before it was locked.
        if let Ok(file) = File::open(home.path()) {
            lock(&file);
            if home.path().exists() {
                return Ok((home, file));
            }
        }
    }
}

/// Gives each of two folders the other's name.
fn exchange(new: &Path, old: &Path) -> io::Result<()> {
    use rustix::io::Errno;
    match rustix::fs::renameat_with(CWD, new, CWD, old, RenameFlags::EXCHANGE) {
        // Not every file system can do it in one step.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            let (aside, _locked) = temporary(folder(old), 0o700)?;
            fs::rename(old, aside.path())?;
            fs::rename(new, old).inspect_err(|_| drop(fs::rename(aside.path(), old)))
        }
        result => Ok(result?),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::symlink;

    use super::*;

    /// A folder of folders whose only file is `ours` may be replaced.
    fn guard(path: &Path) -> Result<(), Diagnostic> {
        let mut entries = fs::read_dir(path).unwrap();
        match entries.all(|entry| ["ours", "sub"].contains(&entry.unwrap().file_name().to_str().unwrap())) {
            true => Ok(()),
            false => Err(Diagnostic::new(Code::Io).message("not ours")),
        }
    }

    fn write(path: &Path, content: &str) -> Result<(), Diagnostic> {
        let mut folder = Folder::create(path, guard)?;
        for name in ["sub/part", "ours"] {
            folder.file(Path::new(name))?.file().write_all(content.as_bytes()).unwrap();
        }
        folder.publish()
    }

    /// All files below `path`, with their contents.
    fn tree(path: &Path) -> Vec<String> {
        let mut found = Vec::new();
        for entry in fs::read_dir(path).unwrap() {
            let (path, name) = entry.map(|e| (e.path(), e.file_name().into_string().unwrap())).unwrap();
            if path.is_dir() && !path.is_symlink() {
                found.extend(tree(&path).into_iter().map(|inner| format!("{name}/{inner}")));
            } else {
                found.push(format!("{name}: {}", fs::read_to_string(&path).unwrap_or_default()));
            }
        }
        found.sort();
        found
    }

    #[test]
    fn a_folder_appears_whole() {
        let around = tempfile::tempdir().unwrap();
        let path = around.path().join("out");
        for content in ["first", "second"] {
            let before = tree(around.path());
            let mut folder = Folder::create(&path, guard).unwrap();
            folder.file(Path::new("ours")).unwrap().file().write_all(b"unfinished").unwrap();
            assert_eq!(tree(around.path()), before, "nothing has a name yet");
            drop(folder);
            assert_eq!(tree(around.path()), before);
            write(&path, content).unwrap();
            assert_eq!(
                tree(around.path()),
                [format!("out/ours: {content}"), format!("out/sub/part: {content}")]
            );
        }
    }

    #[test]
    fn who_is_slower_is_told_so() {
        let around = tempfile::tempdir().unwrap();
        let path = around.path().join("out");
        // Free when it was looked at, and filled since.
        write(&path, "first").unwrap();
        let error = stage(&path, Vec::new(), Place::Free).unwrap_err();
        let fault = write_fault(&path, &error);
        assert!(fault.message.as_ref().unwrap().contains("in the meantime"), "{fault}");
        assert_eq!(tree(around.path()), ["out/ours: first", "out/sub/part: first"]);
    }

    #[test]
    fn an_older_folder_gives_its_permissions() {
        let around = tempfile::tempdir().unwrap();
        let path = around.path().join("out");
        write(&path, "first").unwrap();
        for (content, mode) in [("second", 0o700), ("third", 0o750)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            write(&path, content).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
        }
    }

    #[test]
    fn an_empty_folder_stays_the_same_folder() {
        use std::os::unix::fs::MetadataExt;
        let around = tempfile::tempdir().unwrap();
        let path = around.path().join("out");
        fs::create_dir(&path).unwrap();
        let number = fs::metadata(&path).unwrap().ino();
        write(&path, "a").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().ino(), number);
        assert_eq!(tree(around.path()), ["out/ours: a", "out/sub/part: a"]);
    }

    #[test]
    fn a_failed_filling_leaves_the_folder_empty() {
        let around = tempfile::tempdir().unwrap();
        let mut folder = Folder::create(around.path(), guard).unwrap();
        folder.file(Path::new("sub/part")).unwrap();
        // A file where a folder should be.
        folder.file(Path::new("sub/part/deeper")).unwrap();
        folder.publish().unwrap_err();
        assert!(tree(around.path()).is_empty() && fs::read_dir(around.path()).unwrap().next().is_none());
    }

    #[test]
    fn what_is_not_ours_stays() {
        let around = tempfile::tempdir().unwrap();
        let at = |name: &str| around.path().join(name);
        fs::create_dir(at("full")).unwrap();
        fs::write(at("full/notes"), "precious").unwrap();
        fs::write(at("file"), "precious").unwrap();
        symlink("nowhere", at("link")).unwrap();
        let before = tree(around.path());
        let mut folder = Folder::create(&at("late"), guard).unwrap();
        folder.file(Path::new("ours")).unwrap();
        for (name, why) in [
            ("full", "not ours"),
            ("file", "no folder"),
            ("link", "points to nothing"),
            ("none/x", "none`"),
            ("none/..", "no name"),
        ] {
            let fault = write(&at(name), "new").unwrap_err();
            assert!(fault.message.as_ref().unwrap().contains(why), "{fault}");
        }
        assert_eq!(tree(around.path()), before);
        // Somebody is faster.
        fs::create_dir(at("late")).unwrap();
        fs::write(at("late/notes"), "precious").unwrap();
        assert!(folder.publish().unwrap_err().to_string().contains("not ours"));
        assert!(tree(&at("late")) == ["notes: precious"]);
    }

    #[test]
    fn a_link_stays_a_link() {
        let around = tempfile::tempdir().unwrap();
        let at = |name: &str| around.path().join(name);
        fs::create_dir(at("real")).unwrap();
        symlink("real", at("link")).unwrap();
        for content in ["first", "second"] {
            write(&at("link"), content).unwrap();
            assert!(at("link").is_symlink());
            assert_eq!(tree(&at("real")), [format!("ours: {content}"), format!("sub/part: {content}")]);
        }
    }

    #[test]
    fn what_a_kill_left_is_swept_away_and_what_is_worked_on_stays() {
        let around = tempfile::tempdir().unwrap();
        let left = around.path().join(format!("{TEMPORARY}0"));
        fs::create_dir_all(left.join("sub")).unwrap();
        fs::write(left.join("sub/part"), "half of it").unwrap();
        let (at_work, _locked) = temporary(around.path(), 0o777).unwrap();
        write(&around.path().join("out"), "new").unwrap();
        assert!(!left.exists() && at_work.path().exists());
    }

    #[test]
    fn an_empty_folder_may_hold_files_that_need_names() {
        let around = tempfile::tempdir().unwrap();
        let mut folder = Folder::create(around.path(), guard).unwrap();
        let kind = Kind::Named(super::super::named(around.path()).unwrap());
        folder.files.push(("part".into(), Output { path: around.path().join("part"), kind }));
        folder.file(Path::new("ours")).unwrap();
        folder.publish().unwrap();
        assert_eq!(tree(around.path()), ["ours: ", "part: "]);
    }

    #[test]
    fn folders_exchange_their_names() {
        let around = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| around.path().join(name));
        write(&a, "a").unwrap();
        write(&b, "b").unwrap();
        exchange(&a, &b).unwrap();
        assert_eq!(tree(&b), ["ours: a", "sub/part: a"]);
    }
}
