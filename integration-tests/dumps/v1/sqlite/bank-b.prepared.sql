begin;
update account set balance = balance + 5 where id = 9;
insert into ledger (gtid, account, amount) values ('01a228b0-e175-7187-8735-036db5baabe4', 9, 5);
prepare transaction 'assent:e7effee7-be88-4206-81be-cf617a710a94:{database}:bank-b:01a228b0-e175-7187-8735-036db5baabe4';
