-- The transaction log. `assent migrate` has created the schema `assent` and the table `assent.migration` before this runs,
-- and runs this file in one transaction. The views of 0002 are the contract for readers; the tables here may change.

create type assent.protocol as enum ('2pc', '3pc', 'saga');
create type assent.decision as enum ('commit', 'abort');
-- The order matters: from 'completed' on they are a saga's.
create type assent.outcome as enum ('committed', 'aborted', 'completed', 'compensated');

-- Who this log belongs to -----------------------------------------------------------------------------------------------

create table assent.identity (
    coordinator_id uuid    not null default gen_random_uuid(),
    is_only_row    boolean primary key default true check (is_only_row)
);
insert into assent.identity default values;
comment on table assent.identity is 'One row: the coordinator''s identity. It moves with the log, and never changes.';
comment on column assent.identity.coordinator_id is 'Prefixes whatever participants prepare, so that each coordinator ends its own and no other''s.';
comment on column assent.identity.is_only_row is 'Always true: there is one row.';

-- Replicas and their epochs ------------------------------------------------------------------------------------------

create sequence assent.epoch as bigint;
comment on sequence assent.epoch is 'Epochs of all replicas are drawn from here, so that they order across replicas.';

create table assent.replica (
    name        text        primary key check (name ~ '^[a-z0-9][a-z0-9._-]{0,62}$'),
    epoch       bigint      not null unique check (epoch > 0),
    connection  bigint      not null check (connection > 0),
    acquired_at timestamptz not null default now()
);
comment on table assent.replica is 'Who may append. Every append locks its replica''s row for share and compares epoch and connection.';
comment on column assent.replica.name is 'The replica''s name.';
comment on column assent.replica.epoch is 'Its epoch: appends under a lower one change nothing.';
comment on column assent.replica.connection is 'Raised by every new appending connection, so that a statement that a dead connection left behind changes nothing.';
comment on column assent.replica.acquired_at is 'When the epoch was drawn.';

-- Open transactions ----------------------------------------------------------------------------------------------------

-- Rows come and go at the rate of transactions, so this table is all churn: only the one index that first-writer-wins
-- needs, and vacuum as soon as there is something to do, at full speed. A 2PC's row is never updated, a saga's seldom.
create table assent.open_transaction (
    gtid         uuid            primary key,
    owner_epoch  bigint          not null,
    digest       bigint          not null,
    begun_at     timestamptz     not null,
    decided_at   timestamptz     not null,
    protocol     assent.protocol not null,
    decision     assent.decision,
    participants text            not null,
    reason       text,
    remedy       text,
    definition   jsonb,
    -- One constraint and not five: Postgres reads each one anew for every statement.
    constraint a_row_fits_its_protocol check (
        case when protocol <> 'saga'
            then decision is not null and definition is null and remedy is null
            else definition is not null and decision is distinct from 'commit'
        end
    )
) with (
    fillfactor = 90,
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000, autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 1000000
);
comment on table assent.open_transaction is 'Transactions that are decided, or sagas that have started, and have not ended. The first insert of a gtid wins.';
comment on column assent.open_transaction.gtid is 'The transaction''s id, a UUIDv7.';
comment on column assent.open_transaction.owner_epoch is 'The epoch of the replica that drives it.';
comment on column assent.open_transaction.digest is 'Digest of the commit or start request''s body: the same gtid with another body is refused.';
comment on column assent.open_transaction.begun_at is 'When it began.';
comment on column assent.open_transaction.decided_at is 'When the decision, or the saga''s start, was logged.';
comment on column assent.open_transaction.protocol is 'How its branches are brought to the same end.';
comment on column assent.open_transaction.decision is 'The decision. Of a saga: null while it goes forward, abort once it has turned back.';
comment on column assent.open_transaction.participants is 'Comma-separated names, in roster order: those who wait for the decision; for a saga, those who have a step.';
comment on column assent.open_transaction.reason is 'Why it aborts, or turned back.';
comment on column assent.open_transaction.remedy is 'What a human must do, while the saga is paused.';
comment on column assent.open_transaction.definition is 'A saga''s steps, an array of objects; inputs are base64.';

