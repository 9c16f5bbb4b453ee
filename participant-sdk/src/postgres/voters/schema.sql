create table if not exists assent_voter (
    participant text not null check (octet_length(participant) between 1 and 63),
    gtid uuid not null,
    roster jsonb,
    is_read_only boolean,
    standing text check (standing in ('waiting', 'pre_committed', 'pre_aborted', 'committed', 'aborted')),
    joined text check (joined ~ '^[1-9][0-9]{0,19}\.[0-9a-f]{32}$'),
    accepted text check (accepted ~ '^[1-9][0-9]{0,19}\.[0-9a-f]{32}$'),
    store_id uuid,
    coordinator text check (octet_length(coordinator) between 1 and 255),
    changed_at timestamptz not null default clock_timestamp(),
    primary key (participant, gtid),
    constraint the_identity_or_a_vote check (
        case when gtid = '00000000-0000-0000-0000-000000000000'
            then store_id is not null
                and num_nonnulls(roster, is_read_only, standing, joined, accepted) = 0
            else store_id is null and coordinator is null
                and num_nulls(is_read_only, standing, joined) = 0
        end
    ),
    constraint a_yes_has_a_roster check (standing = 'aborted' or standing is null or roster is not null),
    constraint stands_by_what_it_accepted check (
        case standing
            when 'waiting' then accepted is null
            when 'pre_committed' then accepted is not null
            when 'pre_aborted' then accepted is not null
            else true
        end
    )
) with (fillfactor = 70);
comment on table assent_voter is
    'How participants of this database voted in three-phase transactions, and what they have accepted since. Deleted when a transaction has ended everywhere. Never restore an older state of it while such transactions are open.';
comment on column assent_voter.participant is 'The name that this service takes part under.';
comment on column assent_voter.gtid is 'The transaction; 00000000-0000-0000-0000-000000000000 for the row that identifies the store.';
comment on column assent_voter.roster is 'Who votes: participants in order, each with the address of its voter and the identity of its store; log, the identity of the coordinator''s log. Null where it refused before it had seen one.';
comment on column assent_voter.is_read_only is 'Whether its branch has nothing to commit.';
comment on column assent_voter.standing is 'Where it stands: waiting, pre_committed, pre_aborted, committed, aborted.';
comment on column assent_voter.joined is 'The last ballot it joined: round.node, the node in hexadecimal digits.';
comment on column assent_voter.accepted is 'The last ballot whose proposal it accepted, in the same form.';
comment on column assent_voter.store_id is 'The identity of the store, drawn when its row is made. A voter that comes back with another one has lost its promises.';
comment on column assent_voter.coordinator is 'In the row that identifies the store: the id of the coordinator whose votes these are.';
comment on column assent_voter.changed_at is 'When it changed last.';
