begin;
update account set balance = balance + -11 where id = 21;
insert into ledger (gtid, account, amount) values ('01a228ac-09f6-7605-81d7-12b1166ab9f2', 21, -11);
prepare transaction 'assent:158fd5a5-d772-42d9-8368-1baf302c0d02:{database}:bank-a:01a228ac-09f6-7605-81d7-12b1166ab9f2';
