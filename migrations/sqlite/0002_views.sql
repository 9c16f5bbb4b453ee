-- The same contract as on Postgres, as far as SQLite has the types: participants is comma-separated text, times are Unix milliseconds.
-- Columns may be added to an assent_v1_ view; none is ever renamed or removed.

create view assent_v1_transaction as
-- Every transaction that the log knows, open or ended.
select o.gtid,
       o.protocol,
       case
           when o.remedy is not null then 'paused'
           when o.protocol = 'saga' and o.decision is null then 'running'
           when o.protocol = 'saga' then 'compensating'
           when o.decision = 'commit' then 'committing'
           else 'aborting'
       end as state,
       0 as is_final,
       o.participants,
       o.begun_at, o.decided_at, null as ended_at,
       o.reason, o.remedy, o.owner_epoch,
       (select r.name from replica r where r.epoch = o.owner_epoch) as owner,
       exists (select 1 from pin p where p.gtid = o.gtid) as pinned
from open_transaction o
union all
select h.gtid, h.protocol, h.outcome, 1,
       (select group_concat(distinct b.participant) from assent_v1_branch b where b.gtid = h.gtid),
       h.begun_at, h.decided_at, h.ended_at,
       h.reason, null, null, null,
       exists (select 1 from pin p where p.gtid = h.gtid)
from history h;

create view assent_v1_branch as
-- The branches of each transaction, or the steps of each saga. `ended` is null while it is open.
with entry (gtid, position, entry, default_end, ended_at) as (
    select o.gtid, cast(e.key as integer), e.value, null, null
    from open_transaction o, json_each('["' || replace(o.participants, ',', '","') || '"]') e
    where o.protocol <> 'saga' and o.participants <> ''
    union all
    select o.gtid, cast(e.key as integer), (e.value ->> 'participant') || '/' || (e.value ->> 'name'), null, null
    from open_transaction o, json_each(o.definition) e
    where o.protocol = 'saga'
    union all
    select h.gtid, cast(e.key as integer), e.value, h.outcome, h.ended_at
    from history h, json_each('["' || replace(h.branches, ',', '","') || '"]') e
    where h.branches <> ''
),
half (gtid, position, who, ended, ended_at) as (
    select gtid, position,
           case when instr(entry, '=') > 0 then substr(entry, 1, instr(entry, '=') - 1) else entry end,
           case when instr(entry, '=') > 0 then substr(entry, instr(entry, '=') + 1) else default_end end,
           ended_at
    from entry
)
select gtid, position,
       case when instr(who, '/') > 0 then substr(who, 1, instr(who, '/') - 1) else who end as participant,
       case when instr(who, '/') > 0 then substr(who, instr(who, '/') + 1) end as step,
       ended, ended_at
from half;

create view assent_v1_saga_step as
-- The steps of open sagas, with the latest answers of action and compensation. Ended sagas are in assent_v1_branch.
select o.gtid,
       cast(e.key as integer) as step,
       e.value ->> 'name' as name,
       e.value ->> 'participant' as participant,
       coalesce(e.value ->> 'pivot', 0) as pivot,
       a.result as action, a.attempt as action_attempt, a.reason as action_reason, a.at as action_at,
       c.result as compensation, c.attempt as compensation_attempt, c.reason as compensation_reason, c.at as compensation_at
from open_transaction o
     join json_each(o.definition) e
     left join saga_step a on a.gtid = o.gtid and a.step = cast(e.key as integer) and a.compensation = 0
     left join saga_step c on c.gtid = o.gtid and c.step = cast(e.key as integer) and c.compensation = 1
where o.protocol = 'saga';

create view assent_v1_participant as
select name, noted_at from participant;

create view assent_v1_replica as
select name, epoch, acquired_at from replica;
