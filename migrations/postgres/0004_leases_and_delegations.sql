-- Leases: only one replica drives at a time, and another name takes over once the lease of the last one has lapsed.

-- What is there already has a lease that lapses with this migration: a replica of an older binary knows of none.
alter table assent.replica
    add column leased_until timestamptz not null default clock_timestamp();
comment on table assent.replica is 'Who may append, and until when no other name may take over. Every append locks its replica''s row for share and compares epoch and connection.';
comment on column assent.replica.epoch is 'Its epoch: appends under a lower one change nothing. Raised when the replica starts anew, and when another one takes over from it.';
comment on column assent.replica.leased_until is 'Until then the replica counts as alive, and no replica of another name starts. By this server''s clock; renewed by the process that serves, and given up when it stops.';

create or replace view assent.assent_v1_replica as
select r.name, r.epoch, r.acquired_at, r.leased_until from assent.replica r;
comment on column assent.assent_v1_replica.leased_until is 'Until then it counts as alive, and no replica of another name starts.';

-- One-phase commit: a row without a decision, whose only branch decides.

alter table assent.open_transaction
    drop constraint a_row_fits_its_protocol,
    -- One constraint and not eight: Postgres reads each one anew for every statement.
    add constraint a_row_fits_its_protocol check (
        case protocol
            when 'saga' then definition is not null and decision is distinct from 'commit' and voter is null and roster is null
            when '3pc' then definition is null and remedy is null and (decision is not null or voter is not null)
                            and (voter is null) = (roster is null)
            else definition is null and remedy is null and voter is null and roster is null
                 and (decision is not null or participants <> '' and strpos(participants, ',') = 0)
        end
    );
comment on table assent.open_transaction is 'Transactions that are decided, 2PCs whose only branch decides, 3PCs whose voters are agreeing, or sagas that have started, and that have not ended. The first insert of a gtid wins.';
comment on column assent.open_transaction.decided_at is 'When the decision, or the saga''s start, was logged; for a 2PC without a decision, when the delegation to its only branch was; for a 3PC without one, when ''attempt 1 sent'' was.';
comment on column assent.open_transaction.decision is 'The decision. Of a 2PC: null while its only branch decides. Of a 3PC: null while its voters are agreeing. Of a saga: null while it goes forward, abort once it has turned back.';
comment on column assent.open_transaction.participants is 'Comma-separated names, in roster order: those who wait for the decision; for a 2PC without a decision, the one whose branch decides; for a saga, those who have a step.';
