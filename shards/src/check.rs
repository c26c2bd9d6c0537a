//! `hikyakud --check`, beyond the configuration file: would a start succeed on this host?

use std::os::unix::fs::MetadataExt;

use datadir::Installation;
use engine::config::{Config, KeySource};

use crate::shard_main::probe;

/// What stands in the way of a start, a line each. Nothing is changed.
pub(crate) fn obstacles(config: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    let installation = Installation::new(&config.server.data_dir, &config.key.secret);
    if let Err(error) = installation.check() {
        lines.push(error.to_string());
    }
    if let KeySource::File(path) = &config.key.source {
        match std::fs::metadata(path) {
            Err(error) => lines.push(format!(
                "[key] path: {}: {error}; hikyaku init --generate-key makes it",
                path.display()
            )),
            Ok(found) if found.mode() & 0o077 != 0 => lines.push(format!(
                "[key] path: others can read {0}; run: chmod 0400 {0}",
                path.display()
            )),
            Ok(_) => {}
        }
    }
    // A daemon that runs on this data directory is what listens there.
    if installation.in_use_by().is_none() {
        let probed = config.listen.iter().map(|listen| probe(listen.address));
        lines.extend(probed.filter_map(Result::err));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_stop_a_start_is_told() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = taken.local_addr().expect("it is bound");
        let text = format!(
            "[server]\nhostname = \"a.example\"\ndata_dir = \"/nonexistent/data\"\n\
             [[listen]]\naddress = \"{address}\"\n[[listen]]\naddress = \"192.0.2.1:2525\"\n\
             [key]\nsource = \"file\"\npath = \"/nonexistent/key\"\n"
        );
        let config = Config::parse("/nonexistent/h.toml", &text).expect("it is valid");
        let lines = obstacles(&config);
        for part in [
            "hikyaku init",
            "/nonexistent/key",
            &address.to_string(),
            "192.0.2.1:2525",
        ] {
            assert!(
                lines.iter().any(|line| line.contains(part)),
                "{part}: {lines:#?}"
            );
        }
    }
}
