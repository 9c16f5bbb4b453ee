SELECT pg_catalog.set_config('search_path', '', false);
CREATE TABLE public.account (
    id integer NOT NULL,
    balance bigint NOT NULL,
    CONSTRAINT account_balance_check CHECK ((balance >= 0))
);
CREATE TABLE public.ledger (
    gtid uuid NOT NULL,
    account integer NOT NULL,
    amount bigint NOT NULL
);
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
INSERT INTO public.account VALUES (1, 1003);
INSERT INTO public.account VALUES (2, 1003);
INSERT INTO public.ledger VALUES ('01a228b0-7572-7354-97fd-038bb83a3427', 1, 3);
INSERT INTO public.ledger VALUES ('01a228b0-75ff-72e9-92b2-84921af2726b', 2, 3);
ALTER TABLE ONLY public.account
    ADD CONSTRAINT account_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.ledger
    ADD CONSTRAINT ledger_pkey PRIMARY KEY (gtid);
