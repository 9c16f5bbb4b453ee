SELECT pg_catalog.set_config('search_path', '', false);
CREATE SCHEMA assent;
COMMENT ON SCHEMA assent IS 'The transaction log of Assent. The assent_v1_ views are the contract for readers.';
CREATE TYPE assent.decision AS ENUM (
    'commit',
    'abort'
);
CREATE TYPE assent.outcome AS ENUM (
    'committed',
    'aborted',
    'completed',
    'compensated'
);
CREATE TYPE assent.protocol AS ENUM (
    '2pc',
    '3pc',
    'saga'
);
CREATE TABLE assent.history (
    gtid uuid NOT NULL,
    ended_at timestamp with time zone NOT NULL,
    begun_at timestamp with time zone NOT NULL,
    decided_at timestamp with time zone,
    digest bigint NOT NULL,
    protocol assent.protocol NOT NULL,
    outcome assent.outcome NOT NULL,
    branches text NOT NULL,
    reason text,
    outputs jsonb,
    CONSTRAINT an_outcome_fits_its_protocol CHECK ((((protocol = 'saga'::assent.protocol) = (outcome >= 'completed'::assent.outcome)) AND ((outputs IS NULL) OR (protocol = 'saga'::assent.protocol))))
)
PARTITION BY RANGE (ended_at);
COMMENT ON TABLE assent.history IS 'Ended transactions, one partition a day (UTC). Whole partitions are dropped once they are older than the retention.';
COMMENT ON COLUMN assent.history.gtid IS 'The transaction''s id, a UUIDv7.';
COMMENT ON COLUMN assent.history.ended_at IS 'When the end was logged.';
COMMENT ON COLUMN assent.history.begun_at IS 'When it began.';
COMMENT ON COLUMN assent.history.decided_at IS 'When the decision, or the saga''s start, was logged; null if it aborted without a logged decision.';
COMMENT ON COLUMN assent.history.digest IS 'Digest of the commit or start request''s body.';
COMMENT ON COLUMN assent.history.protocol IS 'How its branches were brought to the same end.';
COMMENT ON COLUMN assent.history.outcome IS 'How it ended.';
COMMENT ON COLUMN assent.history.branches IS 'Comma-separated branches or steps in roster order, each participant[/step][=end]; one without =end ended as the transaction did.';
COMMENT ON COLUMN assent.history.reason IS 'Why it aborted or was compensated.';
COMMENT ON COLUMN assent.history.outputs IS 'A saga''s outputs: base64 by step position.';
CREATE TABLE assent.open_transaction (
    gtid uuid NOT NULL,
    owner_epoch bigint NOT NULL,
    digest bigint NOT NULL,
    begun_at timestamp with time zone NOT NULL,
    decided_at timestamp with time zone NOT NULL,
    protocol assent.protocol NOT NULL,
    decision assent.decision,
    participants text NOT NULL,
    reason text,
    remedy text,
    definition jsonb,
    voter text,
    roster jsonb,
    CONSTRAINT a_row_fits_its_protocol CHECK (
CASE protocol
    WHEN 'saga'::assent.protocol THEN ((definition IS NOT NULL) AND (decision IS DISTINCT FROM 'commit'::assent.decision) AND (voter IS NULL) AND (roster IS NULL))
    WHEN '3pc'::assent.protocol THEN ((definition IS NULL) AND (remedy IS NULL) AND ((decision IS NOT NULL) OR (voter IS NOT NULL)) AND ((voter IS NULL) = (roster IS NULL)))
    ELSE ((definition IS NULL) AND (remedy IS NULL) AND (decision IS NOT NULL) AND (voter IS NULL) AND (roster IS NULL))
END)
)
WITH (fillfactor='90', autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='20000', autovacuum_vacuum_cost_delay='0', autovacuum_analyze_scale_factor='0', autovacuum_analyze_threshold='1000000');
COMMENT ON TABLE assent.open_transaction IS 'Transactions that are decided, 3PCs whose voters are agreeing, or sagas that have started, and that have not ended. The first insert of a gtid wins.';
COMMENT ON COLUMN assent.open_transaction.gtid IS 'The transaction''s id, a UUIDv7.';
COMMENT ON COLUMN assent.open_transaction.owner_epoch IS 'The epoch of the replica that drives it.';
COMMENT ON COLUMN assent.open_transaction.digest IS 'Digest of the commit or start request''s body: the same gtid with another body is refused.';
COMMENT ON COLUMN assent.open_transaction.begun_at IS 'When it began.';
COMMENT ON COLUMN assent.open_transaction.decided_at IS 'When the decision, or the saga''s start, was logged; for a 3PC without a decision, when ''attempt 1 sent'' was.';
COMMENT ON COLUMN assent.open_transaction.protocol IS 'How its branches are brought to the same end.';
COMMENT ON COLUMN assent.open_transaction.decision IS 'The decision. Of a 3PC: null while its voters are agreeing. Of a saga: null while it goes forward, abort once it has turned back.';
COMMENT ON COLUMN assent.open_transaction.participants IS 'Comma-separated names, in roster order: those who wait for the decision; for a saga, those who have a step.';
COMMENT ON COLUMN assent.open_transaction.reason IS 'Why it aborts, or turned back.';
COMMENT ON COLUMN assent.open_transaction.remedy IS 'What a human must do, while the saga is paused.';
COMMENT ON COLUMN assent.open_transaction.definition IS 'A saga''s steps, an array of objects; inputs are base64.';
COMMENT ON COLUMN assent.open_transaction.voter IS 'What the log keeps as a voter of a 3PC, from ''attempt 1 sent'' on: where it stands (waiting, pre_committed, pre_aborted, committed, aborted), the last ballot it joined, and the last one it accepted or -, with spaces between. A ballot is round.node, the node in hexadecimal digits.';
COMMENT ON COLUMN assent.open_transaction.roster IS 'Who votes: participants in order, each with the address of its voter and the identity of its store; log, the identity of this log. There where voter is.';
CREATE VIEW assent.assent_v1_branch AS
 SELECT o.gtid,
    ((e."position" - 1))::integer AS "position",
    e.entry AS participant,
    NULL::text AS step,
    NULL::text AS ended,
    NULL::timestamp with time zone AS ended_at
   FROM assent.open_transaction o,
    LATERAL unnest(string_to_array(o.participants, ','::text)) WITH ORDINALITY e(entry, "position")
  WHERE (o.protocol <> 'saga'::assent.protocol)
UNION ALL
 SELECT o.gtid,
    ((e."position" - 1))::integer AS "position",
    (e.step ->> 'participant'::text) AS participant,
    (e.step ->> 'name'::text) AS step,
    NULL::text AS ended,
    NULL::timestamp with time zone AS ended_at
   FROM assent.open_transaction o,
    LATERAL jsonb_array_elements(o.definition) WITH ORDINALITY e(step, "position")
  WHERE (o.protocol = 'saga'::assent.protocol)
UNION ALL
 SELECT h.gtid,
    ((e."position" - 1))::integer AS "position",
    split_part(split_part(e.entry, '='::text, 1), '/'::text, 1) AS participant,
    NULLIF(split_part(split_part(e.entry, '='::text, 1), '/'::text, 2), ''::text) AS step,
    COALESCE(NULLIF(split_part(e.entry, '='::text, 2), ''::text), (h.outcome)::text) AS ended,
    h.ended_at
   FROM assent.history h,
    LATERAL unnest(string_to_array(h.branches, ','::text)) WITH ORDINALITY e(entry, "position");
COMMENT ON VIEW assent.assent_v1_branch IS 'The branches of each transaction, or the steps of each saga.';
COMMENT ON COLUMN assent.assent_v1_branch.gtid IS 'The transaction.';
COMMENT ON COLUMN assent.assent_v1_branch."position" IS 'Its place in the roster, from 0. Of an open transaction only the branches that wait for the decision are counted.';
COMMENT ON COLUMN assent.assent_v1_branch.participant IS 'The participant.';
COMMENT ON COLUMN assent.assent_v1_branch.step IS 'The saga step''s name; null for a branch.';
COMMENT ON COLUMN assent.assent_v1_branch.ended IS 'How it ended: committed, aborted, read_only, not_started, completed, compensated, abandoned, heuristic_committed, heuristic_aborted; null while it is open.';
COMMENT ON COLUMN assent.assent_v1_branch.ended_at IS 'When the transaction''s end was logged.';
CREATE TABLE assent.participant (
    name text NOT NULL,
    noted_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT participant_name_check CHECK ((name ~ '^[a-z0-9][a-z0-9._-]{0,62}$'::text))
);
COMMENT ON TABLE assent.participant IS 'Every participant that ever connected: a name that is not here is most likely a misspelling.';
COMMENT ON COLUMN assent.participant.name IS 'The participant''s name.';
COMMENT ON COLUMN assent.participant.noted_at IS 'When it was first seen.';
CREATE VIEW assent.assent_v1_participant AS
 SELECT p.name,
    p.noted_at
   FROM assent.participant p;
COMMENT ON VIEW assent.assent_v1_participant IS 'Every participant that ever connected.';
COMMENT ON COLUMN assent.assent_v1_participant.name IS 'The participant''s name.';
COMMENT ON COLUMN assent.assent_v1_participant.noted_at IS 'When it was first seen.';
CREATE TABLE assent.replica (
    name text NOT NULL,
    epoch bigint NOT NULL,
    connection bigint NOT NULL,
    acquired_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT replica_connection_check CHECK ((connection > 0)),
    CONSTRAINT replica_epoch_check CHECK ((epoch > 0)),
    CONSTRAINT replica_name_check CHECK ((name ~ '^[a-z0-9][a-z0-9._-]{0,62}$'::text))
);
COMMENT ON TABLE assent.replica IS 'Who may append. Every append locks its replica''s row for share and compares epoch and connection.';
COMMENT ON COLUMN assent.replica.name IS 'The replica''s name.';
COMMENT ON COLUMN assent.replica.epoch IS 'Its epoch: appends under a lower one change nothing.';
COMMENT ON COLUMN assent.replica.connection IS 'Raised by every new appending connection, so that a statement that a dead connection left behind changes nothing.';
COMMENT ON COLUMN assent.replica.acquired_at IS 'When the epoch was drawn.';
CREATE VIEW assent.assent_v1_replica AS
 SELECT r.name,
    r.epoch,
    r.acquired_at
   FROM assent.replica r;
