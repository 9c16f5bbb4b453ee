//! Hosts on this machine, each in a network namespace of its own, and cuts in the network between them.
//!
//! A [`Network`] is a switch with hosts around it. What runs on a host ([`Network::on`]) has that host's address and sees nothing but the
//! other hosts. What the test's own process does in the network (the databases that it provides, the initiator that it is) it does at addresses of
//! its own, through relays: [`Network::way_out`] and [`Network::way_in`].
//!
//! [`Network::cut`] is one way: whatever one place sends to another is dropped where it arrives, silently, on connections that are open as well
//! as on new ones. So neither side learns of it but by waiting, and what TCP has not delivered it sends again: healed in time, a connection
//! goes on.
//!
//! Addresses are the same in every network, since none is visible outside of its own. Namespaces outlive a test that is killed; the next one that makes
//! a network removes them.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::File;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::net::{TcpListener, TcpSocket};

use crate::process::Program;
use crate::relay::Relay;
use crate::shared_directory;

/// Set to 1 by who knows that partitions between processes are not tested then.
const WITHOUT_VARIABLE: &str = "ASSENT_TEST_WITHOUT_NAMESPACES";
/// Where `ip` keeps the namespaces by their names.
const NAMESPACES: &str = "/var/run/netns";
/// Networks at the same time, of all test processes together.
const NETWORKS_MAX: u32 = 1_000;
/// The switch is a place, too: where the test's own process has its addresses.
const SWITCH: &str = "switch";
/// The last byte of the first host's address. Those of the test's own process are before it.
const FIRST_HOST: u8 = 11;

/// Hosts, and the ways between them. It is gone once every clone is, and every process in it is killed.
#[derive(Clone, Debug)]
pub struct Network(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    prefix: String,
    places: BTreeMap<String, Place>,
    /// Pairs of from and to.
    cuts: Mutex<BTreeSet<(String, String)>>,
    /// Held as long as this network is; its number is free afterwards.
    _lock: File,
}

/// Something with an address.
#[derive(Clone, Debug)]
struct Place {
    namespace: String,
    address: Ipv4Addr,
}

impl Network {
    /// Makes a network of these hosts, in which the test's own process has an address for each of `own`.
    ///
    /// `None`, and a line on standard error that says so, where somebody has asked to do without (`ASSENT_TEST_WITHOUT_NAMESPACES=1`).
    ///
    /// # Panics
    /// When no network namespaces can be had, with what to do about it.
    #[must_use]
    pub fn of(hosts: &[&str], own: &[&str]) -> Option<Self> {
        if std::env::var_os(WITHOUT_VARIABLE).is_some_and(|value| value == "1") {
            eprintln!("LEFT OUT: {WITHOUT_VARIABLE}=1, and this test needs hosts in network namespaces");
            return None;
        }
        prepare();
        remove_stale();
        let (prefix, lock) = reserve();
        assert!(own.len() < usize::from(FIRST_HOST), "addresses of the test's own");
        let switch = format!("{prefix}{SWITCH}");
        let at = |last: u8| Ipv4Addr::new(10, 77, 0, last);
        let of_own = own.iter().zip(1..).map(|(name, last)| {
            let place = Place { namespace: switch.clone(), address: at(last) };
            ((*name).to_owned(), place)
        });
        let of_hosts = hosts.iter().zip(FIRST_HOST..).map(|(name, last)| {
            let place = Place { namespace: format!("{prefix}{name}"), address: at(last) };
            ((*name).to_owned(), place)
        });
        let places: BTreeMap<_, _> = of_own.chain(of_hosts).collect();
        assert_eq!(places.len(), own.len() + hosts.len(), "each place has a name of its own");
        // From here on, what has been made is removed whatever happens.
        let network = Self(Arc::new(Inner { prefix, places, cuts: Mutex::default(), _lock: lock }));
        network.0.make(&switch);
        Some(network)
    }

    /// A place's address.
    ///
    /// # Panics
    /// When there is no such place.
    #[must_use]
    pub fn address(&self, place: &str) -> Ipv4Addr {
        self.0.place(place).address
    }

    /// A program as it is started on a host.
    ///
    /// # Panics
    /// When there is no such host.
    #[must_use]
    pub fn on(&self, host: &str, program: Program) -> Program {
        program.started_by("ip", ["netns", "exec", &self.0.place(host).namespace])
    }

