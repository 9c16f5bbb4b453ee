SELECT pg_catalog.set_config('search_path', '', false);
CREATE TABLE public.account (
    id integer NOT NULL,
    balance bigint NOT NULL,
    CONSTRAINT account_balance_check CHECK ((balance >= 0))
);
CREATE TABLE public.assent_barrier (
    gtid uuid NOT NULL,
    participant text NOT NULL,
    step integer NOT NULL,
    executed_at timestamp with time zone,
    compensated_at timestamp with time zone,
    output bytea DEFAULT '\x'::bytea NOT NULL,
    CONSTRAINT a_branch_is_not_compensated CHECK (((step >= 0) OR (compensated_at IS NULL))),
    CONSTRAINT assent_barrier_participant_check CHECK (((octet_length(participant) >= 1) AND (octet_length(participant) <= 63))),
    CONSTRAINT assent_barrier_step_check CHECK (((step >= '-1'::integer) AND (step <= 65535))),
    CONSTRAINT only_actions_have_outputs CHECK (((executed_at IS NOT NULL) OR (output = '\x'::bytea))),
    CONSTRAINT something_happened CHECK (((executed_at IS NOT NULL) OR (compensated_at IS NOT NULL)))
);
COMMENT ON TABLE public.assent_barrier IS 'Which saga steps and two-phase branches have taken effect in this database: written in the transaction of their work.';
COMMENT ON COLUMN public.assent_barrier.gtid IS 'The saga or transaction.';
COMMENT ON COLUMN public.assent_barrier.participant IS 'The name that this service takes part under.';
COMMENT ON COLUMN public.assent_barrier.step IS 'The position of the step in its saga; -1 for a whole branch of a two-phase commit.';
COMMENT ON COLUMN public.assent_barrier.executed_at IS 'When the action took effect; null if it never did, and never will.';
COMMENT ON COLUMN public.assent_barrier.compensated_at IS 'When the step was compensated; from then on its action is refused.';
COMMENT ON COLUMN public.assent_barrier.output IS 'What the action gave, to be given again when it is repeated.';
CREATE TABLE public.ledger (
    gtid uuid NOT NULL,
    account integer NOT NULL,
    amount bigint NOT NULL
);
INSERT INTO public.account VALUES (1, 1000);
INSERT INTO public.account VALUES (2, 1000);
INSERT INTO public.account VALUES (3, 1000);
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
INSERT INTO public.account VALUES (4, 1003);
INSERT INTO public.assent_barrier VALUES ('01a228b0-76fe-7402-a1e7-a97bda2144ff', 'till-a', -1, '2026-11-29 19:03:03.176218+00', NULL, '\x');
INSERT INTO public.ledger VALUES ('01a228b0-76fe-7402-a1e7-a97bda2144ff', 4, 3);
ALTER TABLE ONLY public.account
    ADD CONSTRAINT account_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.assent_barrier
    ADD CONSTRAINT assent_barrier_pkey PRIMARY KEY (gtid, participant, step);
ALTER TABLE ONLY public.ledger
    ADD CONSTRAINT ledger_pkey PRIMARY KEY (gtid);
