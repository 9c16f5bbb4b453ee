//! The command line.
//!
//! | file | subject |
//! |---|---|
//! | `mod.rs` | the commands, and the way in |
//! | `exit.rs` | exit codes, and errors as people read them |
//! | `output.rs` | tables, JSON and JSON lines; pipes that close |
//! | `client.rs` | the way to a coordinator |
//! | `serve.rs` | `assent serve` |
//! | `migrate.rs` | `assent migrate` |
//! | `certs.rs` | `assent certs init`, `assent certs issue` |
//! | `verify.rs` | `assent verify-log` |
//! | `token.rs` | `assent token new` |
//! | `health.rs` | `assent health` |
//! | `whoami.rs` | `assent whoami` |
//! | `transactions.rs` | `assent tx list`, `assent tx show` |
//! | `demo/` | `assent demo` |
//! | `bench/` | `assent bench` |
//!
//! A command is a variant of [`Command`] with its arguments, and one line in [`run`]. It writes what was asked for to stdout through
//! [`output::Output`], everything else to stderr, and gives a [`Failure`] when it cannot.

mod bench;
mod certs;
mod client;
mod demo;
mod exit;
mod health;
mod migrate;
mod output;
mod serve;
mod token;
mod transactions;
mod verify;
mod whoami;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::future::Future;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Arg, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;

pub use client::{DEFAULT_ENDPOINT, Target};
pub use exit::{Exit, Failure};
pub use output::{Format, Output};

const EXAMPLES: &str = "\
Examples:
  assent demo                                    see it work, with nothing but this program
  assent serve                                   a coordinator with its log in ./assent.db
  assent serve --log postgres://me@db/assent     with its log in Postgres
  assent migrate --log postgres://me@db/assent   make that database ready, once per version
  assent tx list --state committing              what is on its way
  assent tx show 01890a5d-ac96-774b-bcce-b302099a8057

Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 conflict, 7 unreachable.";

/// Assent, a distributed transaction coordinator: services commit or abort together.
#[derive(Debug, Parser)]
#[command(name = "assent", version, about, after_help = EXAMPLES, max_term_width = 100)]
pub struct Cli {
    /// What every command understands.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What every command understands.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// The form of the output: a table for people, one JSON value, or one JSON object per line.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table, help_heading = "Everywhere")]
    pub output: Format,
    /// The coordinator to talk to [env: ASSENT_ENDPOINT] [default: http://127.0.0.1:7420].
    #[arg(long, global = true, value_name = "URL", help_heading = "Everywhere")]
    pub endpoint: Option<String>,
    /// The token that the coordinator asks for; better given as ASSENT_TOKEN, which other users of the machine do not see.
    #[arg(long, global = true, value_name = "TOKEN", help_heading = "Everywhere")]
    pub token: Option<String>,
    /// A file with the token that this program shows [env: ASSENT_TOKEN_FILE].
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "token", help_heading = "Everywhere")]
    pub token_file: Option<String>,
    /// The authorities that the coordinator's certificate is verified against (PEM) [env: ASSENT_CA] [default: those that this machine trusts].
    #[arg(long, global = true, value_name = "FILE", help_heading = "Everywhere")]
    pub ca: Option<String>,
    /// The certificate that this program shows (PEM) [env: ASSENT_CERT].
    #[arg(long, global = true, value_name = "FILE", help_heading = "Everywhere")]
    pub cert: Option<String>,
    /// The private key of that certificate (PEM) [env: ASSENT_KEY].
    #[arg(long, global = true, value_name = "FILE", help_heading = "Everywhere")]
    pub key: Option<String>,
    /// The name that the coordinator's certificate bears, where that is not the host of the URL [env: ASSENT_SERVER_NAME].
    #[arg(long, global = true, value_name = "NAME", help_heading = "Everywhere")]
    pub server_name: Option<String>,
    /// Do without encryption beyond this machine, where the network encrypts by itself [env: ASSENT_INSECURE=true].
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub insecure: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a coordinator.
    Serve(Box<serve::Serve>),
    /// Make the database of a log ready for this version.
    Migrate(migrate::Migrate),
    /// Make certificates for a first cluster.
    #[command(subcommand)]
    Certs(certs::Certs),
    /// Make tokens for callers that have no certificate.
    #[command(subcommand)]
    Token(token::Token),
    /// Ask a coordinator whether it serves.
    Health(health::Health),
    /// Ask the coordinator who it takes this program for.
    Whoami(whoami::WhoAmI),
    /// Check the invariants over a whole log, by reading it.
    VerifyLog(verify::VerifyLog),
    /// Look at transactions and sagas.
    #[command(subcommand)]
    Tx(transactions::Transactions),
    /// See it work: a coordinator and three services on this machine, in six acts.
    Demo(demo::Demo),
    /// Measure a coordinator, with participants and load in processes of their own.
    Bench(bench::Bench),
    /// A child process of `bench`.
    #[command(hide = true)]
    BenchWorker,
    /// Print completions for a shell.
    Completions {
        /// Which shell.
        shell: Shell,
    },
}

