use proptest::prelude::*;

use super::batch::{BATCH_AGE_MS_MAX, BATCH_BYTES_MAX};
use super::record::{RECORD_BYTES_MAX, TEXT_BYTES_MAX, decode, encode};
use super::text::{escape_tsv, unescape_tsv};
use super::*;
use crate::clock::UnixMs;
use crate::ids::{QueueId, SegmentId, ShardId};
use crate::phase::Phase;
use crate::queue::record::OutcomeKind;
use crate::status::{EnhancedStatus, ReplyCode};

fn refused<'a>() -> LogRecord<'a> {
    LogRecord {
        message_id: b"<1@app.example.jp>",
        group: b"news",
        tags: b"X-Hikyaku-Tag=campaign 7;",
        reverse_path: b"sender@example.jp",
        forward_path: b"someone@example.com",
        domain: b"example.com",
        site: b"mx.example.com",
        attempt: 3,
        class: b"user-unknown",
        phase: Some(Phase::Rcpt),
        code: ReplyCode::new(550),
        enhanced: Some(EnhancedStatus::new(5, 1, 1)),
        reply: b"550-5.1.1 no\r\n550 5.1.1 such\tuser \\o/ \xff",
        dns: b"MX 10 mx.example.com; A 192.0.2.1; NOERROR cached",
        source_ip: Some("198.51.100.7".parse().unwrap()),
        dest_ip: Some("2001:db8::25".parse().unwrap()),
        dest_host: b"mx.example.com",
        greeting: b"220 mx.example.com ESMTP",
        tls: b"TLSv1.3 TLS_AES_256_GCM_SHA384",
        delay_queue_ms: 1_234_567,
        delay_connect_ms: Some(80),
        delay_send_ms: Some(0),
        size: 1_024,
        ..LogRecord::new(
            UnixMs(1_795_503_420_123),
            QueueId(0x1234_5678_9abc_def0),
            OutcomeKind::Failed,
            ShardId(1),
        )
    }
}

fn packed(record: &LogRecord<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    encode(record, &mut out);
    out
}

#[test]
fn tsv_has_the_contract_columns_and_escapes_what_would_break_a_line() {
    let mut out = String::new();
    write_tsv_header(&mut out);
    write_tsv_line(&refused(), &mut out);
    let minimal = LogRecord::new(UnixMs(0), QueueId(1), OutcomeKind::Delivered, ShardId(0));
    write_tsv_line(&minimal, &mut out);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(
        lines[0],
        "time queue_id message_id group tags reverse_path forward_path domain site attempt outcome class \
         phase code enhanced reply dns source_ip dest_ip dest_host greeting tls delay_queue_ms \
         delay_connect_ms delay_send_ms size shard"
            .replace(' ', "\t")
    );
    assert_eq!(
        lines[1],
        "2026-11-24T06:57:00.123Z\t14D2PF2DBSQQG\t<1@app.example.jp>\tnews\tX-Hikyaku-Tag=campaign 7;\t\
         sender@example.jp\tsomeone@example.com\texample.com\tmx.example.com\t3\tfailed\tuser-unknown\trcpt\t\
         550\t5.1.1\t550-5.1.1 no\\r\\n550 5.1.1 such\\tuser \\\\o/ \u{fffd}\t\
         MX 10 mx.example.com; A 192.0.2.1; NOERROR cached\t198.51.100.7\t2001:db8::25\tmx.example.com\t\
         220 mx.example.com ESMTP\tTLSv1.3 TLS_AES_256_GCM_SHA384\t1234567\t80\t0\t1024\t1"
    );
    let empty: Vec<&str> = lines[2].split('\t').collect();
    assert_eq!(empty.len(), COLUMNS.len());
    assert_eq!(
        (empty[13], empty[17], empty[22], empty[23]),
        ("", "", "0", "")
    );
}

#[test]
fn json_lines_have_the_same_columns() {
    let mut out = String::new();
    write_json_line(&refused(), &mut out);
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    let object = value.as_object().unwrap();
    assert_eq!(object.len(), COLUMNS.len());
    assert!(COLUMNS.iter().all(|column| object.contains_key(*column)));
    assert_eq!(
        object["reply"],
        "550-5.1.1 no\r\n550 5.1.1 such\tuser \\o/ \u{fffd}"
    );
    assert_eq!(object["code"], 550);
    assert_eq!(object["dest_ip"], "2001:db8::25");
    let mut minimal = String::new();
    write_json_line(
        &LogRecord::new(UnixMs(0), QueueId(1), OutcomeKind::Delivered, ShardId(0)),
        &mut minimal,
    );
    assert!(minimal.contains("\"code\":null") && minimal.contains("\"dest_ip\":\"\""));
}

