begin;
update account set balance = balance + 5 where id = 11;
insert into ledger (gtid, account, amount) values ('01a228ab-fbcd-7520-9c2b-857925d90b5e', 11, 5);
prepare transaction 'assent:158fd5a5-d772-42d9-8368-1baf302c0d02:{database}:bank-d:01a228ab-fbcd-7520-9c2b-857925d90b5e';
