create table if not exists account (
    id    text   primary key,
    cents bigint not null check (cents >= 0)
);
create table if not exists charge (
    gtid    uuid   primary key,
    account text   not null references account,
    cents   bigint not null
);
insert into account values ('alice', 1000000), ('bob', 10000) on conflict do nothing;