/// The program: reads the command line of this process, and does what it says.
pub fn main() -> ExitCode {
    run(std::env::args_os()).into()
}

/// Reads a command line, and does what it says. Errors are printed.
pub fn run<I, T>(arguments: I) -> Exit
where
    I: IntoIterator<Item = T>,
    T: Into<OsString>,
{
    let arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
    if arguments.len() <= 1 {
        let mut output = Output::new(Format::Table);
        output.text(&command().render_help().to_string()).ok();
        return Exit::Ok;
    }
    let cli = match parse(arguments) {
        Ok(cli) => cli,
        Err(error) => return unparsed(&error),
    };
    let Cli { global, command } = cli;
    let mut output = Output::new(global.output);
    let done = match command {
        Command::Serve(serve) => on_runtime(serve.run(global)),
        Command::Migrate(migrate) => on_runtime(migrate.run(&mut output)),
        Command::Certs(certs) => certs.run(&mut output),
        Command::Token(token) => token.run(&mut output),
        Command::Health(health) => on_runtime(health.run(&global, &mut output)),
        Command::Whoami(whoami) => on_runtime(whoami.run(&global, &mut output)),
        Command::VerifyLog(verify) => on_runtime(verify.run(&mut output)),
        Command::Tx(transactions) => on_runtime(transactions.run(&global, &mut output)),
        Command::Demo(demo) => demo.run(&global, &mut output),
        Command::Bench(bench) => on_runtime(bench.run(&global, &mut output)),
        Command::BenchWorker => on_one_thread(bench::worker()),
        Command::Completions { shell } => completions(shell, &mut output),
    };
    match done {
        Ok(()) => Exit::Ok,
        Err(failure) => failure.report(),
    }
}

fn parse(arguments: Vec<OsString>) -> Result<Cli, clap::Error> {
    let mut command = command();
    let mut matches = command.try_get_matches_from_mut(arguments)?;
    Cli::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
}

/// The command line. The options that every command takes stand in the help of the program, and not again in that of each command.
fn command() -> clap::Command {
    let command = Cli::command();
    let everywhere: Vec<Arg> = command
        .get_arguments()
        .filter(|argument| argument.is_global_set())
        .map(|global| global.clone().hide(true))
        .collect();
    command.mut_subcommands(|sub| without_repetition(sub, &everywhere))
}

fn without_repetition(command: clap::Command, everywhere: &[Arg]) -> clap::Command {
    let command = command.args(everywhere).mut_subcommands(|sub| without_repetition(sub, everywhere));
    let own = command.get_after_help().map_or_else(String::new, |help| format!("{help}\n"));
    command.after_help(format!("{own}`assent --help` lists the options that every command takes, such as --endpoint."))
}

/// Help and versions are no errors; everything else is a mistake in the command line.
fn unparsed(error: &clap::Error) -> Exit {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // Whoever closes the pipe has read enough.
            error.print().ok();
            Exit::Ok
        }
        _ => {
            error.print().ok();
            Exit::Usage
        }
    }
}

/// Runs a command that waits for other processes.
fn on_runtime(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| {
        Failure::new(
            Exit::Failed,
            format!("cannot start threads: {error}"),
            "raise the limit on processes of this user",
        )
    })?;
    let done = runtime.block_on(command);
    // What a command leaves behind is of no use to anybody.
    runtime.shutdown_background();
    done
}

/// Runs a command that has little to compute and much to say: one thread switches least.
fn on_one_thread(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}

fn completions(shell: Shell, output: &mut Output) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "assent", &mut script);
    output.text(&String::from_utf8_lossy(&script))?;
    Ok(())
}
