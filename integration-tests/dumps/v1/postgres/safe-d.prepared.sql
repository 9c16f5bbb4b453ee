begin;
update account set balance = balance + 9 where id = 17;
insert into ledger (gtid, account, amount) values ('01a228b0-7f84-777f-a3cc-eef079298fd7', 17, 9);
prepare transaction 'assent:ff4f684a-eeba-4769-8926-d7bcbeaf459a:{database}:safe-d:01a228b0-7f84-777f-a3cc-eef079298fd7';
