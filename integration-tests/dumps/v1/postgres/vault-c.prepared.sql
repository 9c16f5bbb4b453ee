begin;
update account set balance = balance + 9 where id = 18;
insert into ledger (gtid, account, amount) values ('01a228b0-80ca-713f-8ada-355008b656e6', 18, 9);
prepare transaction 'assent:ff4f684a-eeba-4769-8926-d7bcbeaf459a:{database}:vault-c:01a228b0-80ca-713f-8ada-355008b656e6';
