begin;
update account set balance = balance + 9 where id = 19;
insert into ledger (gtid, account, amount) values ('01a228ac-04bf-76bd-b566-fa98562db359', 19, 9);
prepare transaction 'assent:158fd5a5-d772-42d9-8368-1baf302c0d02:{database}:safe-c:01a228ac-04bf-76bd-b566-fa98562db359';
