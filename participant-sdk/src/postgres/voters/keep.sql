with record as (
    select * from unnest($2::uuid[], $3::text[], $4::boolean[], $5::text[], $6::text[], $7::text[],
                         $8::text[], $9::text[], $10::text[])
        as r (gtid, roster, is_read_only, standing, joined, accepted, old_standing, old_joined, old_accepted)
    order by gtid
), voted as (
    insert into assent_voter (participant, gtid, roster, is_read_only, standing, joined, accepted)
    select $1, gtid, roster::jsonb, is_read_only, standing, joined, accepted
    from record where old_standing is null
    on conflict (participant, gtid) do nothing
    returning gtid
), moved as (
    update assent_voter v
    set standing = r.standing, joined = r.joined, accepted = r.accepted, changed_at = clock_timestamp()
    from record r
    where v.participant = $1 and v.gtid = r.gtid and v.standing = r.old_standing and v.joined = r.old_joined
        and v.accepted is not distinct from r.old_accepted
    returning v.gtid
)
select gtid from voted union all select gtid from moved
