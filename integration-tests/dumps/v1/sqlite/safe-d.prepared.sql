begin;
update account set balance = balance + 9 where id = 17;
insert into ledger (gtid, account, amount) values ('01a228ab-fe5c-7332-b3c0-f47ca30f182c', 17, 9);
prepare transaction 'assent:158fd5a5-d772-42d9-8368-1baf302c0d02:{database}:safe-d:01a228ab-fe5c-7332-b3c0-f47ca30f182c';
