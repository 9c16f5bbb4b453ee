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
INSERT INTO public.assent_barrier VALUES ('01a228b0-df94-71c1-b99d-d9d2583b70b2', 'clerk-a', 0, '2026-11-29 19:03:29.968085+00', NULL, '\x6669727374');
INSERT INTO public.assent_barrier VALUES ('01a228b0-edb4-7202-a813-9d3519ec0a54', 'clerk-a', 0, '2026-11-29 19:03:33.568715+00', NULL, '\x6669727374');
INSERT INTO public.assent_barrier VALUES ('01a228b0-edeb-74b1-a813-9069a438cb29', 'clerk-a', 0, '2026-11-29 19:03:33.652555+00', NULL, '\x6669727374');
INSERT INTO public.assent_barrier VALUES ('01a228b0-ee35-770e-8451-d2755d563428', 'clerk-a', 0, '2026-11-29 19:03:33.695986+00', NULL, '\x6669727374');
INSERT INTO public.assent_barrier VALUES ('01a228b0-ee35-770e-8451-d2755d563428', 'clerk-a', 1, '2026-11-29 19:03:33.705282+00', NULL, '\x7069766f74');
INSERT INTO public.assent_barrier VALUES ('01a228b0-ee7d-730e-8dec-9540cc5ae4fd', 'clerk-a', 0, '2026-11-29 19:03:33.762854+00', NULL, '\x6669727374');
INSERT INTO public.assent_barrier VALUES ('01a228b0-eead-708d-8873-9bbdfdfb71f6', 'clerk-a', 0, '2026-11-29 19:03:33.810594+00', NULL, '\x6669727374');
INSERT INTO public.assent_barrier VALUES ('01a228b0-eee0-7041-b4a2-0d4118c72265', 'clerk-a', 0, '2026-11-29 19:03:33.863273+00', NULL, '\x6669727374');
INSERT INTO public.assent_barrier VALUES ('01a228b0-ef13-7282-ba6f-398c0e1c6eff', 'clerk-a', 0, '2026-11-29 19:03:33.913688+00', NULL, '\x7069766f74');
INSERT INTO public.errand VALUES ('01a228b0-df94-71c1-b99d-d9d2583b70b2', 'first', 1, '2026-11-29 19:03:29.966565+00');
INSERT INTO public.errand VALUES ('01a228b0-edb4-7202-a813-9d3519ec0a54', 'first', 1, '2026-11-29 19:03:33.568344+00');
INSERT INTO public.errand VALUES ('01a228b0-edeb-74b1-a813-9069a438cb29', 'first', 1, '2026-11-29 19:03:33.652219+00');
INSERT INTO public.errand VALUES ('01a228b0-ee35-770e-8451-d2755d563428', 'first', 1, '2026-11-29 19:03:33.691069+00');
INSERT INTO public.errand VALUES ('01a228b0-ee35-770e-8451-d2755d563428', 'pivot', 1, '2026-11-29 19:03:33.704998+00');
INSERT INTO public.errand VALUES ('01a228b0-ee7d-730e-8dec-9540cc5ae4fd', 'first', 1, '2026-11-29 19:03:33.76252+00');
INSERT INTO public.errand VALUES ('01a228b0-eead-708d-8873-9bbdfdfb71f6', 'first', 1, '2026-11-29 19:03:33.810346+00');
INSERT INTO public.errand VALUES ('01a228b0-eee0-7041-b4a2-0d4118c72265', 'first', 1, '2026-11-29 19:03:33.862864+00');
INSERT INTO public.errand VALUES ('01a228b0-ef13-7282-ba6f-398c0e1c6eff', 'pivot', 1, '2026-11-29 19:03:33.913447+00');
ALTER TABLE ONLY public.assent_barrier
    ADD CONSTRAINT assent_barrier_pkey PRIMARY KEY (gtid, participant, step);
