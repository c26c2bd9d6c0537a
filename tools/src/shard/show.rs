//! `hikyaku shard show`: one message with all that is recorded about it.

use std::io::{self, Write};

use clap::Args;
use datadir::segments::{self, Go};
use engine::envelope::BodyType;
use engine::ids::QueueId;
use engine::queue::cipher::Stream;
use engine::queue::record::{Message, OutcomeState, Record};
use engine::queue::replay::Contents;

use super::{list_all, range, state_words, time};
use crate::site::{Failure, Site};
use crate::table::{Format, Rows};

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The message
    queue_id: QueueId,
    /// Print its content as it is delivered, and nothing else
    #[arg(long)]
    content: bool,
}

pub(crate) fn run(site: &Site, args: &ShowArgs, format: Format) -> Result<(), Failure> {
    let keys = site.unlock()?;
    let mut rows = Rows::new(&["shard", "segment", "offset", "field", "value"]);
    let mut content: Option<Vec<u8>> = None;
    for file in list_all(site)?
        .iter()
        .filter(|file| file.name.stream == Stream::Queue)
    {
        let contents = if args.content {
            Contents::Read
        } else {
            Contents::Skip
        };
        let scanned = segments::scan(
            file,
            &keys,
            contents,
            |found| {
                if found.record.queue_id() != Some(args.queue_id) {
                    return Go::On;
                }
                let mut put = |field: &str, value: String| {
                    rows.push(vec![
                        file.name.shard.0.to_string(),
                        file.name.segment.0.to_string(),
                        found.placement.offset.0.to_string(),
                        field.to_owned(),
                        value,
                    ]);
                };
                match &found.record {
                    Record::Message(message) => {
                        content.get_or_insert_with(|| message.content.to_vec());
                        put_message(message, &mut put);
                    }
                    Record::Moved(moved) => {
                        content.get_or_insert_with(|| moved.message.content.to_vec());
                        put("moved from", format!("segment {}", moved.from.0));
                        put_message(&moved.message, &mut put);
                        for state in moved.states.iter() {
                            put_state(&state, &mut put);
                        }
                    }
                    Record::Outcome(outcome) => put_state(&outcome.state, &mut put),
                    other => put(other.kind().as_str(), String::new()),
                }
                Go::On
            },
            |_| {},
        );
        if let Err(error) = scanned {
            tell!("hikyaku: {}: {error}", file.name);
        }
    }
    let missing = || {
        let id = args.queue_id;
        Failure(format!(
            "{id} is not in the queue; what became of it: hikyaku log --queue-id {id}"
        ))
    };
    if args.content {
        let content = content.ok_or_else(missing)?;
        return Ok(io::stdout().lock().write_all(&content)?);
    }
    if rows.is_empty() {
        return Err(missing());
    }
    Ok(rows.print(format)?)
}

fn put_message(message: &Message<'_>, put: &mut impl FnMut(&str, String)) {
    put("accepted", time(message.accepted_ms));
    put(
        "reverse_path",
        format!("<{}>", message.reverse_path.unwrap_or_default()),
    );
    for recipient in message.recipients.iter() {
        put(
            &format!("recipient {}", recipient.index),
            format!("<{}> at {}", recipient.address, recipient.domain),
        );
    }
    for (field, value) in [
        ("envid", message.options.envid().map(str::to_owned)),
        ("ret", message.options.ret().map(|ret| format!("{ret:?}"))),
    ] {
        if let Some(value) = value {
            put(field, value);
        }
    }
    if let Some(peer) = message.peer {
        put("client", peer.to_string());
    }
    for (field, value) in [
        ("message_id", message.message_id.unwrap_or_default()),
        ("group", message.group.unwrap_or_default()),
        ("tags", message.tags),
    ] {
        if !value.is_empty() {
            put(field, value.to_owned());
        }
    }
    let body = match message.body {
        BodyType::SevenBit => "7BIT",
        BodyType::EightBitMime => "8BITMIME",
    };
    let utf8 = if message.smtputf8 { ", SMTPUTF8" } else { "" };
    let pending = if message.pending {
        ", pending until committed"
    } else {
        ""
    };
    put(
        "content",
        format!("{} bytes, {body}{utf8}{pending}", message.content_bytes),
    );
}

fn put_state(state: &OutcomeState, put: &mut impl FnMut(&str, String)) {
    put(
        &format!("outcome of {}", range(&state.recipients())),
        state_words(state),
    );
}
