//! A fleet of fake MX hosts, one thread for all of them, each on a loopback address of its own.
//!
//! [`Fleet::start`] plays the hosts of a [`World`]; [`session`] is one connection; [`tally`] counts
//! what arrived by id. The fleet keeps nothing of a message but its id.

mod session;
pub mod tally;

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket};

use self::tally::{HostCounts, Tally};
use crate::failure::{Context, Failure};
use crate::random::Random;
use crate::thread::{Stop, runtime, spawn};
use crate::world::{Answer, Host, Phase, World};

/// Connections waiting to be accepted, per host.
const BACKLOG: u32 = 1024;
/// Recipients remembered by greylisting; beyond it, newcomers pass at once.
const GREYLIST_MAX: usize = 1_000_000;

/// One host as its sessions see it.
struct Site {
    host: Host,
    counts: Arc<HostCounts>,
    tally: Arc<Tally>,
    started: Instant,
    dice: RefCell<Random>,
    /// How often each fault struck.
    struck: RefCell<Vec<u64>>,
    /// When each recipient first came.
    greylist: RefCell<HashMap<Vec<u8>, Instant>>,
}

impl Site {
    fn fault(&self, phase: Phase, path: &[u8]) -> Option<Answer> {
        let since_s = self.started.elapsed().as_secs_f64();
        let mut struck = self.struck.borrow_mut();
        for (fault, struck) in self.host.fault.iter().zip(struck.iter_mut()) {
            let in_time = since_s >= fault.from_s && fault.until_s.is_none_or(|end| since_s < end);
            let left = fault.first.is_none_or(|first| *struck < first);
            let hits_path = fault
                .path_contains
                .as_ref()
                .is_none_or(|part| memchr::memmem::find(path, part.as_bytes()).is_some());
            if fault.at == phase
                && in_time
                && left
                && hits_path
                && self.dice.borrow_mut().chance(fault.odds)
            {
                *struck += 1;
                return Some(fault.answer.clone());
            }
        }
        None
    }

    fn greylist_passes(&self, path: &[u8], wait_s: f64) -> bool {
        let mut known = self.greylist.borrow_mut();
        if let Some(first) = known.get(path) {
            return first.elapsed().as_secs_f64() >= wait_s;
        }
        if known.len() < GREYLIST_MAX {
            known.insert(path.to_vec(), Instant::now());
            return false;
        }
        true
    }
}

/// A running fleet. Dropping it leaves it running; call [`Fleet::stop`].
#[derive(Debug)]
pub struct Fleet {
    /// What arrived.
    pub tally: Arc<Tally>,
    /// Counts by host, in the order of the world's hosts.
    pub hosts: Vec<(String, SocketAddr, Arc<HostCounts>)>,
    stop: Stop,
    thread: JoinHandle<()>,
}

impl Fleet {
    /// Binds all hosts of `world` that listen, and plays them on a thread of their own. Port 0 lets
    /// the system choose; the addresses in [`Fleet::hosts`] tell.
    ///
    /// # Errors
    /// [`Failure::Io`] when an address cannot be bound.
    pub fn start(world: &World, tally: Arc<Tally>) -> Result<Self, Failure> {
        let mut hosts = Vec::new();
        let mut listeners = Vec::new();
        for (n, host) in world.host.iter().enumerate() {
            let counts = Arc::new(HostCounts::default());
            let mut address = SocketAddr::from((host.address, world.port));
            if host.listens {
                let listener = bind(host.address, world.port).context(|| {
                    let hint = if world.port < 1024 {
                        " (low ports need root)"
                    } else {
                        ""
                    };
                    format!("cannot listen on {address} for {}{hint}", host.name)
                })?;
                address = listener
                    .local_addr()
                    .context(|| "local address".to_owned())?;
                listeners.push((n, host.clone(), listener, Arc::clone(&counts)));
            }
            hosts.push((host.name.clone(), address, counts));
        }
        let stop = Stop::default();
        let (seed, theirs, ends) = (world.seed, Arc::clone(&tally), stop.clone());
        let thread = spawn("fleet", move || async move {
            for (n, host, listener, counts) in listeners {
                let faults = host.fault.len();
                let site = Rc::new(Site {
                    host,
                    counts,
                    tally: Arc::clone(&theirs),
                    started: Instant::now(),
                    dice: RefCell::new(Random::new(seed ^ (n as u64) << 32)),
                    struck: RefCell::new(vec![0; faults]),
                    greylist: RefCell::default(),
                });
                tokio::task::spawn_local(accept(listener, site));
            }
            ends.wait().await;
        })?;
        Ok(Self {
            tally,
            hosts,
            stop,
            thread,
        })
    }

