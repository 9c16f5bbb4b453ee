begin;
update account set balance = balance + 9 where id = 18;
insert into ledger (gtid, account, amount) values ('01a228ab-ffe7-714d-be78-5c460db98502', 18, 9);
prepare transaction 'assent:158fd5a5-d772-42d9-8368-1baf302c0d02:{database}:vault-c:01a228ab-ffe7-714d-be78-5c460db98502';
