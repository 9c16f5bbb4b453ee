begin;
update account set balance = balance + 5 where id = 9;
insert into ledger (gtid, account, amount) values ('01a228ab-9f8a-724c-bc49-4c0a9fda0f19', 9, 5);
prepare transaction 'assent:c0293597-eb08-4453-9994-d856f35197ab:{database}:bank-b:01a228ab-9f8a-724c-bc49-4c0a9fda0f19';
