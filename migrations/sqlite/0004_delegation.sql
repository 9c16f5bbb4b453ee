-- One-phase commit: a row without a decision, whose only branch decides. And the ids of branches: a participant may prepare two branches of
-- one transaction, and only the one that the log names is told to commit.
--
-- A constraint of a table can only be changed by making the table anew. The steps come along: to drop the table that they refer to would be
-- to delete them. The views that read either are dropped first, and made again at the end.

drop view assent_v1_transaction;
drop view assent_v1_branch;
drop view assent_v1_saga_step;

create table new_open_transaction (
    -- Transactions that are decided, 2PCs whose only branch decides, 3PCs whose voters are agreeing, or sagas that have started, and that
    -- have not ended. The first insert of a gtid wins.
    gtid         text    not null primary key check (length(gtid) = 36 and substr(gtid, 15, 1) = '7'),
    -- The epoch of the replica that drives it.
    owner_epoch  integer not null,
    -- Digest of the commit or start request's body: the same gtid with another body is refused.
    digest       integer not null,
    begun_at     integer not null,
    -- When the decision, or the saga's start, was logged; for a 2PC without a decision, when the delegation to its only branch was; for a
    -- 3PC without one, when 'attempt 1 sent' was.
    decided_at   integer not null,
    protocol     text    not null check (protocol in ('2pc', '3pc', 'saga')),
    -- Of a 2PC: null while its only branch decides. Of a 3PC: null while its voters are agreeing. Of a saga: null while it goes forward, abort once it has turned back.
    decision     text    check (decision in ('commit', 'abort')),
    -- Comma-separated names, in roster order: those who wait for the decision; for a 2PC without a decision, the one whose branch decides;
    -- for a saga, those who have a step.
    participants text    not null,
    -- Why it aborts, or turned back.
    reason       text,
    -- What a human must do, while the saga is paused.
    remedy       text,
    -- A saga's steps, an array of objects; inputs are base64.
    definition   text    check (json_type(definition) = 'array'),
    -- What the log keeps as a voter of a 3PC, from 'attempt 1 sent' on: where it stands (waiting, pre_committed, pre_aborted, committed,
    -- aborted), the last ballot it joined, and the last one it accepted or -, with spaces between. A ballot is round.node, the node in
    -- hexadecimal digits.
    voter        text,
    -- Who votes: participants in order, each with the address of its voter and the identity of its store; log, the identity of this log.
    -- There where voter is: a decided 3PC keeps both.
    roster       text    check (json_type(roster) = 'object'),
    -- Comma-separated ids of the branches, in the order of participants, each epoch.number: the epoch under which the branch began, and a
    -- number in hexadecimal digits. Null for a saga, and where no branch has an id: in rows of before there were any.
    branch_ids   text,
    constraint a_row_fits_its_protocol check (
        case protocol
            when 'saga' then definition is not null and decision is not 'commit' and voter is null and roster is null
                             and branch_ids is null
            when '3pc' then definition is null and remedy is null and (decision is not null or voter is not null)
                            and (voter is null) = (roster is null)
            else definition is null and remedy is null and voter is null and roster is null
                 and (decision is not null or participants <> '' and instr(participants, ',') = 0)
        end
        -- As many ids as participants.
        and (branch_ids is null or participants <> '' and branch_ids <> ''
             and length(branch_ids) - length(replace(branch_ids, ',', ''))
                 = length(participants) - length(replace(participants, ',', '')))
    )
) strict, without rowid;

insert into new_open_transaction
    (gtid, owner_epoch, digest, begun_at, decided_at, protocol, decision, participants, reason, remedy, definition, voter, roster)
select gtid, owner_epoch, digest, begun_at, decided_at, protocol, decision, participants, reason, remedy, definition, voter, roster
from open_transaction;

create table new_saga_step (
    -- The latest answer of each step of the open sagas. Deleted with the saga's end, which takes the outputs along.
    gtid         text    not null references new_open_transaction (gtid) on delete cascade,
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

insert into new_saga_step (gtid, step, compensation, attempt, result, output, reason, at)
select gtid, step, compensation, attempt, result, output, reason, at
from saga_step;

drop table saga_step;
drop table open_transaction;
-- The reference follows the name.
alter table new_open_transaction rename to open_transaction;
alter table new_saga_step rename to saga_step;

alter table history add column
    -- Comma-separated ids of the branches, in the order of branches, as those of open_transaction. Null for a saga, and where no branch has
    -- an id: in rows of before there were any.
    branch_ids text constraint as_many_ids_as_branches check (
        branch_ids is null or protocol <> 'saga' and branches <> '' and branch_ids <> ''
            and length(branch_ids) - length(replace(branch_ids, ',', '')) = length(branches) - length(replace(branches, ',', ''))
    );

create view assent_v1_transaction as
-- Every transaction that the log knows, open or ended.
select o.gtid,
       o.protocol,
       case
           when o.remedy is not null then 'paused'
           when o.protocol = 'saga' and o.decision is null then 'running'
           when o.protocol = 'saga' then 'compensating'
           when o.decision is null then 'preparing'
           when o.decision = 'commit' then 'committing'
           else 'aborting'
       end as state,
       0 as is_final,
       o.participants,
       o.begun_at,
       iif(o.protocol = 'saga' or o.decision is not null, o.decided_at, null) as decided_at,
       null as ended_at,
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
-- The branches of each transaction, or the steps of each saga. `ended` is null while it is open; `branch_id` is null for a step, and for a
-- branch of before they had one.
with entry (gtid, position, entry, default_end, ended_at, branch_ids) as (
    select o.gtid, cast(e.key as integer), e.value, null, null, '["' || replace(o.branch_ids, ',', '","') || '"]'
    from open_transaction o, json_each('["' || replace(o.participants, ',', '","') || '"]') e
    where o.protocol <> 'saga' and o.participants <> ''
    union all
    select o.gtid, cast(e.key as integer), (e.value ->> 'participant') || '/' || (e.value ->> 'name'), null, null, null
    from open_transaction o, json_each(o.definition) e
    where o.protocol = 'saga'
    union all
    select h.gtid, cast(e.key as integer), e.value, h.outcome, h.ended_at, '["' || replace(h.branch_ids, ',', '","') || '"]'
    from history h, json_each('["' || replace(h.branches, ',', '","') || '"]') e
    where h.branches <> ''
),
half (gtid, position, who, ended, ended_at, branch_id) as (
    select gtid, position,
           case when instr(entry, '=') > 0 then substr(entry, 1, instr(entry, '=') - 1) else entry end,
           case when instr(entry, '=') > 0 then substr(entry, instr(entry, '=') + 1) else default_end end,
           ended_at,
           branch_ids ->> position
    from entry
)
select gtid, position,
       case when instr(who, '/') > 0 then substr(who, 1, instr(who, '/') - 1) else who end as participant,
       case when instr(who, '/') > 0 then substr(who, instr(who, '/') + 1) end as step,
       ended, ended_at, branch_id
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
