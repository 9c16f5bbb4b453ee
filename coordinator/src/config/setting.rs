//! The table of settings. What stands here is what `assent serve --help`, the sample file and the checks show.

use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::{Config, LogFormat, Secret, value};

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Its key: the table and the name in the file.
    pub key: &'static str,
    /// Its default as it would stand in the file; empty for none.
    pub default: &'static str,
    /// What it does, in which unit, and why the default is what it is.
    pub about: &'static str,
    /// Reads a text into the configuration.
    pub(super) set: fn(&mut Config, &str) -> Result<(), String>,
}

impl Setting {
    /// The environment variable that sets it.
    pub fn variable(&self) -> String {
        format!("ASSENT_{}", self.key.replace('.', "_").to_ascii_uppercase())
    }

    /// The setting of a key.
    pub fn of_key(key: &str) -> Option<&'static Self> {
        SETTINGS.iter().find(|setting| setting.key == key)
    }
}

/// A payload has to fit into a frame together with the others of its message.
const PAYLOAD_BYTES_MAX: usize = 3 * 1024 * 1024;

/// Every setting, in the order of the sample file: first those without a table.
pub const SETTINGS: &[Setting] = &[
    Setting {
        key: "listen",
        default: "\"127.0.0.1:7420\"",
        about: "Where sessions and calls come in, as HOST:PORT; port 0 takes any free one. Only this machine by default: \
                open it to others with tls_cert, tls_key, and client_ca or tokens_file.",
        set: |config, text| value::listen(text).map(|listen| config.listen = listen),
    },
    Setting {
        key: "log",
        default: "\"sqlite:assent.db\"",
        about: "The URL of the log: sqlite:PATH (one process, created as needed) or \
                postgres://USER:PASSWORD@HOST:PORT/DATABASE (made ready by `assent migrate`). SQLite by default, so that \
                nothing else is needed.",
        set: |config, text| value::log(text).map(|log| config.log = Secret::from(log)),
    },
    Setting {
        key: "wait_for_log",
        default: "\"30s\"",
        about: "How long to wait at the start for a log that does not answer, before giving up. Long \
                enough for a database that starts together with this process.",
        set: |config, text| value::duration(text).map(|wait| config.wait_for_log = wait),
    },
    Setting {
        key: "replica",
        default: "\"assent\"",
        about: "The replica's name: 1 to 63 of a-z 0-9 - _ . A process that starts under the name of another fences it and \
                drives its transactions on. Keep it across restarts: under another name it starts only once the lease of \
                the last one has lapsed.",
        set: |config, text| value::name(text).map(|name| config.replica = name),
    },
    Setting {
        key: "lease",
        default: "\"10s\"",
        about: "How long the replica counts as alive after it was last heard of, on the clock of the log's Postgres: for so \
                long no replica of another name starts. Renewed each third of it, so that two renewals may fail; 1s to 1h. \
                A log in a file has none.",
        set: |config, text| match value::duration(text)? {
            lease if (Duration::from_secs(1)..=Duration::from_secs(3_600)).contains(&lease) => {
                config.lease = lease;
                Ok(())
            }
            _ => Err(format!("{text:?} is out of bounds: 1s to 1h")),
        },
    },
    Setting {
        key: "shards",
        default: "0",
        about: "Tasks that own transactions; 0 for one per processor, up to 256.",
        set: |config, text| value::count(text, 0, 256).map(|shards| config.shards = shards),
    },
    Setting {
        key: "retention",
        default: "\"7d\"",
        about: "How long ended transactions are kept for retries, lookups and screens. A client that asks again later than \
                this may start its transaction anew, so keep it above the longest time that a client retries.",
        set: |config, text| match value::positive_duration(text)? {
            short if short < Duration::from_secs(60) => Err(format!("{text:?} is too short: at least 1m")),
            retention => {
                config.retention = retention;
                Ok(())
            }
        },
    },
    Setting {
        key: "drain_max",
        default: "\"20s\"",
        about: "How long a shutdown waits for undecided transactions to be decided. What is undecided then aborts; what is \
                decided goes on at the next start. Under the 30 s that Kubernetes grants.",
        set: |config, text| value::duration(text).map(|drain| config.drain_max = drain),
    },
    Setting {
        key: "tls_cert",
        default: "",
        about: "The server's certificate (PEM), followed by those between it and its authority. With it every connection is TLS \
                1.3; without it, in clear. The file is looked at each second, and new connections use what has changed.",
        set: |config, text| value::text(text).map(|path| config.tls_cert = Some(path.into())),
    },
    Setting {
        key: "tls_key",
        default: "",
        about: "The private key of tls_cert (PEM), which other users of the machine must not be able to read.",
        set: |config, text| value::text(text).map(|path| config.tls_key = Some(path.into())),
    },
    Setting {
        key: "client_ca",
        default: "",
        about: "The authorities (PEM) whose certificates name clients, by URIs such as assent://participant/bank-a.",
        set: |config, text| value::text(text).map(|path| config.client_ca = Some(path.into())),
    },
    Setting {
        key: "tokens_file",
        default: "",
        about: "The tokens that name clients without a certificate, by their hashes (TOML; `assent token new` adds to it), and the issuers \
                whose logins name people. The file is looked at each second: a token that is taken out ends its sessions.",
        set: |config, text| value::text(text).map(|path| config.tokens_file = Some(path.into())),
    },
    Setting {
        key: "insecure",
        default: "false",
        about: "Whether it may listen beyond this machine without TLS, or without client_ca and tokens_file: every process that \
                reaches it may then commit and abort. For networks that encrypt and authenticate by themselves.",
        set: |config, text| match text {
            "true" => {
                config.insecure = true;
                Ok(())
            }
            "false" => {
                config.insecure = false;
                Ok(())
            }
            _ => Err(format!("{text:?} is neither true nor false")),
        },
    },
    Setting {
        key: "limits.open_max",
        default: "100000",
        about: "Open transactions and sagas per replica; a request beyond is refused as overloaded. About 1 to 2 KiB of \
                memory each, beside the payloads.",
        set: |config, text| value::count(text, 1, 100_000_000).map(|open| config.limits.open_max = open),
    },
    Setting {
        key: "limits.open_bytes_max",
        default: "\"512MiB\"",
        about: "Bytes of payload that open transactions hold per replica; a request beyond is refused as overloaded.",
        set: |config, text| match value::bytes(text)? {
            0 => Err("it is zero: nothing could ever be taken on".to_owned()),
            bytes => {
                config.limits.open_bytes_max = bytes;
                Ok(())
            }
        },
    },
    Setting {
        key: "limits.branches_max",
        default: "128",
        about: "Branches of one transaction. Each has to be reached for a commit, so that many make a commit unlikely.",
        set: |config, text| value::count(text, 1, 1_000).map(|branches| config.limits.branches_max = branches),
    },
    Setting {
        key: "limits.payload_bytes_max",
        default: "\"1MiB\"",
        about: "Bytes of one payload, saga input or step output, at most 3MiB: it has to fit into a frame of 4 MiB. Larger \
                data goes elsewhere, and its address into the payload.",
        set: |config, text| match value::bytes(text)? {
            large if large > PAYLOAD_BYTES_MAX => {
                Err(format!("{text:?} is too large: at most 3MiB, so that it fits into a frame"))
            }
            bytes => {
                config.limits.payload_bytes_max = bytes;
                Ok(())
            }
        },
    },
    Setting {
        key: "limits.timeout_default",
        default: "\"30s\"",
        about: "How long a transaction may stay undecided unless it says otherwise.",
        set: |config, text| value::milliseconds(text).map(|timeout| config.limits.timeout_default_ms = timeout),
    },
    Setting {
        key: "limits.timeout_max",
        default: "\"24h\"",
        about: "The longest that a transaction may ask for. An undecided transaction may hold locks at its participants.",
        set: |config, text| value::milliseconds(text).map(|timeout| config.limits.timeout_max_ms = timeout),
    },
    Setting {
        key: "limits.absence",
        default: "\"5s\"",
        about: "How long a participant that is not connected is waited for before the transaction aborts. Long enough for a \
                restart of a small service.",
        set: |config, text| value::milliseconds(text).map(|absence| config.limits.absence_ms = absence),
    },
    Setting {
        key: "limits.initiator_grace",
        default: "\"5s\"",
        about: "How long a transaction that was begun stays open without its initiator's session, before it aborts. Long enough \
                to dial again; what has enlisted holds its locks meanwhile.",
        set: |config, text| value::milliseconds(text).map(|grace| config.limits.initiator_grace_ms = grace),
    },
    Setting {
        key: "limits.backlog_max",
        default: "65536",
        about: "Messages that may wait for one session before it is cut; what was lost with it is asked for again.",
        set: |config, text| value::count(text, 1_024, 10_000_000).map(|backlog| config.limits.backlog_max = backlog),
    },
    Setting {
        key: "limits.ended_max",
        default: "65536",
        about: "Answers of ended transactions that are kept in memory per replica, so that a retry needs no look into the \
                log. About 200 bytes each.",
        set: |config, text| value::count(text, 1, 100_000_000).map(|ended| config.limits.ended_max = ended),
    },
    Setting {
        key: "session.heartbeat_interval",
        default: "\"5s\"",
        about: "Each side of a session says something at least this often.",
        set: |config, text| value::positive_duration(text).map(|interval| config.session.heartbeat_interval = interval),
    },
    Setting {
        key: "session.silence_max",
        default: "\"20s\"",
        about: "A peer that is silent for longer is gone: its transactions that wait for a vote abort. Four heartbeats, so \
                that a pause of a garbage collector costs nothing.",
        set: |config, text| value::positive_duration(text).map(|silence| config.session.silence_max = silence),
    },
    Setting {
        key: "session.sessions_max",
        default: "10000",
        about: "Sessions at once; more are refused. About 100 KiB of memory each, most of it HTTP/2's.",
        set: |config, text| value::count(text, 1, 1_000_000).map(|sessions| config.session.sessions_max = sessions),
    },
    Setting {
        key: "telemetry.log_format",
        default: "\"text\"",
        about: "The form of this process's own log lines on stderr: text for people, json for machines.",
        set: |config, text| {
            config.telemetry.log_format = match text {
                "text" => LogFormat::Text,
                "json" => LogFormat::Json,
                _ => return Err(format!("{text:?} is no form of log lines: write text or json")),
            };
            Ok(())
        },
    },
    Setting {
        key: "telemetry.log_filter",
        default: "\"info\"",
        about: "Which of them are written: off, error, warn, info, debug or trace, also by module, such as \
                info,assent::driver=debug.",
        set: |config, text| {
            let wrong = |why: &str| format!("{text:?} is no filter ({why}): write such as info,assent::driver=debug");
            // The parser of tracing-subscriber 0.3.23 counts characters and cuts bytes: it panics over some text that is not ASCII.
            if !text.is_ascii() {
                return Err(wrong("modules have ASCII names"));
            }
            EnvFilter::try_new(text).map_err(|error| wrong(&error.to_string()))?;
            value::text(text).map(|filter| config.telemetry.log_filter = filter)
        },
    },
    Setting {
        key: "telemetry.otlp_endpoint",
        default: "",
        about: "Where traces and metrics go by OTLP over gRPC, such as http://collector:4317. Nowhere by default.",
        set: |config, text| value::http_url(text).map(|url| config.telemetry.otlp_endpoint = Some(url)),
    },
    Setting {
        key: "telemetry.metrics_interval",
        default: "\"10s\"",
        about: "How often metrics are sent there.",
        set: |config, text| value::positive_duration(text).map(|interval| config.telemetry.metrics_interval = interval),
    },
];

