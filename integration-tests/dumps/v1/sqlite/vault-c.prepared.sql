begin;
update account set balance = balance + 9 where id = 18;
insert into ledger (gtid, account, amount) values ('01a228b0-e790-7008-b7a3-fe9ad7d832d9', 18, 9);
prepare transaction 'assent:e7effee7-be88-4206-81be-cf617a710a94:{database}:vault-c:01a228b0-e790-7008-b7a3-fe9ad7d832d9';
