//! A request taken apart: path, parameters, form of the answer, body.

use std::io::Read;

use tiny_http::Request;

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
        // No path there is has anything to decode.
        let mut target = Self {
            path: path.to_owned(),
            parameters: form_urlencoded::parse(query.as_bytes())
                .into_owned()
                .collect(),
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

    /// Names of the parameters that are there.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.parameters.iter().map(|(name, _)| name.as_str())
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

/// Takes the fields `names` out of a body in the form of a query, `old=…&new=…`, each at most
/// `bytes_max` bytes, without a copy outside locked memory.
pub(super) fn secrets<const N: usize>(
    request: &mut Request,
    names: [&str; N],
    bytes_max: usize,
) -> Result<[datadir::LockedBytes; N], Refusal> {
    let form = secret_body(request, super::head::BODY_BYTES_MAX)?;
    let mut found = Vec::with_capacity(N);
    for name in names {
        let value = form
            .split(|byte| *byte == b'&')
            .find_map(|field| field.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
            .filter(|value| !value.is_empty());
        let Some(value) = value else {
            let why = format!("the body must be {}=…", names.join("=…&"));
            return Err(Refusal::new(400, why));
        };
        let mut secret = datadir::LockedBytes::zeroed(value.len())
            .map_err(|error| Refusal::new(503, error.to_string()))?;
        let mut len = 0;
        for (index, part) in value.split(|byte| *byte == b'+').enumerate() {
            let space = (index > 0).then_some(b' ');
            for byte in space
                .into_iter()
                .chain(percent_encoding::percent_decode(part))
            {
                secret[len] = byte;
                len += 1;
            }
        }
        secret.truncate(len);
        datadir::source::trim_newline(&mut secret);
        if secret.is_empty() || secret.len() > bytes_max {
            let why = format!("`{name}` must have 1 to {bytes_max} bytes");
            return Err(Refusal::new(413, why));
        }
        found.push(secret);
    }
    found
        .try_into()
        .map_err(|_| Refusal::new(500, "the fields of the form were miscounted"))
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
        assert_eq!(target.names().count(), 0);
        let left = Target::parse("/x?domian=a+b").unwrap();
        assert_eq!(left.names().collect::<Vec<_>>(), ["domian"]);
        assert_eq!(Target::parse("/?format=xml").unwrap_err().status, 400);
        assert!(
            Target::parse("/?limit=0")
                .unwrap()
                .take_limit(1, 9)
                .is_err()
        );
        assert_eq!(Target::parse(&"/".repeat(9_000)).unwrap_err().status, 414);
    }
}