/// A configuration file in which every setting stands as a comment with its default: what `deploy/assent.toml` is.
pub fn sample() -> String {
    let mut sample = String::from(
        "# The configuration of an Assent replica: `assent serve --config assent.toml`.\n\
         #\n\
         # Each setting stands here with its default. The environment overrides this file (ASSENT_LISTEN, ASSENT_LIMITS_OPEN_MAX),\n\
         # and flags override the environment (--listen, --set limits.open_max=5000). Durations have a unit (500ms, 30s, 7d), and so\n\
         # may sizes (64KiB, 1MiB).\n",
    );
    let mut table = "";
    for setting in SETTINGS {
        let (of_table, name) = setting.key.split_once('.').unwrap_or(("", setting.key));
        if of_table != table {
            table = of_table;
            sample.push_str(&format!("\n[{table}]\n"));
        }
        sample.push('\n');
        for line in wrapped(setting.about, 118) {
            sample.push_str(&format!("# {line}\n"));
        }
        let default = if setting.default.is_empty() { "\"...\"" } else { setting.default };
        sample.push_str(&format!("#{name} = {default}\n"));
    }
    sample
}

/// Breaks a text into lines of at most so many characters.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            Some(_) | None => lines.push(word.to_owned()),
        }
    }
    lines
}
