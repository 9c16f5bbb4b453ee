begin;
update account set balance = balance + 5 where id = 9;
insert into ledger (gtid, account, amount) values ('01a228b0-7b0a-76ec-8e34-7e010810d091', 9, 5);
prepare transaction 'assent:ff4f684a-eeba-4769-8926-d7bcbeaf459a:{database}:bank-b:01a228b0-7b0a-76ec-8e34-7e010810d091';
