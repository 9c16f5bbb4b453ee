begin;
update account set balance = balance + 5 where id = 12;
insert into ledger (gtid, account, amount) values ('01a228b0-7cdc-7723-bf5b-0676cf397ab2', 12, 5);
prepare transaction 'assent:ff4f684a-eeba-4769-8926-d7bcbeaf459a:{database}:bank-e:01a228b0-7cdc-7723-bf5b-0676cf397ab2';
