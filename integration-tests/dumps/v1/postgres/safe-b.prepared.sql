begin;
update account set balance = balance + 9 where id = 19;
insert into ledger (gtid, account, amount) values ('01a228b0-8503-71f8-98d8-8de1c199dc88', 19, 9);
prepare transaction 'assent:ff4f684a-eeba-4769-8926-d7bcbeaf459a:{database}:safe-b:01a228b0-8503-71f8-98d8-8de1c199dc88';
