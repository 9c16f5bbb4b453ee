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

-- One-phase commit: a row without a decision, whose only branch decides. And the ids of branches: a participant may prepare two
-- branches of one transaction, and only the one that the log names is told to commit.

alter table assent.open_transaction
    add column branch_ids text,
    drop constraint a_row_fits_its_protocol,
    -- One constraint and not eight: Postgres reads each one anew for every statement.
    add constraint a_row_fits_its_protocol check (
        case protocol
            when 'saga' then definition is not null and decision is distinct from 'commit' and voter is null and roster is null
                             and branch_ids is null
            when '3pc' then definition is null and remedy is null and (decision is not null or voter is not null)
                            and (voter is null) = (roster is null)
            else definition is null and remedy is null and voter is null and roster is null
                 and (decision is not null or participants <> '' and strpos(participants, ',') = 0)
        end
        -- As many ids as participants.
        and (branch_ids is null or participants <> '' and branch_ids <> ''
             and length(branch_ids) - length(replace(branch_ids, ',', ''))
                 = length(participants) - length(replace(participants, ',', '')))
    );
comment on table assent.open_transaction is 'Transactions that are decided, 2PCs whose only branch decides, 3PCs whose voters are agreeing, or sagas that have started, and that have not ended. The first insert of a gtid wins.';
comment on column assent.open_transaction.decided_at is 'When the decision, or the saga''s start, was logged; for a 2PC without a decision, when the delegation to its only branch was; for a 3PC without one, when ''attempt 1 sent'' was.';
comment on column assent.open_transaction.decision is 'The decision. Of a 2PC: null while its only branch decides. Of a 3PC: null while its voters are agreeing. Of a saga: null while it goes forward, abort once it has turned back.';
comment on column assent.open_transaction.participants is 'Comma-separated names, in roster order: those who wait for the decision; for a 2PC without a decision, the one whose branch decides; for a saga, those who have a step.';
comment on column assent.open_transaction.branch_ids is 'Comma-separated ids of the branches, in the order of participants, each epoch.number: the epoch under which the branch began, and a number in hexadecimal digits. Null for a saga, and where no branch has an id: in rows of before there were any.';

alter table assent.history
    add column branch_ids text,
    drop constraint an_outcome_fits_its_protocol,
    -- The rows that are there have no ids and are as the constraint of before had them: they need not be read again.
    add constraint an_outcome_fits_its_protocol check (
        (protocol = 'saga') = (outcome >= 'completed') and (outputs is null or protocol = 'saga')
        and (branch_ids is null or protocol <> 'saga' and branches <> '' and branch_ids <> ''
             and length(branch_ids) - length(replace(branch_ids, ',', '')) = length(branches) - length(replace(branches, ',', '')))
    ) not valid;
comment on column assent.history.branch_ids is 'Comma-separated ids of the branches, in the order of branches, each epoch.number: the epoch under which the branch began, and a number in hexadecimal digits. Null for a saga, and where no branch has an id: in rows of before there were any.';

create or replace view assent.assent_v1_branch as
select o.gtid, (e.position - 1)::integer as position, e.entry as participant, null::text as step, null::text as ended, null::timestamptz as ended_at,
       nullif(split_part(o.branch_ids, ',', e.position::integer), '') as branch_id
from assent.open_transaction o, unnest(string_to_array(o.participants, ',')) with ordinality as e (entry, position)
where o.protocol <> 'saga'
union all
select o.gtid, (e.position - 1)::integer, e.step ->> 'participant', e.step ->> 'name', null, null, null
from assent.open_transaction o, jsonb_array_elements(o.definition) with ordinality as e (step, position)
where o.protocol = 'saga'
union all
select h.gtid,
       (e.position - 1)::integer,
       split_part(split_part(e.entry, '=', 1), '/', 1),
       nullif(split_part(split_part(e.entry, '=', 1), '/', 2), ''),
       coalesce(nullif(split_part(e.entry, '=', 2), ''), h.outcome::text),
       h.ended_at,
       nullif(split_part(h.branch_ids, ',', e.position::integer), '')
from assent.history h, unnest(string_to_array(h.branches, ',')) with ordinality as e (entry, position);
comment on column assent.assent_v1_branch.branch_id is 'The branch''s id, epoch.number, the number in hexadecimal digits; null for a saga''s step, and for branches of before they had one.';
