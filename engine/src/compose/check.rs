//! Tries a template out before anyone depends on it.

use std::collections::BTreeSet;
use std::sync::Arc;

use minijinja::value::Value;

use super::data::{Columns, Data};
use super::fault::{ComposeError, Fault};
use super::mailbox::Mailbox;
use super::manifest::MANIFEST;
use super::message::{Job, Scratch};
use super::profile::Carrier;
use super::template::{Choice, Files, Template};
use crate::clock::UnixMs;

/// Every fault of the template in `files`: those of [`Template::load`] and, if there are none, those
/// that composing a sample message for each carrier concerned shows.
///
/// `also`: carriers to try in their legacy form though the template does not send it.
pub fn check(files: &Files, also: &[Carrier]) -> Vec<Fault> {
    match Template::load(files) {
        Ok(template) => try_out(&template, files, also),
        Err(faults) => faults,
    }
}

fn try_out(template: &Template, files: &Files, also: &[Carrier]) -> Vec<Fault> {
    // A field without a sample or default gets its own name: sizes can be judged, failures cannot.
    let mut complete = true;
    let values: Vec<Value> = template
        .fields()
        .iter()
        .map(|field| {
            let given = template
                .sample
                .get(field)
                .or_else(|| template.defaults.get(field));
            given.cloned().unwrap_or_else(|| {
                complete = false;
                Value::from(field.as_str())
            })
        })
        .collect();
    let columns = Columns::new(template.fields().iter().cloned());
    let data = Arc::new(Data::from_values(columns, values));
    let mut faults = BTreeSet::new();
    let mut attempts = vec![(None, Choice::Utf8), (None, Choice::Auto)];
    for carrier in Carrier::ALL {
        attempts.push((Some(carrier), Choice::Auto));
    }
    attempts.extend(
        also.iter()
            .map(|&carrier| (Some(carrier), Choice::Legacy(carrier))),
    );
    for (carrier, choice) in attempts {
        let domain = carrier.map_or("example.jp", Carrier::domain);
        let Ok(recipient) = Mailbox::parse(&format!("recipient@{domain}")) else {
            continue;
        };
        let now = UnixMs(1_700_000_000_000);
        let job = Job {
            data: &data,
            recipient: &recipient,
            now,
            id: "check",
            choice,
        };
        let Err(error) = template.compose(&job, &mut Scratch::default(), &mut Vec::new()) else {
            continue;
        };
        faults.extend(fault_of(&error, complete, files, carrier));
    }
    faults.into_iter().collect()
}

fn fault_of(
    error: &ComposeError,
    complete: bool,
    files: &Files,
    carrier: Option<Carrier>,
) -> Option<Fault> {
    let html = || {
        let own = carrier.map(|c| format!("html.{}", c.name()));
        let wanted = own.iter().map(String::as_str).chain(["html"]);
        let mut found = wanted.flat_map(|name| {
            files
                .keys()
                .find(|file| file.strip_suffix(".html").unwrap_or(file) == name)
        });
        found.next().map_or(MANIFEST, String::as_str)
    };
    match error {
        ComposeError::Unbounded(fault) => Some(fault.clone()),
        ComposeError::OverCarrierLimit { .. } => Some(Fault::of_file(html(), error.to_string())),
        ComposeError::TooLarge { .. } => Some(Fault::of_file(MANIFEST, error.to_string())),
        ComposeError::Refused { .. } => Some(Fault::of_file(html(), error.to_string())),
        _ if !complete => None,
        ComposeError::MissingField(fault)
        | ComposeError::Skipped(fault)
        | ComposeError::Render(fault) => Some(fault.clone()),
        ComposeError::HeaderInjection { .. }
        | ComposeError::BadHeader { .. }
        | ComposeError::BadAddress { .. }
        | ComposeError::Unencodable { .. } => Some(Fault::of_file(MANIFEST, error.to_string())),
    }
}
