begin;
update account set balance = balance + 9 where id = 17;
insert into ledger (gtid, account, amount) values ('01a228ab-a35c-7780-a05d-771abdaeb14c', 17, 9);
prepare transaction 'assent:c0293597-eb08-4453-9994-d856f35197ab:{database}:safe-d:01a228ab-a35c-7780-a05d-771abdaeb14c';
