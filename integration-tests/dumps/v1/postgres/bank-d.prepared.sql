begin;
update account set balance = balance + 5 where id = 11;
insert into ledger (gtid, account, amount) values ('01a228b0-7c61-749a-a1bb-4ae48cf280ca', 11, 5);
prepare transaction 'assent:ff4f684a-eeba-4769-8926-d7bcbeaf459a:{database}:bank-d:01a228b0-7c61-749a-a1bb-4ae48cf280ca';
