begin;
update account set balance = balance + 11 where id = 21;
insert into ledger (gtid, account, amount) values ('01a228b0-f14c-72a0-9c27-07c37793e79c', 21, 11);
prepare transaction 'assent:e7effee7-be88-4206-81be-cf617a710a94:{database}:bank-f:01a228b0-f14c-72a0-9c27-07c37793e79c';
