//! `hikyaku template` as a program: what it prints, writes and returns.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn hikyaku(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hikyaku"));
    command
        .arg("template")
        .args(arguments)
        .output()
        .expect("the program runs")
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples/templates")
}

fn example(name: &str) -> String {
    examples().join(name).display().to_string()
}

/// An empty folder of this test's own.
fn folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// As `hikyaku template … | head` when head has ended.
fn with_closed_pipe(arguments: &[&str]) -> Output {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_hikyaku"));
    let child = command.arg("template").args(arguments).stdout(writer);
    let child = child.stderr(Stdio::piped()).spawn().unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn a_reader_that_has_gone_is_no_failure() {
    let dir = folder("template-closed-pipe");
    fs::write(dir.join("template.toml"), "from = \"a@b.jp\"\n").unwrap();
    let faulty = dir.display().to_string();
    let list = dir.join("list.csv");
    fs::write(&list, "email,name\na@b.jp,A\n").unwrap();
    let (list, out) = (list.display().to_string(), dir.join("out.mbox"));
    let out = out.display().to_string();
    let good = example("text");
    for arguments in [
        &["check", "--dir", &faulty][..],
        &["preview", "--dir", &good, "--to", "a@b.jp"],
        &["render", "--dir", &good, "--list", &list, "--out", &out],
    ] {
        let output = with_closed_pipe(arguments);
        let said = text(&output.stderr);
        assert!(
            output.status.success() && !said.contains("panicked"),
            "{said}"
        );
        assert!(!said.contains("Broken pipe"), "{said}");
    }
}

#[test]
fn example_templates_have_no_faults() {
    for name in ["text", "html", "decomail", "coupon"] {
        let output = hikyaku(&["check", "--dir", &example(name)]);
        assert_eq!(
            (text(&output.stdout), output.status.code()),
            (String::new(), Some(0)),
            "{name}"
        );
    }
}

#[test]
fn faults_are_listed_with_exit_code_1() {
    let dir = folder("template-faults");
    fs::write(
        dir.join("template.toml"),
        "from = \"a@b.jp\"\nsubject = \"s\"\nfields = [\"name\"]\n",
    )
    .unwrap();
    fs::write(dir.join("text"), "Dear {{ nmae }},\n").unwrap();
    let output = hikyaku(&["check", "--dir", &dir.display().to_string()]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        text(&output.stdout),
        "text:1:9: unknown field `nmae`; did you mean `name`?\n"
    );
}

#[test]
fn preview_prints_the_message_with_crlf_and_the_same_each_time() {
    let dir = example("decomail");
    let base = [
        "preview",
        "--dir",
        &dir,
        "--to",
        "a..b@docomo.ne.jp",
        "--time",
        "1795504548",
        "--id",
        "Q1",
    ];
    let one = hikyaku(&base);
    assert_eq!(one.stdout, hikyaku(&base).stdout);
    let source = text(&one.stdout);
    assert!(
        source
            .split_inclusive('\n')
            .all(|line| line.ends_with("\r\n")),
        "{source}"
    );
    for wanted in [
        "Subject: =?shift_jis?B?",
        "<\"a..b\"@docomo.ne.jp>",
        "Content-Type: multipart/mixed;",
        "Content-Type: multipart/related;",
        "Content-Type: text/html; charset=shift_jis\r\nContent-Transfer-Encoding: quoted-printable\r\n",
    ] {
        assert!(source.contains(wanted), "{wanted}\n{source}");
    }
    let with = |more: &[&str]| {
        let output = hikyaku(&[&base[..], more].concat());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    assert!(with(&["--carrier", "utf8"]).contains("Subject: =?utf-8?B?"));
    assert!(with(&["--carrier", "au"]).contains("Subject: =?iso-2022-jp?B?"));
    assert!(with(&["--carrier", "softbank"]).contains("Content-Type: multipart/related;"));
    for carrier in ["utf8", "docomo", "au", "softbank"] {
        let more = [
            "--carrier",
            carrier,
            "--var",
            "name=飛脚太郎",
            "--format",
            "text",
        ];
        let shown = with(&more);
        assert!(
            shown.contains("飛脚太郎 様") && shown.contains('🎂'),
            "{carrier}: {shown}"
        );
        assert!(!shown.contains('\r'));
        let html = with(&["--carrier", carrier, "--format", "html"]);
        assert!(
            html.contains("<font color=\"#cc0000\" size=\"5\">"),
            "{carrier}: {html}"
        );
    }
}

#[test]
fn preview_says_what_is_wrong() {
    let dir = example("text");
    for (arguments, wanted) in [
        (
            ["--to", "nobody", "--var", "name=x"],
            "--to \"nobody\": not an address",
        ),
        (["--to", "a@b.jp", "--var", "name"], "expected NAME=VALUE"),
        (["--to", "a@b.jp", "--var", "date=soon"], "text:6:"),
    ] {
        let output = hikyaku(&[&["preview", "--dir", &dir][..], &arguments].concat());
        assert_eq!(output.status.code(), Some(1));
        assert!(
            text(&output.stderr).contains(wanted),
            "{}",
            text(&output.stderr)
        );
    }
}

#[test]
fn a_list_is_rendered_and_its_bad_lines_are_numbered() {
    let (dir, list) = (
        example("coupon"),
        examples().join("coupon-list.csv").display().to_string(),
    );
    let out = folder("template-render");
    let eml = out.join("eml").display().to_string();
    let output = hikyaku(&["render", "--dir", &dir, "--list", &list, "--out", &eml]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("coupon-list.csv:4: 1 cells where the first line names 5")
    );
    assert!(
        text(&output.stdout).starts_with("3 messages written"),
        "{}",
        text(&output.stdout)
    );
    let mut names: Vec<_> = fs::read_dir(&eml)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["0000002.eml", "0000003.eml", "0000005.eml"]);
    let mbox = out.join("all.mbox").display().to_string();
    let output = hikyaku(&["render", "--dir", &dir, "--list", &list, "--out", &mbox]);
    assert_eq!(output.status.code(), Some(1));
    let mailbox = fs::read_to_string(&mbox).unwrap();
    assert_eq!(mailbox.matches("\nMessage-ID: ").count(), 3);
    assert_eq!(
        mailbox.lines().filter(|l| l.starts_with("From ")).count(),
        3
    );
    assert!(!mailbox.contains('\r'));
}
