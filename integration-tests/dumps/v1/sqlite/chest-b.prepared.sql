begin;
update account set balance = balance + 11 where id = 20;
insert into ledger (gtid, account, amount) values ('01a228b0-f080-75e2-a131-2dd85b8d7e48', 20, 11);
prepare transaction 'assent:e7effee7-be88-4206-81be-cf617a710a94:{database}:chest-b:01a228b0-f080-75e2-a131-2dd85b8d7e48';
