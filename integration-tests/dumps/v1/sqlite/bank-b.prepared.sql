begin;
update account set balance = balance + 5 where id = 9;
insert into ledger (gtid, account, amount) values ('01a228ab-fa89-71b9-b6bb-491f932fe04e', 9, 5);
prepare transaction 'assent:158fd5a5-d772-42d9-8368-1baf302c0d02:{database}:bank-b:01a228ab-fa89-71b9-b6bb-491f932fe04e';