#[test]
fn an_overlong_text_is_cut_at_a_character_and_says_so() {
    let long = "あ".repeat(TEXT_BYTES_MAX);
    let record = LogRecord {
        reply: long.as_bytes(),
        ..refused()
    };
    let bytes = packed(&record);
    assert!(bytes.len() <= RECORD_BYTES_MAX);
    let read = std::str::from_utf8(decode(&bytes).unwrap().reply).unwrap();
    assert!(
        read.ends_with("あ…") && read.len() <= TEXT_BYTES_MAX && read.len() > TEXT_BYTES_MAX - 6
    );
    assert_eq!(decode(&bytes).unwrap().greeting, record.greeting);
}

#[test]
fn every_cut_and_every_longer_record_is_refused() {
    let bytes = packed(&refused());
    for end in 0..bytes.len() {
        assert!(decode(&bytes[..end]).is_err(), "cut at {end}");
    }
    let longer = [&bytes[..], b"\0"].concat();
    assert_eq!(decode(&longer), Err(LogDecodeError::Long));
    let mut newer = bytes;
    newer[0] = 2;
    assert_eq!(decode(&newer), Err(LogDecodeError::Version(2)));
}

#[test]
fn a_batch_is_due_by_size_or_age_and_reads_back_in_order() {
    let mut batch = LogBatch::new();
    let start = refused().time;
    assert!(!batch.is_due(UnixMs(u64::MAX)) && batch.take().is_empty());
    batch.push(&refused());
    assert!(!batch.is_due(UnixMs(start.0 + BATCH_AGE_MS_MAX - 1)));
    assert!(batch.is_due(UnixMs(start.0 + BATCH_AGE_MS_MAX)));
    let mut pushed = 1;
    while !batch.is_due(start) {
        batch.push(&LogRecord {
            attempt: pushed + 3,
            ..refused()
        });
        pushed += 1;
    }
    let bytes = batch.take();
    assert!(bytes.len() <= BATCH_BYTES_MAX && pushed > 10);
    let (header, records) = read_batch(&bytes).unwrap();
    assert_eq!(
        header,
        LogBatchHeader {
            records: pushed,
            first: start,
            last: start
        }
    );
    let attempts: Vec<u32> = records.map(|record| record.unwrap().attempt).collect();
    assert_eq!(attempts, (3..3 + pushed).collect::<Vec<_>>());
    assert!(batch.is_empty());
    let capacity = bytes.capacity();
    batch.reuse(bytes);
    batch.push(&refused());
    assert_eq!(batch.take().capacity(), capacity, "no new buffer");
}

#[test]
fn filters_pick_by_every_condition() {
    let now = UnixMs(refused().time.0 + 3_600_000);
    let wanted = |conditions: &[(&str, &str)]| {
        let mut filter = LogFilter::default();
        for (parameter, value) in conditions {
            assert_eq!(
                filter.set(parameter, value, now),
                Ok(true),
                "{parameter}={value}"
            );
        }
        filter.matches(&refused())
    };
    for (parameter, yes, no) in [
        ("since", "1h", "59m"),
        ("until", "59m", "1h"),
        (
            "since",
            "2026-11-24T06:57:00.123Z",
            "2026-11-24T06:57:00.124Z",
        ),
        ("queue_id", "14D2PF2DBSQQG", "14D2PF2DBSQQH"),
        ("group", "NEWS", "new"),
        ("domain", "Example.COM", "example.co"),
        ("domain", "example.com.", "example.com.."),
        ("site", "mx.example.com", "example.com"),
        ("address", "<someone@example.com>", "nobody@example.com"),
        ("address", "sender@example.jp", "example.jp"),
        ("outcome", "failed", "delivered"),
        ("class", "user-unknown", "mailbox-full"),
    ] {
        assert!(wanted(&[(parameter, yes)]), "{parameter}={yes}");
        assert!(!wanted(&[(parameter, no)]), "{parameter}={no}");
        assert!(!wanted(&[(parameter, yes), ("group", "other")]));
    }
    let mut filter = LogFilter::default();
    assert_eq!(filter.set("colour", "red", now), Ok(false));
    assert!(
        filter
            .set("outcome", "lost", now)
            .unwrap_err()
            .contains("suppressed")
    );
    assert!(filter.set("since", "yesterday", now).is_err());
    assert!(filter.set("queue_id", "1", now).is_err());
    for parameter in LogFilter::PARAMETERS {
        assert_ne!(filter.set(parameter, "", now), Ok(false), "{parameter}");
    }
}

