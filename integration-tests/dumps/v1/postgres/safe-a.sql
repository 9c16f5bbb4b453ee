SELECT pg_catalog.set_config('search_path', '', false);
CREATE TABLE public.account (
    id integer NOT NULL,
    balance bigint NOT NULL,
    CONSTRAINT account_balance_check CHECK ((balance >= 0))
);
CREATE TABLE public.assent_voter (
    participant text NOT NULL,
    gtid uuid NOT NULL,
    roster jsonb,
    is_read_only boolean,
    standing text,
    joined text,
    accepted text,
    store_id uuid,
    coordinator text,
    changed_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT a_yes_has_a_roster CHECK (((standing = 'aborted'::text) OR (standing IS NULL) OR (roster IS NOT NULL))),
    CONSTRAINT assent_voter_accepted_check CHECK ((accepted ~ '^[1-9][0-9]{0,19}\.[0-9a-f]{32}$'::text)),
    CONSTRAINT assent_voter_coordinator_check CHECK (((octet_length(coordinator) >= 1) AND (octet_length(coordinator) <= 255))),
    CONSTRAINT assent_voter_joined_check CHECK ((joined ~ '^[1-9][0-9]{0,19}\.[0-9a-f]{32}$'::text)),
    CONSTRAINT assent_voter_participant_check CHECK (((octet_length(participant) >= 1) AND (octet_length(participant) <= 63))),
    CONSTRAINT assent_voter_standing_check CHECK ((standing = ANY (ARRAY['waiting'::text, 'pre_committed'::text, 'pre_aborted'::text, 'committed'::text, 'aborted'::text]))),
    CONSTRAINT stands_by_what_it_accepted CHECK (
CASE standing
    WHEN 'waiting'::text THEN (accepted IS NULL)
    WHEN 'pre_committed'::text THEN (accepted IS NOT NULL)
    WHEN 'pre_aborted'::text THEN (accepted IS NOT NULL)
    ELSE true
END),
    CONSTRAINT the_identity_or_a_vote CHECK (
CASE
    WHEN (gtid = '00000000-0000-0000-0000-000000000000'::uuid) THEN ((store_id IS NOT NULL) AND (num_nonnulls(roster, is_read_only, standing, joined, accepted) = 0))
    ELSE ((store_id IS NULL) AND (coordinator IS NULL) AND (num_nulls(is_read_only, standing, joined) = 0))
END)
)
WITH (fillfactor='70');
COMMENT ON TABLE public.assent_voter IS 'How participants of this database voted in three-phase transactions, and what they have accepted since. Deleted when a transaction has ended everywhere. Never restore an older state of it while such transactions are open.';
COMMENT ON COLUMN public.assent_voter.participant IS 'The name that this service takes part under.';
COMMENT ON COLUMN public.assent_voter.gtid IS 'The transaction; 00000000-0000-0000-0000-000000000000 for the row that identifies the store.';
COMMENT ON COLUMN public.assent_voter.roster IS 'Who votes: participants in order, each with the address of its voter and the identity of its store; log, the identity of the coordinator''s log. Null where it refused before it had seen one.';
COMMENT ON COLUMN public.assent_voter.is_read_only IS 'Whether its branch has nothing to commit.';
COMMENT ON COLUMN public.assent_voter.standing IS 'Where it stands: waiting, pre_committed, pre_aborted, committed, aborted.';
COMMENT ON COLUMN public.assent_voter.joined IS 'The last ballot it joined: round.node, the node in hexadecimal digits.';
COMMENT ON COLUMN public.assent_voter.accepted IS 'The last ballot whose proposal it accepted, in the same form.';
COMMENT ON COLUMN public.assent_voter.store_id IS 'The identity of the store, drawn when its row is made. A voter that comes back with another one has lost its promises.';
COMMENT ON COLUMN public.assent_voter.coordinator IS 'In the row that identifies the store: the id of the coordinator whose votes these are.';
COMMENT ON COLUMN public.assent_voter.changed_at IS 'When it changed last.';
CREATE TABLE public.ledger (
    gtid uuid NOT NULL,
    account integer NOT NULL,
    amount bigint NOT NULL
);
INSERT INTO public.account VALUES (1, 1000);
INSERT INTO public.account VALUES (2, 1000);
INSERT INTO public.account VALUES (3, 1000);
INSERT INTO public.account VALUES (4, 1000);
INSERT INTO public.account VALUES (5, 1000);
INSERT INTO public.account VALUES (6, 1000);
INSERT INTO public.account VALUES (7, 1000);
INSERT INTO public.account VALUES (8, 1000);
INSERT INTO public.account VALUES (9, 1000);
INSERT INTO public.account VALUES (10, 1000);
INSERT INTO public.account VALUES (11, 1000);
INSERT INTO public.account VALUES (12, 1000);
INSERT INTO public.account VALUES (13, 1000);
INSERT INTO public.account VALUES (14, 1000);
INSERT INTO public.account VALUES (15, 1000);
INSERT INTO public.account VALUES (16, 1000);
INSERT INTO public.account VALUES (17, 1000);
INSERT INTO public.account VALUES (18, 1000);
INSERT INTO public.account VALUES (19, 1000);
INSERT INTO public.account VALUES (20, 1000);
INSERT INTO public.account VALUES (21, 1000);
INSERT INTO public.account VALUES (22, 1000);
INSERT INTO public.account VALUES (23, 1000);
INSERT INTO public.account VALUES (24, 1000);
INSERT INTO public.account VALUES (25, 1000);
INSERT INTO public.account VALUES (26, 1000);
INSERT INTO public.account VALUES (27, 1000);
INSERT INTO public.account VALUES (28, 1000);
INSERT INTO public.account VALUES (29, 1000);
INSERT INTO public.account VALUES (30, 1000);
INSERT INTO public.account VALUES (31, 1000);
INSERT INTO public.account VALUES (32, 1000);
INSERT INTO public.account VALUES (33, 1000);
INSERT INTO public.account VALUES (34, 1000);
INSERT INTO public.account VALUES (35, 1000);
INSERT INTO public.account VALUES (36, 1000);
INSERT INTO public.account VALUES (37, 1000);
INSERT INTO public.account VALUES (38, 1000);
INSERT INTO public.account VALUES (39, 1000);
INSERT INTO public.account VALUES (40, 1000);
INSERT INTO public.assent_voter VALUES ('safe-a', '00000000-0000-0000-0000-000000000000', NULL, NULL, NULL, NULL, NULL, 'd91e3d53-4cc8-4d54-9e4a-c5ecbd5c0168', 'ff4f684a-eeba-4769-8926-d7bcbeaf459a', '2026-11-29 19:02:58.905928+00');
INSERT INTO public.assent_voter VALUES ('safe-a', '01a228b0-8503-71f8-98d8-8de1c199dc88', '{"log": 339365445684343234577149464523152770458, "participants": [{"store": 288599487817769111778314908856345166184, "address": "http://{address of safe-a}", "participant": "safe-a"}, {"store": 83400067334421924363772042604810845539, "address": "http://{address of safe-b}", "participant": "safe-b"}, {"store": 11189436962184880831189959668731639134, "address": "http://{address of safe-c}", "participant": "safe-c"}]}', false, 'waiting', '1.00000000000000000000000000000000', NULL, NULL, NULL, '2026-11-29 19:03:06.841955+00');
ALTER TABLE ONLY public.account
    ADD CONSTRAINT account_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.assent_voter
    ADD CONSTRAINT assent_voter_pkey PRIMARY KEY (participant, gtid);
ALTER TABLE ONLY public.ledger
    ADD CONSTRAINT ledger_pkey PRIMARY KEY (gtid);
