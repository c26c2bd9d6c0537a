//! Text that an operator wrote, read with a bound.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Longest such file, bytes.
pub const TEXT_BYTES_MAX: u64 = 16 << 20;

/// Reads a regular file of at most [`TEXT_BYTES_MAX`].
///
/// # Errors
/// Why it cannot be read, for the operator.
pub fn read_text(file: &Path) -> Result<String, String> {
    // A FIFO would wait for whoever writes to it, a device may never end.
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(nonblocking)
        .open(file)
        .map_err(|error| error.to_string())?;
    let meta = opened.metadata().map_err(|error| error.to_string())?;
    if !meta.is_file() {
        return Err("it is no regular file".to_owned());
    }
    let mut text = String::new();
    let read = opened.take(TEXT_BYTES_MAX + 1).read_to_string(&mut text);
    read.map_err(|error| error.to_string())?;
    if text.len() as u64 > TEXT_BYTES_MAX {
        return Err(format!("it is longer than {} MiB", TEXT_BYTES_MAX >> 20));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_ends_or_is_no_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("policy.toml");
        std::fs::write(&file, "x = 1\n").unwrap();
        assert_eq!(read_text(&file).unwrap(), "x = 1\n");
        assert!(
            read_text(Path::new("/dev/zero"))
                .unwrap_err()
                .contains("no regular file")
        );
        assert!(
            read_text(dir.path())
                .unwrap_err()
                .contains("no regular file")
        );
        std::fs::write(&file, vec![b'#'; (TEXT_BYTES_MAX + 1) as usize]).unwrap();
        assert!(read_text(&file).unwrap_err().contains("longer than 16 MiB"));
    }
}
