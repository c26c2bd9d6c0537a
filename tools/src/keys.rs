//! `hikyaku init`, `unlock`, `rekey`.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;
use datadir::installation::KdfCost;
use datadir::{LockedBytes, private, source};
use engine::config::KeySource;
use engine::keys::PASSPHRASE_BYTES_MAX;

use crate::client::ClientError;
use crate::site::{Failure, Site, typed_passphrase};

/// Random bytes of a generated passphrase: 160 bits.
const GENERATED_BYTES: usize = 20;

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// Make a random passphrase and write it into the key file ([key] source "file"), which must
    /// not exist
    #[arg(long)]
    generate_key: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RekeyArgs {
    /// Read the new passphrase from this file, `-` for standard input, instead of asking for it
    #[arg(long, value_name = "FILE")]
    new_key: Option<PathBuf>,
    /// Read the passphrase so far from this file, instead of from the [key] source
    #[arg(long, value_name = "FILE")]
    old_key: Option<PathBuf>,
}

pub(crate) fn init(site: &Site, args: &InitArgs) -> Result<(), Failure> {
    if let Some(path) = site.installation.found() {
        return Err(datadir::KeysError::AlreadyThere(path).into());
    }
    let key = &site.config.key;
    let generated = match (&key.source, args.generate_key) {
        (KeySource::File(path), true) => Some((path.clone(), generate()?)),
        (_, true) => {
            return Err(Failure(
                "--generate-key needs [key] source = \"file\" with a path in the configuration"
                    .into(),
            ));
        }
        (_, false) => None,
    };
    let passphrase = match (&generated, &key.source) {
        (Some((path, generated)), _) => {
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            private::write_new(path, 0o400, generated)?;
            let mut copy = LockedBytes::zeroed(generated.len())?;
            copy.copy_from_slice(generated);
            source::trim_newline(&mut copy);
            copy
        }
        (None, KeySource::Prompt) => typed_passphrase("New passphrase: ", true)?,
        (None, _) => {
            let credentials = std::env::var_os(source::CREDENTIALS_DIRECTORY);
            source::passphrase(key, credentials)?
        }
    };
    let id = site.installation.init(&passphrase, KdfCost::Recommended)?;
    let mut out = io::stdout();
    let data_dir = site.installation.data_dir().display();
    let secret = site.installation.secret().display();
    writeln!(out, "data directory       {data_dir}")?;
    writeln!(out, "installation secret  {secret}")?;
    if let Some((path, _)) = &generated {
        writeln!(out, "passphrase           {}", path.display())?;
    }
    writeln!(out, "key                  {id}")?;
    writeln!(
        out,
        "Keep a copy of passphrase and installation secret elsewhere: without both, all \
         mail and logs are lost."
    )?;
    Ok(())
}

/// A random passphrase of letters and digits that are not mistaken for each other, and a newline.
fn generate() -> Result<LockedBytes, Failure> {
    const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let mut random = LockedBytes::zeroed(GENERATED_BYTES * 8 / 5)?;
    getrandom::fill(&mut random)
        .map_err(|error| Failure(format!("no random bytes from the system: {error}")))?;
    let mut text = LockedBytes::zeroed(random.len() + 1)?;
    for (out, byte) in text.iter_mut().zip(random.iter()) {
        *out = ALPHABET[usize::from(byte % 32)];
    }
    text[random.len()] = b'\n';
    Ok(text)
}

pub(crate) fn unlock(site: &Site) -> Result<(), Failure> {
    // Before asking: nobody should type a passphrase for nothing.
    site.client.get("/api/v1/status")?;
    let passphrase = typed_passphrase("Passphrase: ", false)?;
    site.client.post("/api/v1/unlock", &passphrase)?;
    writeln!(io::stdout(), "unlocked")?;
    Ok(())
}

pub(crate) fn rekey(site: &Site, args: &RekeyArgs) -> Result<(), Failure> {
    let running = match site.client.get("/api/v1/status") {
        Ok(_) => true,
        Err(ClientError::NotRunning(_)) => false,
        Err(error) => return Err(error.into()),
    };
    if running {
        let old = match &args.old_key {
            Some(path) => key_file(path)?,
            None => site.passphrase()?,
        };
        let new = new_passphrase(args)?;
        let form = form(&[("old", &old), ("new", &new)])?;
        let answer = site.client.post("/api/v1/rekey", &form)?;
        let line = answer.lines().nth(1).unwrap_or_default();
        writeln!(io::stdout(), "{line}")?;
    } else {
        let _lock = site.installation.lock()?;
        let ring = match &args.old_key {
            Some(path) => {
                let old = key_file(path)?;
                site.installation.unlock(&old)?
            }
            None => site.unlock()?,
        };
        let passphrase = new_passphrase(args)?;
        let ring = site
            .installation
            .rekey(&ring, &passphrase, KdfCost::Recommended)?;
        let id = ring.current_id();
        writeln!(io::stdout(), "new segments will be under key {id}")?;
    }
    match &site.config.key.source {
        KeySource::Prompt => {}
        KeySource::File(path) => writeln!(
            io::stdout(),
            "Put the new passphrase into {} before hikyakud is started again.",
            path.display()
        )?,
        _ => writeln!(
            io::stdout(),
            "Give the new passphrase to the [key] source before hikyakud is started again."
        )?,
    }
    Ok(())
}

fn key_file(path: &Path) -> Result<LockedBytes, Failure> {
    let mut bytes = private::read_secret(path, PASSPHRASE_BYTES_MAX)?;
    source::trim_newline(&mut bytes);
    Ok(bytes)
}

/// Secrets as a form, every octet percent-encoded, without a copy outside locked memory.
fn form(fields: &[(&str, &LockedBytes)]) -> Result<LockedBytes, Failure> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let len = |(name, value): &(&str, &LockedBytes)| name.len() + 2 + 3 * value.len();
    let mut text = LockedBytes::zeroed(fields.iter().map(len).sum())?;
    let mut at = 0;
    let mut put = |byte: u8| {
        text[at] = byte;
        at += 1;
    };
    for (index, (name, value)) in fields.iter().enumerate() {
        if index > 0 {
            put(b'&');
        }
        name.bytes().for_each(&mut put);
        put(b'=');
        for byte in value.iter() {
            put(b'%');
            put(HEX[usize::from(byte >> 4)]);
            put(HEX[usize::from(byte & 15)]);
        }
    }
    text.truncate(at);
    Ok(text)
}

fn new_passphrase(args: &RekeyArgs) -> Result<LockedBytes, Failure> {
    let Some(path) = &args.new_key else {
        return typed_passphrase("New passphrase: ", true);
    };
    let mut bytes = if path == Path::new("-") {
        private::read_stream(std::io::stdin().lock(), path, PASSPHRASE_BYTES_MAX)?
    } else {
        private::read_secret(path, PASSPHRASE_BYTES_MAX)?
    };
    source::trim_newline(&mut bytes);
    if bytes.is_empty() {
        return Err(Failure(
            "the new passphrase is empty; nothing was changed".into(),
        ));
    }
    Ok(bytes)
}
