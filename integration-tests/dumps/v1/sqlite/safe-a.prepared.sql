begin;
update account set balance = balance + -18 where id = 19;
insert into ledger (gtid, account, amount) values ('01a228b0-ec07-768c-8a2e-f42e3f6242a9', 19, -18);
prepare transaction 'assent:e7effee7-be88-4206-81be-cf617a710a94:{database}:safe-a:01a228b0-ec07-768c-8a2e-f42e3f6242a9';
