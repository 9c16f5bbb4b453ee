-- Leases: only one replica drives at a time, and another name takes over once the lease of the last one has lapsed.

-- What is there already has a lease that lapses with this migration: a replica of an older binary knows of none.
alter table assent.replica
    add column leased_until timestamptz not null default clock_timestamp();
comment on table assent.replica is 'Who may append, and until when no other name may take over. Every append locks its replica''s row for share and compares epoch and connection.';
comment on column assent.replica.epoch is 'Its epoch: appends under a lower one change nothing. Raised when the replica starts anew, and when another one takes over from it.';
comment on column assent.replica.leased_until is 'Until then the replica counts as alive, and no replica of another name starts. By this server''s clock; renewed by the process that serves, and given up when it stops.';

create or replace view assent.assent_v1_replica as
select r.name, r.epoch, r.acquired_at, r.leased_until from assent.replica r;
comment on column assent.assent_v1_replica.leased_until is 'Until then it counts as alive, and no replica of another name starts.';
