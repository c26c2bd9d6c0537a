//! `hikyaku bounce classify`, as its users see it.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn hikyaku(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hikyaku"))
        .current_dir(dir)
        .arg("bounce")
        .arg("classify")
        .args(args)
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn notice(to: &str, why: &str) -> String {
    format!(
        "From: MAILER-DAEMON@mx.example.jp\nSubject: failure notice\nMessage-ID: <n@mx.example.jp>\n\n\
         I could not deliver your message to:\n\n<{to}>:\n{why}\n\n--- Below this line is a copy of the message.\n\n\
         Received: from a by b\nMessage-ID: <original@example.com>\nFrom: us@example.com\nSubject: hello\n\nhello\n"
    )
}

#[test]
fn one_line_a_file_under_a_header() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(
        dir.path().join("a.eml"),
        notice("X@example.jp", "550 5.1.1 user unknown"),
    )
    .unwrap();
    fs::write(
        dir.path().join("b.eml"),
        "From: a@example.jp\nSubject: Re: hello\n\nThank you!\n",
    )
    .unwrap();
    let output = hikyaku(dir.path(), &["a.eml", "./b.eml"]);
    assert!(output.status.success());
    assert_eq!(
        text(&output),
        "file\trecipients\tverdict\treason\na.eml\tx@example.jp\thard\tuser-unknown\nb.eml\t\tnot-a-bounce\tmessage\n"
    );
}

#[test]
fn json_has_everything_and_explain_names_text_and_rule() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(
        dir.path().join("a.eml"),
        notice("x@example.jp", "552 5.2.2 over quota"),
    )
    .unwrap();
    let output = hikyaku(dir.path(), &["--format", "json", "--explain", "a.eml"]);
    let value: serde_json::Value = serde_json::from_str(&text(&output)).unwrap();
    assert_eq!(value["file"], "a.eml");
    assert_eq!(value["message_id"], "original@example.com");
    assert_eq!(value["subject"], "hello");
    let recipient = &value["recipients"][0];
    assert_eq!(recipient["recipient"], "x@example.jp");
    assert_eq!(recipient["code"], 552);
    assert_eq!(recipient["enhanced"], "5.2.2");
    assert_eq!(recipient["reason"], "mailbox-full");
    assert_eq!(recipient["verdict"], "soft");
    assert!(
        recipient["explain"]["text"]
            .as_str()
            .unwrap()
            .contains("over quota")
    );
    assert!(
        recipient["explain"]["rule"]
            .as_str()
            .unwrap()
            .starts_with("builtin:")
    );
}

#[test]
fn mbox_files_and_maildirs_are_read_message_by_message() {
    let dir = tempfile::tempdir().unwrap();
    let from = "From MAILER-DAEMON Mon Jan  1 00:00:00 2024\n";
    let mbox = format!(
        "{from}{}\n{from}{}",
        notice("x@a.jp", "user unknown"),
        notice("y@a.jp", "over quota")
    );
    fs::write(dir.path().join("bounces"), mbox).unwrap();
    for folder in ["box/cur", "box/new", "box/tmp"] {
        fs::create_dir_all(dir.path().join(folder)).unwrap();
    }
    fs::write(
        dir.path().join("box/cur/1:2,S"),
        notice("z@a.jp", "user unknown"),
    )
    .unwrap();
    fs::write(
        dir.path().join("box/new/2"),
        notice("w@a.jp", "user unknown"),
    )
    .unwrap();
    fs::write(
        dir.path().join("box/tmp/3"),
        notice("v@a.jp", "user unknown"),
    )
    .unwrap();
    let output = hikyaku(dir.path(), &["bounces", "box"]);
    let lines: Vec<String> = text(&output).lines().skip(1).map(str::to_owned).collect();
    assert_eq!(
        lines,
        [
            "bounces:1\tx@a.jp\thard\tuser-unknown",
            "bounces:2\ty@a.jp\tsoft\tmailbox-full",
            "1:2,S\tz@a.jp\thard\tuser-unknown",
            "2\tw@a.jp\thard\tuser-unknown",
        ]
    );
}

#[test]
fn own_rules_win_and_their_faults_are_told_with_file_and_line() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(
        dir.path().join("a.eml"),
        notice("x@example.jp", "550 the cat sat on it"),
    )
    .unwrap();
    fs::write(
        dir.path().join("own.tsv"),
        "# ours\npolicy\t-\t-\t-\tthe cat * on it\tthe cat sat on it\tus\n",
    )
    .unwrap();
    let output = hikyaku(dir.path(), &["--rules", "own.tsv", "--explain", "a.eml"]);
    assert!(
        text(&output).contains("soft\tpolicy\tnotice-line\town.tsv:2\t550 the cat"),
        "{}",
        text(&output)
    );
    fs::write(dir.path().join("bad.tsv"), "policy\t-\t-\t-\t/(a/\t-\tus\n").unwrap();
    let output = hikyaku(dir.path(), &["--rules", "bad.tsv", "a.eml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("bad.tsv:1: bad regular expression"));
}

#[test]
fn a_missing_file_is_told_and_the_others_are_read() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(
        dir.path().join("a.eml"),
        notice("x@example.jp", "user unknown"),
    )
    .unwrap();
    let output = hikyaku(dir.path(), &["gone.eml", "a.eml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("gone.eml: "));
    assert!(text(&output).contains("a.eml\tx@example.jp\thard"));
}
