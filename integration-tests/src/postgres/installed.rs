//! A server as a child process of an installed Postgres.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::server::{Origin, USER};
use super::wire::Control;
use crate::Port;

/// How long a server may take to end after a signal; a fast shutdown writes a checkpoint.
const END_MAX: Duration = Duration::from_secs(300);

/// A server as a child process.
pub(super) struct Installed {
    directory: PathBuf,
    /// The command that starts it: program and arguments.
    program: PathBuf,
    arguments: Vec<String>,
    user: Option<User>,
    /// None when it was killed or stopped. Never locked across an await.
    child: Mutex<Option<std::process::Child>>,
}

/// The server has ended by itself.
#[derive(Debug, thiserror::Error)]
#[error("the server ended ({status}); it said:\n{log}")]
pub(super) struct Ended {
    status: std::process::ExitStatus,
    log: String,
}

/// Whom the server runs as when the tests run as root, whom Postgres refuses.
#[derive(Debug, Clone, Copy)]
struct User {
    uid: u32,
    gid: u32,
}

impl Installed {
    /// Creates the data and starts the server; whether it answers already is for the caller to find out.
    pub(super) async fn launch(
        bin: &Path,
        origin: &Origin,
        port: &Port,
        password: &str,
        arguments: &[String],
    ) -> anyhow::Result<Self> {
        let directory = std::env::temp_dir().join(format!("{}{}", directory_prefix(origin.id()), port.number()));
        let user = if rustix::process::geteuid().is_root() { Some(User::for_root()?) } else { None };
        fs::create_dir(&directory).with_context(|| format!("cannot create {}", directory.display()))?;

        let address = port.address();
        let own = [
            ("-D".to_owned(), directory.join("data").display().to_string()),
            ("-h".to_owned(), address.ip().to_string()),
            ("-p".to_owned(), address.port().to_string()),
            // No socket: its default directory may be missing or closed to us.
            ("-c".to_owned(), "unix_socket_directories=".to_owned()),
        ];
        let arguments = own.into_iter().flat_map(|(name, value)| [name, value]).chain(arguments.iter().cloned());
        let installed = Self {
            program: bin.join("postgres"),
            arguments: arguments.collect(),
            user,
            child: Mutex::new(None),
            directory,
        };
        let prepared = tokio::task::block_in_place(|| {
            installed.initialize(bin, password)?;
            installed.start()
        });
        if let Err(error) = prepared {
            installed.remove().await?;
            return Err(error);
        }
        Ok(installed)
    }

    fn initialize(&self, bin: &Path, password: &str) -> anyhow::Result<()> {
        let password_file = self.directory.join("password");
        fs::write(&password_file, password)?;
        fs::set_permissions(&self.directory, fs::Permissions::from_mode(0o700))?;
        if let Some(User { uid, gid }) = self.user {
            std::os::unix::fs::chown(&password_file, Some(uid), Some(gid))?;
            std::os::unix::fs::chown(&self.directory, Some(uid), Some(gid))?;
        }
        let output = self
            .command(&bin.join("initdb"))
            .arg("-D")
            .arg(self.directory.join("data"))
            .args(["-U", USER, "--auth=password", "--encoding=UTF8", "--no-locale", "--no-sync"])
            .arg("--pwfile")
            .arg(&password_file)
            // Without it initdb compares the machine's time zone with every one that it knows, for seconds.
            .env("TZ", "UTC")
            .output()
            .context("cannot run initdb")?;
        ensure!(output.status.success(), "initdb failed: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    fn start(&self) -> anyhow::Result<()> {
        let mut child = self.child();
        ensure!(child.is_none(), "the server runs");
        let log = fs::File::options().create(true).append(true).open(self.log())?;
        let server = self
            .command(&self.program)
            .args(&self.arguments)
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot run postgres")?;
        *child = Some(server);
        Ok(())
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.directory).stdin(Stdio::null()).env("LC_ALL", "C").process_group(0);
        if let Some(User { uid, gid }) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Says so when the server has ended although nobody ended it.
    pub(super) fn check_alive(&self) -> anyhow::Result<()> {
        let status = match &mut *self.child() {
            Some(child) => child.try_wait()?,
            None => None,
        };
        match status {
            Some(status) => Err(Ended { status, log: fs::read_to_string(self.log()).unwrap_or_default() }.into()),
            None => Ok(()),
        }
    }

    pub(super) async fn control(&self, control: Control) -> anyhow::Result<()> {
        tokio::task::block_in_place(|| match control {
            Control::Kill => self.end(Signal::KILL),
            Control::Stop => self.end(Signal::INT),
            Control::Start => self.start(),
            Control::Pause => self.signal_all(Signal::STOP),
            Control::Resume => self.signal_all(Signal::CONT),
        })
    }

    /// Kills the server and removes its data.
    pub(super) async fn remove(&self) -> anyhow::Result<()> {
        tokio::task::block_in_place(|| {
            if self.child().is_some() {
                self.end(Signal::KILL)?;
            }
            match fs::remove_dir_all(&self.directory) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
                _ => Ok(()),
            }
        })
    }

