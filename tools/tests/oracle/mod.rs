//! Runs programs nobody here wrote and hands their output to a test.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

/// Runs a script of `tests/oracles/` with `input` on its standard input.
///
/// `None`, with a note, if the program is not installed and HIKYAKU_REQUIRE_ORACLES is not 1. A script
/// that fails fails the test.
pub(crate) fn run(program: &str, script: &[&str], input: &[u8]) -> Option<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracles");
    let mut command = Command::new(program);
    command.args(script).current_dir(folder);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            let required = std::env::var("HIKYAKU_REQUIRE_ORACLES").is_ok_and(|v| v == "1");
            assert!(!required, "{program}: {error}");
            eprintln!("note: {program}: {error}; not compared");
            return None;
        }
    };
    let mut stdin = child.stdin.take().expect("piped");
    // Fed from a thread: the script answers before it has read everything.
    let output = thread::scope(|scope| {
        scope.spawn(move || {
            if let Err(error) = stdin.write_all(input) {
                eprintln!("{error}");
            }
        });
        child.wait_with_output().expect("the script ends")
    });
    assert!(output.status.success(), "{program} {script:?} failed");
    Some(String::from_utf8(output.stdout).expect("the script prints UTF-8"))
}

/// Whether a Ruby or Python module is there to be loaded.
#[allow(dead_code, reason = "each test program uses its part of this module")]
pub(crate) fn has(program: &str, arguments: &[&str]) -> bool {
    let found = Command::new(program)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    let required = std::env::var("HIKYAKU_REQUIRE_ORACLES").is_ok_and(|v| v == "1");
    assert!(found || !required, "{program} {arguments:?} does not work");
    if !found {
        eprintln!("note: {program} {arguments:?} does not work; not compared");
    }
    found
}
