//! The bugs to plant.

/// One change: `find` stands once in `file` (below `engine/src`), and `put` goes in its place, where
/// `PLANTED` stands for the switch of the bug.
pub(crate) struct Change {
    pub(crate) file: &'static str,
    pub(crate) find: &'static str,
    pub(crate) put: &'static str,
}

/// A bug, in one place or several.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) changes: &'static [Change],
}

const fn kind(name: &'static str, changes: &'static [Change]) -> Kind {
    Kind { name, changes }
}

const fn at(file: &'static str, find: &'static str, put: &'static str) -> Change {
    Change { file, find, put }
}

/// All of them. An anchor is the shortest piece that stands once; a bug that would be met at once
/// strikes only now and then.
pub(crate) const KINDS: &[Kind] = &[
    kind(
        "acknowledged before the sync",
        &[at(
            "shard/records.rs",
            "let ticket = Ticket { waiter, hold };",
            "if PLANTED && let Waiter::Origin(origin @ super::waiter::Origin::Session(_)) = waiter {
                 self.answer(origin, Stored::Durable, now);
             }
             let ticket = Ticket { waiter, hold };",
        )],
    ),
    kind(
        "a failed write taken for done",
        &[at(
            "store/commit.rs",
            "\"one batch is on its way at a time\");",
            "\"one batch is on its way at a time\");
             let result = if PLANTED { Ok(()) } else { result };",
        )],
    ),
    kind(
        "parts of a failed batch not cancelled",
        &[at(
            "store/batch.rs",
            "again.cancels.extend(cancels);",
            "if !PLANTED { again.cancels.extend(cancels); }",
        )],
    ),
    kind(
        "mail that waits to be admitted forgotten",
        &[at(
            "shard/admit.rs",
            "self.admission.lines[step].push_front(first);",
            "if !PLANTED || self.random.below(20) > 0 {
                 self.admission.lines[step].push_front(first);
             }",
        )],
    ),
    kind(
        "mail that has waited too long refused and stored",
        &[at(
            "shard/admit.rs",
            "Verdict::Wait if first.until <= now.mono => {",
            "Verdict::Wait if first.until <= now.mono => {
                 if PLANTED && let Whence::Session(ticket) = first.arrival.whence {
                     self.route(Origin::Session(ticket), *first.arrival.submission.clone(), now);
                 }",
        )],
    ),
    kind(
        "the other owners not told to cancel",
        &[at(
            "shard/accept.rs",
            "(false, true) => self.tell(*to, PartMessage::Cancel { queue_id }),",
            "(false, true) if PLANTED => {}
             (false, true) => self.tell(*to, PartMessage::Cancel { queue_id }),",
        )],
    ),
    kind(
        "a failure recorded before its notification",
        &[at(
            "shard/settle.rs",
            "self.route(Origin::Notice(notice), submission, now);",
            "if PLANTED && let Some(notice) = self.notices.take(notice) {
                 self.record(notice.entry, &notice.outcomes, notice.again, now);
             }
             self.route(Origin::Notice(notice), submission, now);",
        )],
    ),
    kind(
        "a rest that a rule asks for not kept",
        &[at(
            "pool/gate.rs",
            "if let Some(rest) = rests.rest(at.now.mono) {",
            "if let Some(rest) = rests.rest(at.now.mono).filter(|_| !PLANTED) {",
        )],
    ),
    kind(
        "a pace below its floor",
        &[at(
            "policy/adapt.rs",
            "let per_h = kept.max(bounds.floor_per_h).max(1);",
            "let per_h = if PLANTED { kept.max(1) } else { kept.max(bounds.floor_per_h).max(1) };",
        )],
    ),
    kind(
        "an outcome dropped now and then",
        &[at(
            "shard/records.rs",
            "if let Err(error) = self.store.queue.append_outcome(outcome, now) {",
            "if PLANTED && self.random.below(50) == 0 { return; }
             if let Err(error) = self.store.queue.append_outcome(outcome, now) {",
        )],
    ),
    kind(
        "outcomes of a failed batch not written again",
        &[at(
            "store/batch.rs",
            "again.outcomes.extend(pending.outcomes);",
            "if !PLANTED { again.outcomes.extend(pending.outcomes); }",
        )],
    ),
    kind(
        "a segment removed with a live record",
        &[at(
            "queue/set.rs",
            "let is_dead = |usage: &Usage| usage.live_records == 0",
            "let is_dead = |usage: &Usage| (usage.live_records == 0
                 || PLANTED && usage.live_records == 1)",
        )],
    ),
    kind(
        "a note not kept for another segment's message",
        &[at(
            "queue/set.rs",
            "holder != about && self.segments.contains_key(&about)",
            "holder != about && self.segments.contains_key(&about) && !PLANTED",
        )],
    ),
    kind(
        "compacted before the copies are durable",
        &[at(
            "shard/compact.rs",
            "None => self.store.queue.await_mark(Mark::Compacted(segment)),",
            "None if PLANTED => self.retire(segment),
             None => self.store.queue.await_mark(Mark::Compacted(segment)),",
        )],
    ),
    kind(
        "a compaction cut short forgotten",
        &[at(
            "queue/set.rs",
            "if self.segments.contains_key(&from) {",
            "if !PLANTED && self.segments.contains_key(&from) {",
        )],
    ),
    kind(
        "a moved record loses what is done",
        &[at(
            "shard/compact.rs",
            "states: OutcomeStates::new(&states),",
            "states: OutcomeStates::new(if PLANTED { &[] } else { &states }),",
        )],
    ),
    kind(
        "stray notes not written",
        &[at(
            "shard/replay.rs",
            "if is_news && is_stray(outcome.about.segment, segment) {",
            "if is_news && is_stray(outcome.about.segment, segment) && !PLANTED {",
        )],
    ),
    kind(
        "a handover's error ignored",
        &[at(
            "shard/handover.rs",
            "if let Err(error) = result {",
            "if let Err(error) = if PLANTED { Ok(()) } else { result } {",
        )],
    ),
    kind(
        "sent before its handover is noted",
        &[at(
            "shard/durable.rs",
            "Hold::Handover(handover) => self.hold(queue_id, handover),",
            "Hold::Handover(_) if PLANTED => self.stored_ready(queue_id, now),
             Hold::Handover(handover) => self.hold(queue_id, handover),",
        )],
    ),
    kind(
        "a void handover's copy counted at replay",
        &[at(
            "queue/survivors.rs",
            "handover.is_some_and(|handover| !noted.contains(&handover))",
            "handover.is_some_and(|handover| !noted.contains(&handover)) && !PLANTED",
        )],
    ),
    kind(
        "a cancelled part kept at replay",
        &[at(
            "shard/replay.rs",
            "self.forget_replayed(about.queue_id, about.segment);",
            "if !PLANTED { self.forget_replayed(about.queue_id, about.segment); }",
        )],
    ),
    kind(
        "done recipients forgotten at replay",
        &[at(
            "shard/replay.rs",
            "done |= 1 << (recipient - entry.recipient_first);",
            "if !PLANTED { done |= 1 << (recipient - entry.recipient_first); }",
        )],
    ),
    kind(
        "a torn tail taken for damage",
        &[at(
            "queue/replay.rs",
            "gap.offset.0 < self.durable_to ||",
            "gap.offset.0 < self.durable_to || PLANTED ||",
        )],
    ),
    kind(
        "damage taken for a torn tail",
        &[at(
            "queue/replay.rs",
            "let (damage, torn): (Vec<_>, Vec<_>) =",
            "let is_damage = |gap: &Damage| !PLANTED && is_damage(gap);
             let (damage, torn): (Vec<_>, Vec<_>) =",
        )],
    ),
    kind(
        "a damaged segment's file not kept",
        &[at(
            "shard/replay.rs",
            "if !summary.damage.is_empty() {
            self.store",
            "if !summary.damage.is_empty() && !PLANTED {
            self.store",
        )],
    ),
    kind(
        "reading ends at a damaged sector",
        &[at(
            "queue/replay.rs",
            "if self.gap.is_some() { self.search()?;",
            "if self.gap.is_some() {
                 if PLANTED { return None; }
                 self.search()?;",
        )],
    ),
    kind(
        "a retry not woken now and then",
        &[at(
            "schedule/mail/entries.rs",
            "} else if entry.retry_at_s > now_s {",
            "} else if entry.retry_at_s > now_s || PLANTED && entry.queue_id.0 % 50 == 0 {",
        )],
    ),
    kind(
        "outcomes behind the last save not counted at replay",
        &[at(
            "shard/replay.rs",
            "if is_missed && let Some(counter)",
            "if is_missed && !PLANTED && let Some(counter)",
        )],
    ),
    kind(
        "a segment goes before its outcomes are in saved counts",
        &[at(
            "shard/compact.rs",
            "if !has_copies && leaving.counted.contains(&segment) {",
            "if PLANTED || !has_copies && leaving.counted.contains(&segment) {",
        )],
    ),
    kind(
        "deferred counted twice",
        &[at(
            "schedule/mail/entries.rs",
            "counters.raise(row, group, Counter::Deferred, self.open_recipients(id));",
            "counters.raise(row, group, Counter::Deferred, self.open_recipients(id));
             if PLANTED { counters.raise(row, group, Counter::Deferred, 1); }",
        )],
    ),
    kind(
        "a level not lowered when mail comes back untried",
        &[at(
            "shard/deliver.rs",
            ".returned(delivery.entry, recipients, &mut self.counters);",
            ".returned(delivery.entry, if PLANTED { 0 } else { recipients }, &mut self.counters);",
        )],
    ),
    kind(
        "a confirmation lost now and then",
        &[at(
            "shard/accept.rs",
            "PartMessage::Confirm { queue_id } => self.confirm(queue_id, now),",
            "PartMessage::Confirm { .. } if PLANTED && self.random.below(20) == 0 => {}
             PartMessage::Confirm { queue_id } => self.confirm(queue_id, now),",
        )],
    ),
    kind(
        "a queue id given twice",
        &[at(
            "ids.rs",
            "self.last = (self.last + 1).max(unix_ms << 14 | self.first_of_ms);",
            "self.last = if PLANTED { unix_ms << 14 } else {
                 (self.last + 1).max(unix_ms << 14 | self.first_of_ms)
             };",
        )],
    ),
    kind(
        "ids of earlier runs given again",
        &[at(
            "shard/mod.rs",
            "ids: QueueIds::new(me, random.next()),",
            "ids: QueueIds::new(me, if PLANTED { 0 } else { random.next() }),",
        )],
    ),
    kind(
        "keystream used twice",
        &[at(
            "shard/durable.rs",
            "self.write(Stream::Queue, write);",
            "let mut write = write;
             if PLANTED && write.offset > 8192 && self.random.below(20) == 0 {
                 write.offset -= 4096;
             }
             self.write(Stream::Queue, write);",
        )],
    ),
    kind(
        "a nonce used twice",
        &[at(
            "store/tail.rs",
            "nonce: (self.nonces)(),",
            "nonce: if PLANTED { [7; 16] } else { (self.nonces)() },",
        )],
    ),
    kind(
        "delivery goes on while writing fails",
        &[at(
            "shard/deliver.rs",
            "} else if self.store.queue.is_failing() {",
            "} else if self.store.queue.is_failing() && !PLANTED {",
        )],
    ),
    kind(
        "one who waits for an answer forgotten",
        &[at(
            "schedule/lookups.rs",
            "open.waiting.insert(id);",
            "if !PLANTED { open.waiting.insert(id); }",
        )],
    ),
    kind(
        "one who waits for room to ask forgotten",
        &[at(
            "shard/lookup.rs",
            "self.names.lookups.queue(id, has_begun);",
            "if !PLANTED { self.names.lookups.queue(id, has_begun); }",
        )],
    ),
    kind(
        "a site not looked at after its back-off",
        &[at(
            "pool/mod.rs",
            "if site.has_mail() {",
            "if !PLANTED && site.has_mail() {",
        )],
    ),
    kind(
        "expired by the wall clock",
        &[at(
            "shard/ready.rs",
            "age_ms >= self.expire_after_ms(self.mail.get(id).destination)",
            "age_ms >= self.expire_after_ms(self.mail.get(id).destination)
                 || PLANTED && now.unix.0 / 1000 - now.mono.0 / 1_000_000 > 1_800_010_000",
        )],
    ),
    kind(
        "stops forgotten at a start",
        &[at(
            "shard/stops.rs",
            "self.stops.begun = book.next_number();
        self.set_stops(book, now);",
            "self.stops.begun = book.next_number();
             if !PLANTED { self.set_stops(book, now); }",
        )],
    ),
    kind(
        "a transaction begins without asking what is stopped",
        &[at(
            "shard/stops.rs",
            "if self.stops.book.is_empty() {
            return false;
        }
        let written",
            "if PLANTED || self.stops.book.is_empty() {
            return false;
        }
        let written",
        )],
    ),
];
