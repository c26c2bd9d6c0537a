//! Memory of content on its way out.

use super::relay::Relay;
use crate::message::downgrade;

const MIB: usize = 1 << 20;

/// Of 8 MiB, a quarter is for large content on its way out; so many sites get a message of half a MiB.
fn with_large_mail(kept_bytes_max: usize, body: char) -> Relay {
    let mut relay = Relay::with(|settings| {
        settings.content_bytes_max = 8 * MIB;
        settings.memory_bytes_max = kept_bytes_max;
    });
    relay.peers_take_eight_bit = false;
    relay.peers_hold();
    for n in 0..8 {
        let mut content = String::from("Content-Type: text/plain; charset=utf-8\r\n\r\n");
        while content.len() < MIB / 2 {
            content.push(body);
            content.push_str("0123456789\r\n");
        }
        relay.accept_with(&format!("d{n}.example"), content.as_bytes());
    }
    relay
}

/// What dialogs hold of messages that are out: the content, unless it is kept anyway, and its conversion.
fn out_bytes(relay: &Relay, is_kept: bool) -> usize {
    let held = relay.held.iter();
    held.map(|(_, transaction)| {
        let read = if is_kept {
            0
        } else {
            transaction.content.len()
        };
        let converted = match transaction.content.is_ascii() {
            true => 0,
            false => downgrade(&transaction.content).unwrap().capacity(),
        };
        read + converted
    })
    .sum()
}

#[test]
fn eight_bit_mail_to_servers_without_8bitmime_stays_within_memory() {
    for kept_bytes_max in [0, 8 * MIB] {
        let mut relay = with_large_mail(kept_bytes_max, 'é');
        let mut rounds = 0;
        while relay.delivered < 8 {
            assert!(
                !relay.held.is_empty(),
                "after {} are delivered",
                relay.delivered
            );
            let bytes = out_bytes(&relay, kept_bytes_max > 0);
            assert!(
                bytes <= 2 * MIB,
                "{bytes} bytes in {} dialogs",
                relay.held.len()
            );
            relay.peers_end_sessions();
            relay.after_s(1);
            rounds += 1;
        }
        assert!(rounds > 1);
        assert_eq!(relay.core.status().memory_bytes, 0);
    }
}

#[test]
fn mail_that_needs_no_conversion_takes_no_room_for_one() {
    let mut relay = with_large_mail(0, 'e');
    relay.after_ms(100);
    let bytes = out_bytes(&relay, false);
    assert_eq!(relay.core.status().memory_bytes as usize / MIB, bytes / MIB);
    assert!(relay.held.len() >= 2, "{} at a time", relay.held.len());
}
