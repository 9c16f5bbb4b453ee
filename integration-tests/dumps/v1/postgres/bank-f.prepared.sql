begin;
update account set balance = balance + 11 where id = 21;
insert into ledger (gtid, account, amount) values ('01a228ab-aee5-71ab-beec-2f0ae2885dd2', 21, 11);
prepare transaction 'assent:c0293597-eb08-4453-9994-d856f35197ab:{database}:bank-f:01a228ab-aee5-71ab-beec-2f0ae2885dd2';