COMMENT ON VIEW assent.assent_v1_replica IS 'The replicas and their epochs.';
COMMENT ON COLUMN assent.assent_v1_replica.name IS 'The replica''s name.';
COMMENT ON COLUMN assent.assent_v1_replica.epoch IS 'Its epoch: appends under a lower one change nothing.';
COMMENT ON COLUMN assent.assent_v1_replica.acquired_at IS 'When the epoch was drawn.';
CREATE TABLE assent.saga_step (
    gtid uuid NOT NULL,
    step integer NOT NULL,
    compensation boolean NOT NULL,
    attempt bigint NOT NULL,
    result text NOT NULL,
    output bytea,
    reason text,
    at timestamp with time zone NOT NULL,
    CONSTRAINT saga_step_attempt_check CHECK ((attempt >= 0)),
    CONSTRAINT saga_step_result_check CHECK ((result = ANY (ARRAY['done'::text, 'refused'::text, 'unknown'::text]))),
    CONSTRAINT saga_step_step_check CHECK (((step >= 0) AND (step <= 65535))),
    CONSTRAINT what_is_done_has_an_output_and_all_else_a_reason CHECK ((((result = 'done'::text) = (output IS NOT NULL)) AND ((result = 'done'::text) = (reason IS NULL))))
)
WITH (fillfactor='80', autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='20000', autovacuum_vacuum_cost_delay='0', autovacuum_analyze_scale_factor='0', autovacuum_analyze_threshold='1000000');
COMMENT ON TABLE assent.saga_step IS 'The latest answer of each step of the open sagas. Deleted with the saga''s end, which takes the outputs along.';
COMMENT ON COLUMN assent.saga_step.gtid IS 'The saga.';
COMMENT ON COLUMN assent.saga_step.step IS 'The step''s position in the definition, from 0.';
COMMENT ON COLUMN assent.saga_step.compensation IS 'Whether it is the compensation''s answer rather than the action''s.';
COMMENT ON COLUMN assent.saga_step.attempt IS 'The attempt that was answered, from 1.';
COMMENT ON COLUMN assent.saga_step.result IS 'done: it took effect; refused: it had none and never will; unknown: it may or may not have.';
COMMENT ON COLUMN assent.saga_step.output IS 'What it returned, if it is done.';
COMMENT ON COLUMN assent.saga_step.reason IS 'Why it is not done.';
COMMENT ON COLUMN assent.saga_step.at IS 'When the answer was logged.';
CREATE VIEW assent.assent_v1_saga_step AS
 SELECT o.gtid,
    ((e."position" - 1))::integer AS step,
    (e.definition ->> 'name'::text) AS name,
    (e.definition ->> 'participant'::text) AS participant,
    COALESCE(((e.definition ->> 'pivot'::text))::boolean, false) AS pivot,
    a.result AS action,
    a.attempt AS action_attempt,
    a.reason AS action_reason,
    a.at AS action_at,
    c.result AS compensation,
    c.attempt AS compensation_attempt,
    c.reason AS compensation_reason,
    c.at AS compensation_at
   FROM (((assent.open_transaction o
     CROSS JOIN LATERAL jsonb_array_elements(o.definition) WITH ORDINALITY e(definition, "position"))
     LEFT JOIN assent.saga_step a ON (((a.gtid = o.gtid) AND (a.step = (e."position" - 1)) AND (NOT a.compensation))))
     LEFT JOIN assent.saga_step c ON (((c.gtid = o.gtid) AND (c.step = (e."position" - 1)) AND c.compensation)))
  WHERE (o.protocol = 'saga'::assent.protocol);
COMMENT ON VIEW assent.assent_v1_saga_step IS 'The steps of open sagas, with the latest answers of action and compensation. Ended sagas are in assent_v1_branch.';
COMMENT ON COLUMN assent.assent_v1_saga_step.gtid IS 'The saga.';
COMMENT ON COLUMN assent.assent_v1_saga_step.step IS 'The step''s position in the definition, from 0.';
COMMENT ON COLUMN assent.assent_v1_saga_step.name IS 'The step''s name.';
COMMENT ON COLUMN assent.assent_v1_saga_step.participant IS 'Who executes and compensates it.';
COMMENT ON COLUMN assent.assent_v1_saga_step.pivot IS 'Whether there is only forward once it is done.';
COMMENT ON COLUMN assent.assent_v1_saga_step.action IS 'The action''s answer: done, refused or unknown; null before the first.';
COMMENT ON COLUMN assent.assent_v1_saga_step.action_attempt IS 'The attempt that gave it.';
COMMENT ON COLUMN assent.assent_v1_saga_step.action_reason IS 'Why it is not done.';
COMMENT ON COLUMN assent.assent_v1_saga_step.action_at IS 'When it was logged.';
COMMENT ON COLUMN assent.assent_v1_saga_step.compensation IS 'The compensation''s answer: done, refused or unknown; null before the first.';
COMMENT ON COLUMN assent.assent_v1_saga_step.compensation_attempt IS 'The attempt that gave it.';
COMMENT ON COLUMN assent.assent_v1_saga_step.compensation_reason IS 'Why it is not done.';
COMMENT ON COLUMN assent.assent_v1_saga_step.compensation_at IS 'When it was logged.';
CREATE TABLE assent.pin (
    gtid uuid NOT NULL,
    pinned_at timestamp with time zone DEFAULT now() NOT NULL
);
COMMENT ON TABLE assent.pin IS 'Transactions that are kept beyond the retention.';
COMMENT ON COLUMN assent.pin.gtid IS 'The transaction.';
COMMENT ON COLUMN assent.pin.pinned_at IS 'Since when.';
CREATE VIEW assent.assent_v1_transaction AS
 SELECT o.gtid,
    (o.protocol)::text AS protocol,
        CASE
            WHEN (o.remedy IS NOT NULL) THEN 'paused'::text
            WHEN ((o.protocol = 'saga'::assent.protocol) AND (o.decision IS NULL)) THEN 'running'::text
            WHEN (o.protocol = 'saga'::assent.protocol) THEN 'compensating'::text
            WHEN (o.decision IS NULL) THEN 'preparing'::text
            WHEN (o.decision = 'commit'::assent.decision) THEN 'committing'::text
            ELSE 'aborting'::text
        END AS state,
    false AS is_final,
    string_to_array(o.participants, ','::text) AS participants,
    o.begun_at,
        CASE
            WHEN ((o.protocol = 'saga'::assent.protocol) OR (o.decision IS NOT NULL)) THEN o.decided_at
            ELSE NULL::timestamp with time zone
        END AS decided_at,
    NULL::timestamp with time zone AS ended_at,
    o.reason,
    o.remedy,
    o.owner_epoch,
    ( SELECT r.name
           FROM assent.replica r
          WHERE (r.epoch = o.owner_epoch)) AS owner,
    (EXISTS ( SELECT
           FROM assent.pin p
          WHERE (p.gtid = o.gtid))) AS pinned
   FROM assent.open_transaction o
UNION ALL
 SELECT h.gtid,
    (h.protocol)::text AS protocol,
    (h.outcome)::text AS state,
    true AS is_final,
    ( SELECT array_agg(b.name ORDER BY b.first) AS array_agg
           FROM ( SELECT split_part(split_part(e.entry, '='::text, 1), '/'::text, 1) AS name,
                    min(e."position") AS first
                   FROM unnest(string_to_array(h.branches, ','::text)) WITH ORDINALITY e(entry, "position")
                  GROUP BY (split_part(split_part(e.entry, '='::text, 1), '/'::text, 1))) b) AS participants,
    h.begun_at,
    h.decided_at,
    h.ended_at,
    h.reason,
    NULL::text AS remedy,
    NULL::bigint AS owner_epoch,
    NULL::text AS owner,
    (EXISTS ( SELECT
           FROM assent.pin p
          WHERE (p.gtid = h.gtid))) AS pinned
   FROM assent.history h;
