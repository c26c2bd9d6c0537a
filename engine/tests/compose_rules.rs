//! What a template may do, what stops it, and what checking it finds.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::sync::Arc;

use engine::clock::UnixMs;
use engine::compose::charset::Wire;
use engine::compose::{
    Carrier, Choice, ComposeError, Data, Files, Job, Mailbox, Scratch, Template, check,
};

const HEAD: &str = "from = \"Shop <shop@example.jp>\"\nsubject = \"Hello\"\n";

fn files(manifest: &str, others: &[(&str, &str)]) -> Files {
    let mut files = Files::new();
    files.insert("template.toml".to_owned(), manifest.as_bytes().to_vec());
    for (name, content) in others {
        files.insert((*name).to_owned(), content.as_bytes().to_vec());
    }
    files
}

fn load(manifest: &str, others: &[(&str, &str)]) -> Template {
    Template::load(&files(manifest, others)).unwrap_or_else(|faults| panic!("{faults:?}"))
}

fn compose_to(
    template: &Template,
    to: &str,
    choice: Choice,
    data: &[(&str, &str)],
) -> Result<(String, Wire), ComposeError> {
    let data = Arc::new(Data::from_pairs(data.iter().copied()));
    let recipient = Mailbox::parse(to).unwrap();
    let now = UnixMs(1_795_504_548_000);
    let job = Job {
        data: &data,
        recipient: &recipient,
        now,
        id: "Q1",
        choice,
    };
    let mut out = b"before".to_vec();
    let composed = template.compose(&job, &mut Scratch::default(), &mut out);
    match composed {
        Ok(composed) => Ok((
            String::from_utf8_lossy(&out["before".len()..]).into_owned(),
            composed.wire,
        )),
        Err(error) => {
            assert_eq!(out, b"before", "an error leaves the buffer as it was");
            Err(error)
        }
    }
}

fn compose(template: &Template, data: &[(&str, &str)]) -> Result<String, ComposeError> {
    compose_to(template, "taro@example.jp", Choice::Auto, data).map(|(message, _)| message)
}

