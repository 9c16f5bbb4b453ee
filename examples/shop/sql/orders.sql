create table if not exists placed (
    gtid     uuid primary key,
    item     text not null,
    quantity int  not null check (quantity > 0),
    account  text not null
);