COMMENT ON VIEW assent.assent_v1_transaction IS 'Every transaction that the log knows, open or ended.';
COMMENT ON COLUMN assent.assent_v1_transaction.gtid IS 'The transaction''s id, a UUIDv7.';
COMMENT ON COLUMN assent.assent_v1_transaction.protocol IS '2pc, 3pc or saga.';
COMMENT ON COLUMN assent.assent_v1_transaction.state IS 'preparing, committing, aborting; running, compensating, paused; or, when final, committed, aborted, completed, compensated.';
COMMENT ON COLUMN assent.assent_v1_transaction.is_final IS 'Whether it is over.';
COMMENT ON COLUMN assent.assent_v1_transaction.participants IS 'The participants of its branches or steps, each once, in roster order.';
COMMENT ON COLUMN assent.assent_v1_transaction.begun_at IS 'When it began.';
COMMENT ON COLUMN assent.assent_v1_transaction.decided_at IS 'When the decision, or the saga''s start, was logged; null while there is none, and if it aborted without a logged decision.';
COMMENT ON COLUMN assent.assent_v1_transaction.ended_at IS 'When its end was logged.';
COMMENT ON COLUMN assent.assent_v1_transaction.reason IS 'Why it aborted or turned back.';
COMMENT ON COLUMN assent.assent_v1_transaction.remedy IS 'What a human must do, while it is paused.';
COMMENT ON COLUMN assent.assent_v1_transaction.owner_epoch IS 'The epoch of the replica that drives it, while it is open.';
COMMENT ON COLUMN assent.assent_v1_transaction.owner IS 'The replica that drives it; null if that epoch is gone.';
COMMENT ON COLUMN assent.assent_v1_transaction.pinned IS 'Whether it is kept beyond the retention.';
CREATE SEQUENCE assent.epoch
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
COMMENT ON SEQUENCE assent.epoch IS 'Epochs of all replicas are drawn from here, so that they order across replicas.';
CREATE TABLE assent.history_20261129 (
    gtid uuid NOT NULL,
    ended_at timestamp with time zone NOT NULL,
    begun_at timestamp with time zone NOT NULL,
    decided_at timestamp with time zone,
    digest bigint NOT NULL,
    protocol assent.protocol NOT NULL,
    outcome assent.outcome NOT NULL,
    branches text NOT NULL,
    reason text,
    outputs jsonb,
    CONSTRAINT an_outcome_fits_its_protocol CHECK ((((protocol = 'saga'::assent.protocol) = (outcome >= 'completed'::assent.outcome)) AND ((outputs IS NULL) OR (protocol = 'saga'::assent.protocol))))
);
CREATE TABLE assent.history_20261130 (
    gtid uuid NOT NULL,
    ended_at timestamp with time zone NOT NULL,
    begun_at timestamp with time zone NOT NULL,
    decided_at timestamp with time zone,
    digest bigint NOT NULL,
    protocol assent.protocol NOT NULL,
    outcome assent.outcome NOT NULL,
    branches text NOT NULL,
    reason text,
    outputs jsonb,
    CONSTRAINT an_outcome_fits_its_protocol CHECK ((((protocol = 'saga'::assent.protocol) = (outcome >= 'completed'::assent.outcome)) AND ((outputs IS NULL) OR (protocol = 'saga'::assent.protocol))))
);
CREATE TABLE assent.history_20261201 (
    gtid uuid NOT NULL,
    ended_at timestamp with time zone NOT NULL,
    begun_at timestamp with time zone NOT NULL,
    decided_at timestamp with time zone,
    digest bigint NOT NULL,
    protocol assent.protocol NOT NULL,
    outcome assent.outcome NOT NULL,
    branches text NOT NULL,
    reason text,
    outputs jsonb,
    CONSTRAINT an_outcome_fits_its_protocol CHECK ((((protocol = 'saga'::assent.protocol) = (outcome >= 'completed'::assent.outcome)) AND ((outputs IS NULL) OR (protocol = 'saga'::assent.protocol))))
);
CREATE TABLE assent.history_20261202 (
    gtid uuid NOT NULL,
    ended_at timestamp with time zone NOT NULL,
    begun_at timestamp with time zone NOT NULL,
    decided_at timestamp with time zone,
    digest bigint NOT NULL,
    protocol assent.protocol NOT NULL,
    outcome assent.outcome NOT NULL,
    branches text NOT NULL,
    reason text,
    outputs jsonb,
    CONSTRAINT an_outcome_fits_its_protocol CHECK ((((protocol = 'saga'::assent.protocol) = (outcome >= 'completed'::assent.outcome)) AND ((outputs IS NULL) OR (protocol = 'saga'::assent.protocol))))
);
CREATE TABLE assent.history_20261203 (
    gtid uuid NOT NULL,
    ended_at timestamp with time zone NOT NULL,
    begun_at timestamp with time zone NOT NULL,
    decided_at timestamp with time zone,
    digest bigint NOT NULL,
    protocol assent.protocol NOT NULL,
    outcome assent.outcome NOT NULL,
    branches text NOT NULL,
    reason text,
    outputs jsonb,
    CONSTRAINT an_outcome_fits_its_protocol CHECK ((((protocol = 'saga'::assent.protocol) = (outcome >= 'completed'::assent.outcome)) AND ((outputs IS NULL) OR (protocol = 'saga'::assent.protocol))))
);
CREATE TABLE assent.history_20261204 (
    gtid uuid NOT NULL,
    ended_at timestamp with time zone NOT NULL,
    begun_at timestamp with time zone NOT NULL,
    decided_at timestamp with time zone,
    digest bigint NOT NULL,
    protocol assent.protocol NOT NULL,
    outcome assent.outcome NOT NULL,
    branches text NOT NULL,
    reason text,
    outputs jsonb,
    CONSTRAINT an_outcome_fits_its_protocol CHECK ((((protocol = 'saga'::assent.protocol) = (outcome >= 'completed'::assent.outcome)) AND ((outputs IS NULL) OR (protocol = 'saga'::assent.protocol))))
);
CREATE TABLE assent.history_20261205 (
    gtid uuid NOT NULL,
    ended_at timestamp with time zone NOT NULL,
    begun_at timestamp with time zone NOT NULL,
    decided_at timestamp with time zone,
    digest bigint NOT NULL,
    protocol assent.protocol NOT NULL,
    outcome assent.outcome NOT NULL,
    branches text NOT NULL,
    reason text,
    outputs jsonb,
    CONSTRAINT an_outcome_fits_its_protocol CHECK ((((protocol = 'saga'::assent.protocol) = (outcome >= 'completed'::assent.outcome)) AND ((outputs IS NULL) OR (protocol = 'saga'::assent.protocol))))
);
CREATE TABLE assent.history_20261206 (
    gtid uuid NOT NULL,
    ended_at timestamp with time zone NOT NULL,
    begun_at timestamp with time zone NOT NULL,
    decided_at timestamp with time zone,
    digest bigint NOT NULL,
    protocol assent.protocol NOT NULL,
    outcome assent.outcome NOT NULL,
    branches text NOT NULL,
    reason text,
    outputs jsonb,
    CONSTRAINT an_outcome_fits_its_protocol CHECK ((((protocol = 'saga'::assent.protocol) = (outcome >= 'completed'::assent.outcome)) AND ((outputs IS NULL) OR (protocol = 'saga'::assent.protocol))))
);
CREATE TABLE assent.history_other (
    gtid uuid NOT NULL,
    ended_at timestamp with time zone NOT NULL,
    begun_at timestamp with time zone NOT NULL,
    decided_at timestamp with time zone,
    digest bigint NOT NULL,
    protocol assent.protocol NOT NULL,
    outcome assent.outcome NOT NULL,
    branches text NOT NULL,
    reason text,
    outputs jsonb,
    CONSTRAINT an_outcome_fits_its_protocol CHECK ((((protocol = 'saga'::assent.protocol) = (outcome >= 'completed'::assent.outcome)) AND ((outputs IS NULL) OR (protocol = 'saga'::assent.protocol))))
);
COMMENT ON TABLE assent.history_other IS 'Pinned transactions that outlived their day''s partition, and whatever found no partition.';
CREATE TABLE assent.identity (
    coordinator_id uuid DEFAULT gen_random_uuid() NOT NULL,
    is_only_row boolean DEFAULT true NOT NULL,
    CONSTRAINT identity_is_only_row_check CHECK (is_only_row)
);
COMMENT ON TABLE assent.identity IS 'One row: the coordinator''s identity. It moves with the log, and never changes.';
COMMENT ON COLUMN assent.identity.coordinator_id IS 'Prefixes whatever participants prepare, so that each coordinator ends its own and no other''s.';
COMMENT ON COLUMN assent.identity.is_only_row IS 'Always true: there is one row.';
CREATE TABLE assent.migration (
    version bigint NOT NULL,
    name text NOT NULL,
    sql text NOT NULL,
    applied_at timestamp with time zone DEFAULT now() NOT NULL,
    applied_by text DEFAULT SESSION_USER NOT NULL,
    CONSTRAINT migration_version_check CHECK ((version > 0))
);
COMMENT ON TABLE assent.migration IS 'The migrations that made this schema.';
COMMENT ON COLUMN assent.migration.version IS 'The number; the highest is the schema''s version.';
COMMENT ON COLUMN assent.migration.name IS 'What it brought.';
COMMENT ON COLUMN assent.migration.sql IS 'Its statements, to compare with those that a binary has.';
COMMENT ON COLUMN assent.migration.applied_at IS 'When.';
COMMENT ON COLUMN assent.migration.applied_by IS 'As which user.';
ALTER TABLE ONLY assent.history ATTACH PARTITION assent.history_20261129 FOR VALUES FROM ('2026-11-29 00:00:00+00') TO ('2026-11-30 00:00:00+00');
ALTER TABLE ONLY assent.history ATTACH PARTITION assent.history_20261130 FOR VALUES FROM ('2026-11-30 00:00:00+00') TO ('2026-12-01 00:00:00+00');
ALTER TABLE ONLY assent.history ATTACH PARTITION assent.history_20261201 FOR VALUES FROM ('2026-12-01 00:00:00+00') TO ('2026-12-02 00:00:00+00');
ALTER TABLE ONLY assent.history ATTACH PARTITION assent.history_20261202 FOR VALUES FROM ('2026-12-02 00:00:00+00') TO ('2026-12-03 00:00:00+00');
ALTER TABLE ONLY assent.history ATTACH PARTITION assent.history_20261203 FOR VALUES FROM ('2026-12-03 00:00:00+00') TO ('2026-12-04 00:00:00+00');
ALTER TABLE ONLY assent.history ATTACH PARTITION assent.history_20261204 FOR VALUES FROM ('2026-12-04 00:00:00+00') TO ('2026-12-05 00:00:00+00');
ALTER TABLE ONLY assent.history ATTACH PARTITION assent.history_20261205 FOR VALUES FROM ('2026-12-05 00:00:00+00') TO ('2026-12-06 00:00:00+00');
ALTER TABLE ONLY assent.history ATTACH PARTITION assent.history_20261206 FOR VALUES FROM ('2026-12-06 00:00:00+00') TO ('2026-12-07 00:00:00+00');
ALTER TABLE ONLY assent.history ATTACH PARTITION assent.history_other DEFAULT;
INSERT INTO assent.history_20261129 VALUES ('01a228b0-7572-7354-97fd-038bb83a3427', '2026-11-29 19:03:02.84+00', '2026-11-29 19:03:02.771+00', '2026-11-29 19:03:02.78+00', 3231888270470035419, '2pc', 'committed', 'bank-a,bank-b', NULL, NULL);
INSERT INTO assent.history_20261129 VALUES ('01a228b0-75ff-72e9-92b2-84921af2726b', '2026-11-29 19:03:02.967+00', '2026-11-29 19:03:02.912+00', '2026-11-29 19:03:02.924+00', 529031060623711753, '2pc', 'committed', 'bank-a,bank-b', NULL, NULL);
INSERT INTO assent.history_20261129 VALUES ('01a228b0-76a0-7522-be4f-0baeee26f15a', '2026-11-29 19:03:03.111+00', '2026-11-29 19:03:03.073+00', NULL, -717682074409210704, '2pc', 'aborted', 'bank-a,bank-b', 'REFUSED bank-a: insufficient funds', NULL);
INSERT INTO assent.history_20261129 VALUES ('01a228b0-76fe-7402-a1e7-a97bda2144ff', '2026-11-29 19:03:03.21+00', '2026-11-29 19:03:03.168+00', NULL, 8994626793858031686, '2pc', 'committed', 'till-a', NULL, NULL);
INSERT INTO assent.history_20261129 VALUES ('01a228b0-7744-768e-9aa4-2ee04a8a8a2f', '2026-11-29 19:03:03.275+00', '2026-11-29 19:03:03.24+00', NULL, -5327858831784418219, '2pc', 'aborted', 'till-a', 'REFUSED till-a: insufficient funds', NULL);
INSERT INTO assent.history_20261129 VALUES ('01a228b0-77b6-7638-998f-f386e3c37280', '2026-11-29 19:03:03.501+00', '2026-11-29 19:03:03.352+00', '2026-11-29 19:03:03.367+00', 2317852021593416446, '2pc', 'committed', 'bank-a,till-a=heuristic_aborted', NULL, NULL);
INSERT INTO assent.history_20261129 VALUES ('01a228b0-787c-7427-8f74-4d6e34e7997f', '2026-11-29 19:03:03.759+00', '2026-11-29 19:03:03.549+00', '2026-11-29 19:03:03.759+00', 5391913155272145032, '3pc', 'committed', 'vault-a,vault-b,vault-c', NULL, NULL);
INSERT INTO assent.history_20261129 VALUES ('01a228b0-796c-75c0-af5b-382aafc6a109', '2026-11-29 19:03:03.867+00', '2026-11-29 19:03:03.792+00', NULL, 8208650532602517260, '3pc', 'aborted', 'vault-a,vault-b,vault-c', 'REFUSED vault-c: insufficient funds', NULL);
INSERT INTO assent.history_20261129 VALUES ('01a228b0-79c2-751c-b72a-1abe2206a3af', '2026-11-29 19:03:03.921+00', '2026-11-29 19:03:03.876+00', '2026-11-29 19:03:03.876+00', 400452916251787668, 'saga', 'completed', 'clerk-a/first,clerk-b/second', NULL, '{"0": "Zmlyc3Q=", "1": "c2Vjb25k"}');
INSERT INTO assent.history_20261129 VALUES ('01a228b0-7a66-73c1-b624-a22bca33318b', '2026-11-29 19:03:04.091+00', '2026-11-29 19:03:04.039+00', '2026-11-29 19:03:04.04+00', -1888621551193497612, 'saga', 'compensated', 'clerk-b/first,clerk-a/second=aborted', 'STEP_FAILED clerk-a: step second was refused: not today', NULL);
INSERT INTO assent.history_20261129 VALUES ('01a228b0-7d92-7292-adcb-6f9a34be70a5', '2026-11-29 19:03:04.908+00', '2026-11-29 19:03:04.852+00', '2026-11-29 19:03:04.877+00', 4345237878485028946, '2pc', 'committed', 'desk=read_only,bank-a', NULL, NULL);
INSERT INTO assent.identity VALUES ('ff4f684a-eeba-4769-8926-d7bcbeaf459a', true);
INSERT INTO assent.migration VALUES (1, 'log', '-- The transaction log. `assent migrate` has created the schema `assent` and the table `assent.migration` before this runs,
-- and runs this file in one transaction. The views of 0002 are the contract for readers; the tables here may change.

create type assent.protocol as enum (''2pc'', ''3pc'', ''saga'');
create type assent.decision as enum (''commit'', ''abort'');
-- The order matters: from ''completed'' on they are a saga''s.
create type assent.outcome as enum (''committed'', ''aborted'', ''completed'', ''compensated'');

-- Who this log belongs to -----------------------------------------------------------------------------------------------

create table assent.identity (
    coordinator_id uuid    not null default gen_random_uuid(),
    is_only_row    boolean primary key default true check (is_only_row)
);
insert into assent.identity default values;
comment on table assent.identity is ''One row: the coordinator''''s identity. It moves with the log, and never changes.'';
comment on column assent.identity.coordinator_id is ''Prefixes whatever participants prepare, so that each coordinator ends its own and no other''''s.'';
comment on column assent.identity.is_only_row is ''Always true: there is one row.'';

-- Replicas and their epochs ------------------------------------------------------------------------------------------

create sequence assent.epoch as bigint;
comment on sequence assent.epoch is ''Epochs of all replicas are drawn from here, so that they order across replicas.'';

create table assent.replica (
    name        text        primary key check (name ~ ''^[a-z0-9][a-z0-9._-]{0,62}$''),
    epoch       bigint      not null unique check (epoch > 0),
    connection  bigint      not null check (connection > 0),
    acquired_at timestamptz not null default now()
);
comment on table assent.replica is ''Who may append. Every append locks its replica''''s row for share and compares epoch and connection.'';
comment on column assent.replica.name is ''The replica''''s name.'';
comment on column assent.replica.epoch is ''Its epoch: appends under a lower one change nothing.'';
comment on column assent.replica.connection is ''Raised by every new appending connection, so that a statement that a dead connection left behind changes nothing.'';
comment on column assent.replica.acquired_at is ''When the epoch was drawn.'';

-- Open transactions ----------------------------------------------------------------------------------------------------

-- Rows come and go at the rate of transactions, so this table is all churn: only the one index that first-writer-wins
-- needs, and vacuum as soon as there is something to do, at full speed. A 2PC''s row is never updated, a saga''s seldom.
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
        case when protocol <> ''saga''
            then decision is not null and definition is null and remedy is null
            else definition is not null and decision is distinct from ''commit''
        end
    )
) with (
    fillfactor = 90,
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000, autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 1000000
);
comment on table assent.open_transaction is ''Transactions that are decided, or sagas that have started, and have not ended. The first insert of a gtid wins.'';
comment on column assent.open_transaction.gtid is ''The transaction''''s id, a UUIDv7.'';
comment on column assent.open_transaction.owner_epoch is ''The epoch of the replica that drives it.'';
comment on column assent.open_transaction.digest is ''Digest of the commit or start request''''s body: the same gtid with another body is refused.'';
comment on column assent.open_transaction.begun_at is ''When it began.'';
comment on column assent.open_transaction.decided_at is ''When the decision, or the saga''''s start, was logged.'';
comment on column assent.open_transaction.protocol is ''How its branches are brought to the same end.'';
comment on column assent.open_transaction.decision is ''The decision. Of a saga: null while it goes forward, abort once it has turned back.'';
comment on column assent.open_transaction.participants is ''Comma-separated names, in roster order: those who wait for the decision; for a saga, those who have a step.'';
comment on column assent.open_transaction.reason is ''Why it aborts, or turned back.'';
comment on column assent.open_transaction.remedy is ''What a human must do, while the saga is paused.'';
comment on column assent.open_transaction.definition is ''A saga''''s steps, an array of objects; inputs are base64.'';