fn faults(manifest: &str, others: &[(&str, &str)]) -> Vec<String> {
    check(&files(manifest, others), &[])
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn templates_without_bound_are_stopped_with_a_place() {
    for body in [
        "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}",
        "{% set s = namespace(x='xxxxxxxx') %}{% for a in range(64) %}{% set s.x = s.x ~ s.x %}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "{{ 'x' * 1000000000 }}",
    ] {
        let template = load(HEAD, &[("text", body)]);
        match compose(&template, &[]) {
            Err(ComposeError::Unbounded(fault)) => {
                assert_eq!((&*fault.file, fault.line), ("text", 1))
            }
            other => panic!("{body}: {other:?}"),
        }
        assert!(
            !faults(HEAD, &[("text", body)]).is_empty(),
            "{body} passes the check"
        );
    }
}

#[test]
fn a_part_or_header_grows_to_its_limit_only() {
    let template = load(
        HEAD,
        &[("text", "{% for a in range(3000) %}{{ long }}{% endfor %}")],
    );
    let long = "x".repeat(1000);
    let error = compose(&template, &[("long", &long)]).unwrap_err();
    assert!(matches!(error, ComposeError::TooLarge { .. }), "{error}");
    let template = load(
        "from = \"shop@example.jp\"\nsubject = \"{{ long }}\"\n",
        &[("text", "x")],
    );
    let error = compose(&template, &[("long", &long.repeat(9))]).unwrap_err();
    assert_eq!(error.to_string(), "Subject renders to more than 8192 bytes");
}

#[test]
fn data_cannot_add_header_fields() {
    let manifest = "from = \"{{ who }} <shop@example.jp>\"\nto_name = \"{{ name }}\"\nsubject = \"{{ what }}\"\n\
                    reply_to = \"{{ reply }}\"\nlist_unsubscribe = [\"https://e.jp/{{ token }}\"]\n\
                    [headers]\nX-Note = \"{{ note }}\"\n[tags]\nuser = \"{{ user }}\"\n";
    let template = load(manifest, &[("text", "x")]);
    let good = [
        ("who", "a"),
        ("name", "b"),
        ("what", "c"),
        ("reply", "r@example.jp"),
        ("token", "t"),
        ("note", "n"),
        ("user", "u"),
    ];
    compose(&template, &good).unwrap();
    for evil in [
        "x\r\nBcc: evil@example.com",
        "x\nBcc: y",
        "x\rBcc: y",
        "x\0y",
        "x\u{85}y",
        "x\u{2028}y",
    ] {
        for at in 0..good.len() {
            let mut data = good;
            data[at].1 = evil;
            let error = compose(&template, &data).unwrap_err();
            assert!(
                matches!(error, ComposeError::HeaderInjection { .. }),
                "{}: {error}",
                data[at].0
            );
        }
    }
    // A display name cannot become an address either.
    let mut data = good;
    data[0].1 = "Evil <evil@example.com>,";
    let message = compose(&template, &data).unwrap();
    assert!(
        message.contains("From: \"Evil <evil@example.com>,\" <shop@example.jp>\r\n"),
        "{message}"
    );
    assert_eq!(
        faults(
            "from = \"a@b.jp\"\nsubject = \"a\\r\\nBcc: x\"\n",
            &[("text", "x")]
        ),
        ["template.toml:2:11: subject: a line break or control character in a header's value"]
    );
}

#[test]
fn html_is_escaped_and_text_is_not() {
    let template = load(HEAD, &[("text", "{{ x }}\n"), ("html", "<p>{{ x }}</p>\n")]);
    let message = compose(&template, &[("x", "<b> & 'q'")]).unwrap();
    assert!(message.contains("\r\n<b> & 'q'\r\n"), "{message}");
    assert!(
        message.contains("<p>&lt;b&gt; &amp; &#39;q&#39;</p>"),
        "{message}"
    );
}

#[test]
fn missing_fields_are_refused_left_out_or_empty() {
    let text = [(
        "text",
        "Dear {{ name }}{% if coupon is defined %} {{ coupon }}{% endif %}.\n",
    )];
    let error = compose(&load(HEAD, &text), &[]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "text:1:9: the data has no value for `name`"
    );
    let skip = load(&format!("{HEAD}missing = \"skip\"\n"), &text);
    assert!(matches!(compose(&skip, &[]), Err(ComposeError::Skipped(_))));
    let empty = load(&format!("{HEAD}missing = \"default\"\n"), &text);
    assert!(
        compose(&empty, &[])
            .unwrap()
            .ends_with("\r\n\r\nDear .\r\n")
    );
    let default = format!("{HEAD}[defaults]\nname = \"customer\"\ncoupon = \"C1\"\n");
    for data in [&[][..], &[("name", "")][..]] {
        assert!(
            compose(&load(&default, &text), data)
                .unwrap()
                .ends_with("Dear customer C1.\r\n")
        );
    }
}

#[test]
fn faults_have_file_line_and_column() {
    let fields = format!("{HEAD}fields = [\"name\", \"total\"]\n");
    for (manifest, others, wanted) in [
        (HEAD, &[("text", "a\nb {{ x\n")][..], "text:"),
        (
            &*fields,
            &[("text", "Dear\n  {{ nmae }}\n")],
            "text:2:6: unknown field `nmae`; did you mean `name`?",
        ),
        (
            HEAD,
            &[("text", "あ{{ 1|nofilter }}")],
            "text:1:7: there is no filter `nofilter`",
        ),
        (
            HEAD,
            &[("text", "{{ emoji('nosuch') }}")],
            "text:1:10: there is no emoji called 'nosuch'",
        ),
        (
            HEAD,
            &[("text", "{% include 'no.txt' %}")],
            "text:1:12: there is no file \"no.txt\"",
        ),
        (
            HEAD,
            &[("text", "{% if false %}x{% endif %}")],
            "text:1:7: unreachable: this condition is never true",
        ),
        (
            HEAD,
            &[("text", "x"), ("notes.txt", "y")],
            "notes.txt:1:1: unreachable: no part",
        ),
        (
            HEAD,
            &[("html", "<img src=\"cid:x.gif\">")],
            "html:1:15: there is no inline image called \"x.gif\"",
        ),
        (HEAD, &[], "template.toml:1:1: neither a file `text`"),
        (
            "from = \"x\"\nsubject = \"s\"\n",
            &[("text", "x")],
            "template.toml:1:8: from: \"x\": not an address",
        ),
        (
            "from = \"a@b.jp\"\nsubjct = \"s\"\n",
            &[("text", "x")],
            "template.toml:2:1: unknown field `subjct`",
        ),
        (
            "from = \"a@b.jp\"\nsubject = \"{{ 1|nix }}\"\n",
            &[("text", "x")],
            "template.toml:2:17: there is no filter",
        ),
        (
            HEAD,
            &[("text.dokomo", "x"), ("text", "x")],
            "text.dokomo:1:1: \"dokomo\" is no carrier",
        ),
    ] {
        let faults = faults(manifest, others);
        let found = faults.iter().any(|fault| fault.starts_with(wanted));
        assert!(found, "wanted {wanted}\ngot {faults:#?}");
    }
    let included = [
        ("text", "{% include 'a.txt' %}"),
        ("a.txt", "{% include 'b.txt' %}"),
        ("b.txt", "{% include 'a.txt' %}"),
    ];
    assert_eq!(
        faults(HEAD, &included),
        ["b.txt:1:12: \"a.txt\" includes itself"]
    );
}

#[test]
fn carrier_limits_are_named_with_figure_and_limit() {
    let legacy = format!(
        "{HEAD}[carrier.docomo]\nsend = \"legacy\"\n[carrier.softbank]\nsend = \"legacy\"\n"
    );
    let long = format!("<div>{}</div>", "x".repeat(10_000));
    let found = faults(&legacy, &[("html", &long)]);
    assert!(
        found[0].starts_with("html:1:1: docomo: bytes of text and html: 20"),
        "{found:?}"
    );
    assert!(found[0].ends_with(", limit 10000"), "{found:?}");
    let image = "g".repeat(95_000);
    let shown = "<div><img src=\"cid:a.gif\"></div>";
    let found = faults(&legacy, &[("html", shown), ("inline/a.gif", &image)]);
    assert_eq!(
        found,
        ["html:1:1: docomo: bytes of inline images: 95000, limit 92160"]
    );
    let found = faults(
        &legacy,
        &[
            ("html", "<div><img src=\"cid:a.png\"></div>"),
            ("inline/a.png", "x"),
        ],
    );
    assert!(
        found
            .iter()
            .any(|f| f.contains("docomo: does not show inline/a.png (image/png)")),
        "{found:?}"
    );
    let strict = format!("{HEAD}[carrier.docomo]\nsend = \"legacy\"\ntags = \"refuse\"\n");
    let found = faults(&strict, &[("html", "<div>\n <table></table></div>")]);
    assert_eq!(found, ["html:2:2: docomo does not show <table>"]);
    // Not legacy, so no limit.
    assert_eq!(faults(HEAD, &[("html", &long)]), [""; 0]);
    let also = check(&files(HEAD, &[("html", &long)]), &[Carrier::Au]);
    assert!(
        also[0].to_string().contains("au: bytes of text and html"),
        "{also:?}"
    );
}

#[test]
fn each_carrier_gets_its_own_form() {
    let manifest = "from = \"飛脚 <shop@example.jp>\"\nsubject = \"☀です\"\n\
                    [carrier.docomo]\nsend = \"legacy\"\n[carrier.au]\nsend = \"legacy\"\nlocal_part = \"raw\"\n\
                    [carrier.softbank]\nsend = \"legacy\"\ncharset = \"shift_jis\"\nsubject = \"☀ですね\"\n";
    let template = load(
        manifest,
        &[("text", "☀\n"), ("text.au", "au {{ carrier }}\n")],
    );
    for (to, wire, wanted) in [
        (
            "a..b@docomo.ne.jp",
            Wire::DocomoSjis,
            "Subject: =?shift_jis?B?+J+CxYK3?=\r\n",
        ),
        (
            "a..b@docomo.ne.jp",
            Wire::DocomoSjis,
            "To: <\"a..b\"@docomo.ne.jp>\r\n",
        ),
        (
            "a.@ezweb.ne.jp",
            Wire::AuJis,
            "Subject: =?iso-2022-jp?B?GyRCdUEkRyQ5GyhC?=\r\n",
        ),
        ("a.@ezweb.ne.jp", Wire::AuJis, "To: a.@ezweb.ne.jp\r\n"),
        ("a@ezweb.ne.jp", Wire::AuJis, "\r\n\r\nau au\r\n"),
        (
            "a@softbank.ne.jp",
            Wire::SoftbankSjis,
            "Subject: =?shift_jis?B?+YuCxYK3gss=?=\r\n",
        ),
        (
            "a@example.jp",
            Wire::Utf8,
            "Subject: =?utf-8?B?4piA44Gn44GZ?=\r\n",
        ),
        (
            "a@ymobile.ne.jp",
            Wire::Utf8,
            "Subject: =?utf-8?B?4piA44Gn44GZ?=\r\n",
        ),
    ] {
        let (message, used) = compose_to(&template, to, Choice::Auto, &[]).unwrap();
        assert!(
            message.contains(wanted),
            "{to}: wanted {wanted:?} in\n{message}"
        );
        assert_eq!(used, wire);
    }
    let (_, wire) = compose_to(&template, "a@docomo.ne.jp", Choice::Utf8, &[]).unwrap();
    assert_eq!(wire, Wire::Utf8);
    let softbank = Choice::Legacy(Carrier::Softbank);
    let (_, wire) = compose_to(&template, "a@example.jp", softbank, &[]).unwrap();
    assert_eq!(wire, Wire::SoftbankSjis);
}

#[test]
fn characters_outside_the_set_are_substituted_refused_or_bring_utf8() {
    let text = [("text", "{{ name }}\n")];
    for (policy, outcome) in [
        ("utf-8", "utf-8"),
        ("substitute", "iso-2022-jp"),
        ("refuse", ""),
    ] {
        let manifest = format!("{HEAD}charset = \"iso-2022-jp\"\nunencodable = \"{policy}\"\n");
        let template = load(&manifest, &text);
        let plain = compose(&template, &[("name", "高橋")]).unwrap();
        assert!(plain.contains("charset=iso-2022-jp"), "{plain}");
        match compose(&template, &[("name", "髙橋")]) {
            Ok(message) => assert!(
                message.contains(&format!("charset={outcome}\r\n")),
                "{message}"
            ),
            Err(error) => assert_eq!(error.to_string(), "iso-2022-jp has no '髙' (U+9AD9)"),
        }
    }
}

#[test]
fn unsubscription_feedback_group_and_tags_are_header_fields() {
    let manifest = format!(
        "{HEAD}group = \"news\"\nfeedback_id = \"1:2:3:shop\"\n\
         list_unsubscribe = [\"https://e.jp/u/{{{{ t|urlencode }}}}\", \"mailto:u@e.jp\"]\n[tags]\nuser = \"{{{{ t }}}}\"\n"
    );
    let message = compose(&load(&manifest, &[("text", "x")]), &[("t", "山")]).unwrap();
    for field in [
        "List-Unsubscribe: <https://e.jp/u/%E5%B1%B1>, <mailto:u@e.jp>\r\n",
        "List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n",
        "Feedback-ID: 1:2:3:shop\r\n",
        "X-Hikyaku-Group: news\r\n",
        "X-Hikyaku-Tag: =?utf-8?B?dXNlcj3lsbE=?=\r\n",
        "Date: Tue, 24 Nov 2026 16:15:48 +0900\r\n",
    ] {
        assert!(message.contains(field), "{field}\n{message}");
    }
    let raw = format!("{HEAD}list_unsubscribe = [\"https://e.jp/{{{{ t }}}}\"]\n");
    let error = compose(&load(&raw, &[("text", "x")]), &[("t", "山")]).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("List-Unsubscribe: the value must be ASCII"),
        "{error}"
    );
}

#[test]
fn message_ids_differ_by_recipient_and_by_id_alone() {
    let template = load(HEAD, &[("text", "x")]);
    let data = Arc::new(Data::from_pairs([]));
    let mut seen = std::collections::HashSet::new();
    for to in ["a@example.jp", "b@example.jp", "a@example.com"] {
        for id in ["Q1", "Q2"] {
            for now in [0, 1_795_504_548_000] {
                let recipient = Mailbox::parse(to).unwrap();
                let choice = Choice::Auto;
                let job = Job {
                    data: &data,
                    recipient: &recipient,
                    now: UnixMs(now),
                    id,
                    choice,
                };
                let composed = template.compose(&job, &mut Scratch::default(), &mut Vec::new());
                seen.insert(composed.unwrap().message_id);
            }
        }
    }
    assert_eq!(seen.len(), 6, "{seen:?}");
}
