-- The transaction log of one embedded process. The log creates the table migration before this runs, and runs this file in one
-- transaction. Times are Unix milliseconds, gtids are text, so that the file can be read with any SQLite shell.
-- The comments inside the statements stay in sqlite_schema.

create table replica (
    -- Who may append: every append compares the epoch.
    name        text    not null primary key check (length(name) between 1 and 63),
    -- Appends under a lower one change nothing.
    epoch       integer not null unique check (epoch > 0),
    -- When the epoch was drawn.
    acquired_at integer not null
) strict, without rowid;

create table epoch (
    -- The highest epoch that was ever drawn; one row.
    only  integer not null primary key check (only = 1),
    drawn integer not null check (drawn >= 0)
) strict;
insert into epoch (only, drawn) values (1, 0);

create table open_transaction (
    -- Transactions that are decided, or sagas that have started, and have not ended. The first insert of a gtid wins.
    gtid         text    not null primary key check (length(gtid) = 36 and substr(gtid, 15, 1) = '7'),
    -- The epoch of the replica that drives it.
    owner_epoch  integer not null,
    -- Digest of the commit or start request's body: the same gtid with another body is refused.
    digest       integer not null,
    begun_at     integer not null,
    -- When the decision, or the saga's start, was logged.
    decided_at   integer not null,
    protocol     text    not null check (protocol in ('2pc', '3pc', 'saga')),
    -- Of a saga: null while it goes forward, abort once it has turned back.
    decision     text    check (decision in ('commit', 'abort')),
    -- Comma-separated names, in roster order: those who wait for the decision; for a saga, those who have a step.
    participants text    not null,
    -- Why it aborts, or turned back.
    reason       text,
    -- What a human must do, while the saga is paused.
    remedy       text,
    -- A saga's steps, an array of objects; inputs are base64.
    definition   text    check (json_type(definition) = 'array'),
    constraint a_row_fits_its_protocol check (
        case when protocol <> 'saga'
            then decision is not null and definition is null and remedy is null
            else definition is not null and decision is not 'commit'
        end
    )
) strict, without rowid;

create table saga_step (
    -- The latest answer of each step of the open sagas. Deleted with the saga's end, which takes the outputs along.
    gtid         text    not null references open_transaction (gtid) on delete cascade,
    -- The step's position in the definition, from 0.
    step         integer not null check (step between 0 and 65535),
    -- 1 if it is the compensation's answer rather than the action's.
    compensation integer not null check (compensation in (0, 1)),
    -- The attempt that was answered, from 1.
    attempt      integer not null check (attempt >= 0),
    -- done: it took effect; refused: it had none and never will; unknown: it may or may not have.
    result       text    not null check (result in ('done', 'refused', 'unknown')),
    -- What it returned, if it is done: base64.
    output       text,
    -- Why it is not done.
    reason       text,
    at           integer not null,
    primary key (gtid, step, compensation),
    constraint what_is_done_has_an_output_and_all_else_a_reason check (
        (result = 'done') = (output is not null) and (result = 'done') = (reason is null)
    )
) strict, without rowid;

create table history (
    -- Ended transactions, until they are older than the retention.
    gtid       text    not null check (length(gtid) = 36 and substr(gtid, 15, 1) = '7'),
    ended_at   integer not null,
    begun_at   integer not null,
    -- Null if it aborted without a logged decision.
    decided_at integer,
    digest     integer not null,
    protocol   text    not null check (protocol in ('2pc', '3pc', 'saga')),
    outcome    text    not null check (outcome in ('committed', 'aborted', 'completed', 'compensated')),
    -- Comma-separated branches or steps in roster order, each participant[/step][=end]; one without =end ended as the transaction did.
    branches   text    not null,
    -- Why it aborted or was compensated.
    reason     text,
    -- A saga's outputs: base64 by step position.
    outputs    text    check (json_type(outputs) = 'object'),
    primary key (gtid, ended_at),
    constraint an_outcome_fits_its_protocol check (
        (protocol = 'saga') = (outcome in ('completed', 'compensated')) and (outputs is null or protocol = 'saga')
    )
) strict, without rowid;
-- What retention forgets first.
create index history_by_end on history (ended_at);

create table pin (
    -- Transactions that are kept beyond the retention.
    gtid text not null primary key
) strict, without rowid;

create table participant (
    -- Every participant that ever connected.
    name     text    not null primary key check (length(name) between 1 and 63),
    -- When it was first seen.
    noted_at integer not null
) strict, without rowid;

create table identity (
    -- The coordinator's identity, a UUID: prefixes whatever participants prepare. It moves with the log, and never changes.
    coordinator_id text    not null check (length(coordinator_id) = 36),
    -- There is one row.
    is_only_row    integer not null primary key check (is_only_row = 1)
) strict, without rowid;
insert into identity (coordinator_id, is_only_row)
values (lower(
    hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-8'
    || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6))
), 1);