create table assent.saga_step (
    gtid         uuid        not null,
    step         integer     not null check (step between 0 and 65535),
    compensation boolean     not null,
    attempt      bigint      not null check (attempt >= 0),
    result       text        not null check (result in (''done'', ''refused'', ''unknown'')),
    output       bytea,
    reason       text,
    at           timestamptz not null,
    primary key (gtid, step, compensation),
    constraint what_is_done_has_an_output_and_all_else_a_reason check (
        (result = ''done'') = (output is not null) and (result = ''done'') = (reason is null)
    )
) with (
    fillfactor = 80,
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000, autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 1000000
);
-- No foreign key to open_transaction: it would run a trigger for every transaction that ends, sagas or not.
comment on table assent.saga_step is ''The latest answer of each step of the open sagas. Deleted with the saga''''s end, which takes the outputs along.'';
comment on column assent.saga_step.gtid is ''The saga.'';
comment on column assent.saga_step.step is ''The step''''s position in the definition, from 0.'';
comment on column assent.saga_step.compensation is ''Whether it is the compensation''''s answer rather than the action''''s.'';
comment on column assent.saga_step.attempt is ''The attempt that was answered, from 1.'';
comment on column assent.saga_step.result is ''done: it took effect; refused: it had none and never will; unknown: it may or may not have.'';
comment on column assent.saga_step.output is ''What it returned, if it is done.'';
comment on column assent.saga_step.reason is ''Why it is not done.'';
comment on column assent.saga_step.at is ''When the answer was logged.'';

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
    constraint an_outcome_fits_its_protocol check ((protocol = ''saga'') = (outcome >= ''completed'') and (outputs is null or protocol = ''saga''))
) partition by range (ended_at);
comment on table assent.history is ''Ended transactions, one partition a day (UTC). Whole partitions are dropped once they are older than the retention.'';
comment on column assent.history.gtid is ''The transaction''''s id, a UUIDv7.'';
comment on column assent.history.ended_at is ''When the end was logged.'';
comment on column assent.history.begun_at is ''When it began.'';
comment on column assent.history.decided_at is ''When the decision, or the saga''''s start, was logged; null if it aborted without a logged decision.'';
comment on column assent.history.digest is ''Digest of the commit or start request''''s body.'';
comment on column assent.history.protocol is ''How its branches were brought to the same end.'';
comment on column assent.history.outcome is ''How it ended.'';
comment on column assent.history.branches is ''Comma-separated branches or steps in roster order, each participant[/step][=end]; one without =end ended as the transaction did.'';
comment on column assent.history.reason is ''Why it aborted or was compensated.'';
comment on column assent.history.outputs is ''A saga''''s outputs: base64 by step position.'';

