begin;
update account set balance = balance + 9 where id = 17;
insert into ledger (gtid, account, amount) values ('01a228b0-e654-75c5-9d95-9a482d0201dc', 17, 9);
prepare transaction 'assent:e7effee7-be88-4206-81be-cf617a710a94:{database}:safe-d:01a228b0-e654-75c5-9d95-9a482d0201dc';
