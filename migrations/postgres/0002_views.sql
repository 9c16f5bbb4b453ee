-- The contract for psql, Grafana and whatever else reads the log. Columns may be added to an assent_v1_ view; none is ever renamed,
-- retyped or removed: that would be assent_v2_. Filter assent_v1_transaction and assent_v1_branch by gtid, or by ended_at, which
-- leaves out the other days' partitions.

create view assent.assent_v1_transaction as
select o.gtid,
       o.protocol::text as protocol,
       case
           when o.remedy is not null then 'paused'
           when o.protocol = 'saga' and o.decision is null then 'running'
           when o.protocol = 'saga' then 'compensating'
           when o.decision = 'commit' then 'committing'
           else 'aborting'
       end as state,
       false as is_final,
       string_to_array(o.participants, ',') as participants,
       o.begun_at, o.decided_at, null::timestamptz as ended_at,
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
comment on view assent.assent_v1_transaction is 'Every transaction that the log knows, open or ended.';
comment on column assent.assent_v1_transaction.gtid is 'The transaction''s id, a UUIDv7.';
comment on column assent.assent_v1_transaction.protocol is '2pc, 3pc or saga.';
comment on column assent.assent_v1_transaction.state is 'committing, aborting; running, compensating, paused; or, when final, committed, aborted, completed, compensated.';
comment on column assent.assent_v1_transaction.is_final is 'Whether it is over.';
comment on column assent.assent_v1_transaction.participants is 'The participants of its branches or steps, each once, in roster order.';
comment on column assent.assent_v1_transaction.begun_at is 'When it began.';
comment on column assent.assent_v1_transaction.decided_at is 'When the decision, or the saga''s start, was logged; null if it aborted without a logged decision.';
comment on column assent.assent_v1_transaction.ended_at is 'When its end was logged.';
comment on column assent.assent_v1_transaction.reason is 'Why it aborted or turned back.';
comment on column assent.assent_v1_transaction.remedy is 'What a human must do, while it is paused.';
comment on column assent.assent_v1_transaction.owner_epoch is 'The epoch of the replica that drives it, while it is open.';
comment on column assent.assent_v1_transaction.owner is 'The replica that drives it; null if that epoch is gone.';
comment on column assent.assent_v1_transaction.pinned is 'Whether it is kept beyond the retention.';

create view assent.assent_v1_branch as
select o.gtid, (e.position - 1)::integer as position, e.entry as participant, null::text as step, null::text as ended, null::timestamptz as ended_at
from assent.open_transaction o, unnest(string_to_array(o.participants, ',')) with ordinality as e (entry, position)
where o.protocol <> 'saga'
union all
select o.gtid, (e.position - 1)::integer, e.step ->> 'participant', e.step ->> 'name', null, null
from assent.open_transaction o, jsonb_array_elements(o.definition) with ordinality as e (step, position)
where o.protocol = 'saga'
union all
select h.gtid,
       (e.position - 1)::integer,
       split_part(split_part(e.entry, '=', 1), '/', 1),
       nullif(split_part(split_part(e.entry, '=', 1), '/', 2), ''),
       coalesce(nullif(split_part(e.entry, '=', 2), ''), h.outcome::text),
       h.ended_at
from assent.history h, unnest(string_to_array(h.branches, ',')) with ordinality as e (entry, position);
comment on view assent.assent_v1_branch is 'The branches of each transaction, or the steps of each saga.';
comment on column assent.assent_v1_branch.gtid is 'The transaction.';
comment on column assent.assent_v1_branch.position is 'Its place in the roster, from 0. Of an open transaction only the branches that wait for the decision are counted.';
comment on column assent.assent_v1_branch.participant is 'The participant.';
comment on column assent.assent_v1_branch.step is 'The saga step''s name; null for a branch.';
comment on column assent.assent_v1_branch.ended is 'How it ended: committed, aborted, read_only, not_started, completed, compensated, abandoned, heuristic_committed, heuristic_aborted; null while it is open.';
comment on column assent.assent_v1_branch.ended_at is 'When the transaction''s end was logged.';

create view assent.assent_v1_saga_step as
select o.gtid,
       (e.position - 1)::integer as step,
       e.definition ->> 'name' as name,
       e.definition ->> 'participant' as participant,
       coalesce((e.definition ->> 'pivot')::boolean, false) as pivot,
       a.result as action, a.attempt as action_attempt, a.reason as action_reason, a.at as action_at,
       c.result as compensation, c.attempt as compensation_attempt, c.reason as compensation_reason, c.at as compensation_at
from assent.open_transaction o
     cross join lateral jsonb_array_elements(o.definition) with ordinality as e (definition, position)
     left join assent.saga_step a on a.gtid = o.gtid and a.step = e.position - 1 and not a.compensation
     left join assent.saga_step c on c.gtid = o.gtid and c.step = e.position - 1 and c.compensation
where o.protocol = 'saga';
comment on view assent.assent_v1_saga_step is 'The steps of open sagas, with the latest answers of action and compensation. Ended sagas are in assent_v1_branch.';
comment on column assent.assent_v1_saga_step.gtid is 'The saga.';
comment on column assent.assent_v1_saga_step.step is 'The step''s position in the definition, from 0.';
comment on column assent.assent_v1_saga_step.name is 'The step''s name.';
comment on column assent.assent_v1_saga_step.participant is 'Who executes and compensates it.';
comment on column assent.assent_v1_saga_step.pivot is 'Whether there is only forward once it is done.';
comment on column assent.assent_v1_saga_step.action is 'The action''s answer: done, refused or unknown; null before the first.';
comment on column assent.assent_v1_saga_step.action_attempt is 'The attempt that gave it.';
comment on column assent.assent_v1_saga_step.action_reason is 'Why it is not done.';
comment on column assent.assent_v1_saga_step.action_at is 'When it was logged.';
comment on column assent.assent_v1_saga_step.compensation is 'The compensation''s answer: done, refused or unknown; null before the first.';
comment on column assent.assent_v1_saga_step.compensation_attempt is 'The attempt that gave it.';
comment on column assent.assent_v1_saga_step.compensation_reason is 'Why it is not done.';
comment on column assent.assent_v1_saga_step.compensation_at is 'When it was logged.';

create view assent.assent_v1_participant as
select p.name, p.noted_at from assent.participant p;
comment on view assent.assent_v1_participant is 'Every participant that ever connected.';
comment on column assent.assent_v1_participant.name is 'The participant''s name.';
comment on column assent.assent_v1_participant.noted_at is 'When it was first seen.';

create view assent.assent_v1_replica as
select r.name, r.epoch, r.acquired_at from assent.replica r;
comment on view assent.assent_v1_replica is 'The replicas and their epochs.';
comment on column assent.assent_v1_replica.name is 'The replica''s name.';
comment on column assent.assent_v1_replica.epoch is 'Its epoch: appends under a lower one change nothing.';
comment on column assent.assent_v1_replica.acquired_at is 'When the epoch was drawn.';
