begin;
update account set balance = balance + 7 where id = 15;
insert into ledger (gtid, account, amount) values ('01a228b0-7e1a-7054-b469-bd8812bfb418', 15, 7);
prepare transaction 'assent:ff4f684a-eeba-4769-8926-d7bcbeaf459a:{database}:desk:01a228b0-7e1a-7054-b469-bd8812bfb418';
begin;
update account set balance = balance + 7 where id = 16;
insert into ledger (gtid, account, amount) values ('01a228b0-7e2c-760c-8f1a-fb4f5cda1d1e', 16, 7);
prepare transaction 'assent:ff4f684a-eeba-4769-8926-d7bcbeaf459a:{database}:desk:01a228b0-7e2c-760c-8f1a-fb4f5cda1d1e';
