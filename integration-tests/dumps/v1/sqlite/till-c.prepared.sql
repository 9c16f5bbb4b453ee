begin;
insert into assent_barrier (gtid, participant, step, executed_at) values ('01a228b0-e2d1-7220-9ec3-1abd615aa274', 'till-c', -1, now());
update account set balance = balance + 5 where id = 10;
insert into ledger (gtid, account, amount) values ('01a228b0-e2d1-7220-9ec3-1abd615aa274', 10, 5);
prepare transaction 'assent:e7effee7-be88-4206-81be-cf617a710a94:{database}:till-c:01a228b0-e2d1-7220-9ec3-1abd615aa274';
