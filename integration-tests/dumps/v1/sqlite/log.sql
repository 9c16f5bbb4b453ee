PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE migration (
    -- The migrations that made this schema; the highest is its version.
    version    integer not null primary key check (version > 0),
    -- What it brought.
    name       text    not null,
    -- Its statements, to compare with those that a binary has.
    sql        text    not null,
    -- When, in Unix milliseconds.
    applied_at integer not null
) strict;
INSERT INTO migration VALUES(1,'log',replace('-- The transaction log of one embedded process. The log creates the table migration before this runs, and runs this file in one\n-- transaction. Times are Unix milliseconds, gtids are text, so that the file can be read with any SQLite shell.\n-- The comments inside the statements stay in sqlite_schema.\n\ncreate table replica (\n    -- Who may append: every append compares the epoch.\n    name        text    not null primary key check (length(name) between 1 and 63),\n    -- Appends under a lower one change nothing.\n    epoch       integer not null unique check (epoch > 0),\n    -- When the epoch was drawn.\n    acquired_at integer not null\n) strict, without rowid;\n\ncreate table epoch (\n    -- The highest epoch that was ever drawn; one row.\n    only  integer not null primary key check (only = 1),\n    drawn integer not null check (drawn >= 0)\n) strict;\ninsert into epoch (only, drawn) values (1, 0);\n\ncreate table open_transaction (\n    -- Transactions that are decided, or sagas that have started, and have not ended. The first insert of a gtid wins.\n    gtid         text    not null primary key check (length(gtid) = 36 and substr(gtid, 15, 1) = ''7''),\n    -- The epoch of the replica that drives it.\n    owner_epoch  integer not null,\n    -- Digest of the commit or start request''s body: the same gtid with another body is refused.\n    digest       integer not null,\n    begun_at     integer not null,\n    -- When the decision, or the saga''s start, was logged.\n    decided_at   integer not null,\n    protocol     text    not null check (protocol in (''2pc'', ''3pc'', ''saga'')),\n    -- Of a saga: null while it goes forward, abort once it has turned back.\n    decision     text    check (decision in (''commit'', ''abort'')),\n    -- Comma-separated names, in roster order: those who wait for the decision; for a saga, those who have a step.\n    participants text    not null,\n    -- Why it aborts, or turned back.\n    reason       text,\n    -- What a human must do, while the saga is paused.\n    remedy       text,\n    -- A saga''s steps, an array of objects; inputs are base64.\n    definition   text    check (json_type(definition) = ''array''),\n    constraint a_row_fits_its_protocol check (\n        case when protocol <> ''saga''\n            then decision is not null and definition is null and remedy is null\n            else definition is not null and decision is not ''commit''\n        end\n    )\n) strict, without rowid;\n\ncreate table saga_step (\n    -- The latest answer of each step of the open sagas. Deleted with the saga''s end, which takes the outputs along.\n    gtid         text    not null references open_transaction (gtid) on delete cascade,\n    -- The step''s position in the definition, from 0.\n    step         integer not null check (step between 0 and 65535),\n    -- 1 if it is the compensation''s answer rather than the action''s.\n    compensation integer not null check (compensation in (0, 1)),\n    -- The attempt that was answered, from 1.\n    attempt      integer not null check (attempt >= 0),\n    -- done: it took effect; refused: it had none and never will; unknown: it may or may not have.\n    result       text    not null check (result in (''done'', ''refused'', ''unknown'')),\n    -- What it returned, if it is done: base64.\n    output       text,\n    -- Why it is not done.\n    reason       text,\n    at           integer not null,\n    primary key (gtid, step, compensation),\n    constraint what_is_done_has_an_output_and_all_else_a_reason check (\n        (result = ''done'') = (output is not null) and (result = ''done'') = (reason is null)\n    )\n) strict, without rowid;\n\ncreate table history (\n    -- Ended transactions, until they are older than the retention.\n    gtid       text    not null check (length(gtid) = 36 and substr(gtid, 15, 1) = ''7''),\n    ended_at   integer not null,\n    begun_at   integer not null,\n    -- Null if it aborted without a logged decision.\n    decided_at integer,\n    digest     integer not null,\n    protocol   text    not null check (protocol in (''2pc'', ''3pc'', ''saga'')),\n    outcome    text    not null check (outcome in (''committed'', ''aborted'', ''completed'', ''compensated'')),\n    -- Comma-separated branches or steps in roster order, each participant[/step][=end]; one without =end ended as the transaction did.\n    branches   text    not null,\n    -- Why it aborted or was compensated.\n    reason     text,\n    -- A saga''s outputs: base64 by step position.\n    outputs    text    check (json_type(outputs) = ''object''),\n    primary key (gtid, ended_at),\n    constraint an_outcome_fits_its_protocol check (\n        (protocol = ''saga'') = (outcome in (''completed'', ''compensated'')) and (outputs is null or protocol = ''saga'')\n    )\n) strict, without rowid;\n-- What retention forgets first.\ncreate index history_by_end on history (ended_at);\n\ncreate table pin (\n    -- Transactions that are kept beyond the retention.\n    gtid text not null primary key\n) strict, without rowid;\n\ncreate table participant (\n    -- Every participant that ever connected.\n    name     text    not null primary key check (length(name) between 1 and 63),\n    -- When it was first seen.\n    noted_at integer not null\n) strict, without rowid;\n\ncreate table identity (\n    -- The coordinator''s identity, a UUID: prefixes whatever participants prepare. It moves with the log, and never changes.\n    coordinator_id text    not null check (length(coordinator_id) = 36),\n    -- There is one row.\n    is_only_row    integer not null primary key check (is_only_row = 1)\n) strict, without rowid;\ninsert into identity (coordinator_id, is_only_row)\nvalues (lower(\n    hex(randomblob(4)) || ''-'' || hex(randomblob(2)) || ''-4'' || substr(hex(randomblob(2)), 2) || ''-8''\n    || substr(hex(randomblob(2)), 2) || ''-'' || hex(randomblob(6))\n), 1);\n','\n',char(10)),1795978999279);
INSERT INTO migration VALUES(2,'views',replace('-- The same contract as on Postgres, as far as SQLite has the types: participants is comma-separated text, times are Unix milliseconds.\n-- Columns may be added to an assent_v1_ view; none is ever renamed or removed.\n\ncreate view assent_v1_transaction as\n-- Every transaction that the log knows, open or ended.\nselect o.gtid,\n       o.protocol,\n       case\n           when o.remedy is not null then ''paused''\n           when o.protocol = ''saga'' and o.decision is null then ''running''\n           when o.protocol = ''saga'' then ''compensating''\n           when o.decision = ''commit'' then ''committing''\n           else ''aborting''\n       end as state,\n       0 as is_final,\n       o.participants,\n       o.begun_at, o.decided_at, null as ended_at,\n       o.reason, o.remedy, o.owner_epoch,\n       (select r.name from replica r where r.epoch = o.owner_epoch) as owner,\n       exists (select 1 from pin p where p.gtid = o.gtid) as pinned\nfrom open_transaction o\nunion all\nselect h.gtid, h.protocol, h.outcome, 1,\n       (select group_concat(distinct b.participant) from assent_v1_branch b where b.gtid = h.gtid),\n       h.begun_at, h.decided_at, h.ended_at,\n       h.reason, null, null, null,\n       exists (select 1 from pin p where p.gtid = h.gtid)\nfrom history h;\n\ncreate view assent_v1_branch as\n-- The branches of each transaction, or the steps of each saga. `ended` is null while it is open.\nwith entry (gtid, position, entry, default_end, ended_at) as (\n    select o.gtid, cast(e.key as integer), e.value, null, null\n    from open_transaction o, json_each(''["'' || replace(o.participants, '','', ''","'') || ''"]'') e\n    where o.protocol <> ''saga'' and o.participants <> ''''\n    union all\n    select o.gtid, cast(e.key as integer), (e.value ->> ''participant'') || ''/'' || (e.value ->> ''name''), null, null\n    from open_transaction o, json_each(o.definition) e\n    where o.protocol = ''saga''\n    union all\n    select h.gtid, cast(e.key as integer), e.value, h.outcome, h.ended_at\n    from history h, json_each(''["'' || replace(h.branches, '','', ''","'') || ''"]'') e\n    where h.branches <> ''''\n),\nhalf (gtid, position, who, ended, ended_at) as (\n    select gtid, position,\n           case when instr(entry, ''='') > 0 then substr(entry, 1, instr(entry, ''='') - 1) else entry end,\n           case when instr(entry, ''='') > 0 then substr(entry, instr(entry, ''='') + 1) else default_end end,\n           ended_at\n    from entry\n)\nselect gtid, position,\n       case when instr(who, ''/'') > 0 then substr(who, 1, instr(who, ''/'') - 1) else who end as participant,\n       case when instr(who, ''/'') > 0 then substr(who, instr(who, ''/'') + 1) end as step,\n       ended, ended_at\nfrom half;\n\ncreate view assent_v1_saga_step as\n-- The steps of open sagas, with the latest answers of action and compensation. Ended sagas are in assent_v1_branch.\nselect o.gtid,\n       cast(e.key as integer) as step,\n       e.value ->> ''name'' as name,\n       e.value ->> ''participant'' as participant,\n       coalesce(e.value ->> ''pivot'', 0) as pivot,\n       a.result as action, a.attempt as action_attempt, a.reason as action_reason, a.at as action_at,\n       c.result as compensation, c.attempt as compensation_attempt, c.reason as compensation_reason, c.at as compensation_at\nfrom open_transaction o\n     join json_each(o.definition) e\n     left join saga_step a on a.gtid = o.gtid and a.step = cast(e.key as integer) and a.compensation = 0\n     left join saga_step c on c.gtid = o.gtid and c.step = cast(e.key as integer) and c.compensation = 1\nwhere o.protocol = ''saga'';\n\ncreate view assent_v1_participant as\nselect name, noted_at from participant;\n\ncreate view assent_v1_replica as\nselect name, epoch, acquired_at from replica;\n','\n',char(10)),1795978999301);
INSERT INTO migration VALUES(3,'three_phase',replace('-- Three-phase transactions: a row without a decision, in which the log is one of the voters.\n--\n-- A constraint of a table can only be changed by making the table anew. The steps come along: to drop the table that they refer to would be\n-- to delete them. The views that read either are dropped first, and made again at the end.\n\ndrop view assent_v1_transaction;\ndrop view assent_v1_branch;\ndrop view assent_v1_saga_step;\n\ncreate table new_open_transaction (\n    -- Transactions that are decided, 3PCs whose voters are agreeing, or sagas that have started, and that have not ended. The first\n    -- insert of a gtid wins.\n    gtid         text    not null primary key check (length(gtid) = 36 and substr(gtid, 15, 1) = ''7''),\n    -- The epoch of the replica that drives it.\n    owner_epoch  integer not null,\n    -- Digest of the commit or start request''s body: the same gtid with another body is refused.\n    digest       integer not null,\n    begun_at     integer not null,\n    -- When the decision, or the saga''s start, was logged; for a 3PC without a decision, when ''attempt 1 sent'' was.\n    decided_at   integer not null,\n    protocol     text    not null check (protocol in (''2pc'', ''3pc'', ''saga'')),\n    -- Of a 3PC: null while its voters are agreeing. Of a saga: null while it goes forward, abort once it has turned back.\n    decision     text    check (decision in (''commit'', ''abort'')),\n    -- Comma-separated names, in roster order: those who wait for the decision; for a saga, those who have a step.\n    participants text    not null,\n    -- Why it aborts, or turned back.\n    reason       text,\n    -- What a human must do, while the saga is paused.\n    remedy       text,\n    -- A saga''s steps, an array of objects; inputs are base64.\n    definition   text    check (json_type(definition) = ''array''),\n    -- What the log keeps as a voter of a 3PC, from ''attempt 1 sent'' on: where it stands (waiting, pre_committed, pre_aborted, committed,\n    -- aborted), the last ballot it joined, and the last one it accepted or -, with spaces between. A ballot is round.node, the node in\n    -- hexadecimal digits.\n    voter        text,\n    -- Who votes: participants in order, each with the address of its voter and the identity of its store; log, the identity of this log.\n    -- There where voter is: a decided 3PC keeps both.\n    roster       text    check (json_type(roster) = ''object''),\n    constraint a_row_fits_its_protocol check (\n        case protocol\n            when ''saga'' then definition is not null and decision is not ''commit'' and voter is null and roster is null\n            when ''3pc'' then definition is null and remedy is null and (decision is not null or voter is not null)\n                            and (voter is null) = (roster is null)\n            else definition is null and remedy is null and decision is not null and voter is null and roster is null\n        end\n    )\n) strict, without rowid;\n\ninsert into new_open_transaction (gtid, owner_epoch, digest, begun_at, decided_at, protocol, decision, participants, reason, remedy, definition)\nselect gtid, owner_epoch, digest, begun_at, decided_at, protocol, decision, participants, reason, remedy, definition\nfrom open_transaction;\n\ncreate table new_saga_step (\n    -- The latest answer of each step of the open sagas. Deleted with the saga''s end, which takes the outputs along.\n    gtid         text    not null references new_open_transaction (gtid) on delete cascade,\n    -- The step''s position in the definition, from 0.\n    step         integer not null check (step between 0 and 65535),\n    -- 1 if it is the compensation''s answer rather than the action''s.\n    compensation integer not null check (compensation in (0, 1)),\n    -- The attempt that was answered, from 1.\n    attempt      integer not null check (attempt >= 0),\n    -- done: it took effect; refused: it had none and never will; unknown: it may or may not have.\n    result       text    not null check (result in (''done'', ''refused'', ''unknown'')),\n    -- What it returned, if it is done: base64.\n    output       text,\n    -- Why it is not done.\n    reason       text,\n    at           integer not null,\n    primary key (gtid, step, compensation),\n    constraint what_is_done_has_an_output_and_all_else_a_reason check (\n        (result = ''done'') = (output is not null) and (result = ''done'') = (reason is null)\n    )\n) strict, without rowid;\n\ninsert into new_saga_step (gtid, step, compensation, attempt, result, output, reason, at)\nselect gtid, step, compensation, attempt, result, output, reason, at\nfrom saga_step;\n\ndrop table saga_step;\ndrop table open_transaction;\n-- The reference follows the name.\nalter table new_open_transaction rename to open_transaction;\nalter table new_saga_step rename to saga_step;\n\ncreate view assent_v1_transaction as\n-- Every transaction that the log knows, open or ended.\nselect o.gtid,\n       o.protocol,\n       case\n           when o.remedy is not null then ''paused''\n           when o.protocol = ''saga'' and o.decision is null then ''running''\n           when o.protocol = ''saga'' then ''compensating''\n           when o.decision is null then ''preparing''\n           when o.decision = ''commit'' then ''committing''\n           else ''aborting''\n       end as state,\n       0 as is_final,\n       o.participants,\n       o.begun_at,\n       iif(o.protocol = ''saga'' or o.decision is not null, o.decided_at, null) as decided_at,\n       null as ended_at,\n       o.reason, o.remedy, o.owner_epoch,\n       (select r.name from replica r where r.epoch = o.owner_epoch) as owner,\n       exists (select 1 from pin p where p.gtid = o.gtid) as pinned\nfrom open_transaction o\nunion all\nselect h.gtid, h.protocol, h.outcome, 1,\n       (select group_concat(distinct b.participant) from assent_v1_branch b where b.gtid = h.gtid),\n       h.begun_at, h.decided_at, h.ended_at,\n       h.reason, null, null, null,\n       exists (select 1 from pin p where p.gtid = h.gtid)\nfrom history h;\n\ncreate view assent_v1_branch as\n-- The branches of each transaction, or the steps of each saga. `ended` is null while it is open.\nwith entry (gtid, position, entry, default_end, ended_at) as (\n    select o.gtid, cast(e.key as integer), e.value, null, null\n    from open_transaction o, json_each(''["'' || replace(o.participants, '','', ''","'') || ''"]'') e\n    where o.protocol <> ''saga'' and o.participants <> ''''\n    union all\n    select o.gtid, cast(e.key as integer), (e.value ->> ''participant'') || ''/'' || (e.value ->> ''name''), null, null\n    from open_transaction o, json_each(o.definition) e\n    where o.protocol = ''saga''\n    union all\n    select h.gtid, cast(e.key as integer), e.value, h.outcome, h.ended_at\n    from history h, json_each(''["'' || replace(h.branches, '','', ''","'') || ''"]'') e\n    where h.branches <> ''''\n),\nhalf (gtid, position, who, ended, ended_at) as (\n    select gtid, position,\n           case when instr(entry, ''='') > 0 then substr(entry, 1, instr(entry, ''='') - 1) else entry end,\n           case when instr(entry, ''='') > 0 then substr(entry, instr(entry, ''='') + 1) else default_end end,\n           ended_at\n    from entry\n)\nselect gtid, position,\n       case when instr(who, ''/'') > 0 then substr(who, 1, instr(who, ''/'') - 1) else who end as participant,\n       case when instr(who, ''/'') > 0 then substr(who, instr(who, ''/'') + 1) end as step,\n       ended, ended_at\nfrom half;\n\ncreate view assent_v1_saga_step as\n-- The steps of open sagas, with the latest answers of action and compensation. Ended sagas are in assent_v1_branch.\nselect o.gtid,\n       cast(e.key as integer) as step,\n       e.value ->> ''name'' as name,\n       e.value ->> ''participant'' as participant,\n       coalesce(e.value ->> ''pivot'', 0) as pivot,\n       a.result as action, a.attempt as action_attempt, a.reason as action_reason, a.at as action_at,\n       c.result as compensation, c.attempt as compensation_attempt, c.reason as compensation_reason, c.at as compensation_at\nfrom open_transaction o\n     join json_each(o.definition) e\n     left join saga_step a on a.gtid = o.gtid and a.step = cast(e.key as integer) and a.compensation = 0\n     left join saga_step c on c.gtid = o.gtid and c.step = cast(e.key as integer) and c.compensation = 1\nwhere o.protocol = ''saga'';\n','\n',char(10)),1795978999376);
CREATE TABLE replica (
    -- Who may append: every append compares the epoch.
    name        text    not null primary key check (length(name) between 1 and 63),
    -- Appends under a lower one change nothing.
    epoch       integer not null unique check (epoch > 0),
    -- When the epoch was drawn.
    acquired_at integer not null
) strict, without rowid;
INSERT INTO replica VALUES('test',2,1795979014014);
CREATE TABLE epoch (
    -- The highest epoch that was ever drawn; one row.
    only  integer not null primary key check (only = 1),
    drawn integer not null check (drawn >= 0)
) strict;
INSERT INTO epoch VALUES(1,2);
CREATE TABLE history (
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
INSERT INTO history VALUES('01a228b0-dbad-7391-92bf-0709fba38755',1795979009002,1795979008942,1795979008973,3231888270470035419,'2pc','committed','bank-a,bank-b',NULL,NULL);
INSERT INTO history VALUES('01a228b0-dbf2-723a-8ae2-83a286491b2e',1795979009062,1795979009012,1795979009029,529031060623711753,'2pc','committed','bank-a,bank-b',NULL,NULL);
INSERT INTO history VALUES('01a228b0-dc44-7478-880d-a3a6362ca806',1795979009134,1795979009094,NULL,-717682074409210704,'2pc','aborted','bank-a,bank-b','REFUSED bank-a: insufficient funds',NULL);
INSERT INTO history VALUES('01a228b0-dc76-768b-980c-60aba2b5af4a',1795979009176,1795979009143,NULL,8994626793858031686,'2pc','committed','till-a',NULL,NULL);
INSERT INTO history VALUES('01a228b0-dca2-727f-b9e8-0087cbeeb392',1795979009214,1795979009187,NULL,-5327858831784418219,'2pc','aborted','till-a','REFUSED till-a: insufficient funds',NULL);
INSERT INTO history VALUES('01a228b0-dd24-7097-905b-bc4a5b07fb85',1795979009575,1795979009317,1795979009377,2317852021593416446,'2pc','committed','bank-a,till-a=heuristic_aborted',NULL,NULL);
INSERT INTO history VALUES('01a228b0-de4c-7464-8ac7-c29a63c978ae',1795979009820,1795979009615,1795979009820,5391913155272145032,'3pc','committed','vault-a,vault-b,vault-c',NULL,NULL);
INSERT INTO history VALUES('01a228b0-df3c-7446-a15e-f5dceeed5f55',1795979009930,1795979009856,NULL,8208650532602517260,'3pc','aborted','vault-a,vault-b,vault-c','REFUSED vault-c: insufficient funds',NULL);
INSERT INTO history VALUES('01a228b0-df94-71c1-b99d-d9d2583b70b2',1795979010008,1795979009950,1795979009950,400452916251787668,'saga','completed','clerk-a/first,clerk-b/second',NULL,'{"0":"Zmlyc3Q=","1":"c2Vjb25k"}');
INSERT INTO history VALUES('01a228b0-dfdf-77a9-82a4-273579db8079',1795979010149,1795979010017,1795979010017,-1888621551193497612,'saga','compensated','clerk-b/first,clerk-a/second=aborted','STEP_FAILED clerk-a: step second was refused: not today',NULL);
INSERT INTO history VALUES('01a228b0-e52a-7212-8799-289812fa2dc2',1795979011434,1795979011372,1795979011391,4345237878485028946,'2pc','committed','desk=read_only,bank-a',NULL,NULL);
CREATE TABLE pin (
    -- Transactions that are kept beyond the retention.
    gtid text not null primary key
) strict, without rowid;
INSERT INTO pin VALUES('01a228b0-dbf2-723a-8ae2-83a286491b2e');
CREATE TABLE participant (
    -- Every participant that ever connected.
    name     text    not null primary key check (length(name) between 1 and 63),
    -- When it was first seen.
    noted_at integer not null
) strict, without rowid;
INSERT INTO participant VALUES('bank-a',1795979000120);
INSERT INTO participant VALUES('bank-b',1795979000611);
INSERT INTO participant VALUES('bank-c',1795979001030);
INSERT INTO participant VALUES('bank-d',1795979001504);
INSERT INTO participant VALUES('bank-e',1795979001869);
INSERT INTO participant VALUES('bank-f',1795979002071);
INSERT INTO participant VALUES('chest-a',1795979007351);
INSERT INTO participant VALUES('chest-b',1795979007667);
INSERT INTO participant VALUES('chest-c',1795979008031);
INSERT INTO participant VALUES('clerk-a',1795979008142);
INSERT INTO participant VALUES('clerk-b',1795979008410);
INSERT INTO participant VALUES('clerk-c',1795979008704);
INSERT INTO participant VALUES('clerk-d',1795979008933);
INSERT INTO participant VALUES('desk',1795979011369);
INSERT INTO participant VALUES('safe-a',1795979004416);
INSERT INTO participant VALUES('safe-b',1795979004728);
INSERT INTO participant VALUES('safe-c',1795979005020);
INSERT INTO participant VALUES('safe-d',1795979005449);
INSERT INTO participant VALUES('till-a',1795979002879);
INSERT INTO participant VALUES('till-b',1795979003283);
INSERT INTO participant VALUES('till-c',1795979003625);
INSERT INTO participant VALUES('vault-a',1795979006472);
INSERT INTO participant VALUES('vault-b',1795979006738);
INSERT INTO participant VALUES('vault-c',1795979007065);
CREATE TABLE identity (
    -- The coordinator's identity, a UUID: prefixes whatever participants prepare. It moves with the log, and never changes.
    coordinator_id text    not null check (length(coordinator_id) = 36),
    -- There is one row.
    is_only_row    integer not null primary key check (is_only_row = 1)
) strict, without rowid;
INSERT INTO identity VALUES('e7effee7-be88-4206-81be-cf617a710a94',1);
CREATE TABLE IF NOT EXISTS "open_transaction" (
    -- Transactions that are decided, 3PCs whose voters are agreeing, or sagas that have started, and that have not ended. The first
    -- insert of a gtid wins.
    gtid         text    not null primary key check (length(gtid) = 36 and substr(gtid, 15, 1) = '7'),
    -- The epoch of the replica that drives it.
    owner_epoch  integer not null,
    -- Digest of the commit or start request's body: the same gtid with another body is refused.
    digest       integer not null,
    begun_at     integer not null,
    -- When the decision, or the saga's start, was logged; for a 3PC without a decision, when 'attempt 1 sent' was.
    decided_at   integer not null,
    protocol     text    not null check (protocol in ('2pc', '3pc', 'saga')),
    -- Of a 3PC: null while its voters are agreeing. Of a saga: null while it goes forward, abort once it has turned back.
    decision     text    check (decision in ('commit', 'abort')),
    -- Comma-separated names, in roster order: those who wait for the decision; for a saga, those who have a step.
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
    constraint a_row_fits_its_protocol check (
        case protocol
            when 'saga' then definition is not null and decision is not 'commit' and voter is null and roster is null
            when '3pc' then definition is null and remedy is null and (decision is not null or voter is not null)
                            and (voter is null) = (roster is null)
            else definition is null and remedy is null and decision is not null and voter is null and roster is null
        end
    )
) strict, without rowid;
INSERT INTO open_transaction VALUES('01a228b0-e175-7187-8735-036db5baabe4',2,-715626109191126803,1795979010423,1795979010454,'2pc','commit','bank-a,bank-b',NULL,NULL,NULL,NULL,NULL);
INSERT INTO open_transaction VALUES('01a228b0-e2d1-7220-9ec3-1abd615aa274',2,-1569804761728612822,1795979010770,1795979010865,'2pc','commit','bank-c,till-c',NULL,NULL,NULL,NULL,NULL);
INSERT INTO open_transaction VALUES('01a228b0-e463-7755-b75a-aeb22f57629d',2,0,1795979014235,1795979014236,'2pc','abort','bank-e','FORGOTTEN -: a prepared branch asked for a decision that was never made; presumed abort',NULL,NULL,NULL,NULL);
INSERT INTO open_transaction VALUES('01a228b0-e573-70d5-9049-c5ca6ffd7ecb',2,3244421341483603138,1795979011444,1795979011467,'2pc','commit','desk',NULL,NULL,NULL,NULL,NULL);
INSERT INTO open_transaction VALUES('01a228b0-e790-7008-b7a3-fe9ad7d832d9',2,-5998397240104741986,1795979011986,1795979013093,'3pc','commit','vault-a,vault-b,vault-c',NULL,NULL,NULL,'pre_committed 1.00000000000000000000000000000000 1.00000000000000000000000000000000','{"participants":[{"participant":"vault-a","address":"http://{address of vault-a}","store":"54fc6186-a4e2-265c-0a5a-7217d06afb65"},{"participant":"vault-b","address":"http://{address of vault-b}","store":"c1b96a04-0baf-745b-cb78-e995060988e4"},{"participant":"vault-c","address":"http://{address of vault-c}","store":"9fc4670e-8c65-937e-f493-5a785b4de397"}],"log":"e7effee7-be88-4206-81be-cf617a710a94"}');
INSERT INTO open_transaction VALUES('01a228b0-ec07-768c-8a2e-f42e3f6242a9',2,96522994154099047,1795979013129,1795979013357,'3pc',NULL,'safe-a,safe-b,safe-c',NULL,NULL,NULL,'pre_committed 2.3abb7d00df6aac1f40083b0820cfcc9a 1.00000000000000000000000000000000','{"participants":[{"participant":"safe-a","address":"http://{address of safe-a}","store":"56e76716-1160-de54-b6d8-4e185d24d833"},{"participant":"safe-b","address":"http://{address of safe-b}","store":"71e86228-d68f-ad79-7663-eee0b13d6ce6"},{"participant":"safe-c","address":"http://{address of safe-c}","store":"810142bc-27d8-ec5a-71aa-98cd846529be"}],"log":"e7effee7-be88-4206-81be-cf617a710a94"}');
INSERT INTO open_transaction VALUES('01a228b0-edb4-7202-a813-9d3519ec0a54',2,-8465952439607418922,1795979013564,1795979013564,'saga',NULL,'clerk-a,clerk-b',NULL,NULL,'[{"name":"first","participant":"clerk-a","input":"eyJpc19yZWZ1c2VkIjpmYWxzZX0=","after":[],"retry":{"initial_interval_ms":100,"maximum_interval_ms":30000,"multiplier_percent":200,"attempts_max":0,"attempt_timeout_ms":10000,"non_retryable":[]},"compensation_retry":{"initial_interval_ms":100,"maximum_interval_ms":30000,"multiplier_percent":200,"attempts_max":0,"attempt_timeout_ms":10000,"non_retryable":[]},"pivot":false,"durable":false},{"name":"second","participant":"clerk-b","input":"eyJpc19yZWZ1c2VkIjpmYWxzZX0=","after":[0],"retry":{"initial_interval_ms":100,"maximum_interval_ms":30000,"multiplier_percent":200,"attempts_max":0,"attempt_timeout_ms":10000,"non_retryable":[]},"compensation_retry":{"initial_interval_ms":100,"maximum_interval_ms":30000,"multiplier_percent":200,"attempts_max":0,"attempt_timeout_ms":10000,"non_retryable":[]},"pivot":false,"durable":false},{"name":"last","participant":"clerk-a","input":"eyJpc19yZWZ1c2VkIjpmYWxzZX0=","after":[1],"retry":{"initial_interval_ms":100,"maximum_interval_ms":30000,"multiplier_percent":200,"attempts_max":0,"attempt_timeout_ms":10000,"non_retryable":[]},"compensation_retry":{"initial_interval_ms":100,"maximum_interval_ms":30000,"multiplier_percent":200,"attempts_max":0,"attempt_timeout_ms":10000,"non_retryable":[]},"pivot":false,"durable":false}]',NULL,NULL);
INSERT INTO open_transaction VALUES('01a228b0-edeb-74b1-a813-9069a438cb29',2,-8465952439607418922,1795979013613,1795979013624,'saga',NULL,'clerk-a,clerk-b',NULL,NULL,'[{"name":"first","participant":"clerk-a","input":"eyJpc19yZWZ1c2VkIjpmYWxzZX0=","after":[],"retry":{"initial_interval_ms":100,"maximum_interval_ms":30000,"multiplier_percent":200,"attempts_max":0,"attempt_timeout_ms":10000,"non_retryable":[]},"compensation_retry":{"initial_interval_ms":100,"maximum_interval_ms":30000,"multiplier_percent":200,"attempts_max":0,"attempt_timeout_ms":10000,"non_retryable":[]},"pivot":false,"durable":false},{"name":"second","participant":"clerk-b","input":"eyJpc19yZWZ1c2VkIjpmYWxzZX0=","after":[0],"retry":{"initial_interval_ms":100,"maximum_interval_ms":30000,"multiplier_percent":200,"attempts_max":0,"attempt_timeout_ms":10000,"non_retryable":[]},"compensation_retry":{"initial_interval_ms":100,"maximum_interval_ms":30000,"multiplier_percent":200,"attempts_max":0,"attempt_timeout_ms":10000,"non_retryable":[]},"pivot":false,"durable":false},{"name":"last","participant":"clerk-a","input":"eyJpc19yZWZ1c2VkIjpmYWxzZX0=","after":[1],"retry":{"initial_interval_ms":100,"maximum_interval_ms":30000,"multiplier_percent":200,"attempts_max":0,"attempt_timeout_ms":10000,"non_retryable":[]},"compensation_retry":{"initial_interval_ms":100,"maximum_interval_ms":30000,"multiplier_percent":200,"attempts_max":0,"attempt_timeout_ms":10000,"non_retryable":[]},"pivot":false,"durable":false}]',NULL,NULL);
INSERT INTO open_transaction VALUES('01a228b0-ee35-770e-8451-d2755d563428',2,350704153274864736,1795979013687,1795979013687,'saga',NULL,'clerk-a,clerk-b',NULL,NULL,'[{"name":"first","participant":"clerk-a","input":"eyJpc19yZWZ1c2VkIjpmYWxzZX0=","after":[],"retry":{"initial_interval_ms":100,"maximum_interval_ms":30000,"multiplier_percent":200,"attempts_max":0,"attempt_timeout_ms":10000,"non_retryable":[]},"compensation_retry":{"initial_interval_ms":100,"maximum_interval_ms":30000,"multiplier_percent":200,"attempts_max":0,"attempt_timeout_ms":10000,"non_retryable":[]},"pivot":false,"durable":false},{"name":"pivot","participant":"clerk-a","input":"eyJpc19yZWZ1c2VkIjpmYWxzZX0=","after":[0],"retry":{"initial_interval_ms":100,"maximum_interval_ms":30000,"multiplier_percent":200,"attempts_max":0,"attempt_timeout_ms":10000,"non_retryable":[]},"compensation_retry":{"initial_interval_ms":100,"maximum_interval_ms":30000,"multiplier_percent":200,"attempts_max":0,"attempt_timeout_ms":10000,"non_retryable":[]},"pivot":true,"durable":false},{"name":"last","participant":"clerk-b","input":"eyJpc19yZWZ1c2VkIjpmYWxzZX0=","after":[1],"retry":{"initial_interval_ms":100,"maximum_interval_ms":30000,"multiplier_percent":200,"attempts_max":0,"attempt_timeout_ms":10000,"non_retryable":[]},"compensation_retry":{"initial_interval_ms":100,"maximum_interval_ms":30000,"multiplier_percent":200,"attempts_max":0,"attempt_timeout_ms":10000,"non_retryable":[]},"pivot":false,"durable":false}]',NULL,NULL);
INSERT INTO open_transaction VALUES('01a228b0-ee7d-730e-8dec-9540cc5ae4fd',2,4239310273840575757,1795979013758,1795979013758,'saga',NULL,'clerk-a,clerk-b',NULL,NULL,'[{"name":"first","participant":"clerk-a","input":"eyJpc19yZWZ1c2VkIjpmYWxzZX0=","after":[],"retry":{"initial_interval_ms":100,"maximum_interval_ms":30000,"multiplier_percent":200,"attempts_max":0,"attempt_timeout_ms":10000,"non_retryable":[]},"compensation_retry":{"initial_interval_ms":100,"maximum_interval_ms":30000,"multiplier_percent":200,"attempts_max":0,"attempt_timeout_ms":10000,"non_retryable":[]},"pivot":false,"durable":false},{"name":"pivot","participant":"clerk-b","input":"eyJpc19yZWZ1c2VkIjpmYWxzZX0=","after":[0],"retry":{"initial_interval_ms":100,"maximum_interval_ms":30000,"multiplier_percent":200,"attempts_max":0,"attempt_timeout_ms":10000,"non_retryable":[]},"compensation_retry":{"initial_interval_ms":100,"maximum_interval_ms":30000,"multiplier_percent":200,"attempts_max":0,"attempt_timeout_ms":10000,"non_retryable":[]},"pivot":true,"durable":false}]',NULL,NULL);
INSERT INTO open_transaction VALUES('01a228b0-eead-708d-8873-9bbdfdfb71f6',2,7997681690635271537,1795979013806,1795979013806,'saga','abort','clerk-a,clerk-c','STEP_FAILED clerk-a: step last was refused: not today',NULL,'[{"name":"first","participant":"clerk-a","input":"eyJpc19yZWZ1c2VkIjpmYWxzZX0=","after":[],"retry":{"initial_interval_ms":100,"maximum_interval_ms":30000,"multiplier_percent":200,"attempts_max":0,"attempt_timeout_ms":10000,"non_retryable":[]},"compensation_retry":{"initial_interval_ms":100,"maximum_interval_ms":30000,"multiplier_percent":200,"attempts_max":0,"attempt_timeout_ms":10000,"non_retryable":[]},"pivot":false,"durable":false},{"name":"second","participant":"clerk-c","input":"eyJpc19yZWZ1c2VkIjpmYWxzZX0=","after":[0],"retry":{"initial_interval_ms":100,"maximum_interval_ms":30000,"multiplier_percent":200,"attempts_max":0,"attempt_timeout_ms":10000,"non_retryable":[]},"compensation_retry":{"initial_interval_ms":100,"maximum_interval_ms":30000,"multiplier_percent":200,"attempts_max":0,"attempt_timeout_ms":10000,"non_retryable":[]},"pivot":false,"durable":false},{"name":"last","participant":"clerk-a","input":"eyJpc19yZWZ1c2VkIjp0cnVlfQ==","after":[1],"retry":{"initial_interval_ms":100,"maximum_interval_ms":30000,"multiplier_percent":200,"attempts_max":0,"attempt_timeout_ms":10000,"non_retryable":[]},"compensation_retry":{"initial_interval_ms":100,"maximum_interval_ms":30000,"multiplier_percent":200,"attempts_max":0,"attempt_timeout_ms":10000,"non_retryable":[]},"pivot":false,"durable":false}]',NULL,NULL);
INSERT INTO open_transaction VALUES('01a228b0-eee0-7041-b4a2-0d4118c72265',2,2416850580018743231,1795979013858,1795979013858,'saga','abort','clerk-a,clerk-d','STEP_FAILED clerk-a: step last was refused: not today',NULL,'[{"name":"first","participant":"clerk-a","input":"eyJpc19yZWZ1c2VkIjpmYWxzZX0=","after":[],"retry":{"initial_interval_ms":100,"maximum_interval_ms":30000,"multiplier_percent":200,"attempts_max":0,"attempt_timeout_ms":10000,"non_retryable":[]},"compensation_retry":{"initial_interval_ms":100,"maximum_interval_ms":30000,"multiplier_percent":200,"attempts_max":0,"attempt_timeout_ms":10000,"non_retryable":[]},"pivot":false,"durable":false},{"name":"second","participant":"clerk-d","input":"eyJpc19yZWZ1c2VkIjpmYWxzZX0=","after":[0],"retry":{"initial_interval_ms":100,"maximum_interval_ms":30000,"multiplier_percent":200,"attempts_max":0,"attempt_timeout_ms":10000,"non_retryable":[]},"compensation_retry":{"initial_interval_ms":100,"maximum_interval_ms":30000,"multiplier_percent":200,"attempts_max":0,"attempt_timeout_ms":10000,"non_retryable":[]},"pivot":false,"durable":false},{"name":"last","participant":"clerk-a","input":"eyJpc19yZWZ1c2VkIjp0cnVlfQ==","after":[1],"retry":{"initial_interval_ms":100,"maximum_interval_ms":30000,"multiplier_percent":200,"attempts_max":0,"attempt_timeout_ms":10000,"non_retryable":[]},"compensation_retry":{"initial_interval_ms":100,"maximum_interval_ms":30000,"multiplier_percent":200,"attempts_max":0,"attempt_timeout_ms":10000,"non_retryable":[]},"pivot":false,"durable":false}]',NULL,NULL);
INSERT INTO open_transaction VALUES('01a228b0-ef13-7282-ba6f-398c0e1c6eff',2,-1127676606028733791,1795979013909,1795979013909,'saga',NULL,'clerk-a',NULL,'Step last is refused by participant clerk-a (not today), but a pivot of saga 01a228b0-ef13-7282-ba6f-398c0e1c6eff has taken effect, so the saga can only go forward. Check at clerk-a why it refuses, remove the cause, then resume the saga: step last is executed again.','[{"name":"pivot","participant":"clerk-a","input":"eyJpc19yZWZ1c2VkIjpmYWxzZX0=","after":[],"retry":{"initial_interval_ms":100,"maximum_interval_ms":30000,"multiplier_percent":200,"attempts_max":0,"attempt_timeout_ms":10000,"non_retryable":[]},"compensation_retry":{"initial_interval_ms":100,"maximum_interval_ms":30000,"multiplier_percent":200,"attempts_max":0,"attempt_timeout_ms":10000,"non_retryable":[]},"pivot":true,"durable":false},{"name":"last","participant":"clerk-a","input":"eyJpc19yZWZ1c2VkIjp0cnVlfQ==","after":[0],"retry":{"initial_interval_ms":100,"maximum_interval_ms":30000,"multiplier_percent":200,"attempts_max":0,"attempt_timeout_ms":10000,"non_retryable":[]},"compensation_retry":{"initial_interval_ms":100,"maximum_interval_ms":30000,"multiplier_percent":200,"attempts_max":0,"attempt_timeout_ms":10000,"non_retryable":[]},"pivot":false,"durable":false}]',NULL,NULL);
CREATE TABLE IF NOT EXISTS "saga_step" (
    -- The latest answer of each step of the open sagas. Deleted with the saga's end, which takes the outputs along.
    gtid         text    not null references "open_transaction" (gtid) on delete cascade,
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
INSERT INTO saga_step VALUES('01a228b0-edb4-7202-a813-9d3519ec0a54',0,0,1,'done','Zmlyc3Q=',NULL,1795979013600);
INSERT INTO saga_step VALUES('01a228b0-edeb-74b1-a813-9069a438cb29',0,0,1,'done','Zmlyc3Q=',NULL,1795979013678);
INSERT INTO saga_step VALUES('01a228b0-ee35-770e-8451-d2755d563428',0,0,1,'done','Zmlyc3Q=',NULL,1795979013701);
INSERT INTO saga_step VALUES('01a228b0-ee35-770e-8451-d2755d563428',1,0,1,'done','cGl2b3Q=',NULL,1795979013730);
INSERT INTO saga_step VALUES('01a228b0-ee7d-730e-8dec-9540cc5ae4fd',0,0,1,'done','Zmlyc3Q=',NULL,1795979013766);
INSERT INTO saga_step VALUES('01a228b0-eead-708d-8873-9bbdfdfb71f6',0,0,1,'done','Zmlyc3Q=',NULL,1795979013825);
INSERT INTO saga_step VALUES('01a228b0-eead-708d-8873-9bbdfdfb71f6',1,0,1,'done','c2Vjb25k',NULL,1795979013825);
INSERT INTO saga_step VALUES('01a228b0-eead-708d-8873-9bbdfdfb71f6',2,0,1,'refused',NULL,'not today',1795979013825);
INSERT INTO saga_step VALUES('01a228b0-eee0-7041-b4a2-0d4118c72265',0,0,1,'done','Zmlyc3Q=',NULL,1795979013879);
INSERT INTO saga_step VALUES('01a228b0-eee0-7041-b4a2-0d4118c72265',1,0,1,'done','c2Vjb25k',NULL,1795979013879);
INSERT INTO saga_step VALUES('01a228b0-eee0-7041-b4a2-0d4118c72265',2,0,1,'refused',NULL,'not today',1795979013879);
INSERT INTO saga_step VALUES('01a228b0-ef13-7282-ba6f-398c0e1c6eff',0,0,1,'done','cGl2b3Q=',NULL,1795979013938);
INSERT INTO saga_step VALUES('01a228b0-ef13-7282-ba6f-398c0e1c6eff',1,0,1,'refused',NULL,'not today',1795979013938);
CREATE INDEX history_by_end on history (ended_at);
CREATE VIEW assent_v1_participant as
select name, noted_at from participant;
CREATE VIEW assent_v1_replica as
select name, epoch, acquired_at from replica;
CREATE VIEW assent_v1_transaction as
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
from history h
;
CREATE VIEW assent_v1_branch as
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
from half
;
CREATE VIEW assent_v1_saga_step as
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
where o.protocol = 'saga'
;
COMMIT;
