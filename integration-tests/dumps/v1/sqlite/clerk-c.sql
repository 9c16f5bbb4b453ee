SELECT pg_catalog.set_config('search_path', '', false);
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
CREATE TABLE public.errand (
    gtid uuid NOT NULL,
    step text NOT NULL,
    effect integer NOT NULL,
    at timestamp with time zone DEFAULT now()
);
INSERT INTO public.assent_barrier VALUES ('01a228b0-eead-708d-8873-9bbdfdfb71f6', 'clerk-c', 1, '2026-11-29 19:03:33.816681+00', NULL, '\x7365636f6e64');
INSERT INTO public.errand VALUES ('01a228b0-eead-708d-8873-9bbdfdfb71f6', 'second', 1, '2026-11-29 19:03:33.815305+00');
ALTER TABLE ONLY public.assent_barrier
    ADD CONSTRAINT assent_barrier_pkey PRIMARY KEY (gtid, participant, step);