    /// Offers a server out of this network to hosts in it, at an address of the test's own. The relay says at which port.
    ///
    /// # Panics
    /// When it cannot listen there.
    pub async fn way_out(&self, own: &str, server: SocketAddr) -> Relay {
        let place = self.0.place(own);
        let listener = place.inside(|| std::net::TcpListener::bind((place.address, 0))).expect("a relay listens");
        listener.set_nonblocking(true).expect("a listener that waits for nobody");
        let listener = TcpListener::from_std(listener).expect("a listener");
        Relay::between(listener, server, TcpSocket::new_v4)
    }

    /// Offers a server in this network to the test's own process, which comes to it from one of its own addresses.
    ///
    /// # Panics
    /// When it cannot listen.
    pub async fn way_in(&self, own: &str, server: SocketAddr) -> Relay {
        let place = self.0.place(own).clone();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a relay listens");
        Relay::between(listener, server, move || {
            place.inside(|| {
                let socket = TcpSocket::new_v4()?;
                socket.bind(SocketAddrV4::new(place.address, 0).into())?;
                Ok(socket)
            })
        })
    }

    /// From now on nothing that one place sends reaches the other. The way back is another one.
    ///
    /// # Panics
    /// When there is no such place.
    pub fn cut(&self, from: &str, to: &str) {
        if self.0.cuts().insert((from.to_owned(), to.to_owned())) {
            self.0.rule("add", from, to);
        }
    }

    /// What one place sends reaches the other again.
    ///
    /// # Panics
    /// When there is no such place.
    pub fn heal(&self, from: &str, to: &str) {
        if self.0.cuts().remove(&(from.to_owned(), to.to_owned())) {
            self.0.rule("del", from, to);
        }
    }

