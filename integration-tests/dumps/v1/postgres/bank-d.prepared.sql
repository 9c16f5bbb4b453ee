begin;
update account set balance = balance + 5 where id = 11;
insert into ledger (gtid, account, amount) values ('01a228ab-a0cc-7512-867b-e02109ab872d', 11, 5);
prepare transaction 'assent:c0293597-eb08-4453-9994-d856f35197ab:{database}:bank-d:01a228ab-a0cc-7512-867b-e02109ab872d';
