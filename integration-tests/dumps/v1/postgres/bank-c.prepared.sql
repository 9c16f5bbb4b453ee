begin;
update account set balance = balance + -5 where id = 10;
insert into ledger (gtid, account, amount) values ('01a228b0-7bd8-70e6-87c5-87562e284aa5', 10, -5);
prepare transaction 'assent:ff4f684a-eeba-4769-8926-d7bcbeaf459a:{database}:bank-c:01a228b0-7bd8-70e6-87c5-87562e284aa5';
