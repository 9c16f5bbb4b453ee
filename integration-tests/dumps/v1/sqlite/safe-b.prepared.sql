begin;
update account set balance = balance + 9 where id = 19;
insert into ledger (gtid, account, amount) values ('01a228b0-ec07-768c-8a2e-f42e3f6242a9', 19, 9);
prepare transaction 'assent:e7effee7-be88-4206-81be-cf617a710a94:{database}:safe-b:01a228b0-ec07-768c-8a2e-f42e3f6242a9';
