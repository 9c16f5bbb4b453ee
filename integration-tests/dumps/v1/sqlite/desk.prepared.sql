begin;
update account set balance = balance + 7 where id = 15;
insert into ledger (gtid, account, amount) values ('01a228b0-e573-70d5-9049-c5ca6ffd7ecb', 15, 7);
prepare transaction 'assent:e7effee7-be88-4206-81be-cf617a710a94:{database}:desk:01a228b0-e573-70d5-9049-c5ca6ffd7ecb';
begin;
update account set balance = balance + 7 where id = 16;
insert into ledger (gtid, account, amount) values ('01a228b0-e57f-75d9-b2d3-7859735243a5', 16, 7);
prepare transaction 'assent:e7effee7-be88-4206-81be-cf617a710a94:{database}:desk:01a228b0-e57f-75d9-b2d3-7859735243a5';
