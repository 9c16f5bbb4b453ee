-- A service's ledger.

create table if not exists account (
    name text primary key,
    unit text not null,
    balance integer not null check (balance >= 0)
) strict;

-- What a transaction has done here: one entry for each branch (step is empty), or for each step of a saga (branch is empty).
-- An entry without movements is a tombstone: it was undone before it came, and does nothing when it does come.
create table if not exists entry (
    gtid text not null,
    branch text not null,
    step text not null,
    state text not null check (state in ('prepared', 'applied', 'undone')),
    primary key (gtid, branch, step)
) strict;

create table if not exists movement (
    gtid text not null,
    branch text not null,
    step text not null,
    account text not null references account,
    amount integer not null,
    primary key (gtid, branch, step, account),
    foreign key (gtid, branch, step) references entry
) strict;
