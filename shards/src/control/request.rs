//! A request taken apart: path, parameters, form of the answer, body.

use std::io::Read;

use tiny_http::{Method, Request};

use super::Refusal;

/// Longest target, bytes.
const TARGET_BYTES_MAX: usize = 8 * 1024;

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Tab-separated values with a header line.
    Tsv,
    /// JSON.
    Json,
}

/// A request's path and parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) path: String,
    parameters: Vec<(String, String)>,
    pub(super) format: Format,
}

impl Target {
    /// Takes a request target such as `/api/v1/counters?by=domain` apart.
    pub(super) fn parse(target: &str) -> Result<Self, Refusal> {
        if target.len() > TARGET_BYTES_MAX {
            return Err(Refusal::new(
                414,
                format!("the URL is longer than {TARGET_BYTES_MAX} bytes"),
            ));
        }
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut parameters = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            parameters.push((percent_decode(name)?, percent_decode(value)?));
        }
        let mut target = Self {
            path: percent_decode(path)?,
            parameters,
            format: Format::Tsv,
        };
        target.format = match target.take("format").as_deref() {
            None | Some("tsv") => Format::Tsv,
            Some("json") => Format::Json,
            Some(other) => {
                return Err(Refusal::new(
                    400,
                    format!("format `{other}` must be tsv or json"),
                ));
            }
        };
        Ok(target)
    }

    /// Takes a parameter out; the last one if it is there more than once.
    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        let at = self
            .parameters
            .iter()
            .rposition(|(found, _)| found == name)?;
        let value = self.parameters.swap_remove(at).1;
        self.parameters.retain(|(found, _)| found != name);
        Some(value)
    }

    /// Takes all that are left out, in no order.
    pub(super) fn take_rest(&mut self) -> Vec<(String, String)> {
        std::mem::take(&mut self.parameters)
    }

    /// Takes a number of rows out.
    pub(super) fn take_limit(&mut self, default: usize, max: usize) -> Result<usize, Refusal> {
        match self.take("limit") {
            None => Ok(default),
            Some(text) => text
                .parse()
                .ok()
                .filter(|n| (1..=max).contains(n))
                .ok_or_else(|| {
                    Refusal::new(
                        400,
                        format!("limit `{text}` must be a number from 1 to {max}"),
                    )
                }),
        }
    }

    /// Refuses parameters that nothing has taken: a mistyped filter must not answer for everything.
    pub(super) fn finish(&self, known: &[&str]) -> Result<(), Refusal> {
        match self.parameters.first() {
            None => Ok(()),
            Some((name, _)) => Err(Refusal::new(
                400,
                format!(
                    "unknown parameter `{name}`; {} takes: {}",
                    self.path,
                    known.join(", ")
                ),
            )),
        }
    }
}

fn percent_decode(text: &str) -> Result<String, Refusal> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let mut digit = || rest.next().and_then(|b| (b as char).to_digit(16));
                match (digit(), digit()) {
                    (Some(high), Some(low)) => bytes.push((high * 16 + low) as u8),
                    _ => {
                        return Err(Refusal::new(
                            400,
                            "the URL has a `%` without two hex digits",
                        ));
                    }
                }
            }
            byte => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).map_err(|_| Refusal::new(400, "the URL is not UTF-8"))
}

/// Checks that a request may change something: POST, or GET with an Authorization header, and not
/// on behalf of another site.
pub(super) fn may_change(request: &Request) -> Result<(), Refusal> {
    let header = |name: &'static str| {
        request
            .headers()
            .iter()
            .find(|header| header.field.equiv(name))
            .map(|header| header.value.as_str().to_owned())
    };
    // A browser that reaches this through a forwarded port also opens other pages, which may post
    // here.
    if let Some(origin) = header("Origin") {
        let host = origin.split_once("://").map_or("", |(_, host)| host);
        if Some(host) != header("Host").as_deref() {
            return Err(Refusal::new(
                403,
                "a page of another origin may not change anything",
            ));
        }
    }
    match request.method() {
        Method::Post => Ok(()),
        Method::Get if header("Authorization").is_some() => Ok(()),
        _ => Err(Refusal::new(405, "this changes something: use POST")),
    }
}

/// Reads a body of at most `bytes_max` bytes into locked memory.
pub(super) fn secret_body(
    request: &mut Request,
    bytes_max: usize,
) -> Result<datadir::LockedBytes, Refusal> {
    let body: &mut dyn Read = request.as_reader();
    let mut bytes =
        datadir::private::read_stream(body, std::path::Path::new("request body"), bytes_max)
            .map_err(|error| Refusal::new(413, error.to_string()))?;
    datadir::source::trim_newline(&mut bytes);
    if bytes.is_empty() {
        return Err(Refusal::new(400, "the body must be the passphrase"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_taken_apart() {
        let mut target =
            Target::parse("/api/v1/log?domain=ex%41mple.jp&limit=5&format=json").unwrap();
        assert_eq!(
            (target.path.as_str(), target.format),
            ("/api/v1/log", Format::Json)
        );
        assert_eq!(target.take_limit(10, 100), Ok(5));
        assert_eq!(target.take("domain").as_deref(), Some("exAmple.jp"));
        assert_eq!(target.finish(&[]), Ok(()));
        let left = Target::parse("/x?domian=a+b").unwrap();
        assert!(
            left.finish(&["domain"])
                .unwrap_err()
                .message
                .contains("`domian`; /x takes: domain")
        );
        for bad in ["/%", "/%4", "/%zz", "/%ff", "/?format=xml"] {
            assert_eq!(Target::parse(bad).unwrap_err().status, 400, "{bad}");
        }
        assert!(
            Target::parse("/?limit=0")
                .unwrap()
                .take_limit(1, 9)
                .is_err()
        );
        assert_eq!(Target::parse(&"/".repeat(9_000)).unwrap_err().status, 414);
    }
}