-- Where rows go that belong to no day''s partition: the pinned ones whose partition was dropped, and any row at all should
-- maintenance not have run for too long. An append must never fail for want of a partition.
create table assent.history_other partition of assent.history default;
comment on table assent.history_other is ''Pinned transactions that outlived their day''''s partition, and whatever found no partition.'';

create table assent.pin (
    gtid      uuid        primary key,
    pinned_at timestamptz not null default now()
);
comment on table assent.pin is ''Transactions that are kept beyond the retention.'';
comment on column assent.pin.gtid is ''The transaction.'';
comment on column assent.pin.pinned_at is ''Since when.'';

-- Participants -----------------------------------------------------------------------------------------------------------

create table assent.participant (
    name     text        primary key check (name ~ ''^[a-z0-9][a-z0-9._-]{0,62}$''),
    noted_at timestamptz not null default now()
);
comment on table assent.participant is ''Every participant that ever connected: a name that is not here is most likely a misspelling.'';
comment on column assent.participant.name is ''The participant''''s name.'';
comment on column assent.participant.noted_at is ''When it was first seen.'';
', '2026-11-29 19:02:55.303438+00', 'assent');
INSERT INTO assent.migration VALUES (2, 'views', '-- The contract for psql, Grafana and whatever else reads the log. Columns may be added to an assent_v1_ view; none is ever renamed,
-- retyped or removed: that would be assent_v2_. Filter assent_v1_transaction and assent_v1_branch by gtid, or by ended_at, which
-- leaves out the other days'' partitions.

create view assent.assent_v1_transaction as
select o.gtid,
       o.protocol::text as protocol,
       case
           when o.remedy is not null then ''paused''
           when o.protocol = ''saga'' and o.decision is null then ''running''
           when o.protocol = ''saga'' then ''compensating''
           when o.decision = ''commit'' then ''committing''
           else ''aborting''
       end as state,
       false as is_final,
       string_to_array(o.participants, '','') as participants,
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
        from (select split_part(split_part(e.entry, ''='', 1), ''/'', 1) as name, min(e.position) as first
              from unnest(string_to_array(h.branches, '','')) with ordinality as e (entry, position)
              group by 1) b),
       h.begun_at, h.decided_at, h.ended_at,
       h.reason, null, null, null,
       exists (select from assent.pin p where p.gtid = h.gtid)
from assent.history h;
comment on view assent.assent_v1_transaction is ''Every transaction that the log knows, open or ended.'';
comment on column assent.assent_v1_transaction.gtid is ''The transaction''''s id, a UUIDv7.'';
comment on column assent.assent_v1_transaction.protocol is ''2pc, 3pc or saga.'';
comment on column assent.assent_v1_transaction.state is ''committing, aborting; running, compensating, paused; or, when final, committed, aborted, completed, compensated.'';
comment on column assent.assent_v1_transaction.is_final is ''Whether it is over.'';
comment on column assent.assent_v1_transaction.participants is ''The participants of its branches or steps, each once, in roster order.'';
comment on column assent.assent_v1_transaction.begun_at is ''When it began.'';
comment on column assent.assent_v1_transaction.decided_at is ''When the decision, or the saga''''s start, was logged; null if it aborted without a logged decision.'';
comment on column assent.assent_v1_transaction.ended_at is ''When its end was logged.'';
comment on column assent.assent_v1_transaction.reason is ''Why it aborted or turned back.'';
comment on column assent.assent_v1_transaction.remedy is ''What a human must do, while it is paused.'';
comment on column assent.assent_v1_transaction.owner_epoch is ''The epoch of the replica that drives it, while it is open.'';
comment on column assent.assent_v1_transaction.owner is ''The replica that drives it; null if that epoch is gone.'';
comment on column assent.assent_v1_transaction.pinned is ''Whether it is kept beyond the retention.'';