    /// Closes all listeners and connections and waits for the thread.
    pub fn stop(self) {
        self.stop.stop();
        let _ = self.thread.join();
    }

    /// The fleet's tally and hosts as JSON.
    pub fn to_json(&self) -> serde_json::Value {
        let transit = self.tally.transit_us();
        let hosts: Vec<_> = self
            .hosts
            .iter()
            .map(|(name, address, counts)| {
                serde_json::json!({
                    "name": name, "address": address.to_string(),
                    "open": counts.open.load(Relaxed), "sessions": counts.sessions.load(Relaxed),
                    "messages": counts.messages.load(Relaxed),
                    "deferred": counts.deferred.load(Relaxed),
                    "refused": counts.refused.load(Relaxed),
                    "broken": counts.broken.load(Relaxed),
                })
            })
            .collect();
        serde_json::json!({
            "received": self.tally.received(),
            "totals": self.tally.totals(),
            "transit_us": {
                "p50": transit.value_at_quantile(0.5), "p90": transit.value_at_quantile(0.9),
                "p99": transit.value_at_quantile(0.99), "max": transit.max(),
            },
            "hosts": hosts,
        })
    }
}

fn bind(address: Ipv4Addr, port: u16) -> std::io::Result<std::net::TcpListener> {
    // A std listener, so that it can move to the fleet's thread and its runtime.
    let guard = runtime()?;
    let _entered = guard.enter();
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::from((address, port)))?;
    socket.listen(BACKLOG)?.into_std()
}

async fn accept(listener: std::net::TcpListener, site: Rc<Site>) {
    let Ok(listener) = TcpListener::from_std(listener) else {
        return;
    };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let _ = stream.set_nodelay(true);
                tokio::task::spawn_local(session::serve(stream, Rc::clone(&site)));
            }
            // Out of descriptors: wait for sessions to end.
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
        }
    }
}

/// Play a fleet of MX hosts (and their DNS) until interrupted.
#[derive(Debug, clap::Args)]
pub struct FleetArgs {
    /// World file: hosts and domains.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["address", "port"])]
    world: Option<PathBuf>,
    /// Without a world: one host on this loopback address.
    #[arg(long, default_value = "127.0.0.1")]
    address: Ipv4Addr,
    /// Without a world: its port.
    #[arg(long, default_value_t = 2600)]
    port: u16,
    /// Serve DNS for the world's domains here too.
    #[arg(long, value_name = "ADDRESS:PORT", requires = "world")]
    dns: Option<SocketAddr>,
    /// Count only messages of this run.
    #[arg(long, default_value_t = 1)]
    run: u32,
    /// Answer each connection here with the tally as JSON, then close.
    #[arg(long, value_name = "ADDRESS:PORT")]
    tally: Option<SocketAddr>,
}

/// Runs `hikyaku-bench fleet`.
///
/// # Errors
/// When the world is wrong or an address cannot be bound.
pub fn run(args: &FleetArgs) -> Result<(), Failure> {
    let world = match &args.world {
        Some(path) => World::load(path)?,
        None => World::single(args.address, args.port),
    };
    let fleet = Fleet::start(&world, Arc::new(Tally::new(args.run)))?;
    let dns = args
        .dns
        .map(|at| crate::dns::Dns::start(&world, at))
        .transpose()?;
    eprintln!(
        "fleet of {} hosts on port {}; ctrl-c ends it",
        world.host.len(),
        world.port
    );
    let runtime = runtime().context(|| "cannot start a runtime".to_owned())?;
    runtime.block_on(async {
        let Some(at) = args.tally else {
            let _ = tokio::signal::ctrl_c().await;
            return Ok(());
        };
        let listener = TcpListener::bind(at)
            .await
            .context(|| format!("cannot listen on {at}"))?;
        loop {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => return Ok(()),
                accepted = listener.accept() => if let Ok((mut stream, _)) = accepted {
                    let text = format!("{:#}\n", fleet.to_json());
                    let _ = stream.write_all(text.as_bytes()).await;
                }
            }
        }
    })?;
    println!("{:#}", fleet.to_json());
    fleet.stop();
    if let Some(dns) = dns {
        dns.stop();
    }
    Ok(())
}
