begin;
update account set balance = balance + 5 where id = 11;
insert into ledger (gtid, account, amount) values ('01a228b0-e3b7-7734-bb42-dbf255a63307', 11, 5);
prepare transaction 'assent:e7effee7-be88-4206-81be-cf617a710a94:{database}:bank-d:01a228b0-e3b7-7734-bb42-dbf255a63307';