#[test]
fn a_batch_outside_the_time_asked_for_is_skipped() {
    let header = LogBatchHeader {
        records: 1,
        first: UnixMs(100),
        last: UnixMs(200),
    };
    let may = |since, until| {
        let (since, until) = (Some(UnixMs(since)), Some(UnixMs(until)));
        LogFilter {
            since,
            until,
            ..LogFilter::default()
        }
        .may_match(&header)
    };
    assert!(may(200, 300) && may(0, 101) && may(150, 160));
    assert!(!may(201, 300) && !may(0, 100));
}

#[test]
fn segments_rotate_with_the_clock_and_by_size() {
    let hour = 3_600_000;
    let mut rotation = LogRotation::new(1_000, hour);
    let at = |ms| UnixMs(10 * hour + ms);
    assert!(rotation.must_rotate(at(0), 1));
    rotation.opened(at(0));
    assert!(
        !rotation.must_rotate(at(0), 5_000),
        "an empty segment takes any batch"
    );
    rotation.appended(at(0), 600);
    assert!(!rotation.must_rotate(at(hour - 1), 400));
    assert!(rotation.must_rotate(at(hour - 1), 401));
    assert!(rotation.must_rotate(at(hour), 1));
    rotation.opened(at(hour));
    rotation.appended(at(2 * hour), 10);
    assert!(
        !rotation.must_rotate(at(3 * hour - 1), 10),
        "its hour is that of its first batch"
    );
}

#[test]
fn old_segments_go_first_by_age_then_by_size() {
    let log = |shard, segment, last, bytes| SealedLog {
        shard: ShardId(shard),
        segment: SegmentId(segment),
        last: UnixMs(last),
        bytes,
    };
    let all = vec![
        log(1, 2, 400, 50),
        log(0, 1, 100, 50),
        log(1, 1, 200, 50),
        log(0, 2, 300, 50),
    ];
    let gone = |age, bytes| -> Vec<u64> {
        expired_segments(all.clone(), UnixMs(500), age, bytes)
            .iter()
            .map(|log| log.last.0)
            .collect()
    };
    assert_eq!(gone(1_000, 200), [] as [u64; 0]);
    assert_eq!(gone(299, 200), [100, 200]);
    assert_eq!(gone(1_000, 149), [100, 200]);
    assert_eq!(gone(399, 149), [100, 200]);
    assert_eq!(gone(1_000, 0), [100, 200, 300, 400]);
}

prop_compose! {
    fn any_texts()(texts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..1100), 13))
        -> Vec<Vec<u8>> { texts }
}

proptest! {
    #[test]
    fn what_is_packed_reads_back(
        texts in any_texts(), time: u64, id: u64, shard: u16, attempt: u32, size: u64,
        delays: (u64, Option<u64>, Option<u64>), outcome in 0..7_usize, phase in 0..11_usize,
        code in 0..700_u16, enhanced: Option<(u8, u16, u16)>,
        ips: (Option<std::net::IpAddr>, Option<std::net::IpAddr>),
    ) {
        let cut: Vec<&[u8]> = texts.iter().map(|text| &text[..text.len().min(TEXT_BYTES_MAX)]).collect();
        let mut record = LogRecord {
            message_id: cut[0], group: cut[1], tags: cut[2], reverse_path: cut[3], forward_path: cut[4],
            domain: cut[5], site: cut[6], class: cut[7], reply: cut[8], dns: cut[9], dest_host: cut[10],
            greeting: cut[11], tls: cut[12], attempt, size, delay_queue_ms: delays.0,
            delay_connect_ms: delays.1, delay_send_ms: delays.2, phase: Phase::ALL.get(phase).copied(),
            code: ReplyCode::new(code), source_ip: ips.0, dest_ip: ips.1,
            ..LogRecord::new(UnixMs(time), QueueId(id), OutcomeKind::ALL[outcome], ShardId(shard))
        };
        record.enhanced = enhanced.map(|(class, subject, detail)| EnhancedStatus::new(class, subject, detail));
        let bytes = packed(&record);
        prop_assert!(bytes.len() <= RECORD_BYTES_MAX);
        prop_assert_eq!(decode(&bytes), Ok(record));
        let mut line = String::new();
        write_tsv_line(&record, &mut line);
        prop_assert_eq!(line.matches('\t').count(), COLUMNS.len() - 1);
        prop_assert_eq!(line.matches('\n').count(), 1);
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes);
        if let Ok((_, records)) = read_batch(&bytes) {
            let _ = records.count();
        }
    }

    #[test]
    fn tsv_escapes_read_back(text in "(\\\\|[\\t\\n\\r\\x00-\\x1f\\x7f]|x0a|.){0,40}") {
        let mut out = String::new();
        escape_tsv(&text, &mut out);
        prop_assert!(!out.contains(['\t', '\n', '\r']));
        prop_assert_eq!(unescape_tsv(&out), text);
    }
}
