-- Three-phase transactions: a row without a decision, in which the log is one of the voters.

-- A decided 3PC keeps both columns if it had them: recovery tells its voters. No 2PC writes them.
alter table assent.open_transaction
    add column voter  text,
    add column roster jsonb,
    drop constraint a_row_fits_its_protocol,
    -- One constraint and not eight: Postgres reads each one anew for every statement.
    add constraint a_row_fits_its_protocol check (
        case protocol
            when 'saga' then definition is not null and decision is distinct from 'commit' and voter is null and roster is null
            when '3pc' then definition is null and remedy is null and (decision is not null or voter is not null)
                            and (voter is null) = (roster is null)
            else definition is null and remedy is null and decision is not null and voter is null and roster is null
        end
    );
comment on table assent.open_transaction is 'Transactions that are decided, 3PCs whose voters are agreeing, or sagas that have started, and that have not ended. The first insert of a gtid wins.';
comment on column assent.open_transaction.decided_at is 'When the decision, or the saga''s start, was logged; for a 3PC without a decision, when ''attempt 1 sent'' was.';
comment on column assent.open_transaction.decision is 'The decision. Of a 3PC: null while its voters are agreeing. Of a saga: null while it goes forward, abort once it has turned back.';
comment on column assent.open_transaction.voter is 'What the log keeps as a voter of a 3PC, from ''attempt 1 sent'' on: where it stands (waiting, pre_committed, pre_aborted, committed, aborted), the last ballot it joined, and the last one it accepted or -, with spaces between. A ballot is round.node, the node in hexadecimal digits.';
comment on column assent.open_transaction.roster is 'Who votes: participants in order, each with the address of its voter and the identity of its store; log, the identity of this log. There where voter is.';

create or replace view assent.assent_v1_transaction as
select o.gtid,
       o.protocol::text as protocol,
       case
           when o.remedy is not null then 'paused'
           when o.protocol = 'saga' and o.decision is null then 'running'
           when o.protocol = 'saga' then 'compensating'
           when o.decision is null then 'preparing'
           when o.decision = 'commit' then 'committing'
           else 'aborting'
       end as state,
       false as is_final,
       string_to_array(o.participants, ',') as participants,
       o.begun_at,
       case when o.protocol = 'saga' or o.decision is not null then o.decided_at end as decided_at,
       null::timestamptz as ended_at,
       o.reason, o.remedy, o.owner_epoch,
       (select r.name from assent.replica r where r.epoch = o.owner_epoch) as owner,
       exists (select from assent.pin p where p.gtid = o.gtid) as pinned
from assent.open_transaction o
union all
select h.gtid,
       h.protocol::text,
       h.outcome::text,
       true,
       (select array_agg(b.name order by b.first)
        from (select split_part(split_part(e.entry, '=', 1), '/', 1) as name, min(e.position) as first
              from unnest(string_to_array(h.branches, ',')) with ordinality as e (entry, position)
              group by 1) b),
       h.begun_at, h.decided_at, h.ended_at,
       h.reason, null, null, null,
       exists (select from assent.pin p where p.gtid = h.gtid)
from assent.history h;
comment on column assent.assent_v1_transaction.state is 'preparing, committing, aborting; running, compensating, paused; or, when final, committed, aborted, completed, compensated.';
comment on column assent.assent_v1_transaction.decided_at is 'When the decision, or the saga''s start, was logged; null while there is none, and if it aborted without a logged decision.';
