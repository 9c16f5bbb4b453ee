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
INSERT INTO public.assent_barrier VALUES ('01a228ab-9e94-706c-8724-d7138d2775e5', 'clerk-a', 0, '2026-11-29 18:57:45.636318+00', NULL, '\x6669727374');
INSERT INTO public.assent_barrier VALUES ('01a228ab-aae6-75bf-88dd-ffd0637bc30b', 'clerk-a', 0, '2026-11-29 18:57:48.781702+00', NULL, '\x6669727374');
INSERT INTO public.assent_barrier VALUES ('01a228ab-ab02-775a-a542-c3509967c09a', 'clerk-a', 0, '2026-11-29 18:57:48.82179+00', NULL, '\x6669727374');
INSERT INTO public.assent_barrier VALUES ('01a228ab-ab78-748b-83fc-1f9a5f3546e9', 'clerk-a', 0, '2026-11-29 18:57:48.937461+00', NULL, '\x6669727374');
INSERT INTO public.assent_barrier VALUES ('01a228ab-ab78-748b-83fc-1f9a5f3546e9', 'clerk-a', 1, '2026-11-29 18:57:48.94909+00', NULL, '\x7069766f74');
INSERT INTO public.assent_barrier VALUES ('01a228ab-abd4-7583-9488-d50555b1f6f2', 'clerk-a', 0, '2026-11-29 18:57:49.02928+00', NULL, '\x6669727374');
INSERT INTO public.assent_barrier VALUES ('01a228ab-ac48-76b9-aa5b-dd29bdf5a6b0', 'clerk-a', 0, '2026-11-29 18:57:49.135105+00', NULL, '\x6669727374');
INSERT INTO public.assent_barrier VALUES ('01a228ab-ac8b-74ed-96ed-87b8acc89485', 'clerk-a', 0, '2026-11-29 18:57:49.205493+00', NULL, '\x6669727374');
INSERT INTO public.assent_barrier VALUES ('01a228ab-acd4-72a6-838d-5e3d16c0d186', 'clerk-a', 0, '2026-11-29 18:57:49.280402+00', NULL, '\x7069766f74');
INSERT INTO public.errand VALUES ('01a228ab-9e94-706c-8724-d7138d2775e5', 'first', 1, '2026-11-29 18:57:45.634586+00');
INSERT INTO public.errand VALUES ('01a228ab-aae6-75bf-88dd-ffd0637bc30b', 'first', 1, '2026-11-29 18:57:48.781251+00');
INSERT INTO public.errand VALUES ('01a228ab-ab02-775a-a542-c3509967c09a', 'first', 1, '2026-11-29 18:57:48.821325+00');
INSERT INTO public.errand VALUES ('01a228ab-ab78-748b-83fc-1f9a5f3546e9', 'first', 1, '2026-11-29 18:57:48.937033+00');
INSERT INTO public.errand VALUES ('01a228ab-ab78-748b-83fc-1f9a5f3546e9', 'pivot', 1, '2026-11-29 18:57:48.947877+00');
INSERT INTO public.errand VALUES ('01a228ab-abd4-7583-9488-d50555b1f6f2', 'first', 1, '2026-11-29 18:57:49.028895+00');
INSERT INTO public.errand VALUES ('01a228ab-ac48-76b9-aa5b-dd29bdf5a6b0', 'first', 1, '2026-11-29 18:57:49.13478+00');
INSERT INTO public.errand VALUES ('01a228ab-ac8b-74ed-96ed-87b8acc89485', 'first', 1, '2026-11-29 18:57:49.205152+00');
INSERT INTO public.errand VALUES ('01a228ab-acd4-72a6-838d-5e3d16c0d186', 'pivot', 1, '2026-11-29 18:57:49.280041+00');
ALTER TABLE ONLY public.assent_barrier
    ADD CONSTRAINT assent_barrier_pkey PRIMARY KEY (gtid, participant, step);