    fn end(&self, signal: Signal) -> anyhow::Result<()> {
        let mut slot = self.child();
        let Some(child) = slot.as_mut() else { bail!("the server does not run") };
        let main = Pid::from_child(child);
        if signal == Signal::KILL {
            kill_tree(main)?;
        } else {
            kill_process(main, signal)?;
        }
        let started_at = Instant::now();
        while child.try_wait()?.is_none() {
            ensure!(started_at.elapsed() < END_MAX, "still runs long after the signal");
            std::thread::sleep(Duration::from_millis(5));
        }
        *slot = None;
        Ok(())
    }

    fn signal_all(&self, signal: Signal) -> anyhow::Result<()> {
        let slot = self.child();
        let Some(child) = slot.as_ref() else { bail!("the server does not run") };
        let main = Pid::from_child(child);
        // The main process first: stopped, it makes no more children that would be missed.
        kill_process(main, signal)?;
        for child in children(main)? {
            // One that has just ended needs no signal.
            let _ = kill_process(child, signal);
        }
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.directory.join("log")
    }

    fn child(&self) -> MutexGuard<'_, Option<std::process::Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl User {
    fn for_root() -> anyhow::Result<Self> {
        let users = fs::read_to_string("/etc/passwd")?;
        let find = |name: &str| {
            let mut fields = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
            let fields = fields.find(|fields| fields.first() == Some(&name))?;
            Some(Self { uid: fields.get(2)?.parse().ok()?, gid: fields.get(3)?.parse().ok()? })
        };
        find("postgres")
            .or_else(|| find("nobody"))
            .context("Postgres refuses to run as root, and there is neither a user 'postgres' nor 'nobody' here")
    }
}

/// Kills a server's main process and all of its children. Backends whose main process is gone would end by themselves, but
/// not at once, and until then no new server starts on the same data.
fn kill_tree(main: Pid) -> anyhow::Result<()> {
    kill_process(main, Signal::STOP)?;
    let started_at = Instant::now();
    while status(main.as_raw_nonzero().get()).is_some_and(|(state, _)| !matches!(state, 'T' | 'Z' | 'X')) {
        ensure!(started_at.elapsed() < END_MAX, "the server's main process does not stop");
        std::thread::yield_now();
    }
    let children = children(main)?;
    kill_process(main, Signal::KILL)?;
    for child in &children {
        let _ = kill_process(*child, Signal::KILL);
    }
    while children.iter().any(|child| runs(*child)) {
        ensure!(started_at.elapsed() < END_MAX, "a backend survives SIGKILL");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Children of a process, by the parent that `/proc` gives for each process.
fn children(parent: Pid) -> anyhow::Result<Vec<Pid>> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc").context("killing or pausing an installed server needs /proc")? {
        let Some(id) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if status(id).is_some_and(|(_, parent_id)| parent_id == parent.as_raw_nonzero().get()) {
            children.extend(Pid::from_raw(id));
        }
    }
    Ok(children)
}

/// Whether a process exists and is not merely waiting for its parent to take note of its end.
fn runs(process: Pid) -> bool {
    status(process.as_raw_nonzero().get()).is_some_and(|(state, _)| state != 'Z' && state != 'X')
}

/// State and parent of a process.
fn status(id: i32) -> Option<(char, i32)> {
    let line = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name, in parentheses, may itself hold spaces and parentheses.
    let mut fields = line.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn directory_prefix(origin: &str) -> String {
    format!("assent-postgres-{origin}-")
}

/// Removes the servers that a dead keeper has left behind.
pub(super) fn remove_stale(origin: &str) -> anyhow::Result<()> {
    for entry in fs::read_dir(std::env::temp_dir())? {
        let path = entry?.path();
        let named = path.file_name().and_then(|name| name.to_str());
        if !named.is_some_and(|name| name.starts_with(&directory_prefix(origin))) {
            continue;
        }
        let data = path.join("data");
        let main = fs::read_to_string(data.join("postmaster.pid"))
            .ok()
            .and_then(|file| Pid::from_raw(file.lines().next()?.parse().ok()?));
        // The number may belong to another process by now; the server is the one that lives in its data.
        let same = |main: &Pid| {
            let inside = fs::metadata(format!("/proc/{}/cwd", main.as_raw_nonzero())).ok();
            let data = fs::metadata(&data).ok();
            inside.zip(data).is_some_and(|(inside, data)| (inside.dev(), inside.ino()) == (data.dev(), data.ino()))
        };
        if let Some(main) = main.filter(same) {
            kill_tree(main)?;
        }
        fs::remove_dir_all(&path)?;
    }
    Ok(())
}
