create table if not exists stock (
    item  text   primary key,
    free  int    not null check (free >= 0),
    cents bigint not null
);
create table if not exists reservation (
    gtid     uuid primary key,
    item     text not null references stock,
    quantity int  not null check (quantity > 0)
);
insert into stock values ('book', 1000, 1500), ('lamp', 20, 4000) on conflict do nothing;
