use tonic::Code;

use super::*;

fn parsed(line: &str) -> Cli {
    parse(line.split(' ').map(Into::into).collect()).unwrap_or_else(|error| panic!("{line}: {error}"))
}

#[test]
fn the_commands_are_sound() {
    command().debug_assert();
}

#[test]
fn help_says_once_what_every_command_takes() {
    let help = command().render_help().to_string();
    assert!(help.contains("--endpoint <URL>") && help.contains("--server-name <NAME>"), "{help}");
    let mut command = command();
    command.build();
    let tx = command.find_subcommand_mut("tx").expect("there is one");
    let list = tx.find_subcommand_mut("list").expect("there is one");
    for help in [list.render_help().to_string(), list.render_long_help().to_string()] {
        assert!(help.contains("--state") && help.contains("assent --help"), "{help}");
        assert!(!help.contains("--endpoint <URL>") && !help.contains("--server-name"), "{help}");
    }
    let serve = command.find_subcommand_mut("serve").expect("there is one").render_help().to_string();
    assert!(serve.contains("lists every setting") && !serve.contains("--endpoint <URL>"), "{serve}");
}

#[test]
fn global_options_stand_anywhere() {
    for line in ["assent -o json --endpoint http://x:1 tx list", "assent tx list -o json --endpoint http://x:1"] {
        let cli = parsed(line);
        assert_eq!(cli.global.output, Format::Json);
        assert_eq!(Target::of(&cli.global).endpoint, "http://x:1");
    }
    assert_eq!(parsed("assent tx list").global.output, Format::Table);
}

#[test]
fn what_is_not_understood_is_a_mistake_in_usage() {
    for line in [
        "assent nonsense",
        "assent tx",
        "assent tx show",
        "assent tx show not-a-gtid",
        "assent tx list --state nonsense",
        "assent tx list --older-than 5",
        "assent tx list --limit 5 --all",
        "assent tx list -o xml",
        "assent completions nonsense",
    ] {
        assert_eq!(run(line.split(' ')), Exit::Usage, "{line}");
    }
}

#[test]
fn help_and_versions_are_no_failures() {
    for line in ["assent --help", "assent serve --help", "assent --version"] {
        assert_eq!(run(line.split(' ')), Exit::Ok, "{line}");
    }
}

#[test]
fn exit_codes_are_those_of_the_documentation() {
    let codes = [Exit::Ok, Exit::Failed, Exit::Usage, Exit::NotFound, Exit::Conflict, Exit::Unreachable];
    assert_eq!(codes.map(Exit::code), [0, 1, 2, 3, 4, 7]);
    for (code, exit) in [
        (Code::NotFound, Exit::NotFound),
        (Code::AlreadyExists, Exit::Conflict),
        (Code::FailedPrecondition, Exit::Conflict),
        (Code::InvalidArgument, Exit::Usage),
        (Code::Unavailable, Exit::Unreachable),
        (Code::DeadlineExceeded, Exit::Unreachable),
        (Code::Internal, Exit::Failed),
        (Code::Unauthenticated, Exit::Failed),
    ] {
        assert_eq!(Exit::from(code), exit, "{code:?}");
    }
}

#[test]
fn a_refusal_is_told_in_two_lines() {
    let status = assent_proto::error::ReasonStatus::status(
        assent_proto::error::Reason::NotFound,
        "no transaction x; check the gtid",
    );
    let failure = Failure::from(status);
    assert_eq!(failure.exit, Exit::NotFound);
    assert_eq!(failure.to_string(), "error: no transaction x\n next: check the gtid\n");
}

#[test]
fn nobody_at_the_endpoint_is_unreachable() {
    // Port 1 is reserved, and nothing listens there.
    assert_eq!(run("assent tx list --endpoint http://127.0.0.1:1".split(' ')), Exit::Unreachable);
    assert_eq!(run("assent tx list --endpoint nonsense".split(' ')), Exit::Usage);
}

#[test]
fn a_reader_that_has_read_enough_is_no_failure() {
    let failure = Failure::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
    assert_eq!((failure.exit, failure.what.as_str()), (Exit::Ok, ""));
}
