//! What the documents tell people to type is what the command takes.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::folder;

/// The README and every page of the book.
fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let docs =
        fs::read_dir(root.join("docs")).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut pages: Vec<PathBuf> =
        docs.filter(|path| path.extension().is_some_and(|end| end == "md")).collect();
    pages.push(root.join("README.md"));
    pages
}

/// The lines of blocks of shell that begin with the command.
fn commands(page: &str) -> Vec<String> {
    let blocks = page.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap_or_default());
    let whole = blocks.map(|block| block.replace("\\\n", "")).collect::<String>();
    whole.lines().filter(|line| line.starts_with("llamac ")).map(str::to_owned).collect()
}

/// Each is run as it stands where nothing is of what it names: it may miss a file, but must not be misunderstood.
#[test]
fn commands_in_documents_are_understood() {
    let place = folder();
    let command = Path::new(env!("CARGO_BIN_EXE_llamac")).parent().expect("a folder");
    let mut found = 0;
    for path in pages() {
        let page = fs::read_to_string(&path).expect("a page");
        for line in commands(&page) {
            let mut shell = Command::new("/bin/sh");
            shell.args(["-c", &line]).current_dir(place.path()).stdin(Stdio::null());
            let output = shell.env("PATH", command).output().expect("a shell");
            let usage = 2;
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_ne!(output.status.code(), Some(usage), "{}: {line}\n{stderr}", path.display());
            assert_ne!(output.status.code(), Some(127), "{}: {line}\n{stderr}", path.display());
            found += 1;
        }
    }
    assert!(found > 30, "{found} commands");
}
