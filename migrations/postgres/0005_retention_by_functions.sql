-- Retention by a role that can neither change the schema nor delete from history: these functions do it with the rights of
-- the schema's owner. They bound what they do, whatever role calls them: a day's partition of its own name, and nothing that
-- ended within the last day by this server's clock.
--
-- Each waits for locks only briefly, since appends queue behind it.

-- Asked of the catalog's tables: a name that to_regclass did not find it may go on not to find, although another session has
-- made it meanwhile.
create function assent.has_history_partition(partition_name text) returns boolean
    language sql stable
    set search_path = pg_catalog, pg_temp
as $$
    select exists (
        select from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'assent.history'::regclass and c.relname = partition_name)
$$;
comment on function assent.has_history_partition(text) is 'Whether history has a partition of this name.';

create function assent.create_history_partition(of_day date) returns boolean
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
    set lock_timeout = '500ms'
as $$
declare
    partition_name constant text := 'history_' || to_char(of_day, 'YYYYMMDD');
    starts_at constant timestamptz := of_day::timestamp at time zone 'UTC';
    ends_at constant timestamptz := (of_day + 1)::timestamp at time zone 'UTC';
begin
    if of_day is null or of_day not between '2000-01-01' and '2199-12-31' then
        raise exception 'history has no partition of the day %', of_day using errcode = 'invalid_parameter_value';
    end if;
    -- Mostly it is there, and nothing is locked.
    if assent.has_history_partition(partition_name) then
        return false;
    end if;
    -- Serializes the maintenance of all replicas.
    perform pg_advisory_xact_lock(x'617373656e740002'::bigint);
    if assent.has_history_partition(partition_name) then
        return false;
    end if;
    execute format('create table assent.%I (like assent.history including defaults including constraints)', partition_name);
    -- Rows of that day that had to go elsewhere in the meantime.
    execute format(
        'with moved as (delete from assent.history_other where ended_at >= $1 and ended_at < $2 returning *)
         insert into assent.%I select * from moved', partition_name)
        using starts_at, ends_at;
    execute format('alter table assent.history attach partition assent.%I for values from (%L) to (%L)',
                   partition_name, starts_at, ends_at);
    return true;
end
$$;
comment on function assent.create_history_partition(date) is
    'Makes the partition of history for a day (UTC), unless it is there. Rows of that day that had to go elsewhere move in.';

create function assent.bounded_keep_from(keep_from timestamptz) returns timestamptz
    language sql stable
    set search_path = pg_catalog, pg_temp
as $$
    select least(keep_from, clock_timestamp() - interval '1 day')
$$;
comment on function assent.bounded_keep_from(timestamptz) is
    'From when on history is kept, whatever is asked for: the last day by this server''s clock, at least.';

create function assent.expired_history_partition(keep_from timestamptz) returns text
    language sql stable
    set search_path = pg_catalog, pg_temp
as $$
    -- The names sort as the days do, and the day that keep_from is in has not passed.
    select c.relname::text from pg_inherits i join pg_class c on c.oid = i.inhrelid
    where i.inhparent = 'assent.history'::regclass and c.relname ~ '^history_[0-9]{8}$'
      and c.relname < 'history_' || to_char(assent.bounded_keep_from(keep_from) at time zone 'UTC', 'YYYYMMDD')
    order by c.relname limit 1
$$;
comment on function assent.expired_history_partition(timestamptz) is
    'The oldest day''s partition of which all is older than this; null if there is none.';

create function assent.drop_history_partition(keep_from timestamptz)
    returns table (partition_name text, kept bigint, forgotten bigint)
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
    set lock_timeout = '500ms'
as $$
begin
    if assent.expired_history_partition(keep_from) is null then
        return;
    end if;
    perform pg_advisory_xact_lock(x'617373656e740002'::bigint);
    -- Another replica may have dropped it meanwhile.
    partition_name := assent.expired_history_partition(keep_from);
    if partition_name is null then
        return;
    end if;
    select greatest(c.reltuples, 0)::bigint into strict forgotten
    from pg_inherits i join pg_class c on c.oid = i.inhrelid
    where i.inhparent = 'assent.history'::regclass and c.relname = partition_name;
    execute format('alter table assent.history detach partition assent.%I', partition_name);
    execute format(
        'insert into assent.history
             (gtid, ended_at, begun_at, decided_at, digest, protocol, outcome, branches, branch_ids, reason, outputs)
         select h.gtid, h.ended_at, h.begun_at, h.decided_at, h.digest, h.protocol, h.outcome, h.branches, h.branch_ids,
                h.reason, h.outputs
         from assent.pin p join assent.%I h on h.gtid = p.gtid', partition_name);
    get diagnostics kept = row_count;
    execute format('drop table assent.%I', partition_name);
    forgotten := greatest(forgotten - kept, 0);
    return next;
end
$$;
comment on function assent.drop_history_partition(timestamptz) is
    'Drops the oldest day''s partition of which all is older than this, if there is one: its name, how many pinned rows were kept, which move to the default partition, and how many others there were, by the last estimate.';

create function assent.forget_unpinned_history(keep_from timestamptz) returns bigint
    language sql security definer
    set search_path = pg_catalog, pg_temp
as $$
    with forgotten as (
        delete from assent.history_other h
        where h.ended_at < assent.bounded_keep_from(keep_from)
          and not exists (select from assent.pin p where p.gtid = h.gtid)
        returning 1
    )
    select count(*) from forgotten
$$;
comment on function assent.forget_unpinned_history(timestamptz) is
    'Deletes what is older than this and belongs to no day''s partition: unpinned since, or there by the default partition to begin with.';

revoke execute on all functions in schema assent from public;