create view assent.assent_v1_branch as
select o.gtid, (e.position - 1)::integer as position, e.entry as participant, null::text as step, null::text as ended, null::timestamptz as ended_at
from assent.open_transaction o, unnest(string_to_array(o.participants, '','')) with ordinality as e (entry, position)
where o.protocol <> ''saga''
union all
select o.gtid, (e.position - 1)::integer, e.step ->> ''participant'', e.step ->> ''name'', null, null
from assent.open_transaction o, jsonb_array_elements(o.definition) with ordinality as e (step, position)
where o.protocol = ''saga''
union all
select h.gtid,
       (e.position - 1)::integer,
       split_part(split_part(e.entry, ''='', 1), ''/'', 1),
       nullif(split_part(split_part(e.entry, ''='', 1), ''/'', 2), ''''),
       coalesce(nullif(split_part(e.entry, ''='', 2), ''''), h.outcome::text),
       h.ended_at
from assent.history h, unnest(string_to_array(h.branches, '','')) with ordinality as e (entry, position);
comment on view assent.assent_v1_branch is ''The branches of each transaction, or the steps of each saga.'';
comment on column assent.assent_v1_branch.gtid is ''The transaction.'';
comment on column assent.assent_v1_branch.position is ''Its place in the roster, from 0. Of an open transaction only the branches that wait for the decision are counted.'';
comment on column assent.assent_v1_branch.participant is ''The participant.'';
comment on column assent.assent_v1_branch.step is ''The saga step''''s name; null for a branch.'';
comment on column assent.assent_v1_branch.ended is ''How it ended: committed, aborted, read_only, not_started, completed, compensated, abandoned, heuristic_committed, heuristic_aborted; null while it is open.'';
comment on column assent.assent_v1_branch.ended_at is ''When the transaction''''s end was logged.'';

create view assent.assent_v1_saga_step as
select o.gtid,
       (e.position - 1)::integer as step,
       e.definition ->> ''name'' as name,
       e.definition ->> ''participant'' as participant,
       coalesce((e.definition ->> ''pivot'')::boolean, false) as pivot,
       a.result as action, a.attempt as action_attempt, a.reason as action_reason, a.at as action_at,
       c.result as compensation, c.attempt as compensation_attempt, c.reason as compensation_reason, c.at as compensation_at
from assent.open_transaction o
     cross join lateral jsonb_array_elements(o.definition) with ordinality as e (definition, position)
     left join assent.saga_step a on a.gtid = o.gtid and a.step = e.position - 1 and not a.compensation
     left join assent.saga_step c on c.gtid = o.gtid and c.step = e.position - 1 and c.compensation
where o.protocol = ''saga'';
comment on view assent.assent_v1_saga_step is ''The steps of open sagas, with the latest answers of action and compensation. Ended sagas are in assent_v1_branch.'';
comment on column assent.assent_v1_saga_step.gtid is ''The saga.'';
comment on column assent.assent_v1_saga_step.step is ''The step''''s position in the definition, from 0.'';
comment on column assent.assent_v1_saga_step.name is ''The step''''s name.'';
comment on column assent.assent_v1_saga_step.participant is ''Who executes and compensates it.'';
comment on column assent.assent_v1_saga_step.pivot is ''Whether there is only forward once it is done.'';
comment on column assent.assent_v1_saga_step.action is ''The action''''s answer: done, refused or unknown; null before the first.'';
comment on column assent.assent_v1_saga_step.action_attempt is ''The attempt that gave it.'';
comment on column assent.assent_v1_saga_step.action_reason is ''Why it is not done.'';
comment on column assent.assent_v1_saga_step.action_at is ''When it was logged.'';
comment on column assent.assent_v1_saga_step.compensation is ''The compensation''''s answer: done, refused or unknown; null before the first.'';
comment on column assent.assent_v1_saga_step.compensation_attempt is ''The attempt that gave it.'';
comment on column assent.assent_v1_saga_step.compensation_reason is ''Why it is not done.'';
comment on column assent.assent_v1_saga_step.compensation_at is ''When it was logged.'';

create view assent.assent_v1_participant as
select p.name, p.noted_at from assent.participant p;
comment on view assent.assent_v1_participant is ''Every participant that ever connected.'';
comment on column assent.assent_v1_participant.name is ''The participant''''s name.'';
comment on column assent.assent_v1_participant.noted_at is ''When it was first seen.'';

create view assent.assent_v1_replica as
select r.name, r.epoch, r.acquired_at from assent.replica r;
comment on view assent.assent_v1_replica is ''The replicas and their epochs.'';
comment on column assent.assent_v1_replica.name is ''The replica''''s name.'';
comment on column assent.assent_v1_replica.epoch is ''Its epoch: appends under a lower one change nothing.'';
comment on column assent.assent_v1_replica.acquired_at is ''When the epoch was drawn.'';
', '2026-11-29 19:02:55.303438+00', 'assent');
INSERT INTO assent.migration VALUES (3, 'three_phase', '-- Three-phase transactions: a row without a decision, in which the log is one of the voters.

-- A decided 3PC keeps both columns if it had them: recovery tells its voters. No 2PC writes them.
alter table assent.open_transaction
    add column voter  text,
    add column roster jsonb,
    drop constraint a_row_fits_its_protocol,
    -- One constraint and not eight: Postgres reads each one anew for every statement.
    add constraint a_row_fits_its_protocol check (
        case protocol
            when ''saga'' then definition is not null and decision is distinct from ''commit'' and voter is null and roster is null
            when ''3pc'' then definition is null and remedy is null and (decision is not null or voter is not null)
                            and (voter is null) = (roster is null)
            else definition is null and remedy is null and decision is not null and voter is null and roster is null
        end
    );
comment on table assent.open_transaction is ''Transactions that are decided, 3PCs whose voters are agreeing, or sagas that have started, and that have not ended. The first insert of a gtid wins.'';
comment on column assent.open_transaction.decided_at is ''When the decision, or the saga''''s start, was logged; for a 3PC without a decision, when ''''attempt 1 sent'''' was.'';
comment on column assent.open_transaction.decision is ''The decision. Of a 3PC: null while its voters are agreeing. Of a saga: null while it goes forward, abort once it has turned back.'';
comment on column assent.open_transaction.voter is ''What the log keeps as a voter of a 3PC, from ''''attempt 1 sent'''' on: where it stands (waiting, pre_committed, pre_aborted, committed, aborted), the last ballot it joined, and the last one it accepted or -, with spaces between. A ballot is round.node, the node in hexadecimal digits.'';
comment on column assent.open_transaction.roster is ''Who votes: participants in order, each with the address of its voter and the identity of its store; log, the identity of this log. There where voter is.'';

create or replace view assent.assent_v1_transaction as
select o.gtid,
       o.protocol::text as protocol,
       case
           when o.remedy is not null then ''paused''
           when o.protocol = ''saga'' and o.decision is null then ''running''
           when o.protocol = ''saga'' then ''compensating''
           when o.decision is null then ''preparing''
           when o.decision = ''commit'' then ''committing''
           else ''aborting''
       end as state,
       false as is_final,
       string_to_array(o.participants, '','') as participants,
       o.begun_at,
       case when o.protocol = ''saga'' or o.decision is not null then o.decided_at end as decided_at,
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
        from (select split_part(split_part(e.entry, ''='', 1), ''/'', 1) as name, min(e.position) as first
              from unnest(string_to_array(h.branches, '','')) with ordinality as e (entry, position)
              group by 1) b),
       h.begun_at, h.decided_at, h.ended_at,
       h.reason, null, null, null,
       exists (select from assent.pin p where p.gtid = h.gtid)
from assent.history h;
comment on column assent.assent_v1_transaction.state is ''preparing, committing, aborting; running, compensating, paused; or, when final, committed, aborted, completed, compensated.'';
comment on column assent.assent_v1_transaction.decided_at is ''When the decision, or the saga''''s start, was logged; null while there is none, and if it aborted without a logged decision.'';
', '2026-11-29 19:02:55.303438+00', 'assent');
INSERT INTO assent.open_transaction VALUES ('01a228b0-7b0a-76ec-8e34-7e010810d091', 3, -715626109191126803, '2026-11-29 19:03:04.204+00', '2026-11-29 19:03:04.213+00', '2pc', 'commit', 'bank-a,bank-b', NULL, NULL, NULL, NULL, NULL);
INSERT INTO assent.open_transaction VALUES ('01a228b0-7bd8-70e6-87c5-87562e284aa5', 3, -1569804761728612822, '2026-11-29 19:03:04.409+00', '2026-11-29 19:03:04.433+00', '2pc', 'commit', 'bank-c,till-c', NULL, NULL, NULL, NULL, NULL);
INSERT INTO assent.open_transaction VALUES ('01a228b0-7e1a-7054-b469-bd8812bfb418', 3, 3244421341483603138, '2026-11-29 19:03:04.987+00', '2026-11-29 19:03:05.013+00', '2pc', 'commit', 'desk', NULL, NULL, NULL, NULL, NULL);
INSERT INTO assent.open_transaction VALUES ('01a228b0-80ca-713f-8ada-355008b656e6', 3, -5998397240104741986, '2026-11-29 19:03:05.676+00', '2026-11-29 19:03:06.726+00', '3pc', 'commit', 'vault-a,vault-b,vault-c', NULL, NULL, NULL, 'pre_committed 1.00000000000000000000000000000000 1.00000000000000000000000000000000', '{"log": "ff4f684a-eeba-4769-8926-d7bcbeaf459a", "participants": [{"store": "3f0f4bd1-965d-3a2c-ae95-3b3351cfe6da", "address": "http://{address of vault-a}", "participant": "vault-a"}, {"store": "ab5f3850-022c-179e-1289-99390bd84ff3", "address": "http://{address of vault-b}", "participant": "vault-b"}, {"store": "a3b5e427-f453-9889-1ced-27b63c947e15", "address": "http://{address of vault-c}", "participant": "vault-c"}]}');
INSERT INTO assent.open_transaction VALUES ('01a228b0-8772-77b5-9343-1ea39246e310', 3, 4239310273840575757, '2026-11-29 19:03:07.379+00', '2026-11-29 19:03:07.379+00', 'saga', NULL, 'clerk-a,clerk-b', NULL, NULL, '[{"name": "first", "after": [], "input": "eyJpc19yZWZ1c2VkIjpmYWxzZX0=", "pivot": false, "retry": {"attempts_max": 0, "non_retryable": [], "attempt_timeout_ms": 10000, "multiplier_percent": 200, "initial_interval_ms": 100, "maximum_interval_ms": 30000}, "durable": false, "participant": "clerk-a", "compensation_retry": {"attempts_max": 0, "non_retryable": [], "attempt_timeout_ms": 10000, "multiplier_percent": 200, "initial_interval_ms": 100, "maximum_interval_ms": 30000}}, {"name": "pivot", "after": [0], "input": "eyJpc19yZWZ1c2VkIjpmYWxzZX0=", "pivot": true, "retry": {"attempts_max": 0, "non_retryable": [], "attempt_timeout_ms": 10000, "multiplier_percent": 200, "initial_interval_ms": 100, "maximum_interval_ms": 30000}, "durable": false, "participant": "clerk-b", "compensation_retry": {"attempts_max": 0, "non_retryable": [], "attempt_timeout_ms": 10000, "multiplier_percent": 200, "initial_interval_ms": 100, "maximum_interval_ms": 30000}}]', NULL, NULL);
INSERT INTO assent.open_transaction VALUES ('01a228b0-86a2-73b2-9760-3118a3649bd4', 3, -8465952439607418922, '2026-11-29 19:03:07.172+00', '2026-11-29 19:03:07.172+00', 'saga', NULL, 'clerk-a,clerk-b', NULL, NULL, '[{"name": "first", "after": [], "input": "eyJpc19yZWZ1c2VkIjpmYWxzZX0=", "pivot": false, "retry": {"attempts_max": 0, "non_retryable": [], "attempt_timeout_ms": 10000, "multiplier_percent": 200, "initial_interval_ms": 100, "maximum_interval_ms": 30000}, "durable": false, "participant": "clerk-a", "compensation_retry": {"attempts_max": 0, "non_retryable": [], "attempt_timeout_ms": 10000, "multiplier_percent": 200, "initial_interval_ms": 100, "maximum_interval_ms": 30000}}, {"name": "second", "after": [0], "input": "eyJpc19yZWZ1c2VkIjpmYWxzZX0=", "pivot": false, "retry": {"attempts_max": 0, "non_retryable": [], "attempt_timeout_ms": 10000, "multiplier_percent": 200, "initial_interval_ms": 100, "maximum_interval_ms": 30000}, "durable": false, "participant": "clerk-b", "compensation_retry": {"attempts_max": 0, "non_retryable": [], "attempt_timeout_ms": 10000, "multiplier_percent": 200, "initial_interval_ms": 100, "maximum_interval_ms": 30000}}, {"name": "last", "after": [1], "input": "eyJpc19yZWZ1c2VkIjpmYWxzZX0=", "pivot": false, "retry": {"attempts_max": 0, "non_retryable": [], "attempt_timeout_ms": 10000, "multiplier_percent": 200, "initial_interval_ms": 100, "maximum_interval_ms": 30000}, "durable": false, "participant": "clerk-a", "compensation_retry": {"attempts_max": 0, "non_retryable": [], "attempt_timeout_ms": 10000, "multiplier_percent": 200, "initial_interval_ms": 100, "maximum_interval_ms": 30000}}]', NULL, NULL);
INSERT INTO assent.open_transaction VALUES ('01a228b0-86c1-70f5-8873-3ecd0d1241f1', 3, -8465952439607418922, '2026-11-29 19:03:07.203+00', '2026-11-29 19:03:07.206+00', 'saga', NULL, 'clerk-a,clerk-b', NULL, NULL, '[{"name": "first", "after": [], "input": "eyJpc19yZWZ1c2VkIjpmYWxzZX0=", "pivot": false, "retry": {"attempts_max": 0, "non_retryable": [], "attempt_timeout_ms": 10000, "multiplier_percent": 200, "initial_interval_ms": 100, "maximum_interval_ms": 30000}, "durable": false, "participant": "clerk-a", "compensation_retry": {"attempts_max": 0, "non_retryable": [], "attempt_timeout_ms": 10000, "multiplier_percent": 200, "initial_interval_ms": 100, "maximum_interval_ms": 30000}}, {"name": "second", "after": [0], "input": "eyJpc19yZWZ1c2VkIjpmYWxzZX0=", "pivot": false, "retry": {"attempts_max": 0, "non_retryable": [], "attempt_timeout_ms": 10000, "multiplier_percent": 200, "initial_interval_ms": 100, "maximum_interval_ms": 30000}, "durable": false, "participant": "clerk-b", "compensation_retry": {"attempts_max": 0, "non_retryable": [], "attempt_timeout_ms": 10000, "multiplier_percent": 200, "initial_interval_ms": 100, "maximum_interval_ms": 30000}}, {"name": "last", "after": [1], "input": "eyJpc19yZWZ1c2VkIjpmYWxzZX0=", "pivot": false, "retry": {"attempts_max": 0, "non_retryable": [], "attempt_timeout_ms": 10000, "multiplier_percent": 200, "initial_interval_ms": 100, "maximum_interval_ms": 30000}, "durable": false, "participant": "clerk-a", "compensation_retry": {"attempts_max": 0, "non_retryable": [], "attempt_timeout_ms": 10000, "multiplier_percent": 200, "initial_interval_ms": 100, "maximum_interval_ms": 30000}}]', NULL, NULL);
INSERT INTO assent.open_transaction VALUES ('01a228b0-8503-71f8-98d8-8de1c199dc88', 3, 96522994154099047, '2026-11-29 19:03:06.757+00', '2026-11-29 19:03:06.985+00', '3pc', NULL, 'safe-a,safe-b,safe-c', NULL, NULL, NULL, 'pre_committed 2.0fdda5f122b45aeb5e5892c681ed8e75 1.00000000000000000000000000000000', '{"log": "ff4f684a-eeba-4769-8926-d7bcbeaf459a", "participants": [{"store": "d91e3d53-4cc8-4d54-9e4a-c5ecbd5c0168", "address": "http://{address of safe-a}", "participant": "safe-a"}, {"store": "3ebe44c9-ce8a-e1a2-59a4-87f5b483bd63", "address": "http://{address of safe-b}", "participant": "safe-b"}, {"store": "086b01d5-ef37-9432-18a3-b75c1c02755e", "address": "http://{address of safe-c}", "participant": "safe-c"}]}');
INSERT INTO assent.open_transaction VALUES ('01a228b0-86fd-71f8-b287-b2d26f533536', 3, 350704153274864736, '2026-11-29 19:03:07.263+00', '2026-11-29 19:03:07.263+00', 'saga', NULL, 'clerk-a,clerk-b', NULL, NULL, '[{"name": "first", "after": [], "input": "eyJpc19yZWZ1c2VkIjpmYWxzZX0=", "pivot": false, "retry": {"attempts_max": 0, "non_retryable": [], "attempt_timeout_ms": 10000, "multiplier_percent": 200, "initial_interval_ms": 100, "maximum_interval_ms": 30000}, "durable": false, "participant": "clerk-a", "compensation_retry": {"attempts_max": 0, "non_retryable": [], "attempt_timeout_ms": 10000, "multiplier_percent": 200, "initial_interval_ms": 100, "maximum_interval_ms": 30000}}, {"name": "pivot", "after": [0], "input": "eyJpc19yZWZ1c2VkIjpmYWxzZX0=", "pivot": true, "retry": {"attempts_max": 0, "non_retryable": [], "attempt_timeout_ms": 10000, "multiplier_percent": 200, "initial_interval_ms": 100, "maximum_interval_ms": 30000}, "durable": false, "participant": "clerk-a", "compensation_retry": {"attempts_max": 0, "non_retryable": [], "attempt_timeout_ms": 10000, "multiplier_percent": 200, "initial_interval_ms": 100, "maximum_interval_ms": 30000}}, {"name": "last", "after": [1], "input": "eyJpc19yZWZ1c2VkIjpmYWxzZX0=", "pivot": false, "retry": {"attempts_max": 0, "non_retryable": [], "attempt_timeout_ms": 10000, "multiplier_percent": 200, "initial_interval_ms": 100, "maximum_interval_ms": 30000}, "durable": false, "participant": "clerk-b", "compensation_retry": {"attempts_max": 0, "non_retryable": [], "attempt_timeout_ms": 10000, "multiplier_percent": 200, "initial_interval_ms": 100, "maximum_interval_ms": 30000}}]', NULL, NULL);
INSERT INTO assent.open_transaction VALUES ('01a228b0-87a7-7194-8beb-a90169114dc5', 3, 7997681690635271537, '2026-11-29 19:03:07.436+00', '2026-11-29 19:03:07.436+00', 'saga', 'abort', 'clerk-a,clerk-c', 'STEP_FAILED clerk-a: step last was refused: not today', NULL, '[{"name": "first", "after": [], "input": "eyJpc19yZWZ1c2VkIjpmYWxzZX0=", "pivot": false, "retry": {"attempts_max": 0, "non_retryable": [], "attempt_timeout_ms": 10000, "multiplier_percent": 200, "initial_interval_ms": 100, "maximum_interval_ms": 30000}, "durable": false, "participant": "clerk-a", "compensation_retry": {"attempts_max": 0, "non_retryable": [], "attempt_timeout_ms": 10000, "multiplier_percent": 200, "initial_interval_ms": 100, "maximum_interval_ms": 30000}}, {"name": "second", "after": [0], "input": "eyJpc19yZWZ1c2VkIjpmYWxzZX0=", "pivot": false, "retry": {"attempts_max": 0, "non_retryable": [], "attempt_timeout_ms": 10000, "multiplier_percent": 200, "initial_interval_ms": 100, "maximum_interval_ms": 30000}, "durable": false, "participant": "clerk-c", "compensation_retry": {"attempts_max": 0, "non_retryable": [], "attempt_timeout_ms": 10000, "multiplier_percent": 200, "initial_interval_ms": 100, "maximum_interval_ms": 30000}}, {"name": "last", "after": [1], "input": "eyJpc19yZWZ1c2VkIjp0cnVlfQ==", "pivot": false, "retry": {"attempts_max": 0, "non_retryable": [], "attempt_timeout_ms": 10000, "multiplier_percent": 200, "initial_interval_ms": 100, "maximum_interval_ms": 30000}, "durable": false, "participant": "clerk-a", "compensation_retry": {"attempts_max": 0, "non_retryable": [], "attempt_timeout_ms": 10000, "multiplier_percent": 200, "initial_interval_ms": 100, "maximum_interval_ms": 30000}}]', NULL, NULL);
INSERT INTO assent.open_transaction VALUES ('01a228b0-8819-76b5-b439-c2e81ae9da05', 3, 2416850580018743231, '2026-11-29 19:03:07.546+00', '2026-11-29 19:03:07.546+00', 'saga', 'abort', 'clerk-a,clerk-d', 'STEP_FAILED clerk-a: step last was refused: not today', NULL, '[{"name": "first", "after": [], "input": "eyJpc19yZWZ1c2VkIjpmYWxzZX0=", "pivot": false, "retry": {"attempts_max": 0, "non_retryable": [], "attempt_timeout_ms": 10000, "multiplier_percent": 200, "initial_interval_ms": 100, "maximum_interval_ms": 30000}, "durable": false, "participant": "clerk-a", "compensation_retry": {"attempts_max": 0, "non_retryable": [], "attempt_timeout_ms": 10000, "multiplier_percent": 200, "initial_interval_ms": 100, "maximum_interval_ms": 30000}}, {"name": "second", "after": [0], "input": "eyJpc19yZWZ1c2VkIjpmYWxzZX0=", "pivot": false, "retry": {"attempts_max": 0, "non_retryable": [], "attempt_timeout_ms": 10000, "multiplier_percent": 200, "initial_interval_ms": 100, "maximum_interval_ms": 30000}, "durable": false, "participant": "clerk-d", "compensation_retry": {"attempts_max": 0, "non_retryable": [], "attempt_timeout_ms": 10000, "multiplier_percent": 200, "initial_interval_ms": 100, "maximum_interval_ms": 30000}}, {"name": "last", "after": [1], "input": "eyJpc19yZWZ1c2VkIjp0cnVlfQ==", "pivot": false, "retry": {"attempts_max": 0, "non_retryable": [], "attempt_timeout_ms": 10000, "multiplier_percent": 200, "initial_interval_ms": 100, "maximum_interval_ms": 30000}, "durable": false, "participant": "clerk-a", "compensation_retry": {"attempts_max": 0, "non_retryable": [], "attempt_timeout_ms": 10000, "multiplier_percent": 200, "initial_interval_ms": 100, "maximum_interval_ms": 30000}}]', NULL, NULL);
INSERT INTO assent.open_transaction VALUES ('01a228b0-8867-73d7-98bb-04adc2c3e03d', 3, -1127676606028733791, '2026-11-29 19:03:07.624+00', '2026-11-29 19:03:07.624+00', 'saga', NULL, 'clerk-a', NULL, 'Step last is refused by participant clerk-a (not today), but a pivot of saga 01a228b0-8867-73d7-98bb-04adc2c3e03d has taken effect, so the saga can only go forward. Check at clerk-a why it refuses, remove the cause, then resume the saga: step last is executed again.', '[{"name": "pivot", "after": [], "input": "eyJpc19yZWZ1c2VkIjpmYWxzZX0=", "pivot": true, "retry": {"attempts_max": 0, "non_retryable": [], "attempt_timeout_ms": 10000, "multiplier_percent": 200, "initial_interval_ms": 100, "maximum_interval_ms": 30000}, "durable": false, "participant": "clerk-a", "compensation_retry": {"attempts_max": 0, "non_retryable": [], "attempt_timeout_ms": 10000, "multiplier_percent": 200, "initial_interval_ms": 100, "maximum_interval_ms": 30000}}, {"name": "last", "after": [0], "input": "eyJpc19yZWZ1c2VkIjp0cnVlfQ==", "pivot": false, "retry": {"attempts_max": 0, "non_retryable": [], "attempt_timeout_ms": 10000, "multiplier_percent": 200, "initial_interval_ms": 100, "maximum_interval_ms": 30000}, "durable": false, "participant": "clerk-a", "compensation_retry": {"attempts_max": 0, "non_retryable": [], "attempt_timeout_ms": 10000, "multiplier_percent": 200, "initial_interval_ms": 100, "maximum_interval_ms": 30000}}]', NULL, NULL);
INSERT INTO assent.open_transaction VALUES ('01a228b0-7cdc-7723-bf5b-0676cf397ab2', 3, 0, '2026-11-29 19:03:08.024+00', '2026-11-29 19:03:08.024+00', '2pc', 'abort', 'bank-e', 'FORGOTTEN -: a prepared branch asked for a decision that was never made; presumed abort', NULL, NULL, NULL, NULL);
INSERT INTO assent.participant VALUES ('bank-a', '2026-11-29 19:02:55.822323+00');
INSERT INTO assent.participant VALUES ('bank-b', '2026-11-29 19:02:56.040042+00');
INSERT INTO assent.participant VALUES ('bank-c', '2026-11-29 19:02:56.235855+00');
INSERT INTO assent.participant VALUES ('bank-d', '2026-11-29 19:02:56.47268+00');
INSERT INTO assent.participant VALUES ('bank-e', '2026-11-29 19:02:57.076956+00');
INSERT INTO assent.participant VALUES ('bank-f', '2026-11-29 19:02:57.572982+00');
INSERT INTO assent.participant VALUES ('till-a', '2026-11-29 19:02:58.029506+00');
INSERT INTO assent.participant VALUES ('till-b', '2026-11-29 19:02:58.299712+00');
INSERT INTO assent.participant VALUES ('till-c', '2026-11-29 19:02:58.607867+00');
INSERT INTO assent.participant VALUES ('safe-a', '2026-11-29 19:02:59.152299+00');
INSERT INTO assent.participant VALUES ('safe-b', '2026-11-29 19:02:59.322593+00');
INSERT INTO assent.participant VALUES ('safe-c', '2026-11-29 19:02:59.667842+00');
INSERT INTO assent.participant VALUES ('safe-d', '2026-11-29 19:03:00.094768+00');
INSERT INTO assent.participant VALUES ('vault-a', '2026-11-29 19:03:00.391366+00');
INSERT INTO assent.participant VALUES ('vault-b', '2026-11-29 19:03:00.823065+00');
INSERT INTO assent.participant VALUES ('vault-c', '2026-11-29 19:03:01.095673+00');
INSERT INTO assent.participant VALUES ('chest-a', '2026-11-29 19:03:01.432952+00');
INSERT INTO assent.participant VALUES ('chest-b', '2026-11-29 19:03:01.713111+00');
INSERT INTO assent.participant VALUES ('chest-c', '2026-11-29 19:03:02.102742+00');
INSERT INTO assent.participant VALUES ('clerk-a', '2026-11-29 19:03:02.115868+00');
INSERT INTO assent.participant VALUES ('clerk-b', '2026-11-29 19:03:02.305038+00');
INSERT INTO assent.participant VALUES ('clerk-c', '2026-11-29 19:03:02.558879+00');
INSERT INTO assent.participant VALUES ('clerk-d', '2026-11-29 19:03:02.759582+00');
INSERT INTO assent.participant VALUES ('desk', '2026-11-29 19:03:04.872616+00');
INSERT INTO assent.pin VALUES ('01a228b0-75ff-72e9-92b2-84921af2726b', '2026-11-29 19:03:03.063904+00');
INSERT INTO assent.replica VALUES ('test', 3, 2, '2026-11-29 19:03:07.830981+00');
INSERT INTO assent.saga_step VALUES ('01a228b0-86a2-73b2-9760-3118a3649bd4', 0, false, 1, 'done', '\x6669727374', NULL, '2026-11-29 19:03:07.202+00');
INSERT INTO assent.saga_step VALUES ('01a228b0-86c1-70f5-8873-3ecd0d1241f1', 0, false, 1, 'done', '\x6669727374', NULL, '2026-11-29 19:03:07.249+00');
INSERT INTO assent.saga_step VALUES ('01a228b0-86fd-71f8-b287-b2d26f533536', 0, false, 1, 'done', '\x6669727374', NULL, '2026-11-29 19:03:07.279+00');
INSERT INTO assent.saga_step VALUES ('01a228b0-86fd-71f8-b287-b2d26f533536', 1, false, 1, 'done', '\x7069766f74', NULL, '2026-11-29 19:03:07.314+00');
INSERT INTO assent.saga_step VALUES ('01a228b0-8772-77b5-9343-1ea39246e310', 0, false, 1, 'done', '\x6669727374', NULL, '2026-11-29 19:03:07.393+00');
INSERT INTO assent.saga_step VALUES ('01a228b0-87a7-7194-8beb-a90169114dc5', 0, false, 1, 'done', '\x6669727374', NULL, '2026-11-29 19:03:07.464+00');
INSERT INTO assent.saga_step VALUES ('01a228b0-87a7-7194-8beb-a90169114dc5', 1, false, 1, 'done', '\x7365636f6e64', NULL, '2026-11-29 19:03:07.464+00');
INSERT INTO assent.saga_step VALUES ('01a228b0-87a7-7194-8beb-a90169114dc5', 2, false, 1, 'refused', NULL, 'not today', '2026-11-29 19:03:07.464+00');
INSERT INTO assent.saga_step VALUES ('01a228b0-8819-76b5-b439-c2e81ae9da05', 0, false, 1, 'done', '\x6669727374', NULL, '2026-11-29 19:03:07.574+00');
INSERT INTO assent.saga_step VALUES ('01a228b0-8819-76b5-b439-c2e81ae9da05', 1, false, 1, 'done', '\x7365636f6e64', NULL, '2026-11-29 19:03:07.574+00');
INSERT INTO assent.saga_step VALUES ('01a228b0-8819-76b5-b439-c2e81ae9da05', 2, false, 1, 'refused', NULL, 'not today', '2026-11-29 19:03:07.574+00');
INSERT INTO assent.saga_step VALUES ('01a228b0-8867-73d7-98bb-04adc2c3e03d', 0, false, 1, 'done', '\x7069766f74', NULL, '2026-11-29 19:03:07.665+00');
INSERT INTO assent.saga_step VALUES ('01a228b0-8867-73d7-98bb-04adc2c3e03d', 1, false, 1, 'refused', NULL, 'not today', '2026-11-29 19:03:07.665+00');
SELECT pg_catalog.setval('assent.epoch', 3, true);
ALTER TABLE ONLY assent.history
    ADD CONSTRAINT history_pkey PRIMARY KEY (gtid, ended_at);
ALTER TABLE ONLY assent.history_20261129
    ADD CONSTRAINT history_20261129_pkey PRIMARY KEY (gtid, ended_at);
ALTER TABLE ONLY assent.history_20261130
    ADD CONSTRAINT history_20261130_pkey PRIMARY KEY (gtid, ended_at);
ALTER TABLE ONLY assent.history_20261201
    ADD CONSTRAINT history_20261201_pkey PRIMARY KEY (gtid, ended_at);
ALTER TABLE ONLY assent.history_20261202
    ADD CONSTRAINT history_20261202_pkey PRIMARY KEY (gtid, ended_at);
ALTER TABLE ONLY assent.history_20261203
    ADD CONSTRAINT history_20261203_pkey PRIMARY KEY (gtid, ended_at);
ALTER TABLE ONLY assent.history_20261204
    ADD CONSTRAINT history_20261204_pkey PRIMARY KEY (gtid, ended_at);
ALTER TABLE ONLY assent.history_20261205
    ADD CONSTRAINT history_20261205_pkey PRIMARY KEY (gtid, ended_at);
ALTER TABLE ONLY assent.history_20261206
    ADD CONSTRAINT history_20261206_pkey PRIMARY KEY (gtid, ended_at);
ALTER TABLE ONLY assent.history_other
    ADD CONSTRAINT history_other_pkey PRIMARY KEY (gtid, ended_at);
ALTER TABLE ONLY assent.identity
    ADD CONSTRAINT identity_pkey PRIMARY KEY (is_only_row);
ALTER TABLE ONLY assent.migration
    ADD CONSTRAINT migration_pkey PRIMARY KEY (version);
ALTER TABLE ONLY assent.open_transaction
    ADD CONSTRAINT open_transaction_pkey PRIMARY KEY (gtid);
ALTER TABLE ONLY assent.participant
    ADD CONSTRAINT participant_pkey PRIMARY KEY (name);
ALTER TABLE ONLY assent.pin
    ADD CONSTRAINT pin_pkey PRIMARY KEY (gtid);
ALTER TABLE ONLY assent.replica
    ADD CONSTRAINT replica_epoch_key UNIQUE (epoch);
ALTER TABLE ONLY assent.replica
    ADD CONSTRAINT replica_pkey PRIMARY KEY (name);
ALTER TABLE ONLY assent.saga_step
    ADD CONSTRAINT saga_step_pkey PRIMARY KEY (gtid, step, compensation);
ALTER INDEX assent.history_pkey ATTACH PARTITION assent.history_20261129_pkey;
ALTER INDEX assent.history_pkey ATTACH PARTITION assent.history_20261130_pkey;
ALTER INDEX assent.history_pkey ATTACH PARTITION assent.history_20261201_pkey;
ALTER INDEX assent.history_pkey ATTACH PARTITION assent.history_20261202_pkey;
ALTER INDEX assent.history_pkey ATTACH PARTITION assent.history_20261203_pkey;
ALTER INDEX assent.history_pkey ATTACH PARTITION assent.history_20261204_pkey;
ALTER INDEX assent.history_pkey ATTACH PARTITION assent.history_20261205_pkey;
ALTER INDEX assent.history_pkey ATTACH PARTITION assent.history_20261206_pkey;
ALTER INDEX assent.history_pkey ATTACH PARTITION assent.history_other_pkey;
