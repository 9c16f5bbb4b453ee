begin;
update account set balance = balance + 11 where id = 21;
insert into ledger (gtid, account, amount) values ('01a228b0-8aa4-73b8-83c7-e43fa1eb20eb', 21, 11);
prepare transaction 'assent:ff4f684a-eeba-4769-8926-d7bcbeaf459a:{database}:bank-f:01a228b0-8aa4-73b8-83c7-e43fa1eb20eb';