create table assent.saga_step (
    gtid         uuid        not null,
    step         integer     not null check (step between 0 and 65535),
    compensation boolean     not null,
    attempt      bigint      not null check (attempt >= 0),
    result       text        not null check (result in ('done', 'refused', 'unknown')),
    output       bytea,
    reason       text,
    at           timestamptz not null,
    primary key (gtid, step, compensation),
    constraint what_is_done_has_an_output_and_all_else_a_reason check (
        (result = 'done') = (output is not null) and (result = 'done') = (reason is null)
    )
) with (
    fillfactor = 80,
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000, autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 1000000
);
-- No foreign key to open_transaction: it would run a trigger for every transaction that ends, sagas or not.
comment on table assent.saga_step is 'The latest answer of each step of the open sagas. Deleted with the saga''s end, which takes the outputs along.';
comment on column assent.saga_step.gtid is 'The saga.';
comment on column assent.saga_step.step is 'The step''s position in the definition, from 0.';
comment on column assent.saga_step.compensation is 'Whether it is the compensation''s answer rather than the action''s.';
comment on column assent.saga_step.attempt is 'The attempt that was answered, from 1.';
comment on column assent.saga_step.result is 'done: it took effect; refused: it had none and never will; unknown: it may or may not have.';
comment on column assent.saga_step.output is 'What it returned, if it is done.';
comment on column assent.saga_step.reason is 'Why it is not done.';
comment on column assent.saga_step.at is 'When the answer was logged.';

-- History --------------------------------------------------------------------------------------------------------------

create table assent.history (
    gtid       uuid            not null,
    ended_at   timestamptz     not null,
    begun_at   timestamptz     not null,
    decided_at timestamptz,
    digest     bigint          not null,
    protocol   assent.protocol not null,
    outcome    assent.outcome  not null,
    branches   text            not null,
    reason     text,
    outputs    jsonb,
    -- The partition key has to be part of it. A repeated batch carries the same time, so it still refuses repetitions.
    primary key (gtid, ended_at),
    constraint an_outcome_fits_its_protocol check ((protocol = 'saga') = (outcome >= 'completed') and (outputs is null or protocol = 'saga'))
) partition by range (ended_at);
comment on table assent.history is 'Ended transactions, one partition a day (UTC). Whole partitions are dropped once they are older than the retention.';
comment on column assent.history.gtid is 'The transaction''s id, a UUIDv7.';
comment on column assent.history.ended_at is 'When the end was logged.';
comment on column assent.history.begun_at is 'When it began.';
comment on column assent.history.decided_at is 'When the decision, or the saga''s start, was logged; null if it aborted without a logged decision.';
comment on column assent.history.digest is 'Digest of the commit or start request''s body.';
comment on column assent.history.protocol is 'How its branches were brought to the same end.';
comment on column assent.history.outcome is 'How it ended.';
comment on column assent.history.branches is 'Comma-separated branches or steps in roster order, each participant[/step][=end]; one without =end ended as the transaction did.';
comment on column assent.history.reason is 'Why it aborted or was compensated.';
comment on column assent.history.outputs is 'A saga''s outputs: base64 by step position.';

-- Where rows go that belong to no day's partition: the pinned ones whose partition was dropped, and any row at all should
-- maintenance not have run for too long. An append must never fail for want of a partition.
create table assent.history_other partition of assent.history default;
comment on table assent.history_other is 'Pinned transactions that outlived their day''s partition, and whatever found no partition.';

create table assent.pin (
    gtid      uuid        primary key,
    pinned_at timestamptz not null default now()
);
comment on table assent.pin is 'Transactions that are kept beyond the retention.';
comment on column assent.pin.gtid is 'The transaction.';
comment on column assent.pin.pinned_at is 'Since when.';

-- Participants -----------------------------------------------------------------------------------------------------------

create table assent.participant (
    name     text        primary key check (name ~ '^[a-z0-9][a-z0-9._-]{0,62}$'),
    noted_at timestamptz not null default now()
);
comment on table assent.participant is 'Every participant that ever connected: a name that is not here is most likely a misspelling.';
comment on column assent.participant.name is 'The participant''s name.';
comment on column assent.participant.noted_at is 'When it was first seen.';
