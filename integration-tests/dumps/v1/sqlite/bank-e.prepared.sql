begin;
update account set balance = balance + 5 where id = 12;
insert into ledger (gtid, account, amount) values ('01a228ab-fc3b-72dc-9794-1f579ea0b00f', 12, 5);
prepare transaction 'assent:158fd5a5-d772-42d9-8368-1baf302c0d02:{database}:bank-e:01a228ab-fc3b-72dc-9794-1f579ea0b00f';