    /// From now on these ways are cut, each from the first to the second, and no others. No message slips through in between: new cuts are made
    /// before old ones are healed.
    ///
    /// # Panics
    /// When there is no such place.
    pub fn only_cut(&self, ways: &[Way<'_>]) {
        for (from, to) in ways {
            self.cut(from, to);
        }
        let is_healed = |(from, to): &&(String, String)| !ways.contains(&(from.as_str(), to.as_str()));
        let healed: Vec<_> = self.0.cuts().iter().filter(is_healed).cloned().collect();
        for (from, to) in healed {
            self.heal(&from, &to);
        }
    }
}

/// From one place to another.
pub type Way<'a> = (&'a str, &'a str);

/// All ways between those of one group and those of another, both ways.
#[must_use]
pub fn between<'a>(group: &[&'a str], other: &[&'a str]) -> Vec<Way<'a>> {
    let pairs = group.iter().flat_map(|one| other.iter().map(move |another| (*one, *another)));
    pairs.flat_map(|(one, another)| [(one, another), (another, one)]).collect()
}

impl Inner {
    fn place(&self, name: &str) -> &Place {
        self.places.get(name).unwrap_or_else(|| panic!("no place of this network is called {name}"))
    }

    fn cuts(&self) -> MutexGuard<'_, BTreeSet<(String, String)>> {
        self.cuts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where it arrives, so that the sender is not told: what a rule drops on its way out is an error of the sender's.
    fn rule(&self, verb: &str, from: &str, to: &str) {
        let (from, to) = (self.place(from), self.place(to));
        ip(&to.namespace, &format!("rule {verb} pref 10 from {} to {} blackhole", from.address, to.address));
    }

    fn make(&self, switch: &str) {
        let hosts = || self.places.values().filter(|place| place.namespace != switch);
        let owns = || self.places.values().filter(|place| place.namespace == switch);
        for namespace in hosts().map(|host| host.namespace.as_str()).chain([switch]) {
            run("ip", &["netns", "add", namespace], "");
        }
        // Everybody knows where everybody is. A question for that (ARP) would be lost in a cut as well, and after some of them the sender is
        // told that there is no such host.
        let mut neighbours = String::new();
        for place in self.places.values() {
            let link = if place.namespace == switch { mac(1) } else { mac(place.last()) };
            writeln!(neighbours, "neigh replace {} lladdr {link} dev DEVICE nud permanent", place.address)
                .expect("text");
        }
        // Rules about what is cut come before the one that delivers what has arrived.
        let rules = "rule add pref 100 lookup local\nrule del pref 0\n";
        let mut script =
            format!("link set lo up\nlink add switch address {} type bridge\nlink set switch up\n", mac(1));
        for own in owns() {
            writeln!(script, "addr add {}/24 dev switch", own.address).expect("text");
        }
        for host in hosts() {
            let (number, namespace) = (host.last(), &host.namespace);
            writeln!(
                script,
                "link add host-{number} type veth peer name eth0 address {} netns {namespace}\n\
                 link set host-{number} master switch up",
                mac(number)
            )
            .expect("text");
        }
        let of_hosts = neighbours.lines().filter(|line| !line.contains(&mac(1)));
        script.extend(of_hosts.map(|line| format!("{}\n", line.replace("DEVICE", "switch"))));
        ip(switch, &format!("{script}{rules}"));
        for host in hosts() {
            let others = neighbours.lines().filter(|line| !line.contains(&mac(host.last())));
            let others: String = others.map(|line| format!("{}\n", line.replace("DEVICE", "eth0"))).collect();
            let own = format!("link set lo up\naddr add {}/24 dev eth0\nlink set eth0 up\n", host.address);
            ip(&host.namespace, &format!("{own}{others}{rules}"));
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        remove(&self.prefix);
    }
}

impl Place {
    fn last(&self) -> u8 {
        self.address.octets()[3]
    }

    /// Makes something in this place's namespace: a socket stays in the one in which it was made.
    fn inside<T: Send>(&self, make: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        let namespace = File::open(Path::new(NAMESPACES).join(&self.namespace))?;
        // On a thread of its own, which ends there: no other work finds itself in another network.
        std::thread::scope(|scope| {
            let made = scope.spawn(|| {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
                make()
            });
            made.join().expect("no panic")
        })
    }
}

fn mac(last: u8) -> String {
    format!("02:00:0a:4d:00:{last:02x}")
}

// ---- what is left behind -------------------------------------------------------------------------------------------------

/// The names of all networks of this user's tests begin so. Others who use the same machine are none of our business.
fn prefix_of_all() -> String {
    let mut hasher = DefaultHasher::new();
    shared_directory().hash(&mut hasher);
    format!("assent-{:08x}-", hasher.finish() as u32)
}

fn lock_of(number: u32) -> File {
    let directory = shared_directory().join("networks");
    std::fs::create_dir_all(&directory).expect("a directory for the locks of networks");
    let path = directory.join(number.to_string());
    File::options().create(true).truncate(false).write(true).open(path).expect("a lock file for a network")
}

/// A number that no living test process has.
fn reserve() -> (String, File) {
    let all = prefix_of_all();
    for number in 0..NETWORKS_MAX {
        let lock = lock_of(number);
        if lock.try_lock().is_ok() {
            return (format!("{all}{number}-"), lock);
        }
    }
    panic!("{NETWORKS_MAX} networks are in use");
}

/// Removes the networks of test processes that have died.
fn remove_stale() {
    let all = prefix_of_all();
    let numbers = |name: &str| name.strip_prefix(&all)?.split_once('-')?.0.parse::<u32>().ok();
    let stale: BTreeSet<u32> = namespaces().iter().filter_map(|name| numbers(name)).collect();
    for number in stale {
        let lock = lock_of(number);
        if lock.try_lock().is_ok() {
            remove(&format!("{all}{number}-"));
        }
    }
}

/// Removes a network: the processes in it, the namespaces, and with them everything else.
fn remove(prefix: &str) {
    for namespace in namespaces().iter().filter(|name| name.starts_with(prefix)) {
        let inside = Command::new("ip").args(["netns", "pids", namespace]).stdin(Stdio::null()).output();
        let inside = inside.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        for process in inside.lines().filter_map(|line| Pid::from_raw(line.trim().parse().ok()?)) {
            // It may have ended meanwhile.
            kill_process(process, Signal::KILL).ok();
        }
        if let Err(error) = try_to_run("ip", &["netns", "del", namespace], "") {
            // A test that is about to fail must not end with this instead.
            eprintln!("could not remove a network namespace: {error}");
        }
    }
}

fn namespaces() -> Vec<String> {
    // There is none before the first one is made.
    let Ok(entries) = std::fs::read_dir(NAMESPACES) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

// ---- commands ------------------------------------------------------------------------------------------------------------

/// Says what is missing on this machine, and installs it if it can; once for each process.
fn prepare() {
    static IS_PREPARED: OnceLock<()> = OnceLock::new();
    IS_PREPARED.get_or_init(|| {
        // Several test processes must not install at the same time.
        let one_at_a_time = File::create(shared_directory().join("network.lock")).expect("a lock file");
        one_at_a_time.lock().expect("a lock");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("network/prepare");
        run(script, &[], "");
    });
}

/// Lines of commands for `ip`, carried out in a namespace.
fn ip(namespace: &str, script: &str) {
    run("ip", &["-n", namespace, "-batch", "-"], script);
}

fn run(program: impl AsRef<OsStr>, arguments: &[&str], input: &str) {
    try_to_run(program, arguments, input).unwrap_or_else(|error| panic!("{error}"));
}

fn try_to_run(program: impl AsRef<OsStr>, arguments: &[&str], input: &str) -> Result<(), String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let outcome = command.spawn().and_then(|mut child| {
        if let Some(mut stdin) = child.stdin.take() {
            // Who ends without reading all of it says why.
            stdin.write_all(input.as_bytes()).ok();
        }
        child.wait_with_output()
    });
    match outcome {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{command:?}: {}\n{input}", String::from_utf8_lossy(&output.stderr))),
        Err(error) => Err(format!("{command:?}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;

    /// Longer than a message takes that nothing holds up, and than one that TCP sends again after such a wait.
    const LONG: Duration = Duration::from_secs(10);
    const SHORT: Duration = Duration::from_millis(300);

    fn hears(stream: &mut TcpStream, patience: Duration) -> Option<u8> {
        stream.set_read_timeout(Some(patience)).expect("a timeout");
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(1) => Some(byte[0]),
            Ok(_) => panic!("the connection is over"),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "silence, and no error");
                None
            }
        }
    }

    #[test]
    fn a_cut_is_one_way_and_silent_and_heals() {
        let Some(network) = Network::of(&["here", "there"], &["outside"]) else { return };
        let place = |name: &str| network.0.place(name).clone();
        let (here, there) = (place("here"), place("there"));
        let listener = there.inside(|| TcpListener::bind((there.address, 7))).expect("a server");
        let server = listener.local_addr().expect("an address");
        let connect = |from: &Place, patience| from.inside(|| TcpStream::connect_timeout(&server, patience));
        let mut client = connect(&here, LONG).expect("a client");
        let (mut served, _) = listener.accept().expect("a connection");
        assert_eq!(client.local_addr().expect("an address").ip(), here.address);

        network.cut("here", "there");
        client.write_all(&[1]).expect("the sender is not told");
        assert_eq!(hears(&mut served, SHORT), None);
        let refused = connect(&here, SHORT).expect_err("no new connection").kind();
        assert_eq!(refused, io::ErrorKind::TimedOut);
        connect(&place("outside"), LONG).expect("others are as near as before");
        network.heal("here", "there");
        assert_eq!(hears(&mut served, LONG), Some(1));

        network.cut("there", "here");
        client.write_all(&[2]).expect("sent");
        assert_eq!(hears(&mut served, LONG), Some(2));
        served.write_all(&[3]).expect("the sender is not told");
        assert_eq!(hears(&mut client, SHORT), None);
        network.only_cut(&[]);
        assert_eq!(hears(&mut client, LONG), Some(3));
    }

    #[test]
    fn what_a_dead_test_has_left_is_removed() {
        if Network::of(&[], &[]).is_none() {
            return;
        }
        let of_the_dead = format!("{}{}-host", prefix_of_all(), NETWORKS_MAX + 1);
        run("ip", &["netns", "add", &of_the_dead], "");
        let living = Network::of(&["host"], &[]).expect("a network");
        let left = namespaces();
        assert!(!left.contains(&of_the_dead), "{left:?}");
        assert!(left.contains(&living.0.place("host").namespace), "{left:?}");
        let prefix = living.0.prefix.clone();
        drop(living);
        assert!(namespaces().iter().all(|name| !name.starts_with(&prefix)));
    }
}
