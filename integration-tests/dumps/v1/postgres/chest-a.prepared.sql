begin;
update account set balance = balance + -22 where id = 20;
insert into ledger (gtid, account, amount) values ('01a228b0-8a15-733e-91e4-263d88a46afe', 20, -22);
prepare transaction 'assent:ff4f684a-eeba-4769-8926-d7bcbeaf459a:{database}:chest-a:01a228b0-8a15-733e-91e4-263d88a46afe';
