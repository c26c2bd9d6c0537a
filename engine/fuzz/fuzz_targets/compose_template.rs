//! Any template sources and values: loading, checking and composing never panic, and what is composed
//! keeps to its limits and comes out the same twice.
#![no_main]

use std::sync::Arc;

use engine::clock::UnixMs;
use engine::compose::{Choice, Data, Files, Job, Mailbox, Scratch, Template, check};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &str, &str, &str, &str, &str)| {
    let (shape, manifest, text, html, value, to) = input;
    let mut files = Files::new();
    let fixed = "from = \"a@b.jp\"\nsubject = \"{{ x }}\"\n[carrier.docomo]\nsend = \"legacy\"\n\
                 [carrier.au]\nsend = \"legacy\"\n[carrier.softbank]\nsend = \"legacy\"\n";
    let manifest = if shape & 1 == 0 { fixed } else { manifest };
    files.insert("template.toml".into(), manifest.into());
    if shape & 2 == 0 {
        files.insert("text".into(), text.into());
    }
    if shape & 4 == 0 {
        files.insert("html".into(), html.into());
    }
    if shape & 8 != 0 {
        files.insert("inline/a.gif".into(), value.into());
        files.insert("attachments/b".into(), value.into());
    }
    let _ = check(&files, &[]);
    let Ok(template) = Template::load(&files) else { return };
    let hosts = ["docomo.ne.jp", "ezweb.ne.jp", "softbank.ne.jp", "example.jp"];
    let host = hosts[usize::from(shape >> 4) % 4];
    let Ok(recipient) = Mailbox::parse(&format!("{to}@{host}")) else { return };
    let data = Arc::new(Data::from_pairs([("x", value), ("y", "1")]));
    let now = UnixMs(1_700_000_000_000);
    let job = Job { data: &data, recipient: &recipient, now, id: "f", choice: Choice::Auto };
    let (mut one, mut two) = (Vec::new(), Vec::new());
    if template.compose(&job, &mut Scratch::default(), &mut one).is_ok() {
        assert!(template.compose(&job, &mut Scratch::default(), &mut two).is_ok());
        assert!(one == two);
        assert!(one.is_ascii());
        assert!(one.split(|&b| b == b'\n').all(|l| l.len() <= 999 && (l.is_empty() || l.ends_with(b"\r"))));
    }
});
