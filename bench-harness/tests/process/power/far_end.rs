//! An MX host that notes what it has taken, and how far the disk was then.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// A message, by its number, and one of its recipients.
pub(crate) type Delivery = (u64, String);

/// The field that numbers a message.
const FIELD: &str = "X-Number: ";

/// The number of a message; none for a notification, whose content holds another's.
pub(crate) fn number(reverse_path: Option<&str>, content: &[u8]) -> Option<u64> {
    reverse_path.filter(|path| !path.is_empty())?;
    let head = String::from_utf8_lossy(&content[..content.len().min(4096)]);
    let line = head.lines().find_map(|line| line.strip_prefix(FIELD))?;
    line.trim().parse().ok()
}

/// A message of that number and about as many octets.
pub(crate) fn message(number: u64, bytes: usize) -> String {
    let mut text = format!("{FIELD}{number}\r\nSubject: {number}\r\n\r\n");
    while text.len() < bytes {
        text.push_str("Mail that must survive, one line of it.\r\n");
    }
    text
}

/// The address of a message's recipient, whose number among them is `n`; `plan` is what the far end does.
pub(crate) fn address(number: u64, n: u64, plan: &str, domain: u64) -> String {
    format!("m{number}r{n}-{plan}@d{domain}.example")
}

fn number_in(address: &str) -> Option<u64> {
    address.strip_prefix('m')?.split('r').next()?.parse().ok()
}

#[derive(Default)]
struct Notes(Mutex<BTreeMap<Delivery, usize>>);

impl Notes {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Delivery, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whose recipients are called `…-later` has them put off, `…-no` refused; `takes_all` takes them, too.
pub(crate) struct FarEnd {
    pub(crate) address: SocketAddr,
    notes: Arc<Notes>,
    is_over: Arc<AtomicBool>,
    listener: Option<JoinHandle<()>>,
}

impl FarEnd {
    /// Listens on loopback; `position` says how far the disk is.
    pub(crate) fn start(
        takes_all: bool,
        position: impl Fn() -> usize + Clone + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (notes, is_over) = (Arc::<Notes>::default(), Arc::<AtomicBool>::default());
        let (kept, over) = (Arc::clone(&notes), Arc::clone(&is_over));
        let listener = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if over.load(Relaxed) {
                    return;
                }
                let (notes, position) = (Arc::clone(&kept), position.clone());
                std::thread::spawn(move || {
                    let _ = Session::new(stream, takes_all).serve(&notes, position);
                });
            }
        });
        Self {
            address,
            notes,
            is_over,
            listener: Some(listener),
        }
    }

    /// Recipients that were taken or refused for good, and how far the disk was at the first time.
    pub(crate) fn settled(&self) -> BTreeMap<Delivery, usize> {
        self.notes.lock().clone()
    }
}

impl Drop for FarEnd {
    fn drop(&mut self) {
        self.is_over.store(true, Relaxed);
        let _ = TcpStream::connect(self.address);
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

struct Session {
    stream: BufReader<TcpStream>,
    takes_all: bool,
    reverse_path: String,
    taken: Vec<String>,
}

impl Session {
    fn new(stream: TcpStream, takes_all: bool) -> Self {
        Self {
            stream: BufReader::new(stream),
            takes_all,
            reverse_path: String::new(),
            taken: Vec::new(),
        }
    }

    fn say(&mut self, text: &str) -> std::io::Result<()> {
        self.stream
            .get_mut()
            .write_all(format!("{text}\r\n").as_bytes())
    }

    fn line(&mut self) -> std::io::Result<Vec<u8>> {
        let mut line = Vec::new();
        match self.stream.read_until(b'\n', &mut line)? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line),
        }
    }

    fn serve(&mut self, notes: &Notes, position: impl Fn() -> usize) -> std::io::Result<()> {
        self.say("220 far.example")?;
        loop {
            let line = String::from_utf8_lossy(&self.line()?).into_owned();
            let path = || {
                let path = line
                    .split_once('<')
                    .and_then(|(_, rest)| rest.split_once('>'));
                path.map_or("", |(path, _)| path).to_owned()
            };
            match line.get(..4).unwrap_or_default() {
                "EHLO" => self.say("250-far.example\r\n250 PIPELINING")?,
                "MAIL" => {
                    self.reverse_path = path();
                    self.taken.clear();
                    self.say("250 2.1.0 ok")?;
                }
                "RCPT" => self.recipient(path(), notes, &position)?,
                "DATA" if self.taken.is_empty() => self.say("554 5.5.1 no recipients")?,
                "DATA" => self.content(notes, &position)?,
                "QUIT" => return self.say("221 2.0.0 bye"),
                _ => self.say("250 2.0.0 ok")?,
            }
        }
    }

    fn recipient(
        &mut self,
        path: String,
        notes: &Notes,
        position: impl Fn() -> usize,
    ) -> std::io::Result<()> {
        if !self.takes_all && path.contains("-later@") {
            return self.say("451 4.2.1 later");
        }
        if !self.takes_all && path.contains("-no@") {
            let at = position();
            if let Some(number) = number_in(&path) {
                notes.lock().entry((number, path)).or_insert(at);
            }
            return self.say("550 5.1.1 nobody");
        }
        self.taken.push(path);
        self.say("250 2.1.5 ok")
    }

    fn content(&mut self, notes: &Notes, position: impl Fn() -> usize) -> std::io::Result<()> {
        self.say("354 go on")?;
        let mut content = Vec::new();
        loop {
            let line = self.line()?;
            if line == b".\r\n" {
                break;
            }
            content.extend_from_slice(&line);
        }
        // Before the reply: nothing can have been recorded as delivered by then.
        let at = position();
        if let Some(number) = number(Some(&self.reverse_path), &content) {
            let mut notes = notes.lock();
            for path in self.taken.drain(..) {
                notes.entry((number, path)).or_insert(at);
            }
        }
        self.say("250 2.0.0 taken")
    }
}
