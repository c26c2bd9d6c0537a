//! What a composed message costs, beside mail-builder making the same mail.
//!
//! `cargo bench -p hikyaku-engine --bench compose`. Each round is one message for one recipient, merge
//! data made from the list's cells included; throughput is messages a second on one core.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use engine::clock::UnixMs;
use engine::compose::{Choice, Columns, Data, Files, Job, Mailbox, Scratch, Template};
use mail_builder::MessageBuilder;

const MANIFEST: &str = r#"
from    = "Hikyaku Shop <news@shop.example.jp>"
subject = "Your order {{ order }} has shipped"
fields  = ["name", "order", "total"]
"#;

const JAPANESE_MANIFEST: &str = r#"
from    = "飛脚商店 <news@shop.example.jp>"
subject = "{{ name }}様 ご注文{{ order }}を発送しました"
fields  = ["name", "order", "total"]
"#;

fn text() -> String {
    let mut text = String::from(
        "Dear {{ name }},\n\nYour order {{ order }} over {{ total }} yen has left our store.\n\
         {% if total == '12800' %}\nThank you for your large order.\n{% else %}\nThank you.\n{% endif %}\n",
    );
    while text.len() < 1100 {
        text.push_str("Parcels reach you within three days; until then you can follow yours.\n");
    }
    text
}

fn japanese_text() -> String {
    let mut text = String::from(
        "{{ name }} 様\n\nご注文{{ order }}（{{ total }}円）を発送しました。\n\
         {% if total == '12800' %}\nたくさんのご注文ありがとうございます。\n{% endif %}\n",
    );
    while text.len() < 1100 {
        text.push_str("お届けまで三日ほどかかります。いましばらくお待ちください。\n");
    }
    text
}

fn html(image: bool) -> String {
    let mut html = String::from("<html><body><h1>Dear {{ name }}</h1>\n");
    if image {
        html.push_str("<img src=\"cid:photo.jpg\">\n");
    }
    html.push_str("<p>Your order {{ order }} over {{ total }} yen has left our store.</p>\n");
    html.push_str(
        "{% if total == '12800' %}\n<p>Thank you for your large order.</p>\n{% endif %}\n",
    );
    while html.len() < 1500 {
        html.push_str("<p>Parcels reach you <b>within three days</b>; follow yours.</p>\n");
    }
    html.push_str("</body></html>\n");
    html
}

fn template(files: &[(&str, &[u8])]) -> Template {
    let files: Files = files
        .iter()
        .map(|(n, b)| ((*n).to_owned(), b.to_vec()))
        .collect();
    Template::load(&files).unwrap_or_else(|faults| panic!("{faults:?}"))
}

/// One message a round, into a buffer that is kept.
fn compose(c: &mut Criterion, name: &str, template: &Template, choice: Choice) {
    let columns = Columns::new(["name", "order", "total"]);
    let recipient = Mailbox::parse("taro@example.jp").unwrap();
    let (mut scratch, mut out) = (Scratch::default(), Vec::new());
    let mut group = c.benchmark_group("compose");
    group.throughput(Throughput::Elements(1));
    group.bench_function(name, |b| {
        b.iter(|| {
            let cells = black_box(["Yamada Taro", "A-1024", "12800"]);
            let data = Arc::new(Data::new(Arc::clone(&columns), cells));
            let now = UnixMs(1_795_504_548_000);
            let job = Job {
                data: &data,
                recipient: &recipient,
                now,
                id: "0000000000001",
                choice,
            };
            out.clear();
            template.compose(&job, &mut scratch, &mut out).unwrap();
            black_box(out.len())
        });
    });
    group.finish();
}

fn hikyaku(c: &mut Criterion) {
    let (text, html_plain, html_image) = (text(), html(false), html(true));
    let japanese = japanese_text();
    let image = vec![0xA7; 20 * 1024];
    let toml = ("template.toml", MANIFEST.as_bytes());
    let plain = template(&[toml, ("text", text.as_bytes())]);
    compose(c, "text 1 KB", &plain, Choice::Auto);
    let wide = template(&[
        ("template.toml", JAPANESE_MANIFEST.as_bytes()),
        ("text", japanese.as_bytes()),
    ]);
    compose(c, "Japanese text 1 KB, UTF-8", &wide, Choice::Auto);
    let au = Choice::Legacy(engine::compose::Carrier::Au);
    compose(c, "Japanese text 1 KB, au ISO-2022-JP", &wide, au);
    let both = template(&[
        toml,
        ("text", text.as_bytes()),
        ("html", html_plain.as_bytes()),
    ]);
    compose(c, "text and HTML", &both, Choice::Auto);
    let made = template(&[toml, ("html", html_plain.as_bytes())]);
    compose(c, "HTML, text made from it", &made, Choice::Auto);
    let inline = template(&[
        toml,
        ("text", text.as_bytes()),
        ("html", html_image.as_bytes()),
        ("inline/photo.jpg", &image),
    ]);
    compose(
        c,
        "text, HTML and an inline image of 20 KB",
        &inline,
        Choice::Auto,
    );
}

fn mail_builder(c: &mut Criterion) {
    let fill = |source: &str| {
        source
            .replace("{{ name }}", "Yamada Taro")
            .replace("{{ order }}", "A-1024")
    };
    let (text, html, image) = (fill(&text()), fill(&html(false)), vec![0xA7; 20 * 1024]);
    let mut group = c.benchmark_group("mail-builder, no merging");
    group.throughput(Throughput::Elements(1));
    let base = || {
        MessageBuilder::new()
            .from(("Hikyaku Shop", "news@shop.example.jp"))
            .to("taro@example.jp")
            .subject("Your order A-1024 has shipped")
            .message_id("0000000000001@shop.example.jp")
            .date(1_795_504_548_i64)
    };
    let mut out = Vec::new();
    group.bench_function("text 1 KB", |b| {
        b.iter(|| {
            out.clear();
            base()
                .text_body(black_box(&*text))
                .write_to(&mut out)
                .unwrap();
        });
    });
    group.bench_function("text and HTML", |b| {
        b.iter(|| {
            out.clear();
            let message = base()
                .text_body(black_box(&*text))
                .html_body(black_box(&*html));
            message.write_to(&mut out).unwrap();
        });
    });
    group.bench_function("text, HTML and an inline image of 20 KB", |b| {
        b.iter(|| {
            out.clear();
            let message = base()
                .text_body(black_box(&*text))
                .html_body(black_box(&*html));
            message
                .inline("image/jpeg", "photo", black_box(&*image))
                .write_to(&mut out)
                .unwrap();
        });
    });
    group.finish();
}

criterion_group!(benches, hikyaku, mail_builder);
criterion_main!(benches);
